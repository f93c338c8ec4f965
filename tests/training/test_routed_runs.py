# SPDX-License-Identifier: Apache-2.0
"""Runs with several teachers against a reference that reads each row with its own, in whole models and dense logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import by_hand, tiny_models
from tests.by_hand import build_routed, gradient, kl, mean, read_by_hand, rows_by_hand, same_gradient, share, table
from tests.trainers import Stop, first_batch, run, same_resumed, steps, trained

LAYOUTS: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": 8},
    "padding-free": {"per_device_train_batch_size": 8, "padding_free": True},
    "one pack": {"per_device_train_batch_size": 1, "packing": True, "max_length": 2000},
    "packs": {"per_device_train_batch_size": 8, "packing": True, "max_length": 150},
    "4 x 2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "2 x 4": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "1 x 8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "1 x 8, padding-free": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "padding_free": True,
    },
}
WEIGHTS = {
    "task_weight": 0.5,
    "distillation_weight": 1.0,
    "regularization_weight": 0.3,
    "regularization_loss": "reference_kl",
}
RULES = {
    "task": {"topic": "cooking"},
    "distillation": {"teacher": ["safety", "third"]},
    "regularization": {"teacher": "base", "topic": "chemistry"},
}
TERMS: dict[str, dict[str, Any]] = {
    "all rows": WEIGHTS,
    "by role": {**WEIGHTS, "role_rows": RULES},
    "trusted": {"task_weight": 1.0, "label_trust": True},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return by_hand.save_teachers(tmp_path_factory.mktemp("teachers"))


def named(value: str) -> Any:
    return lambda row: row.teacher == value


@pytest.fixture(scope="module")
def expected(teachers, tiny_model_dir, tmp_path_factory):
    """By terms: what is logged of the first step, its gradient, and the weights that it is of."""
    folder = tmp_path_factory.mktemp("expected")
    trainer = build_routed(folder, tiny_model_dir, teachers, distillation_weight=1.0)
    read = read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, table()))
    outcomes = {}
    for name in TERMS:
        ruled = name == "by role"

        def cooking(row: Any, ruled: bool = ruled) -> bool:
            return not ruled or row.topic == "cooking"

        def taught(row: Any, ruled: bool = ruled) -> bool:
            return not ruled or row.teacher in ("safety", "third")

        def held(row: Any, ruled: bool = ruled) -> bool:
            return not ruled or (row.teacher == "base" and row.topic == "chemistry")

        if name == "trusted":
            loss = share(read, lambda one: one.trust * one.nll)
            logs = {"task_loss": loss}
            for teacher in teachers:
                logs[f"task_loss/{teacher}"] = mean(read, lambda one: one.trust * one.nll, named(teacher))
        else:
            loss = 0.5 * share(read, lambda one: one.nll, cooking)
            loss = loss + share(read, lambda one: one.divergence, taught)
            loss = loss + 0.3 * share(read, lambda one: one.reference, held)
            logs = {
                "task_loss": mean(read, lambda one: one.nll, cooking),
                "distillation_loss": mean(read, lambda one: one.divergence, taught),
                "regularization_loss": mean(read, lambda one: one.reference, held),
            }
            for teacher in teachers if not ruled else ("safety", "third"):
                logs[f"distillation_loss/{teacher}"] = mean(read, lambda one: one.divergence, named(teacher))
        for teacher in teachers:
            logs[f"acceptance/{teacher}"] = mean(read, lambda one: one.acceptance, named(teacher))
        logs |= {"acceptance": mean(read, lambda one: one.acceptance), "loss": loss}
        outcomes[name] = SimpleNamespace(
            logs={key: value.item() for key, value in logs.items()},
            gradient=gradient(trainer, loss),
            weights=trained(trainer),
        )
    return outcomes


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("terms", list(TERMS))
def test_each_row_hears_its_own_teacher(terms, layout, expected, teachers, tiny_model_dir, tmp_path):
    """A row read by another's teacher, at another's place, or divided by another's count, trains without an error."""
    wanted = expected[terms]
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, **TERMS[terms], **LAYOUTS[layout])
    before = trained(trainer)
    assert all(torch.equal(value, wanted.weights[name]) for name, value in before.items())
    (logs,) = steps(run(trainer))
    # TRL logs four digits of the loss in some versions; the terms are whole.
    for name, value in wanted.logs.items():
        assert logs[name] == pytest.approx(value, rel=3e-6, abs=1e-7), name
    named_here = {
        name for name in logs if "/" in name and name.startswith(("distillation_loss", "task_loss", "acceptance"))
    }
    assert named_here == {name for name in wanted.logs if "/" in name}
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted.gradient)


