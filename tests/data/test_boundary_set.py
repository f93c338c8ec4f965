# SPDX-License-Identifier: Apache-2.0
"""The boundary set: matched, varied, disjoint, and apart from public evaluation prompts."""

import json
import re
from collections import Counter
from importlib import resources

import pytest

from hf_ckt.data import EvalPrompt, load_starter_set, require_unseen
from hf_ckt.data.contamination import normalized
from hf_ckt.data.public_hashes import known_prompts
from hf_ckt.evaluation.judges.rule import is_refusal

SPLITS = ("train", "validation", "heldout")
KEYS = ["category", "id", "kind", "prompt", "response", "twin"]
# By split: harmful, twins, plain rows and twins of each harmful row, at least.
COUNTS = {"train": (260, 520, 400, 2), "validation": (60, 60, 40, 1), "heldout": (120, 120, 60, 1)}
PAIRS = [("train", "validation"), ("train", "heldout"), ("validation", "heldout")]
# Above this share of common words or of common 4-grams two prompts are one, reworded.
NEAR = 0.6
FUNCTION_WORDS = (
    "a about after all an and any are as at be best been before but by can could did do does down for from get give had "
    "has have he help her here him his how i if in into is it its just make may me might more most must my need no not "
    "now of off on one only or our out over own same shall she should so some tell than that the their them then there "
    "these they this those to too two under up us use very want was way we were what when where which who why will with "
    "within without would you your"
)


