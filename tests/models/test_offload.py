# SPDX-License-Identifier: Apache-2.0
"""Weights that are on a device for the length of a pass only; `cpu:0` stands for another device on a machine without one."""

import pytest
import torch

from hf_ckt.models.offload import OffloadedWeights, require_place
from tests.gpu.devices import CUDA
from tests.trainers import load


def places(model):
    return {name: (one.device, one.data_ptr()) for name, one in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("device", ["cpu:0", CUDA])
def test_offloaded_weights_are_elsewhere_within_a_pass_and_back_after_it(device, tiny_gemma2_dir):
    """What is not taken back fills the device; what is copied back and forth costs twice the time."""
    model = load(tiny_gemma2_dir).requires_grad_(False).eval()  # its head is tied to its embedding
    ids = torch.arange(5, 15)[None]
    expected = model(ids).logits
    weights = OffloadedWeights(model, torch.device(device))
    home = places(model)
    with weights.on_device():
        within = places(model)
        assert all(within[name][1] != home[name][1] for name in home)
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        found, kept = model(ids.to(device)).logits, model.lm_head.weight.detach()
    assert places(model) == home and {where.type for where, _ in home.values()} == {"cpu"}
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert kept.device.type == torch.device(device).type  # as a head is, which outlives the pass
    assert torch.equal(kept.cpu(), model.lm_head.weight)


def test_offloaded_weights_come_back_after_an_error(tiny_model_dir):
    """A batch too long for the memory is tried again with a smaller one, and the weights were lost."""
    model = load(tiny_model_dir).requires_grad_(False)
    weights, home = OffloadedWeights(model, torch.device("cpu:0")), places(model)
    with pytest.raises(torch.OutOfMemoryError), weights.on_device():
        raise torch.OutOfMemoryError
    assert places(model) == home


def test_offloading_to_the_same_device_copies_nothing(tiny_model_dir):
    """On a machine without an accelerator it would cost a copy of the model for each micro-batch."""
    model = load(tiny_model_dir).requires_grad_(False)
    weights, home = OffloadedWeights(model, torch.device("cpu")), places(model)
    with weights.on_device():
        assert places(model) == home


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((None, "cpu", True, False), "device='cpu' and offload: .* Leave one out"),
        (("FSDP", "cpu", False, False), "device='cpu': this run shards its models"),
        (("DEEPSPEED", None, True, False), "offload=True: this run shards its models"),
        ((None, None, True, True), "offload=True: the teacher is quantized"),
    ],
)
def test_places_that_cannot_be_are_refused(asked, message):
    """A setting that is not followed is believed to save memory."""
    from types import SimpleNamespace

    sharded, *rest = asked
    with pytest.raises(ValueError, match=message):
        require_place(SimpleNamespace(distributed_type=sharded or "NO"), *rest)
    require_place(SimpleNamespace(distributed_type="NO"), "cpu", False, True)
    require_place(None, None, True, False)
