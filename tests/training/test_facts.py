# SPDX-License-Identifier: Apache-2.0
"""Students whose adapters do not train, or compute something once per call of the whole model."""

import logging

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, PolyConfig, XLoraConfig, get_peft_model

from hf_ckt.models.batch import Batch
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import ON, build, build_sft, load, lora, run, steps

# Each alone: the error must not depend on which terms are on.
WEIGHTS = {
    "none": OFF,
    "task": {**OFF, "task_weight": 0.5},
    "recommended": {},
    "distillation": {**OFF, "distillation_weight": 1.0},
    "consistency": {**OFF, "consistency_weight": 1.0},
}


def adapter_for_inference(model_dir, tmp_path):
    get_peft_model(load(model_dir), lora()).save_pretrained(tmp_path / "adapter")
    return PeftModel.from_pretrained(load(model_dir), tmp_path / "adapter")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_adapter_loaded_for_inference_is_named_before_training(weights, tiny_model_dir, tmp_path):
    """It ended in an IndexError of the penalty, or in one of autograd that names neither adapter nor remedy."""
    trainer = build(tmp_path / "out", adapter_for_inference(tiny_model_dir, tmp_path), **WEIGHTS[weights])
    with pytest.raises(ValueError, match=r"none of its parameters is trainable.*is_trainable=True"):
        trainer.train()


def test_a_frozen_model_without_an_adapter_is_named_too(tiny_model_dir, tmp_path):
    """Whoever froze the backbone and forgot the adapter would wait for a gradient."""
    trainer = build(tmp_path, load(tiny_model_dir).requires_grad_(False), **OFF)
    with pytest.raises(ValueError, match=r"none of its parameters is trainable \(all are frozen\)"):
        trainer.train()


