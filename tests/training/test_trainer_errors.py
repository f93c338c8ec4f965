# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear sentence that says what, why and what to do, and nothing lost."""

import logging
import math

import pytest
import torch
from datasets import Dataset
from peft import PrefixTuningConfig, PromptTuningConfig
from transformers import TrainerCallback

from hf_ckt import ContrastiveRobustConfig
from tests.runs import OFF, rows
from tests.trainers import ON, build, fields, gradients, load, lora, run, save_tiny_mixtral, steps, trained


def config(tmp_path, **changes):
    return ContrastiveRobustConfig(str(tmp_path), **fields(**changes))


# field and value -> words of the message: the field, what is wrong, and the remedy or the known names.
WRONG_VALUES = [
    ({"distillation_weight": -1.0}, ["distillation_weight", "0 or more", "-1.0", "Use 0 to switch it off"]),
    ({"task_weight": math.nan}, ["task_weight", "finite", "nan"]),
    ({"contrastive_weight": math.inf}, ["contrastive_weight", "finite", "inf"]),
    ({"consistency_weight_end": -0.1}, ["consistency_weight_end", "0 or more"]),
    ({"distillation_loss": "forward_k"}, ["distillation_loss", "forward_k", "Did you mean 'forward_kl'?", "Known:"]),
    ({"distillation_loss": "info_nce"}, ["distillation_loss", "unknown name 'info_nce'", "Known:"]),
    ({"contrastive_loss": "infonce"}, ["contrastive_loss", "Did you mean 'info_nce'?"]),
    ({"consistency_loss": "symetric_kl"}, ["consistency_loss", "Did you mean 'symmetric_kl'?"]),
    ({"regularization_loss": "adapter_l1"}, ["regularization_loss", "Did you mean 'adapter_l2'?"]),
    ({"perturbation": "gausian"}, ["perturbation", "Did you mean 'gaussian'?", "uniform"]),
    ({"task_schedule": "linaer"}, ["task_schedule", "Did you mean 'linear'?"]),
    ({"contrastive_level": "tokens"}, ["contrastive_level", "Did you mean 'token'?"]),
    ({"consistency_target": "techer"}, ["consistency_target", "Did you mean 'teacher'?"]),
    ({"nonfinite_loss": "ignore"}, ["nonfinite_loss", "Known: raise, skip"]),
    ({"distillation_temperature": 0.0}, ["distillation_temperature", "greater than 0", "undefined"]),
    ({"contrastive_temperature": -1.0}, ["contrastive_temperature", "greater than 0"]),
    (
        {"distillation_loss": "skew_forward_kl", "distillation_alpha": 1.0},
        ["distillation_alpha", "[0, 1)", "1.0"],
    ),
    ({"distillation_loss": "jensen_shannon", "distillation_beta": 0.0}, ["distillation_beta", "(0, 1)"]),
    ({"distillation_beta": 0.5}, ["distillation_beta", "forward_kl has no setting 'beta'", "ignored", "temperature"]),
    ({"distillation_alpha": 0.5}, ["distillation_alpha", "forward_kl has no setting 'alpha'"]),
    ({"regularization_temperature": 2.0}, ["regularization_temperature", "adapter_l2 has no setting"]),
    (
        {"contrastive_loss": "relational_kl", "contrastive_false_negative_threshold": 0.9},
        ["contrastive_false_negative_threshold", "relational_kl has no setting"],
    ),
    ({"contrastive_false_negative_threshold": 1.5}, ["contrastive_false_negative_threshold", "(-1, 1]", "cosine"]),
    ({"perturbation_severity": 1.5}, ["perturbation_severity", "[0, 1]"]),
    ({"perturbation_alpha": 0.0}, ["perturbation_alpha", "greater than 0"]),
    ({"schedule_warmup_ratio": 0.0}, ["schedule_warmup_ratio", "(0, 1]"]),
    ({"contrastive_max_anchors": 1}, ["contrastive_max_anchors", "2 or more"]),
    ({"contrastive_queue_size": -1}, ["contrastive_queue_size", "0 or more"]),
    ({"objective_chunk_size": 0}, ["objective_chunk_size", "1 or more"]),
    ({"consistency_fraction": 0.0}, ["consistency_fraction", "(0, 1]", "consistency_weight=0"]),
    ({"noisy_view_recompute": True, "noisy_view_batched": True}, ["noisy_view_recompute", "noisy_view_batched"]),
    ({"loss_settings": {"distilation": {}}}, ["loss_settings", "Did you mean 'distillation'?"]),
    ({"loss_settings": {"distillation": {"gama": 1.0}}}, ["distillation_gama", "has no setting 'gama'"]),
    ({"contrastive_rejected": True, "packing": True}, ["contrastive_rejected", "packing", "Set packing=False"]),
    ({"contrastive_rejected": True, "eval_packing": True}, ["contrastive_rejected", "packing", "eval_packing=False"]),
    (
        {"contrastive_level": "sequence", "packing": True, "packing_strategy": "wrapped"},
        ["contrastive_level", "wrapped", "packing_strategy='bfd'"],
    ),
    *(
        (
            {"contrastive_level": "decision", setting: True, "packing_strategy": strategy},
            ["contrastive_level='decision'", strategy, "nothing is decided", "packing_strategy='bfd'"],
        )
        for setting, strategy in (("packing", "wrapped"), ("packing", "bfd_split"), ("eval_packing", "wrapped"))
    ),
    (
        {"contrastive_level": "decision", "eval_packing": True},
        ["contrastive_level='decision'", "where a text ends", "nothing is decided", "eval_packing=False"],
    ),
    (
        {"contrastive_level": "decision", "contrastive_rejected": True},
        ["contrastive_level='decision'", "its own positive", "contrastive_rejected=False"],
    ),
    (
        {"contrastive_level": "state", "contrastive_loss": "sincere", "contrastive_queue_size": 8},
        ["contrastive_level='state'", "has changed since", "contrastive_queue_size=0"],
    ),
    (
        {"contrastive_level": "state", "contrastive_loss": "relational_kl"},
        ["contrastive_level='state'", "the student's alone", "contrastive_loss='sincere'"],
    ),
    (
        {"contrastive_level": "state"},
        ["contrastive_level='state': info_nce", "draws no side together", "contrastive_loss='sincere'"],
    ),
    (
        {"contrastive_level": "state", "packing": True, "packing_strategy": "wrapped"},
        ["contrastive_level='state'", "nothing is decided", "packing_strategy='bfd'"],
    ),
    ({"contrastive_layers": [4]}, ["contrastive_layers=[4]", "would be ignored", "contrastive_level='state'"]),
    *(
        ({"contrastive_level": "state", "contrastive_layers": layers}, ["contrastive_layers=", "a list of different"])
        for layers in ([], [0, 3], [3, 3], ["x"], [True], 4)
    ),
]


