# SPDX-License-Identifier: Apache-2.0
"""Runs that weigh their tokens, against a reference that reads each row in whole models and weighs it by hand."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils._pytree import tree_map

from hf_ckt.training.teacher_cache import cache_teachers
from tests import by_hand, tiny_models
from tests.by_hand import Read, build_routed, gradient, read_by_hand, rows_by_hand, same_gradient, table
from tests.runs import OFF, rows
from tests.teachers.signals import from_cache
from tests.trainers import build, build_sft, first_batch, load, lora, run, same_run, steps, trained

LAYOUTS: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": 8},
    "padding-free": {"per_device_train_batch_size": 8, "padding_free": True},
    "one pack": {"per_device_train_batch_size": 1, "packing": True, "max_length": 2000},
    "packs": {"per_device_train_batch_size": 8, "packing": True, "max_length": 150},
    "tiles": {"per_device_train_batch_size": 8, "objective_chunk_size": 7},
    "4 x 2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "1 x 8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
}
BOTH = {"task_weight": 0.5, "distillation_weight": 1.0}
DECAY, DIVERGENCE = "position_decay", "teacher_divergence"
RULES = {"task": {"topic": "cooking"}, "distillation": {"teacher": ["safety", "third"]}}
CASES: dict[str, dict[str, Any]] = {
    "decay and divergence": {**BOTH, "task_token_weights": DECAY, "distillation_token_weights": DIVERGENCE},
    "divergence and decay": {
        **BOTH,
        "task_token_weights": DIVERGENCE,
        "distillation_token_weights": DECAY,
        "token_weights_floor": 0.3,
        "token_weights_half_life": 2.0,
    },
    "by role": {
        **BOTH,
        "task_token_weights": DECAY,
        "distillation_token_weights": DIVERGENCE,
        "token_weights_settings": {"task": {"half_life": 3.0}, "distillation": {"floor": 0.0}},
        "role_rows": RULES,
    },
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return by_hand.save_teachers(tmp_path_factory.mktemp("teachers"))


def raw(one: Read, name: str, half_life: float = 5.0, floor: float = 0.1) -> torch.Tensor:
    """A row's weights before they are divided by their mean."""
    if name == DECAY:
        return floor + (1 - floor) * 0.5 ** (torch.arange(len(one.labels)).double() / half_life)
    shared = min(one.teacher.shape[1], one.base.shape[1])
    gap = one.teacher[:, :shared].softmax(-1) - one.base[:, :shared].softmax(-1)
    return floor + (1 - floor) * gap.abs().sum(-1) / 2


def weighed(read: list[Read], role: str, fields: dict[str, Any], batch_size: int) -> list[torch.Tensor]:
    """Factors of a role at each token of each row: of mean 1 in a micro-batch, and, by the teacher, in each one's rows."""
    name = fields[f"{role}_token_weights"]
    settings = {
        one: fields[f"token_weights_{one}"] for one in ("half_life", "floor") if f"token_weights_{one}" in fields
    }
    settings |= fields.get("token_weights_settings", {}).get(role, {})
    if name == DIVERGENCE:
        settings.pop("half_life", None)
    rule = fields.get("role_rows", {}).get(role, {})

    def counts(one: Read) -> bool:
        return all(getattr(one.row, column) in values for column, values in rule.items())

    found: list[torch.Tensor] = []
    for start in range(0, len(read), batch_size):
        some = read[start : start + batch_size]
        for one in some:
            group = [other for other in some if counts(other)]
            if name == DIVERGENCE:
                group = [other for other in group if other.row.teacher == one.row.teacher]
            values = torch.cat([raw(other, name, **settings) for other in group]) if counts(one) else torch.ones(1)
            found.append(raw(one, name, **settings) / values.mean() if counts(one) else torch.zeros(len(one.labels)))
    return found


@pytest.fixture(scope="module")
def read(teachers, tiny_model_dir, tmp_path_factory):
    trainer = build_routed(tmp_path_factory.mktemp("read"), tiny_model_dir, teachers, distillation_weight=1.0)
    return trainer, read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, table()))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("case", list(CASES))
