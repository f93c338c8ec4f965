# SPDX-License-Identifier: Apache-2.0
"""A row's teacher and roles reach the batch, whatever is done to the dataset on the way; and what is wrong with them is said."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_ckt.data.row_marks import ROUTES, SWITCHES, MarkCollator, RowMarks, marked, unmarked
from hf_ckt.models.batch import Batch
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import build, build_sft, lora, run, same_run

NAMES = ["safety", "base", None, "safety", "", "base", "safety", "base"]
# Number of the teacher that each row hears: one without a name, the first.
HEARD = [0, 1, 0, 0, 0, 1, 0, 1]
# The roles that count on each row.
TOPICS = ["cooking", "chemistry"] * 4
DISTIL = {**OFF, "distillation_weight": 1.0}
LENGTH = 24


def table(names: Any = NAMES, **columns: Any) -> Dataset:
    data = Dataset.from_list(rows(len(names)))
    for name, values in {"teacher": names, "topic": TOPICS[: len(names)], **columns}.items():
        data = data.add_column(name, values)
    return data


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two loaded on demand: a folder, and the student's own base."""
    folder = tiny_models.save_tiny_llama(tmp_path_factory.mktemp("safety"), seed=7)
    return {"safety": str(folder), "base": None}


def make(folder, model, teachers, data=None, given=None, **changes):
    given = {"peft_config": lora(), "teachers": teachers, **(given or {})}
    fields = {"role_rows": {"task": {"topic": "cooking"}}, "max_length": None, **DISTIL, **changes}
    return build(folder, model, table() if data is None else data, given=given, **fields)