@pytest.mark.parametrize(
    ("changes", "words"), WRONG_VALUES, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_config_names_the_wrong_field_and_the_remedy(changes, words, tmp_path):
    """A value that is taken as it is, or corrected in silence, trains something else than what was asked for."""
    with pytest.raises(ValueError) as error:
        config(tmp_path, **changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"distillation_weight": "1"}, {"contrastive_queue_size": 1.5}, {"task_weight": True}]
)
def test_config_names_the_field_of_a_wrong_type(changes, tmp_path):
    """A string compares, multiplies and fails deep inside the first step."""
    with pytest.raises(TypeError, match=next(iter(changes))):
        config(tmp_path, **changes)


@pytest.mark.parametrize("role", ["distillation", "contrastive"])
def test_a_weight_without_a_teacher_names_both_remedies(role, tiny_model_dir, tmp_path):
    """Without the error the term would be 0 from the first step to the last."""
    with pytest.raises(ValueError, match=rf"{role}_weight=1: there is no teacher.*teacher_model=.*peft_config="):
        build(tmp_path, tiny_model_dir, **{**OFF, f"{role}_weight": 1.0})


def test_robust_distillation_without_a_teacher_is_refused(tiny_model_dir, tmp_path):
    """consistency_target='teacher' would fall back to another objective."""
    with pytest.raises(
        ValueError, match="consistency_weight=1: consistency_target='teacher', but there is no teacher"
    ):
        build(tmp_path, tiny_model_dir, **{**OFF, "consistency_weight": 1.0, "consistency_target": "teacher"})


