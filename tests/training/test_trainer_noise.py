# SPDX-License-Identifier: Apache-2.0
"""How often, how strongly and of what the trainer makes its noisy view, and whom it believes."""

import pytest
import torch
from datasets import Dataset

from tests.runs import OFF, rows
from tests.trainers import build, first_batch, gradients, load, lora, run, steps

NOISY = {**OFF, "consistency_weight": 1.0}


def test_noisy_view_is_computed_in_every_third_step_and_weighs_three_times_there(tiny_model_dir, tmp_path):
    """A view in every third step that weighs once is a third of the weight that was set."""
    given = {"peft_config": lora()}
    each = build(tmp_path, tiny_model_dir, given=given, **NOISY, task_weight=0.0)
    third = build(tmp_path, tiny_model_dir, given=given, **NOISY, task_weight=0.0, consistency_every=3)
    once, thrice = gradients(each, first_batch(each)), gradients(third, first_batch(third))
    for name, gradient in once.items():
        torch.testing.assert_close(thrice[name], 3 * gradient)
    passes = []
    handle = third._causal_lm.model.layers[0].register_forward_hook(lambda *_: passes.append(third.state.global_step))
    run(third)
    handle.remove()
    assert passes == [0, 0, 1]  # clean and noisy in step 0, the clean view alone in step 1


def test_steps_without_a_noisy_view_train_the_other_terms_and_log_no_divergence(tiny_model_dir, tmp_path):
    """A step that logs 0 for what it did not measure would halve the mean."""
    trainer = run(build(tmp_path, tiny_model_dir, **NOISY, consistency_every=2, max_steps=4))
    logged = steps(trainer)
    assert [("consistency_loss" in step) for step in logged] == [True, False, True, False]
    assert all(step["grad_norm"] > 0 and step["task_loss"] > 0 for step in logged)
    evaluated = build(
        tmp_path, tiny_model_dir, given={"eval_dataset": Dataset.from_list(rows(4))}, **NOISY, consistency_every=2
    )
    plain = build(tmp_path, tiny_model_dir, given={"eval_dataset": Dataset.from_list(rows(4))}, **NOISY)
    assert evaluated.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)


def test_severity_schedule_reaches_the_noise(tiny_model_dir, tmp_path):
    """A schedule that is resolved and not asked leaves the noise as strong as it began."""
    changes = {"perturbation_severity_schedule": "warmup", "schedule_warmup_ratio": 1.0, "max_steps": 3}
    logged = steps(run(build(tmp_path, tiny_model_dir, **NOISY, **changes, learning_rate=0.0)))
    divergences = [step["consistency_loss"] for step in logged]
    assert divergences[0] == pytest.approx(0, abs=1e-6) and 0 < divergences[1] < divergences[2]


