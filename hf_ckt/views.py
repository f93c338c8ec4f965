# SPDX-License-Identifier: Apache-2.0
"""
What flows between the parts, shapes stated once.

Letters, everywhere: B sequences, T tokens, N kept next-token positions (shifted label != -100), V vocabulary,
D hidden width, K candidates.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearHead(NamedTuple):
    """
    A language-model head: logits = softcap(logit_scale * (hidden @ weight.T + bias)).

    Args:
        weight (`torch.Tensor` of shape `(V, D)`):
            Output embedding.
        bias (`torch.Tensor` of shape `(V,)`, *optional*):
            Added before scale and cap.
        logit_scale (`float`, *optional*, defaults to `1.0`):
            Factor of the logits (Cohere, Granite).
        softcap (`float`, *optional*):
            Logits become `softcap * tanh(logits / softcap)` (Gemma 2).
    """

    weight: Tensor
    bias: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    @property
    def trainable(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    @property
    def key(self) -> tuple:
        """Equal for heads that multiply by the same numbers in memory, whichever of them carries a gradient."""
        return tuple(tensor_key(tensor) for tensor in (self.weight, self.bias))

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits `(..., V)` of hidden states `(..., D)`, float32 or wider: of few, for all are built."""
        product = F.linear(hidden.to(self.weight.device, self.weight.dtype), self.weight, self.bias)
        return scale_and_cap(product, self.logit_scale, self.softcap)

    def detach(self) -> "LinearHead":
        """Returns the head without gradient; nothing is copied."""
        return self._replace(weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())


def tensor_key(tensor: Tensor | None) -> tuple | None:
    """Returns what is equal for tensors over the same memory: a detached one is another object, not other numbers."""
    return None if tensor is None else (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())