def texts(model: Any, cut: Any = slice(None)) -> dict[tuple[int, ...], tuple[int, bool]]:
    """By the ids that count of each row, tokenized by hand: the teacher it hears, and whether the task counts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = {}
    for number, row in enumerate(rows(8)):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        same = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        answer = tuple([token if i >= same else None for i, token in enumerate(ids)][cut])
        found[tuple(token for token in answer if token is not None)] = HEARD[number], number % 2 == 0
    return found


def read(trainer: Any) -> dict[tuple[int, ...], tuple[int, bool]]:
    """What the batches of an epoch say of their documents, by the ids that count."""
    found: dict[tuple[int, ...], set] = {}
    for inputs in trainer.get_train_dataloader():
        inputs = dict(inputs)
        batch = Batch(inputs, inputs.pop("labels"), inputs.pop(ROUTES))
        switches = inputs.pop(SWITCHES)
        assert {*batch.labels.unique().tolist()} <= {-100, *range(200)}
        real = batch.documents.index[batch.documents.mask].unique().tolist()
        for number in real:
            counts = (batch.documents.index == number) & batch.documents.mask & (batch.labels != -100)
            ids = tuple(batch.labels[counts].tolist())
            assert ids == tuple(inputs["input_ids"][counts].tolist())
            said = {*zip(batch.routes[counts].tolist(), ((switches[counts] & 1) == 0).tolist(), strict=True)}
            if ids:
                assert len(said) == 1 and ids not in found
                found[ids] = said.pop()
        assert not batch.routes[batch.labels == -100].any() and not switches[batch.labels == -100].any()
    return found


LAYOUTS = {
    "padded": {},
    "shuffled": {"shuffle_dataset": True, "train_sampling_strategy": "random"},
    "padding-free": {"padding_free": True},
    "packed": {"packing": True, "max_length": 150},
    "packed and split": {"packing": True, "packing_strategy": "bfd_split", "max_length": 150},
    "one pack": {"packing": True, "max_length": 2000, "per_device_train_batch_size": 1},
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_marks_reach_the_batch(layout, teachers, tiny_model_dir, tmp_path):
    """A teacher that is told to another row teaches there, and no number shows it."""
    trainer = make(tmp_path, tiny_model_dir, teachers, **LAYOUTS[layout])
    assert read(trainer) == texts(tiny_model_dir)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated")
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_marks_outlive_truncation(mode, teachers, tiny_model_dir, tmp_path):
    """Truncation rewrites the labels that carry the marks."""
    trainer = make(tmp_path, tiny_model_dir, teachers, max_length=LENGTH, truncation_mode=mode)
    cut = slice(LENGTH) if mode == "keep_start" else slice(-LENGTH, None)
    assert max(len(row) for row in trainer.train_dataset["input_ids"]) == LENGTH
    assert read(trainer) == texts(tiny_model_dir, cut)


def test_marks_of_documents_that_packing_splits_go_with_all_pieces(teachers, tiny_model_dir, tmp_path):
    """The second half of a document would hear the first teacher."""
    # Of each row one token alone, by which its pieces are known.
    tokens = [{"input_ids": [10 + n] * (40 + 7 * n), "teacher": NAMES[n], "topic": TOPICS[n]} for n in range(8)]
    packing = {"packing": True, "packing_strategy": "bfd_split", "max_length": LENGTH}
    trainer = make(tmp_path, tiny_model_dir, teachers, Dataset.from_list(tokens), **packing)
    found, pieces = {}, 0
    for batch in trainer.get_train_dataloader():
        counts = batch["labels"] != -100
        numbers = (batch["input_ids"] - 10)[counts].tolist()
        said = zip(batch[ROUTES][counts].tolist(), (batch[SWITCHES][counts] == 0).tolist(), strict=True)
        for number, one in zip(numbers, said, strict=True):
            assert found.setdefault(number, one) == one
        pieces += int((batch["position_ids"] == 0).sum())
    assert found == {n: (HEARD[n], n % 2 == 0) for n in range(8)} and pieces > 16


def test_marks_reach_the_batch_of_a_dataset_that_streams(teachers, tiny_model_dir, tmp_path):
    """Nothing can be looked through in it before, and each row is marked as it comes."""
    trainer = make(tmp_path, tiny_model_dir, teachers, table().to_iterable_dataset(), max_steps=1)
    assert read(trainer) == texts(tiny_model_dir)


@pytest.mark.parametrize("form", ["text", "int32", "torch", "labelled"])
def test_marks_reach_the_batch_of_tokenized_data(form, teachers, tiny_model_dir, tmp_path):
    """Its labels may be of a type that a mark does not fit into, and would be cut off."""
    from datasets import List, Value

    plain = build_sft(tmp_path / "sft", tiny_model_dir, table(), max_length=None).train_dataset
    data = plain.select_columns(["input_ids", "labels", "teacher", "topic"])
    if form == "int32":
        data = data.cast_column("labels", List(Value("int32"))).cast_column("input_ids", List(Value("int32")))
    if form == "torch":
        data = data.with_format("torch")
    trainer = make(tmp_path / "run", tiny_model_dir, teachers, table() if form == "text" else data)
    assert read(trainer) == texts(tiny_model_dir)


def test_marks_reach_the_batch_of_preference_data(teachers, tiny_model_dir, tmp_path):
    """Both answers of a row hear its teacher, as text and tokenized."""
    rejected = [row["completion"].upper() for row in rows()]
    data = table(rejected=rejected).rename_column("completion", "chosen")
    changes = {"contrastive_rejected": True, "contrastive_weight": 1.0, "per_device_train_batch_size": 8}
    trainer = make(tmp_path / "text", tiny_model_dir, teachers, data, **changes)
    tokens = Dataset.from_list(
        [
            {
                **{name: row[name] for name in ("input_ids", "rejected_input_ids")},
                **{
                    f"{prefix}labels": [x if x < 0 else x % 2**31 for x in row[f"{prefix}labels"]]
                    for prefix in ("", "rejected_")
                },
                "teacher": name,
                "topic": topic,
            }
            for row, name, topic in zip(trainer.train_dataset, NAMES, TOPICS, strict=True)
        ]
    )
    for one in (trainer, make(tmp_path / "tokens", tiny_model_dir, teachers, tokens, **changes)):
        batch = next(iter(one.get_train_dataloader()))
        for prefix in ("", "rejected_"):
            labels, routes = batch[f"{prefix}labels"], batch[f"{prefix}{ROUTES}"]
            assert labels.max() < 200
            assert [int(route[label != -100].max()) for route, label in zip(routes, labels, strict=True)] == HEARD
            assert ((labels != -100) <= (labels == batch[f"{prefix}input_ids"])).all()


def test_marking_twice_changes_nothing():
    """A dataset is prepared more than once where texts are noted or an evaluation is repeated."""
    labels = [-100, 0, 7, 199]
    once = marked(labels, 5)
    assert marked(once, 5) == once and marked(once, 0) == labels
    back, marks = unmarked(torch.tensor([once]))
    assert back.tolist() == [labels] and back.dtype == torch.int64 and marks.tolist() == [[0, 5, 5, 5]]


def test_last_teacher_and_all_roles_fit_into_a_mark():
    """A mark that overflows is another row's."""
    roles = ("task", "distillation", "contrastive", "consistency", "regularization")
    names = [f"t{number}" for number in range(1000)]
    marks = RowMarks(names, {role: {"topic": "none"} for role in roles}, roles)
    batch = MarkCollator(lambda examples: {"labels": torch.tensor([examples[0]["labels"]])})(
        [{"labels": marked([199], marks.of({"teacher": "t999", "topic": "x"}, "row"))}]
    )
    assert [batch[name].item() for name in ("labels", ROUTES, SWITCHES)] == [199, 999, 0b11111]


