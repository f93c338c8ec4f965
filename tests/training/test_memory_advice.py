# SPDX-License-Identifier: Apache-2.0
"""A step that runs out of memory says which of the run's settings would need less."""

import re

import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import BitsAndBytesConfig

from hf_ckt.training.memory_advice import MemoryFacts, memory_advice, memory_facts, with_advice
from tests import tiny_models
from tests.runs import OFF
from tests.trainers import ON, build, load, lora

# As torch 2.13 words it.
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 1.20 GiB is free."
NAMES = re.compile(r"\b(\w+)=")


def exhausted(trainer):
    """The error of a step in whose second layer no memory is found."""

    def fail(*_):
        raise torch.OutOfMemoryError(MESSAGE)

    trainer._causal_lm.model.layers[1].register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError) as error:
        trainer.train()
    return error.value


def named(trainer):
    """Settings that the advice names, in order."""
    return NAMES.findall(memory_advice(memory_facts(trainer)))


def everything(**changes):
    return {"max_length": 512, "gradient_checkpointing": False, **ON, **changes}


ALL_NAMES = [
    "objective_chunk_size",
    "noisy_view_recompute",
    "gradient_checkpointing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "consistency_fraction",
    "quantization_config",
    "load_in_4bit",
    "max_length",
]


def test_step_out_of_memory_names_the_settings_of_this_run(tiny_model_dir, tmp_path):
    """The bare message tells of gigabytes; the user then halves the batch and keeps the setting that was the cause."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **everything())
    error = exhausted(trainer)
    assert type(error) is torch.OutOfMemoryError
    assert str(error).startswith(f"{MESSAGE} This run would need less memory with")
    assert NAMES.findall(str(error)) == ALL_NAMES
    assert "per_device_train_batch_size=2 and gradient_accumulation_steps=2 " in str(error)
    assert "with fewer negatives" in str(error) and "max_length=256" in str(error)
    assert type(error.__cause__) is torch.OutOfMemoryError and str(error.__cause__) == MESSAGE


def test_step_out_of_memory_still_lets_the_batch_size_be_found(tiny_model_dir, tmp_path):
    """auto_find_batch_size reads type, message and number of arguments; another error would end the run it should save."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **everything(auto_find_batch_size=True))
    sizes = []

    def fail(module, args, output):
        if len(args[0]) > 1:  # one is the short text at which the head is compared with the model's logits
            sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError(MESSAGE)

    trainer._causal_lm.model.layers[1].register_forward_hook(fail)
    trainer.train()
    assert trainer.state.global_step == 2 and sizes[0] == 4 and sizes[-1] == 2
    trainer._causal_lm.model.layers[1].register_forward_hook(lambda *_: fail(None, [[0] * 9], None))
    with pytest.raises(torch.OutOfMemoryError) as error:
        trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    assert should_reduce_batch_size(error.value)
    # What was tried is what the advice starts from.
    assert "per_device_train_batch_size=1 and gradient_accumulation_steps=2 " in str(error.value)


