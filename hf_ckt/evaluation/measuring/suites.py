# SPDX-License-Identifier: Apache-2.0
"""What is asked: the prompts of each suite of a tier, as rows that still want an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ...data.plain_text import PlainText, load_plain_text
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
from .tiers import Tier

SUITES = ("direct", "jailbreak", "overrefusal", "noise", "kd", "utility")


class Exchange(NamedTuple):
    """
    A prompt with the response that predictions are compared on.

    Args:
        id (`str`):
            Its own, the same for every model.
        kind (`str`):
            `"harmful"`, `"benign"`, or `""` where that is not known.
        prompt (`str`):
            As it is put to both models.
        response (`str`, *optional*):
            None: what the teacher itself answers.
        noise (`bool`, *optional*, defaults to `False`):
            Whether the prompt is corrupted.
    """

    id: str
    kind: str
    prompt: str
    response: str | None
    noise: bool = False


@dataclass
class Questions:
    """
    All that the models of a run are asked.

    Args:
        rows (`list[dict]`):
            Prompts of the suites `direct`, `jailbreak`, `overrefusal` and `noise`: the columns of a completion that are
            known before it is made. Under jailbreak templates there are benign ones too.
        exchanges (`list[Exchange]`):
            What agreement with the teacher is measured on.
        choices (`list[ChoiceQuestion]`), problems (`list[WordProblem]`), passages (`list[PlainText]`):
            Of the suite `utility`.
        sets (`list[dict]`):
            Name, suite, number, source and licence of every set that is used.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    choices: list[ChoiceQuestion] = field(default_factory=list)
    problems: list[WordProblem] = field(default_factory=list)
    passages: list[PlainText] = field(default_factory=list)
    sets: list[dict[str, Any]] = field(default_factory=list)


