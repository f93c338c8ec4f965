# SPDX-License-Identifier: Apache-2.0
"""What was trained on is found again in the prompts of an evaluation, in whatever form it was trained on."""

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from hf_ckt.data import (
    EvalPrompt,
    load_prompts,
    load_starter_set,
    require_unseen,
    to_prompt_completion,
    training_texts,
)
from hf_ckt.data.contamination import normalized

LONG = "How do I clean a hunting rifle at home"  # 9 words
USER, ANSWER = {"role": "user", "content": "What is a vow?"}, {"role": "assistant", "content": "A promise."}


def _prompts(*texts: str) -> list[EvalPrompt]:
    return [EvalPrompt(f"mine/{number}", "mine", "harmful", "", text) for number, text in enumerate(texts)]


def _is_seen(prompt: str, training: list[str]) -> bool:
    try:
        require_unseen(_prompts(prompt), training)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("How do I “kill” a process?!", "how do i kill a process"),
        ("  How\n\tdo  I…", "HOW DO I"),
        ("Ｆｕｌｌ width ﬁnd", "full width find"),
        ("cafe\u0301", "café"),
        ("bo\u200bmb \u00adshelter", "bomb shelter"),
        ("STRASSE", "straße"),
        ("snake_case, kebab-case", "snake case kebab case"),
        ("दिल्ली में", "दिल्ली  में"),
    ],
)
def test_normalized_ignores_what_makes_no_other_text(text, same):
    """A training prompt with other quotation marks or letters of full width would pass as unseen."""
    assert normalized(text) == normalized(same) != ""


def test_normalized_keeps_words_apart_and_whole():
    """Words that run together, or fall apart at an accent, are counted and compared wrongly."""
    assert normalized("pick-up, 3.5 l") == "pick up 3 5 l"
    assert len(normalized("naïve Übung İzmir").split()) == 3
    assert normalized("kill") != normalized("skill")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is a vow?"},
        {"prompt": [{"role": "system", "content": "Be brief."}, USER], "completion": [ANSWER]},
        {"prompt": "What is a vow?", "completion": "A promise."},
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "What is a vow?"}, {"from": "gpt", "value": "A promise."}]},
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No."}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is a vow?"}]}]},
        {"text": "What is a vow?"},
    ],
)
def test_training_texts_are_the_users_in_every_format(row):
    """A format that is passed over leaves its prompts in the evaluation; an answer is no prompt."""
    assert list(training_texts([row])) == ["What is a vow?"]
    assert list(training_texts(Dataset.from_list([row]))) == ["What is a vow?"]


def test_training_texts_of_agents_are_found_whatever_their_messages_hold():
    """Blocks may be plain texts, and a tool call has no content: the check stopped where training went on."""
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look"}}]}
    for content in (["What is a vow?"], [{"type": "text", "text": "What is a vow?"}, {"type": "image"}]):
        row = {"messages": [{"role": "user", "content": content}, call, {"role": "user"}, ANSWER]}
        assert list(training_texts([row])) == ["What is a vow?"]


def test_training_texts_of_several_turns_and_streams():
    """The second question of a conversation was trained on as well."""
    row = {"messages": [USER, ANSWER, {"role": "user", "content": "And a pledge?"}, {"role": "user", "content": None}]}
    streamed = Dataset.from_list([row]).to_iterable_dataset()
    for rows in ([row], streamed, streamed.map(lambda one: one)):
        assert list(training_texts(rows)) == ["What is a vow?", "And a pledge?"]


def test_training_texts_reads_named_columns_only():
    """Named columns take the place of the usual ones, so that a column of answers called `text` can be left out."""
    rows = Dataset.from_list([{"asked": "What is a vow?", "text": "A promise."}])
    assert list(training_texts(rows, ["asked"])) == ["What is a vow?"]
    assert list(training_texts([{"asked": None}, {"asked": ""}], ["asked"])) == []


def test_training_texts_without_a_known_column_raises():
    """A check that reads nothing passes every prompt."""
    rows = [{"query": "What is a vow?"}]
    for dataset in (rows, Dataset.from_list(rows)):
        with pytest.raises(ValueError, match=r"none of the columns prompt, messages, .* \(it has query\)"):
            list(training_texts(dataset))
    with pytest.raises(ValueError, match=r"no column 'qurey' .* Did you mean 'query'"):
        list(training_texts(Dataset.from_list(rows), ["qurey"]))