def test_step_out_of_memory_with_the_task_alone_names_sft_settings_alone(tiny_model_dir, tmp_path):
    """A setting of a term that is off would be turned, and nothing would get smaller."""
    error = exhausted(build(tmp_path, tiny_model_dir, **{**everything(), **OFF}))
    assert type(error) is torch.OutOfMemoryError and should_reduce_batch_size(error)
    assert NAMES.findall(str(error)) == [
        "gradient_checkpointing",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_length",
    ]
    assert "negatives" not in str(error)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"noisy_view_recompute": True}, {"noisy_view_recompute"}),
        ({"perturbation": "adversarial"}, {"noisy_view_recompute"}),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            {"noisy_view_recompute", "gradient_checkpointing"},
        ),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing"}),
        ({"per_device_train_batch_size": 1}, {*ALL_NAMES[3:6]}),
        ({"contrastive_level": "sequence", "per_device_train_batch_size": 2}, {*ALL_NAMES[3:5]}),
        ({"consistency_fraction": 0.5}, {"consistency_fraction"}),
        ({"objective_chunk_size": 64}, {"objective_chunk_size"}),
        ({"max_length": None}, {"max_length"}),
        ({"consistency_weight": 0.0}, {"noisy_view_recompute", "consistency_fraction"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # the same in every worker
)
def test_advice_leaves_out_what_is_set_already_or_would_be_refused(changes, absent, tiny_model_dir, tmp_path):
    """Advice that the next run refuses, or that changes nothing, costs the user another start."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **everything(**changes))
    assert named(trainer) == [name for name in ALL_NAMES if name not in absent]


@pytest.mark.parametrize("batched", [False, True])
def test_advice_can_be_followed(batched, tiny_model_dir, tmp_path):
    """A name or a value that no config takes, or two that exclude each other, would end the next run at its start."""
    changes = everything(noisy_view_batched=batched)
    text = memory_advice(memory_facts(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes)))
    assert ("noisy_view_batched=False and noisy_view_recompute=True" in text) == batched
    config = {name: eval(value) for name, value in re.findall(r"\b(\w+)=([\w.]+)(?= )", text)}
    assert {*config} == {*ALL_NAMES} - {"quantization_config", "load_in_4bit"} | (
        {"noisy_view_batched"} if batched else set()
    )
    again = build(tmp_path / "again", tiny_model_dir, given={"peft_config": lora()}, **{**changes, **config})
    assert not {"noisy_view_recompute", "gradient_checkpointing", "consistency_fraction"} & {*named(again)}
    again.train()


def test_advice_names_the_teacher_that_is_not_quantized(tiny_model_dir, tmp_path):
    """The teacher's weights are often the largest tensor of all, and none of SFTTrainer's settings reaches them."""
    changes = {**everything(), **OFF, "distillation_weight": 1.0}
    whole = build(tmp_path, tiny_model_dir, given={"teacher_model": load(tiny_model_dir)}, **changes)
    assert "the teacher in 4 bits, by teacher_quantization_config" in memory_advice(memory_facts(whole))


@pytest.mark.parametrize("where", ["student", "teacher"])
def test_advice_does_not_quantize_what_is_quantized(where, tmp_path):
    """It would be said again and again to a run that has long done it."""
    folder = tiny_models.save_tiny_llama(tmp_path / "wide", hidden_size=64)
    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    given = {"peft_config": lora(), "teacher_model": str(folder)}
    given |= {"quantization_config": four_bits} if where == "student" else {"teacher_quantization_config": four_bits}
    text = memory_advice(memory_facts(build(tmp_path / "out", folder, given=given, **everything())))
    assert ("the teacher in 4 bits" in text) == (where == "student")
    assert ("for the model" in text) == (where == "teacher")


def test_advice_at_the_end_of_all_settings_says_so():
    """An empty list of settings reads like an error in the error."""
    text = memory_advice(MemoryFacts(1, 8, True, None, False, tile=64, noisy=True, fraction=0.5))
    assert "=" not in text and text.startswith("No setting of this run is left")


def test_advice_is_one_sentence_and_orders_by_cost():
    """What costs accuracy, named first, would be turned first."""
    text = memory_advice(MemoryFacts(8, 3, False, 100, True, 1, True, 400, True, True, True, 1.0, True))
    assert text.count(". ") == 0 and text.endswith(".")
    order = ["chunk_size=100", "batched=False and noisy_view_recompute=True", "checkpointing=True", "batch_size=4"]
    order += ["accumulation_steps=6", "fraction=0.5", "the teacher in 4 bits", "for the model", "max_length=50"]
    places = [text.index(name) for name in order]
    assert places == sorted(places)


def test_fault_in_the_advice_does_not_hide_that_memory_ran_out():
    """An AttributeError in its place would end a run that `auto_find_batch_size` could have saved."""
    before = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    after = with_advice(before, object())  # which is no trainer
    assert type(after) is torch.OutOfMemoryError and str(after) == str(before) and after is not before
