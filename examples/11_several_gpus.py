# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
One training over several GPUs: nothing of the script changes, and neither does the loss, however many processes share a batch.

`--batch-size` is that of all processes together. Losses are sums over the tokens of the whole batch divided by their number, so one
process and several log the same task, distillation and consistency up to rounding; the contrast alone compares within a
process, and is off here. The files in `configs/` are for DDP, FSDP2 and DeepSpeed.

    python examples/11_several_gpus.py
    accelerate launch --config_file examples/configs/ddp.yaml examples/11_several_gpus.py
    torchrun --nproc_per_node 2 examples/11_several_gpus.py      # also without a GPU, to try it

Expected output of one process; of several the same, but for the first line and for rounding:

    1 processes (NO), 8 rows each
    step                loss           task_loss   distillation_loss    consistency_loss          acceptance
       1            3.955719            3.932403            0.000000            0.046633            1.000008
       4            3.456729            3.368387            0.067617            0.040976            0.881711

Time and memory: 28 s of processor time on one core, 3.3 GB. On GPUs nothing was measured yet: two CPU
processes under DDP are tested, and of the other files that accelerate reads them.
"""

import argparse
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

import torch
from accelerate import PartialState
from peft import LoraConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_starter_set, to_prompt_completion
from hf_ckt.models.embedded import embedded_model, native_dtype

SHOWN = ("loss", "task_loss", "distillation_loss", "consistency_loss", "acceptance")


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8, help="rows of a step, over all processes")
    parser.add_argument("--output-dir", default=None, help="where the adapter goes; default: nowhere")
    options = parser.parse_args()
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
    if options.batch_size % processes:
        raise ValueError(
            f"--batch-size: {options.batch_size} rows cannot be shared alike by {processes} processes, so the batches would be "
            f"others than those of one. Give a multiple of {processes}."
        )

    with tempfile.TemporaryDirectory() as folder:
        args = ContrastiveRobustConfig(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size // processes,
            learning_rate=5e-4,
            distillation_weight=1.0,
            contrastive_weight=0.0,
            consistency_weight=0.5,
            regularization_weight=1e-4,
            gradient_checkpointing=False,
            bf16=native_dtype() == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            model_init_kwargs={"dtype": native_dtype()},
        )
        trainer = ContrastiveRobustTrainer(
            options.model or embedded_model(),
            args,
            train_dataset=to_prompt_completion(load_starter_set("train")),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        )
        trainer.train()
    if options.output_dir is not None:
        trainer.save_model(options.output_dir)  # on all processes: of a sharded model each holds a part

    say = trainer.accelerator.print  # the first process alone
    kind = trainer.accelerator.distributed_type.value
    say(f"\n{processes} processes ({kind}), {options.batch_size // processes} rows each")
    say(f"{'step':>4}" + "".join(f"{name:>20}" for name in SHOWN))
    for one in trainer.state.log_history:
        if "loss" in one:
            say(f"{one['step']:>4}" + "".join(f"{one[name]:>20.6f}" for name in SHOWN))


if __name__ == "__main__":
    sys.exit(run_guarded("11_several_gpus.py", main))
