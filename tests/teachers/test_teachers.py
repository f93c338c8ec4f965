# SPDX-License-Identifier: Apache-2.0
"""Teachers: whose distributions they give, and that nothing but the student moves."""

import logging

import pytest
import torch
from accelerate import PartialState
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from hf_ckt.models.batch import Batch
from hf_ckt.teachers.base import TeacherSetup
from hf_ckt.teachers.model import ModelTeacher
from tests import tiny_models
from tests.runs import OFF
from tests.teachers.signals import DISTIL, batch_of, dense, logits_of
from tests.trainers import ON, build, first_batch, load, lora, run, save_tiny_mixtral, steps


def test_a_fresh_adapter_agrees_with_its_own_base(tiny_model_dir, tmp_path):
    """With B = 0 the student is its base: anything but 0 at the first step is a wrong teacher or a wrong position."""
    given = {"peft_config": LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.3)}
    weights = {**ON, "regularization_loss": "reference_kl", "perturbation_severity": 0.0}
    first = steps(run(build(tmp_path, tiny_model_dir, given=given, **weights)))[0]
    for name in ("distillation_loss", "regularization_loss", "consistency_loss"):
        assert first[name] == pytest.approx(0, abs=1e-6), name
    assert first["acceptance"] == pytest.approx(1, abs=1e-6) and first["teacher_agreement"] == 1
    assert first["teacher_entropy"] == pytest.approx(first["entropy"], rel=1e-6)


def test_dropout_and_neftune_act_on_the_student_alone(tmp_path):
    """A noisy teacher teaches noise, and the KL of two noisy passes is no longer 0 at equality."""
    folder = tiny_models.save_tiny_llama(tmp_path / "model", attention_dropout=0.5)
    given = {"peft_config": LoraConfig(target_modules="all-linear", r=4)}
    trainer = build(tmp_path, folder, given=given, neftune_noise_alpha=20.0, **DISTIL)
    seen = []
    inner = trainer._extra_passes.teacher.signal
    trainer._extra_passes.teacher.signal = lambda batch, model: (
        seen.append((batch, inner(batch, model))) or seen[-1][1]
    )
    run(trainer)
    base = load(folder)
    assert len(seen) == 2
    for batch, signal in seen:
        torch.testing.assert_close(logits_of(signal), dense(base, batch), rtol=1e-5, atol=1e-5)
    assert steps(trainer)[0]["distillation_loss"] > 1e-2  # the student did have its noise


def check_metrics(trainer, teacher_logits, student_logits):
    """Compares the first logged step with full distributions."""
    log_p, log_q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    log = steps(trainer)[0]
    divergence = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    assert log["distillation_loss"] == pytest.approx(divergence.item(), rel=1e-5)
    assert log["acceptance"] == pytest.approx(log_p.exp().minimum(log_q.exp()).sum(-1).mean().item(), rel=1e-5)
    agreement = (log_p.argmax(-1) == log_q.argmax(-1)).float().mean().item()
    assert log["teacher_agreement"] == pytest.approx(agreement, abs=1e-6)


@pytest.mark.parametrize("hidden_size", [32, 64])
def test_full_fine_tuning_learns_from_a_teacher_of_any_width(hidden_size, tiny_model_dir, tmp_path):
    """The metrics and the loss must be those of the two models' whole distributions."""
    teacher = tiny_models.save_tiny_llama(tmp_path / "other", seed=7, hidden_size=hidden_size)
    trainer = build(
        tmp_path, tiny_model_dir, given={"teacher_model": str(teacher)}, **{**ON, "regularization_weight": 0}
    )
    batch = batch_of(trainer)
    expected = dense(load(teacher), batch), dense(load(tiny_model_dir), batch)
    run(trainer)
    check_metrics(trainer, *expected)
    assert trainer.teacher_name == str(teacher)
    assert steps(trainer)[1]["contrastive_loss"] > 0


def test_a_padded_teacher_head_is_compared_over_the_shared_ids(tiny_model_dir, tmp_path):
    """The surplus rows of a padded head hold probability that the student can never give."""
    vocab = load(tiny_model_dir).config.vocab_size
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7, vocab_size=vocab + 24)
    trainer = build(tmp_path, tiny_model_dir, given={"teacher_model": str(folder)}, **DISTIL)
    batch = batch_of(trainer)
    expected = dense(load(folder), batch)[:, :vocab], dense(load(tiny_model_dir), batch)
    run(trainer)
    check_metrics(trainer, *expected)


def test_a_padded_student_head_is_compared_over_the_shared_ids(tiny_model_dir, tmp_path):
    """The same the other way round."""
    vocab = load(tiny_model_dir).config.vocab_size
    folder = tiny_models.save_tiny_llama(tmp_path / "student", seed=7, vocab_size=vocab + 24)
    trainer = build(tmp_path, folder, given={"teacher_model": str(tiny_model_dir)}, **DISTIL)
    batch = batch_of(trainer)
    expected = dense(load(tiny_model_dir), batch), dense(load(folder), batch)[:, :vocab]
    run(trainer)
    check_metrics(trainer, *expected)


