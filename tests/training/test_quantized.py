# SPDX-License-Identifier: Apache-2.0
"""Frozen backbones in 4 and 8 bits, trained for real on CPU through bitsandbytes."""

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_ckt.models._upstream import keep_4bit_differentiable
from hf_ckt.models.batch import Batch
from hf_ckt.teachers.self import SelfTeacher
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import ON, build, build_sft, first_batch, gradients, lora, run, steps, trained

BITS = {
    "nf4": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "nf4_double_bf16": lambda: BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ),
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
}
# Of quantized products: bfloat16 adapters and blockwise codes.
CLOSE = {"rtol": 2e-2, "atol": 2e-2}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model 64 wide: bitsandbytes quantizes in blocks of 64."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


def given(bits, **changes):
    return {"quantization_config": BITS[bits](), "peft_config": lora(), **changes}


def batch_of(trainer):
    inputs = dict(first_batch(trainer))
    return Batch(inputs, inputs.pop("labels"))


@pytest.mark.parametrize("bits", list(BITS))
def test_a_quantized_student_trains_with_all_terms(bits, model_dir, tmp_path):
    """A layer whose backward is missing leaves the adapters below it where they were, and says nothing."""
    trainer = build(tmp_path, model_dir, given=given(bits), learning_rate=0.1, **ON)
    assert any("8bit" in type(m).__name__ or "4bit" in type(m).__name__ for m in trainer.model.modules())
    before = trained(trainer)
    run(trainer)
    logs = steps(trainer)
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in logs)
    assert {f"{role}_loss" for role in trainer.objective.terms} <= logs[0].keys()
    still = [name for name, value in trained(trainer).items() if torch.equal(value, before[name])]
    assert not still


@pytest.mark.parametrize("bits", list(BITS))
def test_task_gradients_of_a_quantized_student_are_sft_trainers(bits, model_dir, tmp_path):
    """The objective's own passes must go through the same quantized products."""
    theirs = gradients(build_sft(tmp_path, model_dir, given=given(bits)))
    ours = gradients(build(tmp_path, model_dir, given=given(bits), **{**OFF, "regularization_weight": 1e-12}))
    assert theirs.keys() == ours.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE)


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_self_teacher_on_a_quantized_backbone_is_the_model_without_adapters(bits, model_dir, tmp_path):
    """The one set of quantized weights must give the base's predictions, whatever was adapted on top."""
    trainer = build(tmp_path, model_dir, given=given(bits), **{**OFF, "distillation_weight": 1.0})
    batch = batch_of(trainer)
    hidden, head = SelfTeacher().signal(batch, trainer._causal_lm)
    base = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, quantization_config=BITS[bits]()
    ).eval()
    keep_4bit_differentiable(base)  # the packed kernel of eval mode rounds to bfloat16
    with torch.no_grad():
        expected = batch.keep(base(**batch.inputs).logits).float()
        with trainer.model.eval().disable_adapter():
            switched = batch.keep(trainer.model(**batch.inputs).logits).float()
    found = torch.nn.functional.linear(hidden.to(head.weight.dtype), head.weight).float()
    torch.testing.assert_close(found, switched, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_fresh_adapter_on_nf4_agrees_with_its_base(model_dir, tmp_path):
    """Student and self-teacher share each quantized product; a first distillation loss above 0 is another path."""
    config = LoraConfig(target_modules="all-linear", r=4)
    weights = {**OFF, "distillation_weight": 1.0}
    first = steps(run(build(tmp_path, model_dir, given=given("nf4", peft_config=config), **weights)))[0]
    assert first["distillation_loss"] == pytest.approx(0, abs=1e-4)
    assert first["acceptance"] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_chunk_sizes_agree_on_a_quantized_student(bits, model_dir, tmp_path):
    """Tiles read the head, which stays unquantized; its states must not depend on the tiling."""
    outcomes = [
        steps(run(build(tmp_path, model_dir, given=given(bits), **ON, objective_chunk_size=size)))
        for size in (1, 7, None)
    ]
    for other in outcomes[1:]:
        for mine, first in zip(other, outcomes[0], strict=True):
            assert mine["loss"] == pytest.approx(first["loss"], rel=1e-3)
    first = [outcome[0] for outcome in outcomes]
    assert first[1]["distillation_loss"] == pytest.approx(first[0]["distillation_loss"], rel=1e-5)


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_quantized_teacher_is_loaded_quantized(bits, model_dir, tmp_path):
    """A teacher in full precision under a flag that says 4 bits does not fit where it was meant to."""
    other = tiny_models.save_tiny_llama(tmp_path / "other", hidden_size=64, seed=5)
    trainer = build(
        tmp_path / "out",
        model_dir,
        given={"teacher_model": str(other), "teacher_quantization_config": BITS[bits](), "peft_config": lora()},
        **ON,
    )
    teacher = trainer._extra_passes.teacher.model
    assert getattr(teacher, f"is_loaded_in_{'4bit' if bits == 'nf4' else '8bit'}")
    assert not any("4bit" in type(m).__name__ or "8bit" in type(m).__name__ for m in trainer.model.modules())
    batch = batch_of(trainer)
    before = trainer._extra_passes.teacher.signal(batch, trainer._causal_lm).hidden
    run(trainer)
    # Compared by what it says: bitsandbytes may repack the weights themselves in eval mode.
    assert torch.equal(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm).hidden, before)
    assert not any(p.requires_grad for p in teacher.parameters())
    plain = build(tmp_path / "plain", model_dir, given={"teacher_model": str(other), "peft_config": lora()}, **ON)
    exact = steps(run(plain))[0]["distillation_loss"]
    assert steps(trainer)[0]["distillation_loss"] == pytest.approx(exact, rel=0.2)
    assert steps(trainer)[0]["distillation_loss"] != exact


