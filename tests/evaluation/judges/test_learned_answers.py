# SPDX-License-Identifier: Apache-2.0
"""The answers that a learned judge is trained on: what must hold for its measured error to mean anything."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import pytest

import hf_ckt
from hf_ckt.data.contamination import normalized
from hf_ckt.evaluation.judges.labelled import KINDS, read_labelled

PACKAGE = Path(hf_ckt.__file__).parent
LEARNED = PACKAGE / "evaluation" / "judges" / "learned_answers.jsonl"
LABELLED = Path(__file__).parent / "labelled_answers.jsonl"
STARTER = [PACKAGE / "data" / f"starter_{name}.jsonl" for name in ("train", "heldout", "choices")]

FIELDS = ["id", "split", "kind", "form", "language", "prompt", "answer", "refused"]
# Forms whose name says the label.
ONE_LABEL = {
    "refusal with a stock phrase",
    "refusal without a stock phrase",
    "over-refusal",
    "plain help",
    "help that sounds dangerous",
    "compliance",
}
NO_SPACES = ("zh", "ja")


def _read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows():
    return _read(LEARNED)


def _of(rows, split):
    return [row for row in rows if row["split"] == split]


def _words(text, language="en"):
    """Words as a reader counts them: between spaces, or characters where there are none."""
    return list("".join(text.split())) if language in NO_SPACES else text.split()


def _grams(text, language="en"):
    words = _words(normalized(text), language)
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def _nearest(some, others):
    """Yields for each of some its greatest 5-gram Jaccard with one of others; within one list, with those before it."""
    places = defaultdict(list)
    for position, grams in enumerate(others):
        for gram in grams:
            places[gram].append(position)
    for position, grams in enumerate(some):
        shared = Counter(place for gram in grams for place in places[gram])
        yield max(
            (
                count / (len(grams) + len(others[place]) - count)
                for place, count in shared.items()
                if some is not others or place < position
            ),
            default=0.0,
        )


def test_learned_answers_are_read_as_labelled_ones(rows):
    """A misspelt field or label would be read as the contrary, or drop the row from its form's count."""
    assert len(rows) >= 1_800
    assert all(list(row) == FIELDS and isinstance(row["refused"], bool) for row in rows)
    assert all(row["prompt"].strip() and row["answer"].strip() for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(read_labelled([LEARNED], split="train")) + len(read_labelled([LEARNED], split="heldout")) == len(rows)


def test_learned_answers_hold_out_whole_forms(rows):
    """Without a form that was never trained on, the held-out error says nothing of answers nobody thought of."""
    held_out, trained = ({row["form"] for row in _of(rows, split)} for split in ("heldout", "train"))
    assert len(held_out - trained) >= 5
    assert trained <= held_out
    assert 0.65 <= len(_of(rows, "train")) / len(rows) <= 0.75


def test_learned_answers_balance_label_and_request(rows):
    """Were harmful requests mostly refused, a judge would learn to read the request and call each answer to it refused."""
    for split in ("train", "heldout"):
        cells = Counter((row["kind"], row["refused"]) for row in _of(rows, split))
        assert min(cells[kind, refused] for kind in KINDS for refused in (True, False)) >= 0.2 * cells.total()


def test_learned_answers_give_one_prompt_both_labels(rows):
    """A prompt with only refusals, or a form with only one label, tells the verdict without the answer."""
    of_prompt, of_form, of_language = defaultdict(Counter), defaultdict(Counter), defaultdict(Counter)
    for row in rows:
        of_prompt[row["prompt"]][row["refused"]] += 1
        of_form[row["form"]][row["refused"]] += 1
        of_language[row["language"]][row["refused"]] += 1
    assert sum(len(labels) == 2 for labels in of_prompt.values()) >= 0.75 * len(of_prompt)
    for form, labels in of_form.items():
        assert form in ONE_LABEL or min(labels[True], labels[False]) >= 0.15 * labels.total(), form
    for language, labels in of_language.items():
        assert 0.3 <= labels[True] / labels.total() <= 0.7, language


def test_learned_answers_are_short_and_length_tells_nothing(rows):
    """If refusals were always shorter than help, a judge could tell them apart without reading them."""
    lengths = defaultdict(list)
    for row in rows:
        count = len(_words(row["answer"], row["language"]))
        assert 10 <= count <= (160 if row["language"] in NO_SPACES else 80), row["id"]
        if row["language"] not in NO_SPACES:
            lengths[row["refused"]].append(count)
    assert 0.7 <= median(lengths[True]) / median(lengths[False]) <= 1.4
    assert (
        0.4
        <= sum(length > 50 for length in lengths[True])
        / sum(length > 50 for values in lengths.values() for length in values)
        <= 0.75
    )


def test_learned_answers_do_not_repeat_each_other(rows):
    """Near-copies across the splits would be recalled, not judged; within one they weigh a wording double."""
    assert len({normalized(row["answer"]) for row in rows}) == len(rows)
    grams = [_grams(row["answer"], row["language"]) for row in rows]
    assert max(_nearest(grams, grams)) <= 0.5


def test_learned_answers_share_no_prompt_across_splits(rows):
    """A prompt in both splits lets a judge that reads prompts recall its verdicts."""
    prompts = {split: {normalized(row["prompt"]) for row in _of(rows, split)} for split in ("train", "heldout")}
    assert not prompts["train"] & prompts["heldout"]


def test_learned_answers_are_not_those_of_other_sets(rows):
    """Answers of a test set would be recalled there; those of the starter set flatter the models that learnt them."""
    known = [row for path in (LABELLED, *STARTER) for row in _read(path)]
    prompts = {normalized(row.get("prompt") or row.get("question")) for row in known}
    assert not prompts & {normalized(row["prompt"]) for row in rows}
    texts = [row["answer"] if isinstance(row.get("answer"), str) else row.get("response") for row in known]
    answers = [_grams(row["answer"], row["language"]) for row in rows]
    assert max(_nearest(answers, [_grams(text) for text in texts if text])) <= 0.5
