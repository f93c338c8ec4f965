# SPDX-License-Identifier: Apache-2.0
"""Adapters in folders, as `save_pretrained` writes them."""

import torch
from peft import LoraConfig, get_peft_model

from tests.trainers import load


def save_adapter(model_dir, folder, seed=0, change=None, **settings):
    """Saves an adapter that already does something; `change` is done to the model before it is saved."""
    torch.manual_seed(seed)
    config = {"r": 4, "init_lora_weights": False, "target_modules": ["q_proj", "up_proj"], **settings}
    return save_model(get_peft_model(load(model_dir), LoraConfig(**config)), folder, change)


def save_model(model, folder, change=None):
    """Saves a model with its adapter and returns the folder's name."""
    if change is not None:
        change(model)
    model.save_pretrained(folder)
    return str(folder)
