# SPDX-License-Identifier: Apache-2.0
"""How many tokens fit a model's learned positions."""

import pytest
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from hf_ckt.models.positions import learned_positions, require_room

SIZES = {"vocab_size": 20, "hidden_size": 8}
LEARNED = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=12, n_embd=8, n_layer=1, n_head=2)),
    "gpt_neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(**SIZES, max_position_embeddings=12, num_layers=1, num_heads=2, attention_types=[[["global"], 1]])
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SIZES,
            max_position_embeddings=12,
            ffn_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=8,
        )
    ),
}
ENDLESS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES, max_position_embeddings=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    ),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES, n_layer=1, n_head=2)),
}


@pytest.mark.parametrize("name", LEARNED)
def test_learned_positions_end_where_the_model_fails(name):
    """One position too few refuses a run that trains, one too many ends in an IndexError."""
    import torch

    model = LEARNED[name]()
    assert learned_positions(model) == 12
    model(torch.zeros(1, 12, dtype=torch.long))
    with pytest.raises(IndexError):
        model(torch.zeros(1, 13, dtype=torch.long))
    require_room(model, 12)
    with pytest.raises(ValueError, match=r"13 tokens, .* learned 12 positions"):
        require_room(model, 13)


@pytest.mark.parametrize("name", ENDLESS)
def test_computed_positions_have_no_end(name):
    """Models that read on beyond their config's number are trained there by SFTTrainer."""
    import torch

    model = ENDLESS[name]()
    assert learned_positions(model) is None
    model(torch.zeros(1, 20, dtype=torch.long))
    require_room(model, 1000)


def test_positions_of_an_image_are_none_of_a_text(tmp_path):
    """The patches of a vision tower are few, and every prompt would be longer."""
    from transformers import AutoModelForImageTextToText

    from tests.trainers import save_tiny_llava

    assert learned_positions(AutoModelForImageTextToText.from_pretrained(save_tiny_llava(tmp_path))) is None
