# SPDX-License-Identifier: Apache-2.0
"""Vision-language models: pictures train as in SFTTrainer, text with the whole objective."""

import pytest
import torch
from datasets import Dataset

from tests.runs import OFF
from tests.trainers import (
    ON,
    TASK_ONLY,
    build,
    build_sft,
    gradients,
    lora,
    run,
    same_run,
    save_tiny_llava,
    steps,
)

Image = pytest.importorskip("PIL.Image")

CHANGES = {"max_length": None, "per_device_train_batch_size": 2}
ON_TEXT = {"peft_config": lora(target_modules=["q_proj", "v_proj"])}


@pytest.fixture(scope="module")
def tiny_llava_dir(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("tiny_llava"))


@pytest.fixture(scope="module")
def pictures():
    return Dataset.from_list(
        [
            {
                "image": Image.new("RGB", (28, 28), (60 * n, 0, 0)),
                "prompt": [{"role": "user", "content": f"How red is number {n}?"}],
                "completion": [{"role": "assistant", "content": "Redder. " * (n + 1)}],
            }
            for n in range(4)
        ]
    )


@pytest.mark.parametrize("weights", [OFF, {}], ids=["zero", "none"])
def test_pictures_train_as_in_sft_trainer_to_the_last_bit(weights, tiny_llava_dir, pictures, tmp_path):
    """Weights left at None must not take a dataset away that SFTTrainer trains on."""
    expected = run(build_sft(tmp_path, tiny_llava_dir, pictures, **CHANGES))
    trainer = run(build(tmp_path, tiny_llava_dir, pictures, **CHANGES, **weights))
    same_run(trainer, expected)


@pytest.mark.parametrize("weights", [{"consistency_weight": 1.0}, {"task_weight": 0.5}])
def test_pictures_with_a_term_on_are_refused(weights, tiny_llava_dir, pictures, tmp_path):
    """The other views would be computed without the picture."""
    with pytest.raises(ValueError, match="vision datasets train with the task loss alone"):
        build(tmp_path, tiny_llava_dir, pictures, **CHANGES, **{**OFF, **weights})


def test_text_on_a_vision_model_has_the_whole_objective(tiny_llava_dir, tmp_path):
    """Its backbone and head lie deeper than a plain language model's."""
    expected = gradients(build_sft(tmp_path, tiny_llava_dir, given=ON_TEXT))
    found = gradients(build(tmp_path, tiny_llava_dir, given=ON_TEXT, **TASK_ONLY))
    # The penalty also reaches the adapters of the vision tower, which text leaves without a gradient.
    assert expected.keys() <= found.keys() and expected
    assert all(value.abs().max() < 1e-9 for name, value in found.items() if name not in expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    first = steps(run(build(tmp_path, tiny_llava_dir, given=ON_TEXT, **ON)))[0]
    assert all(first[f"{role}_loss"] > 0 for role in ("task", "distillation", "contrastive", "consistency"))
