# SPDX-License-Identifier: Apache-2.0
"""Whose tokenizer and template a model is asked with, and where the system prompt goes."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from hf_ckt.evaluation.callback import SafetyEvalCallback
from hf_ckt.evaluation.measuring.chat_format import ChatFormat, chat_formats
from hf_ckt.evaluation.measuring.models import EvaluatedModel
from hf_ckt.evaluation.run import Evaluation, evaluate
from tests.tiny_models import CHAT_TEMPLATE, build_tokenizer
from tests.trainers import build, load

_ASK = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
_REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + _ASK
_DROPPING = _ASK.replace("{{ m.role }}", "{% if m.role != 'system' %}{{ m.role }}").replace(
    "\n{% endfor", "\n{% endif %}{% endfor"
)
_ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}[{{ m.content }}]{% endfor %}"
)
NONE_OF_ITS_OWN = {"refusing": _REFUSING, "dropping": _DROPPING, "alternating": _ALTERNATING}
_IN_THE_USERS = "{% set s = messages[0].content if messages[0].role == 'system' else '' %}" + _ASK.replace(
    "{{ m.role }}: {{ m.content }}", "{% if m.role != 'system' %}[{{ s }}] {{ m.content }}{% endif %}"
)


def _with(template):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", NONE_OF_ITS_OWN)
def test_template_without_a_system_role_is_known_at_once(name):
    """A template error after an hour of loading, or a system prompt that is stated and was never sent."""
    tokenizer = _with(NONE_OF_ITS_OWN[name])
    with pytest.raises(ValueError, match=r"^--system-prompt: .* has no system role.*--system-fallback user"):
        ChatFormat(tokenizer, "Be kind.")
    asked = ChatFormat(tokenizer, "Be kind.", "user")
    assert "Be kind.\n\nWhy?" in asked.text(asked.messages("Why?"))
    assert asked.facts()["system_prompt_sent_as"] == "user" and "Be kind.\n\n{prompt}" in asked.described()["sent"]
    assert ChatFormat(tokenizer).facts()["system_prompt_sent_as"] is None


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, _ASK, _IN_THE_USERS])
def test_template_with_a_system_role_keeps_it(template):
    """A fallback that moves the system prompt of every model asks those that know the role another question."""
    asked = [ChatFormat(_with(template), "Be kind.", fallback) for fallback in ("refuse", "user")]
    texts = [one.text(one.messages("Why?")) for one in asked]
    assert texts[0] == texts[1] and "Be kind.\n\nWhy?" not in texts[0] and "Be kind." in texts[0]
    assert asked[1].facts()["system_prompt_sent_as"] == "system"


def test_examples_before_a_question_come_after_the_system_prompt():
    """In front of the last text it would come after the examples, which were then answered without it."""
    asked = ChatFormat(_with(_REFUSING), "Be kind.", "user")
    turns = [("system", "Be kind."), ("user", "1?"), ("assistant", "1!"), ("user", "2?")]
    placed = asked.placed([{"role": role, "content": content} for role, content in turns])
    assert [message["content"] for message in placed] == ["Be kind.\n\n1?", "1!", "2?"]


@pytest.fixture(scope="module")
def made(tiny_model_dir, tmp_path_factory):
    """Folders: the tiny base without a template, and adapters of it that were saved with and without a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    load(tiny_model_dir).save_pretrained(folder / "base")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    for name, template in (("plain", None), ("own", _ASK), ("other", _IN_THE_USERS), ("file", None)):
        model = get_peft_model(load(folder / "base"), LoraConfig(r=4, init_lora_weights=False))
        model.save_pretrained(folder / name)
        if template is not None:
            tokenizer.chat_template = template
            tokenizer.save_pretrained(folder / name)
    (folder / "file" / "chat_template.jinja").write_text(_ASK)
    return folder


def _entries(folder, *names, base="base"):
    return [
        EvaluatedModel("base", str(folder / base)),
        *(EvaluatedModel(name, str(folder / base), str(folder / name)) for name in names),
    ]


def _by_name(listed, **settings):
    return {entry.name: asked for entry, asked in chat_formats(listed, **settings).items()}


def test_each_adapter_is_asked_in_its_own_words(made, tiny_model_dir):
    """Under the base's template an adapter is asked in a form that it never saw, and scored for it."""
    listed = [EvaluatedModel("base", str(tiny_model_dir)), *_entries(made, "own", "other", "file")[1:]]
    formats = _by_name(listed)
    templates = {name: asked.tokenizer.chat_template for name, asked in formats.items()}
    assert templates == {"base": CHAT_TEMPLATE, "own": _ASK, "other": _IN_THE_USERS, "file": _ASK}
    assert [formats[name].facts()["tokenizer"] for name in formats] == [tiny_model_dir.name, "own", "other", "file"]
    assert len({asked.facts()["template_digest"] for asked in formats.values()}) == 3