def test_perturbation_and_neftune_do_not_reach_the_teacher(tiny_model_dir, tmp_path):
    """Hooks are registered on the student's embeddings; a teacher that shared them would read noise."""
    given = {"teacher_model": load(tiny_model_dir), "peft_config": lora()}
    trainer = build(tmp_path, tiny_model_dir, given=given, neftune_noise_alpha=20.0, **ON)
    seen = []
    embeddings = trainer._extra_passes.teacher.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    run(trainer)
    assert [len(ids) for ids, _ in seen] == [1, 1, 4, 4]  # its head compared with its logits, then one pass a step
    assert all(torch.equal(output, embeddings.weight[ids]) for ids, output in seen)


def renamed_tokenizer():
    """The tiny tokenizer with two of its ids swapped."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = tiny_models.build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    by_id = {index: token for token, index in vocab.items()}
    vocab[by_id[10]], vocab[by_id[11]] = 11, 10
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state))), by_id


@pytest.mark.parametrize("given_as", ["folder", "processing_class"])
def test_another_tokenizer_is_refused_before_weights_are_loaded(given_as, tiny_model_dir, tmp_path, monkeypatch):
    """Distributions compared id by id would teach noise, and a large teacher takes minutes to load."""
    tokenizer, by_id = renamed_tokenizer()
    folder = tiny_models.save_tiny_llama(tmp_path / "other")
    given = {"teacher_model": str(folder), "peft_config": lora()}
    if given_as == "folder":
        tokenizer.save_pretrained(folder)
    else:
        given["teacher_processing_class"] = tokenizer
    monkeypatch.setattr("hf_ckt.teachers.model.create_model_from_path", lambda *a, **k: pytest.fail("weights loaded"))
    with pytest.raises(ValueError) as error:
        build(tmp_path, tiny_model_dir, given=given, **DISTIL)
    message = str(error.value)
    assert message.startswith("teacher_model: its tokenizer is not the student's (2 ids differ")
    assert f"10: {by_id[10]!r} / {by_id[11]!r}" in message and "Use a teacher with the same tokenizer" in message


def test_a_teacher_without_a_tokenizer_is_taken_with_a_warning(tiny_model_dir, tmp_path, caplog):
    """It cannot be compared, which must be said."""
    teacher = load(tiny_model_dir)
    teacher.config._name_or_path = str(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        build(tmp_path, tiny_model_dir, given={"teacher_model": teacher, "peft_config": lora()}, **DISTIL)
    assert "no tokenizer found" in caplog.text and "teacher_processing_class" in caplog.text


@pytest.mark.parametrize("case", ["same", "its base", "in an adapter"])
def test_a_teacher_that_shares_the_students_weights_is_refused(case, tiny_model_dir, tmp_path):
    """It would be frozen together with the student, or drift with it: either way nothing is learnt."""
    model = load(tiny_model_dir)
    student = model if case == "same" else get_peft_model(model, lora())
    teacher = {"same": student, "its base": model, "in an adapter": student.base_model}[case]
    flags = [p.requires_grad for p in student.parameters()]
    with pytest.raises(ValueError, match=r"teacher_model: .*student.*teacher_model=None.*second copy"):
        build(tmp_path, student, given={"teacher_model": teacher}, **DISTIL)
    assert [p.requires_grad for p in student.parameters()] == flags


def test_a_teacher_with_prompt_learning_is_refused(tiny_model_dir, tmp_path):
    """Its virtual tokens would shift every position."""
    teacher = get_peft_model(load(tiny_model_dir), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match=r"teacher_model: .*virtual tokens.*LoRA, or a plain model"):
        build(tmp_path, tiny_model_dir, given={"teacher_model": teacher, "peft_config": lora()}, **DISTIL)


def test_a_teacher_that_no_term_needs_is_not_loaded(tiny_model_dir, tmp_path, monkeypatch):
    """A forgotten weight of 0 would keep a second model in memory."""
    monkeypatch.setattr("hf_ckt.teachers.model.create_model_from_path", lambda *a, **k: pytest.fail("loaded"))
    given = {"teacher_model": str(tiny_model_dir)}
    assert build(tmp_path, tiny_model_dir, given=given, **OFF).objective is None
    trainer = build(tmp_path, tiny_model_dir, given=given, **{**OFF, "consistency_weight": 1.0})
    assert trainer._extra_passes.teacher is None


PASSES = {
    "task": ({"task_weight": 2.0}, 1),
    "consistency": ({"consistency_weight": 1.0}, 2),
    "distillation": ({"distillation_weight": 1.0}, 2),
    "reference_kl": ({"regularization_weight": 1.0, "regularization_loss": "reference_kl"}, 2),
    "shared": ({**ON, "regularization_loss": "reference_kl"}, 3),
    "robust": ({**ON, "consistency_target": "teacher"}, 3),
}


@pytest.mark.parametrize("name", list(PASSES))
def test_every_view_is_computed_once(name, tiny_model_dir, tmp_path):
    """A second pass for the same view costs a third of the step and, with dropout, gives another answer."""
    weights, expected = PASSES[name]
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **{**OFF, **weights})
    trainer.compute_loss(trainer.model.train(), first_batch(trainer))  # the first compares heads with logits too
    calls = []
    trainer._causal_lm.model.register_forward_hook(lambda *a: calls.append(None))
    trainer.compute_loss(trainer.model, first_batch(trainer))
    assert len(calls) == expected


def test_a_reference_beside_a_model_teacher_is_the_students_own_base(tiny_model_dir, tmp_path):
    """reference_kl with the teacher's distribution would be distillation twice."""
    teacher = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    weights = {**OFF, "distillation_weight": 1.0, "regularization_weight": 1.0, "regularization_loss": "reference_kl"}
    given = {"teacher_model": str(teacher), "peft_config": LoraConfig(target_modules="all-linear", r=4)}
    first = steps(run(build(tmp_path, tiny_model_dir, given=given, **weights)))[0]
    assert first["regularization_loss"] == pytest.approx(0, abs=1e-6) and first["distillation_loss"] > 0.1


