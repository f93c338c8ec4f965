# SPDX-License-Identifier: Apache-2.0
"""Noisy prompts: the answers' tokens stay, special tokens and the template's words stay, only what users wrote moves."""

import random
import re

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ckt.discovery import load_part, part_names
from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import Document, split_documents
from hf_ckt.noise.noisy_prompts import NoisyPrompts
from hf_ckt.noise.sources import PromptSources
from hf_ckt.perturbations.base import TextPerturbation
from tests.trainers import OFF, build, first_batch

TEXT_AND_IDS = [
    name for name in part_names("perturbations") if load_part("perturbations", name).stage in ("text", "ids")
]
TEXT = [name for name in TEXT_AND_IDS if load_part("perturbations", name).stage == "text"]
_TEXT = "How do I kill a process that does not answer cannot help you find the best way to bake bread quickly"
WORDS = _TEXT.split()
FORMS = ("plain", "chat", "turns")


def sentence(rng: random.Random, longest: int = 14) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest))) + rng.choice("?.!")


def chats(form: str, count: int, seed: int = 0) -> list[dict]:
    """Random examples: text, prompt and completion as messages, or conversations of several turns."""
    rng = random.Random(f"{form}{seed}")
    rows = []
    for _ in range(count):
        system = [{"role": "system", "content": sentence(rng)}] if rng.random() < 0.5 else []
        ask = lambda: {"role": "user", "content": sentence(rng)}  # noqa: E731
        answer = lambda: {"role": "assistant", "content": sentence(rng)}  # noqa: E731
        if form == "plain":
            rows.append({"prompt": sentence(rng) + rng.choice(["", " ", "\n"]), "completion": " " + sentence(rng)})
        elif form == "chat":
            before = [*system, ask(), *([answer(), ask()] if rng.random() < 0.3 else [])]
            rows.append({"prompt": before, "completion": [answer()]})
        else:
            turns = [message for _ in range(rng.randint(1, 3)) for message in (ask(), answer())]
            rows.append({"messages": [*system, *turns]})
    return rows


