# SPDX-License-Identifier: Apache-2.0
"""
Packaged prompts with good answers, passages of plain text, noise put into a training set on purpose, and the prompts of an
evaluation.

May enter: what reads or makes rows of text; rows of public evaluation sets are fetched, never packaged.
"""

from .boundary import load_boundary_set
from .contamination import require_unseen, training_texts
from .corrupt import corrupt
from .plain_text import PlainText, load_plain_text
from .prompt_sets import (
    PROMPT_SETS,
    ChoiceQuestion,
    EvalPrompt,
    JailbreakTemplate,
    WordProblem,
    load_choices,
    load_own_prompts,
    load_prompts,
    load_templates,
    load_word_problems,
    set_facts,
)
from .refuse_after_prefix import refuse_after_prefix
from .starter import load_starter_set, to_prompt_completion

__all__ = [
    "PROMPT_SETS",
    "ChoiceQuestion",
    "EvalPrompt",
    "JailbreakTemplate",
    "PlainText",
    "WordProblem",
    "corrupt",
    "load_boundary_set",
    "load_choices",
    "load_own_prompts",
    "load_plain_text",
    "load_prompts",
    "load_starter_set",
    "load_templates",
    "load_word_problems",
    "refuse_after_prefix",
    "require_unseen",
    "set_facts",
    "to_prompt_completion",
    "training_texts",
]
