# SPDX-License-Identifier: Apache-2.0
"""The committed cards: the Hub reads them, and every number on them stands in the results file that they are of."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from hf_ckt.evaluation.comparisons.cards import result_card
from hf_ckt.evaluation.comparisons.tables import command_of
from hf_ckt.evaluation.report.numbers import HEADLINE, SCORES, label

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "model_cards").glob("*.md"))
TEMPLATE = (ROOT / "hf_ckt" / "hub" / "templates" / "model_card.md").read_text(encoding="utf-8")
# Of the package's own words beside numbers: 95 % intervals, and the year of a paper.
WORDS = {"95", "1978"}
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+|e\+\d+)?"
# A score or difference with its interval.
_TRIPLE = re.compile(rf"([+-]?{_NUMBER.removeprefix('-?')}) \[({_NUMBER}), ({_NUMBER})\](?: n=(\d+))?")


def results_of(card: Path) -> dict[str, Any]:
    return json.loads((ROOT / "examples" / "results" / f"{card.stem}.json").read_text(encoding="utf-8"))


def parts(value: Any) -> Iterator[Any]:
    """Every mapping, number and text within, but for the answers: among so many, any two digits are found."""
    if isinstance(value, dict):
        yield value
        for key, one in value.items():
            if key not in ("answers", "log_odds", "utility", "prompts"):
                yield from parts(one)
    elif isinstance(value, list):
        for one in value:
            yield from parts(one)
    else:
        yield value


def decimals(text: str) -> int:
    return len(text.partition(".")[2])


def is_rounded(text: str, value: Any) -> bool:
    """Whether a number is a value as a card writes it: with so many decimals, or six digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # A number and not its text: -0.00 is 0.
    return float(text) in (round(value, decimals(text)), float(f"{value:.6g}"))


def unknown_numbers(card: str, results: dict[str, Any]) -> list[str]:
    """What of a card's text is no number of its results file."""
    found = [*parts(results)]
    scores = [one for one in found if isinstance(one, dict) and {"low", "high"} <= one.keys()]
    unknown = []

    def is_score(match: re.Match[str]) -> bool:
        shown = match.groups()
        for one in scores:
            own = [one.get("value", one.get("difference")), one["low"], one["high"]]
            if all(is_rounded(text, value) for text, value in zip(shown[:3], own, strict=True)):
                if shown[3] is None or int(shown[3]) == one["n"]:
                    return True
        return False

    def take(match: re.Match[str]) -> str:
        unknown.extend([] if is_score(match) else [match[0]])
        return ""

    rest = _TRIPLE.sub(take, card)
    for words in sorted((label(text) for text in SCORES.values()), key=len, reverse=True):
        rest = rest.replace(words, "")
    texts = " ".join(str(one) for one in found if isinstance(one, str) and not re.fullmatch("[0-9a-f]{16,}", one))
    known = (
        WORDS | set(re.findall(_NUMBER, re.sub(r"\{[{%].*?[%}]\}", "", TEMPLATE))) | set(re.findall(_NUMBER, texts))
    )
    # How many prompts there are of a kind is a count of the file's rows.
    prompts = results["prompts"]
    counted = {sum(row["kind"] == kind and not row["corruption"] for row in prompts) for kind in ("harmful", "benign")}
    values = [*found, *counted, *(row["severity"] for row in prompts)]
    numbers = re.findall(rf"(?<![\w.]){_NUMBER}(?![\w])", rest)
    return unknown + [
        one for one in numbers if one not in known and not any(is_rounded(one, value) for value in values)
    ]


def body(card: Path) -> str:
    """What is written of the run: without metadata, comment lines and citations."""
    text = card.read_text(encoding="utf-8").split("\n---\n", 1)[1].split("\n## Citations\n")[0]
    return re.sub(r"<!--.*?-->", "", text)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_every_number_of_a_card_stands_in_its_results_file(card):
    """A number that was measured once and typed ever after outlives what it was measured on."""
    assert unknown_numbers(body(card), results_of(card)) == []


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_number_that_is_nowhere_measured_is_found(card):
    """The test above would pass on any card."""
    results, text = results_of(card), body(card)
    found = [match[0] for match in _TRIPLE.finditer(text)]
    assert len(found) > 50
    for shown in (found[0], found[-1], next(one for one in found if "n=" in one)):
        wrong = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), shown, count=2)
        assert unknown_numbers(text.replace(shown, wrong), results) == [wrong] * text.count(shown)
    seconds = f"{results['run']['training_summary']['train_runtime']:.0f} s of training"
    assert unknown_numbers(text.replace(seconds, "98765 s of training"), results) == ["98765"]
    changed = copy.deepcopy(results)
    for score in changed["models"]["after"]["scores"].values():
        score["value"] += 3.1 if score["value"] is not None else 0
    assert len(unknown_numbers(text, changed)) > 5


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_hub_reads_every_headline_score(card):
    """A card without a model index shows no score on the Hub, and one that its parser refuses shows nothing at all."""
    results, text = results_of(card), card.read_text(encoding="utf-8")
    own = [*results["models"]][-1]
    scores = {**results["models"][own]["scores"], **results["agreement"][own]}
    name, found = model_index_to_eval_results(yaml.safe_load(text.split("---\n")[1])["model-index"])
    assert sorted(map(str, ModelCard(text).data.eval_results)) == sorted(map(str, found))
    values = {one.metric_type: one.metric_value for one in found}
    assert sorted(values) == sorted(score for score in HEADLINE if score in scores)
    for score, value in values.items():
        assert value == round(scores[score]["value"], SCORES[score].decimals)
    assert re.fullmatch(r"[\w.-]+", name) and f"\n# {name}\n" in text
    assert str(result_card(results, card.stem)).strip() == text.strip()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_card_says_what_is_asked_of_one(card):
    """What a card is silent on is taken for granted."""
    text = card.read_text(encoding="utf-8")
    for heading in ("Intended use", "How to load it", "Objective", "Evaluation", "Limits", "Command and versions"):
        assert f"\n## {heading}\n" in text
    for row in ("Base model", "Its licence", "Teacher", "Data", "Trained on"):
        assert re.search(rf"^\| {row} \| .+ \|$", text, flags=re.M)
    assert command_of(results_of(card)) in text and "bias " in text and "Brackets hold 95 % intervals" in text
