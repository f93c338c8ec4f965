# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
Publishing: what of an adapter's folder goes to the Hub, what stays, and what its card says. Nothing is sent without `--push`.

A few steps make an adapter, in whose folder the trainer writes the card. Then the card goes by the name that the repository will
have, and the files that would go up are listed, each with its size: no pickle, no path of this machine. To push an adapter that
was evaluated, name the evaluation (`09_evaluate_and_report.py`) with `--evaluation`.

    python examples/10_publish.py --repo me/align
    python examples/10_publish.py --repo me/align --push      # after hf auth login

Expected output: the first lines of the card, and

    me/align would get:
           6,564  README.md
           1,294  adapter_config.json
      19,593,064  adapter_model.safetensors
      ...
      23,127,664  bytes in 7 files
    left out: training_args.bin (a pickle, which may run code where it is loaded)

Time and memory: 19 s of processor time on one core, 2.1 GB.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

import torch
from peft import LoraConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer, LineProgressCallback
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import main as hf_ckt
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_starter_set, to_prompt_completion
from hf_ckt.models.embedded import HUB_ID, embedded_model, native_dtype


def train(options: argparse.Namespace) -> None:
    """Trains an adapter for a few steps and saves it with its card."""
    args = ContrastiveRobustConfig(
        str(options.folder / "training"),
        max_steps=options.steps,
        per_device_train_batch_size=4,
        learning_rate=5e-4,
        distillation_weight=1.0,
        contrastive_weight=0.1,
        consistency_weight=0.5,
        regularization_weight=1e-4,
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        model_init_kwargs={"dtype": native_dtype()},
    )
    rows = to_prompt_completion(load_starter_set("train"))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    trainer = ContrastiveRobustTrainer(options.model or embedded_model(), args, train_dataset=rows, peft_config=lora)
    trainer.dataset_name = "starter set of hf_ckt"  # what the card calls the data
    trainer.add_callback(LineProgressCallback("training"))
    trainer.train()
    trainer.save_model(str(options.folder / "adapter"))


def main() -> int:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--base-model", default=HUB_ID, help="what the card calls the base, an id of the Hub")
    parser.add_argument("--repo", default="me/align", help="OWNER/NAME on the Hub")
    parser.add_argument("--folder", type=Path, default=Path("out/publish"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--evaluation", type=Path, help="what `hf-ckt evaluate` wrote of this adapter")
    parser.add_argument("--push", action="store_true", help="send it; private, until you make it public")
    options = parser.parse_args()

    adapter = options.folder / "adapter"
    if not adapter.exists():
        train(options)
    known = ["--base-model", options.base_model]
    known += ["--no-evaluation"] if options.evaluation is None else ["--evaluation", str(options.evaluation)]
    failed = hf_ckt(["card", str(adapter), options.repo, *known])
    if failed:
        return failed
    card = (adapter / "README.md").read_text(encoding="utf-8")
    print(f"\nThe card begins:\n\n{card[:1200]}\n[...]\n")
    return hf_ckt(["push", str(adapter), options.repo, *known, *([] if options.push else ["--dry-run"])])


if __name__ == "__main__":
    sys.exit(run_guarded("10_publish.py", main))
