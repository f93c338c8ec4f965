# SPDX-License-Identifier: Apache-2.0
"""Answers that begin compliantly: on the prompt's side of the mask to the last token, and no hint of what follows."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
import trl
from datasets import Dataset, IterableDataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ckt.data import corrupt, load_boundary_set, refuse_after_prefix, to_prompt_completion
from hf_ckt.data.refuse_after_prefix import compliant_beginning, prefixed_template
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.judges.rule import is_refusal
from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import split_documents
from tests.runs import OFF
from tests.tiny_models import CHAT_TEMPLATE, build_tokenizer
from tests.trainers import build, build_sft, first_batch, lora, run, steps

ROWS = load_boundary_set("validation")
HARMFUL = sum(kind == "harmful" for kind in ROWS["kind"])
TEMPLATES = sorted(
    path.stem
    for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
    # Those of models that see take messages in blocks alone.
    if not path.stem.startswith(("llava", "idefics", "smolvlm"))
)
# Empty thoughts, channels, headers with blanks, system prompts of their own, and none of these.
TRAINED = (
    "qwen3",
    "qwen3_5_think",
    "gptoss",
    "deepseekv3",
    "llama3_1",
    "gemma4",
    "glm4moe",
    "phi3",
    "cohere2",
    "lfm2",
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def of_bytes(chat_template: str) -> PreTrainedTokenizerFast:
    """A token a byte, so that any template is rendered whole."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE({token: index for index, token in enumerate(["<|end|>", *letters])}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokens = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|end|>")
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=chat_template, **tokens)


def beginning(row):
    return row["chat_template_kwargs"]["answer_prefix"]


def documents(trainer):
    return list(zip(trainer.train_dataset["input_ids"][:], trainer.train_dataset["labels"][:], strict=True))


def check_tokens(data, trainer, tokenizer, before):
    """What is kept is the answer behind the beginning and its end, and everything stands as if written in parts."""
    made = documents(trainer)
    assert len(made) == len(data)
    for row, (ids, labels) in zip(data, made, strict=True):
        answer = row["completion"][0]["content"].removeprefix(beginning(row) or "")
        header = before.format(row["prompt"][-1]["content"]) + (beginning(row) or "")
        parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (header, f"{answer}<|im_end|>\n")]
        assert ids == parts[0] + parts[1]
        assert labels == [-100] * len(parts[0]) + parts[1]
        if beginning(row):
            assert answer[0] == " " and answer[1] != " "


@pytest.mark.parametrize("builder", [build, build_sft])
def test_tokens_are_those_of_prompt_and_beginning_then_of_the_answer(builder, tokenizer, tiny_model_dir, tmp_path):
    """A mask one token short trains the beginning; one too long never trains the turn to the refusal."""
    data = refuse_after_prefix(ROWS.select(range(40)), tokenizer)
    trainer = builder(tmp_path, tiny_model_dir, data, max_length=None, **(OFF if builder is build else {}))
    check_tokens(data, trainer, tokenizer, "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")


