# SPDX-License-Identifier: Apache-2.0
"""The rows of `boundary_ablation.py`: one change after another, and what was tried beside four of them."""

from dataclasses import replace
from typing import Any, NamedTuple

from hf_ckt.demo.recipe import Recipe


class Change(NamedTuple):
    """A row of the table: what is said of it, the recipe, and the name of the row that it changes."""

    title: str
    recipe: Recipe
    of: str = ""


def changes() -> dict[str, Change]:
    """The rows by name, in order. None was chosen by what it brings on held-out prompts."""
    chain = {
        "first": Change(
            "the first recipe: starter set, SFT teacher, five terms, 150 steps of 4",
            Recipe(
                data="starter",
                copies=("typos",),
                teacher="sft",
                clean=False,
                harmful_times=1,
                one_refusal=False,
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
    last = "first"

    def step(name: str, title: str, **fields: Any) -> None:
        nonlocal last
        chain[name] = Change(title, replace(chain[last].recipe, **fields), last)
        last = name

    final = Recipe()
    # Most of the chain is measured at a quarter of the steps of the row `steps`, in a quarter of the time.
    quarter, all_steps = 70, 280
    # Without the contrast, which comes last.
    distilled = {name: value for name, value in final.objective.items() if "contrastive" not in name}
    distilled["contrastive_weight"] = 0.0
    plain = {name: value for name, value in distilled.items() if "token_weights" not in name}
    step("data", "boundary set", data="boundary")
    step(
        "openings",
        f"openings alone: {final.answer_words} words of each answer",
        refusal_words=final.answer_words,
        answer_words=final.answer_words,
    )
    step(
        "longer",
        f"{quarter} steps of {final.batch_size} by length, clean rows too, learning rate 1e-3",
        clean=True,
        student_steps=quarter,
        batch_size=final.batch_size,
        learning_rate=1e-3,
        by_length=final.by_length,
    )
    step("kd", "distillation alone, penalty 1e-5 in place of 1e-4", objective=plain)
    step(
        "label",
        f"routed by label: refusals by a teacher of refusals ({final.teacher_steps} steps of {final.teacher_batch_size}), all else by the base",
        teacher="label",
        teacher_steps=final.teacher_steps,
        teacher_batch_size=final.teacher_batch_size,
    )
    step("decay", "weights that decay with the position", objective=distilled)
    step(
        "one_refusal",
        "a refusal is one sentence, read whole, and all begin with one word",
        one_refusal=True,
        refusal_words=final.refusal_words,
    )
    step("float32", "adapter in float32", float32_adapter=True)
    step("upper", "adapter on the upper two thirds of the layers alone", untrained=final.untrained)
    step("rate", "three times the learning rate", learning_rate=final.learning_rate)
    step("harmful_twice", "harmful rows twice", harmful_times=final.harmful_times)
    step("steps", f"{all_steps} steps", student_steps=all_steps)
    contrast = f"contrast at the decision, queue of {final.objective['contrastive_queue_size']}"
    step("whole_decision", contrast, objective=final.objective)
    step("whole_wrapper", "wrapped copies too", copies=("typos", "wrapper"))
    step(
        "whole_benign_wrapper",
        "wrapped copies of benign rows twice, so that a fifth of wrapped prompts is refused, of clean ones a third",
        copies=("typos", "wrapper", "benign_wrapper"),
    )
    step(
        "whole_nested",
        "frames of wrapped copies around each other, one to 24, few of them many",
        copies=("typos", "nested", "benign_nested"),
    )
    clean_noise: tuple[str, dict[str, Any]] = (
        "teachers read misspelt and wrapped prompts as they were before",
        {"teacher": "label_clean"},
    )
    step("whole_nested_clean", clean_noise[0], **clean_noise[1])
    step(
        "whole_nested_12_clean",
        "12 frames at most, 240 steps: the recipe of the demo",
        copies=final.copies,
        student_steps=final.student_steps,
    )
    stronger = {**final.objective, "contrastive_weight": 0.3}
    states = {"contrastive_weight": 0.1, "contrastive_level": "state", "contrastive_loss": "sincere"}
    clean_teachers: tuple[str, dict[str, Any]] = (
        "teachers read misspelt prompts without the errors",
        {"teacher": "label_clean"},
    )
    # Beside the last row of few steps.
    beside: dict[str, tuple[str, dict[str, Any]]] = {
        "decision": (contrast, {"objective": final.objective}),
        "decision_strong": (f"{contrast}, three times its weight", {"objective": stronger}),
        "decision_equal": (
            f"{contrast}, ten times its weight",
            {"objective": {**final.objective, "contrastive_weight": 1.0}},
        ),
        "states": ("contrast between middle-layer states", {"objective": {**distilled, **states}}),
        "decision_twins": (
            "contrast at the decision, twins together, so without batches by length, also for the teacher",
            {"objective": {**final.objective, "group_column": "twin"}, "by_length": False},
        ),
        "consistency": (
            "consistency under typos in place of noisy copies",
            {"copies": (), "objective": {**distilled, "consistency_weight": 0.5, "perturbation": "typos"}},
        ),
        "wrapper": ("wrapped copies too", {"copies": ("typos", "wrapper")}),
        "no_noise": ("without noisy copies", {"copies": ()}),
        "noise_alone": ("noisy copies alone", {"clean": False}),
        "benign_noise": (
            "misspelt copies of benign rows twice: a fifth of misspelt prompts is refused, of clean ones a third",
            {"copies": ("typos", "benign_typos")},
        ),
        "label_clean": clean_teachers,
        "temperature": (
            "distillation at temperature 0.5, at which the likeliest first words weigh more",
            {"objective": {**distilled, "distillation_temperature": 0.5}},
        ),
        "base_answers": ("the base's own greedy answers in place of written ones", {"base_answers": True}),
        "refusal_words": (
            f"{final.answer_words} words of a refusal, not its end",
            {"refusal_words": final.answer_words},
        ),
        "divergence": (
            "weights by how far teacher and base differ",
            {"objective": {**plain, "distillation_token_weights": "teacher_divergence"}},
        ),
        **same_rows(chain["harmful_twice"].recipe),
    }
    # Beside the row of all steps.
    cheap = same_rows(chain["steps"].recipe)
    small, small_fields = cheap["small_batch"]
    whole: dict[str, tuple[str, dict[str, Any]]] = {
        "harmful_once": ("harmful rows once", {"harmful_times": 1}),
        **{f"whole_{name}": row for name, row in cheap.items()},
        "whole_clean": clean_teachers,
        "whole_small_batch_clean": (
            f"{small}, and teachers that read misspelt prompts without the errors",
            {**small_fields, "teacher": "label_clean"},
        ),
        "whole_small_batch_words": (
            f"{small}, and {2 * (final.answer_words or 0)} words of each answer",
            {**small_fields, "answer_words": 2 * (final.answer_words or 0)},
        ),
    }
    supervised: tuple[str, dict[str, Any]] = (
        "no teacher: supervised fine-tuning on the same prompts, answers whole and as they are written",
        {
            "teacher": "none",
            "one_refusal": False,
            "refusal_words": None,
            "answer_words": None,
            "objective": {**plain, "task_weight": 1.0, "distillation_weight": 0.0},
        },
    )
    # Beside the row with contrast.
    contrasted: dict[str, tuple[str, dict[str, Any]]] = {
        "sft": supervised,
        "whole_decision_strong": ("three times the weight of the contrast", {"objective": stronger}),
        "whole_clean_decision": clean_teachers,
        "probe": ("routed by the probe", {"teacher": "probe"}),
        "all_layers": (
            "rank 64 on all layers, backbone not quantized",
            {"rank": 64, "untrained": 0.0, "four_bit": False},
        ),
        "twice": ("twice the steps", {"student_steps": 2 * all_steps}),
    }
    for labelled in (500, 1000, 2000):
        contrasted[f"label_{labelled}"] = (f"{labelled} labelled rows", {"rows": labelled})
        contrasted[f"probe_{labelled}"] = (
            f"{labelled} labelled rows for the probe, all others unlabelled",
            {"rows": labelled, "unlabelled": True, "teacher": "probe"},
        )
    rows = dict(chain)
    answers = {**final.objective, "task_weight": 0.5}
    for name, started, changed in (
        ("harmful_twice", f"{quarter} steps, ", beside),
        ("steps", f"{all_steps} steps, ", whole),
        ("whole_decision", "", contrasted),
        ("whole_benign_wrapper", "one frame, ", {"wrapped_sft": supervised, "whole_wrapper_clean": clean_noise}),
        (
            "whole_nested",
            "",
            {
                "whole_task": (
                    "answers whole, and learnt as they are written too, at half the weight of distillation",
                    {"answer_words": None, "objective": answers},
                )
            },
        ),
        (
            "whole_task",
            "",
            {
                "whole_benign_task": (
                    "written answers learnt on benign rows alone; 12 frames at most, 220 steps, rows of 100 batches sorted by length",
                    {
                        "copies": final.copies,
                        "objective": {**answers, "role_rows": {"task": {"teacher": "answer"}}},
                        "by_length": 100,
                        "student_steps": 220,
                    },
                )
            },
        ),
        ("whole_nested_12_clean", "the demo's recipe, ", {"nested_sft": supervised}),
    ):
        for row, (title, fields) in changed.items():
            rows[row] = Change(f"{started}{title}", replace(rows[name].recipe, **fields), name)
    return rows


def same_rows(recipe: Recipe) -> dict[str, tuple[str, dict[str, Any]]]:
    """Changes of how a recipe learns from the rows that its steps read, which stay as they are."""
    return {
        "small_batch": (
            f"batches of {recipe.batch_size // 2}, and twice as many",
            {"batch_size": recipe.batch_size // 2, "student_steps": 2 * recipe.student_steps},
        ),
        "rate_twice": ("twice the learning rate", {"learning_rate": 2 * recipe.learning_rate}),
    }
