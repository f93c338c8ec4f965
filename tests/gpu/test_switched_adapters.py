# SPDX-License-Identifier: Apache-2.0
"""Adapters switched off and on over a quantized backbone, for the self-teacher and the reference."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_ckt.models._upstream import keep_4bit_differentiable
from hf_ckt.models.batch import Batch
from hf_ckt.teachers.self import SelfTeacher
from tests import tiny_models
from tests.gpu.devices import build_on, each_device, to_device
from tests.runs import rows
from tests.trainers import ON, first_batch, gradients, lora

BITS = {
    "nf4": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
}
each_width = pytest.mark.parametrize("bits", list(BITS))
ALL_ON = {**ON, "regularization_weight": 0.3, "regularization_loss": "reference_kl"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model 64 wide: bitsandbytes quantizes in blocks of 64."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


def make(bits, device, folder, model, **changes):
    given = {"peft_config": lora(), "quantization_config": BITS[bits](), "eval_dataset": Dataset.from_list(rows(4))}
    return build_on(device, folder, model, given=given, **{**ALL_ON, **changes})


def batch_of(trainer):
    inputs = to_device(first_batch(trainer), str(trainer.args.device))
    return Batch(inputs, inputs.pop("labels"))


def base_logits(trainer, batch):
    with torch.no_grad():
        hidden, head = SelfTeacher().signal(batch, trainer._causal_lm)
        return torch.nn.functional.linear(hidden.to(head.weight.dtype), head.weight).float()


@each_device
@each_width
def test_base_under_its_adapters_stays_the_quantized_model(bits, device, model_dir, tmp_path):
    """A teacher that drifts with its student, or reads repacked weights, is agreed with in the end whatever is learnt."""
    trainer = make(bits, device, tmp_path, model_dir, learning_rate=0.1)
    batch = batch_of(trainer)
    before = base_logits(trainer, batch)
    base = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, quantization_config=BITS[bits](), device_map={"": trainer.args.device}
    ).eval()
    keep_4bit_differentiable(base)  # on CPUs, the packed kernel of eval mode rounds to bfloat16
    with torch.no_grad():
        expected = batch.keep(base(**batch.inputs).logits).float()
        adapted = batch.keep(trainer.model.eval()(**batch.inputs).logits).float()
    torch.testing.assert_close(before, expected, rtol=2e-2, atol=2e-2)
    assert (adapted - expected).norm() > 0.2 * expected.norm()  # the adapters do something, and were switched off
    trainer.train()
    trainer.evaluate()
    assert torch.equal(base_logits(trainer, batch), before)


@each_device
@each_width
def test_adapters_that_were_switched_train_as_before(bits, device, model_dir, tmp_path):
    """peft's own switch un-freezes what the user froze; one that is not turned back trains the base's predictions."""
    trainer = make(bits, device, tmp_path, model_dir, learning_rate=0.1)
    frozen = [p for name, p in trainer.model.named_parameters() if "layers.0" in name and "lora_A" in name]
    assert frozen
    for parameter in frozen:
        parameter.requires_grad_(False)
    kept = [parameter.detach().clone() for parameter in frozen]
    flags = {name: p.requires_grad for name, p in trainer.model.named_parameters()}
    trainer.train()
    trainer.evaluate()
    assert {name: p.requires_grad for name, p in trainer.model.named_parameters()} == flags
    assert all(torch.equal(p.to(was.device), was) for p, was in zip(frozen, kept, strict=True))
    assert not any(getattr(module, "_disable_adapters", False) is True for module in trainer.model.modules())


@each_device
@each_width
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_after_an_evaluation_as_before_it(checkpointing, bits, device, model_dir, tmp_path):
    """bitsandbytes repacks 4-bit weights at a pass in eval mode, for a kernel without a backward: nothing learns then."""
    trainer = make(bits, device, tmp_path, model_dir, gradient_checkpointing=checkpointing)
    batch = to_device(first_batch(trainer), str(trainer.args.device))
    before = gradients(trainer, batch)
    trainer.evaluate()
    after = gradients(trainer, batch)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert before.keys() == after.keys() == trained
    for name, gradient in before.items():
        assert gradient.norm() > 0, name
        # The same kernels on the same numbers; on a GPU the order of a sum may differ from run to run.
        tolerance = 0.0 if device == "cpu" else 1e-2
        assert (after[name] - gradient).float().norm() <= tolerance * gradient.float().norm(), name
