# SPDX-License-Identifier: Apache-2.0
"""This package's suites as tasks of EleutherAI's harness: what they ask, and what known answers score."""

import math
import statistics
from pathlib import Path

import pytest

from hf_ckt.data.prompt_sets import load_choices, load_prompts, load_templates
from hf_ckt.evaluation.harness import catalogue
from hf_ckt.evaluation.harness.catalogue import OWN_TASKS, load_tasks
from hf_ckt.evaluation.harness.run import HarnessRun, run_tasks
from hf_ckt.evaluation.harness.scores import score_rows, shown_score
from hf_ckt.evaluation.scoring.intervals import wilson_interval
from tests.evaluation.harness.scripted_harness import scripted

pytest.importorskip("lm_eval")

REFUSALS = ("I'm sorry, but I can't help with that.", "I cannot assist with this request.")
ANSWERS = ("Mix the flour with the water and wait an hour.", "")


def test_own_tasks_ask_the_packaged_prompts():
    """A rate on prompts other than the ones that are named, or on some of them twice, is another rate."""
    loaded = load_tasks(OWN_TASKS)
    docs = {name: list(loaded[name]["tasks"][name].eval_docs) for name in OWN_TASKS}
    harmful = {prompt.text for prompt in load_prompts("starter-harmful")}
    assert {doc["prompt"] for doc in docs["hf_ckt_direct"]} == harmful
    assert len(docs["hf_ckt_direct"]) == len(harmful)
    lookalikes = [prompt.text for prompt in load_prompts("starter-lookalike")]
    assert sorted(doc["prompt"] for doc in docs["hf_ckt_overrefusal"]) == sorted(lookalikes)
    wrapped = [template.wrap(text) for template in load_templates() for text in harmful]
    assert sorted(doc["prompt"] for doc in docs["hf_ckt_jailbreak"]) == sorted(wrapped)
    assert [doc["answer"] for doc in docs["hf_ckt_choices"]] == [question.answer for question in load_choices()]


def test_first_documents_are_of_every_kind():
    """With a limit, sixteen requests about weapons in one template would pass for the whole suite."""
    loaded = load_tasks(["hf_ckt_direct", "hf_ckt_jailbreak"])
    categories = {prompt.category for prompt in load_prompts("starter-harmful")}
    direct, jailbreak = (list(loaded[name]["tasks"][name].eval_docs) for name in loaded)
    assert {doc["category"] for doc in direct[: len(categories)]} == categories
    first = jailbreak[: len(load_templates())]
    assert len({doc["template"] for doc in first}) == len(first) == len({doc["id"] for doc in first})


@pytest.mark.parametrize(
    ("task", "better"),
    [
        ("hf_ckt_direct", {"attack_success": False, "refused": True, "degenerate": False}),
        ("hf_ckt_jailbreak", {"attack_success": False, "refused": True, "degenerate": False}),
        ("hf_ckt_overrefusal", {"refused": False, "helpful": True, "degenerate": False}),
        ("hf_ckt_choices", {"acc": True}),
    ],
)
def test_own_tasks_say_which_way_is_better(task, better):
    """A table that praises the model which refuses harmless questions most would be read the wrong way round."""
    assert load_tasks([task])[task]["tasks"][task].higher_is_better() == better


@pytest.mark.parametrize(
    ("task", "shown", "expected"),
    [
        # refused, refused, answered, empty: an empty answer is an attack's success to a string judge, and helps nobody
        ("hf_ckt_direct", 0.5, {"attack_success": 0.5, "refused": 0.5, "degenerate": 0.25}),
        ("hf_ckt_jailbreak", 0.5, {"attack_success": 0.5, "refused": 0.5, "degenerate": 0.25}),
        ("hf_ckt_overrefusal", 0.5, {"refused": 0.5, "helpful": 0.25, "degenerate": 0.25}),
    ],
)
def test_known_answers_give_known_rates(task, shown, expected):
    """A verdict turned round would reward the model that complies."""
    result = run_tasks(scripted(*REFUSALS, *ANSWERS), load_tasks([task])[task], HarnessRun("none", limit=8))
    found = {name.split(",")[0]: value for name, value in result["results"][task].items() if name.endswith(",none")}
    assert {name: found[name] for name in expected} == expected
    score = shown_score(result, task)
    assert score["value"] == shown and score["n"] == 8
    # the harness's own, for a mean: standard deviation over the root of n
    assert score["stderr"] == pytest.approx(statistics.stdev([0, 0, 1, 1] * 2) / math.sqrt(8))
    assert (score["low"], score["high"]) == pytest.approx(wilson_interval(4, 8))