def test_tokens_count_as_they_are_weighed_by_hand(case, layout, read, teachers, tiny_model_dir, tmp_path):
    """A position counted from the row's beginning, or a mean over what a role leaves out, trains without an error."""
    fields, (whole, by_row) = CASES[case], read
    layout_fields = LAYOUTS[layout]
    micro = layout_fields["per_device_train_batch_size"] if "gradient_accumulation_steps" in layout_fields else 8
    tokens = sum(len(one.labels) for one in by_row)
    loss, logs = 0.0, {}
    for role, weight, values in (
        ("task", 0.5, [one.nll for one in by_row]),
        ("distillation", 1.0, [one.divergence for one in by_row]),
    ):
        factors = weighed(by_row, role, fields, micro)
        total = sum((factor * value).sum() for factor, value in zip(factors, values, strict=True))
        loss = loss + weight * total / tokens
        logs[f"{role}_loss"] = (total / sum(factor.sum() for factor in factors)).item()
        counted = sum(len(factor) for factor in factors if factor.any())
        assert sum(factor.sum() for factor in factors) == pytest.approx(counted, rel=1e-9)
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, **fields, **layout_fields)
    before = trained(trainer)
    (found,) = steps(run(trainer))
    assert found["loss"] == pytest.approx(loss.item(), rel=3e-6)
    for name, value in logs.items():
        assert found[name] == pytest.approx(value, rel=3e-6), name
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, gradient(whole, loss))


def test_task_with_weighed_tokens_is_no_longer_sft_and_uniform_is(tiny_model_dir, tmp_path):
    """With every extra weight at 0, a weighting that nobody runs would be ignored without a word."""
    given = {"peft_config": lora()}
    plain = run(build_sft(tmp_path / "sft", tiny_model_dir, given=given))
    same_run(run(build(tmp_path / "uniform", tiny_model_dir, given=given, **OFF)), plain)
    trainer = build(tmp_path / "decay", tiny_model_dir, given=given, **OFF, task_token_weights=DECAY)
    assert trainer.objective.views == {"student"} and trainer._extra_passes.reference is None
    assert steps(run(trainer))[0]["task_loss"] != pytest.approx(steps(plain)[0]["loss"], rel=1e-3)


def test_weighed_evaluation_is_the_weighted_mean(read, teachers, tiny_model_dir, tmp_path):
    """An evaluation that weighs otherwise than the training cannot be laid beside it."""
    _, by_row = read
    fields = CASES["decay and divergence"]
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, **fields)
    found = trainer.evaluate(trainer.train_dataset)
    for role, value in (("task", "nll"), ("distillation", "divergence")):
        factors = weighed(by_row, role, fields, 4)
        total = sum((f * getattr(one, value)).sum() for f, one in zip(factors, by_row, strict=True))
        assert found[f"eval_{role}_loss"] == pytest.approx((total / sum(map(torch.sum, factors))).item(), rel=3e-6)


def test_compiled_tiles_weigh_as_plain_ones_do(teachers, tiny_model_dir, tmp_path):
    """Of a compiled block the last rows are filled up, and a factor there would be one of no token."""
    fields = CASES["by role"]
    runs = [
        run(
            build_routed(
                tmp_path / str(on), tiny_model_dir, teachers, **fields, objective_compile=on, objective_chunk_size=16
            )
        )
        for on in (False, True)
    ]
    plain, compiled = map(trained, runs)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)
    assert steps(runs[1])[0]["loss"] == pytest.approx(steps(runs[0])[0]["loss"], rel=1e-6)