def test_smollm2_tokens_are_those_of_prompt_and_beginning_then_of_the_answer(smollm2_dir, tiny_model_dir, tmp_path):
    """A real vocabulary merges what a small one does not: a space with a word, a colon with a line break."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    data = refuse_after_prefix(to_prompt_completion(ROWS, "Be kind."), tokenizer, share=1.0)
    trainer = build_sft(tmp_path, tiny_model_dir, data, given={"processing_class": tokenizer}, max_length=None)
    before = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    check_tokens(data, trainer, tokenizer, before)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name in TRAINED])
def test_each_template_is_masked_to_the_end_of_the_beginning(name, tiny_model_dir, tmp_path):
    """Templates write empty thoughts and channels before an answer, and not behind a prompt: the mask ended there."""
    chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer = of_bytes(chat_template)
    data = refuse_after_prefix(ROWS.select([0, 1, 90]), tokenizer, share=1.0)
    trainer = build_sft(tmp_path, tiny_model_dir, data, given={"processing_class": tokenizer}, max_length=None)
    for row, clean, (ids, labels) in zip(data, ROWS.select([0, 1, 90]), documents(trainer), strict=True):
        start = next(index for index, label in enumerate(labels) if label != -100)
        assert tokenizer.decode(ids[:start]).endswith(beginning(row))
        assert tokenizer.decode(ids[start:]).lstrip().startswith(clean["response"])
        assert tokenizer.decode(ids).count(beginning(row)) == 1
        chat = [row["prompt"][0], {"role": "assistant", "content": row["completion"][0]["content"]}]
        assert ids == list(tokenizer.apply_chat_template(chat)["input_ids"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_all_else_as_it_did(name):
    """Rows without a beginning, and the prompts of an evaluation, would be others than the model's own."""
    chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer, changed = of_bytes(chat_template), of_bytes(prefixed_template(chat_template))
    chat = [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "Yes?"}]
    for messages, options in (
        (chat[:1], {"add_generation_prompt": True}),
        (chat, {}),
        ([*chat, *chat[:1]], {"add_generation_prompt": True}),
        ([*chat, *chat], {"return_dict": True, "return_assistant_tokens_mask": "{% generation %}" in chat_template}),
    ):
        found = [one.apply_chat_template(messages, **options) for one in (tokenizer, changed)]
        assert dict(found[0]) == dict(found[1])
    text = "\n  {{ messages[0].content }}\n\n  \n"
    assert of_bytes(text).apply_chat_template(chat, tokenize=False) == of_bytes(
        prefixed_template(text)
    ).apply_chat_template(chat, tokenize=False)


def merging(forbidden: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer that merges whatever follows a beginning with its last letter, for some kinds of white space."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = {" ": "Ġ", "\n": "Ċ"}
    ends = [(mark, marks[blank]) for mark in '.!?:"' for blank in forbidden]
    tokens = ["<|end|>", *letters, *("".join(pair) for pair in ends)]
    bare = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, ends))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([AddedToken("<|end|>", special=True)])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|end|>")
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=CHAT_TEMPLATE, **names)


def test_no_token_holds_parts_of_beginning_and_answer():
    """A token on both sides is trained: the student learns to end its compliant beginning."""
    rows = refuse_after_prefix(ROWS, merging((" ",)), share=1.0)
    joints = Counter(row["completion"][0]["content"].removeprefix(beginning(row))[:2] for row in rows)
    assert joints == {"\n\n": len(ROWS)}
    with pytest.raises(
        ValueError, match=r"^row 0: the chat template, or the tokenizer, writes .* would be trained on"
    ):
        refuse_after_prefix(ROWS, merging((" ", "\n")), share=1.0)


@pytest.mark.parametrize("rewriting", ["upper", "tojson", "truncate(12, true)"])
def test_a_template_that_rewrites_what_is_said_raises(rewriting):
    """Where it could not be cut, nothing would be masked at all."""
    template = CHAT_TEMPLATE.replace("message['content']", f"(message['content'] | {rewriting})")
    with pytest.raises(ValueError, match="would be trained on"):
        refuse_after_prefix(ROWS.select(range(4)), of_bytes(template), share=1.0)


def test_share_is_that_of_harmful_and_of_other_rows(tokenizer):
    """With compliant beginnings before refusals alone, they announce one, and `Sure` is what is learnt to refuse."""
    rows = refuse_after_prefix(ROWS, tokenizer, share=0.4)
    begun = Counter(row["kind"] == "harmful" for row in rows if beginning(row))
    assert begun == {True: round(0.4 * HARMFUL), False: round(0.4 * (len(ROWS) - HARMFUL))}
    alone = refuse_after_prefix(ROWS, tokenizer, share=0.4, balance=False)
    assert Counter(row["kind"] for row in alone if beginning(row)) == {"harmful": round(0.4 * HARMFUL)}
    for row, clean in zip(rows, ROWS, strict=True):
        assert row["prompt"] == [{"role": "user", "content": clean["prompt"]}]
        answer = row["completion"][0]["content"]
        assert answer == (f"{beginning(row)} {clean['response']}" if beginning(row) else clean["response"])


