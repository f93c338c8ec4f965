# SPDX-License-Identifier: Apache-2.0
"""A number of each position, read off its distributions a tile at a time and without gradient. Letters as in `views.py`."""

from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views import LinearHead
from .compilation import run_compiled
from .head_products import cast_heads, group_by_head, share_projections
from .signals import Given, projected_views
from .tile_program import tile_sizes, token_views


@torch.no_grad()
def position_values(
    part: Any,
    hidden: Mapping[str, Tensor],
    heads: Mapping[str, LinearHead],
    labels: Tensor,
    before: Tensor | None = None,
    *,
    given: Mapping[str, Given] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
) -> Tensor:
    """
    Returns what a part gives at each position, `(N,)`, with no more logits in memory than the losses need.

    Args:
        part ([`~token_weights.base.TokenWeights`]):
            Its `needs` are read. Where those are not the student, the student's view is that of the reference, which has
            the same vocabulary.
        hidden, heads, labels, given, chunk_size:
            As in [`~kernels.chunked_linear.run_tiles`].
        before (`torch.Tensor` of shape `(N,)`, *optional*):
            The part's `positions`.
        compile (`bool`, *optional*, defaults to `False`):
            Whether a block runs through `torch.compile`.
    """
    student = hidden["student"]
    device, labels = student.device, labels.to(student.device)
    given = {name: known.to(device) for name, known in (given or {}).items() if name in part.needs}
    views = share_projections(projected_views(part.needs, given), hidden, heads)
    sizes = tile_sizes(len(labels), heads["student"].weight.shape[0], device, chunk_size, static=compile)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    values = [torch.zeros(0, dtype=torch.promote_types(student.dtype, torch.float32), device=device)]
    with torch.autocast(device.type, enabled=False):
        cast = cast_heads({name: heads[name] for name in set(views.values())}, device, dtype) if len(labels) else {}
        groups = group_by_head(cast, sizes.capacity)
        caps = {name: (head.logit_scale, head.softcap) for name, head in cast.items()}
        buffers = {name: group.logits[name] for group in groups for name in group.names}
        if "reference" in views:
            views = {"student": views["reference"], **views}
        evaluate: Any = partial(_block_values, part)
        if compile:
            shapes = tuple((name, buffer.shape[1], buffer.dtype) for name, buffer in buffers.items())
            known = tuple((name, one.key) for name, one in given.items())
            key = "values", type(part), repr(part), shapes, known, tuple(sorted(views.items())), tuple(caps.items())
            evaluate = partial(run_compiled, (*key, sizes.block, device, before is None), evaluate)
        for start in range(0, len(labels), sizes.tile):
            count = min(sizes.tile, len(labels) - start)
            # Static shapes: the last block is filled up with rows that are cut off again.
            missing = -count % sizes.block if compile else 0
            for group in groups:
                group.project({name: hidden[name][start : start + count].to(device) for name in group.names})

            def filled(tensor: Tensor, rows: slice = slice(start, start + count), missing: int = missing) -> Tensor:
                return F.pad(tensor[rows], (*[0] * (2 * tensor.ndim - 1), missing))

            signals = {name: one.by_row(filled) for name, one in given.items()}
            tile_labels, tile_before = filled(labels), None if before is None else filled(before.to(device))
            found = []
            for first in range(0, count + missing, sizes.block):
                rows = slice(first, min(first + sizes.block, count + missing))
                logits = {name: buffer[rows] for name, buffer in buffers.items()}
                own = {name: one.by_row(itemgetter(rows)) for name, one in signals.items()}
                at = None if tile_before is None else tile_before[rows]
                found.append(evaluate(logits, views, caps, tile_labels[rows], own, at))
            values.append(torch.cat(found)[:count])
    return torch.cat(values)


def _block_values(
    part: Any,
    logits: dict[str, Tensor],
    views: dict[str, str],
    caps: dict[str, tuple[float, float | None]],
    labels: Tensor,
    given: dict[str, Given],
    before: Tensor | None,
) -> Tensor:
    return part.per_token(token_views(logits, views, caps, labels, given), before)