@pytest.mark.parametrize("loss", ["adapter_l2", "reference_kl"])
def test_regularization_without_an_adapter_is_refused(loss, tiny_model_dir, tmp_path):
    """A penalty on adapters that are not there is 0."""
    with pytest.raises(ValueError, match=rf"regularization_weight=1: {loss} .*adapter"):
        build(tmp_path, tiny_model_dir, **{**OFF, "regularization_weight": 1.0, "regularization_loss": loss})


def test_a_schedule_that_switches_a_term_on_later_needs_the_same(tiny_model_dir, tmp_path):
    """The run would fail, or do nothing, hours after its start."""
    fields = {**OFF, "distillation_schedule": "linear", "distillation_weight_end": 1.0}
    with pytest.raises(ValueError, match="there is no teacher"):
        build(tmp_path, tiny_model_dir, **fields)


def test_all_weights_zero_is_refused(tiny_model_dir, tmp_path):
    """The run would take its time and change nothing."""
    with pytest.raises(ValueError, match=r"task_weight=0: every weight of the objective is 0.*Raise one"):
        build(tmp_path, tiny_model_dir, **{**OFF, "task_weight": 0.0})


def test_weights_left_at_none_are_said_once(tiny_model_dir, tmp_path, caplog):
    """Which objective ran must stand in the log, with the reason for what is off."""
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(tmp_path, tiny_model_dir)
    (message,) = [record.getMessage() for record in caplog.records if "left at None" in record.getMessage()]
    assert "distillation_weight=0 and contrastive_weight=0 (there is no teacher" in message
    assert "consistency_weight=0.5;" in message
    assert set(trainer.objective.terms) == {"task", "consistency"}


def obstacles(tmp_path, name):
    prompts = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    return {
        "label_smoothing": ({}, {"label_smoothing_factor": 0.1}, "label_smoothing_factor needs the full logits"),
        "compute_loss_func": ({"compute_loss_func": lambda *a, **k: 0}, {}, "compute_loss_func replaces the loss"),
        "prompt_tuning": ({"peft_config": PromptTuningConfig(**prompts)}, {}, "virtual tokens.*use LoRA"),
        "prefix_tuning": ({"peft_config": PrefixTuningConfig(**prompts)}, {}, "virtual tokens.*use LoRA"),
    }[name]


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("weights", [{"consistency_weight": 1.0}, {"task_weight": 0.5}, {"task_schedule": "linear"}])
@pytest.mark.parametrize("name", ["label_smoothing", "compute_loss_func", "prompt_tuning", "prefix_tuning"])
def test_an_obstacle_to_the_objective_is_named(name, weights, tiny_model_dir, tmp_path):
    """The objective would drop the smoothing, the function or the virtual tokens, also when only the task weighs less."""
    given, changes, words = obstacles(tmp_path, name)
    with pytest.raises(ValueError, match=words):
        build(tmp_path, tiny_model_dir, given=given, **changes, **{**OFF, **weights})


def test_an_adapter_on_the_head_is_refused(tiny_model_dir, tmp_path):
    """The head is read as a weight, so an adapter on it would never be trained."""
    with pytest.raises(ValueError, match=r"lm_head.*not supported.*Remove"):
        build(tmp_path, tiny_model_dir, given={"peft_config": lora(target_modules=["q_proj", "lm_head"])}, **ON)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("sequence", r"info_nce: needs at least 2 sequences, got 1.*always 0.*Raise per_device"),
        ("decision", r"info_nce: needs at least 2 sequences, got 1.*always 0.*Raise per_device"),
        ("state", r"sincere: needs at least 3 sequences, got 2.*nothing to part.*Raise per_device"),
    ],
)
def test_contrast_of_documents_needs_two_of_them_or_three(level, said, tiny_model_dir, tmp_path):
    """With one candidate the term is 0 whatever the student says; of two states each is the other's opposite."""
    own = {"state": {"contrastive_loss": "sincere", "per_device_train_batch_size": 2}}
    changes = {**ON, "contrastive_level": level, "per_device_train_batch_size": 1, **own.get(level, {})}
    with pytest.raises(ValueError, match=said):
        build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes)