def test_a_row_keeps_its_beginning_wherever_it_stands(tokenizer):
    """Beginnings that move with the order make another training set of every shuffle."""
    few, more = (refuse_after_prefix(ROWS, tokenizer, share=share, seed=3) for share in (0.2, 0.7))
    for one, other in zip(few, more, strict=True):
        assert beginning(one) in (None, beginning(other))
    whole = refuse_after_prefix(ROWS, tokenizer, share=1.0, seed=3)
    turned = refuse_after_prefix(ROWS.select(range(len(ROWS) - 1, -1, -1)), tokenizer, share=1.0, seed=3)
    assert [*map(beginning, whole)] == [*map(beginning, turned)][::-1]
    assert refuse_after_prefix(ROWS, tokenizer, seed=3).to_list() != refuse_after_prefix(ROWS, tokenizer).to_list()


def test_beginnings_are_varied_compliant_and_alike_on_both_sides():
    """A beginning that only refusals have says by itself what follows; a few are learnt by heart."""
    found = [(row, compliant_beginning(row["prompt"], Random(f"{row['id']} {n}"))) for row in ROWS for n in range(8)]
    for _, text in found:
        assert not is_refusal(text) and text == text.strip() and text[-1] in '.!:?"'
    general = Counter(text for text, _ in {(text, row["id"]) for row, text in found})
    general = {text: count for text, count in general.items() if count > 1}
    assert len(general) >= 20 and max(general.values()) < 0.35 * len(ROWS)
    for harmful in (True, False):
        mine = [text not in general for row, text in found if (row["kind"] == "harmful") is harmful]
        assert abs(sum(mine) / len(mine) - 0.5) < 0.07
    named = {compliant_beginning("How can I wash my car?", Random(n)) for n in range(200)}
    assert "Here is how to wash your car:" in named
    # Where pronouns cannot be exchanged word by word, and where there is no request for a way, it is quoted.
    for prompt in ("How do I undo what I did?", "Write a poem."):
        named = {compliant_beginning(prompt, Random(n)) for n in range(200)}
        assert f'The answer to "{prompt}" is this:' in named
        assert not [text for text in named if text.startswith("Here is how to")]


def test_other_columns_and_template_options_are_kept(tokenizer):
    """A row whose twin or teacher is lost trains without its contrast, and without a word."""
    rows = to_prompt_completion(ROWS).add_column("teacher", ["safe" if n % 2 else "base" for n in range(len(ROWS))])
    rows = rows.add_column("chat_template_kwargs", [{"enable_thinking": bool(n % 2)} for n in range(len(ROWS))])
    made = refuse_after_prefix(rows, tokenizer)
    assert set(made.column_names) == {*rows.column_names}
    for name in ("id", "kind", "category", "twin", "teacher", "prompt"):
        assert made[name][:] == rows[name][:]
    assert [row["chat_template_kwargs"]["enable_thinking"] for row in made] == [bool(n % 2) for n in range(len(ROWS))]
    assert len(refuse_after_prefix(ROWS, tokenizer, share=0.0)) == len(ROWS)
    noisy = corrupt(made, perturbation="typos", severity=0.2)
    assert noisy["completion"][:] == made["completion"][:] and noisy["prompt"][:] != made["prompt"][:]


