# SPDX-License-Identifier: Apache-2.0
"""Short training runs of a tiny model, for the tests that compare runs."""

import json
import sys
from pathlib import Path
from typing import Any

OFF = {
    "distillation_weight": 0.0,
    "contrastive_weight": 0.0,
    "consistency_weight": 0.0,
    "regularization_weight": 0.0,
}
# Each role that a batch's split must not change, alone; then all of them.
ROLES: dict[str, dict[str, Any]] = {
    "task": {"task_weight": 0.5},
    "distillation": {"task_weight": 0.0, "distillation_weight": 1.0},
    "consistency": {"task_weight": 0.0, "consistency_weight": 1.0},
    "reference_kl": {"task_weight": 0.0, "regularization_weight": 1.0, "regularization_loss": "reference_kl"},
    "all": {
        "distillation_weight": 1.0,
        "consistency_weight": 0.5,
        "regularization_weight": 0.3,
        "regularization_loss": "reference_kl",
    },
}


def rows(count: int = 8) -> list[dict[str, str]]:
    """Prompts with answers of unequal length, so that a mean of means is not the mean."""
    answer = " Find its number {} first, then end it."
    return [{"prompt": f"How do I kill {n}?", "completion": answer.format(7 * n) * (1 + n % 3)} for n in range(count)]


def train(folder: str | Path, model: str | Path, count: int = 8, **fields: Any) -> dict[str, Any]:
    """
    Trains with plain gradient descent and no clipping, so that weights differ exactly where gradients do.

    Returns:
        `dict`: `logs`, the losses and metrics of each step, and `weights`, the trained parameters in one flat tensor.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer

    fields = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **OFF,
        **fields,
    }
    quantization = fields.pop("quantization_config", None)
    trainer = ContrastiveRobustTrainer(
        model=str(model),
        args=ContrastiveRobustConfig(str(folder), **fields),
        train_dataset=Dataset.from_list(rows(count)),
        # Adapters that already do something: a self-teacher would otherwise equal the student.
        peft_config=LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False),
        quantization_config=quantization,
    )
    trainer.train()
    trained = [p.detach().flatten().double() for _, p in sorted(trainer.model.named_parameters()) if p.requires_grad]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"logs": logs, "weights": torch.cat(trained)}


def main() -> None:
    """Trains once for each entry of a JSON file and saves the outcomes: what `torchrun` starts in each process."""
    import os

    import torch

    job = json.loads(Path(sys.argv[1]).read_text())
    outcomes = {name: train(**arguments) for name, arguments in job["runs"].items()}
    if os.environ.get("RANK", "0") == "0":
        torch.save(outcomes, job["file"])


if __name__ == "__main__":
    main()
