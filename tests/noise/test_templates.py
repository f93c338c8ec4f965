# SPDX-License-Identifier: Apache-2.0
"""Noisy prompts under chat templates that alter what they are given: reasoning removed, text stripped or rewritten."""

import logging
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_ckt.discovery import load_part
from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import split_documents
from tests.runs import OFF
from tests.tiny_models import CHAT_TEMPLATE, save_tiny_llama
from tests.trainers import build, first_batch, run, steps

# Letters that only users write, so that which tokens are theirs can be read off the document itself.
_LETTERS = "ΑΒΓΔΕΖαβγδεζ"
_ASKED = ["  Αβγ δεζ Α\nβ  ", "αβ αβ", "Γδ εεε ζ"]
_THOUGHT = "<think>\nlet me see, user\n</think>\n\n"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
]
_REWRITING = {
    "stripped and in capitals": "message['content'] | trim | upper",
    "in small letters": "message['content'] | lower",
    "capitalised": "message['content'] | trim | capitalize",
    "as JSON": "message['content'] | tojson",
    "escaped": "message['content'] | e",
    "on one line": "message['content'] | replace('\n', ' ')",
    "cut": "message['content'] | truncate(9, true, '...')",
    "wrapped": "message['content'] | wordwrap(12)",
    "twice": "message['content'] + ' / ' + message['content']",
    "reasoning removed": "message['content'].split('</think>')[-1] | trim",
}


def template(name: str) -> str:
    """A template that TRL ships, or ChatML that rewrites content."""
    if name in _REWRITING:
        return CHAT_TEMPLATE.replace("message['content']", f"({_REWRITING[name]})")
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    return path.read_text() if path.exists() else pytest.skip(f"this version of TRL has no {name}")


def tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    """A token a byte, so that every text is rendered whole and no token is partly a user's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bare = Tokenizer(models.BPE({token: index for index, token in enumerate([*special, *letters])}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bytes"), vocab_size=260, max_position_embeddings=4096)


def conversations(form: str, *, system: bool = True, tools: bool = False) -> list[dict]:
    """Chats of several turns whose answers carry their reasoning."""
    rows = []
    for turns in (1, 2, 3):
        chat = [{"role": "system", "content": "Be kind to the user."}] if system else []
        for number in range(turns):
            chat += [{"role": "user", "content": _ASKED[number]}]
            chat += [{"role": "assistant", "content": f"{_THOUGHT}Answer {number}."}]
        row = {"messages": chat} if form == "turns" else {"prompt": chat[:-1], "completion": chat[-1:]}
        rows.append({**row, "tools": _TOOLS} if tools else row)
    return rows


def make(folder, model, chat_template: str, rows: list[dict], name: str, **changes):
    """A trainer under a template, the documents of its first batch, and what makes them noisy."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation": name, "max_length": None, **changes}
    fields |= {"assistant_only_loss": "messages" in rows[0], "per_device_train_batch_size": len(rows)}
    given = {"processing_class": tokenizer(chat_template)}
    trainer = build(folder, model, Dataset.from_list(rows), given=given, **fields)
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    documents = list(split_documents(Batch(batch, labels)).values())
    return trainer, documents, trainer._extra_passes.noisy.prompts


def others(text: str) -> str:
    """What is left of a text without what only users write."""
    return "".join(letter for letter in text if letter.casefold() not in _LETTERS)


