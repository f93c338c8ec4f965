# SPDX-License-Identifier: Apache-2.0
"""Passes up to the head, and the head itself, must add up to the model's own logits."""

import copy
import pickle
import re

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_ckt.kernels.chunked_linear import chunked_token_losses
from hf_ckt.models._upstream import adapters_disabled
from hf_ckt.models.backbone import compile_backbone, embedding_width, frozen, read_head, run_backbone
from tests.trainers import ON, build, load, lora

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Families whose logits are more than one product: scaled, divided, biased, capped.
FAMILIES = {
    "Llama": {},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "Phi": {},  # its head has a bias
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 1.5},
    "Qwen3": {"head_dim": 8},
    "RecurrentGemma": {"logits_soft_cap": 1.5, "attention_window_size": 8, "num_hidden_layers": 3},
    "xLSTM": {"output_logit_soft_cap": 1.5, "num_heads": 4},
    "Mpt": {"logit_scale": 0.5, "d_model": 32, "n_heads": 4, "n_layers": 1},  # a field that its code does not read
}
IDS = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 9, 8, 7, 0, 0]])
MASK = (IDS != 0).long()


def make(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **FAMILIES[name]})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    if model.get_output_embeddings().bias is not None:
        nn.init.normal_(model.get_output_embeddings().bias)
    # RecurrentGemma and xLSTM draw their weights by a rule of their own, so small that a cap would not show.
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("name", list(FAMILIES))
def test_backbone_and_head_give_the_models_own_logits(name):
    """A missed scale, bias or cap is another distribution, and the loss looks healthy."""
    model = make(name)
    with torch.no_grad(), read_head(model) as head:
        hidden = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}).last_hidden_state
        logits = model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits.flatten(0, 1)
        labels = torch.arange(12) % 50
        found = chunked_token_losses({"nll": 1.0}, hidden.flatten(0, 1), head, labels, metrics=["entropy"])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert found.terms["nll"].item() == pytest.approx(expected.item(), rel=1e-5)
    log_probs = logits.log_softmax(-1)
    assert found.metrics["entropy"].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_noise_is_added_to_the_embeddings_in_units_of_their_table(name):
    """Families scale their embeddings in different places; the same noise would be a storm to one, nothing to another."""
    model = make(name)
    ids = torch.tensor([[3, 5, 6, 7, 8, 9], [11, 12, 13, 14, 15, 16]])  # no token twice, so each row has its own noise
    noise = torch.randn(2, 6, 32)
    assert embedding_width(model) == 32
    with torch.no_grad():
        clean = run_backbone(model, {"input_ids": ids}).last_hidden_state
        noisy = run_backbone(model, {"input_ids": ids}, noise).last_hidden_state
        again = run_backbone(model, {"input_ids": ids}).last_hidden_state
        model.get_input_embeddings().weight[ids] += noise
        expected = run_backbone(model, {"input_ids": ids}).last_hidden_state
    torch.testing.assert_close(noisy, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(clean, again) and not torch.allclose(clean, noisy, atol=1e-3)


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6]}},
    ],
    ids=lambda adapter: list(adapter)[-1],
)
def test_noise_keeps_its_units_where_embeddings_are_adapted(adapter):
    """PEFT wraps the module that knows the factor; unseen there, the same noise would be a sixth of itself."""
    ids, noise = torch.arange(3, 15).reshape(2, 6), torch.randn(2, 6, 32)
    adapted = get_peft_model(make("Gemma2"), LoraConfig(**adapter)).get_base_model().eval()
    with torch.no_grad():
        expected, found = (run_backbone(one, {"input_ids": ids}, noise) for one in (make("Gemma2"), adapted))
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_noise_knows_the_width_of_a_table_that_zero3_took_apart(tiny_model_dir):
    """Outside of its own pass a parameter is an empty piece there, and noise of width 0 would change nothing."""
    model = load(tiny_model_dir)
    weight = model.get_input_embeddings().weight
    weight.ds_shape = weight.shape
    weight.data = torch.empty(0)
    assert embedding_width(model) == 32


