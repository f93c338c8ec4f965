# SPDX-License-Identifier: Apache-2.0
"""A number of each position, read off its distributions a tile at a time and without gradient. Letters as in `views.py`."""

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter

import torch
from torch import Tensor

from ..views import LinearHead, TokenViews
from .head_products import cast_heads, group_by_head, share_projections
from .signals import Given
from .tile_program import tile_sizes, token_views


@torch.no_grad()
def position_values(
    function: Callable[[TokenViews, slice], Tensor],
    needs: Iterable[str],
    hidden: Mapping[str, Tensor],
    heads: Mapping[str, LinearHead],
    labels: Tensor,
    *,
    given: Mapping[str, Given] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """
    Returns what a function gives at each position, `(N,)`, with no more logits in memory than the losses need.

    Args:
        function (`Callable`):
            Of the views of a block of positions, and which of the N they are: `(block,)`. Where it does not need the student,
            its view is that of the reference, which has the same vocabulary.
        needs (`Iterable[str]`):
            Names of the views that it reads.
        hidden, heads, labels, given, chunk_size:
            As in [`~kernels.chunked_linear.run_tiles`].
    """
    given = {name: known for name, known in (given or {}).items() if name in needs}
    projected = sorted({*needs} - {name for name, known in given.items() if not known.projected})
    student = hidden["student"]
    device, labels = student.device, labels.to(student.device)
    views = share_projections(projected, hidden, heads)
    sizes = tile_sizes(len(labels), heads["student"].weight.shape[0], device, chunk_size)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    given = {name: known.to(device) for name, known in given.items()}
    values = [torch.zeros(0, dtype=torch.promote_types(student.dtype, torch.float32), device=device)]
    with torch.autocast(device.type, enabled=False):
        cast = cast_heads({name: heads[name] for name in set(views.values())}, device, dtype) if len(labels) else {}
        groups = group_by_head(cast, sizes.capacity)
        caps = {name: (head.logit_scale, head.softcap) for name, head in cast.items()}
        buffers = {name: group.logits[name] for group in groups for name in group.names}
        if "reference" in views:
            views = {"student": views["reference"], **views}
        for start in range(0, len(labels), sizes.tile):
            end = min(start + sizes.tile, len(labels))
            for group in groups:
                group.project({name: hidden[name][start:end].to(device) for name in group.names})
            for first in range(start, end, sizes.block):
                rows = slice(first, min(first + sizes.block, end))
                place = slice(rows.start - start, rows.stop - start)
                logits = {name: buffer[place] for name, buffer in buffers.items()}
                known = {name: one.by_row(itemgetter(rows)) for name, one in given.items()}
                values.append(function(token_views(logits, views, caps, labels[rows], known), rows))
    return torch.cat(values)
