# SPDX-License-Identifier: Apache-2.0
"""Rows that belong together reach the model in one micro-batch, on whatever rank and however the run is laid out."""

import itertools
import json
import logging

import pytest
import torch
from datasets import Dataset

from hf_ckt.data import load_boundary_set, to_prompt_completion
from hf_ckt.data.row_marks import ROUTES, SWITCHES
from hf_ckt.models.batch import Batch
from tests.processes import run_on_two
from tests.runs import OFF, rows
from tests.trainers import build, build_sft, lora, run, same_run
from tests.training.grouped_ranks import ACCUMULATED, GROUPS, PACKED, epochs, groups, resumed, table

GROUPED = {"group_column": "group", "train_sampling_strategy": "random", "max_length": None}


def whole_groups(batches):
    """How often all rows of a group are in a batch, by group."""
    return [sum(group <= set(batch) for batch in batches) for group in groups()]


def torn(batches):
    """Batches with a part of a group alone."""
    return [batch for batch in batches if any(0 < len(group & set(batch)) < len(group) for group in groups())]


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory):
    """Three epochs of five batches in one go."""
    return epochs(tmp_path_factory.mktemp("whole"), tiny_model_dir)


def test_every_batch_holds_whole_groups(whole):
    """A harmful prompt without its twin has nothing to be contrasted with."""
    assert len(whole) == 15 and not torn(whole)
    for epoch in (whole[:5], whole[5:10], whole[10:]):
        assert sorted(itertools.chain.from_iterable(epoch)) == list(range(len(GROUPS)))
    assert len({json.dumps(epoch) for epoch in (whole[:5], whole[5:10], whole[10:])}) == 3


def test_accumulation_keeps_groups_within_micro_batches(tiny_model_dir, tmp_path):
    """What is contrasted is a micro-batch, not what its steps add up to."""
    batches = epochs(tmp_path, tiny_model_dir, **ACCUMULATED)
    assert len(batches) == 15 and not torn(batches)


@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_resumed_run_draws_what_the_whole_one_does(at, whole, tiny_model_dir, tmp_path):
    """An order that begins anew trains on some rows twice in an epoch and on others never."""
    before, after = resumed(tmp_path, tiny_model_dir, at)
    assert before + after == whole


def test_other_seeds_draw_other_orders(whole, tiny_model_dir, tmp_path):
    """Runs over seeds whose batches are one."""
    others = [epochs(tmp_path, tiny_model_dir, **{name: 7}) for name in ("seed", "data_seed")]
    assert others[0] == others[1] != whole


def test_without_the_column_it_is_sfts_own_run(tiny_model_dir, tmp_path):
    """A sampler of one's own where nobody asked for it changes runs that are to be compared."""
    changes = {"train_sampling_strategy": "random", "max_steps": 6}
    given = {"peft_config": lora()}
    same_run(
        run(build(tmp_path, tiny_model_dir, table(), given=given, **OFF, **changes)),
        run(build_sft(tmp_path, tiny_model_dir, table(), given={"peft_config": lora()}, **changes)),
    )


def test_padding_free_batches_hold_whole_groups(tiny_model_dir, tmp_path):
    """Rows in one line are a batch like any other."""
    trainer = build(
        tmp_path,
        tiny_model_dir,
        table(),
        given={"peft_config": lora()},
        **{**GROUPED, **OFF, "padding_free": True, "max_length": None},
    )
    batches = [
        [number - 10 for number in batch["input_ids"][batch["position_ids"] == 0].tolist()]
        for batch in trainer.get_train_dataloader()
    ]
    assert not torn(batches) and sorted(itertools.chain.from_iterable(batches)) == list(range(len(GROUPS)))


@pytest.fixture(scope="module")
def two(tiny_model_dir, tmp_path_factory):
    """The batches of both processes, in order of rank."""
    folder = tmp_path_factory.mktemp("two")
    run_on_two("tests.training.grouped_ranks", folder, tiny_model_dir)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("job", ["plain", "accumulated", "split"])
