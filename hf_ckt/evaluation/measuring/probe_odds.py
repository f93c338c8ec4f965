# SPDX-License-Identifier: Apache-2.0
"""What a boundary probe makes of prompts, read from the states of the base alone. Nothing is generated."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...models.batch import Batch, padded
from ...models.boundary_probe import BoundaryProbe
from ...progress.bars import ProgressBar
from .answers import plan_batches
from .chat_format import chat_format

if TYPE_CHECKING:
    from .measure import Measurement
    from .models import EvaluatedModel

WITHOUT = "Or evaluate without a probe: --probe none."
# States of all layers are in memory: at most so many prompts at a time, and tokens with their padding.
_ROWS, _TOKENS = 16, 8192


def ask_probe(
    probe: BoundaryProbe,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    title: str | None = None,
) -> list[float]:
    """
    Returns the log-odds that each prompt is one to refuse, in nats, by a probe of the model's base.

    The base reads each prompt as it is asked, up to where the model goes on by itself. All adapters are off, so the number
    is the same whichever adapter is on the model.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            Fitted on this base.
        model (`PreTrainedModel` or `PeftModel`):
            The base, or an adapter on it. Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template.
        prompts (`Sequence[str]`):
            What the user says.
        system_prompt (`str`, *optional*):
            Put before each prompt; a [`ChatFormat`] has its own.
        title (`str`, *optional*):
            Name of the progress bar; None shows none.

    Returns:
        `list[float]`: in the order of the prompts.

    Raises:
        ValueError: If the probe was fitted on another base, or a prompt does not fit the positions that the model has
            learned.
    """
    from ...models._upstream import adapters_disabled
    from ...models.backbone import frozen
    from ...models.positions import require_room
    from .response_batches import causal_lm

    probe.require_model(model)
    asked, base = chat_format(tokenizer, system_prompt), causal_lm(model)
    unique = list(dict.fromkeys(prompts))
    ids = dict(zip(unique, asked.ids(unique), strict=True))
    require_room(base, 1 + max(map(len, ids.values()), default=0))
    batches = list(_batches(sorted(unique, key=lambda prompt: len(ids[prompt])), ids))
    found: dict[str, float] = {}
    with frozen(base), adapters_disabled(base):
        for texts in ProgressBar(batches, desc=title, unit="batch", disable=title is None):
            batch = prompt_batch([ids[text] for text in texts], base.device)
            states = base.base_model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
            found |= zip(texts, probe.log_odds(states, batch)[1].tolist(), strict=True)
    return [found[prompt] for prompt in prompts]


def prompt_batch(rows: Sequence[Sequence[int]], device: Any) -> Batch:
    """
    Returns prompts, padded on the right, each with an answer of one token, any one: where it is predicted from is where
    answering or refusing is decided.
    """
    import torch

    ids, mask = padded([[*row, row[-1]] for row in rows], 0)
    answers = torch.nn.functional.one_hot(mask.sum(1) - 1, ids.shape[1]).bool()
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    return Batch(inputs, torch.where(answers, ids, -100).to(device))


def kept_log_odds(
    probe: BoundaryProbe, digest: str, base: "EvaluatedModel", measurement: "Measurement"
) -> dict[str, float]:
    """
    Returns a probe's log-odds of every prompt of the suites, kept in the measurement's store as they are made.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]), digest (`str`):
            The probe, and what tells it from others.
        base ([`EvaluatedModel`]):
            Whose states are read.
        measurement ([`Measurement`]):
            What is asked, and how.

    Returns:
        `dict[str, float]`: by prompt as the user says it.

    Raises:
        ValueError: If the probe was fitted on another base.
    """
    asked = measurement.formats[base]

    def make(batch: list[str]) -> list[float]:
        with measurement.backbones.active(base) as model:
            try:
                return ask_probe(probe, model, asked, batch)
            except ValueError as error:
                raise ValueError(f"{error} {WITHOUT}") from error

    found: dict[str, float] = {}
    planned = plan_batches(asked, (row["prompt"] for row in measurement.asked.rows), new_tokens=1)
    for batch, _ in ProgressBar(planned, desc=f"{base.name}: boundary probe", unit="batch"):
        key = measurement.key(base, "boundary probe", probe=digest, prompts=batch)
        found |= zip(batch, measurement.store.piece(key, partial(make, batch)), strict=True)
    return found


def _batches(prompts: Sequence[str], ids: dict[str, list[int]]) -> Iterator[list[str]]:
    """Prompts, shortest first, in batches that fit memory."""
    batch: list[str] = []
    for prompt in prompts:
        if batch and (len(batch) == _ROWS or (len(batch) + 1) * len(ids[prompt]) > _TOKENS):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
