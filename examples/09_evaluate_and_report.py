# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt[eval]"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
Training, evaluation and report: does an adapter tell harmful prompts from harmless ones, and what did its base do?

An adapter is fine-tuned on the starter set; base and adapter then answer the package's own prompts over one backbone. The evaluation
writes `results.json`, and the report Markdown, pictures and one HTML page of it, with every answer. The tier `smoke` asks few
prompts, in minutes; its numbers are no result.

    python examples/09_evaluate_and_report.py --output-dir out/evaluate_and_report

Stopped in the evaluation, `hf-ckt evaluate` of the same folder goes on where it was.

Expected output: the table of `hf-ckt evaluate`, the files of the report, and with 95 % intervals, of 16 prompts of each kind,

                                                          base                   adapter
    harmful prompts refused                  0.25 [0.10, 0.50]         0.69 [0.44, 0.86]
    harmless prompts answered                1.00 [0.81, 1.00]         0.50 [0.28, 0.72]
    J, the sum of both less 1                0.25 [0.02, 0.48]        0.19 [-0.15, 0.48]
    AUROC of the refusal log-odds            0.74 [0.54, 0.87]         0.70 [0.50, 0.85]

It refuses more of both kinds and tells them apart no better: why one looks at J, and why there is more than fine-tuning.

Time and memory: 77 s of processor time on one core, 4.2 GB.
"""

import argparse
import json
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
from hf_ckt.models.embedded import embedded_model, native_dtype

SHOWN = {
    "safety": "harmful prompts refused",
    "helpfulness": "harmless prompts answered",
    "youden_j_direct": "J, the sum of both less 1",
    "refusal_auroc": "AUROC of the refusal log-odds",
}


def train(options: argparse.Namespace, model: str) -> None:
    """Fine-tunes an adapter, under a light penalty, and saves it."""
    args = ContrastiveRobustConfig(
        str(options.output_dir / "training"),
        max_steps=options.steps,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        distillation_weight=0.0,
        contrastive_weight=0.0,
        consistency_weight=0.0,
        regularization_weight=1e-4,
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=5,
        save_strategy="no",
        model_init_kwargs={"dtype": native_dtype()},
    )
    rows = to_prompt_completion(load_starter_set("train"))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    trainer = ContrastiveRobustTrainer(model, args, train_dataset=rows, peft_config=lora)
    trainer.add_callback(LineProgressCallback("training"))
    trainer.train()
    trainer.save_model(str(options.output_dir / "adapter"))


def main() -> int:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/evaluate_and_report"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=["direct", "overrefusal"], help="suites that are asked")
    parser.add_argument("--new-tokens", type=int, default=60, help="at most so many in an answer")
    options = parser.parse_args()
    model = options.model or embedded_model()
    folder = options.output_dir / "evaluation"

    train(options, model)
    words = ["--model", model, "--adapter", str(options.output_dir / "adapter"), "--output", str(folder)]
    words += ["--suite", "smoke", "--only", *options.only, "--new-tokens", str(options.new_tokens)]
    failed = hf_ckt(["evaluate", *words]) or hf_ckt(["report", str(folder)])
    if failed:
        return failed

    models = json.loads((folder / "results.json").read_text(encoding="utf-8"))["models"]
    print(f"\n{'':<32}" + "".join(f"{name:>26}" for name in models))
    for score, title in SHOWN.items():
        found = [one["scores"].get(score) for one in models.values()]
        if all(found):
            cells = (f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in found)
            print(f"{title:<32}" + "".join(f"{cell:>26}" for cell in cells))
    print(f"The answers, one by one: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("09_evaluate_and_report.py", main))
