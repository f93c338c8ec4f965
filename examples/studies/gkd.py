# SPDX-License-Identifier: Apache-2.0
"""
Trains a cell of a study by TRL's GKDTrainer: the outside reference for distillation.

    python examples/studies/gkd.py --config run.yaml

Reads what `hf-ckt train` reads. Fields that GKDTrainer lacks must be off: it would leave them out, and the cell would be another
method than its file says.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from datasets import load_dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, HfArgumentParser
from trl import ModelConfig, ScriptArguments, get_peft_config
from trl.experimental.gkd import GKDConfig, GKDTrainer

from hf_ckt.checkpoints import last_complete_checkpoint
from hf_ckt.cli.arguments.run_file import read_run_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    fields = read_run_file(parser.parse_args().config)
    teacher = fields.pop("teacher_model_name_or_path")["adapter"]
    fields.pop("resume_from_checkpoint", None)
    known = {name for kind in (ScriptArguments, GKDConfig, ModelConfig) for name in kind.__dataclass_fields__}
    unknown = {name: fields.pop(name) for name in [*fields] if name not in known}
    on = {name: value for name, value in unknown.items() if value}
    if on:
        raise SystemExit(f"--config: GKDTrainer has no {', '.join(on)}. Leave them out or set them to 0.")
    kinds: Any = (ScriptArguments, GKDConfig, ModelConfig)
    script, args, model = HfArgumentParser(kinds).parse_dict(fields)
    loading = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    args.model_init_kwargs = loading
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)

    def tokenized(row: dict[str, Any]) -> dict[str, Any]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
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
    if last is not None and Path(last).name == f"checkpoint-{args.max_steps}":
        trainer.model.load_adapter(last, "default")  # resumed at its end, Trainer would make one step more
    else:
        trainer.train(resume_from_checkpoint=last)
    trainer.save_model()


if __name__ == "__main__":
    main()
