# SPDX-License-Identifier: Apache-2.0
"""A soft route beside weighed tokens, trusted labels and contrast at the decision, against whole models and dense logits."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from hf_ckt.teachers.privileged_context import PrivilegedContextTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.teachers.soft_route import SoftRouteTeacher
from tests import tiny_models
from tests.by_hand import gradient, mean, read_by_hand, rows_by_hand, same_gradient, share, table
from tests.runs import OFF, rows
from tests.teachers.test_soft_route import probe
from tests.trainers import Stop, build, lora, run, same_resumed, steps, trained
from tests.training.test_decision_runs import by_logits
from tests.training.test_routed_runs import LAYOUTS
from tests.training.test_soft_route_runs import RESUMED, build_soft, rows_of, soft_by_hand
from tests.training.test_token_weights_runs import CASES, weighed


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A probe and a wider teacher of what to refuse, its head padded; the base is the other."""
    folder = tmp_path_factory.mktemp("soft")
    probe().save(folder / "probe")
    size = len(tiny_models.build_tokenizer())
    safety = tiny_models.save_tiny_llama(folder / "safety", hidden_size=48, seed=7, vocab_size=size + 16)
    return {"soft_route": str(folder / "probe"), "refuse": str(safety)}


@pytest.mark.parametrize("layout", ["padded", "padding-free", "one pack"])
@pytest.mark.parametrize("case", ["decay and divergence", "divergence and decay"])
def test_tokens_are_weighed_by_the_mixture(case, layout, given, tiny_model_dir, tmp_path):
    """By one of the two teachers alone, the tokens at which the mixture says what the base says would count in full."""
    fields = CASES[case]
    trainer = build_soft(tmp_path, tiny_model_dir, given, **{**OFF, **fields, **LAYOUTS[layout]})
    read, _, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir))
    tokens = sum(len(one.labels) for one in read)
    loss, logs = 0.0, {}
    for role, weight, values in (
        ("task", 0.5, [one.nll for one in read]),
        ("distillation", 1.0, [one.divergence for one in read]),
    ):
        factors = weighed(read, role, fields, 8)
        total = sum((factor * value).sum() for factor, value in zip(factors, values, strict=True))
        loss, logs[f"{role}_loss"] = loss + weight * total / tokens, total.item() / tokens
    before, wanted = trained(trainer), gradient(trainer, loss)
    (found,) = steps(run(trainer))
    for name, value in logs.items():
        assert found[name] == pytest.approx(value, rel=5e-6), name
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted)


def test_compiled_weights_are_the_plain_ones(given, tiny_model_dir, tmp_path):
    """The second teacher's logits are one more input of what weighs the tokens, too."""
    fields = {**OFF, **CASES["decay and divergence"], "per_device_train_batch_size": 8, "objective_chunk_size": 16}
    plain, compiled = (
        steps(run(build_soft(tmp_path / str(on), tiny_model_dir, given, **fields, objective_compile=on)))[0]
        for on in (False, True)
    )
    assert compiled["distillation_loss"] == pytest.approx(plain["distillation_loss"], rel=1e-5)


def test_labels_are_trusted_as_far_as_the_mixture_gives_them(given, tiny_model_dir, tmp_path):
    """Trusted as one of the two teachers gives them, answers to harmful prompts would be learnt."""
    changes = {**OFF, "task_weight": 1.0, "label_trust": True, "per_device_train_batch_size": 8}
    trainer = build_soft(tmp_path, tiny_model_dir, given, **changes)
    read, _, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir))

    def trusted(one: Any) -> Any:
        return one.teacher.softmax(-1).gather(1, one.labels[:, None])[:, 0] * one.nll

    loss = share(read, trusted)
    before, wanted = trained(trainer), gradient(trainer, loss)
    (found,) = steps(run(trainer))
    assert found["task_loss"] == pytest.approx(mean(read, trusted).item(), rel=5e-6)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted)


DECISION = {"contrastive_level": "decision", "contrastive_loss": "sincere"}
DECISIONS: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": 8},
    "padding-free": {"per_device_train_batch_size": 8, "padding_free": True},
    "packs": {"per_device_train_batch_size": 8, "packing": True, "max_length": 150},
    "4 x 2, queue": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "contrastive_queue_size": 3,
    },
    "by role": {"per_device_train_batch_size": 8, "role_rows": {"contrastive": {"topic": "cooking"}}},
}


def same_contrast(trainer: Any, loss: str, layout: str, sided: list[Any]) -> None:
    """A step of the trainer is one down the loss of dense logits, each row on the side that its `teacher` says."""
    queue = layout == "4 x 2, queue"
    parts = [(sided[:4], []), (sided[4:], sided[1:4])] if queue else [(sided, [])]
    expected = torch.stack([by_logits(loss, part, held, True) for part, held in parts]).mean()
    before, wanted = trained(trainer), gradient(trainer, expected)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected.item(), rel=2e-5)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("loss", ["info_nce", "sincere", "supervised_contrastive"])
