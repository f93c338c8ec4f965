# SPDX-License-Identifier: Apache-2.0
"""
How often the intervals of scores hold the truth, in simulated evaluations of the sizes that tiers ask.

    python examples/evaluation/coverage.py                  # coverage.json beside it, and the table of docs/scores.md
    python examples/evaluation/coverage.py --times 20 --json out.json --page ''     # a quick look

Of 400 evaluations a true 95 % shows as 93 to 97 % in nineteen lines of twenty.
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
from hf_ckt.evaluation.scoring.judge_correction import judge_errors
from hf_ckt.evaluation.scoring.noise import NOISE
from hf_ckt.evaluation.scoring.parts import Measure
from hf_ckt.evaluation.scoring.pooled import pooled_measure
from hf_ckt.evaluation.scoring.safety import SAFETY, overall_safety
from hf_ckt.evaluation.scoring.separation import AREAS
from hf_ckt.evaluation.scoring.utility import PLAIN_TEXT, RIGHT

HERE = Path(__file__).parent
DRAWS = 1_000
Bounds = tuple[float, float]


class Case(NamedTuple):
    """
    One line of the results.

    Args:
        score, size, setting (`str`):
            Which score, of how much, of which model.
        truth (`float`):
            What the interval should hold.
        interval (`Callable`):
            Makes an evaluation and returns the bounds.
    """

    score: str
    size: str
    setting: str
    truth: float
    interval: Callable[[Rng], Bounds]


def bounds(measure: Measure, rows: Rows, score: str, other: str | None = None) -> Bounds:
    """Returns the interval of the first model's score, or of its difference to another's."""
    drawn = Drawn(measure, rows, DRAWS)
    first = next(iter(rows))
    found: Any = (drawn.scores(first, {}) if other is None else drawn.differences(first, other))[score]
    return found["low"], found["high"]


def rates(tier: str, size: Size) -> Iterator[Case]:
    for rate in (0.05, 0.2, 0.5, 0.8, 0.95):
        for score in ("attack_success_direct", "attack_success_jailbreak"):

            def interval(rng: Rng, rate: float = rate, score: str = score) -> Bounds:
                return bounds(SAFETY, safety_rows(rng, size, {"a": (1 - rate, 0.5)}), score)

            yield Case(score, tier, f"rate {rate:g}", rate, interval)


def discrimination(tier: str, size: Size) -> Iterator[Case]:
    for pair in (
        ((0.5, 0.5), (0.3, 0.3)),
        ((0.8, 0.3), (0.9, 0.25)),
        ((0.05, 0.02), (0.7, 0.6)),
        ((0.95, 0.05), (0.97, 0.03)),
    ):
        refused = dict(zip("ab", pair, strict=True))
        youden = [harmful - benign for harmful, benign in pair]
        oss = [float(overall_safety(harmful, 1 - benign)) for harmful, benign in pair]
        setting = f"refused {pair[0][0]:g} of harmful, {pair[0][1]:g} of benign"
        for score, truth in (("youden_j", youden), ("oss", oss)):
            for other, value in ((None, truth[0]), ("b", truth[0] - truth[1])):

                def interval(
                    rng: Rng, score: str = score, other: str | None = other, refused: dict[str, Bounds] = refused
                ) -> Bounds:
                    return bounds(SAFETY, safety_rows(rng, size, refused), score, other)

                against = f"; against {pair[1][0]:g}, {pair[1][1]:g}" if other else ""
                yield Case(score + ", difference" * bool(other), tier, setting + against, value, interval)


def areas(tier: str, size: Size) -> Iterator[Case]:
    within, across = (math.sqrt(2 * (PROMPT**2 + ANSWER**2 + way**2)) for way in (0, TEMPLATE))
    for area in (0.5, 0.7, 0.9, 0.98):
        apart = NormalDist().inv_cdf(area) * within  # between the kinds
        # Of two prompts under one template, its effect falls out.
        same = 1 / size.templates
        mixed = same * area + (1 - same) * NormalDist().cdf(apart / across)
        for number, score, truth in (
            (0, "refusal_auroc", area),
            (1, "refusal_auroc_jailbreak", mixed),
            (2, "refusal_auroc_noise", area),
        ):

            def interval(rng: Rng, number: int = number, score: str = score, apart: float = apart) -> Bounds:
                half = (0.5, 0.5)
                rows = noise_rows(rng, size, half, half) if number == 2 else safety_rows(rng, size, {"a": half})
                for row in rows["a"]:
                    row["log_odds"] += apart * (row["kind"] == "harmful")
                return bounds(AREAS[number], rows, score)

            yield Case(score, tier, f"area {truth:.2f}", truth, interval)


def under_noise(tier: str, size: Size) -> Iterator[Case]:
    for clean, noisy in (((0.5, 0.5), (0.5, 0.5)), ((0.9, 0.1), (0.7, 0.2)), ((0.05, 0.03), (0.1, 0.05))):
        after, before = noisy[0] - noisy[1], clean[0] - clean[1]
        setting = f"refused {clean[0]:g} and {clean[1]:g} clean, {noisy[0]:g} and {noisy[1]:g} corrupted"
        for score, truth in (
            ("youden_j_noise", after),
            ("youden_j_noise_difference", 100 * (after - before)),
            ("noisy_refusal_harmful", noisy[0]),
        ):

            def interval(rng: Rng, score: str = score, clean: Bounds = clean, noisy: Bounds = noisy) -> Bounds:
                return bounds(NOISE, noise_rows(rng, size, clean, noisy), score)

            yield Case(score, tier, setting, truth, interval)


def judged(tier: str, size: Size) -> Iterator[Case]:
    """Of a judge whose error was counted on 100 refusals and 100 answers of each kind."""
    for refused, right in (((0.7, 0.3), (0.8, 0.95)), ((0.05, 0.02), (0.8, 0.95)), ((0.95, 0.1), (0.9, 0.9))):
        for score, truth in (("attack_success_direct", 1 - refused[0]), ("youden_j", refused[0] - refused[1])):

            def interval(rng: Rng, score: str = score, refused: Bounds = refused, right: Bounds = right) -> Bounds:
                rows = safety_rows(rng, size, {"a": refused})
                errors = judge_errors([misjudged(rng, rows, right, 100)])
                corrected: Any = Drawn(SAFETY, rows, DRAWS).corrected("a", errors)[score]
                return corrected["low"], corrected["high"]

            setting = f"refused {refused[0]:g} and {refused[1]:g}, judge right on {right[0]:g} and {right[1]:g}"
            yield Case(f"{score}, corrected", tier, setting, truth, interval)


def means() -> Iterator[Case]:
    """What has no judge and no templates: agreement with a teacher, questions with options, plain text."""
    agreement = alignment_measures(True)[0]
    over, mean = "multiple_choice_over_chance", 3 * math.exp(0.3**2 / 2)
    found: list[tuple[str, str, str, float, Measure, Callable[[Rng], Rows]]] = []
    for level in (0.5, 0.8):
        made = partial(agreement_records, responses=64, level=level)
        found.append(("kd_alignment", "64 responses", f"mean {level:g}", level, agreement, made))
    made = partial(agreement_records, responses=64, level=0.5)
    found.append(("kd_alignment, difference", "64 responses", "0.05 apart", -0.05, agreement, made))
    found.append(("kl", "64 responses", "skewed", 0.5, agreement, made))
    for share in (0.27, 0.6):
        made = partial(choice_rows, questions=100, right=[share])
        found.append((over, "100 questions", f"right {share:g}", 100 * share - 25, RIGHT[0], made))
    made = partial(choice_rows, questions=100, right=[0.35, 0.3])
    found.append((f"{over}, difference", "100 questions", "right 0.35 against 0.3", 5.0, RIGHT[0], made))
    made = partial(passage_rows, passages=50)
    for score, truth in (("plain_text_nats", mean), ("plain_text_nats, difference", 0.0)):
        found.append((score, "50 passages", "lengths alike", truth, PLAIN_TEXT, made))
    for score, size, setting, truth, measure, made in found:

        def interval(rng: Rng, score: str = score, measure: Measure = measure, made: Any = made) -> Bounds:
            name, _, difference = score.partition(", ")
            return bounds(measure, made(rng), name, "b" if difference else None)

        yield Case(score, size, setting, truth, interval)


def pooled(tier: str, size: Size) -> Iterator[Case]:
    for runs in (3, 5):
        for seeds in (0.0, 0.3):
            for other in ("", "other"):

                def interval(rng: Rng, other: str = other, runs: int = runs, seeds: float = seeds) -> Bounds:
                    names = [f"run {number}" for number in range(runs)]
                    rows = safety_rows(rng, size, dict.fromkeys((*names, "x", "y", "z"), (0.8, 0.3)), seeds)
                    methods = {"other": ["x", "y", "z"], "method": names}
                    if not other:
                        rows, methods = {name: rows[name] for name in names}, {"method": names}
                    found: Any = pooled_measure(SAFETY, rows, methods, draws=DRAWS)["method"]
                    one = found["against"][other]["youden_j"] if other else found["scores"]["youden_j"]
                    return one["low"], one["high"]

                title = "youden_j, runs pooled" + ", difference to 3 other runs" * bool(other)
                setting = f"{runs} runs, spread of seeds {seeds:g}"
                yield Case(title, tier, setting, 0.0 if other else 0.5, interval)


def cases() -> Iterator[Case]:
    for tier, size in SIZES.items():
        for some in (rates, discrimination, areas, under_noise, judged):
            yield from some(tier, size)
    yield from means()
    yield from pooled("cpu", SIZES["cpu"])


def measured(case: Case, times: int, number: int) -> dict[str, Any]:
    """Returns a line of the results: how often the interval held the truth, and how wide it was."""
    rng = np.random.default_rng([0, number])
    found = [case.interval(rng) for _ in range(times)]
    held = sum(low <= case.truth + 1e-12 and case.truth - 1e-12 <= high for low, high in found)
    return {
        "score": case.score,
        "size": case.size,
        "setting": case.setting,
        "truth": round(case.truth, 4),
        "times": times,
        "coverage": round(held / times, 4),
        "width": round(float(np.mean([high - low for low, high in found])), 4),
    }


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
    parser.add_argument(
        "--times", type=int, default=400, help="evaluations of each setting; a quarter for the tier gpu"
    )
    parser.add_argument("--json", default=str(HERE / "coverage.json"), help="where the results go")
    parser.add_argument(
        "--page", default=str(HERE.parents[1] / "docs/scores.md"), help="page with the table; '' for none"
    )
    parser.add_argument("--only", default="", help="scores whose name contains this")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    lines = []
    for number, case in enumerate(cases()):
        if given.only in case.score:
            lines.append(measured(case, max(1, given.times // (4 if case.size == "gpu" else 1)), number))
            print(*lines[-1].values(), sep=" | ", file=sys.stderr, flush=True)
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
