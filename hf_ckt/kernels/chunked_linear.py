# SPDX-License-Identifier: Apache-2.0
"""
All token losses in one pass over the logits, a tile of kept positions at a time.

What it computes, and autograd's gradient of it, without the logits of all positions:

>>> from hf_ckt.views import LogitsView, TokenViews
>>> def dense(losses, hidden, heads, labels, num_items):
...     kept = labels != -100
...     logits = {name: heads[name].logits(states[kept]) for name, states in hidden.items()}  # (N, V) of each view
...     views = TokenViews(labels[kept], **{name: LogitsView(values) for name, values in logits.items()})
...     terms = [weight * loss.per_token(views).sum() for loss, weight in losses.items()]
...     return torch.stack(terms).sum() / num_items
>>> states, head, labels = torch.randn(5, 8), LinearHead(torch.randn(16, 8)), torch.tensor([0, -100, 5, 2, 7])
>>> losses = {load_part("losses", "nll")(): 1.0}
>>> tiles = chunked_token_losses(losses, states, head, labels, chunk_size=2).total
>>> torch.allclose(tiles, dense(losses, {"student": states}, {"student": head}, labels, 4))
True

For each tile, every view (student, noisy, teacher, reference) is projected once; block of rows by block of rows, losses
and metrics are evaluated on shared log-probabilities, and the gradient with respect to a student's logits is written
over them; one product with the head then gives the gradient of its hidden states. What is in memory meanwhile:

| buffer | shape | dtype | until |
| --- | --- | --- | --- |
| logits of each view; then a student's gradient | (tile, V) | the head's, or autocast's | the call ends; all tiles share it |
| temporaries of losses and gradients, 3 to 15 | (block, V) | float32 | the block ends |
| hidden states of each view | (tile, D) | the head's, or autocast's | the next tile |
| gradient of each student's hidden states | (N, D) | float32 | the backward |
| gradient of a head that trains | (V, D) | float32 | the backward |
| each head, cast, under autocast alone | (V, D) | autocast's | the call ends |

The gradient is ready when the forward ends; the backward only scales it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import require_count, require_weight
from ..discovery import load_part, part_name
from ..views import LinearHead, select_rows
from .compilation import pays_to_compile, run_compiled
from .head_products import STUDENT_VIEWS, cast_heads, group_by_head, share_projections
from .signals import Given, projected_views
from .tile_program import TileProgram, TileSizes, tile_sizes


@dataclass
class TokenLossOutput:
    """
    What [`chunked_token_losses`] returns.

    Args:
        total (`torch.Tensor`):
            Weighted sum of the terms divided by `num_items`; a scalar in nats, differentiable.
        terms (`dict[str, torch.Tensor]`):
            Sum over the kept tokens of each loss, unweighted, in nats; detached. Two losses of one name carry their
            place in `losses`: `jensen_shannon@0`.
        metrics (`dict[str, torch.Tensor]`):
            Sum over the kept tokens of each metric; detached.
        num_kept (`int`):
            Number of kept tokens.
    """

    total: Tensor
    terms: dict[str, Tensor]
    metrics: dict[str, Tensor]
    num_kept: int


def chunked_token_losses(
    losses: Mapping[Any, float],
    student_hidden: Tensor,
    head: LinearHead,
    labels: Tensor,
    *,
    noisy_hidden: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_head: LinearHead | None = None,
    reference_hidden: Tensor | None = None,
    reference_head: LinearHead | None = None,
    metrics: Sequence[str] = (),
    num_items: Tensor | float | None = None,
    chunk_size: int | None = None,
    compile: bool | None = None,
) -> TokenLossOutput:
    """
    Computes several token losses and their gradients in one pass, without ever building the `(N, V)` logits.

    Args:
        losses (`Mapping[str | TokenLoss, float]`):
            Name of a loss, or the loss itself, to its weight (>= 0).
        student_hidden (`torch.Tensor` of shape `(N, D)`):
            The student's last hidden states; position i predicts `labels[i]`.
        head ([`LinearHead`]):
            The student's head.
        labels (`torch.Tensor` of shape `(N,)`):
            Next-token ids; -100 leaves a position out, and it is then never projected.
        noisy_hidden (`torch.Tensor` of shape `(N, D)`, *optional*):
            The student's hidden states on the perturbed input.
        teacher_hidden (`torch.Tensor` of shape `(N, D_t)`, *optional*), teacher_head ([`LinearHead`], *optional*):
            The teacher's. No gradient flows into them. Heads of different size are compared over the shared ids.
        reference_hidden (`torch.Tensor` of shape `(N, D)`, *optional*), reference_head ([`LinearHead`], *optional*):
            The base model's; the head defaults to the student's.
        metrics (`Sequence[str]`, *optional*):
            Names of token metrics to sum on the way.
        num_items (`float` or `torch.Tensor`, *optional*):
            What the sums are divided by; the number of kept tokens by default.
        chunk_size (`int`, *optional*):
            Positions in a tile. By default as many as fit 80 MiB of logits on CPU, at most 128, and 256 MiB on an
            accelerator.
        compile (`bool`, *optional*):
            Whether a tile runs through `torch.compile`. `None`: when this call alone repays a cold compile.

    Returns:
        [`TokenLossOutput`]

    Raises:
        ValueError: If a loss needs hidden states that are not given, or shapes do not fit.

    Example:

    >>> import torch
    >>> from hf_ckt.kernels import LinearHead, chunked_token_losses
    >>> hidden = torch.zeros(3, 8, requires_grad=True)
    >>> head = LinearHead(torch.ones(16, 8))
    >>> output = chunked_token_losses({"nll": 1.0}, hidden, head, torch.tensor([0, -100, 5]))
    >>> output.total, output.num_kept  # log 16, averaged over the two kept tokens
    (tensor(2.7726, grad_fn=<_ChunkedTokenLossesBackward>), 2)
    """
    resolved = []
    for entry in losses:
        loss = load_part("losses", entry)() if isinstance(entry, str) else entry
        if not hasattr(loss, "per_token"):
            raise ValueError(f"losses: {part_name(loss)!r} is not a loss per token; only token losses run on tiles.")
        require_weight(f"losses[{part_name(loss)!r}]", losses[entry])
        resolved.append((part_name(loss), loss))
    keys = [key for key, _ in resolved]
    if len(set(keys)) < len(keys):
        resolved = [(f"{key}@{i}" if keys.count(key) > 1 else key, loss) for i, (key, loss) in enumerate(resolved)]
    program = TileProgram(resolved, [(name, load_part("metrics", name)()) for name in metrics])
    names = ("student", "noisy", "teacher", "reference")
    read = (student_hidden, noisy_hidden, teacher_hidden, reference_hidden)
    hidden = {name: states for name, states in zip(names, read, strict=True) if states is not None}
    heads = {"student": head, "noisy": head, "teacher": teacher_head, "reference": reference_head or head}
    for name, states in hidden.items():
        if states.shape[0] != labels.shape[0]:
            raise ValueError(
                f"{name}_hidden: has {states.shape[0]} positions, labels have {labels.shape[0]}. Each position needs its "
                "state in every view."
            )
    kept = (labels != -100).nonzero().squeeze(1)
    hidden = select_rows(hidden, kept)
    weights = torch.tensor(list(losses.values()), dtype=torch.float64)
    return run_tiles(
        program, weights, hidden, heads, labels[kept], num_items=num_items, chunk_size=chunk_size, compile=compile
    )


def run_tiles(
    program: TileProgram,
    weights: Tensor,
    hidden: dict[str, Tensor],
    heads: Mapping[str, LinearHead | None],
    labels: Tensor,
    *,
    num_items: Tensor | float | None,
    given: Mapping[str, Given] | None = None,
    token_weights: Mapping[str, Tensor] | None = None,
    chunk_size: int | None = None,
    compile: bool | None = None,
) -> TokenLossOutput:
    """
    Runs a program over kept positions only; see [`chunked_token_losses`] for the arguments.

    Args:
        program ([`TileProgram`]):
            Losses and metrics.
        weights (`torch.Tensor` of shape `(number of losses,)`):
            Weight of each loss; a tensor on any device, so that a schedule neither syncs nor recompiles.
        hidden (`dict[str, torch.Tensor]`), heads (`dict[str, LinearHead]`):
            Hidden states `(N, D)` at the kept positions and head of each view. Two views given the same tensor and
            head are projected once.
        labels (`torch.Tensor` of shape `(N,)`):
            Next-token ids, no -100.
        given (`Mapping[str, Given]`, *optional*):
            What is known of a view in place of states and head, or beside them.
        token_weights (`Mapping[str, torch.Tensor]`, *optional*):
            By a loss's key, its factor at each position, `(N,)`, without gradient; 1 where none is given. The loss's sum
            is that of the products.
    """
    student = hidden["student"]
    given = {name: signal for name, signal in (given or {}).items() if name in program.needs}
    projected = projected_views(program.needs, given)
    for name in projected:
        if name not in hidden or heads.get(name) is None:
            parts = [key for key, part in (*program.losses, *program.metrics) if name in part.needs]
            raise ValueError(f"{', '.join(parts)}: needs the {name}'s hidden states and head. Pass {name}_hidden.")
    if chunk_size is not None:
        require_count("chunk_size", chunk_size, 1, "A tile must hold at least one position.")
    head = heads["student"]
    assert head is not None  # checked above
    device = student.device
    labels = labels.to(device)  # with the layers spread over devices, the head may be on another than the inputs
    num_items = labels.shape[0] if num_items is None else num_items
    views = share_projections(projected, hidden, heads)
    if compile is None:
        compile = pays_to_compile(labels.shape[0] * head.weight.shape[0] * len(set(views.values())), device)
    plan = _Plan(
        program=program,
        views=views,
        hidden={name: hidden[name].detach() for name in set(views.values())},
        heads={name: heads[name] for name in set(views.values())},
        labels=labels,
        sizes=tile_sizes(labels.shape[0], head.weight.shape[0], device, chunk_size, static=compile),
        compile=compile,
        grad=torch.is_grad_enabled(),
        dtype=torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None,
        weights=weights,
        num_items=num_items + (num_items == 0),  # where no token counts, the loss is 0 and not 0 / 0
        given={name: known.to(device) for name, known in given.items()},
        token_weights=program.stack_token_weights(token_weights, labels) if token_weights else None,
    )
    total, sums = _ChunkedTokenLosses.apply(plan, student, hidden.get("noisy"), head.weight, head.bias)
    keys = [key for key, _ in (*program.losses, *program.metrics)]
    values = dict(zip(keys, sums.unbind(), strict=True))
    return TokenLossOutput(
        total=total,
        terms={key: values[key] for key, _ in program.losses},
        metrics={key: values[key] for key, _ in program.metrics},
        num_kept=labels.shape[0],
    )


@dataclass
class _Plan:
    program: TileProgram
    views: dict[str, str]
    hidden: dict[str, Tensor]
    heads: dict[str, Any]
    labels: Tensor
    sizes: TileSizes
    compile: bool
    grad: bool
    dtype: torch.dtype | None
    weights: Tensor
    num_items: Tensor | float
    given: dict[str, Given]
    token_weights: Tensor | None


class _ChunkedTokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, student: Tensor, noisy: Tensor | None, weight: Tensor, bias: Tensor | None):
        wide = torch.promote_types(student.dtype, torch.float32)
        inputs = {"student": student, "noisy": noisy, "weight": weight, "bias": bias}
        grads = {
            name: torch.zeros(tensor.shape, dtype=wide, device=tensor.device)
            for name, tensor in inputs.items()
            if plan.grad and tensor is not None and tensor.requires_grad
        }
        # A head that trains needs the logits' gradients also where the hidden states need none.
        students = tuple(
            name
            for name in STUDENT_VIEWS
            if name in plan.program.loss_needs and grads.keys() & {name, "weight", "bias"}
        )
        weights = plan.weights.to(student.device, wide, non_blocking=True)
        sums = torch.zeros(len(plan.program.losses) + len(plan.program.metrics), dtype=wide, device=student.device)

        with torch.autocast(student.device.type, enabled=False):
            heads = cast_heads(plan.heads, student.device, plan.dtype) if plan.labels.shape[0] else {}
            groups = group_by_head(heads, plan.sizes.capacity)
            buffers = {name: group.logits[name] for group in groups for name in group.names}
            evaluate: Callable = plan.program.differentiate
            if plan.compile:
                evaluate = partial(run_compiled, _key(plan, buffers, students, weights), evaluate)
            for start in range(0, plan.labels.shape[0], plan.sizes.tile):
                rows = slice(start, start + plan.sizes.tile)
                for group in groups:
                    group.project({name: plan.hidden[name][rows].to(student.device) for name in group.names})
                sums += _run_blocks(plan, evaluate, buffers, rows, weights, students)
                for group in groups:
                    group.gradients(students, rows, grads)

        ctx.grads = [grads.get(name) for name in inputs]
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs.values()]
        ctx.num_items = plan.num_items
        ctx.mark_non_differentiable(sums)
        return (sums[: len(plan.program.losses)] * weights).sum() / plan.num_items, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor):  # type: ignore[override]
        # Divided by the token count only here, in float32: in float16 the share of one token among thousands is 0.
        scale = grad_total / ctx.num_items
        return (
            None,
            *(None if g is None else (g * scale).to(dtype) for g, dtype in zip(ctx.grads, ctx.dtypes, strict=True)),
        )


def _key(plan: _Plan, buffers: dict[str, Tensor], students: tuple[str, ...], weights: Tensor) -> tuple:
    """What a compiled program depends on: what is computed, and the shapes, dtypes and device of its tensors."""
    caps = tuple((name, head.logit_scale, head.softcap) for name, head in sorted(plan.heads.items()))
    shapes = tuple((name, buffer.shape[1], buffer.dtype) for name, buffer in buffers.items())
    views = tuple(sorted(plan.views.items()))
    given = tuple((name, known.key) for name, known in plan.given.items())
    rest = weights.dtype, weights.device, plan.token_weights is None
    return plan.program.key, caps, views, students, plan.sizes.block, shapes, given, rest


def _run_blocks(
    plan: _Plan,
    evaluate: Callable,
    buffers: dict[str, Tensor],
    rows: slice,
    weights: Tensor,
    students: tuple[str, ...],
) -> Tensor:
    """Returns a tile's sums; the logits of `students` become their gradients."""
    sizes, program = plan.sizes, plan.program
    labels = plan.labels[rows]
    # Static shapes: the last block is filled up with rows that do not count, not compiled for its own size.
    missing = (-labels.shape[0] % sizes.block) if plan.compile else 0
    mask = F.pad(torch.ones_like(labels, dtype=torch.bool), (0, missing))
    labels = F.pad(labels, (0, missing))

    def filled(tensor: Tensor) -> Tensor:
        return F.pad(tensor[rows], (*[0] * (2 * tensor.ndim - 1), missing))

    given = {name: known.by_row(filled) for name, known in plan.given.items()}
    factors = None if plan.token_weights is None else F.pad(plan.token_weights[:, rows], (0, missing))
    caps = {name: (head.logit_scale, head.softcap) for name, head in plan.heads.items()}
    sums = weights.new_zeros(len(program.losses) + len(program.metrics))
    for start in range(0, labels.shape[0], sizes.block):
        block = slice(start, min(start + sizes.block, labels.shape[0]))
        logits = {name: buffer[block] for name, buffer in buffers.items()}
        named = {name: known.by_row(itemgetter(block)) for name, known in given.items()}
        factor = None if factors is None else factors[:, block]
        sums += evaluate(logits, plan.views, caps, labels[block], mask[block], weights, students, named, factor)
    return sums
