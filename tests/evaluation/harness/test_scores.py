# SPDX-License-Identifier: Apache-2.0
"""From the harness's results to the rows of a table: which metric, of how many, and how certain."""

import statistics

import pytest

from hf_ckt.data.prompt_sets import load_prompts
from hf_ckt.evaluation.harness.catalogue import load_tasks
from hf_ckt.evaluation.harness.run import HarnessRun, run_tasks
from hf_ckt.evaluation.harness.scores import score_rows, shown_score
from hf_ckt.evaluation.scoring.intervals import wilson_interval
from tests.evaluation.harness.scripted_harness import scripted, sum_task

pytest.importorskip("lm_eval")


def test_requests_in_several_templates_are_one_cluster():
    """Six templates around one request are not six independent requests: the interval would be far too narrow."""
    count = len(load_prompts("starter-harmful"))
    task = load_tasks(["hf_ckt_jailbreak"])["hf_ckt_jailbreak"]
    result = run_tasks(
        scripted(*["I cannot help with that."] * 3, "Mix it with water."), task, HarnessRun("none", limit=2 * count)
    )
    score = shown_score(result, "hf_ckt_jailbreak")
    by_request = {}
    for number, prompt in enumerate(result["samples"]["hf_ckt_jailbreak"]):
        by_request.setdefault(prompt["doc"]["id"], []).append(float(number % 4 == 3))
    assert {len(values) for values in by_request.values()} == {2}
    means = [sum(values) / len(values) for values in by_request.values()]
    half = 1.96 * statistics.stdev(means) / len(means) ** 0.5  # of a mean over requests
    assert score["high"] - score["low"] > 1.6 * half and score["low"] < score["value"] < score["high"]
    plain = wilson_interval(round(score["value"] * score["n"]), score["n"])
    assert score["high"] - score["low"] > 1.2 * (plain[1] - plain[0])


def test_group_is_one_row():
    """MMLU as 57 rows buries the one number that is asked for; its mean weighs subtasks by size."""
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    inner = [sum_task("few"), sum_task("many")]
    inner[0].dataset = {name: rows.select(range(1)) for name, rows in inner[0].dataset.items()}
    group = Group("all_sums", aggregate_metric_list=[AggMetricConfig(metric="acc", weight_by_size=True)])
    for task in inner:
        group.add(task)
    tasks = {"tasks": {task.task_name: task for task in inner}, "groups": {"all_sums": group}}
    result = run_tasks(scripted(), tasks, HarnessRun("none"))
    rows = score_rows(["base"], ["all_sums"], {("base", "all_sums"): result})
    assert list(rows) == ["all_sums"] and rows["all_sums"]["higher_is_better"]
    score = rows["all_sums"]["models"]["base"]
    # the first option is right for even numbers: 1 of 1, and 10 of 20
    assert score["value"] == pytest.approx(11 / 21) and score["n"] == 21
    assert (score["low"], score["high"]) == pytest.approx(wilson_interval(11, 21))
    assert {*result["samples"]} == {"few", "many"}


def test_numbers_that_are_no_share_have_no_share_interval():
    """Wilson's interval of a perplexity is nonsense with two decimals."""
    samples = {"text": [{"filter": "none", "perplexity": 12.5}, {"filter": "none", "perplexity": 7.5}]}
    results = {"text": {"alias": "text", "sample_len": 2, "perplexity,none": 10.0, "perplexity_stderr,none": "N/A"}}
    score = shown_score({"results": results, "samples": samples}, "text")
    assert score == {"metric": "perplexity", "value": 10.0, "stderr": None, "n": 2, "low": None, "high": None}


def test_gsm8k_shows_the_lenient_pattern():
    """The strict one scores 0 for a model that solves every problem in its own words."""
    found = {"alias": "gsm8k", "sample_len": 2, "exact_match,strict-match": 0.0, "exact_match,flexible-extract": 0.5}
    found |= {"exact_match_stderr,strict-match": 0.0, "exact_match_stderr,flexible-extract": 0.5}
    samples = [{"filter": "strict-match", "exact_match": 0.0}] * 2
    samples += [{"filter": "flexible-extract", "exact_match": one} for one in (0.0, 1.0)]
    score = shown_score({"results": {"gsm8k": found}, "samples": {"gsm8k": samples}}, "gsm8k")
    assert score["metric"] == "exact_match (flexible-extract)" and score["value"] == 0.5
    assert (score["low"], score["high"]) == pytest.approx(wilson_interval(1, 2))
