# SPDX-License-Identifier: Apache-2.0
"""Tokens that one model's data holds and another model does not have."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..checks import nearest


def embedding_rows(model: Any) -> int:
    """Returns how many ids a model can read; its weight may be sharded and tell another number."""
    embedding: nn.Module = model.get_input_embeddings()
    rows = getattr(embedding, "num_embeddings", None)
    return int(model.config.get_text_config().vocab_size if rows is None else rows)


def unknown_tokens(vocabulary: Mapping[str, int], rows: int, known: Mapping[str, int] | None = None) -> dict[int, str]:
    """
    Returns the ids, with their tokens, that a model cannot read.

    Args:
        vocabulary (`Mapping[str, int]`):
            Token to id of the tokenizer that made the data.
        rows (`int`):
            Rows of the model's embedding.
        known (`Mapping[str, int]`, *optional*):
            The vocabulary of the model's own tokenizer. A padded row behind it was never trained: it can be read, and
            what is read is noise.
    """
    ids = None if known is None else set(known.values())
    return {index: token for token, index in vocabulary.items() if index >= rows or (ids and index not in ids)}


def resolve_token_map(
    field: str, given: Mapping[Any, Any], vocabulary: Mapping[str, int], unknown: Mapping[int, str]
) -> dict[int, int]:
    """
    Returns a map of tokens as one of ids.

    Args:
        field (`str`):
            Where it was set, for messages.
        given (`Mapping`):
            From a token to the one that is read in its place; each a token's text or its id.
        vocabulary (`Mapping[str, int]`):
            Token to id of the tokenizer that made the data.
        unknown (`Mapping[int, str]`):
            What the model cannot read, so that nothing may be mapped to it.

    Raises:
        ValueError: If a token is not in the vocabulary, or is mapped to one that the model does not have either.
    """
    replaced = {_id(field, one, vocabulary): _id(field, other, vocabulary) for one, other in given.items()}
    for index, target in replaced.items():
        if target in unknown:
            raise ValueError(
                f"{field}: id {index} is mapped to {unknown[target]!r}, which the teacher does not have either, so it could "
                "not be read. Name a token that both tokenizers have."
            )
    return replaced


def _id(field: str, token: Any, vocabulary: Mapping[str, int]) -> int:
    if isinstance(token, str) and token in vocabulary:
        return vocabulary[token]
    # A configuration file and a command line have no keys but strings.
    index = int(token) if isinstance(token, str) and token.isdigit() else token
    if isinstance(index, int) and not isinstance(index, bool) and index in vocabulary.values():
        return index
    raise ValueError(
        f"{field}: {token!r} is no token of the student's tokenizer, so nothing would be replaced.{nearest(token, vocabulary)} "
        "Give the text of a token or its id."
    )
