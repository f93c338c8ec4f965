# SPDX-License-Identifier: Apache-2.0
"""A batch as models read it: which positions count, and where its documents lie, whatever the collator says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# What data collators put beside a model's inputs: the teacher's number `(B, T)`, and what was looked up, `(N, ...)` each.
ROUTES, STORED = "hf_ckt_routes", "hf_ckt_stored_"


@dataclass
class Documents:
    """
    Where each token's document lies, right for padded, padding-free and packed batches.

    Args:
        index (`torch.Tensor` of shape `(B, T)`):
            Number of the token's document within the batch, 0 to `count - 1`.
        lengths (`torch.Tensor` of shape `(B, T)`):
            Number of real tokens in the token's document; at least 1.
        positions (`torch.Tensor` of shape `(B, T)`):
            Position of the token within its document.
        mask (`torch.Tensor` of shape `(B, T)`):
            True at real tokens.
        count (`int`):
            Upper bound of the number of documents (B * T when packed), known without a device sync.
        rows (`bool`):
            Whether each row is one document.
    """

    index: Tensor
    lengths: Tensor
    positions: Tensor
    mask: Tensor
    count: int
    rows: bool


# Where the documents of a batch that is one row begin, and where the last one ends.
BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seq_lens", "cu_seqlens")


def find_documents(inputs: dict[str, Any]) -> Documents:
    """
    Returns the documents of a batch, from whatever it says of them, without a wait for the device.

    Args:
        inputs (`dict`):
            A collated batch. With an `attention_mask (B, T)` each row is a document, its real tokens those of the mask.
            In a mask of pairs `(B, 1, T, T)`, boolean or added to the scores, a document begins at a token that does not
            see the one before it. Without a mask, documents are those of `cu_seq_lens_q`, of `seq_idx (B, T)`, or begin
            where `position_ids` do not count on; and a batch with none of these has one in each row.

    Raises:
        ValueError: If there is a mask from which none of this can be read, and nothing else that says it.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if isinstance(mask, dict):  # one mask for each kind of layer
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return _documents_of_rows(mask.bool())
    if isinstance(mask, Tensor) and mask.ndim in (3, 4):
        pairs = mask if mask.ndim == 3 else mask[:, 0]
        goes_on = _sees(pairs, -1).expand(len(ids), -1)
        return _documents_from(F.pad(~goes_on, (1, 0), value=True), _sees(pairs, 0).expand(ids.shape))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    ends = next((inputs[name] for name in BOUNDARIES if isinstance(inputs.get(name), Tensor)), None)
    if ends is not None:
        ends = ends.to(ids.device).long()
        order = torch.arange(ids.numel(), device=ids.device)
        number = torch.searchsorted(ends, order, right=True) - 1
        return _documents_from((order == ends[number]).view_as(ids), (order < ends[-1]).view_as(ids))
    if isinstance(inputs.get("seq_idx"), Tensor):
        return _documents_from(_changes(inputs["seq_idx"].expand(ids.shape), 0), everywhere)
    positions = inputs.get("position_ids")
    if isinstance(positions, Tensor):
        # Some models have several kinds of positions, of which the first is the text's.
        positions = positions[0] if positions.ndim == 3 else positions
        return _documents_from(_changes(positions.expand(ids.shape), 1), everywhere)
    if mask is not None:
        raise ValueError(
            f"attention_mask: is a {type(mask).__name__}, from which it cannot be told where a document begins, so noise "
            "and contrast between sequences would take a row of several for one. Let the data collator return position_ids "
            "or seq_idx beside it, or set consistency_weight=0 and contrastive_level='token'."
        )
    return _documents_of_rows(everywhere)


def _sees(mask: Tensor, offset: int) -> Tensor:
    """Whether tokens see the one at an offset from them, `(B, T, T)` -> `(B, T - |offset|)`."""
    pairs = mask.diagonal(offset, dim1=-2, dim2=-1)
    # What is added to a score to hide a token is far below any bias for its distance.
    return pairs > -1e3 if pairs.is_floating_point() else pairs.bool()


def _changes(values: Tensor, step: int) -> Tensor:
    """True at each row's first value, and where one is not that before it plus a step."""
    return F.pad(values[:, 1:] != values[:, :-1] + step, (1, 0), value=True)


