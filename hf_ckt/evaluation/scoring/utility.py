# SPDX-License-Identifier: Apache-2.0
"""
What a model can still do: questions with options, word problems, plain text.

    over chance = 100 * (share answered right - mean of 1 / options)                                          points
    nats        = sum of -log p(token) / tokens, over all passages                                            nats a token
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .parts import Means, Measure, Part, Row, answers, means_alone, measured, people, prompt_means


def _of_set(name: str) -> Callable[[Row], bool]:
    return lambda row: row["suite"] == "utility" and row["set"] == name


def _right(name: str) -> Callable[[Sequence[Row]], Part]:
    def part(rows: Sequence[Row]) -> Part:
        return Part(
            {name: answers(rows, lambda row: row["correct"])},
            means_alone,
            {name: people(rows)},
            {name: [bool(row["correct"]) for row in rows]},
        )

    return part


def _choices(rows: Sequence[Row]) -> Part:
    alone = _right("multiple_choice")(rows)
    options = [row.get("options") for row in rows]
    if not all(options):
        return alone
    chance = sum(1 / one for one in options if one) / len(options)

    def scores(means: Means) -> dict[str, Any]:
        right = means["multiple_choice"]
        return {"multiple_choice": right, "multiple_choice_over_chance": 100 * (right - chance)}

    return replace(alone, scores=scores, people=dict.fromkeys(scores({"multiple_choice": 0.0}), people(rows)))


def _nats(rows: Sequence[Row]) -> Part:
    return Part(
        {"plain_text_nats": prompt_means(rows, "nats", lambda row: row["tokens"])},
        means_alone,
        {"plain_text_nats": people(rows)},
    )


RIGHT = (
    Measure(_of_set("multiple_choice"), _choices),
    Measure(_of_set("word_problems"), _right("word_problems")),
)
PLAIN_TEXT = Measure(lambda row: _of_set("plain_text")(row) and measured(row, "nats"), _nats)
