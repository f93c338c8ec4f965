# SPDX-License-Identifier: Apache-2.0
"""Another model as the teacher; `make` is what the contracts compare it by."""

import logging
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import get_peft_model

from hf_ckt.models.batch import Batch
from hf_ckt.models.offload import OffloadedWeights
from hf_ckt.teachers.model import ModelTeacher
from tests import tiny_models
from tests.teachers.signals import batch_of, dense, logits_of
from tests.trainers import ON, build, history, load, lora, run, steps


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    return ModelTeacher(load(folder)), lambda batch: dense(load(folder), batch)


def other_model(folder, kind):
    """A teacher in one of the forms that users have, and a plain model with the same outputs."""
    other = tiny_models.save_tiny_llama(folder / "other", seed=7)
    if kind == "name":
        return str(other), load(other)
    if kind == "model":
        return load(other), load(other)
    adapted = get_peft_model(load(other), lora())
    if kind == "peft":
        torch.manual_seed(1)
        return adapted, adapted
    adapted.save_pretrained(folder / "adapter")
    if kind == "adapter_with_tokenizer":
        tiny_models.build_tokenizer().save_pretrained(folder / "adapter")
    return str(folder / "adapter"), adapted


@pytest.mark.parametrize("kind", ["name", "model", "peft", "adapter", "adapter_with_tokenizer"])
def test_model_teacher_is_read_in_every_form_and_never_moves(kind, tiny_model_dir, tmp_path, caplog):
    """A teacher that trains along drifts towards the student, and both agree on nothing."""
    teacher, expected = other_model(tmp_path, kind)
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(
            tmp_path / "out",
            tiny_model_dir,
            given={"teacher_model": teacher, "peft_config": lora()},
            neftune_noise_alpha=20.0,
            **ON,
        )
    assert "no tokenizer found" not in caplog.text  # an adapter's folder has its base's tokenizer
    module = trainer._extra_passes.teacher.model
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = batch_of(trainer)
    want = dense(expected, batch)
    run(trainer)
    torch.testing.assert_close(
        logits_of(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm)), want, rtol=1e-5, atol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert not any(m.training for m in module.modules())
    assert steps(trainer)[0]["teacher_agreement"] < 0.5
    # Nothing but the student is saved or optimised.
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in trainer.model.parameters() if p.requires_grad}


def test_a_head_that_is_whole_only_while_it_is_gathered_is_read_whole(tiny_model_dir, tmp_path, monkeypatch):
    """Under ZeRO-3 a parameter is an empty piece outside of its gathering; the head was handed on after it."""
    teacher, logits = make(tiny_model_dir, tmp_path)
    module = teacher.model.get_output_embeddings()
    whole = module.weight.data.clone()

    def gather(*_):
        module.weight.data = whole.clone()

    def release(*_):
        module.weight.data = torch.empty(0)

    @contextmanager
    def gathered(weight, bias):
        gather()
        yield
        release()

    # As deepspeed does it around a module's own pass, and in its context for all else.
    module.register_forward_pre_hook(gather)
    module.register_forward_hook(release)
    monkeypatch.setattr("hf_ckt.models._upstream.maybe_gather_lm_head_ctx", gathered)
    release()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    signal = teacher.signal(batch, load(tiny_model_dir))
    assert module.weight.numel() == 0
    torch.testing.assert_close(signal.head.logits(signal.hidden), logits(batch))


@pytest.mark.parametrize("name", ["./nowhere", "org/nowhere"])
def test_missing_teacher_is_named(name, tiny_model_dir, tmp_path):
    """The library's words name no option and, without network, no model: the student would be looked at for it."""
    with pytest.raises(OSError, match=f"teacher_model: '{name}' cannot be loaded"):
        build(tmp_path / "out", tiny_model_dir, given={"teacher_model": name, "peft_config": lora()})


