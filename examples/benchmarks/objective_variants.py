# SPDX-License-Identifier: Apache-2.0
"""
The variants of `objective.py`: the same three losses and two gradients, computed by hf_ckt and by its peers.

    total = (sum_i nll_i + KL(p_teacher || p_clean)_i + 0.5 KL(sg p_clean || p_noisy)_i) / N

The heads are frozen, as under PEFT; gradients are those of the clean and of the noisy hidden states.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import OBJECTIVE_WEIGHTS, ObjectiveCase
from hf_ckt.kernels import LinearHead, chunked_token_losses
from hf_ckt.kernels.tile_program import tile_sizes

# A variant agrees if its relative error (of norms) against plain PyTorch in float32 is at most this, or at most twice
# that of `dense`: in half precision a gradient can be a small difference of two rounded softmaxes, however computed.
TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 2e-3}
_REFERENCE_ROWS = 256
# Standard deviation of the logits, in nats: neither flat nor one-hot softmaxes.
_LOGITS_STD = 2.5
# How far teacher and noisy view are from the clean view, in standard deviations of a hidden state.
_TEACHER_DISTANCE, _NOISE = 0.5, 0.3

# What a variant returns: the loss, and the gradients of the clean and of the noisy hidden states.
Result = tuple[Tensor, Tensor, Tensor]


class ObjectiveInputs(NamedTuple):
    """
    What every variant is given.

    Args:
        student, noisy (`torch.Tensor` of shape `(N, D)`):
            Hidden states that get a gradient.
        teacher (`torch.Tensor` of shape `(N, D)`):
            Hidden states that get none.
        head, teacher_head (`torch.Tensor` of shape `(V, D)`):
            Frozen weights of the two heads.
        labels (`torch.Tensor` of shape `(N,)`):
            Next-token ids, every position kept.
    """

    student: Tensor
    noisy: Tensor
    teacher: Tensor
    head: Tensor
    teacher_head: Tensor
    labels: Tensor


def objective_inputs(case: ObjectiveCase, seed: int = 0) -> ObjectiveInputs:
    """Returns random inputs whose distributions are about as peaked, and as far apart, as those of a model in use."""
    generator = torch.Generator(case.device).manual_seed(seed)
    dtype = getattr(torch, case.dtype)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=case.device)

    student = noise(case.tokens, case.hidden)
    noisy = student + _NOISE * noise(case.tokens, case.hidden)
    teacher = student + _TEACHER_DISTANCE * noise(case.tokens, case.hidden)
    head = noise(case.vocab, case.hidden) * (_LOGITS_STD / case.hidden**0.5)
    return ObjectiveInputs(
        student=student.to(dtype).requires_grad_(),
        noisy=noisy.to(dtype).requires_grad_(),
        teacher=teacher.to(dtype),
        head=head.to(dtype),
        # Its own tensor: a separate teacher's. A self-teacher shares the student's and is no slower.
        teacher_head=head.to(dtype, copy=True),
        labels=torch.randint(case.vocab, (case.tokens,), generator=generator, device=case.device),
    )


def _result(total: Tensor, inputs: ObjectiveInputs) -> Result:
    student, noisy = torch.autograd.grad(total, (inputs.student, inputs.noisy))
    return total.detach(), student, noisy


def _weighted(nll: Tensor, forward_kl: Tensor, consistency_kl: Tensor) -> Tensor:
    weights = OBJECTIVE_WEIGHTS
    return weights["nll"] * nll + weights["forward_kl"] * forward_kl + weights["consistency_kl"] * consistency_kl


def _hf_ckt(inputs: ObjectiveInputs, compile: bool) -> Result:
    output = chunked_token_losses(
        OBJECTIVE_WEIGHTS,
        inputs.student,
        LinearHead(inputs.head),
        inputs.labels,
        noisy_hidden=inputs.noisy,
        teacher_hidden=inputs.teacher,
        teacher_head=LinearHead(inputs.teacher_head),
        compile=compile,
    )
    return _result(output.total, inputs)


def dense_result(inputs: ObjectiveInputs) -> Result:
    """Returns what plain PyTorch on full logits does, each log-softmax once."""

    def log_probs(hidden: Tensor, head: Tensor) -> Tensor:
        return torch.log_softmax(hidden @ head.t(), dim=-1, dtype=torch.float32)

    with torch.no_grad():
        teacher = log_probs(inputs.teacher, inputs.teacher_head)
    clean = log_probs(inputs.student, inputs.head)
    noisy = log_probs(inputs.noisy, inputs.head)
    total = _weighted(
        F.nll_loss(clean, inputs.labels),
        F.kl_div(clean, teacher, log_target=True, reduction="batchmean"),
        F.kl_div(noisy, clean.detach(), log_target=True, reduction="batchmean"),
    )
    del teacher, clean, noisy  # from here on only what autograd keeps
    return _result(total, inputs)


def _trl(inputs: ObjectiveInputs) -> Result:
    from trl.kernels.chunked_divergence import VOCAB_CHUNK_SIZE, ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    student, noisy, teacher, head, teacher_head, labels = inputs
    # As SFTTrainer calls it (no bias, temperature 1, its chunk, no softcap, no scale), but for the log-probabilities
    # alone: each further output would cost it time.
    log_probs = ChunkedLogProbFunction.apply(student, head, None, labels, 1.0, VOCAB_CHUNK_SIZE, None, 1.0, ())[0]
    # Student first, then teacher; at beta 0 it is KL(teacher || student). For consistency the noisy view is the
    # student and the clean view the teacher.
    forward_kl = ChunkedDivergenceFunction.apply(student, head, None, teacher, teacher_head, None, 0.0)[0]
    consistency_kl = ChunkedDivergenceFunction.apply(noisy, head, None, student.detach(), head, None, 0.0)[0]
    return _result(_weighted(-log_probs.mean(), forward_kl.mean(), consistency_kl.mean()), inputs)


def _liger(inputs: ObjectiveInputs) -> Result:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerFusedLinearJSD

    student, noisy, teacher, head, teacher_head, labels = inputs
    # At beta 0 its generalized JSD is KL(teacher || student). Without labels it counts every position.
    divergence = LigerFusedLinearJSD(jsd_beta=0.0)
    total = _weighted(
        LigerFusedLinearCrossEntropyLoss()(head, student, labels),
        divergence(student, head, teacher, teacher_head, None),
        divergence(noisy, head, student.detach(), head, None),
    )
    return _result(total, inputs)


class _Floor:
    """
    The products that no exact method can do without, tile by tile, into buffers made once.

    Three projections, and the gradients of two hidden states from whatever stands in two of the buffers. Its result
    has no meaning.
    """

    def __init__(self, inputs: ObjectiveInputs):
        self.inputs = inputs
        positions, vocab_size = inputs.labels.shape[0], inputs.head.shape[0]
        self.tile = tile_sizes(positions, vocab_size, inputs.head.device).tile
        self.logits = [inputs.head.new_empty(self.tile, vocab_size) for _ in range(3)]
        self.gradients = [torch.empty_like(inputs.student, requires_grad=False) for _ in range(2)]

    @torch.no_grad()
    def __call__(self) -> None:
        student, noisy, teacher, head, teacher_head, labels = self.inputs
        for start in range(0, labels.shape[0], self.tile):
            rows = slice(start, start + self.tile)
            count = labels[rows].shape[0]
            logits = [buffer[:count] for buffer in self.logits]
            for out, hidden, weight in zip(logits, (student, noisy, teacher), (head, head, teacher_head), strict=True):
                torch.mm(hidden[rows], weight.t(), out=out)
            for gradient, logits_gradient in zip(self.gradients, logits[:2], strict=True):
                torch.mm(logits_gradient, head, out=gradient[rows])


# Inputs -> a call that computes the variant. What a variant prepares once is made here, and is not timed.
MAKERS: dict[str, Callable[[ObjectiveInputs], Callable[[], Result | None]]] = {
    "hf_ckt": lambda inputs: lambda: _hf_ckt(inputs, compile=True),
    "hf_ckt_plain": lambda inputs: lambda: _hf_ckt(inputs, compile=False),
    "dense": lambda inputs: lambda: dense_result(inputs),
    "trl": lambda inputs: lambda: _trl(inputs),
    "liger": lambda inputs: lambda: _liger(inputs),
    "floor": _Floor,
}


def why_skipped(variant: str, case: ObjectiveCase) -> str | None:
    """Returns why a variant cannot run here, or None if it can."""
    if variant == "liger":
        if torch.device(case.device).type != "cuda":
            return "its kernels need a GPU"
        if find_spec("liger_kernel") is None:
            return "liger-kernel is not installed"
    return None


def reference_result(inputs: ObjectiveInputs) -> Result:
    """Returns what every variant should: `dense` in float32, some rows at a time so that it fits where they do."""
    wide = ObjectiveInputs(*(one.detach().float() if one.is_floating_point() else one for one in inputs))
    parts, count = [], inputs.labels.shape[0]
    for start in range(0, count, _REFERENCE_ROWS):
        rows = slice(start, start + _REFERENCE_ROWS)
        part = wide._replace(
            student=wide.student[rows].requires_grad_(),
            noisy=wide.noisy[rows].requires_grad_(),
            teacher=wide.teacher[rows],
            labels=wide.labels[rows],
        )
        share = part.labels.shape[0] / count  # of the mean over all positions
        parts.append([share * one for one in dense_result(part)])
    losses, students, noisies = zip(*parts, strict=True)
    return torch.stack(losses).sum(), torch.cat(students), torch.cat(noisies)


def relative_errors(result: Result, reference: Result) -> dict[str, float]:
    """Returns ||result - reference|| / ||reference|| of the loss and of each gradient."""
    names = ("loss", "student_gradient", "noisy_gradient")
    errors = {}
    for name, ours, theirs in zip(names, result, reference, strict=True):
        ours, theirs = ours.double(), theirs.double()
        errors[name] = ((ours - theirs).norm() / theirs.norm()).item()
    return errors


class VariantsDisagreeError(RuntimeError):
    """Variants computed different things, so that comparing their times would mean nothing."""


def require_agreement(errors: dict[str, dict[str, float]], dtype: str) -> None:
    """Raises VariantsDisagreeError, with a line for each of [`disagreements`], unless there is none."""
    if wrong := disagreements(errors, dtype):
        raise VariantsDisagreeError("\n".join(wrong))


def disagreements(errors: dict[str, dict[str, float]], dtype: str) -> list[str]:
    """
    Returns one sentence for each quantity of a variant that is further off than rounding explains, or not a number.

    Args:
        errors (`dict[str, dict[str, float]]`):
            Of [`relative_errors`] by variant; `dense` among them.
        dtype (`str`):
            What the variants compute in, a key of [`TOLERANCES`].
    """
    tolerance, dense = TOLERANCES[dtype], errors["dense"]
    wrong = []
    for variant, quantities in errors.items():
        for quantity, error in quantities.items():
            if variant == "dense":
                allowed = tolerance if dtype == "float32" else 10 * tolerance
            else:
                allowed = max(tolerance, 2 * dense[quantity])
            if not error <= allowed:  # so written, NaN disagrees
                wrong.append(
                    f"{variant}: {quantity} is off by {error:.1e} (relative), rounding explains {allowed:.0e}"
                )
    return wrong
