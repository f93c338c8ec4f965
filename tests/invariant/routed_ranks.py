# SPDX-License-Identifier: Apache-2.0
"""What each of two processes does for `test_routed_ranks.py`: started by torchrun, saves its outcome by rank."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.by_hand import NAMES, TOPICS, build_routed, save_teachers, table
from tests.runs import OFF
from tests.trainers import run, steps, trained

ALL = {
    "task_weight": 0.5,
    "distillation_weight": 1.0,
    "consistency_weight": 0.5,
    "consistency_target": "teacher",
    "perturbation": "adversarial",
    "regularization_weight": 0.3,
    "regularization_loss": "reference_kl",
}
ALONE = {**OFF, "task_weight": 0.0}
PACK = 80  # tokens
# The first process has the first four rows of each step, the second the others.
APART = ["safety"] * 4 + ["base"] * 4
FIRST_ALONE = ["cooking"] * 4 + ["chemistry"] * 4

CASES: dict[str, tuple[list[Any], list[str], dict[str, Any]]] = {
    "mixed": (NAMES, TOPICS, ALL),
    "one teacher a rank": (APART, TOPICS, ALL),
    "padding-free": (APART, TOPICS, {**ALL, "perturbation": "gaussian", "padding_free": True}),
    "roles on one rank": (
        APART,
        FIRST_ALONE,
        {
            **ALL,
            "role_rows": {
                role: {"topic": "cooking"} for role in ("task", "distillation", "consistency", "regularization")
            },
        },
    ),
    "a role alone, on one rank": (
        APART,
        FIRST_ALONE,
        {**ALONE, "distillation_weight": 1.0, "role_rows": {"distillation": {"teacher": "safety"}}},
    ),
    "noise alone, on one rank": (
        APART,
        FIRST_ALONE,
        {**ALL, **ALONE, "consistency_weight": 1.0, "role_rows": {"consistency": {"topic": "cooking"}}},
    ),
    "trusted": (APART, TOPICS, {"task_weight": 1.0, "label_trust": True}),
    # Of five packs four are read, one by each process in each step.
    "packed": (NAMES, TOPICS, {**ALL, "perturbation": "gaussian", "packing": True, "max_length": PACK}),
    "contexts": (NAMES, TOPICS, {**ALONE, "distillation_weight": 1.0}),
}
# What a rank weighs is its own micro-batch, as in one process each of two micro-batches is.
WEIGHED = {
    "task_weight": 0.5,
    "distillation_weight": 1.0,
    "task_token_weights": "position_decay",
    "distillation_token_weights": "teacher_divergence",
    "role_rows": {"distillation": {"topic": "cooking"}},
}
CONTRAST = {**ALONE, "contrastive_weight": 1.0, "contrastive_queue_size": 30, "contrastive_loss": "info_nce"}


def outcome(
    folder: Path, model: Path, teachers: dict[str, Any], case: str, rows: int = 8, names: Any = None, **changes: Any
) -> Any:
    own, topics, fields = CASES.get(case, (APART, FIRST_ALONE, CONTRAST if names is None else ALONE))
    names = own if names is None else names
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    gloo = {"ddp_backend": "gloo"} if ranks == 2 else {}
    each = {
        **gloo,
        "per_device_train_batch_size": (2 if fields.get("packing") else rows) // ranks,
        "learning_rate": 0.1,
        "max_steps": 2,
        **fields,
        **changes,
    }
    data = table(names[:rows], topics)
    if case == "contexts":
        data = data.map(lambda row: {"teacher_prompt": f"Rule: do no harm. {row['prompt']}"})
        teachers = {name: {"privileged_context": source} for name, source in teachers.items()}
    trainer = build_routed(folder, model, teachers, data, **each)
    before = trained(trainer)
    run(trainer)
    weights = {name: value - before[name] for name, value in trained(trainer).items()}
    return {"logs": steps(trainer), "moved": weights}


def contrast(folder: Path, model: Path, teachers: dict[str, Any]) -> Any:
    """Only the first process has anchors."""
    return outcome(folder, model, teachers, "contrast", role_rows={"contrastive": {"topic": "cooking"}}, max_steps=1)


def weighed(folder: Path, model: Path, teachers: dict[str, Any], names: list[Any], **changes: Any) -> Any:
    """Four rows a micro-batch, on two processes or one after the other, the teachers divided among them or not."""
    return outcome(folder, model, teachers, "weighed", names=names, **{**WEIGHED, **changes})


LEVELS = ("decision", "state")


def documents(folder: Path, model: Path, teachers: dict[str, Any], level: str, **changes: Any) -> Any:
    """Contrast between documents, each process among its own rows."""
    loss = {"state": "sincere"}.get(level, "info_nce")
    fields = {
        **CONTRAST,
        "contrastive_level": level,
        "contrastive_loss": loss,
        "contrastive_queue_size": 0,
        "max_steps": 1,
    }
    return outcome(folder, model, teachers, "mixed", **{**fields, **changes})


def main() -> None:
    folder, model, teachers = Path(sys.argv[1]), Path(sys.argv[2]), torch.load(sys.argv[3])
    found = {case: outcome(folder / str(number), model, teachers, case) for number, case in enumerate(CASES)}
    found["contrast"] = contrast(folder / "contrast", model, teachers)
    for rows in (APART, NAMES):
        found[f"weighed {len(set(rows))}"] = weighed(folder / f"weighed{len(set(rows))}", model, teachers, rows)
    for level in LEVELS:
        found[level] = documents(folder / level, model, teachers, level)
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")


def save_sources(folder: Path) -> tuple[dict[str, Any], Path]:
    """Saves teachers, and where they lie for the processes to read."""
    teachers = save_teachers(folder)
    torch.save(teachers, folder / "teachers.pt")
    return teachers, folder / "teachers.pt"


if __name__ == "__main__":
    main()
