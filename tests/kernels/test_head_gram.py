# SPDX-License-Identifier: Apache-2.0
"""Cosines through the heads' Gram matrices against the logits written out."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ckt.kernels import HeadGram, LinearHead, head_gram


def explicit(
    first: tuple[Tensor, LinearHead],
    second: tuple[Tensor, LinearHead],
    shared: int,
    means: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Cosines of vocabulary-centred logits, in float64, with the logits of the mean state subtracted first if given."""
    rows = []
    for (states, head), mean in zip((first, second), means or (None, None), strict=True):

        def logits(x: Tensor, head: LinearHead = head) -> Tensor:
            z = x.double() @ head.weight.double().t()
            return (z if head.bias is None else z + head.bias.double())[:, :shared]

        z = logits(states)
        z = z if mean is None else z - logits(mean[None])
        z = z - z.mean(-1, keepdim=True)
        rows.append(z / z.norm(dim=-1, keepdim=True))
    return rows[0] @ rows[1].t()


def setting(dtype=torch.float64, *, bias=(True, True), vocab=23, teacher_vocab=23, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    student = LinearHead(draw(vocab, 6) + 0.5, draw(vocab) if bias[0] else None)
    teacher = LinearHead(draw(teacher_vocab, 4) - 0.3, draw(teacher_vocab) if bias[1] else None)
    return student, teacher, draw(5, 6) + 1, draw(5, 4) - 1, draw(8, 4)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("bias", [(False, False), (True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize(("vocab", "teacher_vocab", "given"), [(23, 23, None), (23, 29, None), (31, 29, 23)])
def test_gram_cosines_equal_explicit_logits(vocab, teacher_vocab, given, bias, centred):
    """A bias column forgotten or a padded id counted shifts every similarity, and the loss falls all the same."""
    student_head, teacher_head, student, teacher, candidates = setting(
        bias=bias, vocab=vocab, teacher_vocab=teacher_vocab
    )
    means = (student.mean(0), teacher.mean(0)) if centred else None
    named = {"student_mean": means[0], "teacher_mean": means[1]} if means else {}
    gram = HeadGram.from_heads(student_head, teacher_head, given)
    crossed, same = gram.cosines(student, teacher, candidates, **named)
    on_teacher = (candidates, teacher_head)
    wanted = explicit((student, student_head), on_teacher, 23, means)
    torch.testing.assert_close(crossed, wanted, rtol=0, atol=1e-9)
    wanted = explicit((teacher, teacher_head), on_teacher, 23, means and (means[1], means[1]))
    torch.testing.assert_close(same, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gram_cosines_of_low_precision_heads_are_accumulated_in_float32(dtype):
    """In bfloat16 a Gram of thousands of rows loses its centring, which is a difference of large numbers."""
    student_head, teacher_head, student, teacher, candidates = setting(dtype, vocab=3000, teacher_vocab=3000)
    gram = HeadGram.from_heads(student_head, teacher_head)
    assert {gram.student.dtype, gram.teacher.dtype, gram.cross.dtype} == {torch.float32}
    crossed, same = gram.cosines(student, teacher, candidates)
    wanted = explicit((student, student_head), (candidates, teacher_head), 3000, None)
    torch.testing.assert_close(crossed.double(), wanted, rtol=0, atol=2e-5)
    wanted = explicit((teacher, teacher_head), (candidates, teacher_head), 3000, None)
    torch.testing.assert_close(same.double(), wanted, rtol=0, atol=2e-5)


def test_gram_does_not_depend_on_how_many_rows_are_taken_at_a_time(monkeypatch):
    """The last block of rows is smaller: dropped or counted in full, only large vocabularies would notice."""
    student_head, teacher_head, *_ = setting(vocab=29, teacher_vocab=31)
    whole = HeadGram.from_heads(student_head, teacher_head)
    monkeypatch.setattr(head_gram, "_ROWS", 4)
    blocks = HeadGram.from_heads(student_head, teacher_head)
    for name in ("student", "teacher", "cross"):
        torch.testing.assert_close(getattr(blocks, name), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_logit_scale_cancels_and_softcap_is_left_out():
    """The docstring's promise: the similarity is of the logits before the cap."""
    student_head, teacher_head, student, teacher, candidates = setting()
    plain = HeadGram.from_heads(student_head, teacher_head).cosines(student, teacher, candidates)
    scaled = [head._replace(logit_scale=7.0, softcap=2.0) for head in (student_head, teacher_head)]
    for found, expected in zip(HeadGram.from_heads(*scaled).cosines(student, teacher, candidates), plain, strict=True):
        assert torch.equal(found, expected)


def test_state_without_direction_has_cosine_zero_and_a_finite_gradient():
    """A batch whose states are all the same would divide 0 by 0 and lose the run."""
    student_head, teacher_head, student, teacher, candidates = setting(bias=(False, False))
    gram = HeadGram.from_heads(student_head, teacher_head)
    student = student[:1].repeat(5, 1).requires_grad_()
    crossed, same = gram.cosines(student, teacher, candidates, student_mean=student.mean(0).detach())
    assert crossed.abs().max() < 1e-6 and same.isfinite().all()
    crossed.sum().backward()
    assert student.grad.isfinite().all()
    zero = torch.zeros_like(teacher)
    assert all(value.abs().max() == 0 for value in gram.cosines(torch.zeros_like(student), zero, zero))


def test_gradient_reaches_the_student_alone_and_passes_gradcheck():
    """A gradient into the teacher's states would lower the loss by moving the target."""
    student_head, teacher_head, student, teacher, candidates = setting()
    gram = HeadGram.from_heads(student_head, teacher_head)

    def crossed(states: Tensor) -> Tensor:
        return gram.cosines(states, teacher, candidates, student_mean=states.mean(0), teacher_mean=teacher.mean(0))[0]

    assert torch.autograd.gradcheck(crossed, (student.requires_grad_(),))
    teacher.requires_grad_(), candidates.requires_grad_()
    value, same = gram.cosines(student, teacher, candidates)
    assert not same.requires_grad
    value.sum().backward()
    assert teacher.grad is None and candidates.grad is None and student.grad.abs().max() > 0


def test_gram_agrees_with_the_logits_of_a_real_model(smollm2_dir, record_property):
    """What the whole contrastive role rests on: exact on a real head, and centring makes negatives informative."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    texts = [
        "How do I kill a Python process that does not answer?",
        "I cannot help with that, because it could hurt someone.",
        "Bread needs flour, water, salt, yeast and time.",
        "The quick brown fox jumps over the lazy dog.",
    ]
    with torch.no_grad():
        states = torch.cat([model.base_model(**tokenizer(text, return_tensors="pt"))[0][0] for text in texts])
    head = LinearHead(model.lm_head.weight.detach())
    gram = HeadGram.from_heads(head, head)
    mean = states.mean(0)
    off = ~torch.eye(len(states), dtype=torch.bool)
    cosines = {}
    for name, means in (("plain", None), ("centred", (mean, mean))):
        named = {"student_mean": mean, "teacher_mean": mean} if means else {}
        found, _ = gram.cosines(states, states, states, **named)
        error = (found - explicit((states, head), (states, head), len(head.weight), means)).abs().max().item()
        cosines[name] = found[off].mean().item()
        record_property(f"gram_error_{name}", error)
        print(f"{name}: largest error {error:.1e}, mean off-diagonal cosine {cosines[name]:+.3f}")
        assert error < 2e-5
    assert cosines["plain"] > 0.2 and abs(cosines["centred"]) < 0.1


class Precisions(TorchDispatchMode):
    """Notes in which precision a CUDA device would make each product."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default:
            self.seen.add(torch.backends.cuda.matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["legacy", "new"])
def tf32_allowed(request):
    """TF32 switched on through either of torch's two interfaces, as Trainer's `tf32=True` does by one of them."""
    before = torch.backends.cuda.matmul.fp32_precision
    if request.param == "legacy":
        torch.set_float32_matmul_precision("high")
    else:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    if request.param == "legacy":
        torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_tf32_stays_out_of_the_gram_matrices_and_on_elsewhere(tf32_allowed):
    """Ten bits of mantissa under a difference of large sums leave similarities that are noise."""
    student_head, teacher_head, student, teacher, candidates = setting(torch.float32)
    with Precisions() as precisions:
        HeadGram.from_heads(student_head, teacher_head).cosines(student, teacher, candidates)
    assert precisions.seen == {"ieee"}
    with Precisions() as precisions:
        student @ student.t()
    assert precisions.seen == {"tf32"}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("bias", [(False, False), (True, True), (True, False), (False, True)], ids=str)
def test_gram_cosines_of_states_of_several_heads_equal_explicit_logits(bias, centred):
    """Logits of two teachers are compared as they are: their scales no longer cancel, and each has a bias of its own."""
    student_head, first_head, student, first, _ = setting(bias=(True, bias[0]), vocab=31, teacher_vocab=29)
    _, other, _, _, second = setting(bias=(True, bias[1]), vocab=31, teacher_vocab=23, seed=1)
    first_head = first_head._replace(logit_scale=0.25)
    # Another width, and so another place of the bias.
    second_head, second = other._replace(weight=other.weight[:, :3]), second[:, :3]
    laid_out = head_gram.side_by_side([(first, first_head), (second, second_head)], torch.float64)
    assert [states.shape[1] for states in laid_out] == [4 + bias[0] + 3 + bias[1]] * 2
    teacher, student = torch.cat(laid_out), torch.cat([student, student.flip(0), student[:3] * 2])

    def logits(states: Tensor, head: LinearHead) -> Tensor:
        z = states @ head.weight.t() + (0 if head.bias is None else head.bias)
        return head.logit_scale * z[:, :23]

    def directions(z: Tensor) -> Tensor:
        z = z - z.mean(0) if centred else z
        return torch.nn.functional.normalize(z - z.mean(-1, keepdim=True), dim=-1)

    own = directions(logits(student, student_head))
    theirs = directions(torch.cat([logits(first, first_head), logits(second, second_head)]))
    means = {"student_mean": student.mean(0), "teacher_mean": teacher.mean(0)} if centred else {}
    gram = HeadGram.from_heads(student_head, [first_head, second_head])
    crossed, same = gram.cosines(student, teacher, teacher, **means)
    torch.testing.assert_close(crossed, own @ theirs.t(), rtol=0, atol=1e-9)
    torch.testing.assert_close(same, theirs @ theirs.t(), rtol=0, atol=1e-9)
