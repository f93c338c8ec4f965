# SPDX-License-Identifier: Apache-2.0
"""
What flows between the parts, shapes stated once.

Letters, everywhere: B sequences, T tokens, N kept next-token positions (shifted label != -100), V vocabulary,
D hidden width, K candidates.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

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
            self._cache[key] = log_softmax(logits if temperature == 1.0 else logits / temperature)
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

    def most_probable(self, count: int, vocab_size: int) -> Tensor:
        """Returns the `count` most probable of the first `vocab_size` ids, `(N, count)`."""
        return self.logits[:, :vocab_size].detach().topk(count).indices

    def log_prob_of(self, labels: Tensor, vocab_size: int) -> Tensor:
        """Returns the log-probability of each row's label `(N,)` among the first `vocab_size` ids, `(N,)`."""
        return self.log_probs(1.0, vocab_size).gather(1, labels[:, None])[:, 0]


class BucketView(ABC):
    """A model's next-token distributions over buckets of tokens, over which another view is brought to be compared."""

    vocab_size: int
    """Ids that the other view may have."""

    # Log-probability of what has none, so that p log p stays 0 and finite.
    FLOOR = -69.0
    # Far below any log-probability: what is left out of a sum, without the NaN that -inf has as its gradient.
    NOTHING = -1e4
    # Why there is no other temperature than 1, as the middle of a sentence, and which teacher has one.
    known_at_one: str
    known_at_all: str

    def __init__(self, buckets: Tensor, vocab_size: int):
        self._buckets, self.vocab_size = buckets, vocab_size

    def log_probs(self, temperature: float = 1.0, vocab_size: int | None = None) -> Tensor:
        """Returns the log-probabilities of the buckets, `(N, number of buckets)`."""
        if temperature != 1.0:
            raise ValueError(
                f"temperature={temperature:g}: {self.known_at_one}. Use temperature 1, or a teacher {self.known_at_all}."
            )
        return self._buckets

    def probs(self, vocab_size: int | None = None) -> Tensor:
        """Returns the probabilities of the buckets, `(N, number of buckets)`."""
        return self.log_probs().exp()

    @abstractmethod
    def top(self, vocab_size: int | None = None) -> Tensor:
        """Returns the most probable token, `(N,)`."""

    @abstractmethod
    def most_probable(self, count: int, vocab_size: int) -> Tensor:
        """Returns the `count` most probable tokens, `(N, count)`, or as many as have a bucket of their own."""

    @abstractmethod
    def log_prob_of(self, labels: Tensor, vocab_size: int) -> Tensor:
        """Returns the log-probability of the bucket that holds each row's label, `(N,)`, or what is known of it."""

    @abstractmethod
    def buckets_of(self, other: LogitsView) -> Tensor:
        """Returns another view's log-probabilities over these buckets, `(N, number of buckets)`, with its gradient."""

    def unmatched(self, other: LogitsView) -> tuple[Tensor, Tensor] | None:
        """Returns the probabilities of the tokens that each of the two views has alone, the greatest first, if any."""
        return None


def select_rows(hidden: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Returns rows of each view's hidden states; views that are one tensor stay one, and are projected once."""
    tensors = {id(states): states for states in hidden.values()}
    selected = {key: states.index_select(0, rows.to(states.device)) for key, states in tensors.items()}
    return {name: selected[id(states)] for name, states in hidden.items()}


def log_softmax(logits: Tensor) -> Tensor:
    """Returns log softmax over the last dimension, in the form that is cheapest to differentiate where it is compiled."""
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
        second_teacher ([`LogitsView`], *optional*):
            Of a teacher that is a mixture of two, the second; what reads the teacher reads the mixture.
    """

    labels: Tensor
    # Absent only when no part reads it (robust consistency alone), so the parts need not ask.
    student: LogitsView = None  # type: ignore[assignment]
    noisy: LogitsView | None = None
    teacher: LogitsView | BucketView | None = None
    reference: LogitsView | None = None
    second_teacher: LogitsView | None = None

    def pair(self, target: str, prediction: str, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """
        Returns two views' log-probabilities over the ids that both models share, each `(N, V)`.

        Heads of one tokenizer may be padded to different sizes; the surplus ids are left out of both softmaxes. Where one
        view is a [`BucketView`], both are over its buckets.
        """
        first, second = getattr(self, target), getattr(self, prediction)
        if isinstance(first, BucketView):
            return first.log_probs(temperature), first.buckets_of(second)
        if isinstance(second, BucketView):
            return second.buckets_of(first), second.log_probs(temperature)
        vocab_size = self.shared_vocab(target, prediction)
        return first.log_probs(temperature, vocab_size), second.log_probs(temperature, vocab_size)

    def pair_probs(self, target: str, prediction: str) -> tuple[Tensor, Tensor]:
        """Returns two views' probabilities as [`pair`] compares them, for what is reported: without gradient."""
        first, second = getattr(self, target), getattr(self, prediction)
        if isinstance(first, BucketView):
            return first.probs(), first.buckets_of(second).detach().exp()
        if isinstance(second, BucketView):
            return second.buckets_of(first).detach().exp(), second.probs()
        vocab_size = self.shared_vocab(target, prediction)
        return first.probs(vocab_size), second.probs(vocab_size)

    def shared_vocab(self, first: str, second: str) -> int:
        """Returns how many ids two views share: those of the smaller head."""
        return min(getattr(self, first).vocab_size, getattr(self, second).vocab_size)


@dataclass
class Similarities:
    """
    What a contrastive loss sees: cosines of vocabulary-centred logits between A anchors and K candidates. Where the student's own
    states are contrasted, both are of those.

    Args:
        student_teacher (`torch.Tensor` of shape `(A, K)`):
            Student at the anchor against the teacher at the candidate.
        teacher_teacher (`torch.Tensor` of shape `(A, K)`):
            Teacher at the anchor against the teacher at the candidate.
        positive (`torch.Tensor` of shape `(A,)`):
            Index of the candidate that is the anchor's own position.
        same_side (`torch.Tensor` of shape `(A, K)`, *optional*):
            True at the candidates that are on the anchor's side, of two refusals say. None: nothing says it.
    """

    student_teacher: Tensor
    teacher_teacher: Tensor
    positive: Tensor
    same_side: Tensor | None = None

    def on_same_side(self, threshold: float) -> Tensor:
        """
        Returns which candidates are no negatives of an anchor, `(A, K)` boolean, its own position among them.

        Args:
            threshold (`float`):
                Where nothing says who is on the anchor's side, those whose teacher-teacher cosine exceeds it are.

        Example:

        >>> teacher = torch.tensor([[1.0, 0.97, 0.2]])
        >>> Similarities(teacher, teacher, torch.tensor([0])).on_same_side(0.95).tolist()
        [[True, True, False]]
        """
        same = self.teacher_teacher > threshold if self.same_side is None else self.same_side
        return same.scatter(1, self.positive[:, None], True)


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