@pytest.mark.parametrize("bits", [4, 8])
def test_a_mapping_quantizes_the_teacher_beside_a_quantized_student(bits, model_dir, tmp_path):
    """The setting of one model must not reach the other, nor be lost on the way."""
    other = tiny_models.save_tiny_llama(tmp_path / "other", hidden_size=64, seed=5)
    teacher = {"model": str(other), f"load_in_{bits}bit": True}
    student = "int8" if bits == 4 else "nf4"
    trainer = build(tmp_path / "out", model_dir, given=given(student, teacher_model=teacher), **ON)
    read, model = trainer._extra_passes.teacher, trainer.model
    kinds = [{type(m).__name__ for m in one.modules()} for one in (read.model, model.get_base_model())]
    found = [{bits for bits in (4, 8) if any(f"{bits}bit" in name for name in one)} for one in kinds]
    assert found == [{bits}, {12 - bits}]
    assert read.facts()["quantization"] == {4: "nf4", 8: "int8"}[bits]
    # bitsandbytes' own layer over the same weights, in a model that was loaded alone.
    alone = AutoModelForCausalLM.from_pretrained(
        other, dtype=torch.float32, quantization_config=BITS[{4: "nf4", 8: "int8"}[bits]]()
    ).eval()
    batch = batch_of(trainer)
    hidden, head = read.signal(batch, trainer._causal_lm)
    with torch.no_grad():
        expected = batch.keep(alone(**batch.inputs).logits).float()
    found = torch.nn.functional.linear(hidden.to(head.weight.dtype), head.weight).float()
    torch.testing.assert_close(found, expected, **CLOSE)
    assert all(step["distillation_loss"] > 0 for step in steps(run(trainer)))


