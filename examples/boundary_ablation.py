# SPDX-License-Identifier: Apache-2.0
"""
What of the demo's recipe makes a student tell harmful prompts from their twins?

Students on SmolLM2-135M-Instruct, one change after another from the first recipe to the one that `quickstart.py` runs, and then
what was tried beside it. Each answers the validation prompts of the boundary set, clean and with typing errors, and is scored
by J (judged answers) and AUROC (log-odds of beginning a refusal), beside the probe of its base. The held-out prompts are not read.

    python examples/boundary_ablation.py --output-dir out/boundary_ablation --only today data kd

Stopped at any moment, the same command goes on where it was.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from boundary_recipe import (
    DTYPE,
    SYSTEM_PROMPT,
    TYPOS,
    Recipe,
    base_probe,
    fine_tuned,
    labelled_rows,
    student_trainer,
    train,
)
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed

from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.data import load_prompts
from hf_ckt.evaluation.comparisons.asking import ask, probed, prompt_row
from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.judging import load_judging
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.models.embedded import HUB_ID, embedded_model, weights_origin

LIBRARIES = (
    "trl",
    "transformers",
    "peft",
    "torch",
    "datasets",
    "bitsandbytes",
    "tokenizers",
    "jinja2",
    "scikit-learn",
)
SHOWN = ("youden_j", "youden_j_noise", "refusal_auroc", "refusal_auroc_noise")
OFF = Recipe().objective


class Change(NamedTuple):
    """A row of the table: what is said of it, and the recipe."""

    title: str
    recipe: Recipe


def changes() -> dict[str, Change]:
    """The rows by name, in order. None was chosen by what it brings on held-out prompts."""
    today = Recipe(
        data="starter",
        teacher="sft",
        clean=False,
        teacher_steps=240,
        teacher_batch_size=4,
        student_steps=150,
        batch_size=4,
        learning_rate=1.5e-3,
        benign_words=None,
        objective={
            "distillation_weight": 1.0,
            "contrastive_weight": 0.1,
            "consistency_weight": 0.5,
            "perturbation": "gaussian",
            "regularization_weight": 1e-4,
        },
    )
    data = replace(today, data="boundary")
    longer = replace(data, clean=True, student_steps=300, batch_size=16, learning_rate=1e-3)
    kd = replace(longer, objective=OFF)
    label = replace(kd, teacher="label", teacher_steps=120, teacher_batch_size=8)
    short = replace(label, benign_words=4)
    decision: dict[str, Any] = {
        **OFF,
        "contrastive_weight": 0.1,
        "contrastive_level": "decision",
        "contrastive_loss": "sincere",
        "contrastive_queue_size": 256,
        "group_column": "twin",
    }
    consistency = {**OFF, "consistency_weight": 0.5, "perturbation": "typos"}
    sft = {**OFF, "task_weight": 1.0, "distillation_weight": 0.0}
    chain = {
        "today": Change("the first recipe: starter set, SFT teacher, five terms, 150 steps of 4", today),
        "data": Change("boundary set", data),
        "longer": Change("clean rows too, 300 steps of 16", longer),
        "kd": Change("distillation alone", kd),
        "label": Change("routed by label: refusals by a teacher of refusals, all else by the base", label),
        "short": Change("harmless answers cut to 4 words", short),
        "probe": Change("routed by the probe", replace(short, teacher="probe")),
        "decision": Change(
            "by label, and contrast at the decision, twins together", replace(short, objective=decision)
        ),
        "consistency": Change(
            "by label, consistency under typos in place of noisy copies",
            replace(short, copies=(), objective=consistency),
        ),
        "wrapper": Change("by label, wrapped copies too", replace(short, copies=("typos", "wrapper"))),
        "no_noise": Change("by label, without noisy copies", replace(short, copies=())),
        "decay": Change(
            "by label, whole answers, weights that decay with the position",
            replace(label, objective={**OFF, "distillation_token_weights": "position_decay"}),
        ),
        "divergence": Change(
            "by label, whole answers, weights by how far teacher and base differ",
            replace(label, objective={**OFF, "distillation_token_weights": "teacher_divergence"}),
        ),
        "sft": Change(
            "no teacher: supervised fine-tuning on the same rows", replace(longer, teacher="none", objective=sft)
        ),
    }
    for rows in (200, 400, 800):
        chain[f"label_{rows}"] = Change(f"by label, {rows} rows", replace(short, rows=rows))
    return chain


def parse_options() -> argparse.Namespace:
    names = [*changes()]
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/boundary_ablation"))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=None, help="of every training, for a rehearsal")
    parser.add_argument("--prompts", type=int, default=None, help="validation prompts of each kind; default: all")
    parser.add_argument("--new-tokens", type=int, default=32)
    return parser.parse_args()


def validation_prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Validation prompts of both kinds, clean and with typing errors that training never saw."""
    rows = []
    for name in ("boundary-validation-harmful", "boundary-validation-twin"):
        prompts = load_prompts(name)[: options.prompts]
        rows += [prompt_row(prompt) for prompt in prompts]
        for prompt in prompts:
            noisy = TYPOS.apply(prompt.text, Random(f"10000:{prompt.text}"))
            rows.append(prompt_row(prompt, noisy, corruption="typos", severity=TYPOS.severity))
    return rows


