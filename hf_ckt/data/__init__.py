# SPDX-License-Identifier: Apache-2.0
"""Prompts with good answers that come with the package, enough to see an alignment run work."""

from .starter import load_starter_set, to_prompt_completion

__all__ = ["load_starter_set", "to_prompt_completion"]
