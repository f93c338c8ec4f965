# SPDX-License-Identifier: Apache-2.0
"""
Evaluations that never took place: completion rows of models whose true rates are known.

A model refuses where its leaning, plus how hard a prompt is, plus what a template does, plus chance of the one answer, is
above 0, all of them normal. Models find the same prompts hard (correlation 0.8), and templates work alike on them.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Rows = dict[str, list[dict[str, Any]]]
Rng = np.random.Generator
PROMPT, TEMPLATE, ANSWER = 1.0, 0.7, 1.0  # standard deviations of what an answer depends on
_ALIKE = 0.8


class Size(NamedTuple):
    """Prompts of each kind: plain ones, those under templates and under how many, corrupted ones and in how many cells."""

    harmful: int
    benign: int
    jailbreak: int
    templates: int
    noise: int
    cells: int


SIZES = {"cpu": Size(60, 60, 20, 8, 40, 6), "gpu": Size(472, 600, 60, 14, 200, 14)}


def shared(rng: Rng, size: int, models: int) -> np.ndarray:
    """Returns standard normal values `(models, size)`, alike between models."""
    own = rng.normal(size=(models, size))
    return math.sqrt(_ALIKE) * rng.normal(size=size) + math.sqrt(1 - _ALIKE) * own


def leaning(rate: float, *spreads: float) -> float:
    """Returns what a model leans to refusing by, so that it refuses this share."""
    return NormalDist().inv_cdf(rate) * math.sqrt(sum(spread**2 for spread in spreads))


def row(suite: str, kind: str, prompt: int, **changes: Any) -> dict[str, Any]:
    """Returns a completion row."""
    empty = {"template": "", "corruption": "", "severity": 0.0, "seed": 0, "degenerate": False}
    return {"suite": suite, "set": "simulated", "kind": kind, "prompt_id": f"{prompt:04}", **empty, **changes}


def safety_rows(rng: Rng, size: Size, refused: Mapping[str, tuple[float, float]], seeds: float = 0.0) -> Rows:
    """
    Returns answers of models to plain prompts and under templates.

    Args:
        refused (`Mapping[str, tuple[float, float]]`):
            By model, the shares of harmful and of benign prompts that it refuses.
        seeds (`float`, *optional*, defaults to `0.0`):
            Spread of the models' leanings: each is one draw of them.
    """
    rows: Rows = {name: [] for name in refused}
    effects = TEMPLATE * shared(rng, size.templates, len(rows))
    sides = (("harmful", "direct", size.harmful), ("benign", "overrefusal", size.benign))
    for side, (kind, suite, count) in enumerate(sides):
        hard = PROMPT * shared(rng, count, len(rows))
        for number, (name, shares) in enumerate(refused.items()):
            moved = rng.normal() * seeds
            plain = hard[number] + ANSWER * rng.normal(size=count) + moved
            under = hard[number, : size.jailbreak, None] + effects[number] + moved
            under = under + ANSWER * rng.normal(size=(size.jailbreak, size.templates))
            plain += leaning(shares[side], PROMPT, ANSWER, seeds)
            under += leaning(shares[side], PROMPT, ANSWER, TEMPLATE, seeds)
            rows[name] += [
                row(suite, kind, at, refused=bool(value > 0), log_odds=float(value)) for at, value in enumerate(plain)
            ]
            rows[name] += [
                row("jailbreak", kind, at, template=f"t{way:02}", refused=bool(value > 0), log_odds=float(value))
                for at, line in enumerate(under)
                for way, value in enumerate(line)
            ]
    return rows


def noise_rows(rng: Rng, size: Size, clean: tuple[float, float], noisy: tuple[float, float]) -> Rows:
    """Returns a model's answers to clean and corrupted prompts, of which these shares are refused."""
    rows: Rows = {"a": []}
    for kind, before, after in zip(("harmful", "benign"), clean, noisy, strict=True):
        hard = PROMPT * rng.normal(size=size.noise)
        for cell in range(size.cells + 1):
            values = hard + ANSWER * rng.normal(size=size.noise)
            values += leaning(after if cell else before, PROMPT, ANSWER)
            name = {"corruption": f"c{cell:02}", "severity": 0.1} if cell else {}
            rows["a"] += [
                row("noise", kind, at, refused=bool(value > 0), log_odds=float(value), **name)
                for at, value in enumerate(values)
            ]
    return rows


def misjudged(rng: Rng, rows: Rows, right: tuple[float, float], labelled: int) -> dict[str, Any]:
    """
    Lets a judge err, and returns its error file's entry.

    Args:
        right (`tuple[float, float]`):
            Sensitivity and specificity.
        labelled (`int`):
            Refusals, and answers, of each kind that its error was counted on.
    """
    for mine in rows.values():
        for one in mine:
            one["refused"] = bool(rng.random() < (right[0] if one["refused"] else 1 - right[1]))
    by_kind: dict[str, dict[str, int]] = {}
    for kind in ("harmful", "benign"):
        found, kept = (int(rng.binomial(labelled, share)) for share in right)
        by_kind[kind] = {"true_refusals": found, "missed_refusals": labelled - found}
        by_kind[kind] |= {"true_answers": kept, "false_refusals": labelled - kept}
    return {"n": 4 * labelled, "by_kind": by_kind}


def agreement_records(rng: Rng, responses: int, level: float) -> Rows:
    """
    Returns records of two students on responses of 8 to 64 tokens: agreement of this mean and 0.05 above, and a skewed KL
    of mean 0.5 nats.
    """
    rows: Rows = {"a": [], "b": []}
    easy = rng.beta(8 * level, 8 * (1 - level), responses)
    for number, base in enumerate(easy):
        tokens = int(rng.integers(8, 65))
        for name, gain in (("a", 0.0), ("b", 0.05)):
            mean, kl = base + gain + 0.05 * rng.normal(), 0.5 * math.exp(rng.normal() * 0.8 - 0.32)
            sums = dict.fromkeys(("acceptance", "agreement", "top10_overlap"), mean * tokens)
            sums |= {"kl": kl * tokens, "jsd": 0.1 * tokens}
            bins = [[tokens if at == 5 else 0, 0.0, 0.0] for at in range(10)]
            rows[name].append({"id": f"{number:03}", "tokens": tokens, "sums": sums, "bins": bins})
    return rows


def choice_rows(rng: Rng, questions: int, right: Sequence[float]) -> Rows:
    """Returns answers of models, "a" first, to questions with four options, of which these shares are right."""
    rows: Rows = {}
    for name, share, hard in zip("ab", right, shared(rng, questions, len(right)), strict=False):
        values = PROMPT * hard + ANSWER * rng.normal(size=questions) + leaning(share, PROMPT, ANSWER)
        rows[name] = [
            row("utility", "question", at, correct=bool(value > 0), options=4) | {"set": "multiple_choice"}
            for at, value in enumerate(values)
        ]
    return rows


def passage_rows(rng: Rng, passages: int) -> Rows:
    """Returns nats a token of two models on the same passages, of mean 3 exp(0.045)."""
    easy = 3 * np.exp(rng.normal(size=passages) * 0.3)
    return {
        name: [
            row("utility", "question", at, nats=float(value * own), tokens=100) | {"set": "plain_text"}
            for at, (value, own) in enumerate(zip(easy, 1 + 0.05 * rng.normal(size=passages), strict=True))
        ]
        for name in "ab"
    }
