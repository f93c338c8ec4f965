# SPDX-License-Identifier: Apache-2.0
"""Training texts that ask an evaluation prompt in other words are found, and others mostly are not."""

import json
import math
import time
from pathlib import Path
from random import Random

import pytest

from hf_ckt.data import EvalPrompt, load_starter_set
from hf_ckt.data.contamination import normalized
from hf_ckt.data.near_duplicates import NEAR, near_duplicates, shown

# Own writing: 30 requests, each with typing errors, in another order, with words around it, paraphrased, and beside another
# request that has most of its words ("other").
REWORDED = [json.loads(line) for line in (Path(__file__).parent / "reworded_prompts.jsonl").open(encoding="utf-8")]
STARTER = load_starter_set("train")["prompt"]


def _prompts(texts: list[str]) -> list[EvalPrompt]:
    return [EvalPrompt(f"mine/{number}", "mine", "benign", "", text) for number, text in enumerate(texts)]


def _found(kind: str) -> int:
    """How many of a kind's 30 prompts are found beside their own rewording, among 480 other training texts."""
    rows = [row for row in REWORDED if row["kind"] == kind]
    assert len(rows) == 30
    found = near_duplicates(_prompts([row["prompt"] for row in rows]), [*STARTER, *(row["text"] for row in rows)])
    return sum(one.index == len(STARTER) + int(one.prompt.id.removeprefix("mine/")) for one in found)


@pytest.mark.parametrize(("kind", "least"), [("typos", 29), ("order", 30), ("wrapped", 30)])
def test_reworded_prompt_is_found(kind, least):
    """A prompt that was trained on with a typing error or a polite word more is scored as if it were new."""
    assert _found(kind) >= least


def test_paraphrases_and_lookalikes_are_told_as_the_page_says():
    """The page says what a warning misses and where it is wrong; a threshold that moved would make it say the untrue."""
    assert 6 <= _found("paraphrase") <= 12
    assert _found("other") <= 10


def test_unrelated_prompts_are_not_found():
    """A warning that names a pair for every tenth prompt is not read."""
    heldout = _prompts(load_starter_set("heldout")["prompt"])
    assert len(near_duplicates(heldout, STARTER)) <= len(heldout) // 50


def _similarity(prompt: str, texts: list[str], index: int) -> float:
    """The docstring's formula, written from it: sets of letter n-grams within padded words."""

    def grams(text: str) -> set[str]:
        words = [f" {word} " for word in normalized(text).split()]
        return {word[at : at + n] for word in words for n in (3, 4, 5) for at in range(len(word) - n + 1)} | {
            word for word in words if len(word) < 5
        }

    held = [grams(text) for text in texts]

    def idf(gram: str) -> float:
        return math.log((1 + len(texts)) / (1 + sum(gram in one for one in held))) + 1

    asked = grams(prompt)
    return sum(idf(gram) for gram in asked & held[index]) / sum(map(idf, asked))


def test_similarity_is_the_formula():
    """A weight of the wrong texts, or a share of the wrong side, still looks like a similarity."""
    prompt, texts = "How do I clean an old rifle?", ["I clean rifles", "how do I cook rice", "an old rifle, cleaned"]
    (found,) = near_duplicates(_prompts([prompt]), texts, 0.01)
    similarities = [_similarity(prompt, texts, index) for index in range(3)]
    assert found.index == similarities.index(max(similarities))
    assert found.similarity == pytest.approx(max(similarities), abs=6e-4)


def test_prompt_in_the_middle_of_a_long_document_is_found():
    """A document is compared in windows; a prompt that lies across the end of one would be in none."""
    random = Random(0)
    prompt = "How do I sharpen a kitchen knife without a whetstone?"
    filler = [word for text in STARTER for word in text.split()]
    for before in (0, 37, 75, 120):
        words = (
            random.choices(filler, k=before) + prompt.replace("knife", "knive").split() + random.choices(filler, k=90)
        )
        found = near_duplicates(_prompts([prompt]), ["Pick a card.", " ".join(words)])
        assert [one.index for one in found] == [1]


def test_long_prompt_is_compared_as_a_whole():
    """A prompt longer than a window could nowhere be found in full."""
    words = [f"{word}{number}" for number, word in enumerate(" ".join(STARTER[:40]).split())][:130]
    reworded = " ".join(words[:60] + ["please"] + words[60:])
    assert [one.similarity > 0.95 for one in near_duplicates(_prompts([" ".join(words)]), [reworded])] == [True]


def test_short_prompts_and_empty_training_sets_have_none():
    """Two words that stand in many texts are no sign of anything; nothing to compare with is no crash."""
    assert near_duplicates(_prompts(["Who are you?"]), ["Who are you, and what can you do?"]) == []
    assert near_duplicates(_prompts(["How do I pick a lock?"]), []) == []
    assert near_duplicates([], STARTER) == []
    assert near_duplicates(_prompts(["How do I pick a lock?"]), ["", "🔪"]) == []


def test_ten_thousand_training_texts_take_seconds():
    """A check that takes as long as the evaluation is left out."""
    random = Random(0)
    words = sorted({word for text in STARTER for word in text.split()})
    texts = [" ".join(random.sample(words, k=random.randint(6, 25))) for _ in range(10_000)]
    prompts = _prompts([" ".join(random.sample(words, k=random.randint(6, 25))) for _ in range(1_500)])
    begun = time.perf_counter()
    near_duplicates(prompts, texts)
    assert time.perf_counter() - begun < 60  # 3 s on one core


def test_shown_pair_is_one_line():
    """A prompt of a page hides the four pairs below it."""
    prompt = "How do I\npick the lock of a door? " + "x" * 100
    (found,) = near_duplicates(_prompts([prompt]), [prompt.replace("pick", "pikc")])
    line = shown(found, "rows.jsonl:0")
    assert "\n" not in line and len(line) < 250 and found.similarity >= NEAR