def test_whole_model_is_asked_in_its_own_words(made, tiny_model_dir):
    """A model to compare with, read with the tokenizer of another, is given other words than were asked."""
    formats = _by_name([EvaluatedModel("base", str(tiny_model_dir)), EvaluatedModel("own", str(made / "own"))])
    assert formats["own"].tokenizer.chat_template == _ASK


def test_base_without_a_template_borrows_its_adapters(made):
    """A model that was trained with a template of its own could not be evaluated at all."""
    formats = _by_name(_entries(made, "own", "other"))
    assert formats["base"].tokenizer.chat_template == _ASK
    assert formats["base"].facts()["template"] == "own" and formats["base"].facts()["tokenizer"] == "base"
    with pytest.raises(ValueError, match="the tokenizer of 'base' has no chat template"):
        chat_formats(_entries(made))
    with pytest.raises(ValueError, match="the tokenizer of 'base' has no chat template"):
        chat_formats(_entries(made, "plain")[1:])


def test_tokenizer_of_another_base_raises(made, tmp_path):
    """The same ids, other words: whatever the adapter learnt is asked for in another language."""
    folder = tmp_path / "foreign"
    get_peft_model(load(made / "base"), LoraConfig(r=4)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(made / "own").save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    listed = [EvaluatedModel("base", str(made / "own")), EvaluatedModel("adapter", str(made / "own"), str(folder))]
    with pytest.raises(ValueError, match=r"^foreign: 2 ids of its tokenizer mean other words .*--allow-other-base"):
        chat_formats(listed)
    assert _by_name(listed, allow_other_base=True)["adapter"].facts()["tokenizer"] == "foreign"


def test_callback_refuses_a_system_prompt_that_cannot_be_sent(tiny_model_dir, tmp_path):
    """Found at the first evaluation, it would end a run in its middle."""
    trainer = build(tmp_path, tiny_model_dir)
    trainer.processing_class.chat_template = _REFUSING
    with pytest.raises(ValueError, match="has no system role"):
        SafetyEvalCallback(trainer, system_prompt="Be kind.")
    SafetyEvalCallback(trainer, system_prompt="Be kind.", system_fallback="user")


def test_adapter_trained_with_a_cloned_template_is_evaluated(made, tmp_path):
    """Two new tokens and a template that the base does not have: what trl saves must be what is scored."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    source = AutoTokenizer.from_pretrained(made / "own")
    source.add_special_tokens({"additional_special_tokens": ["<|ask|>", "<|tell|>"]})
    source.chat_template = "{% for m in messages %}{{ '<|tell|>' if m.role == 'assistant' else '<|ask|>' }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|tell|>{% endif %}"
    source.save_pretrained(tmp_path / "source")
    row = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yo"}]}
    options = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "max_steps": 1}
    args = SFTConfig(str(tmp_path / "out"), chat_template_path=str(tmp_path / "source"), **options)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["lm_head"])
    trainer = SFTTrainer(str(made / "base"), args, train_dataset=Dataset.from_list([row] * 4), peft_config=lora)
    trainer.save_model(str(tmp_path / "cloned"))
    suites = ("direct", "overrefusal", "kd", "utility")
    evaluation = Evaluation(str(made / "base"), str(tmp_path / "cloned"), only=suites, new_tokens=3)
    results = evaluate(evaluation, tmp_path / "results")
    found = {name: model["chat"] for name, model in results["models"].items()}
    assert found["adapter"]["sent"] == "<|ask|>{prompt}<|tell|>" == found["base"]["sent"]
    assert (found["adapter"]["tokenizer"], found["base"]["tokenizer"]) == ("cloned", "base")
    assert found["base"]["template"] == "cloned"
    assert 0 < results["models"]["adapter"]["scores"]["base_agreement"]["value"] < 1


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {% for block in m.content %}{{ block.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}",
        {"tool_use": _ASK},
    ],
    ids=["blocks alone", "no template at all", "no default"],
)
def test_template_that_does_not_write_the_user_raises(template):
    """A template of lists of blocks leaves a text out, and every prompt got the same answer."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"leaves out what a user says .* asked alike"):
        ChatFormat(tokenizer)


def test_digest_of_a_tokenizer_is_of_what_makes_ids(tmp_path):
    """Another tokenizer under the same name reads other answers' pieces; one whose padding was set reads none of its own."""
    first = build_tokenizer()
    digest = ChatFormat(first).facts()["tokenizer_digest"]
    assert ChatFormat(build_tokenizer()).facts()["tokenizer_digest"] == digest
    first(["a", "longer"], padding=True, truncation=True, max_length=4)
    assert ChatFormat(first).facts()["tokenizer_digest"] == digest
    first.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]  # the same words by the same ids, written otherwise
    file.write_text(json.dumps(content))
    other = AutoTokenizer.from_pretrained(tmp_path)
    assert other.get_vocab() == first.get_vocab()
    assert ChatFormat(other).facts()["tokenizer_digest"] != digest
    ended = build_tokenizer()
    ended.eos_token = "<|endoftext|>"
    assert ChatFormat(ended).facts()["tokenizer_digest"] != digest
