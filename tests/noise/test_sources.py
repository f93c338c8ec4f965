# SPDX-License-Identifier: Apache-2.0
"""Finding the text of a document by its ids, and preparing a dataset so that it can be found."""

import pytest
from datasets import Dataset, IterableDataset

from hf_ckt.noise.sources import PromptSources, stable_number
from tests.runs import OFF, rows
from tests.trainers import build, build_sft, fields, save_tiny_llava

NOISY = {**OFF, "consistency_weight": 1.0, "perturbation": "typos"}


def test_documents_are_found_by_their_truncated_ids():
    """A document looked up whole after it was cut would never be found."""
    table = Dataset.from_dict({"input_ids": [[1, 2, 3, 4], [1, 2, 9], [7]], "prompt": ["a", "b", "c"]})
    start, end = PromptSources(), PromptSources()
    start.add(table, 3, keep_end=False)
    end.add(table, 3, keep_end=True)
    assert [start.find(ids)["prompt"] for ids in ([1, 2, 3], [1, 2, 9], [7])] == ["a", "b", "c"]
    assert end.find([2, 3, 4])["prompt"] == "a" and start.find([2, 3, 4]) is None and end.find([1, 2, 3]) is None
    start.add(Dataset.from_dict({"input_ids": [[5, 5]], "messages": ["m"]}), None, keep_end=False)
    assert start.find([5, 5]) == {"messages": "m"} and start.find([7])["prompt"] == "c"
    assert len(start) == 4 and len(end) == 3


def test_stable_number_is_the_same_in_every_process():
    """Python's own hash of text is salted anew in each process: a resumed run would draw other noise."""
    assert stable_number([1, 2, 3]) == 5971598484494947943
    numbers = [stable_number(ids, salt=salt) for ids in ([], [0], [0, 0], [1]) for salt in (0, 1, 1 << 32, 2**63)]
    assert len(set(numbers)) == 16


@pytest.mark.parametrize(
    "changes", [{}, {"packing": True, "max_length": 60}, {"max_length": 20}, {"shuffle_dataset": True}], ids=str
)
def test_the_clean_view_is_prepared_as_sfttrainer_prepares_it(changes, tiny_model_dir, tmp_path):
    """Noting the text must not change what is trained on: order, truncation and packs."""
    changes = {"max_length": None, **changes}
    mine = build(tmp_path / "mine", tiny_model_dir, Dataset.from_list(rows(20)), **NOISY, **changes).train_dataset
    theirs = build_sft(tmp_path / "sft", tiny_model_dir, Dataset.from_list(rows(20)), **changes).train_dataset
    assert mine["input_ids"][:] == theirs["input_ids"][:] and mine["labels"][:] == theirs["labels"][:]


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [[-100, 2, 3]] * 4}), {}, "tokenized already"),
        (IterableDataset.from_generator(lambda: iter(rows())), {}, "dataset streams"),
        (Dataset.from_dict({"text": ["How do I bake bread?"] * 4}), {}, "trained on like answers"),
        (Dataset.from_list(rows()), {"completion_only_loss": False}, "trained on like answers"),
        (
            Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4}),
            {"perturbation": "token_dropout"},
            "trained on like answers",
        ),
        (
            IterableDataset.from_generator(lambda: iter([{"text": "How do I bake bread?"}] * 4)),
            {"perturbation": "token_dropout"},
            "trained on like answers",
        ),
        (
            Dataset.from_list(rows()),
            {"dataset_kwargs": {"skip_prepare_dataset": True}},
            "no dataset was prepared|labels",
        ),
        (Dataset.from_list(rows()), {"packing": True, "packing_strategy": "wrapped"}, "packing_strategy='wrapped'"),
        (Dataset.from_list(rows()), {"eval_packing": True}, "eval_packing=True: texts are packed"),
    ],
    ids=[
        "tokenized",
        "streaming",
        "text",
        "prompts",
        "tokenized whole",
        "stream of text",
        "unprepared",
        "wrapped",
        "eval packed",
    ],
)
def test_data_without_a_prompt_to_perturb_raises(data, changes, message, tiny_model_dir, tmp_path):
    """Nothing perturbed, and a consistency of 0 that looks like success."""
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_model_dir, data, **{**NOISY, **changes})


