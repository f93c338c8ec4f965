# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt fit`: the parts of its formula against models that exist, built tiny or counted without weights."""

import json

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from hf_ckt.cli import fit
from hf_ckt.discovery import load_part, part_names
from hf_ckt.fit.memory_model import (
    BLOCK_TEMPORARIES,
    FitCase,
    adapter_bytes,
    adapter_parameters,
    layer_bytes,
    linear_weight_bytes,
    longest,
    parts,
    peak_bytes,
    saved_bytes,
)
from hf_ckt.fit.shapes import SHAPES, ModelShape
from hf_ckt.kernels.tile_program import TileProgram
from memory import peak_extra_bytes

# Sizes that tell apart what a formula could confuse: width and heads times their size, queries and keys.
TINY = ModelShape("tiny", 3, 128, 320, 8, 2, 32, 512, tied=False)
TOKENS = 192


def build(precision):
    """The tiny model with its adapter, as SFTTrainer would build it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(TINY.config()).to(torch.float32 if precision == "fp32" else torch.bfloat16)
    bits = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "int8": {"load_in_8bit": True},
    }.get(precision)
    if bits is not None:
        model = LlamaForCausalLM.from_pretrained(
            None,
            config=TINY.config(),
            state_dict=model.state_dict(),
            dtype=torch.bfloat16,
            quantization_config=BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.bfloat16, **bits),
        )
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad and bits is not None:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.train()


def saved_by(model, precision):
    """Bytes that a pass saves for its backward: storages counted once, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    # Autocast's copies of the adapter are counted with the adapter.
    adapter = {tuple(p.shape) for p in model.parameters() if p.requires_grad}
    adapter |= {shape[::-1] for shape in adapter}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(tensor.shape) not in adapter:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, TINY.vocab, (1, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
            output = model.base_model.model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_activations_are_what_autograd_saves(precision, checkpointing):
    """A formula that leaves out a saved tensor promises lengths that run out of memory hours into a run."""
    model = build(precision)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    case = FitCase(TINY, "bf16" if precision == "fp32" else precision)
    width = 4 if precision == "fp32" else 2
    expected = saved_bytes(case, TOKENS, checkpointing=checkpointing, width=width)
    assert saved_by(model, precision) == pytest.approx(expected, rel=0.15)


def test_assumed_gradients_cover_the_allocators_peak():
    """An assumption below what a backward holds makes every length of the table too long; far above it, useless."""
    model = build("bf16")
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    ids = torch.randint(0, TINY.vocab, (1, 512))

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            output = model.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
        output.float().sum().backward()
        model.zero_grad()

    step()
    case = FitCase(TINY, "bf16")
    expected = saved_bytes(case, 512, checkpointing=True) + layer_bytes(case, 512)
    assert 0.75 * expected < peak_extra_bytes(step, "cpu") <= expected


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantized_weights_are_what_bitsandbytes_holds(precision):
    """Quantization constants are an eighth of 4-bit weights where they are not quantized in turn."""
    model = build(precision)
    found = 0
    for module in model.modules():
        if isinstance(module, (Linear4bit, Linear8bitLt)):  # not PEFT's wrappers of the same names
            weight = module.weight
            found += weight.nbytes
            if precision == "nf4":
                state = weight.quant_state
                found += state.absmax.nbytes + state.state2.absmax.nbytes
            else:
                found += weight.SCB.nbytes
    assert found == pytest.approx(linear_weight_bytes(FitCase(TINY, precision)), rel=0.01)


def test_adapter_is_what_peft_trains():
    """An adapter counted on some of the linear maps is a fraction of the one that trains."""
    trained = sum(parameter.numel() for parameter in build("bf16").parameters() if parameter.requires_grad)
    assert adapter_parameters(FitCase(TINY, "bf16")) == trained
    # float32 weight, gradient and two moments; and autocast's copy.
    assert adapter_bytes(FitCase(TINY, "bf16")) == 18 * trained


@pytest.mark.parametrize(
    "name, published",
    # Parameters as the Hub counts them; Qwen's biases, which the shape leaves out, are 0.003 % of its.
    [
        ("1b", 1_235_814_400),
        ("3b", 3_212_749_824),
        ("8b", 8_030_261_248),
        ("14b", 14_770_033_664),
        ("32b", 32_763_876_352),
    ],
)
def test_shape_has_the_published_number_of_parameters(name, published):
    """A wrong width in the table would move every figure that is computed from it."""
    shape = SHAPES[name]
    counted = shape.linear_parameters + shape.embedding_parameters + shape.norm_parameters
    assert counted == pytest.approx(published, rel=1e-4)
    with torch.device("meta"):
        model = LlamaForCausalLM(shape.reduced(layers=1).config())
    one = shape.reduced(layers=1)
    assert sum(p.numel() for p in model.parameters()) == (
        one.linear_parameters + one.embedding_parameters + one.norm_parameters
    )


def test_longest_is_the_last_that_fits():
    """An off-by-one of the search would name a length that does not fit, or one that wastes the card."""
    case = FitCase(SHAPES["8b"], "nf4")
    tokens = longest(case, 24e9)
    assert tokens > 0 and peak_bytes(case, tokens) <= 24e9 < peak_bytes(case, tokens + 64)
    assert longest(case, 48e9) > tokens
    assert longest(FitCase(SHAPES["8b"], "nf4", recompute=True), 24e9) > tokens
    assert longest(FitCase(SHAPES["32b"], "bf16"), 24e9) == 0


@pytest.mark.parametrize(
    ("losses", "dtype", "blocks"),
    [
        (("nll", "forward_kl", "consistency_kl"), torch.bfloat16, BLOCK_TEMPORARIES),
        (("nll", "forward_kl", "consistency_kl"), torch.float32, 8),
        (("nll", "jensen_shannon", "symmetric_kl"), torch.float32, 15),
    ],
)
def test_a_block_holds_as_many_temporaries_as_is_said(losses, dtype, blocks):
    """What is called one tile a view and is a dozen runs out of memory in the first step."""
    metrics = [name for name in part_names("metrics") if load_part("metrics", name).logged]
    program = TileProgram(
        [(name, load_part("losses", name)()) for name in losses],
        [
            (name, load_part("metrics", name)())
            for name in metrics
            if "reference" not in load_part("metrics", name).needs
        ],
    )
    rows, vocab, views = 16, 20_000, ("student", "noisy", "teacher")
    logits = {name: torch.randn(rows, vocab).to(dtype) for name in views}
    caps = dict.fromkeys(views, (1.0, None))
    facts = (torch.arange(rows), torch.ones(rows, dtype=torch.bool), torch.ones(3), ("student", "noisy"))

    def call():
        program.differentiate(logits, {name: name for name in views}, caps, *facts)

    call()
    assert peak_extra_bytes(call, "cpu") / (rows * vocab * 4) == pytest.approx(blocks, abs=0.1)


def test_peak_counts_the_larger_phase_once():
    """The objective's tile is gone when the layers are differentiated; adding both would refuse what fits."""
    held = parts(FitCase(SHAPES["8b"], "nf4"), 4096)
    phases = [held.pop("one layer"), held.pop("objective")]
    assert peak_bytes(FitCase(SHAPES["8b"], "nf4"), 4096) == pytest.approx(sum(held.values()) + max(phases))


def test_run_prints_and_writes_every_row(tmp_path, capsys):
    """A row that is in the file and not in the table, or the reverse, is read by half of the readers."""
    file = tmp_path / "fit.json"
    assert fit.run(["--memory-gb", "24", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert len(document["variants"]) == len(SHAPES) * 3 * 2
    for one in document["variants"].values():
        assert f"{one['tokens']:,}" in text
    assert "checkpoints" in text and "Gram" in text