def with_template(folder, template: str):
    """The tiny model's tokenizer with another chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def make(folder, model, form: str, rows: list[dict], name: str = "typos", **changes):
    """A trainer whose noisy view perturbs prompts, its documents, and what makes them noisy."""
    fields = {**OFF, "consistency_weight": 1.0, "perturbation": name, "perturbation_severity": 0.3, "max_length": None}
    fields |= {"assistant_only_loss": form == "turns", "per_device_train_batch_size": len(rows), **changes}
    trainer = build(folder, model, Dataset.from_list(rows), **fields)
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    return trainer, list(split_documents(Batch(batch, labels)).values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TEXT_AND_IDS)
def test_kept_tokens_of_both_views_are_identical_over_500_chats(name, form, tiny_model_dir, tmp_path):
    """One token off, and every position is pulled towards the prediction of its neighbour."""
    trainer, documents = make(tmp_path, tiny_model_dir, form, chats(form, 500), name)
    prompts = trainer._extra_passes.noisy.prompts
    part = load_part("perturbations", name)(severity=0.3)
    changed = 0
    for document in documents:
        noisy = prompts.perturb(document, part, seed=7)
        assert noisy.kept == document.kept and len(noisy.ids) == len(noisy.labels)
        assert all(label in (-100, token) for token, label in zip(*noisy, strict=True))
        special = [token for token in document.ids if token in prompts.special_ids]
        assert [token for token in noisy.ids if token in prompts.special_ids] == special
        changed += noisy.ids != document.ids
    # A prompt of one word has nothing to swap, and none of its gaps can change.
    assert len(documents) == 500 and changed > 350


@pytest.mark.parametrize("form", ["chat", "turns"])
@pytest.mark.parametrize("name", TEXT_AND_IDS)
def test_only_what_the_user_wrote_changes(name, form, tiny_model_dir, tmp_path):
    """A changed role name or system prompt is another conversation, and no typing error makes one."""
    trainer, documents = make(tmp_path, tiny_model_dir, form, chats(form, 40), name)
    prompts = trainer._extra_passes.noisy.prompts
    part = load_part("perturbations", name)(severity=0.5)
    blank = re.compile(r"(<\|im_start\|>user\n).*?(<\|im_end\|>)", re.DOTALL)
    decode = trainer.processing_class.decode
    differ = 0
    for document in documents:
        clean, noisy = decode(document.ids), decode(prompts.perturb(document, part, seed=1).ids)
        assert blank.sub(r"\1\2", clean) == blank.sub(r"\1\2", noisy)
        differ += clean != noisy
    assert differ > 20


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated")
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("form", FORMS)
def test_truncated_documents_keep_the_tokens_that_truncation_left(form, mode, tiny_model_dir, tmp_path):
    """Answers cut by max_length in one view and not in the other would be matched against each other."""
    longest = {"plain": 22, "chat": 60, "turns": 70}[form]
    changes = {"max_length": longest, "truncation_mode": mode}
    for name in ("typos", "word_dropout", "token_dropout"):
        trainer, documents = make(tmp_path, tiny_model_dir, form, chats(form, 120), name, **changes)
        prompts = trainer._extra_passes.noisy.prompts
        part = load_part("perturbations", name)(severity=0.6)
        cut = [document for document in documents if len(document.ids) == longest]
        noisy = [prompts.perturb(document, part, seed=3) for document in cut]
        assert len(cut) > 20
        assert all(one.kept == document.kept for one, document in zip(noisy, cut, strict=True))
        assert all(len(one.ids) <= longest for one in noisy)
        assert sum(one.ids != document.ids for one, document in zip(noisy, cut, strict=True)) > len(cut) / 5
        # As the trainer lays them out: a document that began with a kept token would lose it there.
        batch = first_batch(trainer)
        clean = Batch(batch, batch.pop("labels"))
        made, _ = trainer._extra_passes.noisy._rewrite(clean, 3, 0.0)
        assert torch.equal(made.kept_labels, clean.kept_labels)


def test_fragments_of_wrapped_packing_keep_their_tokens(tiny_model_dir, tmp_path):
    """Rows that begin in the middle of an answer: the first token predicts nothing, and the next one needs it."""
    changes = {"packing": True, "packing_strategy": "wrapped", "max_length": 24, "per_device_train_batch_size": 6}
    trainer = build(
        tmp_path,
        tiny_model_dir,
        Dataset.from_list(chats("plain", 60)),
        **{**OFF, "consistency_weight": 1.0, "perturbation": "token_dropout", "perturbation_severity": 0.8},
        **changes,
    )
    batch = first_batch(trainer)
    clean = Batch(batch, batch.pop("labels"))
    for seed in range(5):
        made, _ = trainer._extra_passes.noisy._rewrite(clean, seed, 0.0)
        assert torch.equal(made.kept_labels, clean.kept_labels)
        assert made.documents.mask.sum() < clean.documents.mask.sum()


@pytest.mark.parametrize("form", ["chat", "turns"])
@pytest.mark.parametrize("name", ["typos", "word_dropout", "token_dropout"])
def test_a_template_that_prints_another_day_is_aligned_all_the_same(name, form, tiny_model_dir, tmp_path):
    """Rendered anew after midnight, no prompt would be found in its document, and the noise would go out."""
    day = "{{- 'Today is a ' + '%s' + '\n' }}"
    trainer, documents = make(tmp_path, tiny_model_dir, form, chats(form, 30), name)
    template = trainer.chat_template or trainer.processing_class.chat_template
    monday = build(
        tmp_path / "monday",
        tiny_model_dir,
        Dataset.from_list(chats(form, 30)),
        given={"processing_class": with_template(tiny_model_dir, day % "Monday" + template)},
        **{**OFF, "consistency_weight": 1.0, "perturbation": name, "max_length": None},
        assistant_only_loss=form == "turns",
        per_device_train_batch_size=30,
    )
    batch = first_batch(monday)
    documents = list(split_documents(Batch(batch, batch.pop("labels"))).values())
    prompts = NoisyPrompts(monday.processing_class, monday._sources, day % "Wednesday" + template)
    part = load_part("perturbations", name)(severity=0.5)
    noisy = [prompts.perturb(document, part, seed=2) for document in documents]
    assert all(one.kept == document.kept for one, document in zip(noisy, documents, strict=True))
    assert sum(one.ids != document.ids for one, document in zip(noisy, documents, strict=True)) > 20
    if form == "chat":
        decode = monday.processing_class.decode
        assert all(decode(one.ids).startswith("Today is a Monday\n<|im_start|>") for one in noisy)


class Slip(TextPerturbation):
    """Writes one word as two."""

    def apply(self, text, rng):
        return text.replace("how", "ho w")


def of_words(day: str) -> PreTrainedTokenizerFast:
    """A token a word, and a template that begins with the day."""
    vocabulary = ["?", "Monday", "Tuesday", "morning", "<u>", "how", "ho", "w", "do", "I", "<a>", "yes", "sir", "<e>"]
    bare = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, "?"))
    bare.pre_tokenizer = WhitespaceSplit()
    template = (
        f"{day} {{% for message in messages %}}{{% if message['role'] == 'user' %}}{{{{ '<u> ' + message['content'] }}}}"
        "{% else %}{{ ' <a> ' + message['content'] + ' <e>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' <a>' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=template)


@pytest.mark.parametrize(
    ("today", "cut", "document", "made"),
    [
        ("Monday", 0, "Monday <u> how do I <a> yes sir <e>", "Monday <u> ho w do I <a> yes sir <e>"),
        ("Monday", -1, "Monday <u> how do I <a> yes sir", "Monday <u> ho w do I <a> yes sir"),
        ("Monday", 1, "<u> how do I <a> yes sir <e>", "<u> ho w do I <a> yes sir <e>"),
        ("Monday", 2, "how do I <a> yes sir <e>", "ho w do I <a> yes sir <e>"),
        ("Monday", 3, "do I <a> yes sir <e>", "w do I <a> yes sir <e>"),
        ("Monday", 5, "<a> yes sir <e>", "I <a> yes sir <e>"),
        ("Tuesday morning", 0, "Monday <u> how do I <a> yes sir <e>", "Monday <u> ho w do I <a> yes sir <e>"),
        ("Tuesday morning", 3, "do I <a> yes sir <e>", "w do I <a> yes sir <e>"),
        ("Monday", 6, "yes sir <e>", "yes sir <e>"),
        ("Monday", 7, "sir <e>", "sir <e>"),
    ],
    ids=str,
)
def test_a_noisy_prompt_is_put_before_the_answer_token_by_token(today, cut, document, made):
    """Each case by hand: one token too many or too few in front of the answer and every position answers another."""
    chat, answer = [{"role": "user", "content": "how do I"}], [{"role": "assistant", "content": "yes sir"}]
    whole = of_words("Monday")("Monday <u> how do I <a> yes sir <e>")["input_ids"]
    assert len(whole) == 9
    labels = [-100] * 6 + whole[6:]
    row = {"input_ids": [whole], "labels": [labels], "prompt": [chat], "completion": [answer]}
    sources = PromptSources()
    tokenizer = of_words(today)
    given = tokenizer(document)["input_ids"]
    assert given == (whole[:cut] if cut < 0 else whole[cut:])
    sources.add(Dataset.from_dict(row), len(given), keep_end=cut > 0)
    prompts = NoisyPrompts(tokenizer, sources)
    kept = [-100, *labels[cut + 1 if cut > 0 else 1 :]][: len(given)]
    noisy = prompts.perturb(Document(given, kept), Slip(severity=1.0), seed=0)
    assert tokenizer.decode(noisy.ids) == made
    assert noisy.kept == Document(given, kept).kept


def test_prompts_of_which_none_can_be_aligned_raise(tiny_model_dir, tmp_path):
    """A warning in the log and a consistency of 0 for the rest of the run is not what was asked for."""
    trainer, documents = make(tmp_path, tiny_model_dir, "chat", chats("chat", 20))
    other = "{%- for message in messages %}{{- 'X ' + message['content'] + ' Y ' }}{%- endfor %}"
    prompts = NoisyPrompts(trainer.processing_class, trainer._sources, other)
    part = load_part("perturbations", "typos")(severity=0.5)
    with pytest.raises(ValueError, match="none of the first 8 noisy prompts could be aligned"):
        for document in documents:
            assert prompts.perturb(document, part, seed=1) == document


def test_noise_never_makes_a_document_longer_than_max_length(tiny_model_dir, tmp_path):
    """Beyond a model's last position an embedding is looked up that does not exist."""
    trainer, documents = make(tmp_path, tiny_model_dir, "chat", chats("chat", 60), "distractor", max_length=70)
    prompts = trainer._extra_passes.noisy.prompts
    part = load_part("perturbations", "distractor")(severity=1.0)
    noisy = [prompts.perturb(document, part, seed=1) for document in documents]
    assert all(len(one.ids) <= 70 and one.kept == d.kept for one, d in zip(noisy, documents, strict=True))
    # The first token stays, whatever had to go behind it.
    assert all(one.ids[0] == document.ids[0] for one, document in zip(noisy, documents, strict=True))
    assert max(len(one.ids) for one in noisy) == 70


