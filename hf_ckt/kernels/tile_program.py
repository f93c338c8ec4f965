# SPDX-License-Identifier: Apache-2.0
"""What is computed on a block of logits: the losses and metrics of an objective, on shared log-probabilities."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..views import LogitsView, TokenViews, scale_and_cap
from .signals import Given

# Bytes of one float32 tile of logits. Each view has a buffer of a tile, in the dtype that its head is multiplied in.
# Small where memory is shared with all else, larger on an accelerator, whose matrix units want rows.
_TILE_BYTES = {"cpu": 80 * 2**20, "accelerator": 256 * 2**20}
# On CPU more rows than this hardly speed up the products, whatever the vocabulary.
_MOST_ROWS = {"cpu": 128, "accelerator": 8192}
# Bytes of one float32 block of logits, of which the elementwise work holds several at once without a compiler: 3 for the
# task alone, 8 for three terms, 15 for the dearest, and one more a view where the buffers are narrower than float32. On
# CPU few enough for those to stay in a cache of 32 MB; on an accelerator few enough not to outweigh the buffers, and
# enough for a kernel to run much longer than its launch.
_BLOCK_BYTES = {"cpu": 6 * 2**20, "accelerator": 64 * 2**20}


class TileSizes(NamedTuple):
    """
    How the positions are cut up.

    Args:
        tile (`int`):
            Positions projected at a time: the products want many.
        block (`int`):
            Positions of a tile that losses and gradients are computed on at a time: caches and memory want few.
        capacity (`int`):
            Rows of a view's buffer: those of a tile, rounded up to whole blocks where shapes are static.
    """

    tile: int
    block: int
    capacity: int


def tile_sizes(
    positions: int, vocab_size: int, device: torch.device, chunk_size: int | None = None, static: bool = False
) -> TileSizes:
    """
    Returns the sizes for a number of positions and a vocabulary.

    Args:
        chunk_size (`int`, *optional*):
            Size of a tile; by default as many positions as a budget of bytes allows.
        static (`bool`, *optional*, defaults to `False`):
            Whether every block must have the same shape, the last filled up.
    """
    kind = "cpu" if device.type == "cpu" else "accelerator"
    tile = chunk_size or max(16, min(_MOST_ROWS[kind], _TILE_BYTES[kind] // (4 * vocab_size) // 16 * 16))
    block = max(8, _BLOCK_BYTES[kind] // (4 * vocab_size) // 8 * 8)
    # As even as possible: a tile of 100 in blocks of at most 32 is four of 25, not three of 32 and one of 4.
    block = math.ceil(tile / math.ceil(tile / block))
    tile = min(tile, max(positions, 1))
    return TileSizes(tile, block, math.ceil(tile / block) * block if static else tile)


def token_views(
    logits: Mapping[str, Tensor],
    views: Mapping[str, str],
    caps: Mapping[str, tuple[float, float | None]],
    labels: Tensor,
    given: Mapping[str, Given] | None = None,
) -> TokenViews:
    """Returns what losses and metrics read of a block; arguments as in [`TileProgram`]'s call."""
    shared = {name: LogitsView(scale_and_cap(raw, *caps[name])) for name, raw in logits.items()}
    tile = TokenViews(labels=labels, **{view: shared[name] for view, name in views.items()})
    for name, known in (given or {}).items():
        setattr(tile, name, known.view(tile, name))
    return tile


