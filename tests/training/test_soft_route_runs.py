# SPDX-License-Identifier: Apache-2.0
"""Runs with a soft route against a reference that reads each row alone, in whole models and dense logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from hf_ckt.kernels.signals import signal_parts
from hf_ckt.teachers.soft_route import REFUSED
from hf_ckt.training.collator import read_batch
from hf_ckt.training.teacher_cache import cache_teachers
from tests import by_hand, tiny_models
from tests.by_hand import (
    SGD,
    Read,
    Row,
    gradient,
    kl,
    logits_at,
    mean,
    places_of,
    rows_by_hand,
    same_gradient,
    share,
    table,
)
from tests.runs import rows
from tests.teachers.test_soft_route import odds_by_hand, probe
from tests.trainers import Stop, build, first_batch, load, lora, run, same_resumed, steps, trained
from tests.training.test_routed_runs import LAYOUTS, NOISES, anchors, contrast, watch_noise

WEIGHTS = {"task_weight": 0.5, "distillation_weight": 1.0}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A probe and a wider teacher of what to refuse, its head padded; the base is the other."""
    folder = tmp_path_factory.mktemp("soft")
    probe().save(folder / "probe")
    size = len(tiny_models.build_tokenizer())
    safety = tiny_models.save_tiny_llama(folder / "safety", hidden_size=48, seed=7, vocab_size=size + 16)
    return {"soft_route": str(folder / "probe"), "refuse": str(safety)}


def build_soft(folder: Any, model: Any, teacher: Any, data: Any = None, **changes: Any) -> Any:
    """A trainer of plain gradient descent."""
    data = Dataset.from_list(rows()) if data is None else data
    beside = {"peft_config": lora(), **(teacher if "teachers" in teacher else {"teacher_model": teacher})}
    return build(folder, model, data, given=beside, **{**SGD, **changes})


class Soft(Read):
    """As [`Read`], its teacher the mixture's log-probabilities."""


def soft_by_hand(trainer: Any, given: Any, found: list[Row]) -> tuple[list[Read], list[float], list[Tensor]]:
    """Each row through the student, its base and the mixture; p of each; and the mixed logits that contrast takes."""
    refuse = load(given["refuse"]).eval()
    read, shares, linear = [], [], []
    for row in found:
        student = logits_at(trainer.model, row)
        with torch.no_grad(), trainer.model.disable_adapter():
            base = logits_at(trainer.model, row)
            p = torch.tensor(odds_by_hand(trainer.model, row.ids, row.labels)).double().sigmoid()
        with torch.no_grad():
            safe = logits_at(refuse, row)[:, : base.shape[1]]
        mixture = p * safe.softmax(-1) + (1 - p) * base.softmax(-1)
        read.append(Read(student, mixture.log(), base, row.labels[1:][places_of(row)], row))
        shares.append(float(p))
        linear.append(p * safe + (1 - p) * base)
    return read, shares, linear


def rows_of(model: Any, data: Any = None, answer: str = "completion") -> list[Row]:
    data = Dataset.from_list(rows()) if data is None else data
    blank = [None] * len(data)
    for name in ("teacher", "topic"):
        data = data if name in data.column_names else data.add_column(name, blank)
    return rows_by_hand(model, data, answer)


@pytest.fixture(scope="module")
def expected(given, tiny_model_dir, tmp_path_factory):
    trainer = build_soft(tmp_path_factory.mktemp("expected"), tiny_model_dir, given, **WEIGHTS)
    read, shares, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir))
    loss = 0.5 * share(read, lambda one: one.nll) + share(read, lambda one: one.divergence)
    logs = {
        "loss": loss.item(),
        "distillation_loss": mean(read, lambda one: one.divergence).item(),
        "acceptance": mean(read, lambda one: one.acceptance).item(),
        REFUSED: sum(shares) / len(shares),
    }
    assert min(shares) < 0.4 and max(shares) > 0.6  # else nothing would tell one row's from another's
    return SimpleNamespace(logs=logs, gradient=gradient(trainer, loss), weights=trained(trainer))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_each_row_hears_its_own_mixture(layout, expected, given, tiny_model_dir, tmp_path):
    """A prompt read with its neighbours, its padding or its answer has another p, and trains without an error."""
    trainer = build_soft(tmp_path, tiny_model_dir, given, **WEIGHTS, **LAYOUTS[layout])
    before = trained(trainer)
    assert all(torch.equal(value, expected.weights[name]) for name, value in before.items())
    (logs,) = steps(run(trainer))
    for name, value in expected.logs.items():
        assert logs[name] == pytest.approx(value, rel=5e-6, abs=1e-7), name
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, expected.gradient)


