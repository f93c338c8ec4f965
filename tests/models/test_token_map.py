# SPDX-License-Identifier: Apache-2.0
"""Which tokens a model cannot read, and what it reads instead."""

import pytest
from peft import LoraConfig, get_peft_model

from hf_ckt.models.token_map import embedding_rows, resolve_token_map, unknown_tokens
from tests.trainers import load

STUDENT = {"a": 0, "b": 1, "c": 2, "<new>": 3, "<newer>": 4}


def test_tokens_behind_the_embedding_or_unknown_to_the_tokenizer_cannot_be_read():
    """A row of padding can be looked up and was never trained, so that the lookup alone says nothing."""
    assert unknown_tokens(STUDENT, 5) == {}
    assert unknown_tokens(STUDENT, 3) == {3: "<new>", 4: "<newer>"}
    assert unknown_tokens(STUDENT, 128, {"a": 0, "b": 1, "c": 2}) == {3: "<new>", 4: "<newer>"}
    assert unknown_tokens(STUDENT, 4, {"a": 0, "b": 1, "c": 2, "<new>": 3}) == {4: "<newer>"}
    assert unknown_tokens({"a": 0}, 3, STUDENT) == {}  # more than the data has is no matter


@pytest.mark.parametrize("given", [{"<new>": "b", "<newer>": 2}, {3: 1, 4: "c"}, {"3": "1", "4": "2"}])
def test_a_map_names_tokens_by_text_or_id(given):
    """A configuration file has no keys but strings."""
    assert resolve_token_map("field", given, STUDENT, unknown_tokens(STUDENT, 3)) == {3: 1, 4: 2}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"<nw>": "a"}, r"field: '<nw>' is no token.*Did you mean '<new>'"),
        ({"<new>": 99}, "field: 99 is no token"),
        ({"<new>": None}, "field: None is no token"),
        ({"<new>": True}, "field: True is no token"),
        ({"<new>": "<newer>"}, "id 3 is mapped to '<newer>', which the teacher does not have either"),
    ],
)
def test_a_map_to_or_from_nothing_is_refused(given, words):
    """A misspelt token would be replaced nowhere, and the teacher would go on reading noise."""
    with pytest.raises(ValueError, match=words):
        resolve_token_map("field", given, STUDENT, unknown_tokens(STUDENT, 3))


@pytest.mark.parametrize("options", [{"trainable_token_indices": [1]}, {"modules_to_save": ["embed_tokens"]}])
def test_rows_of_an_adapted_embedding_are_counted(options, tiny_model_dir):
    """PEFT wraps the embedding of added tokens, which hides its size."""
    model = load(tiny_model_dir)
    model.resize_token_embeddings(207)
    assert embedding_rows(model) == 207
    assert embedding_rows(get_peft_model(model, LoraConfig(target_modules=["q_proj"], **options))) == 207
