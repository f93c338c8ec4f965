# SPDX-License-Identifier: Apache-2.0
"""Training with the terms on: every dataset type and setting, and what is logged of it."""

import math
import sys

import pytest
import torch
from datasets import Dataset
from peft import IA3Config
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.discovery import part_names
from hf_ckt.models.batch import Batch
from hf_ckt.perturbations.gaussian import GaussianPerturbation
from tests.runs import OFF, rows
from tests.trainers import (
    ON,
    TASK_ONLY,
    build,
    build_sft,
    first_batch,
    gradients,
    history,
    load,
    lora,
    run,
    save_tiny_mixtral,
    steps,
    trained,
)

TERMS = ["task_loss", "distillation_loss", "contrastive_loss", "consistency_loss", "regularization_loss"]
TEACHER_METRICS = ["teacher_agreement", "acceptance", "teacher_entropy"]


def chat(count=8):
    return [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in rows(count)
    ]


def chat_pairs(count=8):
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows(count)
    ]


def ids(count=8, **columns):
    data = [{"input_ids": list(range(5, 20 + i))} for i in range(count)]
    for row in data:
        if columns:
            row["labels"] = [-100] * 4 + row["input_ids"][4:]
    return data


TEXT = [{"text": row["prompt"] + row["completion"]} for row in rows()]
KINDS = {
    "text": (TEXT, {}),
    "prompt_completion": (rows(), {}),
    "whole_prompt_completion": (rows(), {"completion_only_loss": False}),
    "conversational": (chat(), {}),
    "conversational_pairs": (chat_pairs(), {}),
    "assistant_only": (chat(), {"assistant_only_loss": True}),
    "tokenized": (ids(), {}),
    "tokenized_with_labels": (ids(labels=True), {}),
    "truncated": (TEXT, {"max_length": 16}),
    "keep_end": (rows(), {"max_length": 16, "truncation_mode": "keep_end"}),
    "bfd": (TEXT, {"packing": True, "max_length": 64}),
    "bfd_split": (TEXT, {"packing": True, "packing_strategy": "bfd_split", "max_length": 48}),
    "wrapped": (TEXT, {"packing": True, "packing_strategy": "wrapped", "max_length": 64}),
    "padding_free": (rows(), {"padding_free": True, "max_length": None}),
    "multiple_of": (rows(), {"pad_to_multiple_of": 32}),
    "padding_free_multiple_of": (rows(), {"padding_free": True, "max_length": None, "pad_to_multiple_of": 32}),
    "shuffled": (rows(), {"shuffle_dataset": True}),
    "accumulation": (rows(), {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "checkpointing": (rows(), {"gradient_checkpointing": True}),
    "reentrant": (rows(), {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    "eager": (
        rows(),
        {"padding_free": True, "max_length": None, "model_init_kwargs": {"attn_implementation": "eager"}},
    ),
    "schedules": (rows(), {"distillation_schedule": "warmup", "task_schedule": "cosine", "max_steps": 4}),
    "sequences": (rows(), {"contrastive_level": "sequence"}),
    "packed_sequences": (TEXT, {"contrastive_level": "sequence", "packing": True, "max_length": 64}),
    "queue": (rows(), {"contrastive_queue_size": 50}),
    "robust": (rows(), {"consistency_target": "teacher", "perturbation": "uniform"}),
    "neftune": (rows(), {"neftune_noise_alpha": 5.0}),
    "bf16": (rows(), {"bf16": True}),
    "bf16_weights": (rows(), {"model_init_kwargs": {"dtype": "bfloat16"}}),
}


def check_trained(trainer, terms=TERMS):
    """Every step logged finite values of all terms under their names, and the weights moved."""
    logs = steps(trainer)
    assert len(logs) == trainer.state.max_steps
    for entry in logs:
        assert {name for name in entry if name.endswith("_loss")} - {"aux_loss"} == set(terms)
        assert all(math.isfinite(value) for value in entry.values())
        assert entry["grad_norm"] > 0
    weights = {
        term.removesuffix("_loss"): trainer.objective.terms[term.removesuffix("_loss")].schedule for term in terms
    }
    if trainer.args.gradient_accumulation_steps == 1 and not trainer.aux_loss_enabled:
        for step, entry in enumerate(logs):
            total = sum(weights[role].at(step / len(logs)) * entry[f"{role}_loss"] for role in weights)
            assert entry["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_dataset_and_setting_trains_with_all_terms(kind, tiny_model_dir, tmp_path):
    """A dataset type that SFTTrainer takes and this trainer does not would show only on a user's machine."""
    data, changes = KINDS[kind]
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(data), given={"peft_config": lora()}, **ON, **changes)
    before = trained(trainer)
    check_trained(run(trainer))
    assert any(not torch.equal(value, before[name]) for name, value in trained(trainer).items())
    # The same tokens are trained on as SFTTrainer would.
    expected = first_batch(build_sft(tmp_path, tiny_model_dir, Dataset.from_list(data), **changes_of_sft(changes)))
    found = first_batch(trainer)
    assert found.keys() == expected.keys()
    assert torch.equal(found["labels"], expected["labels"])


def changes_of_sft(changes):
    ours = ("contrastive", "consistency", "perturbation", "distillation", "task")
    return {name: value for name, value in changes.items() if not name.startswith(ours)}


def test_streaming_trains_with_all_terms(tiny_model_dir, tmp_path):
    """A stream has no length and no columns until it is read."""
    stream = Dataset.from_list(rows()).to_iterable_dataset()
    check_trained(run(build(tmp_path, tiny_model_dir, stream, given={"peft_config": lora()}, **ON, max_steps=3)))


def test_a_formatting_function_trains_with_all_terms(tiny_model_dir, tmp_path):
    """It replaces the columns that the options are checked against."""
    given = {"peft_config": lora(), "formatting_func": lambda row: row["question"] + row["answer"]}
    data = Dataset.from_list([{"question": row["prompt"], "answer": row["completion"]} for row in rows()])
    check_trained(run(build(tmp_path, tiny_model_dir, data, given=given, **ON)))


ADAPTERS = {
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "ia3": lambda: IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
    "head": lambda: lora(modules_to_save=["lm_head"], exclude_modules=["lm_head"]),
    "embeddings": lambda: lora(modules_to_save=["embed_tokens"]),
    "dropout": lambda: lora(lora_dropout=0.2),
    "tokens": lambda: lora(trainable_token_indices=list(range(3, 99))),
}


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_every_adapter_trains_with_all_terms(name, tiny_model_dir, tmp_path):
    """Each kind of adapter is switched off, counted and trained in its own way."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": ADAPTERS[name]()}, **ON)
    before = trained(trainer)
    check_trained(run(trainer))
    still = [n for n, value in trained(trainer).items() if torch.equal(value, before[n])]
    assert not still


@pytest.mark.parametrize("peft", [False, True])
def test_a_capped_and_tied_head_trains_with_all_terms(peft, tiny_gemma2_dir, tmp_path):
    """Gemma 2 bends its logits and shares its head with the embeddings."""
    given = {"peft_config": lora()} if peft else {"teacher_model": str(tiny_gemma2_dir)}
    weights = ON if peft else {**ON, "regularization_weight": 0.0}
    trainer = build(tmp_path, tiny_gemma2_dir, given=given, **weights)
    check_trained(run(trainer), [term for term in TERMS if peft or term != "regularization_loss"])


def dense_views(trainer, batch, folder):
    """Log-probabilities of the student, its noisy view and its base at the kept positions, from whole models."""
    trainer.model.eval()
    model, base = trainer.model, load(folder).eval()
    noise = GaussianPerturbation().noise(
        batch.inputs["input_ids"],
        batch.documents,
        model.config.hidden_size,
        (trainer.args.seed << 32) + trainer.state.global_step,
    )
    embeddings = trainer._causal_lm.get_input_embeddings()(batch.inputs["input_ids"])
    mask = batch.inputs["attention_mask"]
    with torch.no_grad():
        views = {
            "student": model(input_ids=batch.inputs["input_ids"], attention_mask=mask).logits,
            "noisy": model(inputs_embeds=embeddings + noise, attention_mask=mask).logits,
            "teacher": base(input_ids=batch.inputs["input_ids"], attention_mask=mask).logits,
        }
    return {name: batch.keep(logits) for name, logits in views.items()}


def expected_sums(views, labels):
    """Sums over tokens of what is logged, from full distributions."""
    q, noisy, p = (views[name].log_softmax(-1) for name in ("student", "noisy", "teacher"))
    return {
        "task_loss": -q.gather(1, labels[:, None]).sum(),
        "distillation_loss": (p.exp() * (p - q)).sum(),
        "consistency_loss": (q.exp() * (q - noisy)).sum(),
        "entropy": -(q.exp() * q).sum(),
        "mean_token_accuracy": (q.argmax(-1) == labels).sum(),
        "teacher_entropy": -(p.exp() * p).sum(),
        "teacher_agreement": (q.argmax(-1) == p.argmax(-1)).sum(),
        "acceptance": torch.minimum(p.exp(), q.exp()).sum(),
    }


WEIGHTS = {**OFF, "distillation_weight": 1.0, "consistency_weight": 0.5}


def test_logged_means_are_over_tokens_and_not_over_batches(tiny_model_dir, tmp_path):
    """A mean of the micro-batches' means weighs the tokens of short answers more, and hides what long ones do."""
    trainer = build(
        tmp_path,
        tiny_model_dir,
        given={"peft_config": lora()},
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        logging_steps=2,
        learning_rate=0.0,
        max_steps=4,
        eval_strategy="no",
        **WEIGHTS,
    )
    batches = [Batch(inputs, inputs.pop("labels")) for inputs in map(dict, trainer.get_train_dataloader())]
    run(trainer)
    assert len({batch.kept.numel() for batch in batches}) > 2  # unequal, or the test would show nothing
    # Steps of 3, 3 and 2 batches: the epoch of 8 ends with an uneven step, and the fourth step begins the next one.
    for entry, per_step in zip(steps(trainer), ([(0, 1, 2), (3, 4, 5)], [(6, 7), (0, 1, 2)]), strict=True):
        totals, count, losses = {}, 0, []
        for indices in per_step:
            step = len(losses) + (0 if entry is steps(trainer)[0] else 2)
            trainer.state.global_step = step
            step_sums, step_count = {}, 0
            for batch in (batches[index] for index in indices):
                sums = expected_sums(dense_views(trainer, batch, tiny_model_dir), batch.kept_labels)
                step_sums = {name: step_sums.get(name, 0) + value.item() for name, value in sums.items()}
                step_count += batch.kept.numel()
            weighted = step_sums["task_loss"] + step_sums["distillation_loss"] + 0.5 * step_sums["consistency_loss"]
            losses.append(weighted / step_count)
            totals = {name: totals.get(name, 0) + value for name, value in step_sums.items()}
            count += step_count
        for name, total in totals.items():
            assert entry[name] == pytest.approx(total / count, rel=2e-5), name
        assert entry["loss"] == pytest.approx(sum(losses) / 2, rel=2e-5)
    tokens = [int(batch.inputs["attention_mask"].sum()) for batch in batches]
    assert [entry["num_tokens"] for entry in steps(trainer)] == [sum(tokens[:6]), sum(tokens) + sum(tokens[:3])]


def test_contrastive_and_adapter_terms_are_those_of_full_logits(tiny_model_dir, tmp_path):
    """The Gram matrices and the two small products must give what the definitions give."""
    weights = {**OFF, "contrastive_weight": 1.0, "regularization_weight": 1.0, "learning_rate": 0.0}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora(r=3, lora_alpha=5)}, **weights)
    inputs = dict(first_batch(trainer))
    batch = Batch(inputs, inputs.pop("labels"))
    views = dense_views(trainer, batch, tiny_model_dir)

    def centred(logits):
        logits = logits.double() - logits.double().mean(0)  # over the batch
        return torch.nn.functional.normalize(logits - logits.mean(-1, keepdim=True), dim=-1)  # over the vocabulary

    student, teacher = centred(views["student"]), centred(views["teacher"])
    similar = (teacher @ teacher.t() > 0.95) & ~torch.eye(len(teacher), dtype=torch.bool)
    logits = (student @ teacher.t() / 0.1).masked_fill(similar, -torch.inf)
    contrastive = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))).item()
    adapter = sum(
        (5 / 3 * module.lora_B["default"].weight @ module.lora_A["default"].weight).square().sum().item()
        for module in trainer.model.modules()
        if hasattr(module, "lora_A") and module.lora_A
    )
    first = steps(run(trainer))[0]
    assert first["contrastive_loss"] == pytest.approx(contrastive, rel=1e-4)
    assert first["regularization_loss"] == pytest.approx(adapter, rel=1e-5)


