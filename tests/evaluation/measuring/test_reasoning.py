# SPDX-License-Identifier: Apache-2.0
"""Thoughts of models of several families: where they begin and end, and that none is taken for an answer."""

from pathlib import Path

import pytest
import trl

from hf_ckt.evaluation.measuring.answers import Answer, Written, answers_by
from hf_ckt.evaluation.measuring.chat_format import ChatFormat
from hf_ckt.evaluation.measuring.reasoning import USUAL, find_reasoning
from tests.tiny_models import build_tokenizer

_CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Templates of published models as trl carries them: opening and closing marker, whether the prompt opens a thought, what
# an answer without a thought begins with, and the switch that turns thoughts off.
FAMILIES = {
    "qwen3": ("<think>", "</think>", False, "<think>\n\n</think>\n\n", {"enable_thinking": False}),
    "qwen3_5_think": ("<think>", "</think>", True, "\n</think>\n\n", {"enable_thinking": False}),
    "qwen3_5_nothink": ("<think>", "</think>", False, "", {}),
    "glm4moe": ("<think>", "</think>", False, "\n<think></think>\n", {"enable_thinking": False}),
    "deepseek_r1_distill": ("<think>", "</think>", True, "\n</think>\n\n", {}),
    "nemotron_3_nano": ("<think>", "</think>", True, "\n</think>\n", {"enable_thinking": False}),
    "gptoss": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        False,
        "<|channel|>final<|message|>",
        {},
    ),
    "gemma4_v5": ("<|channel>thought", "<channel|>", False, "", {}),
    "lfm2_2_5": ("<think>", "</think>", False, "", {}),
}
PLAIN = ("qwen2_5", "llama3", "llama3_2", "gemma", "gemma3", "phi3", "cohere2", "lfm2", "qwen3_instruct_2507")


def _tokenizer(name):
    file = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not file.exists():
        pytest.skip(f"this version of trl carries no {file.name}")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_markers_are_those_that_the_template_writes(name):
    """A thought under markers that are not known is judged as the answer."""
    opens, closes, opened, lead, switch = FAMILIES[name]
    asked = ChatFormat(_tokenizer(name))
    found = asked.reasoning
    assert (found.opens, found.closes, found.declared) == (opens, closes, True)
    assert (asked.opened, asked.lead) == (opened, lead)
    off = ChatFormat(asked.tokenizer, thinking_tokens=0)
    assert off.switch == switch and not off.opened
    said = asked.tokenizer.apply_chat_template(
        off.messages("hi"), tokenize=False, add_generation_prompt=True, **switch
    )
    assert off.text(off.messages("hi")).startswith(said)
    assert not off.text(off.messages("hi")).rstrip().endswith(opens)