@pytest.mark.parametrize(
    ("rule", "row", "counts"),
    [
        ({"topic": "cooking"}, {"topic": "cooking"}, True),
        ({"topic": "cooking"}, {"topic": "chemistry"}, False),
        ({"topic": ["cooking", "bread"]}, {"topic": "bread"}, True),
        ({"topic": "cooking", "source": 1}, {"topic": "cooking", "source": 2}, False),
        ({"topic": None}, {"topic": None}, True),
        ({"teacher": "base"}, {"teacher": "base"}, True),
        ({"teacher": "base"}, {"teacher": "safety"}, False),
        # The row hears the first teacher, and so the rule of that name holds for it.
        ({"teacher": "safety"}, {"teacher": None}, True),
        ({"teacher": "safety"}, {"teacher": ""}, True),
        ({"teacher": ["base"]}, {"teacher": None}, False),
        ({"teacher": None}, {"teacher": None}, True),
        # An evaluation set without the column.
        ({"topic": "cooking"}, {"teacher": "base"}, True),
    ],
)
def test_role_counts_on_the_rows_of_its_rule(rule, row, counts):
    """A rule read otherwise than it is written switches a loss off where nobody looks."""
    marks = RowMarks(["safety", "base"], {"task": rule}, ("task",))
    assert (marks.of(row, "row") < 2**16) is counts