def test_a_row_is_read_as_trl_reads_it(tiny_model_dir, tmp_path):
    """A column of messages beside prompt and completion is not what was tokenized."""
    rows = [{**row, "messages": row["prompt"] + row["completion"]} for row in chats("chat", 20)]
    trainer, documents = make(tmp_path, tiny_model_dir, "chat", rows)
    part = load_part("perturbations", "typos")(severity=0.5)
    noisy = [trainer._extra_passes.noisy.prompts.perturb(document, part, seed=1) for document in documents]
    assert sum(one.ids != document.ids for one, document in zip(noisy, documents, strict=True)) > 10


@pytest.mark.parametrize("name", TEXT_AND_IDS)
def test_noise_depends_on_seed_and_document_alone(name, tiny_model_dir, tmp_path):
    """A resumed run must see the noise that the whole run saw, and another step another noise."""
    trainer, documents = make(tmp_path, tiny_model_dir, "chat", chats("chat", 12), name)
    prompts = trainer._extra_passes.noisy.prompts
    part = load_part("perturbations", name)(severity=0.5)
    random.seed(0)
    first = [prompts.perturb(document, part, seed=5) for document in documents]
    random.seed(1)
    assert [prompts.perturb(document, part, seed=5) for document in reversed(documents)] == first[::-1]
    others = [prompts.perturb(document, part, seed=seed) for document in documents for seed in (6, 5 << 32)]
    assert sum(one not in first for one in others) > len(others) / 2