NAMES = {
    "consistency": ({"consistency_weight": 1.0}, ["consistency_loss"]),
    "distillation": ({"distillation_weight": 1.0}, ["distillation_loss", *TEACHER_METRICS]),
    "contrastive": ({"contrastive_weight": 1.0}, ["contrastive_loss", *TEACHER_METRICS]),
    "robust": ({"consistency_weight": 1.0, "consistency_target": "teacher"}, ["consistency_loss", *TEACHER_METRICS]),
    "adapter_l2": ({"regularization_weight": 1.0}, ["regularization_loss"]),
    "reference_kl": ({"regularization_weight": 1.0, "regularization_loss": "reference_kl"}, ["regularization_loss"]),
    "all": (ON, [*TERMS[1:], *TEACHER_METRICS]),
}


@pytest.mark.parametrize("name", list(NAMES))
def test_logged_names_are_those_of_the_design(name, tiny_model_dir, tmp_path):
    """A dashboard reads names: one that is missing, or there without a teacher, misleads it."""
    weights, expected = NAMES[name]
    changes = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    data = Dataset.from_list(rows(3))
    theirs = history(
        run(build_sft(tmp_path, tiny_model_dir, given={"peft_config": lora(), "eval_dataset": data}, **changes))
    )
    trainer = run(
        build(
            tmp_path,
            tiny_model_dir,
            given={"peft_config": lora(), "eval_dataset": data},
            **changes,
            **{**OFF, **weights},
        )
    )
    ours = history(trainer)
    added = {"task_loss", *expected}
    # What later metrics add is theirs; the names that were there before them stay.
    later = set(part_names("metrics")) - {*TEACHER_METRICS, "entropy", "mean_token_accuracy", "top_overlap"}
    assert ours[0].keys() - later == theirs[0].keys() | added
    assert ours[1].keys() - {f"eval_{name}" for name in later} == theirs[1].keys() | {f"eval_{name}" for name in added}
    for name in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-5), name