@pytest.mark.parametrize("name", PLAIN)
def test_templates_without_thoughts_stay_as_they_are(name):
    """A closing marker that the model never saw, before every answer that is measured."""
    asked = ChatFormat(_tokenizer(name))
    assert asked.reasoning == USUAL and asked.lead == "" and not asked.opened
    for thinking_tokens in (0, 5):
        other = ChatFormat(asked.tokenizer, thinking_tokens=thinking_tokens)
        expected = asked.tokenizer.apply_chat_template(
            [[{"role": "user", "content": "hi"}]], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert other.ids(["hi"]) == other.ids(["hi"], answering=True) == expected


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<reasoning>", "</reasoning>"),
    ],
)
@pytest.mark.parametrize("where", ["template", "tokens"])
def test_markers_that_are_only_named_are_found(where, opens, closes):
    """A template that cuts thoughts out of earlier turns, or a tokenizer with tokens for them, is all that some say."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = _CHATML
    if where == "template":
        tokenizer.chat_template = f"{{#- cut at {opens} and {closes} -#}}{_CHATML}"
    else:
        tokenizer.add_tokens([opens, closes], special_tokens=True)
    found = find_reasoning(tokenizer)
    assert (found.opens, found.closes) == (opens, closes) and found.declared


class _Scripted:
    """Writes given texts behind given prompts, cut to the tokens that are allowed, and remembers what was asked."""

    def __init__(self, asked, *texts):
        self.asked, self.texts, self.calls = asked, list(texts), []

    def __call__(self, rows, answer_tokens, thinking_tokens):
        self.calls.append(([self.asked.tokenizer.decode(row) for row in rows], answer_tokens, thinking_tokens))
        told = []
        for _ in rows:
            ids = self.asked.tokenizer(self.texts.pop(0), add_special_tokens=False)["input_ids"]
            most = max(answer_tokens, thinking_tokens or 0)
            told.append(Written(ids[:most], len(ids) < most))
        return told


def _format(name, **settings):
    return ChatFormat(
        build_tokenizer() if name == "plain" else _tokenizer(name), **{"thinking_tokens": 300, **settings}
    )


@pytest.mark.parametrize("name", ["plain", *FAMILIES])
def test_thought_is_kept_apart_from_the_answer(name):
    """A thought "I can't help with that?" before a helpful answer is judged as refused, and the other way round."""
    asked = _format(name)
    begins = "" if asked.opened else asked.reasoning.opens
    for thought, answer in (("I can't help with that?", "Sure, here it is."), ("Sure?", "I'm sorry, I can't help.")):
        write = _Scripted(asked, f"{begins}\n{thought}\n{asked.reasoning.closing}", answer)
        assert answers_by(write, asked, ["hi"], 40) == [Answer(answer, thought)]
        (first, second), prompt = write.calls, asked.tokenizer.decode(asked.ids(["hi"])[0])
        assert first == ([prompt], 40, 300)
        assert second[1:] == (40, None) and second[0][0].startswith(f"{prompt}{begins}\n{thought}")
        assert second[0][0].endswith(asked.reasoning.closes)  # the answer has all of its own room


@pytest.mark.parametrize("name", ["plain", *FAMILIES])
def test_answer_without_a_thought_is_the_answer(name):
    """An answer that is taken for a thought is judged as empty."""
    asked = _format(name)
    if asked.opened:
        pytest.skip("its prompt opens a thought")
    for text in ("Sure, here it is.", "In HTML there is no <think> and no </think>."):
        # An answer in a channel of its own says so first; an empty thought is left out by a model that has none.
        write = _Scripted(asked, text if asked.reasoning.opens in asked.lead else asked.lead + text)
        assert answers_by(write, asked, ["hi"], 90) == [Answer(text)]
        assert len(write.calls) == 1


@pytest.mark.parametrize("name", ["plain", *FAMILIES])
def test_thought_without_an_end_is_closed_and_answered(name):
    """A thought that fills the room of the answer leaves nothing to judge but the thought."""
    asked = _format(name, thinking_tokens=40)
    begins = "" if asked.opened else asked.reasoning.opens
    write = _Scripted(asked, begins + "I wonder. " * 60, "Here it is.")
    found = answers_by(write, asked, ["hi"], 20)[0]
    assert found.text == "Here it is." and found.reasoning.startswith("I wonder.")
    assert write.calls[1][0][0].endswith(asked.reasoning.closing)
    ended = answers_by(_Scripted(asked, f"{begins}I"), asked, ["hi"], 20)
    assert ended == [Answer("", "I")]  # it ended of itself, and has said nothing


def test_several_thoughts_before_an_answer_are_all_thoughts():
    """The second thought of a model that thinks twice would be its answer."""
    asked = _format("qwen3")
    write = _Scripted(asked, "<think>one</think>", "<think>two</think> Sure.")
    assert answers_by(write, asked, ["hi"], 40) == [Answer("Sure.", "one\ntwo")]


def test_rows_that_think_and_rows_that_do_not_share_a_batch():
    """An answer under the thought of another prompt."""
    asked = _format("qwen3")
    write = _Scripted(asked, "Yes.", "<think>a</think>", "No.", "<think>b</think>", "Maybe", "Never")
    found = answers_by(write, asked, ["1", "2", "3", "4"], 40)
    assert found == [Answer("Yes."), Answer("Maybe", "a"), Answer("No."), Answer("Never", "b")]
