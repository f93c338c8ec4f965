# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny random models that the tests train."""

from pathlib import Path

# ChatML, with the generation markers that `assistant_only_loss` needs.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}"
    "{%- else %}{{- message['content'] + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

_TEXT = [
    "How do I kill a process that does not answer? Find its number first, then end it.",
    "I cannot help with that: it could hurt someone. If you are in danger, call for help.",
    "What is the best way to bake bread? Mix flour, water, salt and yeast, and give it time.",
    "system user assistant The quick brown fox jumps over the lazy dog, and then it rests.",
]


def build_tokenizer(vocab_size: int = 200, text: list[str] = _TEXT):
    """Returns a byte-level BPE tokenizer with ChatML, trained on a few sentences: any printable ASCII survives it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Byte-level BPE writes a space as "Ġ" and a line break as "Ċ". All 256 bytes would not fit the small vocabulary.
    alphabet = ["Ġ", "Ċ", *map(chr, range(33, 127))]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def save_tiny_llama(folder: Path, *, hidden_size: int = 32, seed: int = 0, **overrides) -> Path:
    """Saves a random Llama with its tokenizer; `overrides` go to its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    config = LlamaConfig(**{**_sizes(tokenizer, hidden_size), "tie_word_embeddings": False, **overrides})
    torch.manual_seed(seed)
    return _save(LlamaForCausalLM(config), tokenizer, folder)


def save_tiny_gemma2(folder: Path, *, hidden_size: int = 32, seed: int = 0, **overrides) -> Path:
    """Saves a random Gemma 2 with its tokenizer; the soft cap is low enough to bend its small logits."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = build_tokenizer()
    sizes = {**_sizes(tokenizer, hidden_size), "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
    config = Gemma2Config(**{**sizes, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 50.0, **overrides})
    torch.manual_seed(seed)
    return _save(Gemma2ForCausalLM(config), tokenizer, folder)


def _sizes(tokenizer, hidden_size: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        # Ten times the usual spread: predictions far enough from uniform that a wrong loss shows.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