@pytest.mark.parametrize("compile", [True])
def test_compiled_tiles_train_as_plain_ones(compile, expected, given, tiny_model_dir, tmp_path):
    """The second teacher's logits are one more input of what is compiled."""
    changes = {"per_device_train_batch_size": 8, "objective_compile": compile}
    (logs,) = steps(run(build_soft(tmp_path, tiny_model_dir, given, **WEIGHTS, **changes)))
    for name, value in expected.logs.items():
        assert logs[name] == pytest.approx(value, rel=2e-5, abs=1e-7), name


@pytest.mark.parametrize(
    ("noise", "layout"), [(noise, "padded") for noise in NOISES if noise != "by role"] + [("prompts", "padding-free")]
)
def test_noisy_prompt_has_the_p_of_the_clean_one(noise, layout, given, tiny_model_dir, tmp_path):
    """Read from the prompt as it was perturbed, the probe would be fooled by what the student is to withstand."""
    weights = {"task_weight": 0.0, "consistency_weight": 0.5, "distillation_weight": 1.0}
    changes = {**weights, "consistency_target": "teacher", **NOISES[noise], **LAYOUTS[layout]}
    trainer = build_soft(tmp_path, tiny_model_dir, given, **changes)
    held = watch_noise(trainer)
    read, shares, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir))
    count = sum(len(one.labels) for one in read)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(first_batch(trainer)), num_items_in_batch=count)
    (views,) = held.views
    logits = (views.noisy.states @ trainer._causal_lm.lm_head.weight.t()).double()
    taught = torch.cat([one.teacher for one in read])[views.noisy.positions]
    values = kl(taught, logits)
    wanted = 0.5 * values.sum() / count / views.noisy.probability + share(read, lambda one: one.divergence)
    assert float(loss) == pytest.approx(float(wanted), rel=5e-6)
    same_gradient(gradient(trainer, loss), gradient(trainer, wanted))
    means = trainer._sums["train"].means(trainer.accelerator, trainer._log_names)
    assert means[REFUSED] == pytest.approx(sum(shares) / len(shares), rel=1e-5)
    assert bool(held.searched) is (noise == "searched")
    for states, value, slope in held.searched:
        states.requires_grad_()
        ascended = kl(
            torch.cat([one.teacher for one in read]), (states @ trainer._causal_lm.lm_head.weight.t()).double()
        )
        assert float(value) == pytest.approx(float(ascended.sum()), rel=5e-6)
        torch.testing.assert_close(slope, torch.autograd.grad(ascended.sum(), states)[0], rtol=1e-4, atol=1e-6)


CONTRASTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "sequences": {"contrastive_level": "sequence"},
    "rejected": {"contrastive_rejected": True},
    "queue": {"contrastive_queue_size": 1000, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "padding-free": {"padding_free": True},
}