def test_every_batch_of_every_rank_holds_whole_groups(job, two):
    """Twins on two ranks never meet: contrast is between the rows of a rank."""
    mine, theirs = (one[job] for one in two)
    assert len(mine) == len(theirs) == 9  # 20 rows in steps of 8: the third is filled up with rows of the first
    for epoch in range(3):
        dealt = [batch for pair in zip(mine, theirs, strict=True) for batch in pair][6 * epoch : 6 * epoch + 6]
        own = dealt[:5]
        assert sorted(itertools.chain.from_iterable(own)) == list(range(len(GROUPS)))
        assert not torn(own)
        assert set(dealt[5]) <= {*dealt[0], *dealt[1]}


def test_packed_rows_of_two_ranks_hold_whole_groups(two):
    """Each process packs by itself: packs that differ, or that only one reads, tear groups and drop rows."""
    mine, theirs = (one["packed"] for one in two)
    assert len(mine) == len(theirs) and len(mine) % 3 == 0 and not torn([*mine, *theirs])
    each = len(mine) // 3
    for epoch in range(3):
        read = [*mine[each * epoch : each * (epoch + 1)], *theirs[each * epoch : each * (epoch + 1)]]
        assert {*itertools.chain.from_iterable(read)} == {*range(len(GROUPS))}
        assert len(read) - len({tuple(pack) for pack in read}) <= 1  # the last step may be filled up with a first row


def test_batches_that_one_rank_hands_out_hold_whole_groups(two):
    """With dispatch_batches the first rank reads for all; what is left over at the end of an epoch it divides by rows."""
    mine, theirs = (one["dispatched"] for one in two)
    for epoch in range(3):
        dealt = [*mine[3 * epoch : 3 * epoch + 3], *theirs[3 * epoch : 3 * epoch + 3]]
        assert sorted(itertools.chain.from_iterable(dealt)) == list(range(len(GROUPS)))
        assert not torn([batch for batch in dealt if len(batch) == 4])


def test_two_ranks_draw_what_one_does(whole, two):
    """Ranks that draw each their own order see some rows twice and others never."""
    mine, theirs = (one["plain"] for one in two)
    dealt = [batch for pair in zip(mine, theirs, strict=True) for batch in pair]
    assert [batch for number, batch in enumerate(dealt) if number % 6 < 5] == whole


def test_what_is_left_over_is_dropped_on_all_ranks(two):
    """Ranks with another number of batches wait for each other for ever."""
    for one in two:
        assert len(one["dropped"]) == 6 and not torn(one["dropped"])


@pytest.mark.parametrize("at", [3, 4])
def test_a_resumed_run_of_two_ranks_draws_what_the_whole_one_does(at, two):
    """accelerate does not tell the epoch to the sampler below batches that are skipped and sharded."""
    for one in two:
        before, after = one[f"resumed at {at}"]
        assert before + after == one["plain"]


def documents(trainer):
    """The documents of each packed row, their ids and labels, as the collator lays them out."""
    found = []
    for row in trainer.train_dataset:
        inputs = dict(trainer.data_collator([row]))
        batch = Batch(inputs, inputs.pop("labels"))
        index = batch.documents.index[0]
        parts = [index == number for number in index.unique()]
        found.append([(tuple(inputs["input_ids"][0][p].tolist()), tuple(batch.labels[0][p].tolist())) for p in parts])
    return found


@pytest.mark.parametrize("changes", [{}, {"shuffle_dataset": True}, {"packing_strategy": "bfd_split"}])
def test_packed_rows_hold_whole_groups_of_the_documents_that_were_given(changes, tiny_model_dir, tmp_path):
    """Boundaries inside a group that are lost let twins read each other."""
    fields = {**GROUPED, **OFF, **PACKED, **changes}
    grouped = documents(build(tmp_path, tiny_model_dir, table(), given={"peft_config": lora()}, **fields))
    plain = documents(
        build(tmp_path, tiny_model_dir, table(), given={"peft_config": lora()}, **{**fields, "group_column": None})
    )
    # The first token of a document is never predicted.
    expected = sorted((tuple(row["input_ids"]), (-100, *row["labels"][1:])) for row in table())
    assert sorted(itertools.chain.from_iterable(grouped)) == sorted(itertools.chain.from_iterable(plain)) == expected
    numbers = [[ids[0] - 10 for ids, _ in row] for row in grouped]
    assert not torn(numbers) and sum(whole_groups(numbers)) == len(groups())
    assert torn([[ids[0] - 10 for ids, _ in row] for row in plain])  # else nothing was shown


