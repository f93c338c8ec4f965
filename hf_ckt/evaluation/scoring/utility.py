# SPDX-License-Identifier: Apache-2.0
"""
What a model can still do: questions with options, word problems, plain text.

    over chance = 100 * (share answered right - mean of 1 / options)                                          points
    nats        = sum of -log p(token) / tokens, over all passages                                            nats a token
"""

from collections.abc import Callable, Sequence
from typing import Any

from .parts import Means, Measure, Part, Row, answers, means_alone, people, prompt_means


def _of_set(name: str) -> Callable[[Row], bool]:
    return lambda row: row["suite"] == "utility" and row["set"] == name


def _right(name: str) -> Callable[[Sequence[Row]], Part]:
    def part(rows: Sequence[Row]) -> Part:
        options = [row.get("options") for row in rows]
        chance = sum(1 / one for one in options if one) / len(options) if all(options) else None

        def scores(means: Means) -> dict[str, Any]:
            found = {name: means[name]}
            if chance is not None:
                found[f"{name}_over_chance"] = 100 * (means[name] - chance)
            return found

        sizes = dict.fromkeys((name, f"{name}_over_chance"), people(rows))
        outcomes = {name: [bool(row["correct"]) for row in rows]}
        return Part({name: answers(rows, lambda row: row["correct"])}, scores, sizes, outcomes)

    return part


def _nats(rows: Sequence[Row]) -> Part:
    return Part(
        {"plain_text_nats": prompt_means(rows, "nats", lambda row: row["tokens"])},
        means_alone,
        {"plain_text_nats": people(rows)},
    )


RIGHT = tuple(Measure(_of_set(name), _right(name)) for name in ("multiple_choice", "word_problems"))
PLAIN_TEXT = Measure(lambda row: _of_set("plain_text")(row) and row.get("nats") is not None, _nats)
