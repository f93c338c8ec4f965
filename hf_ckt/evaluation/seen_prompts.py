# SPDX-License-Identifier: Apache-2.0
"""Whether what is asked was trained on: in the same words it raises, in other words it warns, and results say what was compared."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import missing_package
from ..data.contamination import require_unseen
from ..data.near_duplicates import NEAR, near_duplicates, shown
from ..data.prompt_sets import EvalPrompt
from .measuring.suites import Questions

logger = logging.getLogger(__name__)

_SHOWN = 5
_KEPT = 100  # pairs in a results file, the likest


def asked_prompts(asked: Questions) -> dict[str, list[EvalPrompt]]:
    """
    Returns all that must not have been trained on, by suite: requests without template and noise, the prompts of the
    responses that agreement is measured on, and the questions.
    """
    found: dict[str, dict[str, EvalPrompt]] = {}
    for row in asked.rows:
        prompt = EvalPrompt(row["prompt_id"], row["set"], row["kind"], row["category"], row["request"])
        found.setdefault(row["suite"], {})[prompt.id] = prompt
    prompts = {suite: list(mine.values()) for suite, mine in found.items()}
    clean = {one.prompt: one.id for one in reversed(asked.exchanges) if not one.noise}
    if clean:
        prompts["kd"] = [EvalPrompt(name, "kd", "benign", "", text) for text, name in reversed(clean.items())]
    questions = [(one.id, one.question) for one in asked.choices]
    questions += [(one.id, one.question) for one in asked.problems]
    questions += [(one.id, one.text) for one in asked.passages]
    if questions:
        prompts["utility"] = [EvalPrompt(name, "utility", "benign", "", text) for name, text in questions]
    return prompts


def training_facts(asked: Questions, training: Mapping[str, Sequence[str]] | Sequence[str] | None) -> dict[str, Any]:
    """
    Compares all that is asked with all that was trained on.

    Args:
        asked ([`Questions`]):
            What will be asked.
        training (`Mapping[str, Sequence[str]]` or `Sequence[str]`, *optional*):
            What users say in the training data, by file or from one. None: nothing is compared.

    Returns:
        `dict` for the settings of a results file: `training_set_checked`, true where every prompt was compared with every
        file that was named, and each file had a text; `training_compared`, the numbers of prompts by suite and of texts by
        file, or None; `near_duplicates`, as [`compare_with_training`] returns it.

    Raises:
        ValueError: If a prompt was trained on; see [`~data.contamination.require_unseen`].
    """
    if training is None:
        return {"training_set_checked": False, "training_compared": None, "near_duplicates": None}
    if not isinstance(training, Mapping):
        training = {"training texts": training}
    prompts = asked_prompts(asked)
    # The suite `noise` asks prompts of the other suites again.
    unique = {prompt.id: prompt for mine in prompts.values() for prompt in mine}
    empty = [name for name, texts in training.items() if not texts]
    if empty:
        logger.warning("--train-data: %s holds no text, so nothing was compared with it.", ", ".join(empty))
    return {
        "training_set_checked": bool(training) and not empty,
        "training_compared": {
            "prompts": {suite: len(mine) for suite, mine in prompts.items()},
            "texts": {name: len(texts) for name, texts in training.items()},
        },
        "near_duplicates": compare_with_training([*unique.values()], training),
    }


def compare_with_training(
    prompts: Sequence[EvalPrompt], training: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    """
    Raises where a prompt was trained on, and warns with the first pairs where one is much like a training text.

    Args:
        prompts (`Sequence[EvalPrompt]`):
            What will be asked.
        training (`Mapping[str, Sequence[str]]`):
            What was trained on, by the name of its file.

    Returns:
        `dict` with `threshold`, the number of `prompts` that have a near-duplicate, and `pairs`, the likest 100: name of
        the prompt, file and place of the text in it from 0, and similarity. No text: that of public sets stays where it
        is. None where scikit-learn, which compares, is not installed.

    Raises:
        ValueError: As [`~data.contamination.require_unseen`].
    """
    places = [(name, number) for name, texts in training.items() for number in range(len(texts))]
    texts = [text for mine in training.values() for text in mine]
    require_unseen(prompts, texts)
    if importlib.util.find_spec("sklearn") is None:
        logger.warning(
            "The %d prompts were compared with the training data word for word alone: %s.",
            len(prompts),
            missing_package("scikit-learn", "it finds near-duplicates", "eval"),
        )
        return None
    found = near_duplicates(prompts, texts)
    if found:
        lines = [shown(one, ":".join(map(str, places[one.index]))) for one in found[:_SHOWN]]
        logger.warning(
            "%d of %d evaluation prompts are much like a training text, so their rates may be recall. Read the pairs, and "
            "take out of the training data, or ask in another set, what is the same request:\n  %s%s",
            len(found),
            len(prompts),
            "\n  ".join(lines),
            "\n  ..." if len(found) > _SHOWN else "",
        )
    pairs = [[one.prompt.id, *places[one.index], one.similarity] for one in found[:_KEPT]]
    return {"threshold": NEAR, "prompts": len(found), "pairs": pairs}