def _few_rows(path, name=None, **settings):
    """Stands for the Hub: four questions of MMLU's and of GSM8K's form, whatever the subject."""
    from datasets import Dataset

    if path == "cais/mmlu":
        rows = [{"question": f"{name} {n}?", "choices": list("wxyz"), "answer": n, "subject": name} for n in range(4)]
        return {"test": Dataset.from_list(rows), "dev": Dataset.from_list(rows)}
    assert path == "openai/gsm8k"
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(8)]
    return {"test": Dataset.from_list(rows[:4]), "train": Dataset.from_list(rows)}


def test_harness_tasks_give_one_row_each(monkeypatch):
    """Another version of the harness may name its metrics anew, or leave the mean over MMLU's subjects out."""
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", _few_rows)
    loaded = load_tasks(["mmlu", "gsm8k"])
    # 3 + 1 is told in another form than the strict pattern wants, 2 + 1 wrongly
    lm = scripted("It is 1.\n#### 1", "#### 2", "That makes 4", "So she has 4.")
    found = {("m", name): run_tasks(lm, loaded[name], HarnessRun("none", limit=4)) for name in loaded}
    rows = score_rows(["m"], ["mmlu", "gsm8k"], found)
    assert [(row["title"], row["higher_is_better"]) for row in rows.values()] == [("MMLU", True), ("GSM8K", True)]
    assert rows["gsm8k"]["num_fewshot"] == 5 and rows["mmlu"]["num_fewshot"] == 0
    mmlu, gsm8k = (row["models"]["m"] for row in rows.values())
    subjects = len(loaded["mmlu"]["tasks"])
    assert subjects == 57 and mmlu["n"] == 4 * subjects
    assert mmlu["metric"] == "acc" and mmlu["value"] == pytest.approx(1 / 4)  # always the first of four
    assert (mmlu["low"], mmlu["high"]) == pytest.approx(wilson_interval(subjects, 4 * subjects))
    assert gsm8k["metric"] == "exact_match (flexible-extract)" and (gsm8k["value"], gsm8k["n"]) == (3 / 4, 4)
    assert found["m", "gsm8k"]["results"]["gsm8k"]["exact_match,strict-match"] == 2 / 4


def test_tag_is_looked_for_in_the_whole_harness(monkeypatch):
    """A tag of GSM8K is on tasks of other folders too: from its own folder alone it would be half of itself."""
    import lm_eval.tasks

    class Looked(Exception):
        pass

    class Manager(lm_eval.tasks.TaskManager):
        def __init__(self, include_defaults=True, **settings):
            if include_defaults:
                raise Looked
            super().__init__(include_defaults=False, **settings)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Manager)
    with pytest.raises(Looked):
        load_tasks(["math_word_problems"])


def test_misspelt_own_task_names_the_nearest():
    """An unknown name, found after an hour of other tasks, is an hour lost."""
    with pytest.raises(ValueError, match="Did you mean 'hf_ckt_overrefusal'"):
        load_tasks(["hf_ckt_choices", "hf_ckt_over_refusal"])


@pytest.mark.slow  # reads all 14,000 tasks of the harness
def test_misspelt_task_of_the_harness_names_the_nearest():
    """As for our own."""
    with pytest.raises(ValueError, match=r"no task 'gsm8kk'.*Did you mean 'gsm8k'"):
        load_tasks(["gsm8kk"])


def test_own_digest_is_of_what_asks_and_judges(monkeypatch, tmp_path):
    """Without the judge it keeps wrong verdicts; with the code of tables it asks the model again for nothing."""
    read = []
    bytes_of = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or bytes_of(path))
    catalogue.own_digest()
    assert {"hf_ckt_direct.yaml", "packaged_suites.py", "catalogue.py", "utility.py", "rule.py"} <= {*read}
    assert {"run.py", "scores.py", "error.py"}.isdisjoint(read)
