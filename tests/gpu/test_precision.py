# SPDX-License-Identifier: Apache-2.0
"""Short runs with all terms in the precisions and memory options of a GPU, against the same run in float32 without them."""

import math

import pytest
import torch
from transformers import BitsAndBytesConfig

from tests import tiny_models
from tests.gpu.devices import FirstGradients, build_on, distances, each_device, on_cuda, plain_copy
from tests.trainers import ON, first_batch, gradients, lora, steps, trained

# Adam would divide by the gradients' size, and clipping by their norm: this is what undoes the loss scale and no more.
NOT_CLIPPED = {"max_grad_norm": 1e9}
ALL_ON = {**ON, "contrastive_queue_size": 50, **NOT_CLIPPED}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
}

# How far all gradients together may move, relative to their norm; a single tensor's may move three times as far, and a
# loss a fifth. Exact in theory: what is left is float32's rounding. Half precision: twice what was measured on a CPU
# (0.036 under bfloat16, of three more bits in float16 an eighth; 0.054 over a backbone in 4 bits).
EXACT, SAME, BF16, FP16, FOUR_BIT = 1e-4, 1e-2, 8e-2, 2e-2, 1.2e-1
OPTIONS = {
    "checkpointing": ({"gradient_checkpointing": True}, EXACT),
    "reentrant": (REENTRANT, EXACT),
    "recompute": ({"noisy_view_recompute": True}, EXACT),
    "recompute_checkpointing": ({"noisy_view_recompute": True, "gradient_checkpointing": True}, EXACT),
    "bf16": ({"bf16": True}, BF16),
    "bf16_recompute": ({"bf16": True, "noisy_view_recompute": True, "gradient_checkpointing": True}, BF16),
    "bf16_reentrant": ({"bf16": True, **REENTRANT}, BF16),
    "bf16_part": ({"bf16": True, "consistency_fraction": 0.5}, BF16),
    "fp16": ({"fp16": True}, FP16),
    "fp16_recompute": ({"fp16": True, "noisy_view_recompute": True, "gradient_checkpointing": True}, FP16),
}
# fp16=True scales the loss, which accelerate does on a GPU alone.
PAIRS = [
    pytest.param(option, device, marks=pytest.mark.gpu if device == "cuda" else ())
    for option in OPTIONS
    for device in ("cpu", "cuda")
    if device == "cuda" or "fp16" not in option
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model 64 wide: bitsandbytes quantizes in blocks of 64."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


def first_steps(device, folder, model, *, adapter=None, given=None, **changes):
    """Trains for three steps at learning rate 0, so that every step has the weights of the first; what it logged and got."""
    kept = FirstGradients()
    given = {"callbacks": [kept], **({"peft_config": adapter} if adapter is not None else {}), **(given or {})}
    trainer = build_on(
        device, folder, model, given=given, **{"max_steps": 3, "learning_rate": 0.0, **ALL_ON, **changes}
    )
    trainer.train()
    return trainer, steps(trainer), kept.by_step


def compare(found, expected, tolerance):
    """Losses and gradients of the first step whose gradients did not overflow; of bfloat16 and float32 the very first."""
    (_, logs, by_step), (_, their_logs, their_steps) = found, expected
    finite = [all(g.isfinite().all() for g in gradients.values()) for gradients in by_step]
    # GradScaler begins at 65536 and halves at each overflow.
    assert any(finite), "no step's gradients were finite: the loss scale found no value in three steps"
    step = finite.index(True)
    for name, value in their_logs[step].items():
        if name.endswith("loss"):
            assert logs[step][name] == pytest.approx(value, rel=tolerance / 5, abs=tolerance / 50), name
    return step, compare_gradients(by_step[step], their_steps[step], tolerance)


def compare_gradients(found, expected, tolerance):
    apart = distances(found, expected)
    whole = math.hypot(*(apart[name] * float(value.norm()) for name, value in expected.items()))
    whole /= math.hypot(*(float(value.norm()) for value in expected.values()))
    worst = next(iter(apart.values()))
    assert whole <= tolerance and worst <= 3 * tolerance, (whole, list(apart.items())[:5])
    return whole


@pytest.fixture(scope="module")
def unaltered(model_dir, tmp_path_factory):
    """Runs in float32 without any option, but for those that are asked for, by device; each trained once."""
    done = {}

    def outcome(device, **changes):
        key = (device, *sorted(changes.items()))
        if key not in done:
            done[key] = first_steps(device, tmp_path_factory.mktemp("float32"), model_dir, adapter=lora(), **changes)
        return done[key]

    return outcome


@pytest.mark.parametrize(("option", "device"), PAIRS)
def test_first_step_under_an_option_is_that_of_float32(option, device, unaltered, model_dir, tmp_path):
    """A pass that misses autocast, a scale undone twice, a view computed again with other noise: all of them train."""
    changes, tolerance = OPTIONS[option]
    fraction = {name: value for name, value in changes.items() if name == "consistency_fraction"}
    found = first_steps(device, tmp_path, model_dir, adapter=lora(), **changes)
    step, whole = compare(found, unaltered(device, **fraction), tolerance)
    if "16" in option:
        assert whole > 1e-4  # it did run in half precision
    assert step == 0 or "fp16" in option


@each_device
@pytest.mark.parametrize("option", ["recompute", "checkpointing", "reentrant"])
def test_how_a_step_is_computed_changes_nothing_under_bf16(option, device, unaltered, model_dir, tmp_path):
    """Beside the rounding of half precision a view that is computed again with other noise would not be seen."""
    changes, _ = OPTIONS[option]
    found = first_steps(device, tmp_path, model_dir, adapter=lora(), bf16=True, **changes)
    compare(found, unaltered(device, bf16=True), SAME)


@on_cuda
def test_training_with_a_loss_scale_moves_every_weight(device, model_dir, tmp_path):
    """A scale that is never found skips every step: the loss is logged, and nothing is learnt."""
    changes = {**ALL_ON, "fp16": True, "max_steps": 8}
    trainer = build_on(device, tmp_path, model_dir, given={"peft_config": lora()}, **changes)
    before = trained(trainer)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in steps(trainer))
    moved = [not torch.equal(value, before[name].to(value.device)) for name, value in trained(trainer).items()]
    assert all(moved)


