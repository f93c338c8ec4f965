# SPDX-License-Identifier: Apache-2.0
"""Messages in the shapes that TRL prepares: what users wrote in them is changed and found, the rest stays."""

import json

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer

from hf_ckt.discovery import load_part
from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import split_documents
from hf_ckt.noise.messages import change_user_texts, find_user_texts
from tests.runs import OFF
from tests.trainers import build, first_batch, run, steps

_CALL = [{"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}]
# Writes what it is given, as agents' templates do: no content where there is a call, blocks one after the other.
_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}"
    "{%- if message.get('content') is string %}{{- message['content'] }}{%- endif %}"
    "{%- for call in message.get('tool_calls') or [] %}{{- 'call ' + call['function']['name'] }}{%- endfor %}"
    "{{- '<|im_end|>' }}{% endgeneration %}{{- '\n' }}"
    "{%- elif message.get('content') is string %}{{- message['content'] + '<|im_end|>\n' }}"
    "{%- else %}{%- for block in message.get('content') or [] %}"
    "{{- block if block is string else block.get('text') or '' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
_SHAPES = {
    "absent": {"role": "assistant", "tool_calls": _CALL},
    "none": {"role": "assistant", "content": None, "tool_calls": _CALL},
    "empty": {"role": "assistant", "content": "", "tool_calls": _CALL},
}
_ASKED = {
    "text": "How do I bake bread?",
    "blocks": [{"type": "text", "text": "How do I"}, {"type": "text", "text": " bake bread?"}],
    "plain blocks": ["How do I", " bake bread?"],
    "blocks without text": [{"type": "image"}, {"type": "text", "text": "How do I bake bread?"}],
}


@pytest.mark.parametrize("name", ["typos", "token_dropout"])
@pytest.mark.parametrize(
    ("called", "asked", "form"),
    [
        ("absent", "text", "chat"),
        ("absent", "blocks without text", "turns"),
        ("none", "blocks", "turns"),
        ("empty", "plain blocks", "chat"),
    ],
)
def test_conversations_of_agents_train(called, asked, form, name, tiny_model_dir, tmp_path):
    """JSON lines of agents leave `content` out of a tool call: a KeyError in a step, where SFTTrainer trains."""
    before = [{"role": "user", "content": _ASKED[asked]}, _SHAPES[called], {"role": "tool", "content": "blue"}]
    answer = [{"role": "assistant", "content": "It is blue."}]
    row = {"messages": before + answer} if form == "turns" else {"prompt": before, "completion": answer}
    path = tmp_path / "agents.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 4)
    data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = _TEMPLATE
    fields = {**OFF, "consistency_weight": 1.0, "perturbation": name, "perturbation_severity": 0.5, "max_length": None}
    trainer = build(
        tmp_path,
        tiny_model_dir,
        data,
        given={"processing_class": tokenizer},
        **fields,
        assistant_only_loss=form == "turns",
        max_steps=1,
    )
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    document = split_documents(Batch(batch, labels))[0]
    part = load_part("perturbations", name)(severity=0.5)
    noisy = trainer._extra_passes.noisy.prompts.perturb(document, part, seed=1)
    clean, after = tokenizer.decode(document.ids), tokenizer.decode(noisy.ids)
    # All but the question is as it was.
    assert clean.split("<|im_end|>")[1:] == after.split("<|im_end|>")[1:] and clean != after
    assert "bake bread?<|im_end|>" in clean and "call look" in clean
    logged = steps(run(trainer))[0]
    assert logged["consistency_loss"] > 0 and logged[f"stayed_clean_{name}"] == 0


def test_a_column_of_json_messages_keeps_absent_keys_absent():
    """Messages held as JSON come without the keys that others have, and not with None."""
    from datasets import Features, Json, List

    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": _CALL}]}]
    data = Dataset.from_list(rows, features=Features({"messages": List(Json())}))
    assert "content" not in data[0]["messages"][1]
    assert change_user_texts(data[0]["messages"], str.upper) == [
        {"role": "user", "content": "HI"},
        rows[0]["messages"][1],
    ]


@pytest.mark.parametrize(
    "content", [None, [], "", 7, {"text": "hi"}, [None], [{"type": "image"}], [{"text": None}], [[1]]]
)
def test_what_holds_no_text_stays_as_it_is(content):
    """A picture, a number or nothing is no text of the user's, and no reason to stop."""
    message = {"role": "user", "content": content}
    assert change_user_texts([message], str.upper) == [message]
    assert find_user_texts([message], repr) == (repr([message]), [])


def test_only_users_texts_are_changed_and_in_their_order():
    """A number drawn for another text than last time would be another noise after a resume."""
    seen: list[str] = []
    chat = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "user", "content": ["c", {"type": "text", "text": "d"}]},
        {"role": "tool", "content": "e"},
        {"content": "f"},
    ]
    changed = change_user_texts(chat, lambda text: seen.append(text) or text.upper())
    assert seen == ["b", "c", "d"]
    assert changed == [
        chat[0],
        {"role": "user", "content": "B"},
        {"role": "user", "content": ["C", {"type": "text", "text": "D"}]},
        *chat[3:],
    ]
    assert chat[1]["content"] == "b" and chat[2]["content"][1]["text"] == "d"


@pytest.mark.parametrize("text", ["user", "9081726354", "10293", "908172635490817263541029384756", " \n", "a\u2028b"])
def test_users_texts_are_found_where_the_same_words_stand_elsewhere(text):
    """Found by its words, the name of the role would be taken for what the user wrote."""
    chat = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
    rendering = "".join(f"<{one['role']}>{one['content']}</>" for one in chat)
    found, spans = find_user_texts(chat, lambda chat: "".join(f"<{one['role']}>{one['content']}</>" for one in chat))
    assert found == rendering
    bare = text.strip()
    places = [index for index in range(len(rendering)) if rendering.startswith(f"<user>{text}", index)]
    assert spans == [(p + 6 + text.index(bare), p + 6 + text.index(bare) + len(bare)) for p in places if bare]