def test_noise_is_gone_after_a_pass_that_failed(tiny_model_dir):
    """A hook left behind would add the noise to every later pass, the teacher's and generation's too."""
    model = load(tiny_model_dir)
    with pytest.raises(RuntimeError):
        run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}, torch.randn(3, 3, 3))
    assert not model.get_input_embeddings()._forward_hooks


def test_backbone_keeps_no_cache(tiny_model_dir):
    """Keys and values of a training batch are memory for nothing, and warn under checkpointing."""
    assert run_backbone(load(tiny_model_dir), {"input_ids": IDS}).past_key_values is None


def test_frozen_gives_every_module_its_own_flag_back(tiny_model_dir):
    """`model.train()` afterwards would switch on what the user had switched off, and an error must not matter."""
    model = load(tiny_model_dir).train()
    model.model.layers[0].eval()
    flags = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(KeyError), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise KeyError
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert torch.is_grad_enabled()


def test_a_frozen_pass_under_autocast_leaves_gradients_to_the_next():
    """autocast keeps cast weights: one cast without gradient would serve the pass that needs one."""
    model = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with frozen(model):
            model(x)
        model(x).sum().backward()
    assert model.weight.grad is not None and model.weight.grad.abs().sum() > 0


class DoublingLlama(transformers.LlamaForCausalLM):
    """A model's own code that does to its logits what no field of its config says."""

    factor = 2.0

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * self.factor
        return output


class DeafLlama(transformers.LlamaForCausalLM):
    """Forbids a token by its logit, in the forward that training would go around."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits[..., 7] = -torch.inf
        return output


def doing_more(name):
    """A model whose logits are more than a product, a scale and a cap."""
    torch.manual_seed(0)
    if name == "ModernBertDecoder":  # a dense layer and a norm before the product
        sizes = {**SIZES, "head_dim": 8, "sep_token_id": 2, "cls_token_id": 1}
        return transformers.ModernBertDecoderForCausalLM(transformers.ModernBertDecoderConfig(**sizes)).eval()
    return {"doubling": DoublingLlama, "deaf": DeafLlama}[name](transformers.LlamaConfig(**SIZES)).eval()


@pytest.mark.parametrize("name", ["ModernBertDecoder", "doubling", "deaf"])
def test_a_head_that_does_more_is_an_error_that_names_both_values(name):
    """Losses, distillation and metrics would be of another distribution than the one that the model generates from."""
    model = doing_more(name)
    with pytest.raises(ValueError) as error:
        run_backbone(model, {"input_ids": IDS, "attention_mask": MASK})
    message = str(error.value)
    assert message.startswith(f"{type(model).__name__}: one of its own logits is ") and "Take a model whose" in message
    own, read = (
        float(number) for number in re.findall(r"(?:logits is|gives) (-?inf|-?[0-9.]*[0-9](?:e[+-][0-9]+)?)", message)
    )
    with torch.no_grad():
        tokens = IDS.unique()[None]
        expected = model(input_ids=tokens).logits
        states = model.base_model(input_ids=tokens).last_hidden_state
        product = states @ model.get_output_embeddings().weight.T
        if model.get_output_embeddings().bias is not None:
            product = product + model.get_output_embeddings().bias
    place = (expected - product).abs().argmax()
    assert own == pytest.approx(expected.flatten()[place].item(), rel=1e-4)
    assert read == pytest.approx(product.flatten()[place].item(), rel=1e-4)


def test_a_head_over_other_ids_is_an_error():
    """Logits cut to the real vocabulary normalise over fewer ids than the output embedding has rows."""

    class CutLlama(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits[..., :40]
            return output

    model = CutLlama(transformers.LlamaConfig(**SIZES))
    with pytest.raises(ValueError, match=r"over 40 ids, from states of width 32.*shape \(50, 32\)"):
        run_backbone(model, {"input_ids": IDS})


def test_a_model_without_hidden_states_below_its_head_is_an_error():
    """A model's own code may name its backbone otherwise, and the first pass would end in an AttributeError."""

    class Alone(transformers.LlamaForCausalLM):
        base_model_prefix = "backbone"  # absent, so that the model is its own base

    with pytest.raises(ValueError, match="Alone: what its `base_model` returns has no last_hidden_state"):
        run_backbone(Alone(transformers.LlamaConfig(**SIZES)), {"input_ids": IDS})


