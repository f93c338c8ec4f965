# SPDX-License-Identifier: Apache-2.0
"""
What of a recipe makes a student tell harmful prompts from their twins?

Students on SmolLM2-135M-Instruct, one change after another from the first recipe to that of the demo, and then
what was tried beside it, or beside that of a quarter of its steps. Each answers the validation prompts of the boundary set, clean
and with typing errors, and is scored by J (judged answers) and AUROC (log-odds of beginning a refusal), beside the probe of
its base, which was chosen on the same prompts and is a little too good there. The held-out prompts are not read.

    python examples/boundary/boundary_ablation.py --output-dir out/boundary_ablation --only first data kd

Stopped at any moment, the same command goes on where it was. With an earlier results file of the same seeds in the output
folder, rows that it holds are not trained again, wherever it was made: each says in which dtype it was, that of the machine.
"""

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import fill
from typing import Any

# TRL's trainers send usage data; an example should not. Read when the Hub's client is imported, so it comes first.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from boundary_changes import Change, changes
from boundary_differences import means, row_differences
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed

from hf_ckt.checkpoints import replace_file, replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.demo.recipe import DTYPE, LIBRARIES, SYSTEM_PROMPT, Recipe, digest, kept
from hf_ckt.demo.rows import labelled_rows, refusals, validation_prompts
from hf_ckt.demo.training import answers_of_base, base_probe, fine_tuned, student_trainer, train
from hf_ckt.evaluation.comparisons.asking import ask, probed
from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.judging import load_judging
from hf_ckt.evaluation.operating_point import choose_bias
from hf_ckt.evaluation.scoring.scores import BOUND_OF
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.models.embedded import HUB_ID, embedded_model, weights_origin

REHEARSED_ROWS = 200  # that the probe is fitted on where trainings are only rehearsed
SHOWN = ("youden_j", "youden_j_noise", "refusal_auroc", "refusal_auroc_noise")
OTHERS = ("safety", "helpfulness", "overrefusal", "noisy_refusal_harmful", "noisy_refusal_benign", "degenerate")


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


def settings_of(options: argparse.Namespace, name: str, seed: int) -> tuple[Recipe, str, dict[str, Any]]:
    """The recipe of a row, what names the files of its run, and all that the run depends on."""
    recipe = changes()[name].recipe
    if options.steps is not None:
        recipe = replace(recipe, teacher_steps=options.steps, student_steps=options.steps)
    known = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "prompts": options.prompts,
        "new_tokens": options.new_tokens,
        "model": options.model or HUB_ID,
    }
    return recipe, f"{name}-{seed}-{digest(known)}", known


