# SPDX-License-Identifier: Apache-2.0
"""What a trainer that was built and not trained would train on, and what of its model trains."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate.utils import is_peft_model

from ..discovery import part_name
from ..models.batch import Batch
from ..noise.document_batches import Document, split_documents
from .collator import read_batch, split_rejected
from .passes import step_seed


@dataclass(frozen=True)
class ShownText:
    """
    A document as tokens.

    Args:
        tokens (`tuple[str, ...]`):
            The text of each, special tokens as they are written.
        counts (`tuple[bool, ...]`):
            Which of them the loss counts.
    """

    tokens: tuple[str, ...]
    counts: tuple[bool, ...]


@dataclass(frozen=True)
class ShownDocument:
    """
    A document as the trainer's own data collator and noisy view make it.

    Args:
        row (`int`), number (`int`), of (`int`):
            Place of its row in the training set, and of the document among those that the row holds, each from 1.
        clean ([`ShownText`]):
            What the student reads.
        whole (`int`, *optional*):
            How many tokens it had before `max_length` cut it. None: it was not cut, or that is not known.
        at_limit (`bool`):
            Whether it is as long as `max_length`, so that it may have been cut.
        teacher (`str`, *optional*):
            The teacher that it hears.
        left_out (`tuple[str, ...]`):
            Roles that do not count on it.
        perturbation (`str`, *optional*), severity (`float`):
            What perturbs it in the noisy view of the first step, and how strongly. None: nothing does.
        noisy ([`ShownText`], *optional*):
            What the noisy view reads, where a perturbation changes text or tokens; where it is the clean text, nothing could
            be changed. None: the noise is on the embeddings, or there is none.
        context ([`ShownText`], *optional*):
            What the teacher reads in place of the clean text.
        rejected ([`ShownText`], *optional*):
            The answer that was rejected, with its prompt.
    """

    row: int
    number: int
    of: int
    clean: ShownText
    whole: int | None = None
    at_limit: bool = False
    teacher: str | None = None
    left_out: tuple[str, ...] = ()
    perturbation: str | None = None
    severity: float = 0.0
    noisy: ShownText | None = None
    context: ShownText | None = None
    rejected: ShownText | None = None


def first_documents(trainer: Any, count: int) -> list[ShownDocument]:
    """
    Returns the first documents of a trainer's training set, as they would be trained on in its first step.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained. It is left as it was.
        count (`int`):
            How many, at most; of a packed row, its first ones.
    """
    noisy: Any = None if trainer.objective is None else trainer._extra_passes.noisy
    found: list[ShownDocument] = []
    # What is shown is not what is trained on: it must neither be logged nor stop the training.
    with torch.no_grad(), nullcontext() if noisy is None else noisy.counts_kept():
        for row, example in enumerate(_examples(trainer), start=1):
            if len(found) >= count:
                break
            found += islice(_documents_of(trainer, row, example), count - len(found))
    return found


def _examples(trainer: Any) -> Iterator[dict[str, Any]]:
    """Rows of the training set as the data loader gives them to the data collator."""
    trainer._set_signature_columns_if_needed()
    columns = set(trainer._signature_columns) if trainer.args.remove_unused_columns else None
    for row in trainer.train_dataset:
        yield {name: value for name, value in row.items() if columns is None or name in columns}


def _documents_of(trainer: Any, row: int, example: dict[str, Any]) -> Iterator[ShownDocument]:
    inputs = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in trainer.data_collator([example]).items()
    }
    inputs, second = split_rejected(inputs)
    batch, role_masks = read_batch(inputs, trainer._marks)
    documents = split_documents(batch)
    numbers = batch.kept_documents
    perturbed = _perturbed(trainer, batch)
    contexts = [] if batch.context is None else list(split_documents(batch.context).values())
    rejected = [] if second is None else list(split_documents(read_batch(second, trainer._marks)[0]).values())
    real = [(number, document) for number, document in documents.items() if len(document.ids) > 1 or document.kept]
    for place, (number, document) in enumerate(real):
        own = (numbers == number).nonzero().flatten()
        name, severity, noisy = perturbed.get(number, (None, 0.0, None))
        show = _shown(trainer)
        whole = _whole_length(trainer, document)
        limit = trainer.args.max_length
        yield ShownDocument(
            row=row,
            number=place + 1,
            of=len(real),
            clean=show(document),
            whole=whole,
            at_limit=whole is None and limit is not None and len(document.ids) >= limit,
            teacher=_teacher(trainer, batch, own),
            left_out=tuple(role for role, mask in role_masks.items() if len(own) and not mask[own].any()),
            perturbation=name,
            severity=severity,
            noisy=None if noisy is None else show(noisy),
            context=show(contexts[place]) if place < len(contexts) else None,
            rejected=show(rejected[place]) if place < len(rejected) else None,
        )


def _shown(trainer: Any) -> Any:
    tokenizer = trainer._tokenizer

    def show(document: Document) -> ShownText:
        return ShownText(
            tuple(token_texts(tokenizer, document.ids)), tuple(label != -100 for label in document.labels)
        )

    return show


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """
    Returns the text of each token, with the space that is part of it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Whose.
        ids (`Sequence[int]`):
            Its ids.
    """
    raw = tokenizer.convert_ids_to_tokens(list(ids))
    # Each in a list of its own: decoded together, they would be one text.
    texts = tokenizer.batch_decode(
        [[one] for one in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    # SentencePiece drops the space at the beginning of a text, and each token is a text here.
    return [
        f" {text}" if str(token).startswith("\u2581") and not text.startswith(" ") else text
        for token, text in zip(raw, texts, strict=True)
    ]


def _whole_length(trainer: Any, document: Document) -> int | None:
    found = trainer._sources.find_row(document.ids)
    whole = None if found is None else found[1]
    return None if whole is None or len(whole.ids) <= len(document.ids) else len(whole.ids)


def _teacher(trainer: Any, batch: Batch, own: torch.Tensor) -> str | None:
    if trainer.teacher_name is None or not len(own):
        return None
    names = trainer._marks.teachers
    return names[int(batch.kept_routes[own[0]])] if names else trainer.teacher_name


def _perturbed(trainer: Any, batch: Batch) -> dict[int, tuple[str, float, Document | None]]:
    """By the number of a document, what perturbs it, how strongly, and what becomes of it where that can be read."""
    noisy = None if trainer.objective is None else trainer._extra_passes.noisy
    if noisy is None:
        return {}
    mixture = noisy.mixture
    # A severity that begins at 0 shows nothing, one that ends there something.
    progress = max((0.0, 1.0), key=lambda moment: sum(part.severity for part in mixture.at(moment)))
    made = noisy.perturbed(batch, step_seed(trainer.args.seed, 0), progress)
    if made is None:
        return {}
    parts, (changed, choice) = mixture.at(progress), made
    found: dict[int, tuple[str, float, Document | None]] = {}
    for place, (number, document) in enumerate(
        zip(split_documents(batch), split_documents(changed).values(), strict=True)
    ):
        part = parts[0 if choice is None else int(choice[place])]
        found[number] = part_name(part), part.severity, None if part.stage == "embeddings" else document
    return found


@dataclass(frozen=True)
class ModelFacts:
    """
    What of a trainer's model trains.

    Args:
        kind (`str`):
            The class of the model below its adapters.
        trained (`int`), total (`int`):
            Parameters, those of a quantized backbone counted as what they stand for.
        adapter (`dict`, *optional*):
            `kind`, and what there is of `r`, `lora_alpha`, `lora_dropout`, `target_modules` and `modules_to_save`.
    """

    kind: str
    trained: int
    total: int
    adapter: dict[str, Any] | None = None


def model_facts(trainer: Any) -> ModelFacts:
    """
    Returns what of a trainer's model trains.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained.
    """
    model, inner = trainer.model, trainer._causal_lm
    if not is_peft_model(model):
        return ModelFacts(type(inner).__name__, inner.num_parameters(only_trainable=True), inner.num_parameters())
    trained, total = model.get_nb_trainable_parameters()
    config = model.active_peft_config
    adapter: dict[str, Any] = {"kind": str(getattr(config.peft_type, "value", config.peft_type))}
    for name in ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save"):
        value = getattr(config, name, None)
        if value is not None:
            adapter[name] = sorted(value) if isinstance(value, (set, list, tuple)) else value
    return ModelFacts(type(inner).__name__, trained, total, adapter)
