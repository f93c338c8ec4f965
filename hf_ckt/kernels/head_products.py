# SPDX-License-Identifier: Apache-2.0
"""The products with a head: from hidden states to logits, and from the logits' gradients back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..views import LinearHead, tensor_key

# Views that may get a gradient, and share the student's head.
STUDENT_VIEWS = ("student", "noisy")


class HeadProducts:
    """
    Views that are projected with one head, their logits one below the other in one buffer.

    A whole tile of all of them takes one product with the head, and one with its transpose for the gradients: the head
    is read once, and the products have as many more rows to be efficient on.

    Args:
        head ([`LinearHead`]):
            The head, in the dtype it is multiplied in.
        names (`list[str]`):
            The views, the students first.
        capacity (`int`):
            Rows of each view.
    """

    def __init__(self, head: LinearHead, names: list[str], capacity: int):
        self.head, self.names, self.capacity = head, names, capacity
        self.buffer = head.weight.new_empty(len(names) * capacity, head.weight.shape[0])
        self.logits = {name: self.buffer[i * capacity : (i + 1) * capacity] for i, name in enumerate(names)}
        self.states: dict[str, Tensor] = {}

    def project(self, states: dict[str, Tensor]) -> None:
        """Writes the logits of each view's states `(N_tile, D)` to the top of its part of the buffer."""
        self.states = {name: value.to(self.head.weight.dtype) for name, value in states.items()}
        for names, rows in self._whole(self.names):
            self._multiply(torch.cat([self.states[name] for name in names]), rows)

    def gradients(self, students: tuple[str, ...], rows: slice, grads: dict[str, Tensor]) -> None:
        """Adds to, or writes, the gradients that the logits' gradients, now in the buffer, give."""
        for names, logits in self._whole([name for name in self.names if name in students]):
            if any(name in grads for name in names):
                products = (logits @ self.head.weight).split(len(logits) // len(names))
                for name, product in zip(names, products, strict=True):
                    if name in grads:
                        grads[name][rows] = product
            if "weight" in grads:
                wide = grads["weight"].dtype
                states = torch.cat([self.states[name] for name in names]).to(wide)
                grads["weight"].addmm_(logits.t().to(wide), states)
            if "bias" in grads:
                grads["bias"] += logits.sum(0, dtype=grads["bias"].dtype)

    def _whole(self, names: list[str]) -> list[tuple[list[str], Tensor]]:
        """Splits views into those whose rows lie together: all, where the tile fills the buffer; else each."""
        count = len(next(iter(self.states.values())))
        if count < self.capacity:
            return [([name], self.logits[name][:count]) for name in names]
        start = self.names.index(names[0]) * count if names else 0
        return [(names, self.buffer[start : start + len(names) * count])] if names else []

    def _multiply(self, states: Tensor, out: Tensor) -> None:
        if self.head.bias is None:
            torch.mm(states, self.head.weight.t(), out=out)
        else:
            torch.addmm(self.head.bias, states, self.head.weight.t(), out=out)


def share_projections(names: Sequence[str], hidden: Mapping[str, Tensor], heads: Mapping[str, Any]) -> dict[str, str]:
    """Returns for each view the one whose logits it reads: another's, where their states and heads are the same."""

    def same(one: str, other: str) -> bool:
        first, second = heads[one], heads[other]
        return hidden[one] is hidden[other] and first.key == second.key and first[2:] == second[2:]

    views: dict[str, str] = {}
    for name in names:
        # A student's view stays apart even from its equal: it gets a gradient, a teacher's or reference's does not.
        others = [other for other in views.values() if not {other, name} & {*STUDENT_VIEWS}]
        views[name] = next((other for other in others if same(other, name)), name)
    return views


def group_by_head(heads: dict[str, LinearHead], capacity: int) -> list[HeadProducts]:
    """
    Returns the products of each head, with the views that share it.

    Args:
        heads (`dict[str, LinearHead]`):
            Head of each view; views share one if its weight and bias lie in the same memory.
        capacity (`int`):
            Rows of each view's buffer.
    """
    by_head: dict[tuple, list[str]] = {}
    # The students first, so that those with a gradient lie together.
    for name in sorted(heads, key=lambda name: (name not in STUDENT_VIEWS, name)):
        by_head.setdefault(heads[name].key, []).append(name)
    return [HeadProducts(heads[names[0]], names, capacity) for names in by_head.values()]


def cast_heads(heads: dict[str, LinearHead], device: torch.device, dtype: torch.dtype | None) -> dict[str, LinearHead]:
    """Returns the heads detached and in the dtype of projections (None: each in its own), no memory cast twice."""
    cast: dict[tuple, Tensor] = {}

    def once(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        key = tensor_key(tensor), dtype
        if key not in cast:
            cast[key] = tensor.detach().to(device, dtype)
        return cast[key]

    def whole(head: LinearHead) -> LinearHead:
        own = dtype or head.weight.dtype
        bias = None if head.bias is None else once(head.bias, own)
        return head._replace(weight=once(head.weight, own), bias=bias)

    return {name: whole(head) for name, head in heads.items()}