class TileProgram:
    """
    The losses and metrics of an objective, evaluated on a block of logits.

    Args:
        losses (`Sequence[tuple[str, TokenLoss]]`):
            Key under which each loss is reported, and the loss.
        metrics (`Sequence[tuple[str, TokenMetric]]`):
            The same for metrics.
    """

    def __init__(self, losses: Sequence[tuple[str, Any]], metrics: Sequence[tuple[str, Any]] = ()):
        self.losses, self.metrics = tuple(losses), tuple(metrics)
        self.needs = frozenset().union(*(part.needs for _, part in (*self.losses, *self.metrics)))
        self.loss_needs = frozenset().union(*(loss.needs for _, loss in self.losses))

    @property
    def key(self) -> tuple:
        """Equal for programs that compute the same thing."""
        return tuple((key, type(part), repr(part)) for key, part in (*self.losses, *self.metrics))

    def stack_token_weights(self, token_weights: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Returns the losses' factors by key, `(N,)` each, as `(number of losses, N)`: 1 where none is given."""
        ones = torch.ones(labels.shape, device=labels.device)
        return torch.stack([token_weights.get(key, ones).to(ones) for key, _ in self.losses])

    def __call__(
        self,
        logits: dict[str, Tensor],
        views: dict[str, str],
        caps: dict[str, tuple[float, float | None]],
        labels: Tensor,
        mask: Tensor,
        weights: Tensor,
        given: dict[str, Given] | None = None,
        token_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Returns the block's weighted total and the sums of all losses, then all metrics.

        Args:
            logits (`dict[str, torch.Tensor]`):
                Raw projections `(N, V)` by name.
            views (`dict[str, str]`):
                Which projection each view reads: two views may share one.
            caps (`dict[str, tuple[float, float | None]]`):
                Logit scale and softcap of each projection.
            labels (`torch.Tensor` of shape `(N,)`), mask (`torch.Tensor` of shape `(N,)`):
                Next-token ids; False in `mask` leaves a row out.
            weights (`torch.Tensor`):
                Weight of each loss.
            given (`dict[str, Given]`, *optional*):
                What is known of views that are no projection, or not one alone.
            token_weights (`torch.Tensor` of shape `(number of losses, N)`, *optional*):
                Factor of each loss at each position.
        """
        tile = token_views(logits, views, caps, labels, given)

        def total_of(per_token: Tensor, factor: Tensor | None = None) -> Tensor:
            # Not a product alone: rows that do not count hold whatever was there, and 0 times NaN is NaN.
            if factor is None:
                return torch.where(mask, per_token, 0).sum()
            return torch.where(mask & (factor != 0), per_token * factor, 0).sum()

        factors = [None] * len(self.losses) if token_weights is None else token_weights.unbind()
        terms = [
            total_of(loss.per_token(tile), factor) for (_, loss), factor in zip(self.losses, factors, strict=True)
        ]
        total = (torch.stack(terms) * weights).sum() if terms else weights.sum()
        with torch.no_grad():
            metrics = [total_of(metric.per_token(tile)) for _, metric in self.metrics]
        values = [value.detach().to(weights.dtype) for value in (*terms, *metrics)]
        sums = torch.stack(values) if values else weights.new_zeros(0)
        return total, sums

    def differentiate(
        self,
        logits: dict[str, Tensor],
        views: dict[str, str],
        caps: dict[str, tuple[float, float | None]],
        labels: Tensor,
        mask: Tensor,
        weights: Tensor,
        students: tuple[str, ...],
        given: dict[str, Given] | None = None,
        token_weights: Tensor | None = None,
    ) -> Tensor:
        """
        Returns the sums and overwrites the raw logits of `students` with the gradient of the total; see `__call__`.

        To a compiler it is one graph from logits to gradient: what the gradient shares with the value is computed
        once, and nothing is kept between the two.
        """
        if not students:
            return self(logits, views, caps, labels, mask, weights, given, token_weights)[1]
        rest = {name: raw for name, raw in logits.items() if name not in students}

        def total(*raw: Tensor) -> tuple[Tensor, Tensor]:
            both = rest | dict(zip(students, raw, strict=True))
            return self(both, views, caps, labels, mask, weights, given, token_weights)

        raw = tuple(logits[name] for name in students)
        if torch.compiler.is_compiling():
            gradients, sums = torch.func.grad(total, argnums=tuple(range(len(raw))), has_aux=True)(*raw)
        else:
            gradients, sums = _eager_gradients(total, raw)
        for one, gradient in zip(raw, gradients, strict=True):
            one.copy_(gradient)
        return sums


def _eager_gradients(function: Callable, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """
    Does what `torch.func.grad` does, which refuses to run inside a user's hooks on saved tensors (activation offloading)
    and, uncompiled, keeps a graph of the gradient that nothing reads.
    """
    # Hooks of the user are for what lives until the step's backward; these tensors are gone when the call ends.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
        leaves = tuple(tensor.detach().requires_grad_() for tensor in tensors)
        total, sums = function(*leaves)
        if not total.requires_grad:  # no loss reads a student with a gradient
            return tuple(torch.zeros_like(tensor) for tensor in tensors), sums
        return torch.autograd.grad(total, leaves, materialize_grads=True), sums


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
