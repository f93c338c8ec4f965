# SPDX-License-Identifier: Apache-2.0
"""Scores as a card's metadata: those of the one model, all headline scores, and as the Hub reads them."""

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_ckt.evaluation.model_index import SUITES, headline_results
from hf_ckt.evaluation.report.numbers import HEADLINE
from tests.evaluation.report import made_up


def test_every_headline_score_names_its_prompts():
    """A score that is headed by the report and not by the card is one that the Hub does not show."""
    assert sorted(SUITES) == sorted(HEADLINE)


@pytest.mark.parametrize("name", list(made_up.MODELS))
def test_scores_are_those_of_the_model(name):
    """Of three models in a file, the scores of the best one would be on every card."""
    results = made_up.results()
    scores = results["models"][name]["scores"]
    found = {one.metric_type: one for one in headline_results(results, name, results["sets"])}
    assert [*found] == [score for score in HEADLINE if score in scores and scores[score]["value"] is not None]
    assert len(found) > 5
    for score, one in found.items():
        assert one.metric_value == pytest.approx(
            scores[score]["value"], abs=0.0501 if "over_chance" in score else 0.00501
        )
        assert f"n={scores[score]['n']}" in one.metric_name and "95 % interval [" in one.metric_name
    asked = {one["name"] for one in results["sets"] if one["suite"] == "noise"}
    assert all(name in found["youden_j_noise"].dataset_name for name in asked)
    assert found["youden_j_noise"].dataset_name.endswith(", under noise")


def test_sets_of_the_other_kind_are_not_named():
    """Attack success on prompts that are harmless, or knowledge asked by passages of plain text, is no score of anything."""
    results = made_up.results()
    asked = [
        ("forms", "jailbreak"),
        ("bad", "direct"),
        ("bad", "jailbreak"),
        ("good", "jailbreak"),
        ("good", "overrefusal"),
    ]
    asked += [("choices", "utility"), ("problems", "utility"), ("plain text", "utility")]
    sets = [{"name": name, "suite": suite} for name, suite in asked]
    scores = results["models"]["full"]["scores"]
    scores |= dict.fromkeys(("attack_success_jailbreak", "multiple_choice_over_chance"), made_up.score(0.5, 3))
    scores["plain_text_nats"] = made_up.score(3.5, 3)
    found = {one.metric_type: one.dataset_name for one in headline_results(results, "full", sets)}
    assert found["safety"] == found["attack_success_jailbreak"] == "forms, bad"
    assert found["helpfulness"] == "forms, good" and found["youden_j"] == "forms, bad, good"
    assert found["multiple_choice_over_chance"] == "choices" and found["plain_text_nats"] == "plain text"


def test_score_that_is_undefined_is_left_out():
    """A `null` as a value is shown as nothing, or refused."""
    results = made_up.results()
    results["models"]["full"]["scores"]["safety"] = made_up.score(None, 3)
    assert "safety" not in {one.metric_type for one in headline_results(results, "full", results["sets"])}


def test_score_that_chance_would_reach_says_so():
    """The Hub shows the number alone, and 0.61 looks like something."""
    results = made_up.results()
    results["models"]["base"]["scores"]["refusal_auroc"] = made_up.score(0.52, 12)
    found = {one.metric_type: one for one in headline_results(results, "base", results["sets"])}
    assert found["refusal_auroc"].metric_name.endswith(
        ": more is better, chance 0.5, 95 % interval [0.420, 0.620], n=12, not told from chance"
    )


def test_hub_reads_what_was_written():
    """The parser keeps one name for all scores of a type of data: two sets of one type would be one."""
    results = made_up.results()
    found = headline_results(results, "full", results["sets"])
    name, read = model_index_to_eval_results(eval_results_to_model_index("me/run", found))
    assert name == "me/run" and sorted(map(str, read)) == sorted(map(str, found))
    card = ModelCard(f"---\n{ModelCardData(eval_results=found, model_name='me/run').to_yaml()}\n---\n")
    assert sorted(map(str, card.data.eval_results)) == sorted(map(str, found))
