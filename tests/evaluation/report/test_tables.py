# SPDX-License-Identifier: Apache-2.0
"""Markdown tables say what the results say, number for number, and what is missing."""

import re

import pytest

from hf_ckt.evaluation.report import numbers, tables
from hf_ckt.evaluation.report.findings import Findings
from hf_ckt.evaluation.report.numbers import SCORES, difference_word, judge_sentence, score_text
from hf_ckt.evaluation.report.tables import SMOKE, headline_table, markdown, plain, score_table, table
from tests.evaluation.report import made_up


def _rows(text, after="", head=""):
    """Cells of the first Markdown table after a heading whose first line begins so; escaped bars stay in their cell."""
    lines = text[text.index(after) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head}"))
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [found[0], *found[2:]]


def test_score_table_shows_every_number_of_the_results():
    """A table that rounds twice, drops a bound or swaps two models is believed all the same."""
    results = made_up.results()
    heads, *rows = _rows(score_table(results))
    assert heads[1:] == ["base", "SFT", "full objective"]
    shown = {row[0].rsplit(" (", 1)[0]: row[1:] for row in rows}
    assert len(shown) == len({name for model in results["models"].values() for name in model["scores"]})
    for column, model in enumerate(results["models"].values()):
        for name, score in model["scores"].items():
            title, decimals = score_text(name, results)[:2]
            cell = shown[title][column]
            if score["value"] is None:
                assert cell == "-"
                continue
            numbers = [score["value"], *([] if score["low"] is None else [score["low"], score["high"]])]
            assert re.findall(r"-?\d+\.\d+", cell) == [f"{value:.{decimals}f}" for value in numbers]
            assert cell.endswith(f"n={score['n']}")


def test_score_table_by_hand():
    """The test above shares the titles with what it tests; this one is written out."""
    results = made_up.results()
    score = {"value": 0.125, "low": 0.0625, "high": 0.25, "n": 16, "interval": "wilson"}
    undefined = dict.fromkeys(("value", "low", "high", "interval")) | {"n": 4}
    results["models"] = {
        "a": {"title": "A", "scores": {"overrefusal": score, "kl": undefined}},
        "b": {"title": "B", "scores": {"attack_success_direct": score | {"value": 1.0, "high": 1.0}, "mine": score}},
    }
    assert score_table(results).splitlines() == [
        "| score | A | B |",
        "| --- | --- | --- |",
        "| attack success (string judge), direct (less is better) |  | 1.00 [0.06, 1.00] n=16 |",
        "| over-refusal (less is better) | 0.12 [0.06, 0.25] n=16 |  |",
        "| KL(teacher, student), nats (less is better) | - |  |",
        "| mine |  | 0.125 [0.062, 0.250] n=16 |",
    ]
    assert len(headline_table(results).splitlines()) == 4


def test_markdown_has_every_cell_of_noise_and_calibration():
    """A grid filled by position puts a severity under another one as soon as one cell is missing."""
    results = made_up.results()
    del results["models"]["sft"]["noise"][2]
    text = markdown(Findings(results))
    noise = _rows(text, "## Robustness to noise")
    assert len(noise) == 1 + 17
    cells = {tuple(row[:3]): row for row in noise[1:]}
    for model in results["models"].values():
        for one in model["noise"]:
            row = cells[model["title"], one["corruption"].replace("_", " "), f"{one['severity']}"]
            assert row[3:5] == [f"{one['oss']:.1f}", f"{one['oss_ratio']:.3f}"]
    bins = _rows(text, "## Agreement with the teacher")
    assert bins[1][:1] == ["base"] and len(bins) == 31
    assert bins[1][3:] == ["0.050", f"{results['models']['base']['calibration'][0]['agreement']:.3f}", "200"]


def test_differences_say_which_way_is_better():
    """+0.37 more refusals reads like a gain; the sign alone does not tell."""
    rows = {row[0]: row[1:] for row in _rows(markdown(Findings(made_up.results())), head="difference")}
    assert rows["attack success (string judge), direct"][0] == "-0.51 [-0.75, -0.38], better"
    assert rows["over-refusal"] == ["+0.37 [0.20, 0.50], worse", "+0.12 [-0.02, 0.50], no clear difference"]
    assert rows["Overall Safety Score, 0 to 100"][1].endswith("better")
    assert difference_word({"low": 0.0, "high": 1.0}, "more") == "no clear difference"
    assert difference_word({"low": 0.5, "high": 1.0}, "") == ""


def test_judge_and_its_error_stand_beside_every_judged_table():
    """A rate by a string judge that is quoted without the judge's error is taken for the truth."""
    results = made_up.results()
    sentence = judge_sentence(results)
    for fact in (
        "rule",
        "XSTest, human labels (n=2250)",
        "accuracy 0.91",
        "bias +0.03 on benign",
        "bias -0.09 on harmful",
    ):
        assert fact in sentence
    text = markdown(Findings(results))
    for heading in (
        "Headline scores",
        "Base against aligned",
        "Attack success by category",
        "Over-refusal by category",
    ):
        section = text[text.index(f"## {heading}") :].split("\n## ")[0]
        assert "(n=2250)" in section, heading
    results["judge"] |= {"error": [], "benign": "advbench", "benign_error": results["judge"]["error"]}
    assert judge_sentence(results) == (
        "Judge: rule, error not measured. Judge of benign prompts: advbench; on XSTest, human labels (n=2250): accuracy "
        "0.91, bias +0.03 on benign prompts, bias -0.09 on harmful prompts."
    )