def test_a_teacher_stays_on_its_device_and_its_states_come_back(tiny_model_dir, tmp_path):
    """`cpu:0` is another device by name: inputs that are not sent would, on a GPU, be an error of the first product."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    given = {"peft_config": lora(), "teacher_model": {"model": str(folder), "device": "cpu:0"}}
    trainer = build(tmp_path / "run", tiny_model_dir, given=given, **ON)
    teacher, batch, read = trainer._extra_passes.teacher, batch_of(trainer), []
    teacher.model.register_forward_pre_hook(lambda module, args, inputs: read.append(inputs), with_kwargs=True)
    signals = [teacher.signal(batch, trainer._causal_lm) for _ in range(2)]
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(read[0][name], batch.inputs[name])
        assert read[0][name].data_ptr() != batch.inputs[name].data_ptr()
    torch.testing.assert_close(logits_of(signals[0]), dense(load(folder), batch), rtol=1e-5, atol=1e-5)
    # The head is brought once and not in every micro-batch.
    heads = [signals[0].head, signals[1].head, teacher.head(trainer._causal_lm)]
    assert len({head.weight.data_ptr() for head in heads}) == 1
    assert steps(run(trainer))[1]["distillation_loss"] > 0


def test_an_offloaded_teacher_trains_as_one_that_is_not(tiny_model_dir, tmp_path):
    """A pass beside the copied weights reads what lies on the CPU; `cpu:0` stands for the accelerator."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    plain = build(
        tmp_path / "a", tiny_model_dir, given={"peft_config": lora(), "teacher_model": {"model": str(folder)}}, **ON
    )
    given = {"peft_config": lora(), "teacher_model": {"model": str(folder), "offload": True}}
    idle = build(tmp_path / "b", tiny_model_dir, given=given, **ON)
    assert not idle._extra_passes.teacher._offloaded.__self__._held  # training on the CPU, there is nothing to move
    offloaded = build(tmp_path / "c", tiny_model_dir, given=given, **ON)
    teacher = offloaded._extra_passes.teacher
    teacher._offloaded = OffloadedWeights(teacher.model, torch.device("cpu:0")).on_device
    home, seen = teacher.model.lm_head.weight.data_ptr(), []
    teacher.model.model.norm.register_forward_hook(lambda *_: seen.append(teacher.model.lm_head.weight.data_ptr()))
    for trainer in (plain, idle, offloaded):
        run(trainer)
    assert history(plain) == history(idle) == history(offloaded)
    assert home not in seen and teacher.model.lm_head.weight.data_ptr() == home and len(seen) >= 2


def hub_cache(name, **seeds):
    """Puts a model into the Hub's cache as its client would, a commit and a reference for each seed."""
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    for number, (reference, content) in enumerate(seeds.items(), start=1):
        commit = f"{number:040x}"
        content(cache / "snapshots" / commit)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / reference).write_text(commit)
    return name


def saved(seed):
    return lambda folder: tiny_models.save_tiny_llama(folder, seed=seed)


@pytest.mark.parametrize("at", [None, "v1", f"{2:040x}"])
def test_a_revision_pins_weights_and_tokenizer_and_is_noted(at, tiny_model_dir, tmp_path):
    """A teacher that moves on the Hub makes another run of the same file; the commit says which it was."""
    name = hub_cache("org/pinned", main=saved(1), v1=saved(2))
    teacher = {"model": name} if at is None else {"model": name, "revision": at}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora(), "teacher_model": teacher}, **ON)
    batch, number = batch_of(trainer), 1 if at is None else 2
    facts = trainer._extra_passes.teacher.facts()
    assert facts["name"] == name and facts["revision"] == f"{number:040x}"
    expected = load(saved(number)(tmp_path / "again"))
    assert torch.equal(
        logits_of(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm)), dense(expected, batch)
    )


def test_a_revision_of_an_adapter_is_none_of_its_base(tiny_model_dir, tmp_path):
    """The same word names another commit in the base's repository, or none."""
    base = hub_cache("org/base", main=saved(4))

    def adapter(seed):
        def save(folder):
            torch.manual_seed(seed)
            get_peft_model(load(base), lora()).save_pretrained(folder)

        return save

    name = hub_cache("org/adapter", main=adapter(1), v1=adapter(2))
    teacher = {"model": name, "revision": "v1"}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora(), "teacher_model": teacher}, **ON)
    facts = trainer._extra_passes.teacher.facts()
    assert facts["name"] == name and facts["revision"] == f"{2:040x}" and facts["adapter"] == "LORA"
    assert facts["base"] == {"name": base, "revision": f"{1:040x}"}
    torch.manual_seed(2)
    expected, batch = get_peft_model(load(base), lora()), batch_of(trainer)
    found = logits_of(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm))
    torch.testing.assert_close(found, dense(expected, batch), rtol=1e-5, atol=1e-5)
