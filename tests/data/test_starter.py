# SPDX-License-Identifier: Apache-2.0
"""The starter set: big enough, balanced, disjoint, and readable by TRL."""

import re

import pytest

from hf_ckt.data import files, load_starter_set, starter, to_prompt_completion


@pytest.fixture(scope="module")
def rows():
    return [row for split in starter.SPLITS for row in load_starter_set(split)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z']+", text.lower()))


def test_starter_has_the_promised_counts(rows):
    """With too few look-alikes a model learns to refuse by keyword, and the table at the end still looks good."""
    count = {kind: sum(row["kind"] == kind for row in rows) for kind in starter.KINDS}
    assert count["harmful"] >= 240
    assert count["lookalike"] >= 100
    assert count["lookalike"] + count["plain"] >= 240


def test_starter_every_split_has_every_kind():
    """A held-out part without look-alikes reports no over-refusal at all."""
    for split in starter.SPLITS:
        assert set(load_starter_set(split)["kind"]) == set(starter.KINDS)


def test_starter_has_unique_ids_and_prompts(rows):
    """A prompt in both parts turns the held-out rate into recall."""
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({_words(row["prompt"]) for row in rows}) == len(rows)


def test_starter_parts_share_no_wording():
    """A held-out prompt that differs from a training prompt by one word measures memory too."""
    train = [set(_words(prompt)) for prompt in load_starter_set("train")["prompt"]]
    for prompt in load_starter_set("heldout")["prompt"]:
        words = set(_words(prompt))
        closest = max(train, key=lambda other: len(words & other) / len(words | other))
        assert len(words & closest) / len(words | closest) < 0.8, f"{prompt!r} is close to {sorted(closest)}"


def test_starter_texts_are_short_and_filled(rows):
    """Long answers are cut at the demo's length and teach to stop in mid-sentence."""
    for row in rows:
        assert row["prompt"].strip() == row["prompt"] and row["response"].strip() == row["response"]
        assert 0 < len(row["prompt"]) <= 300 and 0 < len(row["response"]) <= 700, row["id"]


def test_starter_refusals_vary(rows):
    """One refusal for everything is learnt as one string, and the likelihood of it says nothing about understanding."""
    refusals = [row["response"] for row in rows if row["kind"] == "harmful"]
    openings = {" ".join(refusal.split()[:4]) for refusal in refusals}
    assert len(openings) >= 20
    assert len(set(refusals)) >= 0.9 * len(refusals)


def test_to_prompt_completion_keeps_text_and_other_columns():
    """The text a model is trained on must be the text of the set, and the kind is needed to score it."""
    before = load_starter_set("heldout")
    after = to_prompt_completion(before, system_prompt="Be kind.")
    assert after.column_names == ["id", "kind", "category", "prompt", "completion"]
    assert after[3]["prompt"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": before[3]["prompt"]},
    ]
    assert after[3]["completion"] == [{"role": "assistant", "content": before[3]["response"]}]


def test_starter_unknown_split_names_the_nearest():
    """`test` is what most would write, and there is none."""
    with pytest.raises(ValueError, match=r"split: unknown name 'held_out'\. Did you mean 'heldout'\?"):
        load_starter_set("held_out")


def test_to_prompt_completion_names_the_missing_column():
    """A KeyError from within a worker of `map` names neither the function nor the remedy."""
    with pytest.raises(ValueError, match="no column 'response'"):
        to_prompt_completion(load_starter_set("heldout").remove_columns("response"))


@pytest.mark.parametrize(
    "line", ['{"id": 1', '{"id": "a"}', '{"id":"","kind":"x","category":"","prompt":"","response":""}']
)
def test_starter_broken_line_is_named(line, monkeypatch, tmp_path):
    """A half-written line that is skipped shrinks the set and nobody sees it."""
    (tmp_path / "starter_train.jsonl").write_text(line)
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"starter_train\.jsonl, line 1"):
        load_starter_set("train")
