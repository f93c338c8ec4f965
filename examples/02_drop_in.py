# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
SFTTrainer and ContrastiveRobustTrainer on the same data, side by side.

With every extra weight at 0 the two print the same losses, to the last bit; then the same script with the whole
objective on. What changes in a script of yours:

    - from trl import SFTConfig, SFTTrainer
    + from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer

    python examples/02_drop_in.py --steps 8

Expected output, after the logs of the three trainings: a line a step, then the terms of the third training.

    step          SFTTrainer    hf_ckt, extras 0  difference
       1   3.522988080978394   3.522988080978394         0.0
       8   3.960779428482056   3.960779428482056         0.0
    largest difference in loss, grad_norm, entropy, mean_token_accuracy: 0.0

Time and memory: 56 s of processor time on one core for 8 steps of each, 2.3 GB.
"""

import argparse
import os
import tempfile
from typing import Any

# TRL's trainers send usage data; a demo should not.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.data import load_starter_set, to_prompt_completion
from hf_ckt.models.embedded import embedded_model, native_dtype

EXTRA_OFF = {
    "distillation_weight": 0.0,
    "contrastive_weight": 0.0,
    "consistency_weight": 0.0,
    "regularization_weight": 0.0,
}


def run(trainer_class: Any, config_class: Any, options: argparse.Namespace, folder: str, **weights: float) -> list:
    args = config_class(
        folder,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=5e-4,
        logging_steps=1,
        save_strategy="no",
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        seed=0,
        model_init_kwargs={"dtype": native_dtype()},
        **weights,
    )
    trainer = trainer_class(
        model=options.model or embedded_model(),
        args=args,
        train_dataset=to_prompt_completion(load_starter_set("train")),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        plain = run(SFTTrainer, SFTConfig, options, folder)
        same = run(ContrastiveRobustTrainer, ContrastiveRobustConfig, options, folder, **EXTRA_OFF)
        whole = run(
            ContrastiveRobustTrainer,
            ContrastiveRobustConfig,
            options,
            folder,
            distillation_weight=1.0,
            contrastive_weight=0.1,
            consistency_weight=0.5,
            regularization_weight=1e-4,
        )

    print(f"\n{'step':>4}  {'SFTTrainer':>18}  {'hf_ckt, extras 0':>18}  {'difference':>10}")
    for first, second in zip(plain, same, strict=True):
        difference = abs(first["loss"] - second["loss"])
        print(f"{first['step']:>4}  {first['loss']:>18.15f}  {second['loss']:>18.15f}  {difference:>10}")
    keys = ("loss", "grad_norm", "entropy", "mean_token_accuracy")
    largest = max(abs(a[key] - b[key]) for a, b in zip(plain, same, strict=True) for key in keys)
    print(f"largest difference in {', '.join(keys)}: {largest}")

    terms = [name for name in whole[0] if name.endswith("_loss")]
    print("\nthe whole objective (its teacher here: the student's own base, adapters off)")
    print(f"{'step':>4}  {'loss':>8}  " + "  ".join(f"{name.removesuffix('_loss'):>14}" for name in terms))
    for entry in whole:
        print(f"{entry['step']:>4}  {entry['loss']:>8.4f}  " + "  ".join(f"{entry[name]:>14.5f}" for name in terms))


if __name__ == "__main__":
    main()
