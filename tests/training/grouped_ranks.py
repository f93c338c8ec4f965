# SPDX-License-Identifier: Apache-2.0
"""What each of two processes does for `test_grouping.py`: started by torchrun, saves its batches by rank."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from tests.runs import OFF
from tests.trainers import Stop, build, lora

# By its first token, which is its number, a row is known in a batch. Groups of 1 to 4 rows, scattered.
GROUPS = ["a", "b", "b", None, "c", "d", "a", "d", "c", None, "d", "b", "d", None, None, "e", "e", None, None, None]
FIRST = 10
READ = {"input_ids", "labels", "attention_mask", "position_ids"}
READ |= {"seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}  # of packed rows


def table(length: int | None = None) -> Dataset:
    """Rows of tokens, of one length or of many."""
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(GROUPS):
        ids = [FIRST + number, *range(40, 40 + (length or 3 + number % 5))]
        rows.append({"input_ids": ids, "labels": ids, "group": name, "id": f"row {number}"})
    return Dataset.from_list(rows)


def groups() -> list[set[int]]:
    """The groups of several rows, by the rows' numbers."""
    names = {name for name in GROUPS if name is not None}
    return [{number for number, one in enumerate(GROUPS) if one == name} for name in sorted(names)]


def make(folder: Path, model: Path, **changes: Any) -> tuple[Any, list[list[int]]]:
    """A trainer, and the numbers of the rows in each of the micro-batches that it will have trained on."""
    callbacks = changes.pop("callbacks", [])
    fields = {"train_sampling_strategy": "random", "group_column": "group", "max_length": None, **OFF, **changes}
    data = fields.pop("data", None) or table()
    trainer = build(folder, model, data, given={"peft_config": lora(), "callbacks": callbacks}, **fields)
    seen: list[list[int]] = []
    inner = trainer.compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        assert {*inputs} <= READ
        places = inputs.get("position_ids")  # of packed rows alone
        first = inputs["input_ids"][:, 0] if places is None else inputs["input_ids"][places == 0]
        seen.append([number - FIRST for number in first.tolist()])
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    return trainer, seen


def epochs(folder: Path, model: Path, **changes: Any) -> list[list[int]]:
    """Three epochs in one go."""
    trainer, seen = make(folder, model, max_steps=-1, num_train_epochs=3, **changes)
    trainer.train()
    return seen


def resumed(folder: Path, model: Path, at: int, **changes: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Three epochs cut off after a step, and what a run that goes on from there trains on."""
    fields = {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": at, **changes}
    trainer, before = make(folder, model, callbacks=[Stop(at)], **fields)
    trainer.train()
    PartialState().wait_for_everyone()
    trainer, after = make(folder, model, **fields)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step > at
    return before, after


ACCUMULATED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
SPLIT = {"per_device_train_batch_size": 8, "accelerator_config": {"split_batches": True}}
DISPATCHED = {"accelerator_config": {"dispatch_batches": True}}
PACKED = {"packing": True, "max_length": 40}


def main(folder: Path, model: Path) -> None:
    """Runs all, each process into its own file."""
    shared = {"ddp_backend": "gloo"}
    found: dict[str, Any] = {
        "plain": epochs(folder / "plain", model, **shared),
        "accumulated": epochs(folder / "accumulated", model, **ACCUMULATED, **shared),
        "split": epochs(folder / "split", model, **SPLIT, **shared),
        "dispatched": epochs(folder / "dispatched", model, data=table(5), **DISPATCHED, **shared),
        "packed": epochs(folder / "packed", model, per_device_train_batch_size=1, **{**PACKED, **shared}),
        "dropped": epochs(folder / "dropped", model, dataloader_drop_last=True, **shared),
    }
    # Between the first epoch and the second, and in the midst of that.
    for at in (3, 4):
        found[f"resumed at {at}"] = resumed(folder / f"resumed{at}", model, at, **shared)
        PartialState().wait_for_everyone()
        if os.environ["RANK"] == "0":
            shutil.rmtree(folder / f"resumed{at}")
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