def measure(options: argparse.Namespace, model: str, name: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Trains one student, or goes on with it, and scores its answers."""
    file = options.output_dir / "runs" / f"{name}-{seed}.json"
    known = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "prompts": options.prompts,
        "new_tokens": options.new_tokens,
    }
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["known"] == known:
            return kept
    work = options.output_dir / "work" / f"{name}-{seed}"
    tokenizer, prompts = AutoTokenizer.from_pretrained(model), validation_prompts(options)
    set_seed(seed)
    probe_folder = options.output_dir / "work" / "probe"
    probe = base_probe(model, probe_folder)
    teacher = None
    if recipe.teacher != "none":
        # One for all recipes that ask for the same.
        rows = f"{recipe.data}-{recipe.rows}" if recipe.teacher == "sft" else "refusals"
        key = f"{rows}-{recipe.teacher_steps}x{recipe.teacher_batch_size}-{seed}"
        teacher = fine_tuned(recipe, model, options.output_dir / "work" / "teachers" / key, seed)
    trainer = student_trainer(recipe, model, teacher, probe_folder, work, seed)
    asked: dict[str, Any] = {"system_prompt": SYSTEM_PROMPT, "new_tokens": options.new_tokens}
    results: dict[str, Any] = {"prompts": prompts, "models": {}}
    base_file = options.output_dir / "work" / "base.json"
    if not base_file.exists():
        found = {
            "answers": ask(trainer.model, tokenizer, prompts, title="base", **asked),
            "probe": probed(probe, trainer.model, tokenizer, prompts, "base", system_prompt=SYSTEM_PROMPT),
        }
        replace_json(base_file, found)
    base = json.loads(base_file.read_text(encoding="utf-8"))
    train(trainer)
    answers = ask(trainer.model, tokenizer, prompts, title=name, **asked)
    results["models"] = {
        "base": {"title": "base", "answers": base["answers"]},
        name: {"title": name, "answers": answers},
    }
    results["probe"] = base["probe"]
    judging = load_judging("rule")
    judge_answers(results, judging)
    score_answers(results, judging)
    kept = {
        "known": known,
        "scores": results["models"][name]["scores"],
        "base": results["models"]["base"]["scores"],
        "differences": results["probe"]["differences"].get(name, {}),
        "rows": len(trainer.train_dataset),
        "labelled": len(labelled_rows(recipe)),
        "log": trainer.state.log_history[-1],
        "answers": answers,
    }
    replace_json(file, kept)
    shutil.rmtree(work, ignore_errors=True)
    return kept


def show(console: Console, measured: Mapping[str, list[dict[str, Any]]]) -> None:
    table = Table(title="Validation prompts: harmful against twins, mean over seeds")
    for column in ("", "J", "J, typos", "AUROC", "AUROC, typos"):
        table.add_column(column, justify="right" if column else "left")
    known = changes()
    for name, runs in measured.items():
        cells = []
        for score in SHOWN:
            values = [run["scores"][score] for run in runs]
            mean = sum(value["value"] for value in values) / len(values)
            low, high = (sum(value[end] for value in values) / len(values) for end in ("low", "high"))
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        table.add_row(known[name].title, *cells)
    console.print(table)


def main() -> None:
    options = parse_options()
    console, model = Console(width=150), options.model or embedded_model()
    measured: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.only:
            recipe = changes()[name].recipe
            if options.steps is not None:
                recipe = replace(recipe, teacher_steps=options.steps, student_steps=options.steps)
            console.rule(f"{name}, seed {seed}: {changes()[name].title}")
            measured.setdefault(name, []).append(measure(options, model, name, recipe, seed))
            show(console, measured)
    results = {
        "command": "python examples/boundary_ablation.py",
        "settings": {"seeds": options.seeds, "new_tokens": options.new_tokens, "dtype": DTYPE},
        "device": short_device_name(),
        "versions": library_versions(*LIBRARIES),
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "titles": {name: changes()[name].title for name in measured},
        "measured": measured,
    }
    replace_json(options.output_dir / "results.json", results)
    console.print(f"{options.output_dir / 'results.json'} holds every run with its answers")


if __name__ == "__main__":
    main()
