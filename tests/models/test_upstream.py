# SPDX-License-Identifier: Apache-2.0
"""The seams: what the package relies on in trl, transformers, peft and bitsandbytes."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.models._upstream import (
    adapters_disabled,
    cache_argument,
    cache_of,
    end_training,
    keep_4bit_differentiable,
)
from tests import runs, tiny_models


def quantized_trainer(tiny_model_dir, tmp_path, **fields):
    args = ContrastiveRobustConfig(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=0.0,
        **fields,
    )
    data = Dataset.from_list(runs.rows())
    return ContrastiveRobustTrainer(
        model=str(tiny_model_dir),
        args=args,
        train_dataset=data,
        eval_dataset=data,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        # B nonzero, so that every A has a gradient
        peft_config=LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False),
    )


def gradient_norms(trainer) -> dict[str, float]:
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: float(p.grad.norm()) for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_gradients_of_a_4bit_backbone_survive_an_evaluation(tiny_model_dir, tmp_path):
    """bitsandbytes repacks 4-bit weights in eval mode on some CPUs; training then goes on without their gradients."""
    trainer = quantized_trainer(tiny_model_dir, tmp_path, **{**runs.OFF, "distillation_weight": 1.0})
    before = gradient_norms(trainer)
    trainer.evaluate()
    with torch.no_grad():
        trainer.model.eval()
        trainer.model(input_ids=torch.tensor([[1, 2, 3]]))
    after = gradient_norms(trainer)
    assert all(norm > 0 for norm in before.values())
    assert after == pytest.approx(before, rel=1e-6)


def test_4bit_weights_that_were_repacked_before_training_are_restored(tmp_path):
    """A model that answered a prompt before the trainer was built would train without gradients."""
    from transformers import AutoModelForCausalLM

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    # 64 wide: bitsandbytes cannot repack rows shorter than its blocks
    folder = tiny_models.save_tiny_llama(tmp_path / "model", hidden_size=64)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    ids = torch.tensor([[5, 6, 7, 8]])
    model.train()
    expected = model(input_ids=ids).logits.detach()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    keep_4bit_differentiable(model)
    model.train()
    torch.testing.assert_close(model(input_ids=ids).logits.detach(), expected, rtol=0, atol=0.1)  # of values up to 5
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)


def test_adapters_disabled_leaves_requires_grad_alone(tiny_model_dir, tmp_path):
    """peft's own switch un-freezes what the user had frozen, and the optimizer would start to move it."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = base(input_ids=ids).logits.detach()
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False))
    frozen = next(p for name, p in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    adapted = model(input_ids=ids).logits.detach()
    with adapters_disabled(model):
        disabled = model(input_ids=ids).logits.detach()
    torch.testing.assert_close(disabled, plain, rtol=0, atol=0)
    assert not torch.allclose(adapted, plain)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    torch.testing.assert_close(model(input_ids=ids).logits.detach(), adapted, rtol=0, atol=0)


@pytest.mark.parametrize(("names", "called"), [(("end",), "end"), ((), "end_training")])
def test_training_is_ended_by_whichever_name_there_is(names, called):
    """With transformers 5.17 `hf-ckt train` would end in an AttributeError after all was saved."""
    calls = []
    accelerator = SimpleNamespace(end_training=lambda: calls.append("end_training"))
    end_training(SimpleNamespace(accelerator=accelerator, **{name: lambda: calls.append("end") for name in names}))
    assert calls == [called]


def test_cache_is_handed_on_under_the_name_that_the_forward_takes(tiny_model_dir):
    """Under the name of another version, or of none, every opening would be scored as if no prompt stood before it."""
    import inspect

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    name = cache_argument(inspect.signature(type(model).forward).parameters)
    ids = torch.tensor([[5, 6, 7, 8]])
    held = cache_of(model(input_ids=ids[:, :3], use_cache=True))
    assert held.get_seq_length() == 3
    after = model(input_ids=ids[:, 3:], use_cache=True, **{name: held}).logits[:, -1]
    torch.testing.assert_close(after, model(input_ids=ids).logits[:, -1])
    assert cache_of(model(input_ids=ids, use_cache=False)) is None


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_either_name_of_the_cache_is_known(name):
    """One of the two is always that of another version than the tests run on."""
    assert cache_argument({"input_ids", name}) == name
    assert cache_of(SimpleNamespace(**{name: "keys and values"})) == "keys and values"
    assert cache_of(SimpleNamespace(logits=1)) is None