@pytest.mark.parametrize("heads", ["own heads", "one head"])
@pytest.mark.parametrize("kind", list(CONTRASTS))
def test_contrast_is_that_of_the_mixed_logits(kind, heads, given, tiny_model_dir, tmp_path):
    """A mixture of probabilities has no states; those of one teacher alone would be compared as if p were 1."""
    changes = CONTRASTS[kind]
    level = changes.get("contrastive_level", "token")
    data = Dataset.from_list(rows())
    data = data.add_column("rejected", [row["completion"].upper()[:20] for row in rows()])
    if kind != "rejected":
        data = data.remove_columns("rejected")
    weights = {"task_weight": 0.0, "contrastive_weight": 1.0, "per_device_train_batch_size": 8}
    if heads == "one head":
        given = {**given, "refuse": save_adapter(tmp_path, tiny_model_dir)}
    spec = given if heads == "own heads" else {**given, "refuse": {"adapter": given["refuse"]}}
    trainer = build_soft(tmp_path, tiny_model_dir, spec, data, **{**weights, **changes})
    model = {"refuse": given["refuse"]}
    read, _, linear = soft_by_hand(trainer, model, rows_of(tiny_model_dir, data))
    read = [one._replace(teacher=logits) for one, logits in zip(read, linear, strict=True)]
    more = []
    if kind == "rejected":
        other, _, linear = soft_by_hand(trainer, model, rows_of(tiny_model_dir, data, "rejected"))
        other = [one._replace(teacher=logits) for one, logits in zip(other, linear, strict=True)]
        more = [anchors(other, "teacher", level)]
    batches = [read[:4], read[4:]] if kind == "queue" else [read]
    values = []
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


def save_adapter(folder: Any, model: Any) -> str:
    from peft import get_peft_model

    torch.manual_seed(11)
    get_peft_model(load(model), lora(r=2)).save_pretrained(folder / "adapter")
    return str(folder / "adapter")


def test_labelled_rows_learn_their_answers_and_unlabelled_rows_the_mixture(given, tiny_model_dir, tmp_path):
    """An answer that nobody has checked would be trained on, where the prompt alone is worth something."""
    data = Dataset.from_list(rows()).add_column("labelled", [True, False] * 4)
    changes = {"role_rows": {"task": {"labelled": True}}, "per_device_train_batch_size": 8}
    trainer = build_soft(tmp_path, tiny_model_dir, given, data, **WEIGHTS, **changes)
    read, _, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir, data))
    labelled = read[::2]
    count = sum(len(one.labels) for one in read)
    loss = 0.5 * torch.cat([one.nll for one in labelled]).sum() / count + share(read, lambda one: one.divergence)
    before, wanted = trained(trainer), gradient(trainer, loss)
    (logs,) = steps(run(trainer))
    assert logs["task_loss"] == pytest.approx(float(torch.cat([one.nll for one in labelled]).mean()), rel=5e-6)
    assert logs["distillation_loss"] == pytest.approx(float(mean(read, lambda one: one.divergence)), rel=5e-6)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted)


@pytest.mark.parametrize("layout", ["padded", "padding-free", "1 x 8"])
def test_soft_route_is_one_of_several_teachers(layout, given, tiny_model_dir, tmp_path):
    """Labelled rows hear their teacher whole, and the others the mixture: of a batch without them its heads keep their place."""
    names = ["safety", "soft", "base", "soft", "soft", "base", "safety", "soft"]
    teachers = {"teachers": {"soft": given, "safety": given["refuse"], "base": None}}
    changes = {**WEIGHTS, "contrastive_weight": 0.3, "contrastive_queue_size": 300, **LAYOUTS[layout]}
    trainer = build_soft(tmp_path, tiny_model_dir, teachers, table(names), **changes)
    soft, shares, linear = soft_by_hand(trainer, given, rows_of(tiny_model_dir))
    whole = by_hand.read_by_hand(
        trainer,
        {"safety": given["refuse"], "base": None},
        [
            row._replace(teacher=row.teacher if row.teacher != "soft" else "base")
            for row in rows_by_hand(tiny_model_dir, table(names))
        ],
    )
    read = [two if name == "soft" else one for name, one, two in zip(names, whole, soft, strict=True)]
    (logs,) = steps(run(trainer))
    assert logs["distillation_loss"] == pytest.approx(float(mean(read, lambda one: one.divergence)), rel=5e-6)
    own = [one for name, one in zip(names, read, strict=True) if name == "soft"]
    assert logs["distillation_loss/soft"] == pytest.approx(float(mean(own, lambda one: one.divergence)), rel=5e-6)
    heard = [value for name, value in zip(names, shares, strict=True) if name == "soft"]
    assert logs[f"{REFUSED}/soft"] == pytest.approx(sum(heard) / len(heard), rel=1e-5)
    # The queue's states, the heads side by side, are those of the logits that are compared.
    states = trainer.objective.contrast.queue.states
    shared = read[0].student.shape[1]
    expected = [
        logits if name == "soft" else one.teacher[:, :shared]
        for name, one, logits in zip(names, read, linear, strict=True)
    ]
    # Those of the first teacher's two, where it has no row too, then what the others add.
    found = trainer._extra_passes.teacher.teachers
    owners = found["soft"].refuse, found["base"], found["safety"]
    side = torch.cat([one.head(trainer._causal_lm).weight[:shared] for one in owners], dim=1)
    torch.testing.assert_close(states.double() @ side.double().t(), torch.cat(expected)[-300:], rtol=1e-4, atol=1e-5)


