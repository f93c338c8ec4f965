# SPDX-License-Identifier: Apache-2.0
"""Whether the adapters' switch gives back the model that was loaded, asked of that model itself."""

import copy

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    LoraGAConfig,
    OFTConfig,
    PrefixTuningConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora.config import CordaConfig, KasaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ckt.models._upstream import adapters_disabled
from hf_ckt.models.frozen_base import why_no_frozen_base

IDS = torch.arange(12)[None]
TARGETS = {"target_modules": ["q_proj", "up_proj"]}


def lora(**options):
    return lambda: LoraConfig(**{"r": 4, **TARGETS, **options})


# Adapter -> words of the reason, or None where the base is frozen.
ADAPTERS = {
    "lora": (lora(), None),
    "drawn": (lora(init_lora_weights=False), None),
    "gaussian": (lora(init_lora_weights="gaussian"), None),
    "orthogonal": (lora(init_lora_weights="orthogonal"), None),
    "mica": (lora(init_lora_weights="mica"), None),
    "dora": (lora(use_dora=True), None),
    "lora_bias": (lora(lora_bias=True), None),
    "copies": (lora(modules_to_save=["embed_tokens", "lm_head"]), None),
    "tied_copy": (lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True), None),
    "token_rows": (lora(trainable_token_indices=[1, 2]), None),
    "tokens_alone": (lambda: TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[1, 2]), None),
    "adalora": (lambda: AdaLoraConfig(total_step=10, **TARGETS), None),
    "ia3": (lambda: IA3Config(feedforward_modules=["up_proj"], **TARGETS), None),
    "ln_tuning": (lambda: LNTuningConfig(target_modules=["input_layernorm", "norm"]), None),
    "vera": (lambda: VeraConfig(**TARGETS), None),
    "vblora": (lambda: VBLoRAConfig(vector_length=8, num_vectors=16, **TARGETS), None),
    "loha": (lambda: LoHaConfig(**TARGETS), None),
    "oft": (lambda: OFTConfig(oft_block_size=8, r=0, **TARGETS), None),
    "boft": (lambda: BOFTConfig(boft_block_size=4, **TARGETS), None),
    "hra": (lambda: HRAConfig(r=2, **TARGETS), None),
    "bias_all": (lora(bias="all"), "bias='all'"),
    "bias_lora_only": (lora(bias="lora_only"), "q_proj.base_layer.bias"),
    "pissa": (lora(init_lora_weights="pissa"), "init_lora_weights='pissa'"),
    "pissa_niter": (lora(init_lora_weights="pissa_niter_4"), "init_lora_weights='pissa_niter_4'"),
    "olora": (lora(init_lora_weights="olora"), "init_lora_weights='olora'"),
    "corda": (lora(init_lora_weights="corda", corda_config=CordaConfig()), "init_lora_weights='corda'"),
    "lora_ga": (lora(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()), "init_lora_weights='lora_ga'"),
    "kasa": (lora(kasa_config=KasaConfig()), "kasa_config"),
    "stacked_layers": (lora(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
}


def make_base(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(
        **sizes, num_attention_heads=4, initializer_range=0.2, attention_bias=True, tie_word_embeddings=tied
    )
    return LlamaForCausalLM(config).eval()


def adapt(model, config):
    if config.peft_type == "LORA" and config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=lambda: model(IDS))
    if config.peft_type == "LORA" and config.init_lora_weights == "lora_ga":
        preprocess_loraga(model, config, lambda: model(IDS, labels=IDS).loss.backward())
    return get_peft_model(model, config).eval()


@pytest.mark.filterwarnings("ignore")  # peft warns of untied copies
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_base_is_called_frozen_where_training_leaves_its_outputs_alone(name):
    """A self-teacher that drifts, or is another model from the start, differs from the base by a KL of 0.04 to 1.3."""
    make, words = ADAPTERS[name]
    base = make_base(tied=name == "tied_copy")
    expected = base(IDS).logits.detach()
    model = adapt(base, make())
    with torch.no_grad():
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:  # as training might leave them
            parameter.add_(0.3 * torch.randn_like(parameter))
        with adapters_disabled(base):
            off = base(IDS).logits
    assert trained and not torch.allclose(model(IDS).logits, expected, atol=1e-2)
    reason = why_no_frozen_base(base)
    assert (reason is None) == torch.allclose(off, expected, atol=1e-4)
    assert (reason is None) == (words is None)
    if reason is not None:
        assert words in reason


def test_weights_unfrozen_by_hand_are_named():
    """Whoever trains a norm beside the adapter distils from a base that moves with it."""
    base = make_base(tied=False)
    get_peft_model(base, lora()())
    base.model.norm.weight.requires_grad_(True)
    base.model.layers[1].input_layernorm.weight.requires_grad_(True)
    reason = why_no_frozen_base(base)
    assert "model.layers.1.input_layernorm.weight and 1 more" in reason and "freeze it" in reason


def test_a_second_adapter_that_rewrote_the_base_counts_too():
    """The base is one for all adapters, whichever of them is active."""
    base = make_base(tied=False)
    model = get_peft_model(base, lora()())
    assert why_no_frozen_base(base) is None
    model.add_adapter("other", lora(init_lora_weights="pissa")())
    assert "pissa" in why_no_frozen_base(base)


@pytest.mark.parametrize("name", ["loftq", "something_new"])
def test_initializations_that_cannot_be_tried_here_are_refused(name):
    """LoftQ needs a GPU to be made; a name that comes later is one of unknown effect, and most rewrite the base."""
    base = make_base(tied=False)
    model = get_peft_model(base, lora()())
    config = copy.copy(model.peft_config["default"])
    config.init_lora_weights = name
    model.peft_config["default"] = config
    assert f"init_lora_weights={name!r}" in why_no_frozen_base(base)


def test_models_without_a_switch_have_no_frozen_base():
    """Full fine-tuning and virtual tokens have nothing to switch off."""
    assert "PEFT adapter" in why_no_frozen_base(make_base(tied=False))
    model = get_peft_model(make_base(tied=False), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert "PEFT adapter" in why_no_frozen_base(model.get_base_model())
