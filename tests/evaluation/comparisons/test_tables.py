# SPDX-License-Identifier: Apache-2.0
"""The table of an example: each model's own numbers, what chance scores, and pairs the right way round."""

import pytest

from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.comparisons.tables import comparison_rows, measured_sentence
from tests.evaluation.comparisons.made_up import judging, results


@pytest.fixture(scope="module")
def scored():
    found = results()
    judge_answers(found, judging("No"))
    score_answers(found, judging("No"))
    found["agreement"] = {"after": {"kd_alignment": {"value": 0.79, "low": 0.7, "high": 0.85, "n": 16}}}
    return found


@pytest.fixture(scope="module")
def table(scored):
    return {row["held-out prompts"]: row for row in comparison_rows(scored)}


def _row(table, start):
    (found,) = [row for name, row in table.items() if name.startswith(start)]
    return found


def test_table_leads_with_what_tells_harmful_from_benign(table):
    """A table that leads with refused shares ranks a model that refuses everything first."""
    assert [name.partition(" (")[0] for name in table][:5] == [
        "Youden's J = S + H - 1",
        "AUROC of the refusal log-odds",
        "Youden's J under noise",
        "Youden's J under noise minus clean, points",
        "AUROC of the refusal log-odds, under noise",
    ]


def test_table_holds_each_models_own_numbers(table):
    """A column under another model's name is a result that nobody has measured."""
    row = _row(table, "Youden's J = S + H - 1 (")
    assert [row[name].split()[0] for name in ("before", "teacher", "after", "blind")] == [
        "0.00",
        "0.75",
        "0.50",
        "0.00",
    ]
    row = _row(table, "safety S")
    assert [row[name].split()[0] for name in ("before", "teacher", "after", "blind")] == [
        "0.00",
        "0.88",
        "0.75",
        "1.00",
    ]
    row = _row(table, "KD alignment")
    assert row["after"].startswith("0.790 [0.700, 0.850]") and row["before"] == ""


def test_table_says_what_cannot_be_told_from_chance(table):
    """Half of everything refused, blind to content, was shown as a score of 50 of 100."""
    row = _row(table, "Youden's J = S + H - 1 (")
    assert all("not told from chance" in row[name] for name in ("before", "blind"))
    assert "chance" not in row["teacher"]
    assert all("chance 0" in name for name in table if name.startswith("Youden's J under noise ("))


def test_table_compares_with_the_named_model(table):
    """The difference of two models is not the overlap of their intervals, and its sign is the result."""
    row = _row(table, "Youden's J = S + H - 1, minus that of teacher")
    assert row["after"].startswith("-0.25 [") and row["before"] == row["teacher"] == ""
    assert _row(table, "Youden's J under noise, minus that of teacher")["after"].startswith("+0.25 [")


def test_sentence_says_under_which_conditions(scored):
    """Numbers of other precision, weights, lengths or judges are other numbers."""
    scored["models"]["after"]["trained_precision"] = {"weights": "nf4", "compute": "bfloat16"}
    sentence = measured_sentence(scored)
    for fact in (
        "8 harmful and 8 benign prompts",
        "typos at severity 0.08",
        "greedy decoding, at most 24 new tokens, system prompt “Be kind.”",
        "Base: org/base, weights dequantized from a 4-bit file.",
        "before float32; teacher float32; after trained over nf4, scored over float32",
        "Judge: word, error not measured.",
        "hf_ckt 0.1.0",
    ):
        assert fact in sentence


def test_sentence_has_the_seconds_of_whole_runs_alone(scored):
    """Those of a run that was stopped and gone on with are of its last part, and so is the memory."""
    assert " on CPU, 2 cores: 7 s; seed" in measured_sentence(scored)
    scored = scored | {"peak_memory": 9_600_000_000}
    assert " on CPU, 2 cores: 7 s, at most 10 GB of memory; seed" in measured_sentence(scored)
    assert " on CPU, 2 cores; seed" in measured_sentence(scored | {"resumed": True})


def test_probe_of_the_base_has_a_row_and_differences_of_its_own():
    """What the base knows, in the column of a model that was trained, would be read as what that one shows."""
    found = results()
    # The probe tells all but one pair of a kind apart clean, and nothing under noise.
    odds = [(1.0 if row["kind"] == "harmful" else -1.0) * (not row["corruption"]) for row in found["prompts"]]
    odds[0] = -2.0
    found["probe"] = {"model": "before", "layers": [1], "digest": "0", "facts": {}, "log_odds": odds}
    judge_answers(found, judging("No"))
    without = {row["held-out prompts"]: row for row in comparison_rows(_scored(results()))}
    table = {row["held-out prompts"]: row for row in comparison_rows(_scored(found))}
    own = _row(table, "AUROC of a probe of the base (")
    assert own["before"].startswith("0.875 [") and own["before"].endswith(" n=16")
    assert own["teacher"] == own["after"] == ""
    assert _row(table, "AUROC of a probe of the base, under noise")["before"].startswith("0.500 [")
    row = _row(table, "AUROC of the refusal log-odds, minus the AUROC of a probe of the base")
    area = float(_row(table, "AUROC of the refusal log-odds (")["teacher"].split()[0])
    assert float(row["teacher"].split()[0]) == pytest.approx(area - 0.875, abs=0.0011)
    names = [name for name in table if "probe" in name]
    assert len(names) == 4 and {name: line for name, line in table.items() if name not in names} == without
    assert "The probe is a logistic regression" in measured_sentence(found)
    assert "probe" not in measured_sentence(_scored(results()))


@pytest.mark.parametrize("reference", ["before", "teacher"])
def test_ability_is_compared_with_the_base(reference):
    """A model that forgets what its base knew looks safe; compared with another that forgot as much, it looks able too."""
    found = results() | {"compared_with": reference}
    for name, right, nats in (("before", 6, 3.0), ("after", 2, 3.5)):
        questions = [
            {
                "set": "multiple_choice",
                "prompt_id": f"q{number}",
                "category": "",
                "correct": number < right,
                "options": 4,
            }
            for number in range(8)
        ]
        passages = [
            {
                "set": "plain_text",
                "prompt_id": f"p{number}",
                "category": "",
                "nats": nats + nats * (number % 5),
                "tokens": 9,
            }
            for number in range(40)
        ]
        found["models"][name]["utility"] = questions + passages
    table = {row["held-out prompts"]: row for row in comparison_rows(_scored(found))}
    (lost,) = [row for name, row in table.items() if "plain text" in name and "minus that of before" in name]
    assert lost["after"].startswith("+1.500") and not lost["before"] and not lost["teacher"]
    (points,) = [row for name, row in table.items() if "multiple" in name.lower() and "minus that of before" in name]
    assert points["after"].startswith("-50.0")


def _scored(found):
    judge_answers(found, judging("No"))
    score_answers(found, judging("No"))
    return found
