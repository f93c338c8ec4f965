# SPDX-License-Identifier: Apache-2.0
"""Plain PyTorch on the whole logits, and the checks that hold the tile runner to it."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ckt.kernels import LinearHead, chunked_token_losses


class Recorder(TorchDispatchMode):
    """Counts products with a frozen head, and the rows in them, and keeps the sizes of the largest tensor and logits made."""

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab, self.products, self.rows, self.largest, self.largest_logits = vocab, 0, 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm) and any(
            isinstance(arg, torch.Tensor) and self.vocab in arg.shape for arg in args
        ):
            self.products += 1
            self.rows += next(arg for arg in args if arg.dim() == 2).shape[0]
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
            if result.dim() and result.shape[-1] == self.vocab:
                self.largest_logits = max(self.largest_logits, result.numel())
        return result


def case(dtype=torch.float64, tokens=11, hidden=6, teacher_hidden=5, vocab=13, teacher_vocab=13, seed=0, **head):
    """Random hidden states, heads and labels (some -100) of odd sizes; everything that can train requires grad."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, grad=False):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)

    labels = torch.randint(0, min(vocab, teacher_vocab), (tokens,), generator=generator)
    labels[::4] = -100
    return {
        "student_hidden": draw(tokens, hidden, grad=True),
        "noisy_hidden": draw(tokens, hidden, grad=True),
        "teacher_hidden": draw(tokens, teacher_hidden),
        "reference_hidden": draw(tokens, hidden),
        "head": LinearHead(draw(vocab, hidden, grad=True), draw(vocab, grad=True), **head),
        "teacher_head": LinearHead(draw(teacher_vocab, teacher_hidden), draw(teacher_vocab), **head),
        "labels": labels,
    }


def leaves(inputs: dict) -> list[torch.Tensor]:
    return [inputs["student_hidden"], inputs["noisy_hidden"], inputs["head"].weight, inputs["head"].bias]


def dense_logits(hidden: torch.Tensor, head: LinearHead) -> torch.Tensor:
    logits = (hidden @ head.weight.t() + (0 if head.bias is None else head.bias)).to(
        torch.promote_types(hidden.dtype, torch.float32)
    )
    logits = logits * head.logit_scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def dense_total(inputs: dict, weights: dict[str, float], num_items: float | None = None) -> torch.Tensor:
    """Plain PyTorch on the full logits for the four losses that the comparisons use."""
    kept = inputs["labels"] != -100
    shared = min(inputs["head"].weight.shape[0], inputs["teacher_head"].weight.shape[0])
    student = dense_logits(inputs["student_hidden"], inputs["head"])[kept]
    noisy = dense_logits(inputs["noisy_hidden"], inputs["head"])[kept].log_softmax(-1)
    teacher = dense_logits(inputs["teacher_hidden"], inputs["teacher_head"])[kept][:, :shared].log_softmax(-1).detach()
    reference = dense_logits(inputs["reference_hidden"], inputs["head"])[kept].log_softmax(-1).detach()
    clean = student.log_softmax(-1)
    on_shared = student[:, :shared].log_softmax(-1)

    def plain_kl(p, q):
        return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)

    values = {
        "nll": torch.nn.functional.cross_entropy(student, inputs["labels"][kept], reduction="sum"),
        "forward_kl": plain_kl(teacher, on_shared),
        "consistency_kl": plain_kl(clean.detach(), noisy),
        "symmetric_kl": plain_kl(clean, noisy) + plain_kl(noisy, clean),
        "reference_kl": plain_kl(reference, clean),
    }
    total = sum(weight * values[name] for name, weight in weights.items())
    return total / (kept.sum() if num_items is None else num_items)


WEIGHTS = {"nll": 1.0, "forward_kl": 0.7, "consistency_kl": 0.5, "reference_kl": 0.3}


def run(inputs: dict, weights: dict[str, float] = WEIGHTS, **options):
    states = {name: inputs[name] for name in ("noisy_hidden", "teacher_hidden", "teacher_head", "reference_hidden")}
    return chunked_token_losses(
        weights, inputs["student_hidden"], inputs["head"], inputs["labels"], **states, **options
    )


def check_matches_dense(chunk_size: int | None = 3, factor: float = 2.0, weights=WEIGHTS, num_items=None, **sizes):
    """Loss and every gradient equal dense autograd in float64; raises AssertionError otherwise."""
    inputs = case(**sizes)
    expected = dense_total(inputs, weights, num_items)
    expected_grads = torch.autograd.grad(factor * expected, leaves(inputs), allow_unused=True)
    output = run(inputs, weights, chunk_size=chunk_size, num_items=num_items)
    grads = torch.autograd.grad(factor * output.total, leaves(inputs), allow_unused=True)
    torch.testing.assert_close(output.total, expected, rtol=1e-10, atol=1e-12)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        wanted = torch.zeros_like(grad) if wanted is None else wanted
        torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-12)


def check_error_budget(dtype: torch.dtype, chunk_size: int = 3, seeds: int = 8):
    """
    Against a float64 truth the runner errs at most twice as much as plain PyTorch in the same dtype.

    Root mean square over several draws: a single scalar's error is a matter of luck for both.
    """
    plain_errors, tiled_errors = [], []
    for seed in range(seeds):
        rough = case(dtype=dtype, tokens=40, hidden=48, teacher_hidden=32, vocab=64, teacher_vocab=64, seed=seed)
        exact = {name: _in_float64(value) for name, value in rough.items()}
        truth = dense_total(exact, WEIGHTS)
        true_values = [truth, *torch.autograd.grad(truth, leaves(exact))]
        for errors, total in (
            (plain_errors, dense_total(rough, WEIGHTS)),
            (tiled_errors, run(rough, chunk_size=chunk_size).total),
        ):
            values = [total, *torch.autograd.grad(total, leaves(rough))]
            errors.append(
                [float((v.detach().double() - t).norm() / t.norm()) for v, t in zip(values, true_values, strict=True)]
            )
    for plain, tiled in zip(zip(*plain_errors, strict=True), zip(*tiled_errors, strict=True), strict=True):
        assert math.hypot(*tiled) <= 2 * math.hypot(*plain)


def _in_float64(value):
    if isinstance(value, LinearHead):
        return LinearHead(_in_float64(value.weight), _in_float64(value.bias), *value[2:])
    return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value
