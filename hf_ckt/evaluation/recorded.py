# SPDX-License-Identifier: Apache-2.0
"""What results state of how they were made, and a sentence wherever what was asked is not what a reader would take it for."""

import math
from collections.abc import Iterable

from ..hub.provenance import library_versions
from .judges import Judge
from .measuring.models import EvaluatedModel, Loading
from .measuring.weights import precision_warnings

# Of prompts, draws of the bootstrap, intervals, and the judge that has learnt; they answer nothing.
_COUNTING = ("datasets", "evaluate", "numpy", "scipy", "scikit-learn")
OF_JUDGE = "judge "
"""What a warning of a judge begins with."""
_TOKENS_A_WORD = 1.5  # of English, with room: about 1.3 on average


def result_versions(loading: Loading, engine: str = "transformers") -> dict[str, str]:
    """
    Returns the versions of all libraries that change an answer or a score.

    Args:
        loading ([`Loading`]):
            How models are loaded.
        engine (`str`, *optional*, defaults to `"transformers"`):
            What answers: `"transformers"` or `"vllm"`.
    """
    answering = [*loading.libraries(), *(["vllm"] if engine == "vllm" else [])]
    return library_versions(*answering, *_COUNTING, missing_ok=True)


def run_warnings(
    entries: Iterable[EvaluatedModel], loading: Loading, judges: Iterable[Judge] = (), new_tokens: int | None = None
) -> list[str]:
    """
    Returns what a reader of the numbers must know and would not expect, a sentence each.

    Args:
        entries (`Iterable[EvaluatedModel]`), loading ([`Loading`]):
            What is scored, and how it is loaded.
        judges (`Iterable[Judge]`, *optional*), new_tokens (`int`, *optional*):
            Who reads the answers, and how long these are at most.
    """
    return precision_warnings(entries, loading) + judge_warnings(judges, new_tokens)


def judge_warnings(judges: Iterable[Judge], new_tokens: int | None) -> list[str]:
    """Returns a sentence, which begins with [`OF_JUDGE`], for each judge that reads more than answers hold."""
    said = []
    for judge in {judge.name: judge for judge in judges}.values():
        needed = tokens_read(judge)
        if new_tokens is not None and needed is not None and new_tokens < needed:
            said.append(
                f"{OF_JUDGE}{judge.name}: it reads the first {judge.reads_words} words of an answer, and {new_tokens} new "
                f"tokens end before them, so a refusal that begins later is missed. Give --new-tokens {needed} or more."
            )
    return said


def tokens_read(judge: Judge) -> int | None:
    """Returns how many tokens of an answer a judge may read; None where it reads all of them."""
    return None if judge.reads_words is None else math.ceil(_TOKENS_A_WORD * judge.reads_words)