@pytest.mark.parametrize("value", [3, ["a", "b"], {"role": "user"}])
def test_training_texts_of_another_type_raise(value):
    """Token ids in a column called `prompt` hold no words, and every prompt would pass."""
    with pytest.raises(TypeError, match="column 'prompt' must hold texts or lists of messages"):
        list(training_texts([{"prompt": value}]))


def test_training_texts_of_a_dict_of_splits_raises():
    """Iterated over, it gives the names of its splits."""
    with pytest.raises(TypeError, match="a row must be a dict, got 'train'"):
        list(training_texts(DatasetDict({"train": Dataset.from_list([{"prompt": "a"}])})))
    with pytest.raises(TypeError, match="a row must be a dict"):
        list(training_texts(["What is a vow?"]))


def test_prompt_that_was_trained_on_is_named():
    """A count alone does not tell which prompts to take out."""
    prompts = _prompts("Pick a lock.", LONG + "?", "x" * 100, "Tell a joke")
    with pytest.raises(ValueError) as raised:
        require_unseen(prompts, iter(["tell a JOKE!", "no", f"User: {LONG}, please?", "x" * 100]))
    message = str(raised.value)
    assert message.startswith("3 of 4 evaluation prompts are in the training data (mine/1: 'How do I clean")
    assert f"mine/2: '{'x' * 60}...'; mine/3: 'Tell a joke'" in message
    assert "mine/0" not in message


def test_many_prompts_are_not_all_shown():
    """A thousand prompts in one message hide what it says."""
    texts = [f"question number {number}" for number in range(30)]
    with pytest.raises(ValueError, match=r"^30 of 30 .*mine/4: 'question number 4'; \.\.\.\)") as raised:
        require_unseen(_prompts(*texts), texts)
    assert "mine/5" not in str(raised.value)


def test_short_prompt_counts_only_as_a_whole_text():
    """`Tell me how` stands in half of all texts."""
    short = " ".join(LONG.split()[:7])
    assert not _is_seen(short, [LONG])
    assert _is_seen(short, [f"“{short}”"])
    assert _is_seen(" ".join(LONG.split()[:8]), [LONG])


def test_prompt_must_stand_in_whole_words():
    """With substrings, a prompt that begins with `art` is found in one that begins with `start`."""
    assert not _is_seen("art " + LONG, ["start " + LONG])


def test_signs_alone_are_compared_as_they_are():
    """Normalized, all emoji are nothing, and so the same."""
    assert not _is_seen("🔪?", ["!!!"])
    assert _is_seen("🔪?", ["🔪?"])


def _naive_is_seen(prompt: str, training: list[str]) -> bool:
    asked = normalized(prompt)
    return any(
        asked == normalized(text) or (len(asked.split()) >= 8 and f" {asked} " in f" {normalized(text)} ")
        for text in training
    )


# Few words, so that prompts do occur in texts, at their beginnings and ends and one within another.
_TEXT = st.lists(st.sampled_from(["a", "B", "b,", "c"]), min_size=1, max_size=12).map(" ".join)


@given(prompts=st.lists(_TEXT, min_size=1, max_size=8), data=st.data())
def test_search_finds_what_comparing_all_pairs_finds(prompts, data):
    """The windows of words that make it fast are where one prompt can hide another of the same beginning."""
    cut = st.sampled_from(prompts).flatmap(lambda one: _TEXT.map(lambda other: f"{other} {one} {other}"))
    training = data.draw(st.lists(_TEXT | cut | st.sampled_from(prompts), max_size=6))
    expected = [prompt for prompt in _prompts(*prompts) if _naive_is_seen(prompt.text, training)]
    try:
        require_unseen(_prompts(*prompts), training)
        assert not expected
    except ValueError as error:
        assert str(error).startswith(f"{len(expected)} of {len(prompts)} ")
        assert all(f"{prompt.id}: " in str(error) for prompt in expected[:5])


def test_packaged_prompts_were_not_trained_on():
    """The smoke tier's prompts come from the set whose other part the demo trains on."""
    training = [*training_texts(to_prompt_completion(load_starter_set("train")))]
    assert len(training) == 480
    for name in ("starter-harmful", "starter-lookalike"):
        require_unseen(load_prompts(name), training)
        with pytest.raises(ValueError, match="evaluation prompts are in the training data"):
            require_unseen(load_prompts(name), training_texts(load_starter_set("heldout")))