def test_base_is_read_once_for_the_probe_and_as_the_teacher(given, tiny_model_dir, tmp_path):
    """A second pass of the base would cost a third of the step, for what the first has given."""
    for answer, passes in ((None, 2), (str(tiny_model_dir), 2)):
        trainer = build_soft(tmp_path, tiny_model_dir, {**given, "answer": answer}, **WEIGHTS)
        trainer.compute_loss(trainer.model.train(), first_batch(trainer))
        calls = []
        trainer._causal_lm.model.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        trainer.compute_loss(trainer.model, first_batch(trainer))
        assert len(calls) == passes


def test_tokens_weigh_as_the_mixture_differs_from_the_base(given, tiny_model_dir, tmp_path):
    """The first teacher alone, or no second one projected, is not what the student is drawn to."""
    fields = {**WEIGHTS, "distillation_token_weights": "teacher_divergence", "per_device_train_batch_size": 8}
    trainer = build_soft(tmp_path, tiny_model_dir, given, **fields)
    read, _, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir))
    weights, losses = [], []
    for one in read:
        weights.append(0.1 + 0.45 * (one.teacher.exp() - one.base.softmax(-1)).abs().sum(-1))
        losses.append((one.teacher.exp() * (one.teacher - one.student.log_softmax(-1))).sum(-1))
    weight, loss = torch.cat(weights), torch.cat(losses)
    found = run(trainer).state.log_history[0]["distillation_loss"]
    assert found == pytest.approx(float((weight * loss).sum() / weight.sum()), rel=1e-4)
    assert found != pytest.approx(float(loss.mean()), rel=1e-2)


RESUMED = {
    **WEIGHTS,
    "contrastive_weight": 0.3,
    "contrastive_queue_size": 40,
    "consistency_weight": 0.5,
    "consistency_target": "teacher",
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "train_sampling_strategy": "random",
    "save_strategy": "steps",
    "save_steps": 3,
}


def test_resumed_run_is_the_whole_one_and_another_probe_is_refused(given, tiny_model_dir, tmp_path):
    """The queue holds states weighted by this probe's p: by another's they are those of nobody."""
    whole = run(build_soft(tmp_path / "whole", tiny_model_dir, given, **RESUMED))
    cut = build_soft(tmp_path / "cut", tiny_model_dir, given, **RESUMED)
    cut.add_callback(Stop(3))
    run(cut)
    probe(seed=5).save(tmp_path / "other")
    other = build_soft(tmp_path / "cut", tiny_model_dir, {**given, "soft_route": str(tmp_path / "other")}, **RESUMED)
    with pytest.raises(ValueError, match=r"resume_from_checkpoint: the checkpoint's teacher is .*by its probe.*queue"):
        other.train(resume_from_checkpoint=True)
    resumed = build_soft(tmp_path / "cut", tiny_model_dir, given, **RESUMED)
    resumed.train(resume_from_checkpoint=True)
    same_resumed(resumed, whole)


