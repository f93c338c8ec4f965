# SPDX-License-Identifier: Apache-2.0
"""A second adapter on the student's backbone as the teacher; `make` is what the contracts compare it by."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PeftModel, PromptTuningConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig

from hf_ckt.losses.adapter_l2 import AdapterL2Loss
from hf_ckt.models._upstream import adapters_in_force, adapters_switched, keep_4bit_differentiable
from hf_ckt.models.frozen_base import why_no_frozen_base
from hf_ckt.teachers.self import SelfTeacher
from tests import tiny_models
from tests.teachers.signals import DISTIL, batch_of, dense, logits_of, teacher_on
from tests.trainers import ON, build, gradients, load, lora, run, steps, trained

NAME = "hf_ckt_teacher"
# Adapters that differ from the student's in rank, place and parts.
KINDS = {
    "lora": lambda: lora(r=2),
    "fewer_layers": lambda: lora(r=2, target_modules=["q_proj"]),
    "dora": lambda: lora(r=2, use_dora=True),
    "head": lambda: lora(r=2, modules_to_save=["lm_head"], exclude_modules=["lm_head"]),
    "tokens": lambda: lora(r=2, target_modules=["q_proj"], trainable_token_indices=[5, 6, 7]),
}


def save_adapter(base: Path, folder: Path, config=None, seed=11) -> Path:
    """Saves an adapter whose every parameter does something."""
    torch.manual_seed(seed)
    model = get_peft_model(load(base), lora(r=2) if config is None else config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def alone(base, adapter):
    """The adapter on a backbone of its own, as peft loads it."""
    return PeftModel.from_pretrained(load(base), adapter)


def make(student_folder, tmp_path):
    """What `teacher_model` takes, and from a batch the logits that the teacher must give at the kept positions."""
    folder = save_adapter(student_folder, tmp_path / "adapter")
    return {"adapter": str(folder)}, lambda batch: dense(alone(student_folder, folder), batch)


def student_with(adapter, base, tmp_path, config=None, **changes):
    given = {"peft_config": config or lora(), "teacher_model": {"adapter": str(adapter)}}
    return build(tmp_path / "run", base, given=given, **{**DISTIL, **changes})


@pytest.mark.parametrize("own", ["lora", "head", "fewer_layers"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_adapter_teacher_is_the_adapter_alone_and_the_student_stays_itself(kind, own, tiny_model_dir, tmp_path):
    """Layers that one adapter has and the other has not, and a copied head, must be read as if the other were not there."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter", KINDS[kind]())
    plain = build(tmp_path / "plain", tiny_model_dir, given={"peft_config": KINDS[own]()}, **DISTIL)
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": KINDS[own]()}, **DISTIL)
    needs = {name: p.requires_grad for name, p in trainer.model.named_parameters()}
    batch = batch_of(trainer)
    teacher = teacher_on(trainer, {"adapter": str(adapter)})
    found = logits_of(teacher.signal(batch, trainer._causal_lm))
    torch.testing.assert_close(found, dense(alone(tiny_model_dir, adapter), batch), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dense(trainer.model, batch), dense(plain.model, batch), rtol=0, atol=0)
    base = logits_of(SelfTeacher().signal(batch, trainer._causal_lm))
    torch.testing.assert_close(base, dense(load(tiny_model_dir), batch), rtol=1e-5, atol=1e-5)
    assert trainer.model.active_adapters == ["default"] and adapters_in_force(trainer._causal_lm) == ("default",)
    now = {name.replace("original_module.", ""): p.requires_grad for name, p in trainer.model.named_parameters()}
    trains = {name for name, needed in needs.items() if needed}
    assert {name for name, needed in now.items() if needed} == trains
    assert why_no_frozen_base(trainer._causal_lm) is None


def test_switch_restores_what_was_set_by_hand_also_after_an_error(tiny_model_dir, tmp_path):
    """A pass that raises would leave the student reading with the teacher's adapter, and training nothing."""
    trainer = student_with(save_adapter(tiny_model_dir, tmp_path / "adapter"), tiny_model_dir, tmp_path)
    model = trainer._causal_lm
    layer = model.model.layers[0].self_attn.q_proj
    layer._disable_adapters = True
    before = {
        name: (m.__dict__.get("_active_adapter"), m.__dict__.get("_disable_adapters"))
        for name, m in model.named_modules()
    }
    with pytest.raises(KeyError), adapters_switched(model, NAME):
        assert adapters_in_force(model) == (NAME,) and not layer._disable_adapters
        raise KeyError
    assert before == {
        name: (m.__dict__.get("_active_adapter"), m.__dict__.get("_disable_adapters"))
        for name, m in model.named_modules()
    }