def contrast(student: torch.Tensor, teacher: torch.Tensor, more: list[torch.Tensor]) -> torch.Tensor:
    """InfoNCE of dense logits over the shared ids, centred over the vocabulary and over the anchors."""

    def centred(logits: torch.Tensor) -> torch.Tensor:
        shared = logits[:, : student.shape[1]]
        return shared - shared.mean(-1, keepdim=True)

    own, theirs = centred(student), centred(teacher)
    candidates = torch.cat([theirs, *map(centred, more)]) - theirs.mean(0)
    own, theirs = own - own.mean(0), theirs - theirs.mean(0)
    student_teacher = torch.nn.functional.cosine_similarity(own[:, None], candidates[None], dim=-1)
    teacher_teacher = torch.nn.functional.cosine_similarity(theirs[:, None], candidates[None], dim=-1)
    values = []
    for anchor in range(len(own)):
        negatives = (teacher_teacher[anchor] <= 0.95) | (torch.arange(len(candidates)) == anchor)
        scores = student_teacher[anchor][negatives] / 0.1
        values.append(scores.logsumexp(0) - student_teacher[anchor][anchor] / 0.1)
    return torch.stack(values).mean()


def anchors(read: list[Any], view: str, level: str) -> torch.Tensor:
    logits = [getattr(one, view)[:, : one.student.shape[1]] for one in read]
    return torch.stack([one.mean(0) for one in logits]) if level == "sequence" else torch.cat(logits)


CONTRASTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "sequences": {"contrastive_level": "sequence"},
    "rejected": {"contrastive_rejected": True},
    "rejected sequences": {"contrastive_rejected": True, "contrastive_level": "sequence"},
    "by role": {"role_rows": {"contrastive": {"topic": "cooking"}}, "contrastive_rejected": True},
    "queue": {"contrastive_queue_size": 1000, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
}
ORDERS = {
    "mixed": by_hand.NAMES,
    # The head of the other teachers must have its place before they are ever heard.
    "one alone first": ["base"] * 4 + ["third", "safety", "base", "third"],
}


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("kind", list(CONTRASTS))
def test_contrast_of_several_teachers_is_that_of_their_logits(kind, order, teachers, tiny_model_dir, tmp_path):
    """States of different heads are compared as if they were of one, and give a number all the same."""
    changes = CONTRASTS[kind]
    level = changes.get("contrastive_level", "token")
    data = table(ORDERS[order], rejected=[row["completion"].upper()[:20] for row in table()])
    weights = {"task_weight": 0.0, "contrastive_weight": 1.0, "per_device_train_batch_size": 8}
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, data, **{**weights, **changes})
    found = rows_by_hand(tiny_model_dir, data)
    counts = [kind != "by role" or row.topic == "cooking" for row in found]
    read = read_by_hand(trainer, teachers, found)
    other = []
    if changes.get("contrastive_rejected"):
        answers = rows_by_hand(tiny_model_dir, data, "rejected")
        other = read_by_hand(trainer, teachers, [row for row, one in zip(answers, counts, strict=True) if one])
    read = [row for row, one in zip(read, counts, strict=True) if one]
    batches = [read[:4], read[4:]] if kind == "queue" else [read]
    values, more = [], [anchors(other, "teacher", level)] if other else []
    for part in batches:
        student, teacher = anchors(part, "student", level), anchors(part, "teacher", level)
        values.append(contrast(student, teacher, more))
        if kind == "queue":
            more = [teacher]
    expected = torch.stack(values).mean()
    before, wanted = trained(trainer), gradient(trainer, expected)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(float(expected), rel=2e-5)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("size", [1, 5, 300])