def _documents_of_rows(mask: Tensor) -> Documents:
    batch, length = mask.shape
    index = torch.arange(batch, device=mask.device)[:, None].expand(batch, length)
    return _counted(index, (mask.long().cumsum(1) - 1).clamp(min=0), mask, batch, rows=True)


def _documents_from(starts: Tensor, mask: Tensor) -> Documents:
    """Documents by where they begin, row after row."""
    order = torch.arange(starts.numel(), device=starts.device).view_as(starts)
    begins = (order * starts).flatten().cummax(0).values.view_as(starts)
    index = starts.flatten().cumsum(0).view_as(starts) - 1
    return _counted(index, order - begins, mask, starts.numel(), rows=False)


def _counted(index: Tensor, positions: Tensor, mask: Tensor, count: int, *, rows: bool) -> Documents:
    sizes = torch.zeros(count, dtype=torch.long, device=index.device)
    sizes = sizes.index_add_(0, index.flatten(), mask.flatten().long())
    lengths = sizes.clamp(min=1)[index]
    return Documents(index=index, lengths=lengths, positions=positions, mask=mask, count=count, rows=rows)


@dataclass
class Batch:
    """
    What a teacher reads: the model inputs, and which positions are kept.

    Args:
        inputs (`dict`):
            Model inputs without labels: `input_ids (B, T)` and `attention_mask` or `position_ids` and their company.
        labels (`torch.Tensor` of shape `(B, T)`):
            Unshifted labels, -100 where a token does not count.
        routes (`torch.Tensor` of shape `(B, T)`, *optional*):
            At tokens that count, the number of the teacher that their document was given. None: of the first.
        context (`Batch`, *optional*):
            The same answers behind the prompts that the teacher alone reads.
        stored (`dict[str, torch.Tensor]`, *optional*):
            What a data collator looked up for the kept positions, `(N, ...)` each.
        kept (`torch.Tensor` of shape `(N,)`):
            Flat indices into the B * T positions, of those whose next token counts.
    """

    inputs: dict[str, Any]
    labels: Tensor
    routes: Tensor | None = None
    context: "Batch | None" = None
    stored: dict[str, Tensor] = field(default_factory=dict)
    kept: Tensor = field(init=False)

    def __post_init__(self) -> None:
        counts = self.labels != -100
        predicts = torch.zeros_like(counts)
        predicts[:, :-1] = counts[:, 1:]
        self.kept = predicts.flatten().nonzero().squeeze(1)

    @cached_property
    def documents(self) -> Documents:
        """Where each token's document lies; found when it is first asked for, since few parts need it."""
        return find_documents(self.inputs)

    @property
    def kept_labels(self) -> Tensor:
        """Next-token ids at the kept positions, `(N,)`."""
        return self.labels.flatten()[self.kept + 1]

    @property
    def kept_documents(self) -> Tensor:
        """Document number of each kept position, `(N,)`."""
        return self.documents.index.flatten()[self.kept]

    @property
    def kept_before(self) -> Tensor:
        """How many kept positions of its document stand before each kept position, `(N,)`."""
        documents = self.kept_documents  # ascending
        order = torch.arange(len(documents), device=documents.device)
        begins = F.pad(documents[1:] != documents[:-1], (1, 0), value=True)[: len(documents)]
        return order - (order * begins).cummax(0).values

    @property
    def kept_inside(self) -> Tensor:
        """Whether what each kept position predicts is of its own document, `(N,)`: some collators let its last token count."""
        return self.documents.index.flatten()[self.kept + 1] == self.kept_documents

    @property
    def kept_routes(self) -> Tensor:
        """Number of the teacher that each kept position's document was given, `(N,)`."""
        return torch.zeros_like(self.kept) if self.routes is None else self.at_kept(self.routes)

    def numbered(self, numbers: Tensor) -> Tensor:
        """Returns a mask `(documents.count,)` that is True at the numbers of some documents."""
        wanted = torch.zeros(self.documents.count, dtype=torch.bool, device=numbers.device)
        wanted[numbers] = True
        return wanted

    def keep(self, hidden: Tensor) -> Tensor:
        """Selects the kept positions of hidden states: `(B, T, D)` -> `(N, D)`, connected also when N is 0."""
        return hidden.flatten(0, 1).index_select(0, self.kept.to(hidden.device))

    def at_kept(self, values: Tensor) -> Tensor:
        """Selects what stands at the next tokens of the kept positions: `(B, T)` -> `(N,)`."""
        return values.flatten()[self.kept + 1]

    def rows(self, rows: Tensor) -> "Batch":
        """Returns the batch of some of its rows, `(M,)` indices; what was looked up for it is left out."""
        return Batch(
            take_rows(self.inputs, rows, len(self.labels)),
            self.labels[rows],
            None if self.routes is None else self.routes[rows],
            None if self.context is None or len(self.context.labels) != len(self.labels) else self.context.rows(rows),
        )

    def of_route(self, number: int) -> tuple["Batch", Tensor]:
        """Returns [`of_documents`] of those that were given the teacher of a number."""
        return self.of_documents(self.numbered(self.kept_documents[(self.kept_routes == number) & self.kept_inside]))

    def of_documents(self, wanted: Tensor) -> tuple["Batch", Tensor]:
        """
        Returns the batch of some of its documents, and which of the kept positions are theirs.

        Where rows are documents, it is those rows; where they hold several, the documents' tokens are one row, told apart
        by `position_ids`. Waits for the device.

        Args:
            wanted (`torch.Tensor` of shape `(documents.count,)`):
                True at the numbers of the documents.
        """
        positions = (wanted[self.kept_documents] & self.kept_inside).nonzero().squeeze(1)
        if self.documents.rows:
            batch = self.rows(wanted[: len(self.labels)].nonzero().squeeze(1))
        else:
            batch = self._in_one_row(wanted)
            batch.context = None if self.context is None else self.context._same_documents(self, wanted)
        batch.stored = {name: values.index_select(0, positions) for name, values in self.stored.items()}
        return batch, positions

    def _same_documents(self, other: "Batch", wanted: Tensor) -> "Batch":
        """The documents of this batch that stand where certain ones of another, of as many documents, do."""
        own, numbers = (torch.unique(one.documents.index[one.documents.mask]) for one in (self, other))
        # Padding behind them may look like documents of its own, of which each batch has as many as it likes.
        count = min(len(own), len(numbers))
        return self.of_documents(self.numbered(own[:count][wanted[numbers[:count]]]))[0]

    def _in_one_row(self, wanted: Tensor) -> "Batch":
        documents, shape = self.documents, self.labels.shape
        tokens = (wanted[documents.index] & documents.mask).flatten().nonzero().squeeze(1)

        def take(values: Tensor) -> Tensor:
            return values.flatten()[tokens][None]

        positions = take(documents.positions)
        # What begins a row is never predicted; behind another document it would be.
        labels = take(self.labels).masked_fill(positions == 0, -100)
        inputs = {
            name: take(value) if isinstance(value, Tensor) and value.shape == shape else value
            for name, value in self.inputs.items()
            if name not in ("attention_mask", "position_ids", "seq_idx", *BOUNDARIES)
        }
        inputs["position_ids"] = positions
        starts = (positions[0] == 0).nonzero().squeeze(1)
        ends = torch.cat([starts, starts.new_full((1,), positions.shape[1])]).int()
        inputs |= {name: ends for name in BOUNDARIES if isinstance(self.inputs.get(name), Tensor)}
        if "seq_idx" in self.inputs:
            inputs["seq_idx"] = ((positions == 0).cumsum(1) - 1).to(self.inputs["seq_idx"].dtype)
        return Batch(inputs, labels, None if self.routes is None else take(self.routes))


def take_rows(inputs: dict[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """Returns some rows of each input that has `count` of them, and the others as they are."""

    def take(value: Any) -> Any:
        if isinstance(value, dict):  # a mask for each kind of layer
            return take_rows(value, rows, count)
        return value[rows] if has_rows(value, count) else value

    return {name: take(value) for name, value in inputs.items()}


def has_rows(value: Any, count: int) -> bool:
    """Whether an input is a tensor with `count` rows."""
    return isinstance(value, Tensor) and value.shape[:1] == (count,)


def padded(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """
    Returns texts as a batch, padded on the right, and the mask of what is no padding: `(B, T)` each, on the CPU.

    Args:
        rows (`Sequence[Sequence[int]]` of length B):
            The ids of each, at least one row.
        padding (`int`):
            Id of the token that fills it up.
        multiple (`int`, *optional*, defaults to `1`):
            Of which T is one.

    Example:

    >>> padded([[5, 6], [7]], 0)[0].tolist()
    [[5, 6], [7, 0]]
    """
    width = -(-max(map(len, rows)) // multiple) * multiple
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.as_tensor(tokens), 1
    return ids, mask
