# SPDX-License-Identifier: Apache-2.0
"""Passes up to the head, and the head itself, must add up to the model's own logits."""

import pytest
import torch
import transformers
from torch import nn

from hf_ckt.kernels.chunked_linear import chunked_token_losses
from hf_ckt.models.backbone import frozen, read_head, run_backbone
from tests.trainers import load

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
}
IDS = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 9, 8, 7, 0, 0]])
MASK = (IDS != 0).long()


def make(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **FAMILIES[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    if model.get_output_embeddings().bias is not None:
        nn.init.normal_(model.get_output_embeddings().bias)
    return model


@pytest.mark.parametrize("name", list(FAMILIES))
def test_backbone_and_head_give_the_models_own_logits(name):
    """A missed scale, bias or cap is another distribution, and the loss looks healthy."""
    model = make(name)
    with torch.no_grad(), read_head(model) as head:
        hidden = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}).last_hidden_state
        logits = model(input_ids=IDS, attention_mask=MASK).logits.flatten(0, 1)
        labels = torch.arange(12) % 50
        found = chunked_token_losses({"nll": 1.0}, hidden.flatten(0, 1), head, labels, metrics=["entropy"])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert found.terms["nll"].item() == pytest.approx(expected.item(), rel=1e-5)
    log_probs = logits.log_softmax(-1)
    assert found.metrics["entropy"].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_noise_is_added_to_the_embeddings_once(name):
    """Families scale their embeddings in different places; the noise belongs where NEFTune puts it."""
    model = make(name)
    noise = torch.randn(2, 6, 32)
    inner = model.get_input_embeddings().forward
    with torch.no_grad():
        clean = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}).last_hidden_state
        noisy = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}, noise).last_hidden_state
        again = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}).last_hidden_state
        model.get_input_embeddings().forward = lambda ids: inner(ids) + noise
        expected = run_backbone(model, {"input_ids": IDS, "attention_mask": MASK}).last_hidden_state
    torch.testing.assert_close(noisy, expected, rtol=0, atol=0)
    assert torch.equal(clean, again) and not torch.allclose(clean, noisy, atol=1e-3)


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
