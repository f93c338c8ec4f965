# SPDX-License-Identifier: Apache-2.0
"""Prompts with good answers that come with the package, and noise put into a training set on purpose."""

from .corrupt import corrupt
from .starter import load_starter_set, to_prompt_completion

__all__ = ["corrupt", "load_starter_set", "to_prompt_completion"]
