# SPDX-License-Identifier: Apache-2.0
"""
How often the intervals of scores hold the truth, in simulated evaluations of the sizes that tiers ask.

    python examples/evaluation/coverage.py                  # coverage.json beside it, and the table of docs/scores.md
    python examples/evaluation/coverage.py --times 20 --json out.json --page ''     # a quick look

Of 300 evaluations a true 95 % shows as 92.5 to 97.5 % in nineteen lines of twenty, of 100 as 91 to 99 %.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from simulated import (
    ANSWER,
    PROMPT,
    SIZES,
    TEMPLATE,
    Rng,
    Rows,
    Size,
    agreement_records,
    choice_rows,
    misjudged,
    noise_rows,
    passage_rows,
    safety_rows,
)

from hf_ckt.evaluation.scoring.alignment import alignment_measures
from hf_ckt.evaluation.scoring.compared import Drawn
from hf_ckt.evaluation.scoring.intervals import DRAWS
from hf_ckt.evaluation.scoring.judge_correction import judge_errors
from hf_ckt.evaluation.scoring.noise import NOISE
from hf_ckt.evaluation.scoring.parts import Measure
from hf_ckt.evaluation.scoring.pooled import pooled_measure
from hf_ckt.evaluation.scoring.safety import SAFETY, overall_safety
from hf_ckt.evaluation.scoring.separation import AREAS
from hf_ckt.evaluation.scoring.utility import PLAIN_TEXT, RIGHT

HERE = Path(__file__).parent
Bounds = tuple[float, float]


class Line(NamedTuple):
    """One line of the results: a score, the setting in words, and what its interval should hold."""

    score: str
    setting: str
    truth: float


class Case(NamedTuple):
    """
    Evaluations of one kind.

    Args:
        size (`str`):
            Of how much.
        lines (`list[Line]`):
            What is looked at in each.
        bounds (`Callable`):
            Makes an evaluation and returns the bounds of each line.
    """

    size: str
    lines: list[Line]
    bounds: Callable[[Rng], list[Bounds]]


def bounds(measure: Measure, rows: Rows, lines: Sequence[Line]) -> list[Bounds]:
    """Returns intervals of the model "a", or of its differences to "b" where the score says so."""
    drawn = Drawn(measure, rows, DRAWS)
    own: Any = drawn.scores("a", {})
    other: Any = drawn.differences("a", "b")
    found = []
    for line in lines:
        score, _, difference = line.score.partition(", ")
        one = other[score] if difference else own[score]
        found.append((one["low"], one["high"]))
    return found


def case(size: str, measure: Measure, rows: Callable[[Rng], Rows], *lines: tuple[str, str, float]) -> Case:
    """Returns the case of a measure of simulated rows."""
    named = [Line(*line) for line in lines]
    return Case(size, named, lambda rng: bounds(measure, rows(rng), named))


def rates(tier: str, size: Size) -> Iterator[Case]:
    for rate in (0.05, 0.2, 0.5, 0.8, 0.95):
        made = partial(safety_rows, size=size, refused={"a": (1 - rate, 0.5)})
        names = ("attack_success_direct", "attack_success_jailbreak")
        yield case(tier, SAFETY, made, *((name, f"rate {rate:g}", rate) for name in names))


def discrimination(tier: str, size: Size) -> Iterator[Case]:
    for pair in (
        ((0.5, 0.5), (0.3, 0.3)),
        ((0.8, 0.3), (0.9, 0.25)),
        ((0.05, 0.02), (0.7, 0.6)),
        ((0.95, 0.05), (0.97, 0.03)),
    ):
        setting = f"refused {pair[0][0]:g} of harmful, {pair[0][1]:g} of benign"
        against = f"{setting}; against {pair[1][0]:g}, {pair[1][1]:g}"
        lines = []
        for score, values in (
            ("youden_j", [harmful - benign for harmful, benign in pair]),
            ("oss", [float(overall_safety(harmful, 1 - benign)) for harmful, benign in pair]),
        ):
            lines += [(score, setting, values[0]), (f"{score}, difference", against, values[0] - values[1])]
        yield case(tier, SAFETY, partial(safety_rows, size=size, refused=dict(zip("ab", pair, strict=True))), *lines)


def areas(tier: str, size: Size) -> Iterator[Case]:
    within, across = (math.sqrt(2 * (PROMPT**2 + ANSWER**2 + way**2)) for way in (0, TEMPLATE))
    half = (0.5, 0.5)
    for area in (0.5, 0.7, 0.9, 0.98):
        apart = NormalDist().inv_cdf(area) * within  # between the kinds
        # Of two prompts under one template, its effect falls out.
        same = 1 / size.templates
        mixed = same * area + (1 - same) * NormalDist().cdf(apart / across)
        for measure, score, truth, made in (
            (AREAS[0], "refusal_auroc", area, partial(safety_rows, size=size, refused={"a": half})),
            (AREAS[1], "refusal_auroc_jailbreak", mixed, partial(safety_rows, size=size, refused={"a": half})),
            (AREAS[2], "refusal_auroc_noise", area, partial(noise_rows, size=size, clean=half, noisy=half)),
        ):
            yield case(tier, measure, partial(set_apart, made, apart), (score, f"area {truth:.2f}", truth))


def set_apart(made: Callable[[Rng], Rows], apart: float, rng: Rng) -> Rows:
    """Returns rows whose harmful prompts have log-odds so much higher."""
    rows = made(rng)
    for row in rows["a"]:
        row["log_odds"] += apart * (row["kind"] == "harmful")
    return rows


def under_noise(tier: str, size: Size) -> Iterator[Case]:
    for clean, noisy in (((0.5, 0.5), (0.5, 0.5)), ((0.9, 0.1), (0.7, 0.2)), ((0.05, 0.03), (0.1, 0.05))):
        after, before = noisy[0] - noisy[1], clean[0] - clean[1]
        setting = f"refused {clean[0]:g} and {clean[1]:g} clean, {noisy[0]:g} and {noisy[1]:g} corrupted"
        yield case(
            tier,
            NOISE,
            partial(noise_rows, size=size, clean=clean, noisy=noisy),
            ("youden_j_noise", setting, after),
            ("youden_j_noise_difference", setting, 100 * (after - before)),
            ("noisy_refusal_harmful", setting, noisy[0]),
        )


def judged(tier: str, size: Size) -> Iterator[Case]:
    """Of a judge whose error was counted on 100 refusals and 100 answers of each kind."""
    names = ("attack_success_direct", "youden_j")
    for refused, right in (((0.7, 0.3), (0.8, 0.95)), ((0.05, 0.02), (0.8, 0.95)), ((0.95, 0.1), (0.9, 0.9))):
        setting = f"refused {refused[0]:g} and {refused[1]:g}, judge right on {right[0]:g} and {right[1]:g}"

        def made(rng: Rng, refused: Bounds = refused, right: Bounds = right) -> list[Bounds]:
            rows = safety_rows(rng, size, {"a": refused})
            errors = judge_errors([misjudged(rng, rows, right, 100)])
            corrected: Any = Drawn(SAFETY, rows, DRAWS).corrected("a", errors)
            return [(corrected[score]["low"], corrected[score]["high"]) for score in names]

        truths = (1 - refused[0], refused[0] - refused[1])
        lines = [Line(f"{score}, corrected", setting, truth) for score, truth in zip(names, truths, strict=True)]
        yield Case(tier, lines, made)


def means() -> Iterator[Case]:
    """What has no judge and no templates: agreement with a teacher, questions with options, plain text."""
    agreement, over = alignment_measures(True)[0], "multiple_choice_over_chance"
    for level in (0.5, 0.8):
        made = partial(agreement_records, responses=64, level=level)
        lines = [("kd_alignment", f"mean {level:g}", level)]
        if level == 0.5:  # nearer to 1 the better student would be cut off there
            lines += [("kd_alignment, difference", "0.05 apart", -0.05), ("kl", "skewed", 0.5)]
        yield case("64 responses", agreement, made, *lines)
    for share in (0.27, 0.6):
        made = partial(choice_rows, questions=100, right=[share, 0.3])
        lines = [(over, f"right {share:g}", 100 * share - 25)]
        lines += [(f"{over}, difference", f"right {share:g} against 0.3", 100 * (share - 0.3))]
        yield case("100 questions", RIGHT[0], made, *lines)
    lines = [("plain_text_nats", "", 3 * math.exp(0.3**2 / 2)), ("plain_text_nats, difference", "", 0.0)]
    yield case("50 passages", PLAIN_TEXT, partial(passage_rows, passages=50), *lines)


def pooled(tier: str, size: Size) -> Iterator[Case]:
    for runs in (3, 5):
        for seeds in (0.0, 0.3):
            names = [f"run {number}" for number in range(runs)]

            def made(rng: Rng, names: list[str] = names, seeds: float = seeds) -> list[Bounds]:
                rows = safety_rows(rng, size, dict.fromkeys((*names, "x", "y", "z"), (0.8, 0.3)), seeds)
                methods = {"other": ["x", "y", "z"], "method": names}
                method: Any = pooled_measure(SAFETY, rows, methods, draws=DRAWS)["method"]
                found = (method["scores"]["youden_j"], method["against"]["other"]["youden_j"])
                return [(one["low"], one["high"]) for one in found]

            setting, title = f"{runs} runs, spread of seeds {seeds:g}", "youden_j, runs pooled"
            yield Case(
                tier, [Line(title, setting, 0.5), Line(f"{title}, difference to 3 other runs", setting, 0.0)], made
            )


def cases() -> Iterator[Case]:
    """Returns all of them."""
    for tier, size in SIZES.items():
        for some in (rates, discrimination, areas, under_noise, judged):
            yield from some(tier, size)
    yield from means()
    yield from pooled("cpu", SIZES["cpu"])


def measured(one: Case, times: int, number: int) -> list[dict[str, Any]]:
    """Returns lines of the results: how often each interval held the truth, and how wide it was."""
    times = max(1, times // (3 if one.size == "gpu" else 1))
    rng = np.random.default_rng([0, number])
    found = np.array([one.bounds(rng) for _ in range(times)])  # (times, lines, 2)
    results = []
    for line, (low, high) in zip(one.lines, found.transpose(1, 2, 0), strict=True):
        held = (low <= line.truth + 1e-12) & (line.truth - 1e-12 <= high)
        result = {"score": line.score, "size": one.size, "setting": line.setting, "truth": round(line.truth, 4)}
        result |= {
            "times": times,
            "coverage": round(float(held.mean()), 4),
            "width": round(float((high - low).mean()), 4),
        }
        results.append(result)
    return results


def table(results: dict[str, Any]) -> str:
    """Returns the results by score and size, as Markdown: coverage over the settings, least, mean and most."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in results["cases"]:
        groups.setdefault((line["score"], line["size"]), []).append(line)
    lines = [
        "| score | size | settings | coverage, mean (least to most) | evaluations of each |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (score, size), some in groups.items():
        shares = [100 * line["coverage"] for line in some]
        found = f"{sum(shares) / len(shares):.1f} % ({min(shares):.1f} to {max(shares):.1f})"
        lines.append(f"| {score} | {size} | {len(some)} | {found} | {some[0]['times']} |")
    every = [100 * line["coverage"] for line in results["cases"]]
    lines.append(
        f"| all | | {len(every)} | {sum(every) / len(every):.1f} % ({min(every):.1f} to {max(every):.1f}) | |"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes the results and the page's table."""
    parser = argparse.ArgumentParser(description="Coverage of the scores' intervals by simulation.")
    parser.add_argument("--times", type=int, default=300, help="evaluations of each setting; a third for the tier gpu")
    parser.add_argument("--json", default=str(HERE / "coverage.json"), help="where the results go")
    parser.add_argument(
        "--page", default=str(HERE.parents[1] / "docs/scores.md"), help="page with the table; '' for none"
    )
    parser.add_argument(
        "--only", default="", help="scores whose name contains this; wants --json and --page of its own"
    )
    given = parser.parse_args(arguments)
    kept = {HERE / "coverage.json", HERE.parents[1] / "docs/scores.md"}
    if given.only and kept & {Path(given.json), Path(given.page)}:
        parser.error(
            "--only: a part of the scores would take the place of all of them. Give --json FILE and --page FILE or ''."
        )
    started = time.monotonic()
    lines = []
    for number, one in enumerate(cases()):
        if any(given.only in line.score for line in one.lines):
            lines += measured(one, given.times, number)
            print(f"{number}: {lines[-1]}", file=sys.stderr, flush=True)
    command = f"python examples/evaluation/coverage.py --times {given.times}"
    results = {"command": command, "draws": DRAWS, "seconds": round(time.monotonic() - started), "cases": lines}
    Path(given.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.page:
        page = Path(given.page)
        before, rest = page.read_text(encoding="utf-8").split("<!-- coverage -->\n")
        after = rest.split("<!-- /coverage -->")[1]
        text = f"{before}<!-- coverage -->\n{table(results)}\n<!-- /coverage -->{after}"
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