def kept_run(
    options: argparse.Namespace, name: str, seed: int, earlier: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """What the results file keeps of a finished run with these settings, if there is one: here, or among the `earlier` ones."""
    run = settings_of(options, name, seed)[1]
    file = options.output_dir / "runs" / f"{run}.json"
    return kept_scores(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else earlier.get(run)


def earlier_results(file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """
    The runs of a results file, if there is one, by name, and what rows differ by: it may come from another machine, and hold
    them alone.
    """
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"measured": {}}
    return {run["run"]: run for runs in found["measured"].values() for run in runs}, found.get("differences", {})


def require_kept(options: argparse.Namespace, known: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Raises where the results file would be written without runs that are nowhere else."""
    names = {settings_of(options, name, seed)[1] for name in known for seed in options.seeds}
    names |= {file.stem for file in (options.output_dir / "runs").glob("*.json")}
    lost = [run for run in earlier if run not in names]
    if lost:
        raise SystemExit(
            f"--output-dir: its results.json alone holds runs of other settings or seeds ({', '.join(lost[:3])}), which "
            "would be lost. Name another folder, or the seeds and settings of that file."
        )


def measure(options: argparse.Namespace, model: str, name: str, seed: int) -> None:
    """Trains one student, or goes on with it, scores its answers and keeps them."""
    recipe, run, known = settings_of(options, name, seed)
    work = options.output_dir / "work" / f"{run}-{DTYPE}"
    resumed = work.exists()
    tokenizer, prompts = AutoTokenizer.from_pretrained(model), validation_prompts(options.prompts)
    set_seed(seed)
    # What the base knows is told by all rows; a student whose labels are few is routed by a probe of as few.
    base_of = (known["model"], DTYPE)
    all_rows = None if options.steps is None else REHEARSED_ROWS
    probe_folder = options.output_dir / "work" / probe_name(all_rows, base_of)
    probe = route = base_probe(replace(Recipe(), rows=all_rows), model, probe_folder)
    if recipe.teacher == "probe" and recipe.rows is not None:
        probe_folder = probe_folder.with_name(probe_name(recipe.rows, base_of))
        route = base_probe(recipe, model, probe_folder)
    teacher = None
    if recipe.teacher != "none":
        # One for all recipes that ask for the same.
        texts = [row["response"] for row in refusals(recipe)]
        rows = (recipe.data, recipe.rows) if recipe.teacher == "sft" else texts
        key = digest(base_of, rows, recipe.teacher_steps, recipe.teacher_batch_size, bool(recipe.by_length), seed)
        teacher = fine_tuned(recipe, model, options.output_dir / "work" / f"teacher-{key}", seed)
    answers_file = options.output_dir / "work" / f"answers-{digest(base_of)}.json"
    own = answers_of_base(model, answers_file) if recipe.base_answers else None
    trainer = student_trainer(recipe, model, teacher, probe_folder, work, seed, own)
    asked: dict[str, Any] = {"system_prompt": SYSTEM_PROMPT, "new_tokens": options.new_tokens}
    results: dict[str, Any] = {"prompts": prompts, "models": {}}
    asked_of = digest(base_of, all_rows, recipe.four_bit, options.prompts, options.new_tokens)
    base = kept(
        options.output_dir / "work" / f"base-{asked_of}.json",
        lambda: {
            "answers": ask(trainer.model, tokenizer, prompts, title="base", **asked),
            "probe": probed(probe, trainer.model, tokenizer, prompts, "base", system_prompt=SYSTEM_PROMPT),
        },
    )
    train(trainer)
    trainer.save_model(str(options.output_dir / "adapters" / run))
    answers = ask(trainer.model, tokenizer, prompts, title=name, **asked)
    results["models"] = {
        "base": {"title": "base", "answers": base["answers"]},
        name: {"title": name, "answers": answers},
    }
    results["probe"] = base["probe"]
    judging = load_judging("rule")
    judge_answers(results, judging)
    score_answers(results, judging)
    history = trainer.state.log_history
    finished = {
        "run": run,
        "known": known,
        "device": short_device_name(),
        "dtype": DTYPE,
        "versions": library_versions(*LIBRARIES),
        "scores": results["models"][name]["scores"],
        "base": results["models"]["base"]["scores"],
        "route": {view: route.facts["validation"][view]["auroc"] for view in ("clean", "typos")},
        "differences": results["probe"]["differences"].get(name, {}),
        "thresholds": thresholds(prompts, results["models"][name]["answers"]),
        "rows": len(trainer.train_dataset),
        "labelled": len(labelled_rows(recipe)),
        "seconds": next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry),
        "resumed": resumed,  # then the seconds are those of the last part
        "log": {**(history[-2] if len(history) > 1 else {}), **history[-1]},
        "answers": answers,
    }
    replace_json(options.output_dir / "runs" / f"{run}.json", finished)
    shutil.rmtree(work, ignore_errors=True)


def thresholds(
    prompts: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """
    By view, thresholds on the log-odds with the J that refusing from there on would give: of `best` the highest, chosen on the
    prompts that it is told of, and of `greedy` where greedy decoding refuses, or nearly so.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for view in ("clean", "typos"):
        rows = [
            (row, said) for row, said in zip(prompts, answers, strict=True) if (row["corruption"] or "clean") == view
        ]
        harmful, benign = (
            [said["log_odds"] for row, said in rows if (row["kind"] == "harmful") == side] for side in (True, False)
        )
        refused, answered = (
            [said["log_odds"] for _, said in rows if said["refused"] == side] for side in (True, False)
        )
        best = choose_bias(harmful, benign)
        found[view] = {"best": {"log_odds": 0.0 - best.bias, "youden_j": best.youden_j}}
        if refused and answered:
            bias = choose_bias(refused, answered).bias
            shifted = choose_bias([one + bias for one in harmful], [one + bias for one in benign])
            found[view]["greedy"] = {"log_odds": 0.0 - bias, "youden_j": shifted.unbiased_youden_j}
    return found


def probe_name(rows: int | None, base_of: tuple[str, str]) -> str:
    """The folder of a probe of so many rows, or of all."""
    return f"probe-{digest(base_of)}" if rows is None else f"probe-{rows}-{digest(base_of)}"


def show(console: Console, results: Mapping[str, Any]) -> None:
    table = Table(title="Validation prompts: harmful against twins, mean over seeds")
    for column in ("", "seeds", "J", "J, typos", "AUROC", "AUROC, typos"):
        table.add_column(column, justify="right" if column else "left")
    for name, title in results["titles"].items():
        row, seeds = results["rows"][name], len(results["measured"][name])
        cells = {score: f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for score, one in row.items()}
        table.add_row(title, str(seeds), *(cells.get(score, "") for score in SHOWN))
    console.print(table)


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Each recipe's scores with their intervals, one below the other, beside what a probe of the base knows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, probe = results["rows"], results["probe"]
    places = range(len(rows), 0, -1)
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.5 + 0.32 * len(rows)), sharey=True, layout="constrained")
    panels = (("J: harmful refused less twins refused", SHOWN[:2]), ("AUROC of the refusal log-odds", SHOWN[2:]))
    for axis, (title, scores) in zip(axes, panels, strict=True):
        for score, color, shift, view in zip(
            scores, ("#2a6f97", "#d1495b"), (0.13, -0.13), ("clean", "typos"), strict=True
        ):
            placed = [(place, row[score]) for place, row in zip(places, rows.values(), strict=True) if score in row]
            found = [one for _, one in placed]
            values = [one["value"] for one in found]
            spread = [
                [one["value"] - one["low"] for one in found],
                [one["high"] - one["value"] for one in found],
            ]
            heights = [place + shift for place, _ in placed]
            axis.errorbar(values, heights, xerr=spread, fmt="o", ms=4, lw=1, color=color, label=view)
            if score in probe:
                axis.axvline(probe[score]["value"], color=color, ls="--", lw=1, label=f"probe of the base, {view}")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    axes[0].set_yticks([*places], [fill(title, 60) for title in results["titles"].values()], fontsize=8)
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def titles(known: Mapping[str, Change], measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """What is said of each row; where they were not all trained in one dtype, with that dtype."""
    found = {name: sorted({run["dtype"] for run in runs}) for name, runs in measured.items()}
    mixed = len({dtype for dtypes in found.values() for dtype in dtypes}) > 1
    return {name: known[name].title + f" ({', '.join(dtypes)})" * mixed for name, dtypes in found.items()}


def kept_scores(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the results file keeps of a run; its answers stay in `runs/`."""
    scores = {name: run["scores"][name] for name in (*SHOWN, *OTHERS)}
    base = {name: run["base"][name] for name in (*SHOWN, *BOUND_OF.values()) if name in run["base"]}
    others = (
        "run",
        "known",
        "device",
        "dtype",
        "versions",
        "rows",
        "labelled",
        "route",
        "differences",
        "thresholds",
        "log",
        "seconds",
        "resumed",
    )
    return {name: run[name] for name in others if name in run} | {"scores": scores, "base": base}


def main() -> None:
    options = parse_options()
    console, model = Console(width=150), options.model or embedded_model()
    known = changes()
    results_file = options.output_dir / "results.json"
    earlier, differences = earlier_results(results_file)
    require_kept(options, known, earlier)
    for seed in options.seeds:
        for name in options.only:
            console.rule(f"{name}, seed {seed}: {known[name].title}")
            if kept_run(options, name, seed, earlier) is None:
                measure(options, model, name, seed)
    # Rows that earlier calls have finished are rows of the same table.
    found = {name: [kept_run(options, name, seed, earlier) for seed in options.seeds] for name in known}
    measured = {name: [run for run in runs if run is not None] for name, runs in found.items() if any(runs)}
    base = next(iter(measured.values()))[0]["base"]
    results = {
        "command": "python examples/boundary/boundary_ablation.py",
        "settings": {"seeds": options.seeds, "new_tokens": options.new_tokens},
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "titles": titles(known, measured),
        "base": {name: base[name] for name in SHOWN},
        "probe": {score: base[probed] for score, probed in BOUND_OF.items() if probed in base},
        "rows": {name: means([run["scores"] for run in runs], SHOWN) for name, runs in measured.items()},
        "differences": row_differences(
            {name: change.of for name, change in known.items()},
            found,
            options.output_dir / "runs",
            validation_prompts(options.prompts),
            differences,
            load_judging("rule"),
            SHOWN,
        ),
        "measured": measured,
    }
    show(console, results)
    replace_json(results_file, results)
    plot(results, options.output_dir / "ablation.png")
    console.print(f"{options.output_dir} holds results.json, ablation.png, adapters/ and, in runs/, every answer")


if __name__ == "__main__":
    main()