def test_robust_consistency_compares_the_perturbed_prompt_with_the_teacher(tiny_model_dir, tmp_path):
    """By hand: KL(teacher on the clean prompt, student on the noisy one)."""
    teacher = load(tiny_model_dir)
    with torch.no_grad():
        for parameter in teacher.model.layers.parameters():
            parameter.mul_(0.9)
    changes = {**NOISY, "consistency_target": "teacher", "perturbation": "typos", "perturbation_severity": 0.4}
    trainer = build(tmp_path, tiny_model_dir, given={"teacher_model": teacher}, **changes, max_length=None)
    batch = first_batch(trainer)
    run(trainer)
    found = steps(trainer)[0]["consistency_loss"]
    student = load(tiny_model_dir)
    trainer_noisy = trainer._extra_passes.noisy
    from hf_ckt.models.batch import Batch

    labels = batch.pop("labels")
    clean = Batch(batch, labels)
    noisy, _ = trainer_noisy._rewrite(clean, trainer.args.seed << 32, 0.0)
    assert (
        noisy.inputs["input_ids"].shape != clean.inputs["input_ids"].shape
        or (noisy.inputs["input_ids"] != clean.inputs["input_ids"]).any()
    )
    with torch.no_grad():
        target = teacher(**clean.inputs).logits.flatten(0, 1)[clean.kept].log_softmax(-1)
        prediction = student(**noisy.inputs).logits.flatten(0, 1)[noisy.kept].log_softmax(-1)
    expected = (target.exp() * (target - prediction)).sum(-1).mean()
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_label_trust_weighs_the_task_by_the_teacher(tiny_model_dir, tmp_path):
    """By hand: -p_t(y) log p_s(y), averaged over the kept tokens."""
    teacher = load(tiny_model_dir)
    with torch.no_grad():
        for parameter in teacher.model.layers.parameters():
            parameter.mul_(0.9)
    trainer = build(tmp_path, tiny_model_dir, given={"teacher_model": teacher}, **OFF, label_trust=True)
    batch = first_batch(trainer)
    run(trainer)
    labels = batch["labels"][:, 1:]
    kept = labels != -100
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = [model(**inputs).logits[:, :-1][kept].log_softmax(-1) for model in (load(tiny_model_dir), teacher)]
    student, trusted = (table.gather(1, labels[kept][:, None])[:, 0] for table in logits)
    logged = steps(trainer)[0]
    assert logged["task_loss"] == pytest.approx(float((-trusted.exp() * student).mean()), rel=1e-4)
    assert logged["loss"] == pytest.approx(logged["task_loss"], rel=1e-6)
    assert "teacher_agreement" in logged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbation": "typo"}, r"perturbation: unknown name 'typo'.*typos"),
        (
            {"perturbation": {"typos": 0.5, "gaussian": 0.4}},
            r"perturbation: the probabilities add up to 0.9.*Divide each",
        ),
        ({"perturbation": {"typos": 1.5, "gaussian": -0.5}}, r"perturbation\['gaussian'\]: must be greater than 0"),
        ({"perturbation": "typos", "perturbation_alpha": 3.0}, r"perturbation_alpha: typos has no setting 'alpha'"),
        ({"perturbation_settings": {"typos": {}}}, r"perturbation_settings: unknown name 'typos'"),
        (
            {"perturbation_settings": {"gaussian": {"sevrity": 1}}},
            r"perturbation_settings_sevrity: gaussian has no setting.*severity",
        ),
        ({"perturbation": "adversarial", "perturbation_norm": "l1"}, r"perturbation_norm: unknown name 'l1'"),
        ({"perturbation": "adversarial", "noisy_view_recompute": True}, r"noisy_view_recompute: .*clean view"),
        ({"perturbation": "adversarial", "noisy_view_batched": True}, r"noisy_view_batched: .*clean view"),
        ({"perturbation": "typos", "noisy_view_batched": True}, r"noisy_view_batched: .*change a prompt's length"),
        ({"perturbation_severity_end": 2.0}, r"perturbation_severity_end: must lie in \[0, 1\]"),
        ({"consistency_every": 0}, r"consistency_every: must be 1 or more"),
        ({"consistency_budget": 0.0}, r"consistency_budget: must be greater than 0"),
        ({"consistency_budget": 1.0, "consistency_weight": 0.0}, r"consistency_budget: moves the consistency weight"),
        ({"consistency_budget": 1.0, "consistency_schedule": "linear"}, r"consistency_budget: moves"),
        ({"consistency_budget_rate": 0.0}, r"consistency_budget_rate: must be greater than 0"),
        ({"label_trust_threshold": 0.5}, r"label_trust_threshold: would be ignored"),
        ({"label_trust": True, "label_trust_threshold": 2.0}, r"label_trust_threshold: must lie in \(0, 1\)"),
        ({"label_trust": True, "loss_type": "dft"}, r"label_trust=True: loss_type='dft' weighs tokens already"),
        ({"label_trust": True}, r"label_trust=True: there is no teacher"),
    ],
    ids=str,
)
def test_wrong_noise_settings_say_what_is_wrong(changes, message, tiny_model_dir, tmp_path):
    """Each of these would train something else than was asked for."""
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_model_dir, **{**NOISY, **changes})


