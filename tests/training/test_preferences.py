# SPDX-License-Identifier: Apache-2.0
"""Rejected answers stay with the row they were given for."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_ckt.models.batch import Batch
from hf_ckt.training.collator import RejectedCollator, split_rejected
from tests.runs import OFF
from tests.trainers import build, first_batch, load, lora, run, steps

PAIRS = [
    {
        "prompt": f"Q{n}: how?",
        "chosen": f" A{n}, gladly." + " And so on." * (n % 3),
        "rejected": f" R{n}, no." + " Never ever." * (2 * n % 5),
    }
    for n in range(8)
]
CHAT = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in PAIRS
]
CONTRAST = {**OFF, "contrastive_weight": 1.0, "contrastive_rejected": True}


def pairs_of(trainer, tokenizer):
    """(number of the chosen answer, number of the rejected answer) of each prepared row."""
    found = []
    for row in trainer.train_dataset:
        chosen = tokenizer.decode([t for t in row["labels"] if t != -100])
        rejected = tokenizer.decode([t for t in row["rejected_labels"] if t != -100])
        assert tokenizer.decode(row["input_ids"]).count(chosen) and tokenizer.decode(row["rejected_input_ids"])
        found.append((chosen.strip()[:2], rejected.strip()[:2]))
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("max_length", [None, 24, 20])
def test_rejected_answers_are_joined_by_row(max_length, shuffle, tiny_model_dir, tmp_path):
    """Truncation drops rows on one side only; from then on every answer would meet its neighbour's rejection."""
    data = [dict(row) for row in PAIRS]
    data[2]["prompt"] *= 4  # fills max_length alone
    trainer = build(
        tmp_path,
        tiny_model_dir,
        Dataset.from_list(data),
        given={"peft_config": lora()},
        max_length=max_length,
        shuffle_dataset=shuffle,
        **CONTRAST,
    )
    found = pairs_of(trainer, AutoTokenizer.from_pretrained(tiny_model_dir))
    assert len(found) == (8 if max_length is None else 7)
    assert all(chosen[0] == "A" and rejected[0] == "R" and chosen[1] == rejected[1] for chosen, rejected in found)
    assert (found == sorted(found)) != shuffle
    run(trainer)


def test_rows_whose_rejected_answer_alone_is_cut_off_go_in_pairs(tiny_model_dir, tmp_path):
    """keep_end cuts each side at its own place; a row without its partner has no hard negative."""
    from hf_ckt.training.preferences import with_rejected

    def prepare(dataset):  # drops another row on each side, and reorders one
        side = "R" if "R" in dataset[0]["completion"] else "A"
        keep = [0, 1, 2, 3, 5, 6, 7] if side == "A" else [7, 6, 4, 3, 2, 1, 0]
        done = dataset.select(keep).map(lambda row: {"input_ids": [row["hf_ckt_row"]], "labels": [row["hf_ckt_row"]]})
        return done.map(lambda row: {"input_ids": [row["hf_ckt_row"] + (100 if side == "R" else 0)]})

    joined = with_rejected(Dataset.from_list(PAIRS), prepare, "train")
    assert [row["input_ids"][0] for row in joined] == [0, 1, 2, 3, 6, 7]
    assert [row["rejected_input_ids"][0] - 100 for row in joined] == [0, 1, 2, 3, 6, 7]
    assert "hf_ckt_row" not in joined.column_names


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("data", [PAIRS, CHAT], ids=["text", "chat"])
def test_rejected_answers_are_negatives(level, data, tiny_model_dir, tmp_path):
    """The knowledge boundary is what they teach; collated and then not read, they would cost a pass for nothing."""
    changes = {**CONTRAST, "contrastive_level": level, "max_steps": 1}
    given = {"peft_config": lora()}
    dataset = Dataset.from_list(data)
    with_them = steps(run(build(tmp_path, tiny_model_dir, dataset, given=given, **changes)))[0]
    plain = dataset.rename_column("chosen", "completion").remove_columns("rejected")
    without = steps(
        run(build(tmp_path, tiny_model_dir, plain, given=given, **{**changes, "contrastive_rejected": False}))
    )[0]
    assert with_them["contrastive_loss"] > without["contrastive_loss"] + 1e-3  # more candidates
    assert with_them["task_loss"] == without["task_loss"]
    assert with_them["num_tokens"] == without["num_tokens"]