def test_mixture_is_not_cached_and_its_members_are(given, tiny_model_dir, tmp_path):
    """A mixture has no states to keep; the larger of its two teachers need not be run all the same."""
    changes = {**WEIGHTS, "per_device_train_batch_size": 8}
    mixed = build_soft(tmp_path / "mixed", tiny_model_dir, given, **changes)
    with pytest.raises(ValueError, match=r"cache-teacher: the teacher \(refuse: .*\) does not give hidden states"):
        cache_teachers(mixed, tmp_path / "none", say=lambda line: None)
    alone = build_soft(tmp_path / "alone", tiny_model_dir, {"model": given["refuse"]}, **changes)
    cache_teachers(alone, tmp_path / "cache", dtype="float32", say=lambda line: None)
    (expected,) = steps(run(mixed))
    cached = build_soft(
        tmp_path / "cached", tiny_model_dir, {**given, "refuse": {"cache": str(tmp_path / "cache")}}, **changes
    )
    (found,) = steps(run(cached))
    assert found["distillation_loss"] == pytest.approx(expected["distillation_loss"], rel=1e-6)
    assert found["teacher_entropy"] == pytest.approx(expected["teacher_entropy"], rel=1e-6)
    more = Dataset.from_list([{"prompt": "What is", "completion": " bread?"}, *rows(3)])
    absent = build_soft(
        tmp_path / "absent", tiny_model_dir, {**given, "refuse": {"cache": str(tmp_path / "cache")}}, more, **changes
    )
    with pytest.raises(ValueError, match="teacher_cache"):
        absent.train()


def test_evaluation_reads_the_mixture_too(given, tiny_model_dir, tmp_path):
    """What chooses a checkpoint must compare with the same teacher, and its p stays out of the training's log."""
    data = Dataset.from_list(rows(4))
    beside = {"peft_config": lora(), "teacher_model": given, "eval_dataset": data}
    trainer = build(tmp_path, tiny_model_dir, given=beside, **{**SGD, **WEIGHTS, "per_device_eval_batch_size": 4})
    metrics = trainer.evaluate()
    read, shares, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir, data))
    assert metrics[f"eval_{REFUSED}"] == pytest.approx(sum(shares) / 4, rel=1e-5)
    assert metrics["eval_distillation_loss"] == pytest.approx(float(mean(read, lambda one: one.divergence)), rel=5e-6)


def test_one_of_the_two_may_read_a_system_prompt_that_the_student_does_not(given, tiny_model_dir, tmp_path):
    """The base behind rules teaches refusals without an adapter; the probe and the other teacher must not read them."""
    text = "Refuse all that harms."
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in rows(4)
        ]
    )
    behind = {"privileged_context": None, "system_prompt": text}
    changes = {**WEIGHTS, "per_device_train_batch_size": 4}
    trainer = build_soft(tmp_path / "run", tiny_model_dir, {**given, "refuse": behind}, data, **changes)
    context, plain = (
        build_soft(tmp_path / name, tiny_model_dir, one, data, **changes)
        for name, one in (("ctx", behind), ("base", {"self": None}))
    )
    found = mixed_signal(trainer)
    torch.testing.assert_close(found.hidden, mixed_signal(context).hidden)
    torch.testing.assert_close(found.second.hidden, mixed_signal(plain).hidden)
    assert not torch.allclose(found.hidden, found.second.hidden, atol=1e-2)
    soft = mixed_signal(build_soft(tmp_path / "soft", tiny_model_dir, given, data, **changes))
    torch.testing.assert_close(found.mixture.log_odds, soft.mixture.log_odds)
    (logs,) = steps(run(trainer))
    assert logs["distillation_loss"] > 0
    with pytest.raises(ValueError, match=r"teacher_system_prompt: does not say whether soft_route's refuse or answer"):
        build_soft(tmp_path / "who", tiny_model_dir, given, data, teacher_system_prompt=text, **changes)
    both = {"refuse": behind, "answer": {**behind, "system_prompt": "Help."}}
    with pytest.raises(ValueError, match="soft_route: refuse and answer have different system prompts"):
        build_soft(tmp_path / "both", tiny_model_dir, {**given, **both}, data, **changes)


def mixed_signal(trainer: Any) -> Any:
    """What a trainer's teacher says of its first batch."""
    batch, _ = read_batch(dict(first_batch(trainer)), trainer._marks)
    (part,) = signal_parts(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm), len(batch.kept))
    return part.signal
