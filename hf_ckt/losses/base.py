# SPDX-License-Identifier: Apache-2.0
"""The contracts that losses keep. A loss gives its mathematics; it knows of no model, trainer or config."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import require_known, require_positive, require_within
from ..views import Similarities, TokenViews

# The two views a divergence compares, by the role it plays: (target, prediction).
PAIRS: dict[str, tuple[str, str]] = {
    "distillation": ("teacher", "student"),
    "consistency": ("student", "noisy"),
    "robust_consistency": ("teacher", "noisy"),
    "regularization": ("reference", "student"),
}


class TokenLoss(ABC):
    """
    A loss per kept token, written as plain PyTorch on a tile of log-probabilities.

    The runner evaluates it tile by tile, differentiates it by autograd and sums it over all kept tokens, so it must
    not couple tokens with each other.
    """

    roles: ClassVar[tuple[str, ...]] = ()
    """Roles (config prefixes) that the loss can serve."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Names of the views it reads: `student`, `noisy`, `teacher`, `reference`."""

    @abstractmethod
    def per_token(self, views: TokenViews) -> Tensor:
        """Returns the loss of each token in nats, `(N,)`."""


@dataclass(eq=False)
class Divergence(TokenLoss):
    r"""
    A token loss that compares two distributions, target and prediction, and is 0 where they are equal.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.
        role (`str`, *optional*):
            Which two views are compared; the first of the loss's roles by default.
    """

    detach_target: ClassVar[bool] = False
    """Whether no gradient flows into the target view."""
    squared_temperature: ClassVar[bool] = True
    """Whether the value is multiplied by temperature^2, so that its gradient keeps its size (Hinton et al. 2015)."""

    temperature: float = 1.0
    role: str = ""

    def __post_init__(self) -> None:
        self.role = self.role or self.roles[0]
        require_known("role", self.role, PAIRS)
        require_positive("temperature", self.temperature, "The softmax of logits / temperature would be undefined.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(PAIRS[self.role])

    @abstractmethod
    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        """Returns the divergence of each row of two `(N, V)` tensors of log-probabilities, `(N,)`."""

    def per_token(self, views: TokenViews) -> Tensor:
        target, prediction = views.pair(*PAIRS[self.role], self.temperature)
        value = self.divergence(target.detach() if self.detach_target else target, prediction)
        return value * self.temperature**2 if self.squared_temperature else value


class ContrastiveLoss(ABC):
    """A loss per anchor on the similarities between the student's anchors and the teacher's candidates."""

    roles: ClassVar[tuple[str, ...]] = ("contrastive",)

    @abstractmethod
    def per_anchor(self, similarities: Similarities) -> Tensor:
        """Returns the loss of each anchor in nats, `(A,)`."""


@dataclass(eq=False)
class SoftmaxContrastiveLoss(ContrastiveLoss):
    """
    A contrastive loss whose softmax over candidates has a temperature, and which knows some of them for the anchor's own side.

    Args:
        temperature (`float`, *optional*, defaults to `0.1`), false_negative_threshold (`float`, *optional*, defaults to `0.95`):
            See each loss, to which they mean something of its own.

    Raises:
        ValueError: If temperature is not positive, or the threshold is no cosine.
    """

    temperature: float = 0.1
    false_negative_threshold: float = 0.95

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature, "The softmax over candidates would be undefined.")
        require_within(
            "false_negative_threshold",
            self.false_negative_threshold,
            -1,
            1,
            "It is compared with a cosine.",
            open_low=True,
        )


class ParameterLoss(ABC):
    """A penalty on the trainable parameters of the student: how far they are from where they change nothing."""

    roles: ClassVar[tuple[str, ...]] = ("regularization",)

    def obstacle(self, model: torch.nn.Module) -> str | None:
        """Returns why the penalty cannot be taken of this student, as a sentence without its end, or None if it can."""
        return None

    def begin(self, model: torch.nn.Module) -> None:  # noqa: B027 - most remember nothing
        """Called once with the student before it trains, for a penalty that is measured from there."""

    @abstractmethod
    def penalty(self, model: torch.nn.Module) -> Tensor:
        """Returns the penalty of the student's trainable parameters, a scalar."""


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns KL(p || q) of each row in nats, `(N, V)`, `(N, V)` -> `(N,)`."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Returns log(share * p + (1 - share) * q), elementwise; `share` in [0, 1]."""
    if share == 0:
        return log_q
    if share == 1:
        return log_p
    return torch.logaddexp(log_p + math.log(share), log_q + math.log(1 - share))
