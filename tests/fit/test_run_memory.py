# SPDX-License-Identifier: Apache-2.0
"""The memory formula at a run's own sizes: of the right model, and refused where it is of another."""

import pytest
import torch
from transformers import BitsAndBytesConfig, GPT2Config, LlamaForCausalLM

from hf_ckt.fit.memory_model import FitCase, adapter_parameters, parts, peak_bytes
from hf_ckt.fit.run_memory import run_memory
from hf_ckt.fit.shapes import SHAPES, ModelShape
from tests.runs import OFF
from tests.tiny_models import save_tiny_gemma2, save_tiny_llama
from tests.trainers import ON, build, load, lora


@pytest.mark.parametrize("name", SHAPES)
def test_shape_read_from_a_configuration_is_the_shape(name):
    """Widths that change places give another model of the same size."""
    shape = SHAPES[name]
    found = ModelShape.of(shape.config())
    assert found is not None and found.family == "llama"
    assert {**vars(found), "family": ""} == {**vars(shape), "family": ""}
    with torch.device("meta"):
        model = LlamaForCausalLM(shape.reduced(2).config())
    assert sum(p.numel() for p in model.parameters()) == shape.reduced(2).parameters


def test_configuration_of_another_kind_has_no_shape():
    """A model without a gated layer, read as one with, is calculated too large."""
    assert ModelShape.of(GPT2Config()) is None


def test_memory_of_a_run_is_the_formula_at_its_sizes(tmp_path):
    """A calculation for another rank, precision or length is of another run."""
    folder = save_tiny_llama(tmp_path / "model", hidden_size=64)
    teacher = load(save_tiny_llama(tmp_path / "teacher", seed=5))
    given = {
        "peft_config": lora(r=8),
        "teacher_model": teacher,
        "quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    }
    trainer = build(tmp_path, folder, given=given, **ON, noisy_view_recompute=True, gradient_checkpointing=True)
    found = run_memory(trainer, 4 * 50)
    # As tests/tiny_models.py makes it.
    shape = ModelShape("llama", 2, 64, 128, 4, 2, 16, len(trainer.processing_class), tied=False)
    case = FitCase(shape, "nf4", 8, recompute=True)
    assert found.parts == parts(case, 200)
    assert found.teachers == sum(p.numel() * p.element_size() for p in teacher.parameters()) > 0
    assert found.peak == peak_bytes(case, 200) + found.teachers
    assert found.differences == () and list(found.fits) == ["24 GB", "40 GB", "80 GB"]
    assert peak_bytes(case, found.fits["24 GB"]) + found.teachers <= 24e9


def test_what_a_run_has_otherwise_is_said(tiny_model_dir, tmp_path):
    """A number for a run with all terms, read as that of a run with fewer, is too large without a word."""
    given = {"peft_config": lora(target_modules=["q_proj"])}
    trainer = build(tmp_path, tiny_model_dir, given=given, **OFF)
    found = run_memory(trainer, 10)
    case = FitCase(ModelShape.of(trainer.model.config), "bf16", 4)
    assert found.teachers == 0 and len(found.differences) == 4
    expected = f"{adapter_parameters(case):,} trained parameters (LoRA on all linear layers), and this run has 512"
    assert expected in found.differences  # rank 4 times 32 + 32, in two layers


def test_other_models_are_not_calculated(tiny_model_dir, tmp_path):
    """Gemma has norms and caps that the formula knows nothing of, and a whole model has no adapter."""
    gemma = build(tmp_path, save_tiny_gemma2(tmp_path / "gemma"), given={"peft_config": lora()}, **OFF)
    assert run_memory(gemma, 10) == "it is of Llama-like layers, and Gemma2ForCausalLM is built otherwise"
    whole = build(tmp_path, tiny_model_dir, **OFF)
    assert "this run trains no such adapter" in run_memory(whole, 10)
