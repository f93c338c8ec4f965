# SPDX-License-Identifier: Apache-2.0
"""
Trains a cell of a study by TRL's GKDTrainer: the outside reference for distillation.

    python examples/studies/gkd.py --config run.yaml

Reads what `hf-ckt train` reads, as far as it is told here; any other field must be off, since it would be left out, and the cell
would be another method than its file says.
"""

import argparse
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from datasets import load_dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, HfArgumentParser, TrainingArguments
from trl import ModelConfig, ScriptArguments, get_peft_config
from trl.experimental.gkd import GKDConfig, GKDTrainer

from hf_ckt.checkpoints import last_complete_checkpoint
from hf_ckt.cli.arguments.run_file import read_run_file

# What a run may set beside the arguments of transformers' Trainer, all of which are obeyed.
OBEYED = {
    "model_name_or_path",
    "dataset_name",
    "dtype",
    "attn_implementation",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "max_length",
    "lmbda",
    "beta",
    "disable_dropout",
    "max_new_tokens",
}
OF_TRAINER = {one.name for one in fields(TrainingArguments)}


def read_arguments(file: Path) -> tuple[ScriptArguments, GKDConfig, ModelConfig, str]:
    """The arguments of a run file, and the folder of its teacher, an adapter."""
    found = read_run_file(file)
    found.pop("resume_from_checkpoint", None)
    teacher = found.pop("teacher_model_name_or_path", None)
    if not isinstance(teacher, dict) or [*teacher] != ["adapter"]:
        raise SystemExit(f"--config: teacher_model_name_or_path must be {{adapter: FOLDER}}, got {teacher!r}.")
    if found.pop("temperature", 1.0) != 1.0:
        raise SystemExit("--config: temperature must be 1, as GKDTrainer's loss reads no other.")
    others = {name: found.pop(name) for name in [*found] if name not in OBEYED | OF_TRAINER}
    on = {name: value for name, value in others.items() if value}
    if on:
        raise SystemExit(f"--config: this script leaves out {', '.join(on)}. Leave them out or set them to 0.")
    kinds: Any = (ScriptArguments, GKDConfig, ModelConfig)
    script, args, model = HfArgumentParser(kinds).parse_dict(found)
    return script, args, model, teacher["adapter"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    script, args, model, teacher = read_arguments(parser.parse_args().config)
    loading = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    args.model_init_kwargs = loading
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)

    def tokenized(row: dict[str, Any]) -> dict[str, Any]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
        if len(ids) > args.max_length:
            raise SystemExit(f"dataset_name: a row has {len(ids)} tokens of max_length={args.max_length}. Raise it.")
        # The collator tokenizes messages by byte offsets, which not all tokenizers have.
        return {"prompt": "", "input_ids": ids, "completion_mask": [int(at >= len(prompt)) for at in range(len(ids))]}

    rows = load_dataset("json", data_files=script.dataset_name, split="train")
    rows = rows.map(tokenized, remove_columns=rows.column_names, desc="Tokenizing")
    trainer = GKDTrainer(
        model=model.model_name_or_path,
        teacher_model=AutoPeftModelForCausalLM.from_pretrained(teacher, **loading),
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
    )
    last = last_complete_checkpoint(args.output_dir, required=False)
    if last is not None and at_its_end(Path(last)):
        trainer.model.load_adapter(last, "default")  # resumed there, Trainer would make one step more
    else:
        trainer.train(resume_from_checkpoint=last)
    trainer.save_model()


def at_its_end(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


if __name__ == "__main__":
    main()
