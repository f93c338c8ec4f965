# SPDX-License-Identifier: Apache-2.0
"""
The demo from end to end: what the base knows, a teacher, a student, and what they say to held-out prompts.

Stopped at any moment, it goes on where it was.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed

from ..checkpoints import replace_file, replace_json
from ..data import load_boundary_set, load_prompts
from ..evaluation.comparisons.asking import agreement, ask, probed
from ..evaluation.comparisons.cards import own_set_name, result_card
from ..evaluation.comparisons.kept_answers import judge_answers, score_answers
from ..evaluation.comparisons.tables import comparison_rows
from ..evaluation.comparisons.utility import ask_utility
from ..evaluation.judging import load_judging
from ..evaluation.scoring.alignment import alignment_scores
from ..hub.provenance import library_versions, peak_memory, short_device_name
from ..hub.run_card import run_backbone, run_facts
from ..models.embedded import HUB_ID, embedded_model, weights_origin
from ..models.library_messages import without_preparation_bars
from ..models.precision import backbone_precision, precision_name
from ..progress.bars import parts_of_a_whole
from ..training.trainer import ContrastiveRobustTrainer
from .recipe import DTYPE, LIBRARIES, SYSTEM_PROMPT, Recipe, digest, kept
from .rows import with_typos
from .training import base_probe, fine_tuned, student_trainer, train

PROBE_ROWS = 2000  # half of the set, for half the time


def heldout_prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Held-out harmful prompts, the first twin of each, and both with typing errors that training never saw."""
    texts = {prompt.id: prompt for name in ("boundary-harmful", "boundary-twin") for prompt in load_prompts(name)}
    pairs: dict[str, str] = {}
    for row in load_boundary_set("heldout"):
        if row["kind"] == "twin":
            pairs.setdefault(row["twin"], row["id"])
    # Evenly spaced: the categories that training never saw stand at the end.
    count = min(options.prompts, len(pairs))
    chosen = [[*pairs.items()][number * len(pairs) // count] for number in range(count)]
    sides = ([texts[name] for name in side] for side in zip(*chosen, strict=True))
    return [row for side in sides for row in with_typos(side, options.seed)]


def measure(model: Any, tokenizer: Any, options: argparse.Namespace, name: str, work: Path) -> dict[str, Any]:
    """What one model says to the held-out prompts, how far it leans to refusing each, and in which precision."""

    def make() -> dict[str, Any]:
        prompts = heldout_prompts(options)
        title = f"{name}: answering held-out prompts"
        asked = {"system_prompt": SYSTEM_PROMPT, "new_tokens": options.new_tokens, "title": title}
        return {"scored_precision": backbone_precision(model), "answers": ask(model, tokenizer, prompts, **asked)}

    return kept(work / f"{name}.json", make)


def chosen_by_probe(
    refusing: list[dict[str, Any]], base: list[dict[str, Any]], log_odds: list[float]
) -> list[dict[str, Any]]:
    """
    What the teacher says: to a prompt that the probe holds to be one to refuse what the teacher of refusals says, else what
    the base says. How far it leans to refusing is that of the two mixed by the probe's probability; the margin is left out, since
    it cannot be mixed.
    """
    odds, harmful, benign = (
        np.array(one, dtype=float)
        for one in (log_odds, [one["log_odds"] for one in refusing], [one["log_odds"] for one in base])
    )
    refused, answered = (
        np.logaddexp(log_sigmoid(odds) + log_sigmoid(sign * harmful), log_sigmoid(-odds) + log_sigmoid(sign * benign))
        for sign in (1, -1)
    )
    return [
        (one if odd > 0 else other) | {"log_odds": float(leaning), "margin": None}
        for one, other, odd, leaning in zip(refusing, base, log_odds, refused - answered, strict=True)
    ]


def log_sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """The logarithm of the probability that log-odds stand for."""
    return -np.logaddexp(0.0, -log_odds)


def both_precisions(refusing: dict[str, Any], base: dict[str, Any]) -> dict[str, str]:
    """The precision of a teacher of two voices, in the form of one."""
    one, other = (precision_name(voice["scored_precision"]) for voice in (refusing, base))
    return base["scored_precision"] | {"weights": f"{one} where it refuses, {other} elsewhere"}


def measure_agreement(
    trainer: ContrastiveRobustTrainer,
    teacher: Any,
    tokenizer: Any,
    options: argparse.Namespace,
    name: str,
    work: Path,
    answers: list[dict[str, Any]],
    log_odds: list[float],
) -> list[dict[str, Any]]:
    """How far the student predicts what the teacher predicts, on the teacher's own answers: each by the one who speaks."""

    def make() -> list[dict[str, Any]]:
        rows = list(zip(heldout_prompts(options), answers, log_odds, strict=True))
        found = []
        for refused, speaker in ((True, teacher), (False, None)):
            heard = [(row, one["answer"]) for row, one, odds in rows if (odds > 0) == refused]
            prompts, said = [row for row, _ in heard], [answer for _, answer in heard]
            asked: dict[str, Any] = {"system_prompt": SYSTEM_PROMPT, "title": f"{name}: agreement with the teacher"}
            found += agreement(trainer.model, speaker, tokenizer, prompts, said, **asked)
        return found

    return kept(work / f"{name}_agreement.json", make)


def show_table(console: Console, results: dict[str, Any]) -> None:
    rows = comparison_rows(results)
    table = Table(title="Held-out prompts, clean and with typing errors (noise), with 95 % intervals")
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def parts(options: argparse.Namespace) -> list[tuple[str, float]]:
    """What the demo does, by the titles of its progress bars, and how many seconds each took in the run of README.md."""
    prompts = options.prompts / 64
    answers = prompts * options.new_tokens / 32
    student = options.student_steps / 240 * options.batch_size / 16
    utility = [("utility: multiple choice", 2), ("utility: plain text", 6)]
    agreement = 2 * [("{}: agreement with the teacher", 13 * prompts)]
    asked = [
        ("{}: answering held-out prompts", 31 * answers),
        ("{}: answering held-out prompts: log-odds", 21 * prompts),
    ]
    order = (
        ("probe", [("Reading prompts", 66)]),
        ("teacher", [("teacher", 51 * options.teacher_steps / 60)]),
        ("refusing", asked),
        ("before", [*asked, *utility, *agreement]),
        ("student", [("student", 553 * student)]),
        ("after", [*asked, *utility, *agreement]),
    )
    return [(title.format(name), seconds) for name, titles in order for title, seconds in titles]


def run_demo(options: argparse.Namespace) -> None:
    """
    Runs the demo, or goes on with it.

    Args:
        options (`argparse.Namespace`):
            Those of `hf-ckt demo`. But for the folder and `restart` they are the settings that a run's folder is named by.
    """
    # Stages, the time left and the table are to be seen, and nothing else.
    with without_preparation_bars(), parts_of_a_whole(parts(options)):
        demonstrate(options)


def demonstrate(options: argparse.Namespace) -> None:
    started, console, model = time.time(), Console(width=118), options.model or embedded_model()
    settings: dict[str, Any] = {
        name: str(value) for name, value in vars(options).items() if name not in ("output_dir", "restart")
    }
    recipe = replace(
        Recipe(),
        teacher_steps=options.teacher_steps,
        student_steps=options.student_steps,
        batch_size=options.batch_size,
    )
    settings |= {"dtype": DTYPE, "probe_rows": PROBE_ROWS, "recipe": json.loads(json.dumps(asdict(recipe)))}
    # A run of other settings has a folder of its own, so what is found there can be gone on with.
    work = options.output_dir / f"run-{digest(settings)}"
    if options.restart:
        shutil.rmtree(work, ignore_errors=True)
    resumed = work.exists()
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(model)

    console.rule("1/4  what the base knows: a probe of its middle layers")
    probe = base_probe(replace(recipe, rows=PROBE_ROWS), model, work / "probe")

    console.rule("2/4  a teacher of refusals: LoRA on refusals alone")
    teacher = fine_tuned(recipe, model, work / "teacher", options.seed)
    refusing = measure(teacher, tokenizer, options, "refusing", work)

    console.rule("3/4  a student: LoRA over the NF4 backbone, noisy prompts too")
    trainer = student_trainer(recipe, model, teacher, work / "probe", work / "student_training", options.seed)
    trainer.dataset_name = own_set_name(recipe.data)
    before = measure(trainer.model, tokenizer, options, "before", work)
    asked = {"system_prompt": SYSTEM_PROMPT}
    known = kept(
        work / "probe.json",
        lambda: probed(probe, trainer.model, tokenizer, heldout_prompts(options), "before", **asked),
    )
    utility = {"before": kept(work / "before_utility.json", lambda: ask_utility(trainer.model, tokenizer, **asked))}
    said = chosen_by_probe(refusing["answers"], before["answers"], known["log_odds"])
    to_teacher = (trainer, teacher, tokenizer, options)
    compared = {"before": measure_agreement(*to_teacher, "before", work, said, known["log_odds"])}
    train(trainer)

    console.rule("4/4  held-out prompts")
    after = measure(trainer.model, tokenizer, options, "after", work)
    utility["after"] = kept(work / "after_utility.json", lambda: ask_utility(trainer.model, tokenizer, **asked))
    compared["after"] = measure_agreement(*to_teacher, "after", work, said, known["log_odds"])
    measured = {
        "before": before | {"trained_precision": None, "utility": utility["before"]},
        "teacher": {"answers": said, "trained_precision": None, "scored_precision": both_precisions(refusing, before)},
        "after": after | {"trained_precision": run_backbone(trainer)["backbone"], "utility": utility["after"]},
    }
    described = (
        "in training, by label: on harmful prompts a LoRA adapter fine-tuned on refusals, on all others the student's own "
        "base, both of which read prompts without noise; in the table below a probe of the base chooses between the two"
    )
    run = run_facts(trainer) | {"base_model": options.model or HUB_ID, "teacher": described}
    results = {
        "command": "hf-ckt demo",
        "settings": settings,
        "seconds": round(time.time() - started),
        "resumed": resumed,  # then the seconds are those of the last part only
        "peak_memory": peak_memory(),  # of the host, in bytes
        "device": short_device_name(),
        "versions": library_versions(*LIBRARIES),
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "generation": {"decoding": "greedy", "new_tokens": options.new_tokens, "system_prompt": SYSTEM_PROMPT},
        "compared_with": "teacher",
        "prompts": heldout_prompts(options),
        "models": {name: {"title": name, **model} for name, model in measured.items()},
        "probe": known,
        "agreement": {name: part.scores for name, part in alignment_scores(compared, named=True).items()},
        "run": run,
    }
    judging = load_judging("auto")
    judge_answers(results, judging)
    score_answers(results, judging)
    adapter = options.output_dir / "adapter"
    trainer.save_model(str(adapter))
    replace_file(adapter / "README.md", result_card(results, "quickstart").save)
    replace_json(options.output_dir / "results.json", results)
    if any("distillation_loss" in entry for entry in trainer.state.log_history):  # else fewer steps than are logged
        figure = trainer.plot_history()
        replace_file(options.output_dir / "losses.png", lambda aside: figure.savefig(aside, dpi=110, format="png"))
    show_table(console, results)
    console.print(f"{results['seconds']} s in all. {options.output_dir} holds adapter/, losses.png and results.json")