def test_init_kwargs_reach_the_teacher_alone(tiny_model_dir, tmp_path):
    """A teacher in another dtype than the student's is the usual way to fit it into memory."""
    given = {"teacher_model": str(tiny_model_dir), "peft_config": lora()}
    trainer = build(tmp_path, tiny_model_dir, given=given, teacher_model_init_kwargs={"dtype": "bfloat16"}, **DISTIL)
    assert trainer._extra_passes.teacher.model.dtype == torch.bfloat16 and trainer._causal_lm.dtype == torch.float32
    first = steps(run(trainer))[0]
    assert 0 < first["distillation_loss"] < 10


def test_settings_for_loading_are_said_to_be_ignored_for_a_loaded_teacher(tiny_model_dir, tmp_path, caplog):
    """A teacher believed to be in 4 bits, and not."""
    given = {
        "teacher_model": load(tiny_model_dir),
        "teacher_quantization_config": BitsAndBytesConfig(load_in_4bit=True),
        "peft_config": lora(),
    }
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        build(tmp_path, tiny_model_dir, given=given, **DISTIL)
    assert "teacher_quantization_config: ignored" in caplog.text


def test_every_process_loads_the_whole_teacher_onto_its_own_device(tiny_model_dir, tmp_path, monkeypatch):
    """trl spreads a model over all GPUs by default: each of several processes would use every GPU."""
    seen = {}

    def record(name, **kwargs):
        seen.update(kwargs)
        return LlamaForCausalLM.from_pretrained(name)

    monkeypatch.setattr("hf_ckt.teachers.model.create_model_from_path", record)
    setup = TeacherSetup(tiny_models.build_tokenizer())
    ModelTeacher.load(str(tiny_model_dir), setup)
    assert "device_map" not in seen
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    ModelTeacher.load(str(tiny_model_dir), setup)
    assert seen["device_map"] is None
    ModelTeacher.load(str(tiny_model_dir), setup, init_kwargs={"device_map": "cpu"})
    assert seen["device_map"] == "cpu"


def test_a_dense_teacher_serves_a_mixture_of_experts(tiny_model_dir, tmp_path):
    """The student's request for router logits is none of the teacher's business."""
    given = {"teacher_model": str(tiny_model_dir)}
    trainer = build(tmp_path, save_tiny_mixtral(tmp_path / "moe"), given=given, **DISTIL)
    batch = batch_of(trainer)
    expected = dense(load(tiny_model_dir), batch)
    found = trainer._extra_passes.teacher.signal(
        Batch({**batch.inputs, "output_router_logits": True}, batch.labels), trainer._causal_lm
    )
    torch.testing.assert_close(logits_of(found), expected, rtol=1e-5, atol=1e-5)
    assert steps(run(trainer))[0]["aux_loss"] > 0


def test_a_mixture_of_experts_teaches_a_dense_student(tiny_model_dir, tmp_path):
    """The other way round: the teacher's router loss must not enter."""
    given = {"teacher_model": str(save_tiny_mixtral(tmp_path / "moe"))}
    first = steps(run(build(tmp_path, tiny_model_dir, given=given, **DISTIL)))[0]
    assert "aux_loss" not in first and first["distillation_loss"] > 0
