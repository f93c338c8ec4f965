# SPDX-License-Identifier: Apache-2.0
"""Tiny models whose verdicts follow from weights that are set by hand."""

from pathlib import Path
from types import MappingProxyType

from tests import tiny_models

# Words that the classifier below looks for; every other word is unknown to it.
MARKED_WORD = "sorry"
TWO_LABELS = MappingProxyType({0: "NORMAL", 1: "REJECTION"})


def save_word_classifier(
    folder: Path, labels: dict[int, str] | MappingProxyType = TWO_LABELS, **config_options
) -> Path:
    """
    Saves a BERT that gives the last label to texts which hold the word "sorry", and the first to all others.

    Its one attention layer takes the mean over all words (queries and keys are 0), everything else passes on what it gets.
    Word vectors are one-hot: "sorry" is the first unit, all others the second. After the layer norms the first unit of a
    text without the word is -0.38, and with it -0.25 or more as long as there are fewer than 9 words.
    """
    import torch
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as parts
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, MARKED_WORD: 4}
    tokenizer = Tokenizer(parts.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", model_max_length=16
    )
    sizes = {"vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 4, "max_position_embeddings": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, id2label=dict(labels), pad_token_id=0, **config_options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.zero_()
        words = model.bert.embeddings.word_embeddings.weight
        words[:, 1] = 1.0
        words[4] = torch.eye(8)[0]
        layer = model.bert.encoder.layer[0].attention
        for square in (layer.self.value, layer.output.dense, model.bert.pooler.dense):
            square.weight.copy_(torch.eye(8))
        model.classifier.weight[-1, 0] = 100.0
        model.classifier.bias[-1] = 30.0
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_letter_counter(folder: Path) -> Path:
    """
    Saves a Llama that replies "A" where the conversation holds a "Z", and "C" elsewhere; never "B".

    Its one attention layer adds the mean over all tokens (queries and keys are 0) to the last one, its MLP nothing. The
    first unit is 1 for every token, the second for "Z" alone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_models.build_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))
    letters = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "ABCZ"}
    with torch.no_grad():
        embeddings, layer = model.model.embed_tokens.weight, model.model.layers[0]
        embeddings.zero_()
        embeddings[:, 0] = 1.0
        embeddings[letters["Z"], 1] = 1.0
        for square in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            square.weight.zero_()
        for square in (layer.self_attn.v_proj, layer.self_attn.o_proj):
            square.weight.copy_(torch.eye(8))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = 0.5  # what every other token gets, the letter B too
        model.lm_head.weight[letters["A"], 1] = 4_000.0
        model.lm_head.weight[letters["C"], 0] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