def test_teachers_of_several_precisions_teach_one_quantized_student(model_dir, tmp_path):
    """Each with its own loading arguments: the second's must not be the first's."""
    other = tiny_models.save_tiny_llama(tmp_path / "other", hidden_size=64, seed=5)
    data = [{**row, "teacher": name} for row, name in zip(rows(), ["base", "four", "eight", "plain"] * 2, strict=True)]
    teachers = {
        "base": None,
        "four": {"model": str(other), "load_in_4bit": True},
        "eight": {"model": str(other), "load_in_8bit": True},
        "plain": {"model": str(other), "init_kwargs": {"dtype": "bfloat16"}},
    }
    weights = {**OFF, "distillation_weight": 1.0}
    config = LoraConfig(target_modules="all-linear", r=4)
    trainer = build(
        tmp_path / "out",
        model_dir,
        Dataset.from_list(data),
        given=given("nf4", teachers=teachers, peft_config=config),
        **weights,
    )
    facts = trainer._extra_passes.teacher.facts()["teachers"]
    assert [one.get("quantization") for one in facts.values()] == [None, "nf4", "int8", None]
    assert [one["kind"] for one in facts.values()] == ["self", "model", "model", "model"]
    # One model in three precisions, and said to be one.
    assert len({facts[name]["unquantized"] for name in ("four", "eight", "plain")}) == 1
    assert trainer._extra_passes.teacher.teachers["plain"].model.dtype == torch.bfloat16
    first = steps(run(trainer))[0]
    assert first["distillation_loss/base"] == pytest.approx(0, abs=1e-4)
    assert all(first[f"distillation_loss/{name}"] > 1e-2 for name in ("four", "eight", "plain"))


def test_a_run_goes_on_with_its_teacher_in_other_bits(model_dir, tmp_path, caplog):
    """Nothing but rounding changes, so the queue stays and a line says it; another teacher in 4 bits is refused."""
    other, third = (tiny_models.save_tiny_llama(tmp_path / f"t{n}", hidden_size=64, seed=n) for n in (5, 6))
    changes = {
        **OFF,
        "contrastive_weight": 0.3,
        "contrastive_queue_size": 12,
        "save_strategy": "steps",
        "save_steps": 1,
    }

    def trainer(teacher):
        return build(tmp_path / "run", model_dir, given={"teacher_model": teacher, "peft_config": lora()}, **changes)

    run(trainer({"model": str(other)}))
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    again = trainer({"model": str(other), "load_in_4bit": True})
    with caplog.at_level("WARNING", logger="hf_ckt"):
        again.train(resume_from_checkpoint=checkpoint)
    said = [message for message in caplog.messages if "resume_from_checkpoint" in message]
    assert len(said) == 1 and "the teacher has the quantization nf4, and the checkpoint's has none" in said[0]
    assert again.state.global_step == 2
    with pytest.raises(ValueError, match="another one by its weights"):
        trainer({"model": str(third), "load_in_4bit": True}).train(resume_from_checkpoint=checkpoint)


def test_an_adapter_is_a_teacher_on_a_quantized_backbone(model_dir, tmp_path):
    """The demo's own setting: a LoRA teacher, loaded by folder, its backbone in NF4 as the student's."""
    first = run(build(tmp_path / "teacher", model_dir, given=given("nf4"), **OFF))
    first.save_model()
    trainer = build(
        tmp_path / "student",
        model_dir,
        given=given(
            "nf4",
            teacher_model=str(tmp_path / "teacher"),
            teacher_quantization_config=BITS["nf4"](),
            peft_config=LoraConfig(target_modules="all-linear", r=2),
        ),
        **ON,
    )
    teacher = trainer._extra_passes.teacher.model
    assert isinstance(teacher, PeftModel) and teacher.is_loaded_in_4bit
    batch = batch_of(trainer)
    hidden, head = trainer._extra_passes.teacher.signal(batch, trainer._causal_lm)
    again = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path / "teacher", dtype=torch.float32, quantization_config=BITS["nf4"]()
    ).eval()
    with torch.no_grad():
        expected = batch.keep(again(**batch.inputs).logits).float()
    found = torch.nn.functional.linear(hidden.to(head.weight), head.weight).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert steps(run(trainer))[0]["distillation_loss"] > 0


@pytest.mark.parametrize("bits", list(BITS))
def test_noise_is_searched_through_a_quantized_backbone(bits, model_dir, tmp_path):
    """A 4-bit layer without a gradient of its input would leave the search at its random start."""
    found = {}
    for name in ("gaussian", "adversarial"):
        changes = {**OFF, "consistency_weight": 1.0, "perturbation": name, "perturbation_alpha": 1.0, "max_steps": 1}
        found[name] = steps(run(build(tmp_path / name, model_dir, given=given(bits), **changes)))[0]
    assert found["adversarial"]["consistency_loss"] > 2 * found["gaussian"]["consistency_loss"] > 0