def test_harness_is_shown_with_its_own_conditions():
    """Merged into one table, versions and settings of two runs would each be claimed of the other."""
    text = markdown(Findings(made_up.results(), lm_eval=made_up.lm_eval()))
    assert _rows(text, "## lm-eval")[1] == ["MMLU", "base", "acc", "0.301 [0.241, 0.360]", "0.031", "250", "5"]
    versions = dict(_rows(text, head="library"))
    assert versions["torch"] == "2.13.0" and versions["torch (lm-eval)"] == "2.14.0"
    assert "hf_ckt (lm-eval)" not in versions
    settings = dict(_rows(text, head="setting"))
    assert settings["lm-eval limit"] == "250" and settings["lm-eval command"] == "hf-ckt lm-eval --limit 250"


def test_attack_success_is_called_what_the_judge_measures():
    """Not being refused is not harm: only the judge knows which of the two it saw."""
    results = made_up.results()
    results["judge"]["measures"] = "attack success (classifier)"
    text = markdown(Findings(results))
    assert "attack success (classifier), jailbreak" in text and "string judge" not in text


@pytest.mark.parametrize(
    "suite,keys,scores,sentence",
    [
        ("noise", ("noise",), ("noise_robustness",), "Robustness to noise was not measured: left out by --only."),
        ("kd", ("calibration",), ("kd_alignment",), "Agreement with a teacher was not measured: left out by --only."),
        ("direct", ("by_category",), ("oss",), "Attack success by category was not measured: left out by --only."),
    ],
)
def test_missing_parts_are_one_sentence_with_the_reason(suite, keys, scores, sentence):
    """An empty table, or a section that is just not there, looks like a fault of the report."""
    results = made_up.results()
    results["left_out"] = {suite: "left out by --only"}
    for model in results["models"].values():
        for key in keys:
            del model[key]
        for score in scores:
            del model["scores"][score]
    text = markdown(Findings(results))
    assert text.count(sentence) >= 1
    assert not re.search(r"^## [^\n]+\n\n(\| |## )?\n", text)


def test_one_model_is_not_compared():
    """'Base against aligned' over a lone base would promise what is not there."""
    results = made_up.results()
    results["models"] = {"base": results["models"]["base"]}
    text = markdown(Findings(results))
    assert "Only one model was evaluated" in text and "against base" not in text and "## All scores" in text
    assert "lm-eval was not run" in text


def test_smoke_tier_is_no_result():
    """The smoke tier's numbers are quoted as soon as they stand in a table without a word."""
    results = made_up.results()
    assert SMOKE not in markdown(Findings(results))
    results["tier"] = "smoke"
    assert SMOKE in markdown(Findings(results))


def test_names_from_outside_are_no_markup():
    """A category of the user's own file could break the table or load a picture from elsewhere."""
    hostile = "a|b\n| ![x](https://example.org/x.png) <img src=x> `c` *d* \\"
    (row,) = table([[hostile]]).splitlines()[:1]
    assert row.count("|") - row.count("\\|") == 2
    assert "](" not in row and "<img" not in row
    results = made_up.results()
    results["models"]["base"]["title"] = hostile
    text = markdown(Findings(results))
    assert len(_rows(text)[0]) == 4 and "](https" not in text
    assert plain("0.50 [0.25, 0.75] n=12, self_harm") == "0.50 [0.25, 0.75] n=12, self_harm"


def test_markdown_holds_no_answer():
    """Answers to harmful prompts belong behind a fold, and Markdown has none that all viewers keep shut."""
    text = markdown(Findings(made_up.results(), made_up.rows()), ["headline"])
    assert made_up._REFUSAL not in text and "landlord" not in text
    assert text.count("](plots/") == 1


def test_every_listed_score_has_a_title_of_its_own():
    """Two scores under one title cannot be told apart."""
    assert len({text.title for text in SCORES.values()}) == len(SCORES)


def test_models_are_shown_with_how_they_were_asked():
    """A template that was borrowed or a penalty that was kept is looked for beside the scores that it made."""
    results = made_up.results()
    plain = tables.model_rows(results)
    assert plain[0] == ["title", "model", "adapter"]  # of an older file nothing is made up
    first, second = list(results["models"].values())[:2]
    first |= {"chat": {"tokenizer": "base", "template": "mine", "system_prompt_sent_as": "user"}}
    second |= {"trained_on": "base", "generation": {"repetition_penalty": 1.1, "set_aside": {}}}
    rows = tables.model_rows(results)
    assert rows[0][3:] == ["trained on", "tokenizer", "chat template", "system prompt sent as", "generation"]
    assert rows[1][3:] == ["", "base", "mine", "user", ""]
    assert rows[2][3] == "base" and "repetition_penalty 1.1" in rows[2][-1]
    results["generation"]["system_prompt"] = "Be kind."
    assert f"in front of the user's text for {first['title']}" in numbers.conditions_sentence(results)