def scale_and_cap(product: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Returns the logits, float32 or wider, that products with a head's weight and bias stand for."""
    logits = product.to(torch.promote_types(product.dtype, torch.float32))
    if scale != 1.0:
        logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits


class LogitsView:
    """
    One model's next-token distributions at the positions of a tile; log-probabilities are computed once and shared.

    Args:
        logits (`torch.Tensor` of shape `(N, V)`):
            float32 or wider, after scale and softcap.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits
        self._cache: dict[tuple[float, int], Tensor] = {}
        self._probs: dict[int, Tensor] = {}
        self._top: dict[int, Tensor] = {}

    @property
    def vocab_size(self) -> int:
        return self.logits.shape[-1]

    def log_probs(self, temperature: float = 1.0, vocab_size: int | None = None) -> Tensor:
        """Returns log softmax(logits / temperature) over the first `vocab_size` ids (all by default), `(N, V)`."""
        vocab_size = self.vocab_size if vocab_size is None else vocab_size
        key = (float(temperature), vocab_size)
        if key not in self._cache:
            logits = self.logits if vocab_size == self.vocab_size else self.logits[:, :vocab_size]
            self._cache[key] = _log_softmax(logits if temperature == 1.0 else logits / temperature)
        return self._cache[key]

    def probs(self, vocab_size: int | None = None) -> Tensor:
        """Returns softmax(logits) over the first `vocab_size` ids, `(N, V)`, for what is reported: without gradient."""
        vocab_size = self.vocab_size if vocab_size is None else vocab_size
        if vocab_size not in self._probs:
            self._probs[vocab_size] = self.log_probs(1.0, vocab_size).detach().exp()
        return self._probs[vocab_size]

    def top(self, vocab_size: int | None = None) -> Tensor:
        """Returns the most probable of the first `vocab_size` ids, `(N,)`."""
        vocab_size = self.vocab_size if vocab_size is None else vocab_size
        if vocab_size not in self._top:
            self._top[vocab_size] = self.logits[:, :vocab_size].detach().argmax(-1)
        return self._top[vocab_size]


def select_rows(hidden: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Returns rows of each view's hidden states; views that are one tensor stay one, and are projected once."""
    tensors = {id(states): states for states in hidden.values()}
    selected = {key: states.index_select(0, rows.to(states.device)) for key, states in tensors.items()}
    return {name: selected[id(states)] for name, states in hidden.items()}


def _log_softmax(logits: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        return torch.log_softmax(logits, dim=-1)
    # The same function in the form that leaves the compiler the exponentials of the sum for the gradient; that of
    # log_softmax would compute them anew, and exponentials are most of a tile's time.
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


@dataclass
class TokenViews:
    """
    What a token loss or a token metric sees of one tile.

    Args:
        labels (`torch.Tensor` of shape `(N,)`):
            Next-token ids, all kept (no -100).
        student, noisy, teacher, reference ([`LogitsView`], *optional*):
            The student on the clean and on the perturbed input, the teacher, and the student's base without adapters.
            Present when a part of the objective names them in `needs`.
    """

    labels: Tensor
    # Absent only when no part reads it (robust consistency alone), so the parts need not ask.
    student: LogitsView = None  # type: ignore[assignment]
    noisy: LogitsView | None = None
    teacher: LogitsView | None = None
    reference: LogitsView | None = None

    def pair(self, target: str, prediction: str, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """
        Returns two views' log-probabilities over the ids that both models share, each `(N, V)`.

        Heads of one tokenizer may be padded to different sizes; the surplus ids are left out of both softmaxes.
        """
        first, second = getattr(self, target), getattr(self, prediction)
        vocab_size = self.shared_vocab(target, prediction)
        return first.log_probs(temperature, vocab_size), second.log_probs(temperature, vocab_size)

    def shared_vocab(self, first: str, second: str) -> int:
        """Returns how many ids two views share: those of the smaller head."""
        return min(getattr(self, first).vocab_size, getattr(self, second).vocab_size)


@dataclass
class Similarities:
    """
    What a contrastive loss sees: cosines of vocabulary-centred logits between A anchors and K candidates.

    Args:
        student_teacher (`torch.Tensor` of shape `(A, K)`):
            Student at the anchor against the teacher at the candidate.
        teacher_teacher (`torch.Tensor` of shape `(A, K)`):
            Teacher at the anchor against the teacher at the candidate.
        positive (`torch.Tensor` of shape `(A,)`):
            Index of the candidate that is the anchor's own position.
    """

    student_teacher: Tensor
    teacher_teacher: Tensor
    positive: Tensor


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
    """

    index: Tensor
    lengths: Tensor
    positions: Tensor
    mask: Tensor
    count: int


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
        sees = _sees(mask if mask.ndim == 3 else mask[:, 0], 0).expand(ids.shape)
        goes_on = _sees(mask if mask.ndim == 3 else mask[:, 0], -1).expand(len(ids), -1)
        return _documents_from(F.pad(~goes_on, (1, 0), value=True), sees)
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
    return _counted(index, (mask.long().cumsum(1) - 1).clamp(min=0), mask, batch)


def _documents_from(starts: Tensor, mask: Tensor) -> Documents:
    """Documents by where they begin, row after row."""
    order = torch.arange(starts.numel(), device=starts.device).view_as(starts)
    begins = (order * starts).flatten().cummax(0).values.view_as(starts)
    index = starts.flatten().cumsum(0).view_as(starts) - 1
    return _counted(index, order - begins, mask, starts.numel())


def _counted(index: Tensor, positions: Tensor, mask: Tensor, count: int) -> Documents:
    sizes = torch.zeros(count, dtype=torch.long, device=index.device)
    sizes = sizes.index_add_(0, index.flatten(), mask.flatten().long())
    return Documents(index=index, lengths=sizes.clamp(min=1)[index], positions=positions, mask=mask, count=count)


@dataclass
class Batch:
    """
    What a teacher reads: the model inputs, and which positions are kept.

    Args:
        inputs (`dict`):
            Model inputs without labels: `input_ids (B, T)` and `attention_mask` or `position_ids` and their company.
        labels (`torch.Tensor` of shape `(B, T)`):
            Unshifted labels, -100 where a token does not count.
        kept (`torch.Tensor` of shape `(N,)`):
            Flat indices into the B * T positions, of those whose next token counts.
    """

    inputs: dict[str, Any]
    labels: Tensor
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

    def keep(self, hidden: Tensor) -> Tensor:
        """Selects the kept positions of hidden states: `(B, T, D)` -> `(N, D)`, connected also when N is 0."""
        return hidden.flatten(0, 1).index_select(0, self.kept.to(hidden.device))


class TeacherSignal(NamedTuple):
    """
    A teacher's reading of a batch.

    Args:
        hidden (`torch.Tensor` of shape `(N, D_t)`):
            Last hidden states at the kept positions, without gradient.
        head ([`LinearHead`]):
            The teacher's head: with it the signal is the exact full-vocabulary distribution.
    """

    hidden: Tensor
    head: LinearHead


class NoisyStates(NamedTuple):
    """
    The student's reading of the perturbed input. It is always there: without a noisy view it holds no position.

    Args:
        states (`torch.Tensor` of shape `(M, D)`):
            Last hidden states at those of the N kept positions that were perturbed, 0 <= M <= N.
        positions (`torch.Tensor` of shape `(M,)`):
            Which of the N they are, ascending.
        probability (`float`, *optional*, defaults to `1.0`):
            With which a position is perturbed, in (0, 1]. Terms that read the noisy view are divided by it, so that they
            estimate what they would be over all positions.

    Example:

    >>> hidden = torch.zeros(3, 8)
    >>> [len(noisy.positions) for noisy in (NoisyStates.everywhere(hidden), NoisyStates.nowhere(hidden))]
    [3, 0]
    """

    states: Tensor
    positions: Tensor
    probability: float = 1.0

    @classmethod
    def everywhere(cls, states: Tensor) -> "NoisyStates":
        """States at all positions."""
        return cls(states, torch.arange(len(states), device=states.device))

    @classmethod
    def nowhere(cls, hidden: Tensor) -> "NoisyStates":
        """No noisy view of a batch with certain clean states."""
        return cls.everywhere(hidden[:0].detach())