def masked_rows():
    """Six rows; the labels of the second batch of two are all masked."""
    data = [{"input_ids": list(range(5, 15 + i)), "labels": list(range(5, 15 + i))} for i in range(6)]
    for i in (2, 3):
        data[i]["labels"] = [-100] * len(data[i]["labels"])
    return Dataset.from_list(data)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_batch_with_every_label_masked_contributes_nothing(accumulation, tiny_model_dir, tmp_path):
    """0 / 0 would stop the run at the first such batch, hours in."""
    trainer = build(
        tmp_path,
        tiny_model_dir,
        masked_rows(),
        given={"peft_config": lora()},
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=3 // accumulation,
        train_sampling_strategy="sequential",
        max_length=None,
        **{**ON, "regularization_weight": 0.0},
    )
    trainer.train()
    logs = steps(trainer)
    assert all(math.isfinite(value) for entry in logs for value in entry.values())
    if accumulation == 1:
        assert logs[1]["loss"] == 0.0 and logs[1]["grad_norm"] == 0.0
        assert "task_loss" not in logs[1]  # no token, no mean
    assert logs[0]["loss"] > 0


def test_an_accumulated_masked_batch_leaves_the_others_as_they_are(tiny_model_dir, tmp_path):
    """A masked batch that still counted in the divisor would shrink the step."""
    changes = {"per_device_train_batch_size": 2, "max_length": None, "train_sampling_strategy": "sequential"}
    trainer = build(
        tmp_path, tiny_model_dir, masked_rows(), given={"peft_config": lora()}, **changes, **OFF, task_weight=2.0
    )
    batches = list(trainer.get_train_dataloader())
    plain = gradients(trainer, batches[0], num_items_in_batch=torch.tensor(19))
    trainer.model.zero_grad()
    for batch in batches[:2]:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=19).backward()
    for name, p in trainer.model.named_parameters():
        if name in plain:
            torch.testing.assert_close(p.grad, plain[name], rtol=0, atol=0)


class Break(TrainerCallback):
    """Makes a weight of the student infinite after the first step, and remembers all weights."""

    def __init__(self, name):
        self.name, self.kept = name, None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            p = dict(model.named_parameters())[self.name]
            p.data[0] = torch.inf
            self.kept = {name: p.detach().clone() for name, p in model.named_parameters()}


FIRST_B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"


def test_a_nonfinite_loss_stops_before_the_optimizer_step(tiny_model_dir, tmp_path):
    """One step on NaN gradients turns every weight into NaN, and the next checkpoint is lost too."""
    broken = Break(FIRST_B)
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora(), "callbacks": [broken]}, max_steps=4, **ON)
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("task_loss, distillation_loss")
    assert "not finite at step 2" in message and "weights are still those of step 1" in message
    assert "nonfinite_loss='skip'" in message
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, broken.kept[name]), name
    assert trainer.state.global_step == 1


def spoiled_teacher(tiny_model_dir, spoil_at):
    """A teacher whose hidden states are NaN in its `spoil_at`-th pass over a batch."""
    teacher = load(tiny_model_dir)
    passes = []

    def spoil(module, args, output):
        if len(output) == 1:
            return output  # a short text, at which its head is compared with its logits
        passes.append(None)
        return output * torch.nan if len(passes) == spoil_at else output

    teacher.model.norm.register_forward_hook(spoil)
    return teacher


