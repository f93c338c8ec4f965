# SPDX-License-Identifier: Apache-2.0
"""Tokens are known by what engines call them, and one that may be another is not guessed."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_ckt.models.token_names import TokenNames
from tests.tiny_models import build_tokenizer


@pytest.fixture(scope="module")
def sentence_pieces():
    """A tokenizer of the other kind: a mark for the space, and tokens of single bytes."""
    vocabulary = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581the", "the", "\u2581", "é"]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def test_every_token_of_a_byte_level_tokenizer_is_found_by_its_bytes_and_text():
    """A space that is written otherwise inside the vocabulary would be no token."""
    tokenizer = build_tokenizer()
    names = TokenNames(tokenizer)
    for index in range(len(tokenizer)):
        text = tokenizer.decode([index])
        assert names.id_of(text) == names.id_of(text.encode()) == index
        assert names.id_of(tokenizer.convert_ids_to_tokens(index)) == index


def test_tokens_with_one_text_are_told_apart_by_bytes(sentence_pieces):
    """Decoded alone, a word with and without its space, and all halves of letters, look alike."""
    names = TokenNames(sentence_pieces)
    vocabulary = sentence_pieces.get_vocab()
    assert names.id_of(b" the") == vocabulary["\u2581the"] == names.id_of("\u2581the")
    assert names.id_of(b"the") == vocabulary["the"] == names.id_of("the")
    assert names.id_of(b"\xc3") == vocabulary["<0xC3>"]
    assert names.id_of("\ufffd") is None and names.may_be("\ufffd", vocabulary["<0xC3>"])
    assert not names.may_be("\ufffd", vocabulary["the"])


def test_names_of_no_token_are_none():
    """An id behind the vocabulary is a padded row of the server's head."""
    tokenizer = build_tokenizer()
    names = TokenNames(tokenizer)
    assert names.id_of(len(tokenizer)) is None and names.id_of("no such token") is None
    assert names.may_be("", tokenizer.eos_token_id) and not names.may_be("", tokenizer.convert_tokens_to_ids("a"))
