# SPDX-License-Identifier: Apache-2.0
"""The tile runner against plain PyTorch on full logits."""

import pytest
import torch

from hf_ckt.kernels import LinearHead, chunked_token_losses, compilation
from tests import references


@pytest.mark.parametrize("chunk_size", [1, 3, 100, None])
def test_loss_and_gradients_equal_dense_autograd_for_any_chunk_size(chunk_size):
    """A tile that overwrites, drops its remainder or counts it twice is right for some sizes only."""
    references.check_matches_dense(chunk_size)


@pytest.mark.parametrize(
    "sizes",
    [
        {"logit_scale": 0.25},
        {"softcap": 1.5},
        {"logit_scale": 3.0, "softcap": 2.0},
        {"teacher_vocab": 17},
        {"teacher_vocab": 9},
        {"tokens": 2},
        {"hidden": 1, "teacher_hidden": 9},
    ],
    ids=str,
)
def test_heads_of_every_kind_equal_dense_autograd(sizes):
    """Scale, cap and padded heads enter the gradient, not only the value."""
    references.check_matches_dense(**sizes)


@pytest.mark.parametrize("num_items", [1.0, 64.0, torch.tensor(64.0)])
def test_num_items_divides_loss_and_gradient(num_items):
    """A divisor applied to the value alone leaves the step sizes of accumulation wrong."""
    references.check_matches_dense(num_items=num_items)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_error_is_within_twice_that_of_plain_pytorch(dtype, chunk_size):
    """Tiles must not cost accuracy: accumulating the head's gradient in bfloat16 would."""
    references.check_error_budget(dtype, chunk_size)


def test_three_terms_cost_three_products_a_tile_and_no_full_logits():
    """The point of the runner: each view projected once, those of one head together; no tensor of tokens x vocabulary."""
    inputs = references.case(torch.float32, tokens=64, vocab=97, teacher_vocab=97)
    inputs["labels"] = inputs["labels"].clamp(min=0)
    inputs["head"] = LinearHead(inputs["head"].weight.detach())
    inputs["teacher_head"] = LinearHead(inputs["teacher_head"].weight)
    weights = {"nll": 1.0, "forward_kl": 1.0, "consistency_kl": 0.5}
    with references.Recorder(97) as recorder:
        references.run(inputs, weights, chunk_size=16, metrics=["acceptance", "entropy"]).total.backward()
    # Both student views, the teacher, and both gradients; two logits tiles lie in one buffer.
    assert recorder.products == 3 * 4 and recorder.rows == 5 * 64
    assert recorder.largest <= 2 * 16 * 97


def test_masked_positions_are_never_projected():
    """Prompts are most of a batch; projecting them is most of the cost."""
    inputs = references.case(torch.float32, tokens=64, vocab=97, teacher_vocab=97)
    inputs["labels"][:] = -100
    inputs["labels"][5] = 3
    inputs["head"] = LinearHead(inputs["head"].weight.detach())
    with references.Recorder(97) as recorder:
        references.run(inputs, {"nll": 1.0}, chunk_size=16)
    assert recorder.rows == 2  # the one position, forward and backward


def test_views_with_the_same_states_are_projected_once():
    """The self-teacher and the reference of reference_kl are one pass and one projection."""
    inputs = references.case(torch.float32, vocab=97)
    head = LinearHead(inputs["head"].weight.detach())
    with references.Recorder(97) as recorder:
        chunked_token_losses(
            {"forward_kl": 1.0, "reference_kl": 1.0},
            inputs["student_hidden"].detach(),
            head,
            inputs["labels"].clamp(min=0),
            teacher_hidden=inputs["reference_hidden"],
            teacher_head=head,
            reference_hidden=inputs["reference_hidden"],
        )
    assert recorder.rows == 2 * 11


def test_without_gradient_nothing_is_differentiated():
    """An evaluation that computes gradients takes twice the time."""
    inputs = references.case(torch.float32, tokens=64, vocab=97, teacher_vocab=97)
    inputs["labels"] = inputs["labels"].clamp(min=0)
    with torch.no_grad(), references.Recorder(97) as recorder:
        output = references.run(inputs, {"nll": 1.0, "forward_kl": 1.0}, chunk_size=64)
    assert not output.total.requires_grad
    assert recorder.rows == 2 * 64


def test_frozen_teacher_and_reference_get_no_gradient():
    """A teacher that moves with the student is no teacher."""
    inputs = references.case()
    states = [inputs["teacher_hidden"], inputs["reference_hidden"], *inputs["teacher_head"][:2]]
    for tensor in states:
        tensor.requires_grad_()
    references.run(inputs).total.backward()
    assert all(tensor.grad is None for tensor in states)


def test_autocast_projects_in_bfloat16_and_accumulates_in_float32():
    """Under autocast the loss must stay close to the float32 one and its dtype float32."""
    inputs = references.case(torch.float32, tokens=40, hidden=32)
    exact = references.run(inputs).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = references.run(inputs)
    assert output.total.dtype == torch.float32
    assert output.total.item() == pytest.approx(exact.item(), rel=2e-2) and output.total.item() != exact.item()
    output.total.backward()
    assert inputs["student_hidden"].grad.dtype == torch.float32


def test_compiled_tiles_equal_plain_ones_and_compile_once_for_any_batch():
    """A recompilation for each last tile would cost seconds a step."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    original = torch.compile
    compilation._programs.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda f, **kw: original(f, backend=counter, **kw))
        for tokens in (11, 23, 6):
            inputs = references.case(torch.float32, tokens=tokens)
            plain = references.run(inputs, chunk_size=4)
            grads = torch.autograd.grad(plain.total, references.leaves(inputs))
            tiled = references.run(inputs, chunk_size=4, compile=True)
            tiled_grads = torch.autograd.grad(tiled.total, references.leaves(inputs))
            torch.testing.assert_close(tiled.total, plain.total)
            for one, two in zip(tiled_grads, grads, strict=True):
                torch.testing.assert_close(one, two)
    compilation._programs.clear()
    assert counter.frame_count == 1


def test_failing_compiler_falls_back_to_plain_tiles(caplog):
    """A machine without a C++ compiler must train all the same, and say once why it is slower."""

    def no_compiler(function, **_):
        def fail(*args, **kwargs):
            raise RuntimeError("no C++ compiler found")

        return fail

    compilation._programs.clear()
    compilation._reasons.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", no_compiler)
        inputs = references.case()
        plain = references.run(inputs, chunk_size=4).total
        for chunk_size in (4, 4, 3):  # the last is another program, which fails for the same reason
            tiled = references.run(inputs, chunk_size=chunk_size, compile=True).total
            torch.testing.assert_close(tiled, plain)
    compilation._programs.clear()
    assert len([record for record in caplog.records if "no C++ compiler" in record.message]) == 1


def test_missing_states_are_named():
    """A loss that silently skips what it was not given reports a term that never trained."""
    inputs = references.case()
    with pytest.raises(ValueError, match=r"forward_kl.*teacher.*teacher_hidden"):
        chunked_token_losses({"forward_kl": 1.0}, inputs["student_hidden"], inputs["head"], inputs["labels"])
    with pytest.raises(ValueError, match="positions"):
        references.run({**inputs, "teacher_hidden": torch.zeros(3, 5)})
    with pytest.raises(ValueError, match="chunk_size"):
        references.run(inputs, chunk_size=0)
    with pytest.raises(ValueError, match="forward_kl"):
        references.run(inputs, {"forwrd_kl": 1.0})
    with pytest.raises(ValueError, match="info_nce"):
        references.run(inputs, {"info_nce": 1.0})