def test_marks_of_rows_outlive_packing_by_groups(tiny_model_dir, tmp_path):
    """A document that hears another row's teacher, and no number shows it."""
    data = Dataset.from_list(rows(8)).add_column("group", ["x", "y", None, "x", "z", "y", "x", "z"])
    data = data.add_column("teacher", ["one", "two"] * 4)
    given = {"teachers": {"one": None, "two": None}, "peft_config": lora()}
    fields = {**GROUPED, **OFF, "distillation_weight": 1.0, "role_rows": {"task": {"group": ["x", "y"]}}}

    def heard(**changes):
        trainer = build(tmp_path, tiny_model_dir, data, given=given, **{**fields, **changes})
        found = {}
        for inputs in trainer.get_train_dataloader():
            index = Batch(dict(inputs), inputs["labels"]).documents.index
            for number in index.unique():
                counts = (index == number) & (inputs["labels"] != -100)
                marks = zip(*(inputs[name][counts].tolist() for name in (ROUTES, SWITCHES)), strict=True)
                found[tuple(inputs["labels"][counts].tolist())] = {*marks}
        return found

    packed = heard(packing=True, max_length=400)
    assert packed == heard() and len(packed) == 8 and {len(marks) for marks in packed.values()} == {1}


def test_noise_finds_the_prompts_of_documents_packed_by_groups(tiny_model_dir, tmp_path):
    """Documents are found again by their tokens, of which joining must not change one."""
    data = Dataset.from_list(rows(8)).add_column("group", ["x", "y", None, "x", "z", "y", "x", "z"])
    noise = {**OFF, "consistency_weight": 1.0, "perturbation": "typos", "perturbation_severity": 0.5}
    fields = {**GROUPED, **noise, "packing": True, "max_length": 400, "per_device_train_batch_size": 1}
    trainer = build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **fields)
    trained = run(trainer)
    assert all(entry["consistency_loss"] > 0 for entry in trained.state.log_history if "loss" in entry)
    for row in trainer.train_dataset:
        start = 0
        for length in row["seq_lengths"]:
            assert trainer._sources.find(row["input_ids"][start : start + length]) is not None
            start += length


def test_the_boundary_set_trains_with_its_twins(tiny_model_dir, tmp_path):
    """The use that this is for, from the packaged set to a step."""
    data = to_prompt_completion(load_boundary_set("validation"))
    fields = {**OFF, "group_column": "twin", "train_sampling_strategy": "random", "max_length": None}
    trainer = build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **{**fields, "max_steps": 1})
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    ids, twins = data["id"][:], data["twin"][:]
    for batch in sampler.deal().batches:
        names = {ids[row] for row in batch}
        assert all(twins[row] is None or twins[row] in names for row in batch)
    assert torch.isfinite(torch.tensor(run(trainer).state.log_history[0]["loss"]))


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "group_column" in record.getMessage()]


@pytest.mark.parametrize(
    ("changes", "column", "said"),
    [
        ({}, [str(n) for n in range(20)], "no two rows of the train dataset belong together by its column 'group'"),
        ({**PACKED}, [None] * 20, "no two rows of the train dataset belong together by its column 'group'"),
        ({"per_device_train_batch_size": 3}, GROUPS, "1 of 5 groups have more than the 3 rows of a batch"),
        # 20 rows are 5 batches of 4, with room for one group of 3 each.
        ({}, [n % 6 for n in range(18)] + [None] * 2, "1 of 6 groups are in several batches"),
        # Tokens by group: 9, 16, 15, 20, 9.
        ({"packing": True, "max_length": 15}, GROUPS, "2 of 5 groups have more tokens than max_length=15"),
    ],
)
def test_what_cannot_be_kept_together_is_said_once(changes, column, said, tiny_model_dir, tmp_path, caplog):
    """Groups that are cut in silence leave a contrast without its counterpart."""
    data = table().remove_columns("group").add_column("group", column)
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **{**GROUPED, **OFF, **changes})
        trainer.get_train_dataloader()
        trainer.get_train_dataloader()
    (message,) = warnings_of(caplog)
    assert message.startswith(f"group_column: {said}")


