# SPDX-License-Identifier: Apache-2.0
"""The metric of overall safety: the plain functions' numbers from answers and from verdicts."""

import numpy as np
import pytest
from datasets import Dataset

from hf_ckt.evaluation.judges import is_degenerate, is_refusal, load_judge
from hf_ckt.evaluation.metrics.safety import SafetyMetric
from hf_ckt.evaluation.scoring.compared import score_models
from tests.evaluation.verdicts import row

REFUSAL, HELP, NOTHING = "I can't help with that, sorry.", "Mix flour and water, then give it time.", ""
ASKED = [
    *(("direct", f"h/{n}", REFUSAL if n % 3 else HELP, "fraud") for n in range(6)),
    *(("jailbreak", f"{'hb'[n % 2]}/{n % 4}", REFUSAL if n % 4 else NOTHING, "fraud") for n in range(6)),
    *(("overrefusal", f"b/{n}", [HELP, REFUSAL, NOTHING][n % 3], "home") for n in range(7)),
]
ANSWERS = [answer for _, _, answer, _ in ASKED]
KINDS = [{"h": "harmful", "b": "benign"}[name[0]] for _, name, _, _ in ASKED]
REFERENCES = [
    {"suite": suite, "prompt_id": name, "category": category, "template": f"t{at % 3}" if suite == "jailbreak" else ""}
    | {"kind": kind if suite == "jailbreak" else None}  # what the suite does not say by itself
    for at, ((suite, name, _, category), kind) in enumerate(zip(ASKED, KINDS, strict=True))
]
ROWS = [
    row(
        asked["suite"],
        asked["prompt_id"],
        is_refusal(answer),
        degenerate=is_degenerate(answer),
        category=asked["category"],
        template=asked["template"],
        kind=kind,
        set="",
    )
    for asked, answer, kind in zip(REFERENCES, ANSWERS, KINDS, strict=True)
]


def plain_functions(rows):
    found = score_models({"": rows})[""]
    return {**found.scores, "by_category": found.by_category}


def test_safety_metric_gives_the_numbers_of_the_plain_functions():
    """Two ways to one number that do not meet leave the reader to choose."""
    expected = plain_functions(ROWS)
    assert "youden_j_jailbreak" in expected
    assert SafetyMetric().compute(predictions=ANSWERS, references=REFERENCES) == expected
    verdicts = [{"refused": one["refused"], "degenerate": one["degenerate"]} for one in ROWS]
    assert SafetyMetric().compute(predictions=verdicts, references=REFERENCES) == expected


def test_safety_metric_takes_booleans_as_verdicts():
    """True read as an answer, or the other way round, turns every rate into its opposite."""
    refused = [one["refused"] for one in ROWS]
    expected = plain_functions([one | {"degenerate": False} for one in ROWS])
    for verdicts in (refused, np.array(refused)):
        found = SafetyMetric().compute(predictions=verdicts, references=REFERENCES)
        assert {name: found[name] for name in expected} == expected
    for wrong in ([1] * len(ROWS), [None] * len(ROWS), [0.9] * len(ROWS)):
        with pytest.raises(TypeError, match="predictions: must be answers"):
            SafetyMetric().compute(predictions=wrong, references=REFERENCES)


def test_safety_metric_takes_the_columns_of_a_dataset():
    """A slice of a dataset is a dict of lists, whose length is its number of columns."""
    expected = SafetyMetric().compute(predictions=ANSWERS, references=REFERENCES)
    found = SafetyMetric().compute(predictions=ANSWERS, references=Dataset.from_list(REFERENCES)[:])
    assert found == expected


def test_safety_metric_judges_by_the_judge_it_is_given():
    """A second judge is there to be compared with the first, which then must not judge in its place."""
    answer = "Sorry to hear that! It is illegal to park there, so use the garage."
    expected = load_judge("advbench").verdicts([""], [answer])[0].refused
    assert expected != is_refusal(answer)
    asked = [{"suite": "direct", "prompt_id": "h/1"}]
    for judge, refused in (("advbench", expected), ("rule", not expected)):
        found = SafetyMetric(judge=judge).compute(predictions=[answer], references=asked)
        assert found["attack_success_direct"]["value"] == float(not refused)
    with pytest.raises(ValueError, match="unknown name 'rules'"):
        SafetyMetric(judge="rules")


def test_safety_metric_keeps_no_answer():
    """What was generated for harmful prompts would lie in every saved metric."""
    metric = SafetyMetric()
    metric.add_batch(predictions=ANSWERS, references=[one | {"prompt": "a secret"} for one in REFERENCES])
    assert not any(text in repr(vars(metric)["_rows"]) for text in (HELP, REFUSAL, "a secret"))


def test_safety_metric_wants_a_suite_and_an_id():
    """Without an id, the templates of one prompt would count as several prompts."""
    for reference, message in (
        ({"prompt_id": "h/1"}, "suite: unknown name None"),
        ({"suite": "direkt", "prompt_id": "h/1"}, r"suite: unknown name 'direkt'\. Did you mean 'direct'"),
        ({"suite": "direct"}, "references: one has no 'prompt_id'"),
        ({"suite": "direct", "prompt_id": "h/1", "kind": "bad"}, "kind: unknown name 'bad'"),
    ):
        with pytest.raises(ValueError, match=message):
            SafetyMetric().compute(predictions=[True], references=[reference])
