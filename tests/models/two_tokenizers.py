# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of a few letters, whose cuts can be told by hand."""

from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast


def letters(merged: list[str], begin: str, end: str, *, first: bool = False, more: list[str] | None = None):
    """Returns a tokenizer of a, b, c, d, `more`, and pairs of them; with `first`, it begins texts with `begin`."""
    plain = ["a", "b", "c", "d", *(more or []), *merged]
    vocabulary = {token: index for index, token in enumerate([begin, end, *(one for one in plain if one != end)])}
    backend = Tokenizer(models.BPE(vocabulary, [(pair[0], pair[1]) for pair in merged]))
    backend.decoder = decoders.Fuse()
    if first:
        backend.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=end)
