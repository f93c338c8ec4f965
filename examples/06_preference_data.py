# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
Preference data: the chosen answer is trained on, and the teacher's reading of the rejected one is a hard negative of the contrast.

Pairs are made of the boundary set: a harmful prompt and its benign twin have words in common, and each rejects the answer that
the other one wants. Two students, with the rejected answers and without; then how often the chosen answer of a
validation pair is the more probable one, by its mean log-probability a token.

    python examples/06_preference_data.py

Expected output. With rejected answers the contrast has something to tell apart; so few steps move no preference:

                          chosen preferred   margin, nats   contrast, first     last
    the base                      22 of 40         +0.251
    chosen answers alone          20 of 40         +0.238           1.8e-05  2.4e-04
    with hard negatives           20 of 40         +0.240           3.0e-03  1.3e-02

Time and memory: 93 s of processor time on one core, 2.1 GB.
"""

import argparse
import os
import sys
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

import torch
from datasets import Dataset
from peft import LoraConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer, LineProgressCallback
from hf_ckt.checks import require_count
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_boundary_set
from hf_ckt.models.embedded import embedded_model, native_dtype


def preference_pairs(split: Any) -> Dataset:
    """Prompt, chosen and rejected in chat form, two rows for each harmful prompt and its first twin."""
    rows = {row["id"]: row for row in load_boundary_set(split)}
    twins = {row["twin"]: row for row in reversed(rows.values()) if row["twin"] is not None}
    pairs = []
    for name, twin in twins.items():
        for row, other in ((rows[name], twin), (twin, rows[name])):
            texts = {"prompt": row["prompt"], "chosen": row["response"], "rejected": other["response"]}
            roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
            pairs.append({name: [{"role": roles[name], "content": text}] for name, text in texts.items()})
    return Dataset.from_list(pairs)


def build_trainer(options: argparse.Namespace, folder: str, rows: Dataset, rejected: bool) -> ContrastiveRobustTrainer:
    """A student that reads the chosen answers; its teacher is its own frozen base."""
    args = ContrastiveRobustConfig(
        folder,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=5e-4,
        distillation_weight=0.0,
        contrastive_weight=0.5,
        contrastive_level="sequence",
        contrastive_rejected=rejected,
        consistency_weight=0.0,
        regularization_weight=1e-4,
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        model_init_kwargs={"dtype": native_dtype()},
    )
    if not rejected:
        rows = rows.rename_column("chosen", "completion").remove_columns("rejected")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    return ContrastiveRobustTrainer(options.model or embedded_model(), args, train_dataset=rows, peft_config=lora)


@torch.no_grad()
def log_probability(model: Any, tokenizer: Any, prompt: list[dict[str, str]], answer: list[dict[str, str]]) -> float:
    """The mean log-probability of an answer's tokens."""
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(prompt + answer, return_dict=False)
    ids = torch.tensor([whole], device=model.device)
    log_probs = model(input_ids=ids).logits[0, len(asked) - 1 : -1].float().log_softmax(-1)
    return log_probs.gather(1, ids[0, len(asked) :, None]).mean().item()


def preferred(model: Any, tokenizer: Any, pairs: Dataset) -> str:
    """In how many pairs the chosen answer is the more probable one, and by how much on average."""
    model.eval()
    margins = [
        log_probability(model, tokenizer, row["prompt"], row["chosen"])
        - log_probability(model, tokenizer, row["prompt"], row["rejected"])
        for row in pairs
    ]
    count = f"{sum(one > 0 for one in margins)} of {len(margins)}"
    return f"{count:>16}{sum(margins) / len(margins):>+15.3f}"


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=40, help="validation pairs that are asked")
    options = parser.parse_args()
    require_count("--pairs", options.pairs, 1, "Of none nothing is preferred.")
    training, validation = preference_pairs("train"), preference_pairs("validation")
    validation = validation.select(range(min(options.pairs, len(validation))))

    lines = {}
    for title, rejected in {"chosen answers alone": False, "with hard negatives": True}.items():
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(options, folder, training, rejected)
            if not lines:
                with trainer.model.disable_adapter():
                    lines["the base"] = preferred(trainer.model, trainer.processing_class, validation)
            trainer.add_callback(LineProgressCallback(title))
            trainer.train()
        losses = [one["contrastive_loss"] for one in trainer.state.log_history if "contrastive_loss" in one]
        lines[title] = preferred(trainer.model, trainer.processing_class, validation)
        lines[title] += f"{losses[0]:>18.1e}{losses[-1]:>9.1e}"

    print(f"\n{'':<22}{'chosen preferred':>16}{'margin, nats':>15}{'contrast, first':>18}{'last':>9}")
    for title, line in lines.items():
        print(f"{title:<22}{line}")


if __name__ == "__main__":
    sys.exit(run_guarded("06_preference_data.py", main))
