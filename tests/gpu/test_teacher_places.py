# SPDX-License-Identifier: Apache-2.0
"""A model teacher that is not on the training device, or there for the length of its pass only."""

import gc

import pytest
import torch

from hf_ckt.models.batch import Batch
from tests import tiny_models
from tests.gpu.devices import build_on, each_device, on_cuda, to_device
from tests.runs import OFF
from tests.teachers.signals import logits_of
from tests.trainers import ON, first_batch, gradients, lora, run, steps


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small student, and a teacher whose weights stand out from all else."""
    folder = tmp_path_factory.mktemp("models")
    student = tiny_models.save_tiny_llama(folder / "student", hidden_size=64)
    return student, tiny_models.save_tiny_llama(folder / "teacher", hidden_size=256, num_hidden_layers=4, seed=7)


def make(where, folder, folders, weights=ON, /, **settings):
    student, teacher = folders
    given = {"peft_config": lora(), "teacher_model": {"model": str(teacher), **settings}}
    return build_on(where, folder, student, given=given, **weights)


@each_device
@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"offload": True}], ids=["elsewhere", "offloaded"])
def test_a_teacher_in_another_place_teaches_the_same(settings, device, folders, tmp_path):
    """States that stay behind, or a head of another device, are an error at best."""
    plain, other = make(device, tmp_path / "a", folders), make(device, tmp_path / "b", folders, **settings)
    inputs = to_device(first_batch(plain), device)
    batch = Batch(inputs, inputs.pop("labels"))
    signals = [one._extra_passes.teacher.signal(batch, one._causal_lm) for one in (plain, other)]
    for _, head in signals:
        assert head.weight.device.type == device
    assert signals[1].hidden.device == batch.labels.device
    torch.testing.assert_close(logits_of(signals[1]), logits_of(signals[0]), rtol=1e-3, atol=1e-3)
    assert other._extra_passes.teacher.head(other._causal_lm).weight.device.type == device
    for one, two in zip(steps(run(plain)), steps(run(other)), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert {p.device.type for p in other._extra_passes.teacher.model.parameters()} == {"cpu"}


@on_cuda
@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"offload": True}], ids=["elsewhere", "offloaded"])
def test_a_teacher_in_another_place_leaves_the_device_free(settings, device, folders, tmp_path):
    """A copy that is kept makes the setting cost time and save nothing."""
    held, peaks = {}, {}
    for name, one in (("plain", {}), ("other", settings)):
        trainer = make(device, tmp_path / name, folders, {**OFF, "distillation_weight": 1.0}, **one)
        teacher = trainer._extra_passes.teacher.model
        size = sum(p.numel() * p.element_size() for p in teacher.parameters())
        head = teacher.lm_head.weight.numel() * teacher.lm_head.weight.element_size()
        gradients(trainer, first_batch(trainer))
        trainer.model.zero_grad()
        gc.collect()
        torch.cuda.synchronize()
        held[name] = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        gradients(trainer, first_batch(trainer))
        peaks[name] = torch.cuda.max_memory_allocated()
        del trainer, teacher
        gc.collect()
        torch.cuda.empty_cache()
    kept = head if "device" in settings else 0
    assert held["plain"] - held["other"] >= 0.9 * (size - kept)
    if "device" in settings:
        assert peaks["plain"] - peaks["other"] >= 0.9 * (size - kept)
    else:
        assert peaks["other"] <= peaks["plain"] + 0.1 * size


@on_cuda
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_teacher_stays_where_it_was_quantized(bits, device, folders, tmp_path):
    """Weights of 4 and 8 bits are never moved: they are loaded where they stay."""
    trainer = make(device, tmp_path, folders, **{"device": "cuda:0", f"load_in_{bits}bit": True})
    assert {p.device.type for p in trainer._extra_passes.teacher.model.parameters()} == {"cuda"}
    assert all(step["distillation_loss"] > 0 for step in steps(run(trainer)))