def test_reentrant_checkpointing_and_a_search_raise(tiny_model_dir, tmp_path):
    """It fails in the middle of the first step, with a sentence about `.grad()`."""
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="use_reentrant=True: adversarial noise needs"):
        build(tmp_path, tiny_model_dir, **NOISY, perturbation="adversarial", **options)


def test_a_search_over_sharded_weights_raises(tiny_model_dir, tmp_path):
    """FSDP2 reshards the embedding after the inner gradient; the error then speaks of mixed tensors."""
    from hf_ckt.training.resolution import require_safe_noisy_view

    args = build(tmp_path, tiny_model_dir, **NOISY, perturbation="virtual_adversarial").args
    facts = dict.fromkeys(("one_row", "mixture", "reentrant", "several_processes", "spread", "sharded"), False)
    require_safe_noisy_view(args, **facts, texts_known=False)
    with pytest.raises(ValueError, match="FSDP and DeepSpeed"):
        require_safe_noisy_view(args, **{**facts, "sharded": True}, texts_known=False)


def test_mixture_given_as_text_is_read_as_json(tiny_model_dir, tmp_path):
    """On the command line a dictionary arrives as text."""
    given = {
        "perturbation": '{"typos": 0.5, "gaussian": 0.5}',
        "perturbation_settings": '{"typos": {"severity": 0.3}}',
    }
    trainer = build(tmp_path, tiny_model_dir, **NOISY, **given)
    mixture = trainer._extra_passes.noisy.mixture
    assert mixture.probabilities == {"typos": 0.5, "gaussian": 0.5} and mixture.parts["typos"].severity == 0.3


@pytest.mark.parametrize("options", [{"use_reentrant": False}], ids=str)
def test_a_search_under_checkpointing_finds_the_same_noise(options, tiny_model_dir, tmp_path):
    """Recomputed inside the inner gradient, an activation of the outer pass would be another one."""
    changes = {**NOISY, "perturbation": "adversarial", "perturbation_steps": 2}
    plain = gradients(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes))
    checkpointed = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options}
    found = gradients(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes, **checkpointed))
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["typos", "token_dropout", "gaussian", "adversarial"])
def test_a_compiled_model_sees_the_same_noise(name, tiny_model_dir, tmp_path):
    """Traced, a lookup of text fails in the depths of a compiler."""
    changes = {**NOISY, "perturbation": name, "perturbation_severity": 0.5, "max_steps": 1}
    plain = steps(run(build(tmp_path / "plain", tiny_model_dir, **changes)))[0]
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    found = steps(run(build(tmp_path / "compiled", tiny_model_dir, **changes, **compiled)))[0]
    assert found["consistency_loss"] == pytest.approx(plain["consistency_loss"], rel=1e-4)


def test_the_noise_of_the_last_search_is_left_alone_without_warm_start(tiny_model_dir, tmp_path):
    """Restored from a checkpoint of a warm run, it would be where every later search begins."""
    trainer = build(tmp_path, tiny_model_dir, **NOISY, perturbation="adversarial")
    batch = first_batch(trainer)
    plain = gradients(trainer, batch)
    trainer._extra_passes.noisy.previous = torch.ones(5, 32)
    again = gradients(trainer, batch)
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_noise_that_no_teacher_judges_is_searched_all_the_same(tiny_model_dir, tmp_path):
    """A batch in which nothing counts has no teacher's reading, and the search for noise had nothing to differentiate."""
    changes = {**OFF, "consistency_weight": 0.5, "consistency_target": "teacher", "perturbation": "adversarial"}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes)
    batch = first_batch(trainer)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0
