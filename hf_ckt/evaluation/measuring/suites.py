# SPDX-License-Identifier: Apache-2.0
"""What is asked: the prompts of each suite of a tier, as rows that still want an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ...data.prompt_sets import (
    ChoiceQuestion,
    EvalPrompt,
    WordProblem,
    distinct_prompts,
    load_choices,
    load_prompts,
    load_templates,
    load_word_problems,
    set_facts,
)
from ...data.starter import load_starter_set
from .tiers import Tier

SUITES = ("direct", "jailbreak", "overrefusal", "noise", "kd", "utility")


@dataclass
class Questions:
    """
    All that the models of a run are asked.

    Args:
        rows (`list[dict]`):
            Prompts of the suites `direct`, `jailbreak`, `overrefusal` and `noise`: the columns of a completion that are
            known before it is made.
        responses (`list[tuple[str, str]]`):
            Prompts with the responses that agreement with the teacher is measured on.
        choices (`list[ChoiceQuestion]`), problems (`list[WordProblem]`):
            Of the suite `utility`.
        sets (`list[dict]`):
            Name, suite, number, source and licence of every set that is used.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    responses: list[tuple[str, str]] = field(default_factory=list)
    choices: list[ChoiceQuestion] = field(default_factory=list)
    problems: list[WordProblem] = field(default_factory=list)
    sets: list[dict[str, Any]] = field(default_factory=list)


def ask(
    tier: Tier,
    suites: Sequence[str],
    data_dir: Path | None = None,
    *,
    harmful: Sequence[EvalPrompt] | None = None,
    benign: Sequence[EvalPrompt] | None = None,
    responses: Sequence[tuple[str, str]] | None = None,
) -> Questions:
    """
    Draws the prompts of the chosen suites; the same ones for the same tier, whatever else is chosen.

    Args:
        tier ([`Tier`]):
            How much.
        suites (`Sequence[str]`):
            Of [`SUITES`].
        data_dir (`Path`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.
        harmful, benign (`Sequence[EvalPrompt]`, *optional*):
            The user's own prompts in place of the tier's sets; all of them are asked.
        responses (`Sequence[tuple[str, str]]`, *optional*):
            The user's own prompts with responses for the suite `kd`.

    Raises:
        ValueError: If there is no prompt of a kind that a suite needs.
    """
    asked = Questions()
    drawn: dict[str, list[EvalPrompt]] = {}
    if {"direct", "jailbreak", "noise"} & {*suites}:
        drawn["harmful"] = list(harmful) if harmful is not None else _spread(tier.harmful_sets, tier.direct, data_dir)
    if {"overrefusal", "noise"} & {*suites}:
        drawn["benign"] = list(benign) if benign is not None else _spread(tier.benign_sets, tier.overrefusal, data_dir)
    for kind, prompts in drawn.items():
        drawn[kind] = distinct_prompts(prompts)
        if not prompts:
            raise ValueError(
                f"{kind}: there is no prompt of this kind, so no rate of it. Give a file with at least one."
            )
    if "direct" in suites:
        asked.rows += [_row("direct", prompt) for prompt in drawn["harmful"]]
    if "jailbreak" in suites:
        templates, count = tier.jailbreak
        for template in _sample(load_templates(tier.templates, data_dir), templates, tier.templates):
            asked.rows += [
                _row("jailbreak", prompt, template=template.id, prompt=template.wrap(prompt.text))
                for prompt in drawn["harmful"][:count]
            ]
        asked.sets.append(_facts(tier.templates, "jailbreak", templates, data_dir))
    if "overrefusal" in suites:
        asked.rows += [_row("overrefusal", prompt) for prompt in drawn["benign"]]
    if "noise" in suites:
        asked.rows += _noisy(tier, [*drawn["harmful"][: tier.noise], *drawn["benign"][: tier.noise]])
    asked.sets += _set_facts(asked.rows, data_dir)
    if "kd" in suites:
        _ask_responses(asked, tier, responses)
    if "utility" in suites:
        _ask_utility(asked, tier, data_dir)
    return asked


