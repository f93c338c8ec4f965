# SPDX-License-Identifier: Apache-2.0
"""The same text in two tokenizers, small enough to be aligned by hand."""

import logging

import pytest
from transformers import PreTrainedTokenizerFast

from hf_ckt.models.foreign_tokenizer import ForeignTokenizer
from tests import tiny_models
from tests.models.two_tokenizers import letters


def match_names(own, foreign, text, **settings):
    """(own token before, foreign token before, foreign tokens that cover the next own one) of each match."""
    tokenizers = ForeignTokenizer(own, foreign, **settings)
    ids = own(text)["input_ids"]
    reading = tokenizers.read(ids, range(len(ids)))
    names = foreign.convert_ids_to_tokens(reading.ids)
    return [
        (match.position, names[match.state], names[match.state + 1 : match.end + 1]) for match in reading.matches
    ], names


def test_boundaries_meet_where_both_tokenizers_have_one():
    """A state that is one token off answers for another text, and its loss falls all the same."""
    own, foreign = letters(["ab"], "<s>", "</s>"), letters(["cd"], "[B]", "[E]", first=True)
    # own: <s> ab c d ab </s>, foreign: [B] a b cd a b [E]; between c and d the foreign one has no boundary.
    matches, names = match_names(own, foreign, "<s>abcdab</s>")
    assert names == ["[B]", "a", "b", "cd", "a", "b", "[E]"]
    assert matches == [
        (0, "[B]", ["a", "b"]),
        (1, "b", ["cd"]),
        (3, "cd", ["a", "b"]),
        (4, "b", ["[E]"]),
    ]


def test_tokens_are_shared_by_their_text_and_end_by_its_role():
    """A token under another's name would be pulled up wherever that one is right."""
    own, foreign = letters(["ab"], "<s>", "</s>"), letters(["cd"], "[B]", "[E]", first=True)
    pairs = ForeignTokenizer(own, foreign).pairs
    names = {own.convert_ids_to_tokens(one): foreign.convert_ids_to_tokens(other) for one, other in pairs.items()}
    assert names == {"a": "a", "b": "b", "c": "c", "d": "d", "</s>": "[E]"}


def test_a_special_token_becomes_what_the_map_says_and_nothing_without_one(caplog):
    """A chat marker read as letters would teach how to spell it; one that is left out in silence is missed by nobody."""
    own, foreign = letters(["ab"], "<s>", "</s>"), letters([], "[B]", "[E]", first=True)
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        matches, names = match_names(own, foreign, "<s>a<s>b")
    assert names == ["[B]", "a", "b"] and caplog.text.count("has no '<s>'") == 1
    # Before the second <s> the foreign one goes on with b, behind it too: only there is that the own next token.
    assert matches == [(0, "[B]", ["a"]), (2, "a", ["b"])]
    caplog.clear()
    matches, names = match_names(own, foreign, "<s>a<s>b", token_map={"<s>": "cc"})
    assert names == ["[B]", "c", "c", "a", "c", "c", "b"] and not caplog.text
    assert matches == [(0, "c", ["a"]), (1, "a", ["c", "c"]), (2, "c", ["b"])]


def test_what_a_user_wrote_is_text_also_where_it_reads_like_a_special_token():
    """A user could otherwise end the teacher's text in its middle."""
    own, foreign = tiny_models.build_tokenizer(), letters([], "[B]", "cd", first=True)
    assert foreign.convert_ids_to_tokens(foreign("acdb")["input_ids"]) == ["[B]", "a", "cd", "b"]
    _, names = match_names(own, foreign, "acdb")
    assert names == ["[B]", "a", "c", "d", "b"]


def test_characters_of_several_tokens_have_no_boundary_within():
    """Half a character has no text, and no place in the other tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # One token a byte, as byte-level tokenizers write what they do not know.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    in_bytes = PreTrainedTokenizerFast(tokenizer_object=backend)
    whole = letters([], "[B]", "[E]", more=["é"])
    ids = in_bytes("aéb")["input_ids"]
    assert len(ids) == 4
    reading = ForeignTokenizer(in_bytes, whole).read(ids, range(4))
    # From a to the first half of é is no text; from the second half to b is.
    assert [(match.position, match.state, match.end) for match in reading.matches] == [(2, 1, 2)]
    back = ForeignTokenizer(whole, in_bytes).read(whole("aéb")["input_ids"], range(3))
    assert [(match.position, match.state, match.end) for match in back.matches] == [(0, 0, 2), (1, 2, 3)]


def test_a_tokenizer_without_offsets_is_refused():
    """Aligned by guesses, every distribution would be of another place."""

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"cross_tokenizer: the teacher's tokenizer \(Slow\) cannot tell where"):
        ForeignTokenizer(tiny_models.build_tokenizer(), Slow())


@pytest.mark.parametrize("token_map", [{"<nothing>": "a"}, {"<s>": 3}, {"999999": "a"}])
def test_a_map_of_what_is_no_token_is_refused(token_map):
    """A misspelt marker would be left out as before."""
    with pytest.raises(ValueError, match=r"token_map: .*must map a token of the student to a text of the teacher"):
        ForeignTokenizer(letters([], "<s>", "</s>"), letters([], "[B]", "[E]"), token_map)