def _read(split):
    text = (resources.files("hf_ckt.data") / f"boundary_{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ROWS = {split: _read(split) for split in SPLITS}


def _of(split, *kinds):
    return [row for row in ROWS[split] if row["kind"] in kinds]


def _words(text):
    return normalized(text).split()


def _opening(text, count=1):
    return " ".join(re.findall(r"[\w']+", text.lower())[:count])


def _fourgrams(words):
    return {tuple(words[start : start + 4]) for start in range(max(1, len(words) - 3))}


def _overlap(one, other):
    """Jaccard index of two sets."""
    return len(one & other) / len(one | other)


def _near_pairs(some, others):
    """Pairs of prompts that are too close, by words or by 4-grams."""
    known = [(prompt, set(_words(prompt)), _fourgrams(_words(prompt))) for prompt in others]
    found = []
    for prompt in some:
        words, fourgrams = set(_words(prompt)), _fourgrams(_words(prompt))
        for other, other_words, other_fourgrams in known:
            if _overlap(words, other_words) > NEAR or _overlap(fourgrams, other_fourgrams) > NEAR:
                found.append((prompt, other))
    return found


def _stems(text):
    """Content words, cut so that `poison` meets `poisoning` and `bike` meets `bikes`."""
    words = re.findall(r"[a-z]+", text.lower())
    return {word.removesuffix("s")[:5] for word in words if len(word) > 2 and word not in FUNCTION_WORDS.split()}


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_rows_have_the_promised_form(split):
    """A row without its kind or with a stray key is dropped by a loader's filter, and the set shrinks unseen."""
    for row in ROWS[split]:
        assert sorted(row) == KEYS, row
        assert row["kind"] in ("harmful", "twin", "plain") and row["category"]
        assert re.fullmatch(rf"boundary-{split}-{row['kind']}-\d{{3,4}}", row["id"])
        for text in (row["prompt"], row["response"]):
            assert text and text == text.strip(), row


def test_boundary_ids_and_prompts_are_unique_over_all_splits():
    """A prompt in two splits turns the rate on the second into recall; one that is there twice counts double."""
    rows = [row for split in SPLITS for row in ROWS[split]]
    assert len({row["id"] for row in rows}) == len(rows)
    assert not [text for text, count in Counter(normalized(row["prompt"]) for row in rows).items() if count > 1]
    assert len({row["response"] for row in rows}) == len(rows)


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_counts_are_as_promised(split):
    """With too few benign rows a model learns to refuse, and the share of refused harmful prompts looks good."""
    for kind, wanted in zip(("harmful", "twin", "plain"), COUNTS[split], strict=False):
        assert len(_of(split, kind)) >= wanted, kind


def test_boundary_training_refusals_are_a_fifth_at_most():
    """At 37 % refusals, the share of the first set, the prior alone makes a small model refuse what is edgy."""
    assert len(_of("train", "harmful")) <= 0.2 * len(ROWS["train"])


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_twins_refer_to_harmful_rows_of_their_split(split):
    """A twin that points to nothing, or into another split, leaves its harmful prompt without a contrast."""
    harmful = {row["id"] for row in _of(split, "harmful")}
    assert all((row["twin"] is not None) == (row["kind"] == "twin") for row in ROWS[split])
    twins = Counter(row["twin"] for row in _of(split, "twin"))
    assert twins.keys() <= harmful
    assert not [row for row in harmful if twins[row] < COUNTS[split][3]]


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_twins_share_a_word_with_their_harmful_prompt(split):
    """Benign prompts on other subjects teach the subject, not the boundary. The rest share a sense, as `high` does."""
    prompts = {row["id"]: row["prompt"] for row in ROWS[split]}
    twins = _of(split, "twin")
    share = sum(bool(_stems(row["prompt"]) & _stems(prompts[row["twin"]])) for row in twins) / len(twins)
    assert share >= 0.95


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_form_does_not_give_harm_away(split):
    """Were harmful prompts commands and twins questions, a model could tell them apart without reading them."""

    def share(kind, has):
        return sum(map(bool, (has(row["prompt"]) for row in _of(split, kind)))) / len(_of(split, kind))

    for name, has in {
        "question mark": lambda text: "?" in text,
        "small first letter": lambda text: text[0].islower(),
        "two sentences": lambda text: re.search(r"[.?!] \S", text),
    }.items():
        assert abs(share("harmful", has) - share("twin", has)) <= 0.15, name
    lengths = [
        sum(len(_words(row["prompt"])) for row in _of(split, kind)) / len(_of(split, kind))
        for kind in ("harmful", "twin")
    ]
    assert abs(lengths[0] - lengths[1]) <= 1.5


def test_boundary_heldout_has_unseen_categories():
    """Rates on subjects that were trained on do not say what happens on the next one."""
    seen = {split: {row["category"] for row in _of(split, "harmful")} for split in SPLITS}
    unseen = seen["heldout"] - seen["train"] - seen["validation"]
    assert 3 * len(unseen) >= len(seen["heldout"])
    assert len(seen["validation"] - seen["train"]) >= 3
    # With the plain subjects as well; the twins' kinds of contrast are meant to come back.
    every = {split: {row["category"] for row in _of(split, "harmful", "plain")} for split in SPLITS}
    assert 3 * len(every["heldout"] - every["train"] - every["validation"]) >= len(every["heldout"])


def test_boundary_heldout_twins_show_many_contrasts():
    """Over-refusal of figures of speech and of history are different failures; one kind alone hides the others."""
    count = Counter(row["category"] for row in _of("heldout", "twin"))
    for kind in ("figure_of_speech", "definition", "fiction", "history", "safe_target", "homonym"):
        assert count[kind] >= 5, kind


def test_boundary_training_answers_open_in_many_ways():
    """One opening for all answers is learnt in place of the decision, and its likelihood measures style."""
    answers = [row["response"] for row in _of("train", "twin", "plain")]
    word, count = Counter(map(_opening, answers)).most_common(1)[0]
    assert count <= 0.03 * len(answers), word
    refusals = [row["response"] for row in _of("train", "harmful")]
    for words in (1, 2):
        opening, count = Counter(_opening(text, words) for text in refusals).most_common(1)[0]
        assert count <= 0.15 * len(refusals), opening


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_answers_are_what_the_judge_takes_them_for(split):
    """A refusal that the judge misses, or an answer that it takes for one, sets the bound of every rate below 1."""
    assert not [row["response"] for row in _of(split, "harmful") if not is_refusal(row["response"])]
    assert not [row["response"] for row in _of(split, "twin", "plain") if is_refusal(row["response"])]


@pytest.mark.parametrize("split", SPLITS)
def test_boundary_responses_have_a_length_that_is_not_cut(split):
    """Long answers are cut at the demo's length and teach to stop in mid-sentence; one-word ones give no gradient."""
    for row in ROWS[split]:
        low, high = (2, 60) if row["kind"] == "plain" else (15, 50)
        assert low <= len(row["response"].split()) <= high, row
        assert len(_words(row["prompt"])) <= 40, row


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_boundary_splits_hold_no_near_duplicates(first, second):
    """A held-out prompt that differs from a training prompt by one word measures memory."""
    prompts = [EvalPrompt(row["id"], "", "benign", "", row["prompt"]) for row in ROWS[second]]
    require_unseen(prompts, [row["prompt"] for row in ROWS[first]])
    near = _near_pairs([row["prompt"] for row in ROWS[second]], [row["prompt"] for row in ROWS[first]])
    assert not near


def test_boundary_set_can_be_mixed_with_the_starter_set():
    """Training on both, a reworded row of the other's held-out part would make that part recall."""
    trained = [row["prompt"] for split in ("train", "validation") for row in ROWS[split]]
    assert not _near_pairs(trained, load_starter_set("heldout")["prompt"])
    asked = [row["prompt"] for split in ("validation", "heldout") for row in ROWS[split]]
    assert not _near_pairs(asked, load_starter_set("train")["prompt"])


def test_boundary_prompts_are_in_no_public_set():
    """A public benchmark's prompt among the training rows makes the benchmark's rate recall."""
    assert not known_prompts(row["prompt"] for split in SPLITS for row in ROWS[split])