def test_queue_holds_the_states_of_the_last_anchors(size, teachers, tiny_model_dir, tmp_path):
    """Cut at another end, or laid out otherwise from batch to batch, its negatives are those of nobody."""
    changes = {"contrastive_weight": 1.0, "contrastive_queue_size": size, "per_device_train_batch_size": 1}
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, **{**changes, "max_steps": 8, "learning_rate": 0.0})
    read = read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, table()))
    states = run(trainer).objective.contrast.queue.states
    # Each state stands in the columns of its own head, so that the heads one below the other give its logits.
    parts = trainer._extra_passes.teacher.teachers.values()
    heads = torch.cat([part.head(trainer._causal_lm).weight[: read[0].student.shape[1]] for part in parts], dim=1)
    expected = anchors(read, "teacher", "token")[-size:]
    torch.testing.assert_close(states.double() @ heads.double().t(), expected, rtol=1e-4, atol=1e-5)


def watch_noise(trainer: Any) -> SimpleNamespace:
    """Keeps what the noisy view gives, and what a search for noise is told to ascend."""
    held = SimpleNamespace(views=[], searched=[])
    view = trainer._extra_passes.noisy
    original = view.run

    def run_and_keep(*args: Any, divergence: Any, **kwargs: Any) -> Any:
        def keep(noisy: Any, clean: Any) -> Any:
            value = divergence(noisy, clean)
            (slope,) = torch.autograd.grad(value, noisy.states, retain_graph=True)
            held.searched.append((noisy.states.detach(), value.detach(), slope))
            return value

        held.views.append(original(*args, divergence=keep, **kwargs))
        return held.views[-1]

    view.run = run_and_keep
    return held


NOISES: dict[str, dict[str, Any]] = {
    "embeddings": {},
    "searched": {"perturbation": "adversarial"},
    "prompts": {"perturbation": "typos", "perturbation_severity": 0.4},
    "half of the rows": {"consistency_fraction": 0.5},
    "by role": {"perturbation": "adversarial", "role_rows": {"consistency": {"topic": "cooking"}}},
}


# Rows are drawn, and a padding-free batch is one.
@pytest.mark.parametrize(
    ("noise", "layout"),
    [
        (noise, layout)
        for noise in NOISES
        for layout in ("padded", "padding-free")
        if (noise, layout) != ("half of the rows", "padding-free")
    ],
)
def test_robust_consistency_is_to_the_rows_own_teacher(noise, layout, teachers, tiny_model_dir, tmp_path):
    """The noisy prediction of a harmful prompt would be drawn to what the base says of it."""
    weights = {"task_weight": 0.0, "consistency_weight": 0.5, "distillation_weight": 1.0}
    changes = {**weights, "consistency_target": "teacher", **NOISES[noise], **LAYOUTS[layout]}
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, **changes)
    held = watch_noise(trainer)
    given: set[str] = set()
    trainer._causal_lm.model.register_forward_pre_hook(lambda _, args, kwargs: given.update(kwargs), with_kwargs=True)
    read = read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, table()))
    count = sum(len(one.labels) for one in read)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(first_batch(trainer)), num_items_in_batch=count)
    assert not [name for name in given if "hf_ckt" in name]  # models with a strict signature would refuse a mark
    (views,) = held.views
    ruled = torch.cat([torch.full(one.labels.shape, noise != "by role" or one.row.topic == "cooking") for one in read])

    def divergences(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits = (states @ trainer._causal_lm.lm_head.weight.t()).double()
        taught = [row for one in read for row in one.teacher]
        return (
            torch.stack(
                [kl(taught[place][None], row[None])[0] for place, row in zip(positions.tolist(), logits, strict=True)]
            )
            * ruled[positions]
        )

    values = divergences(views.noisy.states, views.noisy.positions)
    assert len(values) == count if noise != "half of the rows" else 0 < len(values) < count
    expected = 0.5 * values.sum() / count / views.noisy.probability + share(read, lambda one: one.divergence)
    assert float(loss) == pytest.approx(float(expected), rel=5e-6)
    same_gradient(gradient(trainer, loss), gradient(trainer, expected))
    means = trainer._sums["train"].means(trainer.accelerator, trainer._log_names)
    heard = [one.row.teacher for one in read for _ in one.labels]
    for teacher in teachers:
        own = torch.tensor([heard[place] == teacher for place in views.noisy.positions.tolist()])
        own = own & ruled[views.noisy.positions]
        assert means[f"consistency_loss/{teacher}"] == pytest.approx(float(values[own].mean()), rel=2e-5)
    assert bool(held.searched) is (NOISES[noise].get("perturbation") == "adversarial")
    for states, value, slope in held.searched:
        states.requires_grad_()
        wanted = divergences(states, torch.arange(count)).sum()
        assert float(value) == pytest.approx(float(wanted), rel=5e-6)
        torch.testing.assert_close(slope, torch.autograd.grad(wanted, states)[0], rtol=1e-4, atol=1e-6)


def test_reference_beside_a_routed_base_reads_every_row(teachers, tiny_model_dir, tmp_path):
    """The base as a teacher reads its own rows alone; taken for the reference, the others would have none."""
    trainer = build_routed(tmp_path, tiny_model_dir, {"base": None, **teachers}, **WEIGHTS)
    passes = trainer._extra_passes
    assert passes.reference is not None and passes.reference is not passes.teacher
    read = read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, table()))
    (logs,) = steps(run(trainer))
    first = read[:4]  # of the four rows of the only step
    assert logs["regularization_loss"] == pytest.approx(float(mean(first, lambda one: one.reference)), rel=3e-6)