@pytest.mark.parametrize("checkpointing", [False, {}, {"use_reentrant": True}])
def test_training_moves_the_student_as_a_separate_teacher_would(checkpointing, tiny_model_dir, tmp_path):
    """A layer recomputed in the backward pass must read the student's adapter again, not the teacher's."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    changes = (
        {}
        if checkpointing is False
        else {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": checkpointing}
    )
    weights = {**ON, "contrastive_weight": 0.3, **changes}
    if checkpointing:
        weights["consistency_weight"] = 0.0  # a noisy view goes without reentrant checkpointing
    ours = student_with(adapter, tiny_model_dir, tmp_path, **weights)
    own = {name: p.clone() for name, p in ours.model.named_parameters() if f".{NAME}." in name}
    assert own and not any(p.requires_grad for name, p in ours.model.named_parameters() if f".{NAME}." in name)
    given = {"peft_config": lora(), "teacher_model": alone(tiny_model_dir, adapter)}
    theirs = build(tmp_path / "other", tiny_model_dir, given=given, **weights)
    same = dict(theirs.model.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.model.named_parameters():
            if name in same:
                parameter.copy_(same[name])
    mine, others = gradients(ours), gradients(theirs)
    assert mine.keys() == others.keys() and mine
    for name, value in others.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-7)
    run(ours), run(theirs)
    for one, two in zip(steps(ours), steps(theirs), strict=True):
        for name in ("loss", "distillation_loss", "regularization_loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), name
    after = dict(ours.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in own.items())
    optimized = {id(p) for group in ours.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(after[name]) for name in own}


def test_teachers_adapter_is_no_part_of_the_penalty(tiny_model_dir, tmp_path):
    """Its norm would be added to the student's, as a constant that hides how far the student is."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL)
    loss = AdapterL2Loss()
    before = loss.penalty(trainer._causal_lm)
    teacher_on(trainer, {"adapter": str(adapter)})
    loss.begin(trainer._causal_lm)
    assert loss.obstacle(trainer._causal_lm) is None
    assert torch.equal(loss.penalty(trainer._causal_lm), before)


@pytest.mark.parametrize("kind", ["lora", "head"])
def test_only_the_students_adapter_is_saved(kind, tiny_model_dir, tmp_path):
    """peft saves all adapters by default: a teacher's in the pushed folder would be published with the student."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter", KINDS[kind]())
    trainer = run(student_with(adapter, tiny_model_dir, tmp_path, save_strategy="steps", save_steps=1))
    own = get_peft_model_state_dict(trainer.model, adapter_name="default")
    expected = set(get_peft_model_state_dict(get_peft_model(load(tiny_model_dir), lora())))
    assert set(own) == expected
    trainer.save_model(str(tmp_path / "saved"))
    trainer.model.save_pretrained(tmp_path / "by_hand")
    for folder in (tmp_path / "run" / "checkpoint-2", tmp_path / "saved", tmp_path / "by_hand"):
        assert list(folder.rglob("adapter_*")), folder
        assert not [path for path in folder.rglob("*") if NAME in str(path.relative_to(folder))]
        found = load_file(folder / "adapter_model.safetensors")
        assert set(found) == expected and all(torch.equal(found[name], own[name]) for name in found)
    trainer.model.save_pretrained(tmp_path / "asked", selected_adapters=[NAME])
    assert (tmp_path / "asked" / NAME / "adapter_model.safetensors").exists()
    batch = batch_of(trainer)
    again = PeftModel.from_pretrained(load(tiny_model_dir), tmp_path / "saved")
    torch.testing.assert_close(dense(again, batch), dense(trainer.model, batch), rtol=1e-5, atol=1e-5)
    merged = trainer.model.merge_and_unload()
    torch.testing.assert_close(dense(merged, batch), dense(again, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "head"])
def test_resumed_run_equals_the_whole_one(kind, tiny_model_dir, tmp_path):
    """A checkpoint read into the wrong adapter resumes from the student's first weights, or overwrites the teacher."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter", KINDS[kind]())
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **ON}
    whole = run(student_with(adapter, tiny_model_dir, tmp_path, **changes))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = student_with(adapter, tiny_model_dir, tmp_path, **changes)
    again.train(resume_from_checkpoint=True)
    first, second = trained(whole), trained(again)
    assert first.keys() == second.keys() and first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again._state_to_save.teacher == whole._state_to_save.teacher
    teachers = [dict(one.model.named_parameters()) for one in (whole, again)]
    mine = [name for name in teachers[0] if f".{NAME}." in name]
    assert mine and all(torch.equal(teachers[0][name], teachers[1][name]) for name in mine)
    assert not any(teachers[1][name].requires_grad for name in mine)