def test_token_perturbations_do_with_tokenized_and_streaming_data(tiny_model_dir, tmp_path):
    """They need no text, so refusing them would be for nothing."""
    table = Dataset.from_dict({"input_ids": [[9, 8, 7, 6, 5]] * 4, "labels": [[-100, -100, -100, 6, 5]] * 4})
    trainer = build(
        tmp_path,
        tiny_model_dir,
        table,
        **{**NOISY, "perturbation": "token_replacement"},
        perturbation_severity=1.0,
        max_steps=1,
    )
    trainer.train()
    assert trainer.state.log_history[0]["consistency_loss"] > 0
    stream = IterableDataset.from_generator(lambda: iter(rows()))
    build(tmp_path, tiny_model_dir, stream, **{**NOISY, "perturbation": "token_dropout"})


def test_no_text_is_noted_when_nothing_perturbs_it(tiny_model_dir, tmp_path):
    """With consistency off, or noise on embeddings, the preparation is SFTTrainer's to the last call."""
    assert fields()["max_steps"] == 2
    for changes in ({**NOISY, "perturbation": "gaussian"}, {**NOISY, "consistency_weight": 0.0}):
        assert len(build(tmp_path, tiny_model_dir, **changes)._sources) == 0
    assert len(build(tmp_path, tiny_model_dir, **NOISY)._sources) == 8


def test_prepared_and_raw_sets_can_be_evaluated_again(tiny_model_dir, tmp_path):
    """TRL prepares what `evaluate` is given once more, also what it has prepared itself."""
    raw = Dataset.from_list(rows(6))
    trainer = build(tmp_path, tiny_model_dir, given={"eval_dataset": raw}, **NOISY, max_length=80)
    first = trainer.evaluate()["eval_consistency_loss"]
    known = len(trainer._sources)
    assert trainer.evaluate(trainer.eval_dataset)["eval_consistency_loss"] == first
    assert trainer.evaluate(raw)["eval_consistency_loss"] == first
    both = trainer.evaluate({"a": raw, "b": trainer.eval_dataset})
    assert both["eval_a_loss"] == both["eval_b_loss"] > 0 and first > 0
    assert len(trainer._sources) == known == 8 + 6


def test_a_weight_that_rises_from_zero_perturbs_what_it_will_need(tiny_model_dir, tmp_path):
    """At weight 0 nothing seems to be needed, and at the end of the schedule the text is gone."""
    changes = {"consistency_weight": 0.0, "consistency_schedule": "linear", "consistency_weight_end": 1.0}
    trainer = build(tmp_path, tiny_model_dir, **{**NOISY, **changes}, perturbation_severity=0.5)
    trainer.train()
    assert trainer.state.log_history[0]["consistency_loss"] > 0


def test_processors_render_text_as_they_do_for_the_dataset(tmp_path):
    """Their templates read blocks and not plain text: rendered otherwise, every prompt would be empty."""
    folder = save_tiny_llava(tmp_path / "model")
    data = [
        {
            "prompt": [{"role": "user", "content": f"How do I bake {n} loaves of bread?"}],
            "completion": [{"role": "assistant", "content": "Mix and wait."}],
        }
        for n in range(8)
    ]
    for name in ("typos", "token_dropout"):
        changes = {**NOISY, "perturbation": name, "perturbation_severity": 0.5, "max_length": None}
        trainer = build(tmp_path / name, folder, Dataset.from_list(data), **changes)
        trainer.train()
        assert trainer.state.log_history[0]["consistency_loss"] > 1e-6