@pytest.mark.parametrize("name", ["base", "safety"])
def test_one_named_teacher_is_the_teacher_of_all(name, teachers, tiny_model_dir, tmp_path):
    """A mapping of one is the plain case, with its name in the log."""
    data = table().remove_columns("teacher")
    changes = {"distillation_weight": 1.0, "max_steps": 3}
    named_run = run(build_routed(tmp_path / "named", tiny_model_dir, {name: teachers[name]}, data, **changes))
    plain = build_routed(tmp_path / "plain", tiny_model_dir, None, data, **changes)
    if teachers[name] is not None:
        given = {"peft_config": by_hand.lora(), "teacher_model": teachers[name]}
        plain = by_hand.build(tmp_path / "plain", tiny_model_dir, data, given=given, **{**by_hand.SGD, **changes})
    run(plain)
    for mine, theirs in zip(steps(named_run), steps(plain), strict=True):
        assert mine[f"distillation_loss/{name}"] == mine["distillation_loss"] == theirs["distillation_loss"]
    after = trained(plain)
    assert all(torch.equal(value, after[key]) for key, value in trained(named_run).items())


RESUMED = {
    **WEIGHTS,
    "contrastive_weight": 0.3,
    "contrastive_queue_size": 40,
    "consistency_weight": 0.5,
    "consistency_target": "teacher",
    "role_rows": RULES,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "train_sampling_strategy": "random",
    "save_strategy": "steps",
    "save_steps": 3,
}


def test_resumed_run_with_several_teachers_is_the_whole_one(teachers, tiny_model_dir, tmp_path):
    """Routes and switches lie in the dataset, the queue in the checkpoint: none of them may begin anew."""
    whole = run(build_routed(tmp_path / "whole", tiny_model_dir, teachers, **RESUMED))
    cut = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **RESUMED)
    cut.add_callback(Stop(3))
    run(cut)
    resumed = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **RESUMED)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    same_resumed(resumed, whole)
    assert torch.equal(resumed.objective.contrast.queue.states, whole.objective.contrast.queue.states)


@pytest.mark.parametrize("change", ["order", "weights", "name"])
def test_queue_of_other_teachers_is_refused(change, teachers, tiny_model_dir, tmp_path):
    """Its states lie side by side in the order of the teachers: read in another, they are those of nobody."""
    run(build_routed(tmp_path, tiny_model_dir, teachers, **{**RESUMED, "max_steps": 3}))
    third = tiny_models.save_tiny_llama(tmp_path / "other", seed=11)
    others = {
        "order": {name: teachers[name] for name in ("third", "base", "safety")},
        "weights": {**teachers, "third": str(third)},
        "name": {"safety": teachers["safety"], "base": None, "fourth": teachers["third"]},
    }[change]
    names = ["fourth" if name == "third" and change == "name" else name for name in by_hand.NAMES]
    resumed = build_routed(tmp_path, tiny_model_dir, others, table(names), **{**RESUMED, "role_rows": None})
    said = {
        "order": r"teacher is safety: .*this run's is third: ",
        "weights": r"teacher 'third' is .*this run's is '.*other'.*another one by its weights",
        "name": r"teachers are safety, base, third, and this run's are safety, base, fourth",
    }
    with pytest.raises(ValueError, match=rf"resume_from_checkpoint: the checkpoint's {said[change]}.*The queue holds"):
        resumed.train(resume_from_checkpoint=True)