def test_evaluation_logs_token_weighted_terms_under_eval_names(tiny_model_dir, tmp_path):
    """The held-out terms are what a study compares; the batches of an evaluation are unequal too."""
    data = Dataset.from_list(rows(6))
    given = {"peft_config": lora(), "eval_dataset": data}
    trainer = build(tmp_path, tiny_model_dir, given=given, learning_rate=0.0, **WEIGHTS)
    batches = [Batch(inputs, inputs.pop("labels")) for inputs in map(dict, trainer.get_eval_dataloader())]
    run(trainer)
    metrics = trainer.evaluate()
    trainer.state.global_step = 0  # the noise of an evaluation does not move with training
    totals, count, losses = {}, 0, []
    for batch in batches:
        sums = expected_sums(dense_views(trainer, batch, tiny_model_dir), batch.kept_labels)
        totals = {name: totals.get(name, 0) + value.item() for name, value in sums.items()}
        count += batch.kept.numel()
        loss = sums["task_loss"] + sums["distillation_loss"] + 0.5 * sums["consistency_loss"]
        losses += [loss.item() / batch.kept.numel()] * len(batch.labels)
    for name, total in totals.items():
        assert metrics[f"eval_{name}"] == pytest.approx(total / count, rel=2e-5), name
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=2e-5)  # Trainer's own mean, by rows
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_evaluation_of_several_datasets_keeps_them_apart(tiny_model_dir, tmp_path):
    """Sums left over from one dataset would leak into the next."""
    data = {"short": Dataset.from_list(rows(2)), "long": Dataset.from_list(rows(8))}
    changes = {**WEIGHTS, "eval_strategy": "steps", "eval_steps": 2}
    trainer = run(build(tmp_path, tiny_model_dir, given={"peft_config": lora(), "eval_dataset": data}, **changes))
    entries = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    assert len(entries) == 2
    for (name, part), entry in zip(data.items(), entries, strict=True):
        alone = trainer.evaluate(part)
        assert entry[f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"], rel=1e-6)
        assert entry["eval_distillation_loss"] == pytest.approx(alone["eval_distillation_loss"], rel=1e-6)
    # And training went on with sums of its own.
    assert "distillation_loss" in steps(trainer)[-1]


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*deprecated.*:FutureWarning")
def test_compute_metrics_gets_the_students_logits(tiny_model_dir, tmp_path):
    """The objective builds no logits, but a metric may want them."""
    got = {}

    def metrics(prediction):
        got["logits"], got["labels"] = map(torch.as_tensor, (prediction.predictions, prediction.label_ids))
        return {"score": 0.5}

    data = Dataset.from_list(rows(4))
    given = {"peft_config": lora(), "eval_dataset": data, "compute_metrics": metrics}
    trainer = build(tmp_path, tiny_model_dir, given=given, **ON)
    assert trainer.evaluate()["eval_score"] == 0.5
    batch = next(iter(trainer.get_eval_dataloader()))
    assert torch.equal(got["labels"], batch["labels"])
    with torch.no_grad():
        expected = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(got["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("packing", [False, True])
def test_mixture_of_experts_keeps_sft_trainers_auxiliary_loss(packing, accumulation, tmp_path):
    """A router without its balancing loss, or with it counted once a micro-batch, collapses onto few experts."""
    folder = save_tiny_mixtral(tmp_path / "moe")
    changes = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    changes |= {"packing": True, "max_length": 64} if packing else {}
    given = {"peft_config": lora(target_modules=["q_proj", "v_proj"])}
    theirs = run(build_sft(tmp_path, folder, given=given, **changes))
    ours = run(build(tmp_path, folder, given=given, **changes, **TASK_ONLY))
    for mine, sft in zip(steps(ours), steps(theirs), strict=True):
        for name in ("loss", "aux_loss", "grad_norm"):
            assert mine[name] == pytest.approx(sft[name], rel=1e-5), name
    check_trained(run(build(tmp_path, folder, given=given, **changes, **ON)))


def test_mixture_of_experts_trains_its_router_in_full_fine_tuning(tmp_path):
    """The auxiliary loss comes from the clean pass alone; with two passes it could be counted twice."""
    folder = save_tiny_mixtral(tmp_path / "moe")
    theirs = gradients(build_sft(tmp_path, folder))
    ours = gradients(build(tmp_path, folder, **{**OFF, "consistency_weight": 1e-12}))
    routers = [name for name in theirs if "gate" in name and "mlp" in name]
    assert routers and theirs.keys() == ours.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_compute_loss_reads_nothing_back_to_the_host(tiny_model_dir, tmp_path, monkeypatch):
    """
    One `.item()` a micro-batch makes the host wait for the device in every step.

    Selecting the kept positions (`nonzero`) is the one known wait; calls that transformers makes are its own.
    """
    trainer = build(
        tmp_path, tiny_model_dir, given={"peft_config": lora()}, contrastive_queue_size=16, max_steps=2, **ON
    )
    # A model's first pass compares its head with its logits, and reads the outcome.
    trainer.compute_loss(trainer.model.train(), first_batch(trainer))
    calls, watching = [], []

    def watched(name):
        inner = getattr(torch.Tensor, name)

        def call(self, *args, **kwargs):
            caller = sys._getframe(1).f_code.co_filename
            if watching and "hf_ckt" in caller and "tests" not in caller:
                calls.append((name, caller, sys._getframe(1).f_lineno))
            return inner(self, *args, **kwargs)

        return call

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))
    inner = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        watching.append(True)
        try:
            return inner(*args, **kwargs)
        finally:
            watching.pop()

    trainer.compute_loss = compute_loss
    run(trainer)
    assert not calls
    watching.append(True)  # the watch itself works: logging does read the sums, once a log
    trainer._sums["train"].add({"task_loss": torch.ones(2)})
    trainer._sums["train"].means(trainer.accelerator, ["task_loss"])
    assert [name for name, *_ in calls] == ["tolist"]


def test_generation_works_after_training(tiny_model_dir, tmp_path):
    """`generate` checks its arguments against the forward's signature, which the trainer has patched."""
    trainer = run(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **ON))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    inputs = tokenizer("How do I", return_tensors="pt", return_token_type_ids=False)
    generated = trainer.model.eval().generate(**inputs, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
    with pytest.raises(ValueError, match="not used by the model"):
        trainer.model.generate(**inputs, max_new_tokens=1, no_such_argument=1)


def test_the_same_run_gives_the_same_weights(tiny_model_dir, tmp_path):
    """A source of randomness outside the seed would make every comparison of runs one of luck."""
    given = {"peft_config": lora(lora_dropout=0.2)}
    outcomes = [trained(run(build(tmp_path, tiny_model_dir, given=given, **ON))) for _ in range(2)]
    assert all(torch.equal(value, outcomes[1][name]) for name, value in outcomes[0].items())


def test_noise_differs_between_steps_and_seeds(tiny_model_dir, tmp_path):
    """The same noise at every step would be learnt by heart."""
    weights = {
        **OFF,
        "consistency_weight": 1.0,
        "learning_rate": 0.0,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
    }
    losses = [
        [
            entry["consistency_loss"]
            for entry in steps(run(build(tmp_path, tiny_model_dir, **weights, data_seed=1, **seed)))
        ]
        for seed in ({"seed": 1}, {"seed": 2})
    ]
    assert len({round(value, 5) for values in losses for value in values}) == 6


def test_a_loaded_model_is_trained_as_one_given_by_name(tiny_model_dir, tmp_path):
    """Both ways of passing the student must give the same objective."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    outcomes = [
        steps(run(build(tmp_path, student, given={"peft_config": lora()}, **ON)))
        for student in (tiny_model_dir, model)
    ]
    assert outcomes[0] == outcomes[1]