def test_two_adapters_and_the_base_teach_their_own_rows(tiny_model_dir, tmp_path):
    """Two teachers under one name would be one; a base read with an adapter on is none."""
    folders = [save_adapter(tiny_model_dir, tmp_path / f"adapter{seed}", seed=seed) for seed in (3, 4)]
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL)
    batch = batch_of(trainer)
    teachers = {"one": {"adapter": str(folders[0])}, "two": {"adapter": str(folders[1])}, "base": None}
    routed = teacher_on(trainer, {"routed": teachers})
    assert [name for name in trainer.model.peft_config if name != "default"] == [NAME, f"{NAME}_2"]
    batch.routes = (torch.arange(len(batch.labels)) % 3)[:, None].expand_as(batch.labels)
    found = logits_of(routed.signal(batch, trainer._causal_lm))
    each = [dense(model, batch) for model in (*(alone(tiny_model_dir, one) for one in folders), load(tiny_model_dir))]
    expected = torch.stack(each)[batch.at_kept(batch.routes), torch.arange(len(found))]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    one, two = (routed.parts[name].facts()["weights"] for name in ("one", "two"))
    assert one != two
    # Told by its weights, under whatever name it stands in the student.
    assert teacher_on(trainer, {"adapter": str(folders[0]), "adapter_name": "mine"}).facts()["weights"] == one


BITS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("bits", list(BITS))
def test_adapter_teacher_shares_a_quantized_backbone(bits, tmp_path):
    """Layers that only the teacher adapts are wrapped after the quantization; a pass in eval mode must not repack them."""
    base = tiny_models.save_tiny_llama(tmp_path / "wide", hidden_size=64)  # bitsandbytes quantizes in blocks of 64
    adapter = save_adapter(base, tmp_path / "adapter", lora(r=2))
    config = BitsAndBytesConfig(**BITS[bits])
    given = {
        "quantization_config": config,
        "peft_config": lora(target_modules=["q_proj", "down_proj"]),
        "teacher_model": {"adapter": str(adapter)},
    }
    trainer = build(tmp_path / "run", base, given=given, learning_rate=0.1, **DISTIL)
    quantized = [m for m in trainer.model.modules() if "4bit" in type(m).__name__ or "8bit" in type(m).__name__]
    assert len([m for m in quantized if NAME in getattr(m, "lora_A", {})]) > len(
        [m for m in quantized if "default" in getattr(m, "lora_A", {})]
    )
    batch = batch_of(trainer)
    reference = PeftModel.from_pretrained(load(base, quantization_config=config), adapter)
    keep_4bit_differentiable(reference)  # so that both multiply by the same rounding
    expected = dense(reference, batch)
    teacher = trainer._extra_passes.teacher
    found = logits_of(teacher.signal(batch, trainer._causal_lm))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    frozen = {name: value.clone() for name, value in trainer.model.state_dict().items() if f".{NAME}." in name}
    before = trained(trainer)
    run(trainer)
    after = trained(trainer)
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    state = trainer.model.state_dict()
    assert frozen and all(torch.equal(value, state[name]) for name, value in frozen.items())
    assert torch.isfinite(torch.tensor([step["distillation_loss"] for step in steps(trainer)])).all()
    torch.testing.assert_close(logits_of(teacher.signal(batch, trainer._causal_lm)), found, rtol=1e-2, atol=1e-2)


def test_compiled_backbone_reads_each_adapter(tiny_model_dir, tmp_path):
    """What was compiled for one adapter, taken for the other, is the student as its own teacher."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    trainer = student_with(adapter, tiny_model_dir, tmp_path, torch_compile=True, torch_compile_backend="eager")
    batch = batch_of(trainer)
    found = logits_of(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm))
    base = logits_of(SelfTeacher().signal(batch, trainer._causal_lm))
    torch.testing.assert_close(found, dense(alone(tiny_model_dir, adapter), batch), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(base, dense(load(tiny_model_dir), batch), rtol=1e-5, atol=1e-5)
    assert len(trainer._causal_lm._hf_ckt_compiled_passes.programs) == 2


def other_base(tmp_path):
    return tiny_models.save_tiny_llama(tmp_path / "other", hidden_size=48, seed=3)


def moved(tmp_path, base):
    """An adapter whose base's folder is not there any more."""
    gone = tiny_models.save_tiny_llama(tmp_path / "gone", hidden_size=base)
    adapter = save_adapter(gone, tmp_path / "adapter")
    shutil.rmtree(gone)
    return adapter