@pytest.mark.parametrize("form", ["chat", "turns"])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "qwen3",
            "qwen3_5_think",
            "deepseekv3",
            "glm4moe",
            "llama3_2",
            "gemma3",
            "nemotron_3_nano",
            "phi3",
            "gptoss",
        ),
        *_REWRITING,
    ],
)
def test_every_word_of_the_users_and_no_other_is_perturbed(name, form, model, tmp_path):
    """A message that the template altered was not found in its rendering: no token changed, and nothing was said."""
    text = template(name)
    try:
        made = make(tmp_path, model, text, conversations(form), "token_replacement")
    except ValueError as error:
        if "chat template" not in str(error):
            raise
        pytest.skip("TRL has no training template for this one")
    trainer, documents, prompts = made
    decode = trainer.processing_class.decode
    for document in documents:
        # A letter of two bytes is two tokens, neither of which is a letter by itself.
        mine = {
            index + shift
            for index in range(len(document.ids) - 1)
            if decode(document.ids[index : index + 2]) in [*_LETTERS]
            for shift in (0, 1)
        }
        free = {index for index in mine if document.labels[index] == -100}
        replaced = set()
        for seed in range(12):
            noisy = prompts.perturb(document, load_part("perturbations", "token_replacement")(severity=0.9), seed)
            assert noisy.kept == document.kept and len(noisy.ids) == len(document.ids)
            replaced |= {i for i, (old, new) in enumerate(zip(document.ids, noisy.ids, strict=True)) if old != new}
        assert free <= replaced and free
        # What stands between two of their words is theirs too: blanks, and what the template made of them.
        for index in replaced - free if name != "cut" else ():
            left = max(i for i in mine if i < index)
            right = min(i for i in mine if i > index)
            assert decode(document.ids[left + 1 : right]).strip() in ("", "\\n" if name == "as JSON" else "")
    for document in documents:
        noisy = prompts.perturb(document, load_part("perturbations", "casing")(severity=0.6), seed=3)
        before, after = decode(document.ids), decode(noisy.ids)
        assert noisy.kept == document.kept
        assert others(before) == others(after)
        if "letters" not in name and "capital" not in name:
            assert before != after


def test_a_message_that_is_not_found_is_left_out_alone(model, tmp_path):
    """One message that the template turns round took the noise out of the whole conversation."""
    turned = CHAT_TEMPLATE.replace(
        "message['content']", "(message['content'] | reverse if loop.index0 == 2 else message['content'])"
    )
    trainer, documents, prompts = make(
        tmp_path, model, turned, conversations("chat", system=False), "token_replacement"
    )
    decode = trainer.processing_class.decode
    document = documents[2]
    noisy = prompts.perturb(document, load_part("perturbations", "token_replacement")(severity=0.9), seed=1)
    (first, second, third), (now_first, now_second, now_third) = (
        [turn.split("<|im_end|>")[0] for turn in decode(one.ids).split("<|im_start|>user\n")[1:]]
        for one in (document, noisy)
    )
    assert second == _ASKED[1][::-1] == now_second
    assert now_first != first and now_third != third


@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "glm4moe"])
def test_tools_and_system_turns_stay_as_they_are(name, model, tmp_path):
    """Words of a tool's description that a user also writes are not the user's."""
    rows = conversations("chat", tools=True)
    for row in rows:
        row["prompt"][-1]["content"] = "Adds."
    trainer, documents, prompts = make(tmp_path, model, template(name), rows, "token_replacement")
    decode = trainer.processing_class.decode
    for document in documents:
        noisy = prompts.perturb(document, load_part("perturbations", "token_replacement")(severity=0.9), seed=2)
        clean, after = (decode(one.ids, errors="replace") for one in (document, noisy))
        assert clean.count("Adds.") == 2 and after.count("Adds.") == 1
        assert clean.count("Be kind to the user.") == after.count("Be kind to the user.") == 1


def test_consistency_under_a_template_that_removes_reasoning_is_not_zero(model, tmp_path):
    """The failure as a run shows it: a consistency of exactly 0.0 over chats of several turns."""
    rows = conversations("chat")[1:]
    trainer, _, _ = make(tmp_path, model, template("qwen3"), rows, "token_dropout", max_steps=1)
    logged = steps(run(trainer))[0]
    assert logged["consistency_loss"] > 0 and logged["stayed_clean_token_dropout"] == 0


def plain_rows(short: int, long: int) -> list[dict]:
    """Prompts of one token, of which none can be left out, and prompts of many."""
    prompts = ["k"] * short + ["How do I bake bread quickly, and where?"] * long
    return [{"prompt": prompt, "completion": f" Like this {n}."} for n, prompt in enumerate(prompts)]