def test_an_adapter_loaded_for_inference_can_be_evaluated(tiny_model_dir, tmp_path):
    """SFTTrainer evaluates it, and so do the terms that need nothing trainable."""
    model = adapter_for_inference(tiny_model_dir, tmp_path)
    given = {"eval_dataset": Dataset.from_list(rows())}
    whole = {"per_device_eval_batch_size": 8}  # theirs is a mean over batches
    theirs = build_sft(tmp_path / "sft", model, given=given, **whole).evaluate()
    ours = build(tmp_path / "out", model, given=given, **whole, **{**ON, "regularization_weight": None}).evaluate()
    assert ours["eval_task_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)
    assert ours["eval_distillation_loss"] > 0 and "eval_regularization_loss" not in ours


def test_a_penalty_on_an_adapter_loaded_for_inference_is_refused(tiny_model_dir, tmp_path):
    """A penalty on what does not train is a constant that looks like a loss."""
    model = adapter_for_inference(tiny_model_dir, tmp_path)
    with pytest.raises(ValueError, match=r"regularization_weight=1: adapter_l2 .*is_trainable=True"):
        build(tmp_path / "out", model, **{**OFF, "regularization_weight": 1.0})


def invocation():
    """Tokens that every prompt holds, at places of their own."""
    return tiny_models.build_tokenizer()(" kill")["input_ids"]


def activated(**changes):
    return lora(task_type="CAUSAL_LM", alora_invocation_tokens=invocation(), **changes)


def test_activated_lora_teaches_and_trains_as_a_plain_call_computes_it(tiny_model_dir, tmp_path, caplog):
    """Its offsets are found once per call: a view that is read with those of other prompts is another model's."""
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(tmp_path / "out", tiny_model_dir, given={"peft_config": activated()})
    assert "consistency_weight=0 (activated LoRA" in caplog.text
    assert set(trainer.objective.terms) == {"task", "distillation", "contrastive", "regularization"}
    inputs = dict(next(iter(trainer.get_train_dataloader())))
    batch = Batch(inputs, inputs.pop("labels"))
    with torch.no_grad():
        first_row, base_row = (m.eval()(**batch.inputs).logits[0] for m in (trainer.model, load(tiny_model_dir)))
        student = batch.keep(trainer.model.eval()(**batch.inputs).logits).double().log_softmax(-1)
        with trainer.model.disable_adapter():
            plain = batch.keep(trainer.model(**batch.inputs).logits)
        teacher = batch.keep(load(tiny_model_dir)(**batch.inputs).logits).double().log_softmax(-1)
    assert torch.allclose(plain.double().log_softmax(-1), teacher) and not torch.allclose(student, teacher, atol=0.1)
    # Before the place where the adapter begins, the student is its base.
    same = [torch.allclose(*pair, atol=1e-5) for pair in zip(first_row, base_row, strict=True)]
    assert any(same) and not all(same)
    first = steps(run(trainer))[0]
    expected = (teacher.exp() * (teacher - student)).sum(-1).mean().item()
    assert first["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    label = -student.gather(1, batch.kept_labels[:, None]).mean().item()
    assert first["task_loss"] == pytest.approx(label, rel=1e-4)


VIEWS = {
    "two_passes": {},
    "batched": {"noisy_view_batched": True},
    "some_rows": {"consistency_fraction": 0.5},
    "tokens": {"perturbation": "token_replacement"},
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_noisy_view_of_activated_lora_is_refused_by_name(view, tiny_model_dir, tmp_path):
    """The noisy prompts were read with the clean ones' offsets, and a doubled batch ended in an IndexError."""
    with pytest.raises(
        ValueError, match=r"consistency_weight=1: activated LoRA \(alora_invocation_tokens\).*use LoRA"
    ):
        build(
            tmp_path,
            tiny_model_dir,
            given={"peft_config": activated()},
            **{**OFF, "consistency_weight": 1.0},
            **VIEWS[view],
        )


def test_checkpointed_activated_lora_has_the_same_gradient(tiny_model_dir, tmp_path):
    """PEFT hands the offsets to a checkpointed layer's second run once: a further pass would get none, in silence."""
    ends = []
    for checkpointing in (False, True):
        trainer = build(
            tmp_path / str(checkpointing),
            tiny_model_dir,
            given={"peft_config": activated(init_lora_weights=True)},
            gradient_checkpointing=checkpointing,
            max_steps=3,
        )
        ends.append(steps(run(trainer)))
    for plain, checkpointed in zip(*ends, strict=True):
        assert checkpointed["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert checkpointed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)


class WithNames:
    """A collator that chooses an adapter for each row, as PEFT's mixed batches do."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, examples):
        return {**self.inner(examples), "adapter_names": ["default", "__base__"] * (len(examples) // 2)}


def test_adapters_chosen_by_row_are_refused(tiny_model_dir, tmp_path):
    """The choice holds for the rows of the outer call; a view with other rows is read with others' adapters."""
    given = {"peft_config": lora(task_type="CAUSAL_LM"), "eval_dataset": Dataset.from_list(rows())}
    plain = build(tmp_path / "plain", tiny_model_dir, given=given, **OFF)
    plain.data_collator = WithNames(plain.data_collator)
    assert plain.evaluate()["eval_loss"] > 0  # SFTTrainer can
    trainer = build(tmp_path / "out", tiny_model_dir, given=given, **ON)
    trainer.data_collator = WithNames(trainer.data_collator)
    with pytest.raises(ValueError, match=r"adapter_names: .*Leave it out"):
        trainer.evaluate()


def mixture_of_loras(model_dir, tmp_path):
    """X-LoRA over two adapters."""
    folders = {str(number): str(tmp_path / f"expert{number}") for number in range(2)}
    for folder in folders.values():
        get_peft_model(load(model_dir), lora(task_type="CAUSAL_LM")).save_pretrained(folder)
    base = load(model_dir)
    base.config.use_cache = False
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, xlora_depth=1, adapters=folders)
    return get_peft_model(base, config)


def poly(model_dir, tmp_path):
    return get_peft_model(load(model_dir), PolyConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], n_tasks=2))


BOUND = {"XLORA": mixture_of_loras, "POLY": poly}


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("weights", ["distillation", "consistency", "task"])
def test_adapters_bound_to_the_outer_call_are_refused_by_name(weights, kind, tiny_model_dir, tmp_path):
    """X-LoRA's own pass would run the whole objective, and every view would be routed as the clean prompts are."""
    with pytest.raises(ValueError, match=rf"{kind} adapters compute.*once per call of the whole model.*use LoRA"):
        build(tmp_path / "out", BOUND[kind](tiny_model_dir, tmp_path), **WEIGHTS[weights])


def test_a_teacher_bound_to_the_outer_call_is_refused_by_name(tiny_model_dir, tmp_path):
    """It ended in an AttributeError within X-LoRA."""
    given = {"teacher_model": mixture_of_loras(tiny_model_dir, tmp_path), "peft_config": lora()}
    with pytest.raises(ValueError, match=r"teacher_model: its XLORA adapter.*Use a teacher with LoRA"):
        build(tmp_path / "out", tiny_model_dir, given=given, **{**OFF, "distillation_weight": 1.0})