REFUSED = {
    "name of another base": (lambda d, t: save_adapter(other_base(t), t / "a"), {}, "of another base, .*other"),
    "shapes of another base": (
        lambda d, t: save_adapter(other_base(t), t / "a"),
        {"other_base": True},
        "does not fit the student's layers, so it is of another base",
    ),
    "fewer layers": (
        lambda d, t: save_adapter(
            tiny_models.save_tiny_llama(t / "one", num_hidden_layers=1), t / "a", KINDS["fewer_layers"]()
        ),
        {"other_base": True},
        "is of another base: .*of the student's layers are missing",
    ),
    "prompt learning": (
        lambda d, t: save_adapter(d, t / "a", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        {},
        "is a prompt-learning adapter",
    ),
    "another type": (
        lambda d, t: save_adapter(d, t / "a", IA3Config(target_modules=["k_proj"], feedforward_modules=[])),
        {},
        "is of type IA3 and the student's of type LORA",
    ),
    "trained biases": (lambda d, t: save_adapter(d, t / "a", lora(bias="all")), {}, "has trained biases"),
    "rewritten base": (
        lambda d, t: save_adapter(d, t / "a", lora(init_lora_weights="pissa")),
        {},
        "would change the student's backbone",
    ),
    "taken name": (
        lambda d, t: save_adapter(d, t / "a"),
        {"adapter_name": "default"},
        "has an adapter called 'default'",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_adapter_that_cannot_teach_is_refused_in_one_sentence(case, tiny_model_dir, tmp_path):
    """Each of these would load, or fail in peft's words, and teach something else than the adapter knows."""
    adapter, settings, message = REFUSED[case]
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    given = {"adapter": str(adapter(tiny_model_dir, tmp_path)), **settings}
    with pytest.raises(ValueError, match=message):
        teacher_on(trainer, given)
    after = trainer.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert list(trainer.model.peft_config) == ["default"]


def test_student_without_an_adapter_is_refused(tiny_model_dir, tmp_path):
    """Its backbone trains, so the teacher on it would drift with the student."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    with pytest.raises(ValueError, match="and the student has none"):
        build(tmp_path / "run", tiny_model_dir, given={"teacher_model": {"adapter": str(adapter)}}, **DISTIL)


def test_students_own_adapter_of_the_teachers_name_is_refused(tiny_model_dir, tmp_path):
    """The student would be taken for its own teacher."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    student = get_peft_model(load(tiny_model_dir), lora(), adapter_name=NAME)
    with pytest.raises(ValueError, match="has an adapter called 'hf_ckt_teacher' already"):
        build(tmp_path / "run", student, given={"teacher_model": {"adapter": str(adapter)}}, **DISTIL)


def test_missing_adapter_is_named(tiny_model_dir, tmp_path):
    """The libraries' words do not say which of a run's models is missing."""
    with pytest.raises(OSError, match=r"teacher_model: the adapter '.*nowhere' cannot be loaded"):
        student_with(tmp_path / "nowhere", tiny_model_dir, tmp_path)


def test_base_in_a_folder_that_is_gone_is_warned_of(tiny_model_dir, tmp_path, caplog):
    """Whether the weights are the same cannot be known; that it is not known can be said."""
    adapter = moved(tmp_path, 32)
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        student_with(adapter, tiny_model_dir, tmp_path)
    assert "is a folder that is not there" in caplog.text


def test_what_an_adapter_is_known_by_tells_scaling_and_backbone_apart(tiny_model_dir, tmp_path):
    """The same numbers scaled otherwise, or on other weights, are another teacher, and a cache of the one is none of it."""
    folder = save_adapter(tiny_model_dir, tmp_path / "adapter")
    louder = Path(shutil.copytree(folder, tmp_path / "louder"))
    config = louder / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"lora_alpha": 3 * settings["lora_alpha"]}))
    other = moved_model(tiny_model_dir, tmp_path / "tuned")
    known = []
    for base, adapter, lora_config in (
        (tiny_model_dir, folder, lora()),
        (tiny_model_dir, folder, lora(target_modules=["q_proj"])),
        (tiny_model_dir, louder, lora()),
        (other, folder, lora()),
    ):
        given = {"peft_config": lora_config, "teacher_model": {"adapter": str(adapter), "other_base": True}}
        trainer = build(tmp_path / "run", base, given=given, **DISTIL)
        known.append({k: v for k, v in trainer._extra_passes.teacher.facts().items() if k != "name"})
    assert known[0] == known[1]  # where the student's own adapter stands is no matter
    assert [name for name in known[0] if known[0][name] != known[2][name]] == ["scaling"]
    assert [name for name in known[0] if known[0][name] != known[3][name]] == ["backbone"]


def moved_model(base, folder):
    """A copy of which one linear layer is another, as after merging an adapter."""
    model = load(base)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.add_(0.1)
    model.save_pretrained(folder)
    for path in base.glob("*token*"):
        shutil.copy(path, folder)
    return folder
