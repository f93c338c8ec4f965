# SPDX-License-Identifier: Apache-2.0
"""What each of two processes does for `test_ranks.py`: started by torchrun, saves its outcome by rank."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from datasets import Dataset
from peft import get_peft_model

from tests import tiny_models
from tests.runs import OFF, ROLES, rows
from tests.trainers import ON, build, first_batch, gradients, load, lora, run, steps


def ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


EACH = {"max_length": None, **({"ddp_backend": "gloo"} if ranks() == 2 else {})}
ON_TOKENS = {**OFF, "distillation_weight": 1.0, "consistency_weight": 0.5}


def masked_rank(folder: Path, model: Path) -> dict[str, Any]:
    """The second of two processes gets a batch without a label in every step."""
    data = [{"input_ids": list(range(5, 15 + n)), "labels": list(range(5, 15 + n))} for n in range(8)]
    for n in (1, 3, 5, 7):  # accelerate deals the batches of one row out in turn
        data[n]["labels"] = [-100] * len(data[n]["labels"])
    changes = {**EACH, **ON, "contrastive_weight": 0.0, "per_device_train_batch_size": 1, "max_steps": 2}
    return {
        "steps": steps(run(build(folder, model, Dataset.from_list(data), given={"peft_config": lora()}, **changes)))
    }


def bad_rank(folder: Path, model: Path) -> dict[str, Any]:
    """The teacher of the second process turns to NaN in its second pass."""
    teacher, passes = load(model), []

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        if len(output) == 1:
            return output  # a short text, at which its head is compared with its logits
        passes.append(None)
        return output * torch.nan if len(passes) == 2 and os.environ["RANK"] == "1" else output

    teacher.model.norm.register_forward_hook(spoil)
    given = {"peft_config": lora(), "teacher_model": teacher}
    trainer = build(folder, model, given=given, max_steps=3, **EACH, **{**OFF, "distillation_weight": 1.0})
    try:
        trainer.train()
    except FloatingPointError as error:
        return {"error": str(error), "step": trainer.state.global_step}
    return {"error": None}


def evaluation(folder: Path, model: Path) -> dict[str, Any]:
    """An evaluation whose rows the two processes share unevenly."""
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(6))}
    trainer = build(
        folder, model, given=given, **EACH, per_device_eval_batch_size=3 if ranks() == 2 else 6, **ON_TOKENS
    )
    return {"metrics": trainer.evaluate()}


def shard_student(trainer: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in trainer._causal_lm.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)


def sharded(folder: Path, model: Path) -> dict[str, Any]:
    """Gradients of one global batch of 8, the student sharded by FSDP2 where there are two processes."""
    outcome = {}
    trained_head = lora(modules_to_save=["lm_head"], exclude_modules=["lm_head"])
    for name, config, weights in (
        ("all", lora(), {**OFF, **ROLES["all"]}),
        ("head", trained_head, {**OFF, "consistency_weight": 1.0, "distillation_weight": 1.0}),
        ("full", None, {**OFF, "consistency_weight": 1.0}),
        ("recomputed", lora(), {**OFF, **ROLES["all"], "noisy_view_recompute": True}),
        # So small a part that a rank has none, and must make its pass all the same.
        ("part", lora(), {**OFF, **ROLES["all"], "consistency_fraction": 0.1}),
        ("prompts", lora(), {**OFF, **ROLES["all"], "perturbation": "word_dropout", "perturbation_severity": 0.5}),
    ):
        given = {"peft_config": config} if config is not None else {}
        changes = {**EACH, "per_device_train_batch_size": 8 // ranks(), **weights}
        trainer = build(folder / name, model, given=given, **changes)
        everything = trainer.data_collator([trainer.train_dataset[n] for n in range(8)])
        total = int((everything["labels"][:, 1:] != -100).sum())
        batch = first_batch(trainer)
        if ranks() == 2:
            shard_student(trainer)
        found = gradients(trainer, batch, num_items_in_batch=total)
        assert ranks() == 1 or all(hasattr(g, "full_tensor") for g in found.values())  # sharded indeed
        outcome[name] = {key: g.full_tensor() if hasattr(g, "full_tensor") else g for key, g in found.items()}
    return outcome


class Shards:
    """
    What [`~teachers.base.Teacher.place`] asks an accelerator for, of a run that shards by FSDP2.

    accelerate sets up FSDP on accelerators alone, so on the CPU its answers are given here; what shards is trl's and torch's.
    """

    distributed_type = DistributedType.FSDP
    device = torch.device("cpu")

    def __init__(self) -> None:
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
        self.state = SimpleNamespace(fsdp_plugin=plugin)


def sharded_teachers(folder: Path, model: Path) -> dict[str, Any]:
    """Gradients where two teachers are sharded with the student, and each process has rows of one of them alone."""
    # Of several processes the first one saves.
    other = tiny_models.save_tiny_llama(folder / "other", seed=7, hidden_size=48)
    PartialState().wait_for_everyone()
    names = ["one"] * 4 + ["two"] * 4
    data = Dataset.from_list([{**row, "teacher": name} for row, name in zip(rows(), names, strict=True)])
    outcome = {}
    for name, teachers in (
        ("several", {"teachers": {"one": {"model": str(model)}, "two": {"model": str(other)}}}),
        ("single", {"teacher_model": {"model": str(other)}}),
    ):
        changes = {**EACH, "per_device_train_batch_size": 8 // ranks(), **OFF, "distillation_weight": 1.0}
        given = {"peft_config": lora(), **teachers}
        trainer = build(folder / name, model, data if name == "several" else None, given=given, **changes)
        everything = trainer.data_collator([trainer.train_dataset[n] for n in range(8)])
        total = int((everything["labels"][:, 1:] != -100).sum())
        rank = int(os.environ.get("RANK", "0"))
        # The first half of the rows to the first process: the loader deals them out in turn.
        batch = trainer.data_collator([trainer.train_dataset[8 // ranks() * rank + n] for n in range(8 // ranks())])
        if ranks() == 2:
            shard_student(trainer)
            teacher = trainer._extra_passes.teacher
            teacher.place(Shards())
            if name == "several":
                teacher.same_passes = True
            held = [one.model for one in teacher.parts.values()] if teacher.parts else [teacher.model]
            assert all(hasattr(p, "full_tensor") for one in held for p in one.parameters())
        for _ in range(2):  # the second pass reads what the first has left sharded
            found = gradients(trainer, batch, num_items_in_batch=total)
        outcome[name] = {key: g.full_tensor() if hasattr(g, "full_tensor") else g for key, g in found.items()}
    return outcome


REMEMBERING = {
    **ON,
    "contrastive_queue_size": 12,
    "perturbation": "adversarial",
    "perturbation_warm_start": True,
    "consistency_budget": 1e-5,
    "consistency_budget_rate": 2.0,
    "per_device_train_batch_size": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}


def remembered(trainer: Any) -> dict[str, Any]:
    """What a trainer holds of its run."""
    state = trainer._state_to_save
    return {
        "multiplier": state.budget.multiplier,
        "queue": state.contrast.queue.states.clone(),
        "noise": state.noisy.previous.clone(),
    }


def resumed(folder: Path, model: Path) -> dict[str, Any]:
    """Both processes save a checkpoint, and go on with one that a single process has saved."""
    rank = int(os.environ["RANK"])
    trainer = run(build(folder / "run", model, given={"peft_config": lora()}, max_steps=1, **EACH, **REMEMBERING))
    checkpoint, single = folder / "run" / "checkpoint-1", folder / "single"
    if rank == 0:
        shutil.copytree(checkpoint, single)
        for path in single.glob("hf_ckt_state*"):
            path.unlink()
        trainer._state_to_save.budget.multiplier = 7.25
        trainer._state_to_save.save(str(single), 0, 1)
    trainer.accelerator.wait_for_everyone()
    saved = remembered(trainer)
    found = {}
    for name, where in (("both", checkpoint), ("single", single)):
        again = build(folder / name, model, given={"peft_config": lora()}, max_steps=1, **EACH, **REMEMBERING)
        again.train(resume_from_checkpoint=str(where))  # nothing is left to train, so this is the state as it was read
        found[name] = remembered(again)
    return {"checkpoint": str(checkpoint), "saved": saved, **found}


def adapter_teacher(folder: Path, model: Path) -> dict[str, Any]:
    """Two steps of eight rows with a teacher that is a second adapter, and a checkpoint."""
    if int(os.environ.get("RANK", "0")) == 0:
        torch.manual_seed(11)
        get_peft_model(load(model), lora(r=2)).save_pretrained(folder / "adapter")
    PartialState().wait_for_everyone()
    given = {"peft_config": lora(), "teacher_model": {"adapter": str(folder / "adapter")}}
    changes = {"per_device_train_batch_size": 8 // ranks(), "optim": "sgd", "max_grad_norm": 0.0}
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = run(build(folder / "run", model, given=given, **EACH, **changes, **saving, **ON_TOKENS))
    trainer.accelerator.wait_for_everyone()
    parameters = dict(trainer.model.named_parameters())
    return {
        "steps": steps(trainer),
        "trained": {name: p.detach() for name, p in parameters.items() if p.requires_grad},
        "teacher": {name: p.detach() for name, p in parameters.items() if ".hf_ckt_teacher." in name},
        "saved": sorted(path.name for path in (folder / "run" / "checkpoint-2").iterdir()),
    }


JOBS = {
    "adapter_teacher": adapter_teacher,
    "masked_rank": masked_rank,
    "bad_rank": bad_rank,
    "evaluation": evaluation,
    "sharded": sharded,
    "sharded_teachers": sharded_teachers,
    "resumed": resumed,
}


def main() -> None:
    folder, model = map(Path, sys.argv[1:3])
    outcome = {name: job(folder / name, model) for name, job in JOBS.items()}
    torch.save(outcome, folder / f"rank{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main()
