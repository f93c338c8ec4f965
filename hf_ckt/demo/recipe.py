# SPDX-License-Identifier: Apache-2.0
"""
What the demo trains, and `examples/boundary/boundary_ablation.py` arrives at by one change after another: a [`Recipe`].
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..checkpoints import replace_json
from ..data import load_boundary_set, load_starter_set
from ..discovery import load_part
from ..models.embedded import native_dtype

DTYPE = native_dtype()
SYSTEM_PROMPT = "You are a helpful assistant."  # the template's own is longer, which costs time
TYPOS = load_part("perturbations", "typos")(severity=0.08)
# Their versions stand in the results files, since figures depend on them.
LIBRARIES = (
    "trl",
    "transformers",
    "peft",
    "torch",
    "datasets",
    "bitsandbytes",
    "tokenizers",
    "jinja2",
    "scikit-learn",
)
WRAPPER = load_part("perturbations", "wrapper")
NOISES = {"typos": TYPOS, "wrapper": WRAPPER(), "nested": WRAPPER(nested=24), "nested_12": WRAPPER(nested=12)}
BENIGN = "benign_"  # before the name of one: for rows that are no harmful ones


@dataclass(frozen=True)
class Recipe:
    """
    What a student is trained on, and who teaches it.

    Args:
        data (`str`):
            `boundary`, or `starter`, whose look-alikes are read twice.
        rows (`int`, *optional*):
            How many of its rows are labelled for the student and the probe, groups of twins whole. None: all. The teacher of
            refusals is the same.
        unlabelled (`bool`):
            Whether the other rows are read too, as prompts without label or answer, each once; a probe has to route them.
        copies (`tuple[str, ...]`):
            Of `NOISES`; each row is there once as it is, and once by each of these. With `benign_` before its name, one leaves
            harmful rows out: beside `typos` and `benign_typos` these are a smaller share of misspelt prompts than of clean ones.
        clean (`bool`):
            Whether rows are there as they are.
        harmful_times (`int`):
            How often harmful rows are there, each noisy copy with noise of its own. They are a fifth of the set.
        one_refusal (`bool`):
            Whether a refusal is one sentence that begins with the same word as all others, with which the base begins no answer,
            so that one token decides. False: as they are written, many with the reason first, so that what begins as an answer
            may still end in a refusal.
        base_answers (`bool`):
            Whether the student reads greedy answers of the frozen base where a prompt is no harmful one, in place of the
            written ones.
        refusal_words (`int`, *optional*), answer_words (`int`, *optional*):
            Words of a refusal and of any other answer that are read: what decides is how it begins. None: all, which teaches
            how it ends.
        teacher (`str`):
            Who is heard. `label`: a teacher of refusals on harmful rows, the frozen base on all others. `label_clean`: the same,
            each reading a noisy prompt as it was without its noise. `probe`: a mixture of the two on every row, by the probe's
            probability. `sft`: an adapter fine-tuned on all answers, on every row.
            `none`: nobody.
        teacher_steps (`int`), teacher_batch_size (`int`), student_steps (`int`), batch_size (`int`), learning_rate (`float`):
            Optimizer steps and batch sizes of the teacher and of the student, and the student's learning rate (the teacher's is
            1e-3).
        four_bit (`bool`):
            Whether the student's backbone is quantized to NF4.
        rank (`int`):
            Of the student's adapter.
        untrained (`float`):
            Share of the layers, from below, that the student's adapter leaves as they are. What a probe reads lies above it or
            little below, and a step is cheaper.
        float32_adapter (`bool`):
            Whether the adapter is trained in float32. SFTTrainer makes that of a 4-bit backbone bfloat16, in which a small step is
            rounded away.
        by_length (`bool` or `int`):
            Whether a batch holds rows of like length, which leaves little padding to compute: those of so many batches are sorted
            together, or of 20. Batches come in a random order: `train_sampling_strategy="group_by_length"` goes from long rows to
            short ones, which are of other kinds.
        objective (`Mapping`):
            Settings of the student's [`~training.config.ContrastiveRobustConfig`].
    """

    data: str = "boundary"
    rows: int | None = None
    unlabelled: bool = False
    copies: tuple[str, ...] = ("typos", "nested_12", "benign_nested_12")
    clean: bool = True
    harmful_times: int = 2
    one_refusal: bool = True
    base_answers: bool = False
    refusal_words: int | None = None
    answer_words: int | None = 6
    teacher: str = "label_clean"
    teacher_steps: int = 60
    teacher_batch_size: int = 8
    student_steps: int = 240
    batch_size: int = 16
    learning_rate: float = 3e-3
    four_bit: bool = True
    rank: int = 16
    untrained: float = 1 / 3
    float32_adapter: bool = True
    by_length: bool | int = True
    objective: Mapping[str, Any] = field(
        default_factory=lambda: {
            "task_weight": 0.0,
            "distillation_weight": 1.0,
            "contrastive_weight": 0.1,
            "contrastive_level": "decision",
            "contrastive_loss": "sincere",
            "contrastive_queue_size": 256,
            "consistency_weight": 0.0,
            "distillation_token_weights": "position_decay",
            "token_weights_half_life": 1.0,
            "token_weights_floor": 0.05,
            "regularization_weight": 1e-5,
        }
    )

    def __post_init__(self) -> None:
        if self.unlabelled and self.teacher != "probe":
            raise ValueError(
                f"unlabelled=True: teacher={self.teacher!r} cannot tell which of two teachers an unlabelled prompt should hear. "
                "Take teacher='probe'."
            )
        if self.base_answers and (self.data != "boundary" or self.answer_words is None):
            raise ValueError(
                "base_answers=True: the base's answers are kept for the boundary set and a few words long, so others would be "
                "read as they are written. Take data='boundary' and a number of answer_words."
            )


def digest(*facts: Any) -> str:
    """
    A short name for what a kept file depends on: these facts, and the packaged rows. A file of other facts then has another
    name, and is not gone on with. What a model has made depends on its dtype too, which is one of the facts then.
    """
    data = [hash_of_rows(load_boundary_set, split) for split in ("train", "validation", "heldout")]
    data.append(hash_of_rows(load_starter_set, "train"))
    return hashlib.sha256(json.dumps([facts, data], sort_keys=True).encode()).hexdigest()[:8]


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What an earlier run has made and kept, or what is made now."""
    if not file.exists():
        replace_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def hash_of_rows(load: Callable[..., Dataset], split: str) -> str:
    return hashlib.sha256(json.dumps(load(split).to_list()).encode()).hexdigest()
