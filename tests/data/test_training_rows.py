# SPDX-License-Identifier: Apache-2.0
"""What cannot be trained on is told by row, and whatever SFTTrainer prepares passes."""

import json

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hf_ckt.data.files import load_rows
from hf_ckt.data.training_rows import require_trainable

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
FINE = {
    "texts": {"prompt": "Hi", "completion": " there"},
    "empty prompt": {"prompt": "", "completion": "there"},
    "chat pair": {"prompt": [USER], "completion": [ANSWER]},
    "messages": {"messages": [USER, ANSWER]},
    "share": {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]},
    "text": {"text": "Hi there", "other": 3},
    "ids": {"input_ids": [1, 2, 3]},
    "empty answer": {"messages": [USER, {"role": "assistant", "content": ""}]},
}


@pytest.mark.parametrize("name", FINE)
def test_what_sfttrainer_trains_on_passes(name, tmp_path, tiny_model_dir):
    """A check that is stricter than the trainer stops runs that it would finish."""
    data = Dataset.from_list([FINE[name]])
    require_trainable(data, "rows.jsonl")
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    trainer = SFTTrainer(str(tiny_model_dir), args, train_dataset=data)
    assert len(trainer.train_dataset) == 1


@pytest.mark.parametrize(
    "message",
    [CALL, {**CALL, "content": None}, {"role": "tool", "name": "f", "content": [{"type": "text", "text": "3"}]}],
)
def test_tool_messages_pass(message, tmp_path):
    """Logs of agents leave the content out where a tool is called, or split it in blocks."""
    rows = [{"messages": [USER, message]}, {"messages": [USER, ANSWER]}]
    require_trainable(rows_of(rows, tmp_path), "rows.jsonl")


def rows_of(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return load_rows(str(path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instruction": "a", "input": "", "output": "b"},
            "Join instruction and input in a column prompt, and rename out",
        ),
        ({"question": "a", "answer": "b"}, "Rename question to prompt, answer to completion"),
        ({"query": "a", "response": "b"}, "Rename query to prompt, response to completion"),
        ({"prompt": "a", "response": "b"}, "no 'completion'.* Rename response to completion"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "Set contrastive_rejected"),
        ({"chosen": [USER], "rejected": [USER]}, "contrastive_rejected"),
        ({"prompt": "a", "messages": [USER]}, "Drop prompt, so that messages are trained on"),
        ({"prompt": "a"}, "Add the answers as that column"),
        ({"body": "a"}, "dataset_text_field .it is 'text' now"),
    ],
)
def test_columns_of_other_tools_are_told_their_names_here(row, message):
    """A KeyError with the name of a column says neither which file lacks it nor what to call it."""
    with pytest.raises(ValueError, match=rf"^rows\.jsonl: has the columns {', '.join(row)}, .*{message}"):
        require_trainable(Dataset.from_list([row]), "rows.jsonl")


def test_named_text_column_and_pairs_are_asked_for():
    """Another column than the one that is trained on must not be checked in its place."""
    require_trainable(Dataset.from_list([{"body": "a", "text": None}]), "x", text_field="body")
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    require_trainable(Dataset.from_list([pair]), "x", rejected=True)
    with pytest.raises(ValueError, match="x, row 2: has None as 'rejected'"):
        require_trainable(Dataset.from_list([pair, {**pair, "rejected": None}]), "x", rejected=True)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (FINE["texts"], {"prompt": "a", "completion": None}, "has None as 'completion'"),
        (FINE["texts"], {"prompt": "a"}, "has None as 'completion'"),
        (FINE["texts"], {"prompt": "a", "completion": 5}, "has 5 as 'completion'"),
        (FINE["texts"], {"prompt": "a", "completion": True}, "has True as 'completion'"),
        (FINE["texts"], FINE["chat pair"], "has messages as 'prompt' where the first row has a text"),
        (FINE["chat pair"], {"prompt": [USER], "completion": "a"}, "has a text as 'completion' where the first row"),
        (FINE["chat pair"], {"prompt": [], "completion": [ANSWER]}, "has an empty list as 'prompt'"),
        (FINE["text"], {"text": None}, "has None as 'text', which must be a text,"),
        (FINE["messages"], {"messages": None}, "has None as 'messages', which must be a list of messages"),
        (FINE["messages"], {"messages": []}, "has an empty list as 'messages'"),
        (FINE["messages"], {"messages": [USER, {"content": "a"}]}, "message 2 of 'messages' has no role"),
        (
            FINE["messages"],
            {"messages": [USER, {**ANSWER, "content": None}]},
            "message 2 of 'messages' has no content",
        ),
        (FINE["messages"], {"messages": [USER, {"role": "assistant"}]}, "message 2 of 'messages' has no content"),
        (FINE["messages"], {"messages": [USER, {**ANSWER, "content": 5}]}, "message 2 of 'messages' has 5 as content"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(good, bad, message, tmp_path):
    """A null becomes the word None in what is trained on, or an AttributeError from the depths of the preparation."""
    data = rows_of([good, good, bad], tmp_path)
    with pytest.raises(ValueError, match=rf"^rows\.jsonl, row 3 \(line 3\): {message}"):
        require_trainable(data, str(tmp_path / "rows.jsonl"))


def test_first_rows_of_a_wrong_form_are_named(tmp_path):
    """The form of the first row must not pass for that of the format."""
    other = {"conversations": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(
        ValueError, match=r"row 1: message 1 of 'conversations' has no from.* Rename the column to messages"
    ):
        require_trainable(Dataset.from_list([other]), "x")
    with pytest.raises(ValueError, match=r"row 1: has '\[\]' as 'messages', which must be a list of messages"):
        require_trainable(Dataset.from_list([{"messages": "[]"}]), "x")
    with pytest.raises(ValueError, match="x: holds no row"):
        require_trainable(Dataset.from_dict({"prompt": []}), "x")


def test_rows_that_were_left_out_are_not_checked():
    """The table behind a selection still holds what was left out of it."""
    rows = Dataset.from_list([FINE["texts"], {"prompt": "a", "completion": None}])
    require_trainable(rows.select([0]), "x")
    with pytest.raises(ValueError, match="x, row 1: has None"):
        require_trainable(rows.select([1]), "x")


def test_streamed_rows_are_checked_from_the_front():
    """A streaming set has no number of rows to read them all."""
    rows = Dataset.from_list([FINE["texts"], {"prompt": "a", "completion": None}]).to_iterable_dataset()
    with pytest.raises(ValueError, match="x, row 2: has None as 'completion'"):
        require_trainable(rows, "x")
