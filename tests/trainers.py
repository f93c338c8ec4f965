# SPDX-License-Identifier: Apache-2.0
"""Builds and compares short runs of tiny models, for the tests of the trainer."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from tests import tiny_models
from tests.runs import OFF, rows

# Every term on, with weights that tell them apart.
ON = {
    "distillation_weight": 1.0,
    "contrastive_weight": 0.3,
    "consistency_weight": 0.5,
    "regularization_weight": 0.01,
}
# No term changes the task's gradient, yet the objective runs in place of SFTTrainer's loss.
TASK_ONLY = {**OFF, "regularization_weight": 1e-12}
# What differs between two equal runs.
_TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}


def fields(**changes: Any) -> dict[str, Any]:
    """Arguments of a short run on CPU that writes no checkpoint; `changes` win."""
    return {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }


def lora(**changes: Any) -> LoraConfig:
    """An adapter on every linear layer that already does something, so that its own base differs from the student."""
    return LoraConfig(**{"target_modules": "all-linear", "r": 4, "init_lora_weights": False, **changes})


def load(folder: str | Path, **kwargs: Any) -> Any:
    """A model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs)


def build(folder: str | Path, model: Any, data: Any = None, *, given: Any = None, **changes: Any) -> Any:
    """A trainer of this package; `given` are its arguments beside the configuration."""
    args = ContrastiveRobustConfig(str(folder), **fields(**changes))
    return ContrastiveRobustTrainer(
        model=model if not isinstance(model, Path) else str(model),
        args=args,
        train_dataset=Dataset.from_list(rows()) if data is None else data,
        **(given or {}),
    )


def build_sft(folder: str | Path, model: Any, data: Any = None, *, given: Any = None, **changes: Any) -> Any:
    """The same run of TRL's own trainer."""
    return SFTTrainer(
        model=model if not isinstance(model, Path) else str(model),
        args=SFTConfig(str(folder), **fields(**changes)),
        train_dataset=Dataset.from_list(rows()) if data is None else data,
        **(given or {}),
    )


def run(trainer: Any) -> Any:
    """Trains a trainer that was just built: its construction set the random state that the run starts from."""
    trainer.train()
    return trainer


def trained(trainer: Any) -> dict[str, torch.Tensor]:
    """Copies of the parameters that train, by name."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def history(trainer: Any) -> list[dict[str, Any]]:
    """All that was logged, but for the times it took."""
    return [
        {name: value for name, value in entry.items() if name not in _TIMES and not name.endswith(("_second", "time"))}
        for entry in trainer.state.log_history
    ]


def steps(trainer: Any) -> list[dict[str, Any]]:
    """What was logged of the training steps."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def same_run(one: Any, two: Any) -> None:
    """Asserts that two finished runs logged the same numbers and ended in the same weights, to the last bit."""
    assert history(one) == history(two)
    first, second = trained(one), trained(two)
    assert first.keys() == second.keys() and first
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def same_resumed(resumed: Any, whole: Any) -> None:
    """Asserts that a resumed run logged the steps of a whole one and ended in its weights, to the last bit."""
    for mine, theirs in zip(steps(resumed), steps(whole), strict=True):
        assert {**mine, "num_tokens": 0} == {**theirs, "num_tokens": 0}  # SFTTrainer counts them anew too
    expected = trained(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())


class Stop(TrainerCallback):
    """Ends the run after a step, as a kill between two steps would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def first_batch(trainer: Any) -> dict[str, Any]:
    """The first batch that the run would train on."""
    return next(iter(trainer.get_train_dataloader()))


def gradients(trainer: Any, batch: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Gradients of one batch's loss, by parameter."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(first_batch(trainer) if batch is None else batch), **kwargs).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def save_tiny_mixtral(folder: Path, **overrides: Any) -> Path:
    """Saves a random mixture of experts with the tiny tokenizer, its auxiliary loss on."""
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = tiny_models.build_tokenizer()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        num_local_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.2,
        output_router_logits=True,
        router_aux_loss_coef=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **overrides,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_llava(folder: Path) -> Path:
    """Saves a random vision-language model (one image is four tokens) with its processor."""
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = tiny_models.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "projection_dim": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config={**text, **layers, "num_key_value_heads": 2, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**vision, **layers, "image_size": 28, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{%- for message in messages %}{{- message['role'] + ': ' }}"
            "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
            "{%- for part in message['content'] %}"
            "{{- '<image>' if part['type'] == 'image' else part['text'] }}"
            "{%- endfor %}{%- endif %}{{- '<|im_end|>' }}{%- endfor %}"
        ),
    ).save_pretrained(folder)
    return folder