def test_the_share_of_documents_that_stayed_clean_is_logged_and_warned_about(tiny_model_dir, tmp_path, caplog):
    """A mean over all documents does not show that half of them had no noise."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation_severity": 0.5, "max_steps": 2, "logging_steps": 2}
    given = {"eval_dataset": Dataset.from_list(plain_rows(1, 3))}
    data = Dataset.from_list(plain_rows(3, 5))
    changes = {"perturbation": "token_dropout", **fields}
    with caplog.at_level(logging.WARNING, "hf_ckt"):
        trainer = run(build(tmp_path, tiny_model_dir, data, given=given, **changes))
    # Both steps in one window: 3 of 8 documents.
    assert steps(trainer)[0]["stayed_clean_token_dropout"] == 3 / 8
    warned = [record.getMessage() for record in caplog.records if "stayed clean" in record.getMessage()]
    assert len(warned) == 1
    assert (
        "2 of the first 2 documents stayed clean under token_dropout (2 hold nothing that it may change)" in warned[0]
    )
    assert trainer.evaluate()["eval_stayed_clean_token_dropout"] == 1 / 4
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_ckt"):
        trainer = run(build(tmp_path, tiny_model_dir, Dataset.from_list(plain_rows(0, 8)), **changes))
    assert steps(trainer)[0]["stayed_clean_token_dropout"] == 0
    assert not [record for record in caplog.records if "stayed clean" in record.getMessage()]


def test_each_perturbation_of_a_mixture_has_its_own_share(tiny_model_dir, tmp_path):
    """One that does nothing would hide behind one that does."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation_severity": 1.0, "max_steps": 8, "logging_steps": 8}
    shares = {"word_swap": 0.2, "token_replacement": 0.4, "gaussian": 0.4}
    trainer = run(build(tmp_path, tiny_model_dir, Dataset.from_list(plain_rows(8, 0)), perturbation=shares, **fields))
    logged = steps(trainer)[0]
    assert logged["stayed_clean_word_swap"] == 1 and "stayed_clean_gaussian" not in logged
    assert logged["stayed_clean_token_replacement"] < 0.2  # only where the same token was drawn again


@pytest.mark.parametrize("name", ["token_dropout", "word_swap", "word_dropout"])
def test_prompts_of_which_none_can_be_perturbed_stop_the_run(name, tiny_model_dir, tmp_path):
    """A run whose noisy view is the clean one, to its end."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation_severity": 0.5, "perturbation": name}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(plain_rows(8, 0)), **fields)
    with pytest.raises(ValueError, match=rf"perturbation: the first 8 prompts all hold nothing .*{name}.*use another"):
        run(trainer)


def test_a_severity_too_low_for_a_short_prompt_does_not_stop_the_run(tiny_model_dir, tmp_path):
    """Chance is no fault: the next step may change what this one left alone."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation_severity": 1e-6, "max_steps": 4}
    trainer = run(build(tmp_path, tiny_model_dir, Dataset.from_list(plain_rows(0, 8)), **fields, perturbation="typos"))
    assert [step["stayed_clean_typos"] for step in steps(trainer)] == [1.0] * 4


def test_a_prompt_of_one_token_can_be_replaced(tiny_model_dir, tmp_path):
    """The first token of a document was never offered, so that a prompt of one token stayed clean for ever."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation_severity": 1.0, "perturbation": "token_replacement"}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(plain_rows(4, 0)), **fields)
    prompts = trainer._extra_passes.noisy.prompts
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    for document in split_documents(Batch(batch, labels)).values():
        assert document.labels[0] == -100 and document.labels[1] == document.ids[1]
        noisy = [prompts.perturb(document, load_part("perturbations", "token_replacement")(1.0), s) for s in range(5)]
        assert any(one.ids[0] != document.ids[0] for one in noisy)
        assert all(one.ids[1:] == document.ids[1:] and one.kept == document.kept for one in noisy)