@pytest.mark.parametrize("skip", [False, True])
def test_a_teachers_nan_names_its_terms_and_can_be_skipped(skip, tiny_model_dir, tmp_path, capsys):
    """The message must lead to the teacher and not to the learning rate; a skipped step must leave no trace."""
    seen = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})

    trainer = build(
        tmp_path,
        tiny_model_dir,
        given={
            "peft_config": lora(),
            "teacher_model": spoiled_teacher(tiny_model_dir, 2),
            "callbacks": [Record()],
        },
        max_steps=4,
        contrastive_queue_size=64,
        nonfinite_loss="skip" if skip else "raise",
        **{**ON, "regularization_weight": 0.0},
    )
    if not skip:
        with pytest.raises(
            FloatingPointError, match=r"^distillation_loss, contrastive_loss, loss: not finite at step 2"
        ):
            trainer.train()
        assert all(torch.equal(value, seen[0][name]) for name, value in trained(trainer).items())
        return
    trainer.train()
    assert trainer.state.global_step == 4 and trainer._guard.skipped == 1  # and the next steps are whole again
    assert "distillation_loss, contrastive_loss, loss: not finite at step 2. Skipped" in capsys.readouterr().out
    assert all(torch.equal(seen[1][name], seen[0][name]) for name in seen[0])
    assert not all(torch.equal(seen[2][name], seen[1][name]) for name in seen[0])
    logs = steps(trainer)
    # Nothing of the bad batch stays behind, in the queue of teacher states neither.
    assert all(math.isfinite(value) for entry in logs[2:] for value in entry.values())
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_nan_in_an_accumulated_batch_skips_the_whole_step(tiny_model_dir, tmp_path):
    """Half of an accumulated gradient is another batch; the good half must not be applied alone."""
    trainer = build(
        tmp_path,
        tiny_model_dir,
        given={"peft_config": lora(), "teacher_model": spoiled_teacher(tiny_model_dir, 1)},
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
        nonfinite_loss="skip",
        **{**OFF, "distillation_weight": 1.0},
    )
    before = trained(trainer)
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trained(trainer).items())


def test_a_skipped_step_leaves_the_log_of_its_window(tiny_model_dir, tmp_path):
    """One skipped batch would leave NaN in every term's mean over the window, as if the whole run had broken."""
    given = {"peft_config": lora(), "teacher_model": spoiled_teacher(tiny_model_dir, 2)}
    changes = {"max_steps": 3, "logging_steps": 3, "nonfinite_loss": "skip", "learning_rate": 0.0}
    trainer = build(tmp_path, tiny_model_dir, given=given, **changes, **{**OFF, "distillation_weight": 1.0})
    good = [row for number, row in enumerate(rows()) if number // 4 != 1]
    trainer.train()
    assert trainer._guard.skipped == 1
    # At a learning rate of 0 the steps that count are both of the first four rows.
    alone = build(
        tmp_path / "alone",
        tiny_model_dir,
        Dataset.from_list(good),
        given={"peft_config": lora(), "teacher_model": load(tiny_model_dir)},
        **{**changes, "max_steps": 1, "logging_steps": 1},
        **{**OFF, "distillation_weight": 1.0},
    )
    alone.train()
    for name in ("distillation_loss", "teacher_entropy", "acceptance"):
        found, expected = (run.state.log_history[0][name] for run in (trainer, alone))
        assert found == pytest.approx(expected, rel=1e-5)


REJECTED = {**ON, "contrastive_rejected": True}


def test_rejected_answers_need_their_columns(tiny_model_dir, tmp_path):
    """Without the column there would be no hard negatives, and no word of it."""
    with pytest.raises(ValueError, match=r"contrastive_rejected: the train_dataset dataset has no column 'rejected'"):
        build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **REJECTED)
    data = Dataset.from_list([{**row, "rejected": "no"} for row in rows()])
    with pytest.raises(ValueError, match=r"the eval_dataset dataset has no column 'rejected'.*Add or rename"):
        given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows())}
        build(tmp_path, tiny_model_dir, data, given=given, **REJECTED)


def test_rejected_answers_cannot_stream(tiny_model_dir, tmp_path):
    """Two streams cannot be joined by row once truncation drops rows from either."""
    data = Dataset.from_list([{**row, "rejected": "no"} for row in rows()]).to_iterable_dataset()
    with pytest.raises(
        ValueError, match=r"contrastive_rejected: the train_dataset is a streaming dataset.*Load it in full"
    ):
        build(tmp_path, tiny_model_dir, data, given={"peft_config": lora()}, **REJECTED)


