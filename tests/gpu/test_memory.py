# SPDX-License-Identifier: Apache-2.0
"""A device that is really full, and what the settings that its error names really save."""

import gc

import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size

from tests import tiny_models
from tests.gpu.devices import build_on, each_device, on_cuda
from tests.trainers import ON, first_batch, gradients, lora


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """Six layers and 20,000 ids: activations and logits that stand out from what a run of any size takes."""
    folder = tmp_path_factory.mktemp("six_layers")
    return tiny_models.save_tiny_llama(folder, hidden_size=128, num_hidden_layers=6, vocab_size=20_000)


def make(device, folder, model, **changes):
    return build_on(device, folder, model, given={"peft_config": lora()}, **{**ON, "max_steps": 1, **changes})


@on_cuda
def test_device_without_memory_left_names_the_settings_of_this_run(device, model_dir, tmp_path):
    """The message that torch words itself must stay what auto_find_batch_size looks for, and carry the advice."""
    trainer = make(device, tmp_path, model_dir)
    gradients(trainer, first_batch(trainer))
    trainer.model.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()
    try:
        # From here on the allocator may take no further segment.
        torch.cuda.set_per_process_memory_fraction(1e-9)
        with pytest.raises(torch.OutOfMemoryError) as error:
            trainer.train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert should_reduce_batch_size(error.value)
    # Out of the very step: the model was placed and the batch was there.
    assert "This run would need less memory with" in str(error.value)
    for name in ("objective_chunk_size=", "noisy_view_recompute=True", "gradient_checkpointing=True"):
        assert name in str(error.value)
    assert str(error.value).startswith(str(error.value.__cause__))


def peak(device, folder, model, **changes):
    """The most bytes that a step holds beyond what was there before it."""
    trainer = make(device, folder, model, **changes)
    batch = first_batch(trainer)
    gradients(trainer, batch)
    trainer.model.zero_grad()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients(trainer, batch)
    return torch.cuda.max_memory_allocated() - before


@on_cuda
@pytest.mark.parametrize(
    "changes",
    [
        {"objective_chunk_size": 16},
        # Where tiles are small, what is left to save are activations.
        {"objective_chunk_size": 16, "noisy_view_recompute": True},
        {"objective_chunk_size": 16, "gradient_checkpointing": True},
        {"objective_chunk_size": 16, "per_device_train_batch_size": 2},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_setting_that_the_advice_names_lowers_the_peak(changes, device, model_dir, tmp_path):
    """Advice that costs time and saves nothing is worse than none."""
    base = {"objective_chunk_size": 16} if len(changes) > 1 else {}
    without, with_it = (peak(device, tmp_path / str(len(one)), model_dir, **one) for one in (base, changes))
    assert with_it < 0.9 * without, (with_it, without)


@each_device
def test_tile_that_the_advice_starts_from_is_the_one_of_the_device(device, model_dir, tmp_path):
    """A GPU's tiles are larger than a CPU's: a value that is no smaller than the tile in use would save nothing."""
    from hf_ckt.training.memory_advice import memory_facts

    tile = memory_facts(make(device, tmp_path, model_dir)).tile
    # 80 MiB of float32 logits and at most 128 rows, or 256 MiB; in sixteens.
    assert tile == {"cpu": 128, "cuda": 256 * 2**20 // (4 * 20_000) // 16 * 16}[device]
