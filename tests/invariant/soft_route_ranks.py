# SPDX-License-Identifier: Apache-2.0
"""What each of two processes does for `test_soft_route_ranks.py`: started by torchrun, saves its outcome by rank."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests import tiny_models
from tests.by_hand import SGD, table
from tests.invariant.routed_ranks import PACK
from tests.runs import OFF
from tests.teachers.test_soft_route import probe
from tests.trainers import build, lora, run, steps, trained

ALL = {
    "task_weight": 0.5,
    "distillation_weight": 1.0,
    "consistency_weight": 0.5,
    "consistency_target": "teacher",
    "perturbation": "adversarial",
}
CASES: dict[str, dict[str, Any]] = {
    "mixed": ALL,
    "padding-free": {**ALL, "perturbation": "gaussian", "padding_free": True},
    # The second process has no row that is taught.
    "on one rank": {**OFF, "distillation_weight": 1.0, "role_rows": {"distillation": {"topic": "cooking"}}},
    "packed": {**ALL, "perturbation": "gaussian", "packing": True, "max_length": PACK},
}
# What a process contrasts or weighs is its own micro-batch, as in one process each of two micro-batches is.
HALVES: dict[str, dict[str, Any]] = {
    "weights": {
        "task_weight": 0.5,
        "distillation_weight": 1.0,
        "task_token_weights": "position_decay",
        "distillation_token_weights": "teacher_divergence",
    },
    **{
        level: {
            **OFF,
            "task_weight": 0.0,
            "contrastive_weight": 1.0,
            "contrastive_level": level,
            "contrastive_loss": loss,
        }
        for level, loss in (("decision", "supervised_contrastive"), ("state", "sincere"))
    },
}


def outcome(folder: Path, model: Path, given: dict[str, Any], case: str, **others: Any) -> Any:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    gloo = {"ddp_backend": "gloo"} if ranks == 2 else {}
    data = table([None] * 8, ["cooking"] * 4 + ["chemistry"] * 4).remove_columns("teacher")
    fields = (CASES | HALVES)[case]
    changes = {
        "per_device_train_batch_size": (2 if fields.get("packing") else 8) // ranks,
        "learning_rate": 0.1,
        "max_steps": 2,
        **gloo,
        **fields,
        **others,
    }
    trainer = build(folder, model, data, given={"peft_config": lora(), "teacher_model": given}, **{**SGD, **changes})
    before = trained(trainer)
    run(trainer)
    return {"logs": steps(trainer), "moved": {name: value - before[name] for name, value in trained(trainer).items()}}


def save_sources(folder: Path) -> dict[str, Any]:
    """Saves a probe and a teacher of what to refuse."""
    probe().save(folder / "probe")
    refuse = tiny_models.save_tiny_llama(folder / "refuse", hidden_size=48, seed=7)
    return {"soft_route": str(folder / "probe"), "refuse": str(refuse)}


def main() -> None:
    folder, model = Path(sys.argv[1]), Path(sys.argv[2])
    given = {"soft_route": str(folder / "probe"), "refuse": str(folder / "refuse")}
    found = {case: outcome(folder / str(number), model, given, case) for number, case in enumerate(CASES | HALVES)}
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