def test_a_compiled_models_copy_is_whole(tiny_model_dir):
    """Compiled code cannot be pickled: a model that was trained with it could be neither copied nor sent."""
    model = load(tiny_model_dir).eval()
    compile_backbone(model, backend="eager")
    noise = torch.randn(2, 6, 32)
    with torch.no_grad():
        expected = run_backbone(model, {"input_ids": IDS}, noise).last_hidden_state
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(run_backbone(twin, {"input_ids": IDS}, noise).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, 1.0001), (torch.bfloat16, 1.05), (torch.float16, 1.01), (torch.float64, 1.0001)],
)
@pytest.mark.parametrize("cast", [None, torch.bfloat16])
def test_a_small_deviation_is_found_and_rounding_is_not(dtype, factor, cast):
    """An error of a few percent trains towards the wrong distribution; a false one stops a run that was right."""
    factor = 1.05 if cast is not None else factor
    for name in ("Llama", "Cohere", "Gemma2", "Granite"):
        with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
            run_backbone(make(name).to(dtype), {"input_ids": IDS})
    model = doing_more("doubling").to(dtype)
    model.factor = factor
    with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
        with pytest.raises(ValueError, match="one of its own logits is"):
            run_backbone(model, {"input_ids": IDS})


def test_heads_are_compared_once_and_leave_no_trace(tiny_model_dir):
    """A pass more in every step, a dropout drawn or a module left in eval mode would make it another run."""
    model = load(tiny_model_dir).train()
    calls = []
    inner = model.forward
    model.forward = lambda *args, **kwargs: calls.append(kwargs["input_ids"].shape) or inner(*args, **kwargs)
    state = torch.get_rng_state()
    for _ in range(3):
        run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}, torch.zeros(2, 6, 32))
    assert calls == [(1, 7)]  # seven different tokens in the batch
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in model.modules())


def test_the_base_below_an_adapter_is_compared_too(tiny_model_dir):
    """A trained copy of the head hides the base's, which the self-teacher reads."""
    adapted = get_peft_model(
        load(tiny_model_dir), LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"])
    )
    model = adapted.get_base_model()
    calls = []
    inner = model.forward
    model.forward = lambda *args, **kwargs: calls.append(0) or inner(*args, **kwargs)
    for _ in range(2):
        with adapters_disabled(model):
            run_backbone(model, {"input_ids": IDS})
        run_backbone(model, {"input_ids": IDS})
    assert len(calls) == 2


def test_weights_that_are_not_finite_are_left_to_the_loss(tiny_model_dir):
    """The error that tells of a broken run would be hidden by one about the model's code."""
    model = load(tiny_model_dir)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = torch.nan
    assert run_backbone(model, {"input_ids": IDS}).last_hidden_state.isfinite().all()


def test_a_model_that_reads_no_few_tokens_alone_is_warned_of(tiny_model_dir, caplog):
    """A model may need more than tokens: it trains as before, and that nothing was compared is said."""
    model = load(tiny_model_dir)
    inner = model.forward

    def forward(*args, **kwargs):
        if "attention_mask" not in kwargs:
            raise ValueError("an attention_mask is needed")
        return inner(*args, **kwargs)

    model.forward = forward
    run_backbone(model, {"input_ids": IDS, "attention_mask": MASK})
    assert "LlamaForCausalLM: it gives no logits for a few tokens alone (an attention_mask is needed)" in caplog.text


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_trainer_stops_at_the_first_batch(role, tiny_model_dir, tmp_path):
    """Student and teacher are read in the same way, and either would spoil the run without a sign."""
    odd = DoublingLlama.from_pretrained(tiny_model_dir, dtype=torch.float32)
    given = {"peft_config": lora(), **({"teacher_model": odd} if role == "teacher" else {})}
    trainer = build(tmp_path, odd if role == "student" else tiny_model_dir, given=given, **ON)
    with pytest.raises(ValueError, match="DoublingLlama: one of its own logits is"):
        trainer.train()
    assert trainer.state.global_step == 0
