# SPDX-License-Identifier: Apache-2.0
"""The rows of `boundary_ablation.py`: one change after another, and what was tried beside the last."""

from dataclasses import replace
from typing import Any, NamedTuple

from boundary_recipe import Recipe


class Change(NamedTuple):
    """A row of the table: what is said of it, and the recipe."""

    title: str
    recipe: Recipe


def changes() -> dict[str, Change]:
    """The rows by name, in order. None was chosen by what it brings on held-out prompts."""
    chain = {
        "today": Change(
            "the recipe of quickstart.py: starter set, SFT teacher, five terms, 150 steps of 4",
            Recipe(
                data="starter",
                teacher="sft",
                clean=False,
                harmful_times=1,
                refusal_words=None,
                answer_words=None,
                teacher_steps=240,
                teacher_batch_size=4,
                student_steps=150,
                batch_size=4,
                learning_rate=1.5e-3,
                untrained=0.0,
                float32_adapter=False,
                by_length=False,
                objective={
                    "distillation_weight": 1.0,
                    "contrastive_weight": 0.1,
                    "consistency_weight": 0.5,
                    "perturbation": "gaussian",
                    "regularization_weight": 1e-4,
                },
            ),
        )
    }
    last = "today"

    def step(name: str, title: str, **fields: Any) -> None:
        nonlocal last
        chain[name] = Change(title, replace(chain[last].recipe, **fields))
        last = name

    final = Recipe()
    step("data", "boundary set", data="boundary")
    step(
        "openings",
        f"openings alone: {final.refusal_words} words of a refusal, {final.answer_words} of other answers",
        refusal_words=final.refusal_words,
        answer_words=final.answer_words,
    )
    step(
        "longer",
        "300 steps of 16 by length, clean rows too, learning rate 1e-3",
        clean=True,
        student_steps=final.student_steps,
        batch_size=final.batch_size,
        learning_rate=1e-3,
        by_length=final.by_length,
    )
    step("kd", "distillation alone", objective=final.objective)
    step(
        "label",
        "routed by label: refusals by a teacher of refusals, all else by the base",
        teacher="label",
        teacher_steps=final.teacher_steps,
        teacher_batch_size=final.teacher_batch_size,
    )
    step("float32", "adapter in float32", float32_adapter=True)
    step("upper", "adapter on the upper two thirds of the layers alone", untrained=final.untrained)
    step("rate", "three times the learning rate: the best so far", learning_rate=final.learning_rate)
    decision: dict[str, Any] = {
        "contrastive_weight": 0.1,
        "contrastive_level": "decision",
        "contrastive_loss": "sincere",
        "contrastive_queue_size": 256,
    }
    words = {"refusal_words": 20, "answer_words": 20}
    beside: dict[str, tuple[str, dict[str, Any]]] = {
        "probe": ("routed by the probe", {"teacher": "probe"}),
        "decision": ("contrast at the decision, queue of 256", {"objective": {**final.objective, **decision}}),
        "decision_twins": (
            "contrast at the decision, twins together",
            {"objective": {**final.objective, **decision, "group_column": "twin"}, "by_length": False},
        ),
        "consistency": (
            "consistency under typos in place of noisy copies",
            {"copies": (), "objective": {**final.objective, "consistency_weight": 0.5, "perturbation": "typos"}},
        ),
        "wrapper": ("wrapped copies too", {"copies": ("typos", "wrapper")}),
        "harmful_twice": ("harmful rows twice", {"harmful_times": 2}),
        "no_noise": ("without noisy copies", {"copies": ()}),
        "sft": (
            "no teacher: supervised fine-tuning on the same rows",
            {"teacher": "none", "objective": {**final.objective, "task_weight": 1.0, "distillation_weight": 0.0}},
        ),
        "words": ("20 words of each answer", words),
        "decay": (
            "20 words, weights that decay with the position",
            {**words, "objective": {**final.objective, "distillation_token_weights": "position_decay"}},
        ),
        "divergence": (
            "20 words, weights by how far teacher and base differ",
            {**words, "objective": {**final.objective, "distillation_token_weights": "teacher_divergence"}},
        ),
        "steps": ("twice the steps", {"student_steps": 2 * final.student_steps}),
    }
    for rows in (500, 1000, 2000):
        beside[f"label_{rows}"] = (f"{rows} labelled rows", {"rows": rows})
        beside[f"probe_{rows}"] = (
            f"{rows} labelled rows for the probe, all others unlabelled",
            {"rows": rows, "unlabelled": True, "teacher": "probe"},
        )
    return chain | {name: Change(title, replace(final, **fields)) for name, (title, fields) in beside.items()}