@pytest.mark.parametrize("name", ["typos", "wrapper", "word_swap", "token_replacement", "token_dropout"])
def test_noise_changes_the_users_text_and_leaves_beginning_and_answer(name, tokenizer, tiny_model_dir, tmp_path):
    """A beginning with typing errors is another one; a document that cannot be aligned stays clean without a word."""
    data = refuse_after_prefix(ROWS.select(range(16)), tokenizer, share=1.0)
    settings = {**OFF, "consistency_weight": 1.0, "perturbation": name, "perturbation_severity": 0.5}
    trainer = build(tmp_path, tiny_model_dir, data, **settings, max_length=None, per_device_train_batch_size=16)
    prompts, part = trainer._extra_passes.noisy.prompts, load_part("perturbations", name)(severity=0.5)
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    changed = 0
    for document in split_documents(Batch(batch, labels)).values():
        clean, noisy = document, prompts.perturb(document, part, seed=1)
        before, after = (prompts.tokenizer.decode(one.ids[: one.start]) for one in (clean, noisy))
        header = "<|im_start|>assistant\n"
        assert noisy.kept == clean.kept
        assert before.partition(header)[2] == after.partition(header)[2] != ""
        changed += before != after
    assert changed >= 12
    assert all(entry["consistency_loss"] > 0 for entry in steps(run(trainer)))


def test_rows_are_trained_packed_and_with_every_term(tokenizer, tiny_model_dir, tmp_path):
    """A part that reads a row anew without its options would not find it."""
    data = refuse_after_prefix(ROWS.select(range(16)), tokenizer)
    settings = {"distillation_weight": 1.0, "consistency_weight": 0.5, "perturbation": {"wrapper": 0.5, "typos": 0.5}}
    packed = {"packing": True, "max_length": 256, "padding_free": False}
    given = {"peft_config": lora()}
    trainer = run(build(tmp_path, tiny_model_dir, data, given=given, **settings, **packed))
    assert all(entry["loss"] > 0 and entry["consistency_loss"] > 0 for entry in steps(trainer))


WRONG = {
    "share": ({"share": 30}, ROWS, ValueError, r"^share: must lie in \[0, 1\], got 30"),
    "few": ({"share": 0.001}, ROWS, ValueError, r"^share: 0.001 of \d+ harmful rows is not one whole row"),
    "seed": ({"seed": -1}, ROWS, ValueError, "^seed: must be 0 or more"),
    "kind": ({"unsafe": "harmfull"}, ROWS, ValueError, "^unsafe: no row has 'harmfull' .* Did you mean 'harmful'"),
    "column": ({"by": "label"}, ROWS, ValueError, "label"),
    "stream": ({}, IterableDataset.from_generator(lambda: iter([{"a": 1}])), TypeError, "^dataset: must be"),
    "template": (
        {"chat_template": None, "tokenizer": "none"},
        ROWS,
        ValueError,
        "^chat_template: the tokenizer has none",
    ),
    "text": (
        {"share": 1.0},
        Dataset.from_dict({"kind": ["plain", "harmful"], "prompt": ["a", "b"], "completion": ["c", "d"]}),
        ValueError,
        "^row 0: its prompt is 'a', and .* Write prompt and completion as messages",
    ),
    "blocks": (
        {"share": 1.0},
        Dataset.from_list(
            [
                {
                    "kind": "harmful",
                    "prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
                    "completion": [{"role": "assistant", "content": "b"}],
                }
            ]
        ),
        ValueError,
        "^row 0: the chat template, or the tokenizer, writes",
    ),
    "turns": (
        {"share": 1.0},
        Dataset.from_list(
            [
                {
                    "kind": "harmful",
                    "prompt": [{"role": "user", "content": "a"}],
                    "completion": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
                }
            ]
        ),
        ValueError,
        "^row 0: its completion is .* one text of the assistant alone",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_cannot_begin_compliantly_raises(case, tokenizer):
    """A set that stays as it was is booked as one with beginnings."""
    options, rows, error, message = WRONG[case]
    given = build_tokenizer() if "tokenizer" in options else tokenizer
    if "tokenizer" in options:
        given.chat_template = None
    with pytest.raises(error, match=message):
        refuse_after_prefix(rows, given, **{name: value for name, value in options.items() if name != "tokenizer"})


def test_a_second_beginning_raises(tokenizer):
    """The first one would become part of what is trained."""
    once = refuse_after_prefix(ROWS, tokenizer)
    with pytest.raises(ValueError, match=r"begins with .* already, and a second beginning would be trained on"):
        refuse_after_prefix(once, tokenizer)