def test_contrastive_loss_with_rejected_answers_is_that_of_full_logits(tiny_model_dir, tmp_path):
    """The rejected answers' own kept positions, read by the teacher, join the candidates of every anchor."""
    changes = {**CONTRAST, "task_weight": 0.0, "contrastive_false_negative_threshold": 1.0, "max_steps": 1}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(PAIRS), given={"peft_config": lora()}, **changes)
    inputs, rejected = split_rejected(dict(first_batch(trainer)))
    chosen = Batch(inputs, inputs.pop("labels"))
    refused = Batch(rejected, rejected.pop("labels"))
    base = load(tiny_model_dir).eval()

    def read(model, batch):
        with torch.no_grad():
            return batch.keep(model(**batch.inputs).logits).double()

    student, teacher = read(trainer.model.eval(), chosen), read(base, chosen)
    candidates = torch.cat([teacher, read(base, refused)])

    def unit(logits, mean):
        logits = logits - mean
        return torch.nn.functional.normalize(logits - logits.mean(-1, keepdim=True), dim=-1)

    similarity = unit(student, student.mean(0)) @ unit(candidates, teacher.mean(0)).t() / 0.1
    expected = torch.nn.functional.cross_entropy(similarity, torch.arange(len(student))).item()
    assert steps(run(trainer))[0]["contrastive_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [{"padding_free": True, "max_length": None}, {"gradient_accumulation_steps": 2}])
def test_rejected_answers_train_in_other_batches_too(changes, tiny_model_dir, tmp_path):
    """Padding-free batches carry their boundaries in other columns."""
    data = Dataset.from_list(PAIRS)
    given = {"peft_config": lora(), "eval_dataset": {"held_out": data}}
    trainer = run(
        build(tmp_path, tiny_model_dir, data, given=given, eval_strategy="steps", eval_steps=1, **CONTRAST, **changes)
    )
    assert all("contrastive_loss" in entry for entry in steps(trainer))
    assert trainer.evaluate(data)["eval_contrastive_loss"] > 0


def test_tokenized_preference_data_is_taken_as_it_is(tiny_model_dir, tmp_path):
    """Data that was prepared once, and saved, must not need its text again."""
    first = build(tmp_path, tiny_model_dir, Dataset.from_list(PAIRS), given={"peft_config": lora()}, **CONTRAST)
    columns = ["input_ids", "labels", "rejected_input_ids", "rejected_labels"]
    again = build(
        tmp_path,
        tiny_model_dir,
        first.train_dataset.select_columns(columns),
        given={"peft_config": lora()},
        **CONTRAST,
    )
    assert steps(run(again)) == steps(
        run(build(tmp_path, tiny_model_dir, Dataset.from_list(PAIRS), given={"peft_config": lora()}, **CONTRAST))
    )


def test_truncation_of_tokenized_data_cuts_both_answers(tiny_model_dir, tmp_path):
    """A rejected answer longer than max_length could exceed the model's positions, or the memory."""
    long = {"input_ids": list(range(5, 45)), "labels": list(range(5, 45))}
    data = [{**long, "rejected_input_ids": long["input_ids"], "rejected_labels": long["labels"]} for _ in range(4)]
    trainer = build(
        tmp_path, tiny_model_dir, Dataset.from_list(data), given={"peft_config": lora()}, max_length=16, **CONTRAST
    )
    row = trainer.train_dataset[0]
    assert {name: len(row[name]) for name in row} == dict.fromkeys(row, 16)


def test_collator_gives_each_side_its_own_padding():
    """The two sides differ in length, and the rejected side must not pad the chosen one."""
    seen = []

    def inner(examples):
        seen.append(examples)
        return {"input_ids": len(examples), "labels": examples[0]["labels"]}

    rows = [{"input_ids": [1], "labels": [2], "rejected_input_ids": [3], "rejected_labels": [4]}]
    batch = RejectedCollator(inner)(rows)
    assert seen == [[{"input_ids": [1], "labels": [2]}], [{"input_ids": [3], "labels": [4]}]]
    plain, rejected = split_rejected(batch)
    assert (plain, rejected) == ({"input_ids": 1, "labels": [2]}, {"input_ids": 1, "labels": [4]})
    assert split_rejected({"input_ids": 1}) == ({"input_ids": 1}, None)
    assert RejectedCollator(inner)([{"input_ids": [1], "labels": [2]}]) == {"input_ids": 1, "labels": [2]}