def refuse(match: str, *args: Any, kind: Any = ValueError, **kwargs: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        make(*args, **kwargs)
    assert len(str(caught.value)) < 500


def test_unknown_name_names_the_row(teachers, tiny_model_dir, tmp_path):
    """A misspelt name would hear the default, which is what the row was to be kept from."""
    names = [*NAMES[:5], "safty", *NAMES[6:]]
    match = (
        r"train dataset, row 5: .*'teacher' names 'safty', and the teachers are safety, base.*Did you mean 'safety'"
    )
    refuse(match, tmp_path, tiny_model_dir, teachers, table(names))
    only = {"safety": teachers["safety"]}
    refuse(r"train dataset, row 1: .*names 'base', and the teachers are safety", tmp_path, tiny_model_dir, only)


def test_unknown_name_in_an_evaluation_names_its_row(teachers, tiny_model_dir, tmp_path):
    """The evaluation would be of another teacher than the one that was asked for."""
    given = {"eval_dataset": table(["safety", "bas"])}
    refuse(r"eval dataset, row 1: .*'bas'.*Did you mean 'base'", tmp_path, tiny_model_dir, teachers, given=given)


def test_unknown_name_in_a_stream_is_an_error_when_it_comes(teachers, tiny_model_dir, tmp_path):
    """It cannot be found before."""
    data = table([*NAMES[:7], "safty"]).to_iterable_dataset()
    trainer = make(tmp_path, tiny_model_dir, teachers, data, max_steps=2)
    with pytest.raises(ValueError, match="train dataset: its column 'teacher' names 'safty'"):
        trainer.train()


def test_missing_column_names_the_nearest(teachers, tiny_model_dir, tmp_path):
    """All rows would hear the first teacher."""
    data = table().rename_column("teacher", "teachers")
    refuse(
        r"teachers: the train dataset has no column 'teacher'.*Did you mean 'teachers'",
        tmp_path,
        tiny_model_dir,
        teachers,
        data,
    )
    refuse(
        r"role_rows\['task'\]: the train dataset has no column 'topics'.*Did you mean 'topic'",
        tmp_path,
        tiny_model_dir,
        teachers,
        role_rows={"task": {"topics": "cooking"}},
    )


def test_silent_teacher_is_said_once(teachers, tiny_model_dir, tmp_path, caplog):
    """It costs its memory and teaches nothing."""
    changes = {"perturbation": "typos", "consistency_weight": 1.0}  # with which a dataset is prepared twice
    with caplog.at_level(logging.WARNING, "hf_ckt.data.row_marks"):
        make(tmp_path, tiny_model_dir, teachers, table(["safety"] * 7 + [None]), **changes)
    said = [one.getMessage() for one in caplog.records if one.name == "hf_ckt.data.row_marks"]
    assert said == ["teachers: no row of the train dataset hears base, which teaches nothing."]


def test_role_without_a_row_is_an_error(teachers, tiny_model_dir, tmp_path):
    """A role that counts nowhere trains nothing, and its loss is missing from the log."""
    refuse(
        r"role_rows\['distillation'\]: no row of the train dataset fulfils \{'topic': 'bread'\}.*distillation_weight=0",
        tmp_path,
        tiny_model_dir,
        teachers,
        role_rows={"distillation": {"topic": "bread"}},
    )


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ({"tusk": {"topic": "cooking"}}, "role_rows: unknown name 'tusk'.*'task'"),
        ({"task": "cooking"}, r"role_rows\['task'\]: must name columns"),
        ({"task": {}}, r"role_rows\['task'\]: must name columns"),
        ({"regularization": {"topic": "cooking"}}, r"role_rows\['regularization'\]: adapter_l2 is a penalty"),
    ],
)
def test_rule_that_cannot_be_followed_is_an_error(rules, match, teachers, tiny_model_dir, tmp_path):
    """It would be ignored."""
    refuse(match, tmp_path, tiny_model_dir, teachers, role_rows=rules)


def test_rule_of_a_role_that_is_off_is_said(teachers, tiny_model_dir, tmp_path, caplog):
    """A typo in a weight makes the rule idle."""
    with caplog.at_level(logging.WARNING, "hf_ckt.training.resolution"):
        make(tmp_path, tiny_model_dir, teachers, role_rows={"consistency": {"topic": "cooking"}})
    assert any("role_rows: consistency off in this run" in one.getMessage() for one in caplog.records)


def test_dataset_that_is_not_prepared_cannot_be_routed(teachers, tiny_model_dir, tmp_path):
    """No row could be marked, so that all would hear the first."""
    skip = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    refuse(
        "teachers: .*'skip_prepare_dataset': True.*Let the trainer prepare", tmp_path, tiny_model_dir, teachers, **skip
    )
    refuse(
        "role_rows: .*'skip_prepare_dataset': True.*Let the trainer prepare", tmp_path, tiny_model_dir, None, **skip
    )


def test_wrapped_packing_cannot_be_routed(teachers, tiny_model_dir, tmp_path):
    """A row of it holds several documents and no boundaries: their teachers would read across them."""
    match = "teachers: packing_strategy='wrapped'.*'bfd'"
    wrapped = {"packing_strategy": "wrapped", "max_length": LENGTH}
    refuse(match, tmp_path, tiny_model_dir, teachers, packing=True, **wrapped)
    refuse(match, tmp_path, tiny_model_dir, teachers, packing=False, eval_packing=True, **wrapped)
    only = {"safety": teachers["safety"]}
    data = table().remove_columns("teacher")
    trainer = make(tmp_path / "one", tiny_model_dir, only, data, packing=True, **wrapped)
    switched = torch.cat([batch[SWITCHES][batch["labels"] != -100] for batch in trainer.get_train_dataloader()])
    counts = [len(ids) for ids in texts(tiny_model_dir)]
    assert int((switched == 0).sum()) == sum(counts[::2])