def test_text_that_is_unknown_raises_and_tokens_do_without(tiny_model_dir, tmp_path):
    """Left clean in silence, the documents of another dataset would make a consistency of 0."""
    trainer, documents = make(tmp_path, tiny_model_dir, "chat", chats("chat", 4))
    prompts = NoisyPrompts(trainer.processing_class, PromptSources())
    with pytest.raises(ValueError, match=r"perturbation: .*none of the datasets.*not yet tokenized"):
        prompts.perturb(documents[0], load_part("perturbations", "typos")(), seed=1)
    noisy = prompts.perturb(documents[0], load_part("perturbations", "token_replacement")(severity=0.5), seed=1)
    assert noisy.ids != documents[0].ids and noisy.kept == documents[0].kept


def test_documents_without_a_kept_token_or_a_prompt_stay_as_they_are(tiny_model_dir, tmp_path):
    """Padding in a packed row is a document of its own, and is in no dataset."""
    trainer, _ = make(tmp_path, tiny_model_dir, "chat", chats("chat", 4))
    prompts = trainer._extra_passes.noisy.prompts
    typos, dropout = (load_part("perturbations", name)(severity=0.5) for name in ("typos", "token_dropout"))
    for document in (Document([5], [-100]), Document([5, 6], [-100, -100])):
        assert prompts.perturb(document, typos, seed=1) is document
    answer_alone = Document([1, 6, 7], [-100, 6, 7])  # its only other token is special
    assert prompts.perturb(answer_alone, dropout, seed=1) == answer_alone


def test_text_blocks_of_a_message_are_perturbed_too(tiny_model_dir):
    """Content as a list of blocks is how multimodal chats write text; it would stay clean."""
    from hf_ckt.noise.noisy_prompts import perturb_text

    block = {"role": "user", "content": [{"type": "text", "text": "how do i"}, {"type": "image", "text": None}]}
    given = [{"role": "system", "content": "be brief"}, block, {"role": "assistant", "content": "no"}]
    (system, user, answer) = perturb_text(given, load_part("perturbations", "casing")(severity=1.0), random.Random(0))
    assert system == given[0] and answer == given[2]
    assert user["content"] == [{"type": "text", "text": "HOW DO I"}, {"type": "image", "text": None}]
    assert block["content"][0]["text"] == "how do i"


def test_a_word_whose_token_begins_with_the_templates_space_is_the_users():
    """Many tokenizers write a word with the space before it: a prompt of one word would stay clean for ever."""
    words = ["?", "user", ":", "Ġbread", "Ġassistant", "Ġyes", "Ġother", "Ġwords"]
    bare = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "?"))
    bare.pre_tokenizer = ByteLevel(add_prefix_space=False)
    template = (
        "{% for message in messages %}{{ ('' if loop.first else ' ') + message['role'] + ': ' + message['content'] }}"
        "{% endfor %}{% if add_generation_prompt %} assistant:{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=template)
    ids = tokenizer("user: bread assistant: yes")["input_ids"]
    assert ids == [1, 2, 3, 4, 2, 5]
    document = Document(ids, [-100] * 5 + ids[5:])
    chat, answer = [{"role": "user", "content": "bread"}], [{"role": "assistant", "content": "yes"}]
    sources = PromptSources()
    row = {"input_ids": [ids], "labels": [document.labels], "prompt": [chat], "completion": [answer]}
    sources.add(Dataset.from_dict(row), None, keep_end=False)
    prompts = NoisyPrompts(tokenizer, sources)
    part = load_part("perturbations", "token_replacement")(severity=1.0)
    noisy = [prompts.perturb(document, part, seed) for seed in range(6)]
    changed = {index for one in noisy for index in range(6) if one.ids[index] != ids[index]}
    assert changed == {2}
