# SPDX-License-Identifier: Apache-2.0
"""Whether a cache is one of this run's teacher and rows, and what is looked up stands where it is read."""

import pytest
import torch
from datasets import Dataset

from hf_ckt.training.teacher_cache import cache_teachers
from tests import tiny_models
from tests.runs import rows
from tests.teachers.signals import DISTIL
from tests.trainers import build, first_batch, lora, run, steps


def cached(tmp_path, student, data, given=None, **changes):
    """Writes a cache of a run's teacher; returns its folder."""
    given = {"peft_config": lora(), **(given or {})}
    writer = build(tmp_path / "writer", student, Dataset.from_list(data), given=given, **{**DISTIL, **changes})
    cache_teachers(writer, tmp_path / "cache", dtype="float32", say=lambda line: None)
    return str(tmp_path / "cache")


def reader(tmp_path, student, data, given=None, **changes):
    """A run that reads a cache."""
    given = {"peft_config": lora(), **(given or {})}
    return build(tmp_path / "run", student, Dataset.from_list(data), given=given, **{**DISTIL, **changes})


CHAT = [
    {name: [{"role": role, "content": row[name]}] for name, role in (("prompt", "user"), ("completion", "assistant"))}
    for row in rows()
]


def test_a_cache_is_not_continued_behind_other_prompts(tiny_model_dir, tmp_path):
    """Found by the student's text alone, the whole store of the first prompts would be taken for that of the second."""
    for rule, refused in (("Be kind.", False), ("Never lie.", True)):
        data = [{**row, "teacher_prompt": f"{rule} {row['prompt']}"} for row in rows()]
        if refused:
            with pytest.raises(ValueError, match="begun with another data set"):
                cached(tmp_path, tiny_model_dir, data)
        else:
            cached(tmp_path, tiny_model_dir, data)


def test_a_cache_behind_another_system_prompt_is_refused(tiny_model_dir, tmp_path):
    """The run would name one prompt, and learn from what was said behind another."""
    folder = cached(tmp_path, tiny_model_dir, CHAT, teacher_system_prompt="Be rude.")
    reader(tmp_path, tiny_model_dir, CHAT, teacher_cache=folder, teacher_system_prompt="Be rude.")
    with pytest.raises(ValueError, match="teacher_system_prompt: 'cache' holds what was said behind another one"):
        reader(tmp_path, tiny_model_dir, CHAT, teacher_cache=folder, teacher_system_prompt="Be kind.")


def test_rows_that_a_routed_cache_lacks_are_named_before_training(tiny_model_dir, tmp_path):
    """Of one teacher among several nothing was looked through, and a missing row was a loss that is not finite."""
    folder = cached(tmp_path, tiny_model_dir, rows()[:2])
    data = [{**row, "teacher": "ab"[n % 2]} for n, row in enumerate(rows())]
    with pytest.raises(ValueError, match="holds nothing on 3 of the 4 documents of train_dataset"):
        reader(tmp_path, tiny_model_dir, data, {"teachers": {"a": {"cache": folder}, "b": None}})


def test_a_cache_of_several_is_no_member_of_several(tiny_model_dir, tmp_path):
    """Its teachers are told apart by the run's numbers, which need not be its own."""
    data = [{**row, "teacher": "ab"[n % 2]} for n, row in enumerate(rows())]
    folder = cached(tmp_path, tiny_model_dir, data, {"teachers": {"a": None, "b": None}})
    with pytest.raises(ValueError, match="'b' is a cache of several teachers"):
        reader(tmp_path, tiny_model_dir, data, {"teachers": {"a": None, "b": {"cache": folder}}})


def test_role_rows_choose_the_same_rejected_answers_of_a_cache(tiny_model_dir, tmp_path):
    """Answers that the contrast leaves out would stay among its candidates."""
    other = str(tiny_models.save_tiny_llama(tmp_path / "other", seed=7))
    data = [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f" No, never do {n} of it.",
            "kind": "ab"[n % 2],
        }
        for n, row in enumerate(rows())
    ]
    changes = {
        "contrastive_weight": 0.5,
        "contrastive_level": "token",
        "contrastive_rejected": True,
        "role_rows": {"contrastive": {"kind": "a"}},
    }
    folder = cached(tmp_path, tiny_model_dir, data, {"teacher_model": other}, **changes)
    runs = [
        reader(tmp_path, tiny_model_dir, data, {"teacher_model": other}, **changes),
        reader(tmp_path, tiny_model_dir, data, teacher_cache=folder, **changes),
    ]
    live, read = (steps(run(one))[0]["contrastive_loss"] for one in runs)
    assert read == pytest.approx(live, rel=1e-4)


def test_records_that_were_cut_by_rows_are_refused(tiny_model_dir, tmp_path):
    """Of a batch of one row a single record is left, which would be read at every position."""
    trainer = reader(tmp_path, tiny_model_dir, rows(), teacher_cache=cached(tmp_path, tiny_model_dir, rows()))
    batch = {name: value[:1] for name, value in first_batch(trainer).items() if isinstance(value, torch.Tensor)}
    with pytest.raises(ValueError, match="dispatch_batches"):
        trainer.compute_loss(trainer.model, batch)


def test_a_cache_of_several_says_who_is_on_which_side(tiny_model_dir, tmp_path):
    """Taken for one teacher, it would be refused where sides are needed, and a threshold ignored in silence beside them."""
    other = str(tiny_models.save_tiny_llama(tmp_path / "other", seed=7))
    data, teachers = [{**row, "teacher": "ab"[n % 2]} for n, row in enumerate(rows())], {"a": None, "b": other}
    folder = cached(tmp_path, tiny_model_dir, data, {"teachers": teachers})
    changes = {"contrastive_weight": 1.0, "contrastive_level": "state", "contrastive_loss": "sincere"}
    runs = [
        reader(tmp_path, tiny_model_dir, data, {"teachers": teachers}, **changes),
        reader(tmp_path, tiny_model_dir, data, teacher_cache=folder, **changes),
    ]
    live, read = (steps(run(one))[0]["contrastive_loss"] for one in runs)
    assert read == pytest.approx(live, rel=1e-5) and live > 0
    changes = {**changes, "contrastive_level": "decision", "contrastive_false_negative_threshold": 0.5}
    with pytest.raises(ValueError, match=r"contrastive_false_negative_threshold=0\.5 would be ignored"):
        reader(tmp_path, tiny_model_dir, data, teacher_cache=folder, **changes)
