# SPDX-License-Identifier: Apache-2.0
"""Students with added tokens, and models that do not have them: said before training, and a way to go on."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch.nn.functional import log_softmax

from hf_ckt.models.batch import Batch
from hf_ckt.training.collator import RejectedCollator
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import build, load, lora, run, steps

ADDED = ["<|user|>", "<|answer|>"]
DISTIL = {**OFF, "distillation_weight": 1.0}
MAP = {"<|user|>": "<|im_start|>", "<|answer|>": "<|im_end|>"}


def save_student(folder, *, padding=False, resized=True):
    """The tiny Llama with two tokens more (and one to pad with), as a cloned chat template adds them."""
    tiny_models.save_tiny_llama(folder)
    tokenizer = tiny_models.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    if padding:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    model = load(folder)
    if resized:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_padded_teacher(folder):
    """The original model with rows behind its vocabulary, as many checkpoints have them."""
    tiny_models.save_tiny_llama(folder, seed=7)
    model = load(folder)
    model.resize_token_embeddings(256, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def chats(count=8):
    """Rows with the added tokens in prompt and answer, but not in the first half."""
    added = [{"prompt": f"<|user|>{one['prompt']}<|answer|>", "completion": one["completion"]} for one in rows(count)]
    return [*rows(count)[: count // 2], *added[count // 2 :]]


@pytest.fixture
def student(tmp_path):
    return save_student(tmp_path / "student")


def given(teacher, **more):
    return {"teacher_model": str(teacher), "peft_config": lora(), **more}


@pytest.mark.parametrize("padded", [False, True])
def test_tokens_that_the_teacher_does_not_have_are_named_before_training(padded, student, tiny_model_dir, tmp_path):
    """It was an IndexError at the first row with one, or, in a padded embedding, a teacher that reads noise."""
    teacher = save_padded_teacher(tmp_path / "teacher") if padded else tiny_model_dir
    first = len(tiny_models.build_tokenizer())
    with pytest.raises(ValueError) as error:
        build(tmp_path / "out", student, Dataset.from_list(chats()), given=given(teacher), **DISTIL)
    for words in ("2 of the tokens that train_dataset holds", f"'<|user|>' ({first})", "teacher_token_map="):
        assert words in str(error.value)


def test_evaluation_data_is_looked_through_too(student, tiny_model_dir, tmp_path):
    """The first evaluation is hours in; a dict of sets has one of them."""
    sets = {"plain": Dataset.from_list(rows()), "chats": Dataset.from_list(chats())}
    with pytest.raises(ValueError, match=r"tokens that eval_dataset\['chats'\] holds"):
        build(tmp_path / "out", student, given=given(tiny_model_dir, eval_dataset=sets), **DISTIL)


def test_data_without_the_added_tokens_trains(student, tiny_model_dir, tmp_path):
    """A tokenizer that has more than the data uses is no obstacle."""
    trainer = build(tmp_path / "out", student, given=given(tiny_model_dir), **DISTIL)
    assert steps(run(trainer))[0]["distillation_loss"] > 0
    with pytest.raises(ValueError, match="tokens that a batch holds"):
        trainer.evaluate(trainer_data(tmp_path, student))


def trainer_data(tmp_path, student):
    """Tokenized rows that hold the added tokens."""
    return build(tmp_path / "other", student, Dataset.from_list(chats()), **OFF).train_dataset


def test_streaming_data_is_checked_batch_by_batch(student, tiny_model_dir, tmp_path):
    """It cannot be looked through before, and an IndexError in an embedding names neither token nor remedy."""
    data = IterableDataset.from_generator(chats)
    trainer = build(tmp_path / "out", student, data, given=given(tiny_model_dir), max_steps=2, **DISTIL)
    with pytest.raises(ValueError, match=r"teacher_model: does not have .* a batch holds: .*teacher_token_map="):
        trainer.train()


def test_no_check_where_the_teacher_has_every_token(tiny_model_dir, tmp_path):
    """Looking through every batch is only for those who need it."""
    trainer = build(tmp_path, tiny_model_dir, given=given(tiny_model_dir), **DISTIL)
    assert type(trainer.data_collator).__name__ == "DataCollatorForLanguageModeling"


ROLES = {
    "distillation": {"distillation_weight": 1.0},
    "contrastive": {"contrastive_weight": 1.0},
    "robust": {"consistency_weight": 1.0, "consistency_target": "teacher"},
    "label_trust": {"label_trust": True},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_mapped_token_is_read_as_the_other_by_every_term(role, student, tiny_model_dir, tmp_path):
    """The remedy that the message names."""
    changes = {**OFF, **ROLES[role], "teacher_token_map": MAP}
    arguments = given(tiny_model_dir, eval_dataset=Dataset.from_list(chats()))
    trainer = build(tmp_path / "out", student, Dataset.from_list(chats()[4:]), given=arguments, **changes)
    logs = steps(run(trainer))
    name = "task" if role == "label_trust" else "consistency" if role == "robust" else role
    assert logs[0][f"{name}_loss"] > 0 and trainer.evaluate()[f"eval_{name}_loss"] > 0


def test_the_mapped_teachers_distance_is_that_of_its_reading_of_the_other_tokens(student, tmp_path):
    """A replacement at the wrong place, or in the student's input too, still gives a number."""
    teacher = tiny_models.save_tiny_llama(tmp_path / "teacher", seed=7)
    trainer = build(
        tmp_path / "out",
        student,
        Dataset.from_list(chats()[4:]),
        given=given(teacher),
        **DISTIL,
        teacher_token_map={**MAP, "<|answer|>": tiny_models.build_tokenizer().eos_token_id},
    )
    inputs = dict(next(iter(trainer.get_train_dataloader())))
    batch = Batch(inputs, inputs.pop("labels"))
    size = len(tiny_models.build_tokenizer())
    ids = batch.inputs["input_ids"].tolist()
    place = {size: 1, size + 1: 2}  # of <|im_start|> and <|im_end|>
    assert sum(one in place for row in ids for one in row) == 2 * len(ids)
    replaced = torch.tensor([[place.get(one, one) for one in row] for row in ids])
    with torch.no_grad():
        seen = batch.keep(trainer.model.eval()(**batch.inputs).logits)[:, :size].double()
        wanted = batch.keep(load(teacher)(**{**batch.inputs, "input_ids": replaced}).logits).double()
    p, q = log_softmax(wanted, -1), log_softmax(seen, -1)
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert steps(run(trainer))[0]["distillation_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_padding_token_of_the_students_own_needs_no_map(tiny_model_dir, tmp_path):
    """Nothing attends to padding, but its embedding is looked up all the same."""
    student = save_student(tmp_path / "student", padding=True)
    trainer = build(tmp_path / "out", student, given=given(tiny_model_dir), **DISTIL)
    inputs = dict(next(iter(trainer.get_train_dataloader())))
    assert (inputs["input_ids"] >= len(tiny_models.build_tokenizer())).any()  # rows of unequal length are padded
    assert steps(run(trainer))[0]["distillation_loss"] > 0


def test_rejected_answers_are_looked_through_too(student, tiny_model_dir, tmp_path):
    """The teacher reads them as well."""
    data = [{**row, "rejected": " No.<|user|>"} for row in rows()]
    changes = {**OFF, "contrastive_weight": 1.0, "contrastive_rejected": True}
    with pytest.raises(ValueError, match=r"1 of the tokens that train_dataset holds: '<\|user\|>'"):
        build(tmp_path / "out", student, Dataset.from_list(data), given=given(tiny_model_dir), **changes)
    mapped = build(
        tmp_path / "out",
        student,
        Dataset.from_list(data),
        given=given(tiny_model_dir),
        teacher_token_map=MAP,
        **changes,
    )
    assert isinstance(mapped.data_collator, RejectedCollator)
    assert steps(run(mapped))[0]["contrastive_loss"] > 0


def test_a_student_with_fewer_rows_than_ids_is_named(tmp_path):
    """Tokens were added to the tokenizer and not to the model: SFTTrainer ends in an IndexError."""
    student = save_student(tmp_path / "student", resized=False)
    with pytest.raises(ValueError, match=r"model: does not have 2 of the tokens.*resize_token_embeddings"):
        build(tmp_path / "out", student, Dataset.from_list(chats()), given={"peft_config": lora()}, **DISTIL)
