# SPDX-License-Identifier: Apache-2.0
"""What `test_resume.py` starts: a run in one go, one that is cut off and resumed, one that is resumed without its state."""

import json
import sys
from pathlib import Path

import torch

from tests.gpu.devices import build_on
from tests.trainers import ON, lora, run, steps, trained


def main() -> None:
    device, precision, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    torch.use_deterministic_algorithms(True, warn_only=False)
    changes = {
        **ON,
        # Other attention has a backward pass without a deterministic kernel on some devices.
        "model_init_kwargs": {"attn_implementation": "eager"},
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "regularization_loss": "reference_kl",
        "contrastive_queue_size": 40,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "random",
        "gradient_checkpointing": True,
        "noisy_view_recompute": True,
        "save_strategy": "steps",
        "save_steps": 2,
    }

    def make(name: str):
        return build_on(device, folder / name, model, given={"peft_config": lora(lora_dropout=0.2)}, **changes)

    whole = run(make("whole"))
    # What a kill after the second step would leave, and what a new start would read.
    checkpoint = folder / "whole" / "checkpoint-2"
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "hf_ckt_state_0.safetensors").unlink()
    without_state = make("without_state")
    without_state.train(resume_from_checkpoint=str(checkpoint))

    expected, found = trained(whole), trained(resumed)
    queues = [trainer.objective.contrast.queue.states for trainer in (whole, resumed)]

    def logs(trainer) -> list[dict]:
        # SFTTrainer, too, counts the tokens anew after a resume.
        return [{name: value for name, value in entry.items() if name != "num_tokens"} for entry in steps(trainer)]

    outcome = {
        "device": next(iter(found.values())).device.type,
        "steps": resumed.state.global_step,
        "different_weights": [name for name, value in found.items() if not torch.equal(value, expected[name])],
        "whole_logs": logs(whole),
        "resumed_logs": logs(resumed),
        "without_state_logs": logs(without_state),
        "queues_equal": torch.equal(*queues),
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
