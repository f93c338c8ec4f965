# SPDX-License-Identifier: Apache-2.0
"""What is asked at every evaluation of a training, and whether the scores that are wanted can be had of it."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ..checks import nearest, require_known
from ..data.prompt_sets import PROMPT_SETS, EvalPrompt, load_prompts

_PROMPTS = 16  # of each kind: one of each of the starter set's harmful categories
_SIDES = ("harmful", "twin", "lookalike")
# Scores by what they are of.
OF_HARMFUL = ("safety", "refusal_log_odds_harmful")
OF_BENIGN = ("helpfulness", "overrefusal", "refusal_log_odds_benign")
OF_NOISE = ("refusal_auroc_noise",)
OF_BOTH = ("youden_j", "refusal_auroc", *OF_NOISE)
_LESS_IS_BETTER = ("overrefusal", "refusal_log_odds_benign")
_MORE_IS_BETTER = ("safety", "helpfulness", *OF_BOTH)
OF_ANSWERS = ("safety", "helpfulness", "overrefusal", "youden_j")


def suite_prompts(prompts: str | Sequence[str | EvalPrompt | Mapping[str, Any]] | None) -> list[EvalPrompt]:
    """
    Returns the prompts of a suite, in their order.

    Args:
        prompts (`str` or `Sequence`, *optional*):
            A prompt set in full, by name, or both sides of one ("boundary-validation"); or prompts and names. None: 16
            harmful and 16 look-alike prompts of the starter set's held-out part, of every category.

    Raises:
        ValueError: If there is no such set, or a prompt has no text or no kind.

    Example:

    >>> sorted({prompt.set for prompt in suite_prompts("boundary-validation")})
    ['boundary-validation-harmful', 'boundary-validation-twin']
    """
    if prompts is None:
        return _starter_prompts()
    given: Sequence[Any] = [prompts] if isinstance(prompts, str) else prompts
    found: list[EvalPrompt] = []
    for number, one in enumerate(given):
        found += _of_name(one) if isinstance(one, str) else [_prompt(number, one)]
    return found


def _of_name(name: str) -> list[EvalPrompt]:
    sides = [f"{name}-{side}" for side in _SIDES if f"{name}-{side}" in PROMPT_SETS]
    if not sides:
        both = {one.rpartition("-")[0] for one in PROMPT_SETS if one.rpartition("-")[2] in _SIDES}
        known = [*PROMPT_SETS, *sorted(both)]
        if name not in known:
            raise ValueError(
                f"prompts: unknown name {name!r}.{nearest(name, known)} Known: {', '.join(sorted(known))}. A prompt of "
                'your own needs its kind, without which it could not be judged: {"text": ..., "kind": "harmful" or "benign"}.'
            )
    return [prompt for one in sides or [name] for prompt in load_prompts(one)]


def _starter_prompts() -> list[EvalPrompt]:
    prompts = []
    for name in ("starter-harmful", "starter-lookalike"):
        found = load_prompts(name)
        prompts += found[:: len(found) // _PROMPTS][:_PROMPTS]  # they are sorted by category
    return prompts


def _prompt(number: int, given: Any) -> EvalPrompt:
    if isinstance(given, EvalPrompt):
        return given
    known = given if isinstance(given, Mapping) else {}
    missing = [name for name in ("text", "kind") if not isinstance(known.get(name), str)]
    if missing:
        raise ValueError(
            f"prompts, number {number}: has no {' and no '.join(missing)} (got {given!r}), so it could not be asked or not "
            'be judged. Give {"text": ..., "kind": "harmful" or "benign"}.'
        )
    require_known(f"prompts, number {number}, kind", given["kind"], ("harmful", "benign"))
    own = {"id": f"own/{number}", "set": "own", "category": ""}
    # As text: numbers and names in one suite cannot be put in an order.
    own |= {name: str(given[name]) for name in own if given.get(name) is not None}
    return EvalPrompt(**own, kind=given["kind"], text=given["text"])


def require_scores(
    kinds: AbstractSet[str], args: Any, *, max_overrefusal: float | None, answered: bool, noise: bool
) -> None:
    """
    Raises ValueError where a limit, `metric_for_best_model` or noise asks for a score that the suite has not.

    Args:
        kinds (`Set[str]`):
            Of the suite's prompts.
        args ([`~transformers.TrainingArguments`]):
            Of the run.
        max_overrefusal (`float`, *optional*), answered (`bool`), noise (`bool`):
            The limit; whether answers are generated; whether prompts are read under noise.
    """
    if not kinds:
        raise ValueError(
            "prompts: is empty, so there is nothing to score. Leave it out for the starter set's prompts."
        )
    if max_overrefusal is not None and "benign" not in kinds:
        raise ValueError(
            f"max_overrefusal={max_overrefusal:g}: the suite has no benign prompt, so the limit could never be passed. Add "
            "some of kind 'benign', or leave the limit out."
        )
    if max_overrefusal is not None and not answered:
        raise ValueError(
            f"max_overrefusal={max_overrefusal:g}: new_tokens is 0, so nothing is answered and the limit could never be "
            "passed. Raise new_tokens, or leave the limit out."
        )
    if noise and kinds != {"harmful", "benign"}:
        raise ValueError(
            f"corruption: the suite has prompts of kind {', '.join(sorted(kinds))} alone, and under noise nothing but how well "
            "the two kinds are told apart is scored. Add some of the other, or leave the corruption out."
        )
    best = (args.metric_for_best_model or "").removeprefix("eval_")
    missing = {"harmful", "benign"} - kinds
    needs = [kind for kind, names in (("harmful", OF_HARMFUL), ("benign", OF_BENIGN)) if best in (*names, *OF_BOTH)]
    for kind in missing.intersection(needs):
        raise ValueError(
            f"metric_for_best_model={best!r}: the suite has no prompt of kind {kind!r}, so there is no such score and no "
            "best checkpoint. Add some, or choose another metric."
        )
    for absent, names, remedy in (
        (not answered, OF_ANSWERS, "answers: raise new_tokens, or use 'refusal_auroc'"),
        (not noise, OF_NOISE, "noise: set corruption='typos', or use 'refusal_auroc'"),
    ):
        if absent and best in names:
            raise ValueError(f"metric_for_best_model={best!r}: it is a score of {remedy}.")
    if best in _LESS_IS_BETTER and args.greater_is_better:
        raise ValueError(
            f"metric_for_best_model={best!r}: greater_is_better is True, as transformers sets it for all but losses, so the "
            "adapter that refuses most would be kept. Set greater_is_better=False, or use "
            f"'{'youden_j' if answered else 'refusal_auroc'}'."
        )
    if best in _MORE_IS_BETTER and args.greater_is_better is False:
        raise ValueError(
            f"metric_for_best_model={best!r}: greater_is_better is False, so the adapter that is worst by it would be kept. Leave "
            "greater_is_better out."
        )