@pytest.mark.parametrize("layout", list(DECISIONS))
def test_sides_at_the_decision_are_those_of_p(layout, loss, given, tiny_model_dir, tmp_path):
    """With sides of other rows, refusals would be pushed off each other and drawn to the answers."""
    changes = {"task_weight": 0.0, "contrastive_weight": 1.0, **DECISION, "contrastive_loss": loss}
    data = table([None] * 8, ["cooking", "cooking", "chemistry"] * 2 + ["cooking"] * 2).remove_columns("teacher")
    trainer = build_soft(tmp_path, tiny_model_dir, given, data, **{**changes, **DECISIONS[layout]})
    read, shares, linear = soft_by_hand(trainer, given, rows_of(tiny_model_dir, data))
    sided = [
        one._replace(teacher=logits, row=one.row._replace(teacher=p > 0.5))
        for one, p, logits in zip(read, shares, linear, strict=True)
    ]
    if layout == "by role":
        sided = [one for one in sided if one.row.topic == "cooking"]
    assert len({one.row.teacher for one in sided}) == 2
    same_contrast(trainer, loss, layout, sided)


@pytest.mark.parametrize("order", [["soft", "safety", "base"], ["base", "soft", "safety"]])
@pytest.mark.parametrize("layout", ["padded", "packs", "4 x 2, queue"])
def test_sides_of_a_mixture_are_those_of_rows_that_hear_one_of_its_two_alone(
    layout, order, given, tiny_model_dir, tmp_path
):
    """All rows of the mixture on one side of their own: refusals of theirs would be pushed off those that a label gives."""
    names = ["safety", "soft", "base", "soft", "soft", "base", "safety", "soft"]
    sources = {"soft": given, "safety": given["refuse"], "base": None}
    teachers = {"teachers": {name: sources[name] for name in order}}
    changes = {"task_weight": 0.0, "contrastive_weight": 1.0, **DECISION, **DECISIONS[layout]}
    trainer = build_soft(tmp_path, tiny_model_dir, teachers, table(names), **changes)
    plain = table(["base" if name == "soft" else name for name in names])
    whole = read_by_hand(trainer, {"safety": given["refuse"], "base": None}, rows_by_hand(tiny_model_dir, plain))
    soft, shares, linear = soft_by_hand(trainer, given, rows_of(tiny_model_dir, plain))
    sided = [
        one._replace(
            teacher=logits if name == "soft" else labelled.teacher[:, : logits.shape[1]],
            row=one.row._replace(teacher=p > 0.5 if name == "soft" else name == "safety"),
        )
        for name, one, labelled, p, logits in zip(names, soft, whole, shares, linear, strict=True)
    ]
    assert {p > 0.5 for name, p in zip(names, shares, strict=True) if name == "soft"} == {True, False}
    same_contrast(trainer, "sincere", layout, sided)


def test_resumed_run_goes_on_with_the_sides_of_p_and_all_terms(given, tiny_model_dir, tmp_path):
    """Sides that are not restored would drop the queue, and take other candidates from there on."""
    fields = {**RESUMED, **DECISION, "task_token_weights": "position_decay", "contrastive_queue_size": 7}
    fields |= {"distillation_token_weights": "teacher_divergence", "label_trust": True}
    fields |= {"role_rows": {"task": {"labelled": True}, "distillation": {"labelled": [True, False]}}}
    data = Dataset.from_list(rows()).add_column("labelled", [True, False] * 4)

    def make(folder: str) -> Any:
        return build_soft(tmp_path / folder, tiny_model_dir, given, data, **fields)

    whole = run(make("whole"))
    cut = make("cut")
    cut.add_callback(Stop(3))
    run(cut)
    saved = load_file(tmp_path / "cut" / "checkpoint-3" / "hf_ckt_state_0.safetensors")
    assert len(saved["contrastive_queue_sides"]) == len(saved["contrastive_queue"]) == 6
    resumed = make("cut")
    resumed.train(resume_from_checkpoint=True)
    same_resumed(resumed, whole)
    mine, theirs = (one.objective.contrast.queue for one in (resumed, whole))
    assert torch.equal(mine.sides, theirs.sides) and len(mine.sides.unique()) == 2


def test_threshold_that_sides_stand_in_for_is_refused(given, tiny_model_dir, tmp_path):
    """Sides say who is no negative, and a threshold would be tuned without any effect."""
    changes = {"contrastive_weight": 1.0, **DECISION, "contrastive_false_negative_threshold": 0.4}
    sources = (given, {"teachers": {"safety": given["refuse"], "base": None}}, {"teachers": {"soft": given}})
    for number, teacher in enumerate(sources):
        names = list(teacher.get("teachers", ()))[:1] * 8
        with pytest.raises(ValueError, match=r"contrastive_false_negative_threshold=0.4 would be ignored: .*safety"):
            build_soft(tmp_path / str(number), tiny_model_dir, teacher, table(names) if names else None, **changes)
    one = {"teachers": {"safety": given["refuse"]}}
    build_soft(tmp_path / "one", tiny_model_dir, one, table(["safety"] * 8), **changes)
    build_soft(tmp_path / "tokens", tiny_model_dir, given, **{**changes, "contrastive_level": "token"})


def test_soft_route_that_is_built_already_reads_its_context_too(tiny_model_dir, tmp_path):
    """Given as an object, its context was not prepared, and the first step ended in an error."""
    refuse = PrivilegedContextTeacher(SelfTeacher(), "Refuse all that harms.")
    data = Dataset.from_list(
        [{"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]}] * 4
    )
    changes = {**OFF, "distillation_weight": 1.0, "assistant_only_loss": True, "per_device_train_batch_size": 4}
    teacher = {"teacher_model": SoftRouteTeacher(probe(), refuse, SelfTeacher())}
    trainer = build(tmp_path / "run", tiny_model_dir, data, given={"peft_config": lora(), **teacher}, **changes)
    assert steps(run(trainer))[0]["distillation_loss"] > 0
