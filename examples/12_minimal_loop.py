# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
The method in plain PyTorch, without a Trainer: what ContrastiveRobustTrainer computes, to read and to lift.

A student under LoRA learns from answers (task), from a frozen teacher (distillation, contrastive) and from itself
under noise (consistency), and is kept near its base (regularization). A test holds every loss equal to the trainer's.

    python examples/12_minimal_loop.py

Expected output:

    loss = 1 task + 1 distillation + 0.1 contrastive + 0.5 consistency + 0.0001 regularization
    step            loss            task    distillation     contrastive     consistency  regularization
       1         3.52838         3.49165         0.00000         0.17462         0.03853         0.00000
      20         2.93545         2.64150         0.24175         0.33647         0.03136        28.67089

Time and memory: 60 s of processor time on one core, 2.6 GB.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.checks import require_count
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_starter_set
from hf_ckt.discovery import load_part
from hf_ckt.kernels.signals import signal_parts
from hf_ckt.models.backbone import embedding_width, read_head, run_backbone
from hf_ckt.models.batch import Batch
from hf_ckt.models.embedded import embedded_model, native_dtype
from hf_ckt.objective.candidates import Contrast, TeacherQueue
from hf_ckt.objective.objective import Objective, Scale, Term
from hf_ckt.objective.partition import HiddenStates
from hf_ckt.objective.schedules import Schedule
from hf_ckt.teachers.base import Teacher, TeacherSetup
from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.views import NoisyStates

# role -> loss and weight
LOSSES = {
    "task": ("nll", 1.0),
    "distillation": ("forward_kl", 1.0),
    "contrastive": ("info_nce", 0.1),
    "consistency": ("consistency_kl", 0.5),
    "regularization": ("adapter_l2", 1e-4),
}


def build_student(name: str, loading: dict[str, Any], seed: int) -> Any:
    """The model with LoRA on all its linear layers; nothing else trains."""
    model = AutoModelForCausalLM.from_pretrained(name, **loading)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")).train()


def build_teacher(name: str | None, loading: dict[str, Any], tokenizer: Any) -> Teacher:
    """A second model, frozen; without a name the student's own base: its passes switch the student's adapters off."""
    if name is None:
        return SelfTeacher()
    # Raises where the two tokenizers differ: the teacher's probabilities would be those of other tokens.
    return ModelTeacher.load(name, TeacherSetup(tokenizer), init_kwargs=loading)


def build_objective(losses: dict[str, tuple[str, float]], vocab_size: int) -> Objective:
    """The weighted sum of the terms. A role that is left out is off, and so is the pass that it alone reads."""
    terms = {role: Term(load_part("losses", loss)(), Schedule(weight)) for role, (loss, weight) in losses.items()}
    contrast = Contrast(level="token", max_anchors=1024, queue=TeacherQueue(0), vocab_size=vocab_size)
    return Objective(terms, contrast=contrast)


def build_batch(rows: list[dict[str, str]], tokenizer: Any, device: torch.device) -> Batch:
    """Prompts and answers through the chat template, padded on the right; only the answers' tokens count."""
    ids, labels = [], []
    for row in rows:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        if whole[: len(prompt)] != prompt:
            raise ValueError("The chat template writes a prompt otherwise before its answer. Take another model.")
        ids.append(torch.tensor(whole, device=device))
        labels.append(torch.tensor([-100] * len(prompt) + whole[len(prompt) :], device=device))
    padded = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=-100)
    return Batch({"input_ids": padded, "attention_mask": mask}, labels)


def run_passes(student: Any, teacher: Teacher, perturbation: Any, views: frozenset, batch: Batch, seed: int) -> tuple:
    """The passes that the terms read, each kept as hidden states at the answers' positions: no logits are built."""
    heard = signal_parts(teacher.signal(batch, student), len(batch.kept)) if "teacher" in views else ()  # no gradient
    if "noisy" in views:
        # The same tokens with noise on their embeddings: a function of the seed and of each text alone.
        noise = perturbation.noise(batch.inputs["input_ids"], batch.documents, embedding_width(student), seed)
        noisy = NoisyStates.everywhere(batch.keep(run_backbone(student, batch.inputs, noise).last_hidden_state))
    # After the noisy pass, as in the trainer: the last bit of a sum of gradients depends on their order.
    clean = batch.keep(run_backbone(student, batch.inputs).last_hidden_state)
    return clean, heard, noisy if "noisy" in views else NoisyStates.nowhere(clean)


def train(
    adapted: Any, teacher: Teacher, objective: Objective, batches: list[Batch], learning_rate: float, seed: int
) -> Iterator[dict[str, float]]:
    """Makes a step of each batch and yields its loss, and of each term and metric the mean, unweighted."""
    student = adapted.get_base_model()  # the causal language model itself; its layers were adapted in place
    perturbation = load_part("perturbations", "gaussian")()
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    # No weight decay: it would shrink an adapter's factors one by one, where adapter_l2 is on their product.
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    for step, batch in enumerate(batches):
        step_seed = (seed << 32) + step  # other noise in each step, the same when the run is repeated
        clean, heard, noisy = run_passes(student, teacher, perturbation, objective.views, batch, step_seed)
        with read_head(student) as head:
            states = HiddenStates({"student": clean}, {"student": head, "noisy": head}, noisy, heard)
            scale = Scale(step / len(batches))
            output = objective(states, batch, student, scale, training=True)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sums = {name: value.tolist() for name, value in output.sums.items()}
        yield {"loss": output.loss.item(), **{name: total / count for name, (total, count) in sums.items()}}


def main() -> None:
    parser = CommandParser(description=__doc__.partition("\n    python")[0])
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--teacher", default=None, help="Hub id or folder; default: the student's own frozen base")
    for option, default in {"steps": 20, "batch-size": 4, "learning-rate": 5e-4, "seed": 0}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help=f"default: {default}")
    options = parser.parse_args()
    require_count("--batch-size", options.batch_size, 1, "A step would have nothing to train on.")
    name = options.model or embedded_model()
    loading = {"dtype": native_dtype(), "device_map": "cuda" if torch.cuda.is_available() else "cpu"}
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    adapted = build_student(name, loading, options.seed)
    teacher = build_teacher(options.teacher, loading, tokenizer)
    objective = build_objective(LOSSES, len(tokenizer))
    rows, size = load_starter_set("train").shuffle(seed=options.seed).to_list(), options.batch_size
    rows = [rows[number % len(rows)] for number in range(options.steps * size)]
    batches = [build_batch(rows[at : at + size], tokenizer, adapted.device) for at in range(0, len(rows), size)]
    print("loss = " + " + ".join(f"{weight:g} {role}" for role, (_, weight) in LOSSES.items()))
    print("step  " + "  ".join(f"{role:>14}" for role in ["loss", *LOSSES]))
    for step, means in enumerate(train(adapted, teacher, objective, batches, options.learning_rate, options.seed), 1):
        values = [means["loss"], *(means[f"{role}_loss"] for role in LOSSES)]
        print(f"{step:>4}  " + "  ".join(f"{value:>14.5f}" for value in values), flush=True)


if __name__ == "__main__":
    sys.exit(run_guarded("12_minimal_loop.py", main))