def test_a_resumed_run_weighs_as_the_whole_one(tiny_model_dir, tmp_path):
    """A weighting has no state; one that began to depend on the steps so far would differ from here on."""
    teacher = str(tiny_models.save_tiny_llama(tmp_path / "teacher", seed=7))
    fields = {**CASES["decay and divergence"], "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    fields |= {"per_device_train_batch_size": 2, "train_sampling_strategy": "random"}

    def make(folder):
        given = {"peft_config": lora(lora_dropout=0.2), "teacher_model": teacher}
        return build(tmp_path / folder, tiny_model_dir, given=given, **OFF | fields)

    whole = run(make("whole"))
    resumed = make("again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected = trained(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())


def test_cached_teachers_weigh_as_those_that_run(teachers, tiny_model_dir, tmp_path):
    """States read back in another order would weigh the tokens of other rows."""
    source = {"peft_config": lora(), "teacher_model": teachers["safety"]}
    fields = {**CASES["decay and divergence"], "max_steps": 1}
    data = Dataset.from_list(rows())
    ran = build(tmp_path / "ran", tiny_model_dir, data, given=source, **{**OFF, **fields})
    cache_teachers(ran, tmp_path / "cache", dtype="float32", say=lambda line: None)
    cache_teachers(ran, tmp_path / "top", top_k=20, say=lambda line: None)
    expected = steps(run(ran))[0]
    found = steps(run(from_cache(tmp_path / "read", tiny_model_dir, data, tmp_path / "cache", **{**OFF, **fields})))[0]
    assert found["distillation_loss"] == pytest.approx(expected["distillation_loss"], rel=1e-5)
    lossy = steps(run(from_cache(tmp_path / "few", tiny_model_dir, data, tmp_path / "top", **{**OFF, **fields})))[0]
    assert 0 < lossy["distillation_loss"] < expected["distillation_loss"]


def test_a_teacher_with_another_tokenizer_weighs_where_it_is_heard(teachers, tiny_model_dir, tmp_path):
    """Taken as foreign, the same teacher must weigh every token as before."""
    fields = {**OFF, **CASES["divergence and decay"], "max_steps": 1}
    found = []
    for teacher in (teachers["third"], {"cross_tokenizer": teachers["third"]}):
        given = {"peft_config": lora(), "teacher_model": teacher}
        found.append(steps(run(build(tmp_path / str(len(found)), tiny_model_dir, given=given, **fields)))[0])
    for name in ("task_loss", "distillation_loss", "loss"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)


ERRORS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the base itself": (
        {"distillation_weight": 1.0, "distillation_token_weights": DIVERGENCE},
        {"peft_config": lora()},
        "distillation_token_weights='teacher_divergence': the teacher is the student's own base.*Name a teacher",
    ),
    "the base alone among several": (
        {"distillation_weight": 1.0, "distillation_token_weights": DIVERGENCE},
        {"peft_config": lora(), "teachers": {"one": None}},
        "the teacher is the student's own base",
    ),
    "no base": (
        {"task_token_weights": DIVERGENCE},
        {"teacher_model": "other"},
        "task_token_weights='teacher_divergence': it compares with the base model, but without a PEFT adapter",
    ),
    "no teacher": (
        {"task_token_weights": DIVERGENCE},
        {},
        "task_token_weights='teacher_divergence': there is no teacher",
    ),
    "other loss": (
        {"task_token_weights": DECAY, "label_smoothing_factor": 0.1},
        {},
        "task_token_weights='position_decay': label_smoothing_factor needs the full logits",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of label smoothing
@pytest.mark.parametrize("case", list(ERRORS))
def test_what_cannot_be_weighed_raises_before_training(case, teachers, tiny_model_dir, tmp_path):
    """Weights that are all alike, or a weighting left out, would be taken for a method that does not help."""
    fields, given, message = ERRORS[case]
    given = tree_map(lambda value: teachers["third"] if value == "other" else value, given)
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_model_dir, given=given, **{**OFF, **fields})


def test_a_cache_of_the_base_is_refused_as_the_base_is(tiny_model_dir, tmp_path):
    """Read from files, the base is the base."""
    data = Dataset.from_list(rows())
    fields = {**OFF, "distillation_weight": 1.0}
    writer = build(tmp_path / "writer", tiny_model_dir, data, given={"peft_config": lora()}, **fields)
    cache_teachers(writer, tmp_path / "cache", dtype="float32", say=lambda line: None)
    with pytest.raises(ValueError, match="the teacher is the student's own base"):
        from_cache(
            tmp_path / "run", tiny_model_dir, data, tmp_path / "cache", **fields, distillation_token_weights=DIVERGENCE
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_token_weights": "position_decai"}, "task_token_weights: unknown name.*Did you mean 'position_decay'"),
        (
            {"token_weights_floor": 0.2},
            "token_weights_floor: uniform has no setting 'floor', so the value would be ig",
        ),
        (
            {"task_token_weights": DIVERGENCE, "token_weights_half_life": 2.0},
            "token_weights_half_life: teacher_divergence and uniform has no setting",
        ),
        (
            {"task_token_weights": DECAY, "token_weights_floor": 1.0},
            r"token_weights_floor: must lie in \[0, 1\), got 1",
        ),
        ({"token_weights_settings": {"consistency": {}}}, "token_weights_settings: unknown name 'consistency'"),
        (
            {"task_token_weights": DECAY, "token_weights_settings": {"task": {"halflife": 2}}},
            "token_weights_settings_halflife: position_decay has no setting 'halflife'.*Did you mean 'half_life'",
        ),
        (
            {"task_token_weights": DECAY, "packing": True, "packing_strategy": "wrapped"},
            "task_token_weights='position_decay': packing_strategy='wrapped' cuts documents",
        ),
        (
            {"task_token_weights": DECAY, "eval_packing": True},
            "task_token_weights='position_decay': eval_packing=True without packing.*counted from elsewhere",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_raise_where_they_are_set(fields, message, tiny_model_dir, tmp_path):
    """A misspelt setting that is ignored trains with the default and says nothing."""
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_model_dir, **{**OFF, **fields})


def test_a_weighting_of_a_role_that_is_off_is_said(tiny_model_dir, tmp_path, caplog):
    """It would be taken for tried."""
    with caplog.at_level(logging.WARNING):
        build(tmp_path, tiny_model_dir, **OFF, distillation_token_weights=DECAY)
    assert "distillation_token_weights: distillation is off in this run" in caplog.text


def test_a_conversations_answers_are_counted_on(tiny_model_dir, tmp_path):
    """Counted anew, the second answer of a conversation would weigh as much as the first."""
    turns = [("user", "How?"), ("assistant", "So it is."), ("user", "Why?"), ("assistant", "Because.")]
    data = Dataset.from_list([{"messages": [{"role": role, "content": text} for role, text in turns]}] * 4)
    trainer = build(
        tmp_path, tiny_model_dir, data, **OFF, task_token_weights=DECAY, assistant_only_loss=True, max_steps=1
    )
    batch = first_batch(trainer)
    labels = batch["labels"][0][1:]
    kept = labels != -100
    assert kept.int().diff().count_nonzero() >= 3  # two answers, apart
    with torch.no_grad():
        logits = load(tiny_model_dir)(batch["input_ids"][:1]).logits[0, :-1][kept]
    nll = torch.nn.functional.cross_entropy(logits, labels[kept], reduction="none")
    weights = 0.1 + 0.9 * 0.5 ** (torch.arange(int(kept.sum())) / 5)
    (found,) = steps(run(trainer))
    assert found["task_loss"] == pytest.approx((weights * nll).sum().item() / weights.sum().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weighed_roles_train_beside_all_others(dtype, teachers, tiny_model_dir, tmp_path):
    """A batch that is perturbed in part is computed in two parts, and the factors of each must be its own rows'."""
    fields = {
        **CASES["decay and divergence"],
        **{"contrastive_weight": 0.3, "consistency_weight": 0.5, "consistency_fraction": 0.5},
        **{"regularization_weight": 0.3, "regularization_loss": "reference_kl", "bf16": dtype == "bfloat16"},
        "per_device_train_batch_size": 8,
    }
    trainer = build_routed(tmp_path / "all", tiny_model_dir, teachers, **fields)
    found = steps(run(trainer))[0]
    alone = build_routed(
        tmp_path / "alone",
        tiny_model_dir,
        teachers,
        **CASES["decay and divergence"],
        per_device_train_batch_size=8,
        bf16=dtype == "bfloat16",
    )
    expected = steps(run(alone))[0]
    for name in ("task_loss", "distillation_loss"):
        assert found[name] == pytest.approx(expected[name], rel=3e-6 if dtype == "float32" else 3e-3), name