def test_column_without_teachers_names_the_first_row(tiny_model_dir, teachers, tmp_path):
    """One teacher would teach the rows that were meant for another."""
    data = table([None, "", "safety", "base", *NAMES[4:]])
    match = "train dataset, row 2: its column 'teacher' names 'safety', and no teachers were given"
    for number, given in enumerate(({}, {"teacher_model": teachers["safety"]})):
        refuse(match, tmp_path / str(number), tiny_model_dir, None, data, given=given, role_rows=None)
    streams = table().to_iterable_dataset()
    refuse("train dataset, row 0: its column", tmp_path / "2", tiny_model_dir, None, streams, role_rows=None)


def test_column_without_teachers_is_left_alone_where_it_means_nothing_or_a_rule_reads_it(tiny_model_dir, tmp_path):
    """A name that no term asks for is no mistake."""
    make(tmp_path / "none", tiny_model_dir, None, table([None] * 8), role_rows=None)
    make(tmp_path / "task", tiny_model_dir, None, role_rows=None, **OFF)
    make(tmp_path / "rule", tiny_model_dir, None, role_rows={"distillation": {"teacher": "base"}})


def test_evaluation_with_a_column_and_without_teachers_names_the_row(tiny_model_dir, tmp_path):
    """It would be measured against a teacher that it does not name."""
    trainer = make(tmp_path, tiny_model_dir, None, table().remove_columns("teacher"), role_rows=None)
    with pytest.raises(ValueError, match="eval dataset, row 0: its column 'teacher' names 'safety'"):
        trainer.evaluate(table())


def test_evaluation_without_the_column_hears_the_first(teachers, tiny_model_dir, tmp_path):
    """A held-out set need not be routed."""
    trainer = make(tmp_path, tiny_model_dir, teachers)
    plain = Dataset.from_list(rows())
    found = trainer.evaluate(plain)
    again = trainer.evaluate(plain.add_column("teacher", ["safety"] * 8))
    assert "eval_distillation_loss/base" not in found
    assert found["eval_distillation_loss/safety"] == found["eval_distillation_loss"] == again["eval_distillation_loss"]
    other = trainer.evaluate(plain.add_column("teacher", ["base"] * 8))
    assert other["eval_distillation_loss/base"] != found["eval_distillation_loss"]


def test_collator_that_makes_labels_of_its_own_is_refused(teachers, tiny_model_dir, tmp_path):
    """It throws the marks away with the labels, and all rows would hear the first."""

    def collate(examples):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(one["input_ids"]) for one in examples], batch_first=True)
        return {"input_ids": ids, "attention_mask": ids != 0, "labels": ids.masked_fill(ids == 0, -100)}

    trainer = make(tmp_path, tiny_model_dir, teachers, given={"data_collator": collate})
    with pytest.raises(ValueError, match="data_collator: function makes labels of its own"):
        trainer.train()


@pytest.mark.parametrize("layout", ["padded", "padding-free", "packed"])
def test_run_without_a_term_is_sft_to_the_last_bit(layout, teachers, tiny_model_dir, tmp_path):
    """Columns that say something must not change what is trained where nothing asks for them."""
    changes = {"max_length": None, **LAYOUTS[layout], "max_steps": 3}
    given = {"peft_config": lora()}
    expected = run(build_sft(tmp_path / "sft", tiny_model_dir, table(), given=given, **changes))
    for name, own in {
        "columns": {},
        "teachers": {"teachers": teachers},
    }.items():
        found = build(tmp_path / name, tiny_model_dir, table(), given={**given, **own}, **changes, **OFF)
        assert found.objective is None
        same_run(run(found), expected)
    rules = {"role_rows": {"distillation": {"topic": "cooking"}}}
    same_run(run(build(tmp_path / "rules", tiny_model_dir, table(), given=given, **changes, **OFF, **rules)), expected)