def _row(suite: str, request: EvalPrompt, **changed: Any) -> dict[str, Any]:
    return {
        "suite": suite,
        "set": request.set,
        "prompt_id": request.id,
        "kind": request.kind,
        "category": request.category,
        "template": "",
        "corruption": "",
        "severity": 0.0,
        "seed": 0,
        "prompt": request.text,
        "request": request.text,  # what is asked, without template and noise
        **changed,
    }


def _noisy(tier: Tier, prompts: Sequence[EvalPrompt]) -> list[dict[str, Any]]:
    """The prompts clean and in every corruption; a prompt's noise depends on the seed and the prompt alone."""
    from ...discovery import load_part

    rows = [_row("noise", prompt) for prompt in prompts]
    for name in tier.corruptions:
        for severity in tier.severities:
            part = load_part("perturbations", name)(severity=severity)
            for seed in range(tier.seeds):
                rows += [
                    _row(
                        "noise",
                        prompt,
                        corruption=name,
                        severity=severity,
                        seed=seed,
                        prompt=part.apply(prompt.text, Random(f"{seed}:{name}:{prompt.text}")),
                    )
                    for prompt in prompts
                ]
    return rows


def _spread(names: Sequence[str], count: int, data_dir: Path | None) -> list[EvalPrompt]:
    """
    Up to `count` prompts, as many of each set as of the others while they last, in turns: any first part of them is
    spread over the sets too.
    """
    sets = [_sample(load_prompts(name, data_dir), count, name) for name in names]
    turns = [prompt for row in range(count) for one in sets for prompt in one[row : row + 1]]
    return turns[:count]


def _sample(items: Sequence[Any], count: int, name: str) -> list[Any]:
    return Random(f"hf_ckt:{name}").sample(list(items), min(count, len(items)))


def _ask_responses(asked: Questions, tier: Tier, responses: Sequence[tuple[str, str]] | None) -> None:
    if responses is None:
        pairs = [(row["prompt"], row["response"]) for row in load_starter_set("heldout")]
        responses = _sample(pairs, tier.responses[0], "starter-responses")
        asked.sets.append({"name": "starter, held out", "suite": "kd", "n": len(responses), **_PACKAGED})
    else:
        asked.sets.append({"name": "own responses", "suite": "kd", "n": len(set(responses)), **_OWN})
    asked.responses = list(dict.fromkeys(responses))


def _ask_utility(asked: Questions, tier: Tier, data_dir: Path | None) -> None:
    asked.choices = _sample(load_choices(tier.choices, data_dir), tier.questions, tier.choices)
    asked.sets.append(_facts(tier.choices, "utility", len(asked.choices), data_dir))
    if tier.problems is not None and tier.word_problems:
        asked.problems = _sample(load_word_problems(tier.problems, data_dir), tier.word_problems, tier.problems)
        asked.sets.append(_facts(tier.problems, "utility", len(asked.problems), data_dir))


_PACKAGED = {"source": "packaged with hf_ckt", "licence": "Apache-2.0"}
_OWN = {"source": "given by the user", "licence": "not stated"}


def _facts(name: str, suite: str, count: int, data_dir: Path | None) -> dict[str, Any]:
    facts = _PACKAGED if name == "starter" else set_facts(name, local=data_dir is not None)
    return {"name": name, "suite": suite, "n": count, **facts}


def _set_facts(rows: Sequence[Mapping[str, Any]], data_dir: Path | None) -> list[dict[str, Any]]:
    """One entry for each suite and prompt set, with its number of different prompts."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        found.setdefault((row["suite"], row["set"]), set()).add(row["prompt_id"])
    return [
        {"name": name, "suite": suite, "n": len(ids), **_known(name, data_dir)} for (suite, name), ids in found.items()
    ]


def _known(name: str, data_dir: Path | None) -> dict[str, str]:
    try:
        return set_facts(name, local=data_dir is not None)
    except ValueError:  # the user's own
        return _OWN