def ask(
    tier: Tier,
    suites: Sequence[str],
    data_dir: Path | None = None,
    *,
    harmful: Sequence[EvalPrompt] | None = None,
    benign: Sequence[EvalPrompt] | None = None,
    responses: Sequence[Exchange] | None = None,
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
            The user's own prompts in place of the tier's sets; all of them are asked. What is asked of some alone, under
            templates, under noise and for agreement, is asked of a draw of them: files are often sorted.
        responses (`Sequence[Exchange]`, *optional*):
            The user's own prompts with responses for the suite `kd`, in place of the teacher's own answers.

    Raises:
        ValueError: If there is no prompt of a kind that a suite needs.
    """
    asked = Questions()
    drawn: dict[str, list[EvalPrompt]] = {}
    both = {"jailbreak", "noise"} | ({"kd"} if responses is None else set())
    if {"direct", *both} & {*suites}:
        drawn["harmful"] = list(harmful) if harmful is not None else _spread(tier.harmful_sets, tier.direct, data_dir)
    if {"overrefusal", *both} & {*suites}:
        drawn["benign"] = list(benign) if benign is not None else _spread(tier.benign_sets, tier.overrefusal, data_dir)
    for kind, prompts in drawn.items():
        drawn[kind] = distinct_prompts(prompts)
        if not prompts:
            raise ValueError(
                f"{kind}: there is no prompt of this kind, so no rate of it. Give a file with at least one."
            )
    given = {"harmful": harmful, "benign": benign}
    # What is asked in several ways is asked once of each text; of the user's own, a draw.
    some = {kind: _once(prompts) for kind, prompts in drawn.items()}
    some = {
        kind: prompts if given[kind] is None else _sample(prompts, len(prompts), f"own {kind}")
        for kind, prompts in some.items()
    }
    if "direct" in suites:
        asked.rows += [_row("direct", prompt) for prompt in drawn["harmful"]]
    if "jailbreak" in suites:
        templates, count = tier.jailbreak
        for template in _sample(load_templates(tier.templates, data_dir), templates, tier.templates):
            # The same around both kinds: a model that refuses a template, whatever stands in it, gains nothing by it.
            asked.rows += [
                _row("jailbreak", prompt, template=template.id, prompt=template.wrap(prompt.text))
                for kind in ("harmful", "benign")
                for prompt in some[kind][:count]
            ]
        asked.sets.append(_facts(tier.templates, "jailbreak", templates, data_dir))
    if "overrefusal" in suites:
        asked.rows += [_row("overrefusal", prompt) for prompt in drawn["benign"]]
    if "noise" in suites:
        asked.rows += _noisy(tier, [*some["harmful"][: tier.noise], *some["benign"][: tier.noise]])
    asked.sets += _set_facts(asked.rows, data_dir)
    if "kd" in suites:
        _ask_exchanges(asked, tier, some, responses, data_dir)
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


def _once(prompts: Sequence[EvalPrompt]) -> list[EvalPrompt]:
    """A prompt that stands in two categories is a plain row of each; under templates, noise and a teacher it is one."""
    found: dict[tuple[str, str], EvalPrompt] = {}
    for prompt in prompts:
        found.setdefault((prompt.set, prompt.id), prompt)
    return list(found.values())


def _noisy(tier: Tier, prompts: Sequence[EvalPrompt]) -> list[dict[str, Any]]:
    """The prompts clean and in every corruption."""
    rows = [_row("noise", prompt) for prompt in prompts]
    for name, severity in _cells(tier):
        for seed in range(tier.seeds):
            noise = {"corruption": name, "severity": severity, "seed": seed}
            rows += [
                _row("noise", prompt, **noise, prompt=_corrupted(prompt.text, name, severity, seed))
                for prompt in prompts
            ]
    return rows


def _cells(tier: Tier) -> list[tuple[str, float]]:
    return [(name, severity) for name in tier.corruptions for severity in tier.severities]


def _corrupted(text: str, name: str, severity: float, seed: int) -> str:
    """A prompt's noise depends on the seed and the prompt alone."""
    from ...discovery import load_part

    return load_part("perturbations", name)(severity=severity).apply(text, Random(f"{seed}:{name}:{text}"))


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


def _ask_exchanges(
    asked: Questions,
    tier: Tier,
    drawn: Mapping[str, Sequence[EvalPrompt]],
    responses: Sequence[Exchange] | None,
    data_dir: Path | None,
) -> None:
    """As many prompts of each kind, clean and each once corrupted, in the corruptions' turn; or the user's own."""
    if responses is not None:
        first: dict[tuple[str, str | None], Exchange] = {}
        for one in responses:
            first.setdefault((one.prompt, one.response), one)
        asked.exchanges = list(first.values())
        asked.sets.append({"name": "own responses", "suite": "kd", "n": len(asked.exchanges), **_OWN})
        return
    cells = _cells(tier)
    for kind in ("harmful", "benign"):
        mine = drawn[kind][: tier.responses[0] // 2]
        asked.exchanges += [Exchange(prompt.id, kind, prompt.text, None) for prompt in mine]
        for number, prompt in enumerate(mine):
            name, severity = cells[number % len(cells)]
            noisy = _corrupted(prompt.text, name, severity, 0)
            asked.exchanges.append(Exchange(f"{prompt.id}, {name} {severity:g}", kind, noisy, None, noise=True))
        sets = [{"suite": "kd", "set": prompt.set, "prompt_id": prompt.id} for prompt in mine]
        asked.sets += _set_facts(sets, data_dir)


def _ask_utility(asked: Questions, tier: Tier, data_dir: Path | None) -> None:
    asked.choices = _sample(load_choices(tier.choices, data_dir), tier.questions, tier.choices)
    asked.sets.append(_facts(tier.choices, "utility", len(asked.choices), data_dir))
    if tier.problems is not None and tier.word_problems:
        asked.problems = _sample(load_word_problems(tier.problems, data_dir), tier.word_problems, tier.problems)
        asked.sets.append(_facts(tier.problems, "utility", len(asked.problems), data_dir))
    asked.passages = _sample(load_plain_text(), tier.passages, "plain text")
    asked.sets.append({"name": "plain text", "suite": "utility", "n": len(asked.passages), **_PACKAGED})


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
