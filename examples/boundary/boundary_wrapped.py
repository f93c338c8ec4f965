# SPDX-License-Identifier: Apache-2.0
"""
Does a student still tell harmful prompts from their twins when both stand within a long frame, as attackers use them?

Asks students that `boundary_ablation.py` has trained the validation prompts within frames that no training and no evaluation
has, and scores them as that script does. What is chosen for jailbreak templates is chosen here.

    python examples/boundary/boundary_wrapped.py --ablation-dir out/boundary_ablation --output-dir out/boundary_wrapped

Stopped at any moment, the same command goes on where it was; students that were asked earlier are not asked again.
"""

import argparse
from pathlib import Path
from random import Random
from typing import Any

from boundary_changes import changes
from boundary_frames import LONG, SHORT
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.data import load_prompts
from hf_ckt.demo.recipe import DTYPE, LIBRARIES, SYSTEM_PROMPT, kept
from hf_ckt.demo.training import frozen_base
from hf_ckt.evaluation.comparisons.asking import ask, prompt_row
from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.judging import load_judging
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.models._upstream import keep_4bit_differentiable
from hf_ckt.models.embedded import embedded_model

# Score -> heading of its column: of prompts as they are, and of the same within frames of a length.
SHOWN = {"youden_j": "J", "refusal_auroc": "AUROC"}
WITHIN = {
    "youden_j_noise": "J",
    "refusal_auroc_noise": "AUROC",
    "noisy_refusal_harmful": "harmful refused",
    "noisy_refusal_benign": "twins refused",
}
FRAMES = {"framed": SHORT, "long": LONG}
LENGTHS = {"framed": "within a frame", "long": "within a long frame"}


def parse_options() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation-dir", type=Path, default=Path("out/boundary_ablation"))
    parser.add_argument("--output-dir", type=Path, default=Path("out/boundary_wrapped"))
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", choices=[*changes()], help="of the ablation; default: all that are trained"
    )
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=int, default=None, help="validation prompts of each kind; default: all")
    parser.add_argument("--new-tokens", type=int, default=32)
    return parser.parse_args()


def validation_views(count: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Validation prompts of both kinds, `count` of each or all: `plain`, and each within one of the `FRAMES` of a length."""
    names = ("boundary-validation-harmful", "boundary-validation-twin")
    prompts = [prompt for name in names for prompt in load_prompts(name)[:count]]
    views = {"plain": [prompt_row(prompt) for prompt in prompts]}
    for length, frames in FRAMES.items():
        framed = (
            Random(f"frame:{prompt.text}").choice(frames).replace("{request}", prompt.text) for prompt in prompts
        )
        # They stand where other scripts have prompts with typing errors.
        views[length] = [
            prompt_row(prompt, text, corruption="frame") for prompt, text in zip(prompts, framed, strict=True)
        ]
    return views


def row_of(folder: Path) -> str:
    """Of the ablation: adapters are called row-seed-digest."""
    return folder.name.split("-")[0]


def main() -> None:
    options = parse_options()
    known, console, model = changes(), Console(width=180), options.model or embedded_model()
    wanted = options.only or [*known]
    folders = sorted((options.ablation_dir / "adapters").glob("*-*-*"))
    students = {folder.name: folder for row in known for folder in folders if row in wanted and row_of(folder) == row}
    if others := [folder.name for folder in folders if row_of(folder) not in known]:
        console.print(f"left out, since boundary_changes.py has no such rows: {', '.join(others)}")
    if not students and not options.only:
        raise SystemExit(f"--ablation-dir: {options.ablation_dir} has no adapters. Run boundary_ablation.py first.")
    if missing := {*(options.only or ())} - {row_of(folder) for folder in folders}:
        raise SystemExit(
            f"--only: {options.ablation_dir} has no adapter of {', '.join(sorted(missing))}; train it first."
        )
    tokenizer, judging = AutoTokenizer.from_pretrained(model), load_judging("rule")
    views = validation_views(options.prompts)

    def answers(name: str, adapter: Path | None, view: str) -> list[dict[str, Any]]:
        def make() -> list[dict[str, Any]]:
            asked = frozen_base(model)
            keep_4bit_differentiable(asked)  # as the trainer has it
            if adapter is not None:
                asked = PeftModel.from_pretrained(asked, adapter)
            about: dict[str, Any] = {"system_prompt": SYSTEM_PROMPT, "new_tokens": options.new_tokens}
            return ask(asked.eval(), tokenizer, views[view], title=f"{name}, {view}", **about)

        file = f"{name}-{DTYPE}-{view}-{len(views[view])}-{options.new_tokens}.json"
        made: list[dict[str, Any]] = kept(options.output_dir / "runs" / file, make)
        return made

    titles = {"base": "the base"}
    for run in students:
        row, seed = run.split("-")[:2]
        titles[run] = f"{known[row].title}; seed {seed}"
    scores: dict[str, dict[str, Any]] = {name: {} for name in titles}
    for length in FRAMES:
        results: dict[str, Any] = {"prompts": views["plain"] + views[length], "models": {}}
        for name, title in titles.items():
            said = [answer for view in ("plain", length) for answer in answers(name, students.get(name), view)]
            results["models"][name] = {"title": title, "answers": said}
        judge_answers(results, judging)
        score_answers(results, judging)
        for name, one in results["models"].items():
            scores[name] |= {score: one["scores"][score] for score in SHOWN}
            scores[name] |= {f"{length}_{score}": one["scores"][score] for score in WITHIN}
    headings = SHOWN | {
        f"{length}_{score}": f"{heading}, {words}"
        for length, words in LENGTHS.items()
        for score, heading in WITHIN.items()
    }
    table = Table(title="Validation prompts within frames: harmful against twins")
    for column in ("", *headings.values()):
        table.add_column(column, justify="right" if column else "left")
    for name, row in scores.items():
        table.add_row(titles[name], *(f"{row[score]['value']:.2f}" for score in headings))
    console.print(table)
    replace_json(
        options.output_dir / "results.json",
        {
            "command": "python examples/boundary/boundary_wrapped.py",
            "settings": {"new_tokens": options.new_tokens, "prompts": len(views["plain"]), "dtype": DTYPE},
            "device": short_device_name(),
            "versions": library_versions(*LIBRARIES),
            "titles": titles,
            "headings": headings,
            "scores": scores,
        },
    )


if __name__ == "__main__":
    main()