def test_a_twin_whose_harmful_row_is_not_there_is_told(tiny_model_dir, tmp_path, caplog):
    """Twins of ids that are spelt otherwise come in batches of one side, and a contrast between sides trains nothing."""
    data = table().remove_columns(["group", "id"]).add_column("id", [f"harmful-{n}" for n in range(20)])
    data = data.add_column("group", [None, "harmful-0", None, "harmful_2", *["harmful_3"] * 2, *[None] * 14])
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **{**GROUPED, **OFF})
        trainer.get_train_dataloader()
    (message,) = warnings_of(caplog)
    assert "2 values of its column 'group' (first: 'harmful_2') are the id of no row" in message


def test_groups_that_stay_whole_are_no_matter_for_a_warning(tiny_model_dir, tmp_path, caplog):
    """A warning that always comes is not read."""
    with caplog.at_level(logging.WARNING):
        for changes in ({}, PACKED):
            fields = {**GROUPED, **OFF, **changes}
            build(tmp_path, tiny_model_dir, table(), given={"peft_config": lora()}, **fields).get_train_dataloader()
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_column": "groups"}, r"group_column: the train dataset has no column 'groups'.*mean 'group'"),
        ({"group_column": "groups", **PACKED}, r"the train dataset has no column 'groups'.*mean 'group'"),
        (
            {"group_column": "groups", "dataset_kwargs": {"skip_prepare_dataset": True}},
            r"the train dataset has no column 'groups'.*mean 'group'",
        ),
        (
            {"train_sampling_strategy": "group_by_length"},
            r"group_column: train_sampling_strategy='group_by_length' .*Use train_sampling_strategy='random'",
        ),
        ({"train_sampling_strategy": "batch_rebalance"}, r"group_column: train_sampling_strategy='batch_rebalance'"),
        ({"train_sampling_strategy": "sequential"}, r"group_column: train_sampling_strategy='sequential'"),
        ({"per_device_train_batch_size": 1}, r"per_device_train_batch_size: must be 2 or more, got 1"),
        ({**PACKED, "max_length": None}, r"packing is enabled, `max_length` can't be `None`"),
        ({**PACKED, "packing_strategy": "wrapped"}, r"group_column: packing_strategy='wrapped' cuts documents"),
        (
            {**PACKED, "dataset_kwargs": {"skip_prepare_dataset": True}},
            r"group_column: dataset_kwargs=.*groups would not be packed together",
        ),
    ],
)
def test_what_would_be_ignored_raises(changes, message, tiny_model_dir, tmp_path):
    """A setting that does nothing is believed to have done something."""
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_model_dir, table(), given={"peft_config": lora()}, **{**GROUPED, **OFF, **changes})


@pytest.mark.parametrize("changes", [{}, PACKED, {"dataset_kwargs": {"skip_prepare_dataset": True}}])
def test_data_that_streams_raises(changes, tiny_model_dir, tmp_path):
    """Rows that stream have no sampler, and the setting would be ignored."""
    data = table().to_iterable_dataset()
    with pytest.raises(ValueError, match=r"group_column: the train dataset streams.*Load it in full"):
        build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **{**GROUPED, **OFF, **changes})


def test_an_evaluation_needs_no_column(tiny_model_dir, tmp_path):
    """A held-out set without groups would stop a run whose training set has them."""
    data = Dataset.from_list(rows(4))
    for changes in ({}, PACKED):
        fields = {**GROUPED, **OFF, **changes}
        # A part of the training set that is watched is often called so.
        for name, given in (("eval_loss", data), ("eval_train_loss", {"train": data})):
            given = {"peft_config": lora(), "eval_dataset": given}
            trainer = build(tmp_path, tiny_model_dir, table(), given=given, **fields)
            assert trainer.evaluate()[name] > 0
            assert trainer.evaluate({"train": data})["eval_train_loss"] > 0


def test_an_evaluation_called_train_may_leave_a_role_without_rows(tiny_model_dir, tmp_path):
    """What a training set must hold would stop a run over what it is evaluated on."""
    data = Dataset.from_list(rows(8)).add_column("group", ["x", "y"] * 4)
    given = {"peft_config": lora(), "eval_dataset": {"train": data.filter(lambda row: row["group"] == "y")}}
    trainer = build(tmp_path, tiny_model_dir, data, given=given, **OFF, role_rows={"task": {"group": ["x"]}})
    assert "eval_train_loss" in trainer.evaluate()