@on_cuda
def test_first_step_on_the_gpu_is_that_of_the_cpu(device, model_dir, tmp_path):
    """What every other test here compares on one device could be wrong there in both runs."""
    kept = {}
    expected = build_on("cpu", tmp_path / "cpu", model_dir, given={"peft_config": lora()}, **ALL_ON)
    state = {name: value.cpu() for name, value in expected.model.state_dict().items()}
    for place in ("cpu", device):
        trainer = build_on(place, tmp_path / place, model_dir, given={"peft_config": lora()}, **ALL_ON)
        trainer.model.load_state_dict(state)
        kept[place] = {name: g.cpu().double() for name, g in gradients(trainer, first_batch(trainer)).items()}
    compare_gradients(kept[device], kept["cpu"], 1e-3)


@each_device
def test_dora_begins_where_lora_does_and_trains_its_magnitudes(device, unaltered, model_dir, tmp_path):
    """DoRA's first forward is LoRA's: another first gradient of A or B is a pass that was made without the adapter."""
    _, logs, by_step = first_steps(device, tmp_path, model_dir, adapter=lora(use_dora=True))
    _, their_logs, their_steps = unaltered(device)
    assert logs[0]["loss"] == pytest.approx(their_logs[0]["loss"], rel=EXACT / 10)
    magnitudes = {name: g for name, g in by_step[0].items() if "magnitude" in name}
    rest = {name: g for name, g in by_step[0].items() if name not in magnitudes}
    compare_gradients(rest, their_steps[0], EXACT)
    assert len(magnitudes) == len(rest) // 2 and all(g.norm() > 0 for g in magnitudes.values())


# name: (quantization, adapter, options, how far the gradients may move). LLM.int8 rounds the activations too, 4 bits the
# weights alone, which the float32 run reads from the same codes.
QUANTIZED = {
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {}, {}, BF16),
    "nf4_double_bf16": (FOUR_BITS, {}, {"bf16": True}, FOUR_BIT),
    "nf4_dora": (FOUR_BITS, {"use_dora": True}, {"bf16": True}, FOUR_BIT),
    "nf4_checkpointing": (FOUR_BITS, {}, {"bf16": True, "gradient_checkpointing": True}, FOUR_BIT),
    "nf4_recompute": (FOUR_BITS, {}, {"bf16": True, "noisy_view_recompute": True}, FOUR_BIT),
    "nf4_reentrant": (FOUR_BITS, {}, {"bf16": True, **REENTRANT}, FOUR_BIT),
    "int8": ({"load_in_8bit": True}, {}, {"bf16": True}, FOUR_BIT),
    "int8_checkpointing": ({"load_in_8bit": True}, {}, {"bf16": True, "gradient_checkpointing": True}, FOUR_BIT),
}


@each_device
@pytest.mark.parametrize("name", list(QUANTIZED))
def test_first_step_on_a_quantized_backbone_is_that_of_its_weights_in_float32(name, device, model_dir, tmp_path):
    """A kernel whose backward is missing or reads repacked weights leaves finite numbers that nothing else contradicts."""
    quantization, adapter, changes, tolerance = QUANTIZED[name]
    config = lora(**adapter)
    kept = FirstGradients()
    options = {"max_steps": 1, "learning_rate": 0.0, **ALL_ON}
    trainer = build_on(
        device,
        tmp_path / "quantized",
        model_dir,
        given={
            "peft_config": config,
            "quantization_config": BitsAndBytesConfig(**quantization),
            "callbacks": [kept],
        },
        **{**options, **changes},
    )
    plain = plain_copy(model_dir, trainer, lora(**adapter))
    trainer.train()
    exact = FirstGradients()
    reference = build_on(device, tmp_path / "plain", plain, given={"callbacks": [exact]}, **options)
    reference.train()
    compare((trainer, steps(trainer), kept.by_step), (reference, steps(reference), exact.by_step), tolerance)


@each_device
@pytest.mark.parametrize("name", ["nf4_double_bf16", "nf4_dora", "int8"])
def test_three_steps_on_a_quantized_backbone_move_every_weight(name, device, model_dir, tmp_path):
    """A layer without a backward leaves the adapters below it where they were, and says nothing."""
    quantization, adapter, changes, _ = QUANTIZED[name]
    given = {"peft_config": lora(**adapter), "quantization_config": BitsAndBytesConfig(**quantization)}
    changes = {**ALL_ON, "learning_rate": 0.1, "max_steps": 3, **changes}
    trainer = build_on(device, tmp_path, model_dir, given=given, **changes)
    before = trained(trainer)
    trainer.train()
    assert all(math.isfinite(value) for entry in steps(trainer) for value in entry.values())
    still = [key for key, value in trained(trainer).items() if torch.equal(value, before[key].to(value.device))]
    assert not still