@pytest.mark.parametrize(("processes", "fields"), [(2, {}), (1, {"noisy_view_recompute": True})], ids=str)
def test_reentrant_checkpointing_with_a_second_pass_is_refused(
    processes, fields, tiny_model_dir, tmp_path, monkeypatch
):
    """It corrupts DDP's gradients when two passes share the weights, without an exception."""
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", processes)
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    given = {"peft_config": lora()}
    with pytest.raises(ValueError, match=r"use_reentrant=True.*corrupts.*'use_reentrant': False"):
        build(tmp_path, tiny_model_dir, given=given, **reentrant, **fields, **ON)
    build(tmp_path, tiny_model_dir, given=given, **reentrant, **{**ON, "consistency_weight": 0.0})
    if not fields:
        build(tmp_path, tiny_model_dir, given=given, **reentrant, noisy_view_batched=True, **ON)


@pytest.mark.parametrize("options", [{"use_reentrant": True}, {"preserve_rng_state": False}], ids=str)
def test_reentrant_is_what_torch_takes_it_for(options, tiny_model_dir, tmp_path):
    """A dict that leaves use_reentrant out means True to torch, and would slip past a look for the word."""
    fields = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options, "noisy_view_recompute": True}
    with pytest.raises(ValueError, match=r"use_reentrant=True"):
        build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **fields, **ON)


NOT_REENTRANT = [
    None,
    {"use_reentrant": False, "preserve_rng_state": False},
    {"every_n_layers": 2},
    {"offload": True},
    {"every_n_layers": 2, "offload": False},
    {"selective": True},
    {"selective": True, "every_n_layers": 2, "preserve_rng_state": False},
    {"selective": False},
    {"selective": False, "use_reentrant": False, "every_n_layers": 1},
]


@pytest.mark.parametrize("options", NOT_REENTRANT, ids=str)
def test_checkpointing_that_is_not_reentrant_is_let_through(options, tiny_model_dir, tmp_path):
    """Keys that never reach torch were taken for options that leave `use_reentrant` out, and the run was refused."""
    fields = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options, "noisy_view_recompute": True}
    build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **fields, **ON)
    if (options or {}).get("offload"):
        return  # its pinned memory needs an accelerator
    # Without an adapter: trl 1.16 does not reach torch with `selective` through one.
    trainer = run(build(tmp_path, tiny_model_dir, **fields, **{**OFF, "consistency_weight": 0.5}))
    # What torch was told, read off the layers after the training has switched it on.
    told = [module._gradient_checkpointing_func.keywords for module in trainer._causal_lm.model.layers]
    assert {keywords["use_reentrant"] for keywords in told} == {False}


def test_checkpointing_that_was_switched_on_at_the_model_counts(tiny_model_dir, tmp_path):
    """Refused by the arguments' options alone, the same corruption would go through by another door."""
    for reentrant in (False, True):
        model = load(tiny_model_dir)
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        given = {"peft_config": lora()}
        if reentrant:
            with pytest.raises(ValueError, match=r"use_reentrant=True"):
                build(tmp_path, model, given=given, noisy_view_recompute=True, **ON)
        else:
            run(build(tmp_path, model, given=given, noisy_view_recompute=True, **ON))


def test_one_batch_of_both_views_is_refused_where_rows_are_packed(tiny_model_dir, tmp_path):
    """Positions that start anew mark the texts of a padding-free row; stacked rows would be read as one text each."""
    fields = {"padding_free": True, "noisy_view_batched": True, "max_length": None}
    with pytest.raises(ValueError, match=r"noisy_view_batched=True: a padding-free batch.*padding_free=False"):
        build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **fields, **ON)


def test_one_batch_of_both_views_is_refused_for_experts(tmp_path):
    """The router's load would be balanced over noisy tokens as well, and the auxiliary loss be another number."""
    mixtral = save_tiny_mixtral(tmp_path / "mixtral")
    with pytest.raises(ValueError, match=r"noisy_view_batched=True: the auxiliary loss.*router_aux_loss_coef=0"):
        build(tmp_path, mixtral, given={"peft_config": lora(target_modules=["q_proj"])}, noisy_view_batched=True, **ON)


def test_recomputing_is_refused_where_layers_are_spread(tiny_model_dir, tmp_path):
    """Random states are restored on the inputs' device alone: dropout elsewhere would be another one the second time."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, noisy_view_recompute=True, **ON)
    trainer._causal_lm.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with pytest.raises(ValueError, match=r"noisy_view_recompute=True: with layers on several devices"):
        trainer._build_noisy_view()
