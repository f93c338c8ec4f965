# SPDX-License-Identifier: Apache-2.0
"""The plain passages: many kinds, of one length, no two alike, and none of them trained on."""

import itertools
import re
from collections import Counter

import pytest

from hf_ckt.data import files, load_plain_text, load_starter_set
from hf_ckt.data.files import packaged_rows


@pytest.fixture(scope="module")
def passages():
    return load_plain_text()


def _words(text):
    return re.findall(r"[^\W_]+", text.lower())


def _runs(text, length):
    words = _words(text)
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_plain_text_ids_are_unique_and_in_order(passages):
    """Two passages of one id are one in a table that is keyed by it, and its mean is of fewer texts than it says."""
    assert [row.id for row in passages] == [f"plain-text-{number:03d}" for number in range(1, 49)]


def test_plain_text_passages_have_one_length(passages):
    """A passage of a thousand words would outweigh all others in a mean over tokens."""
    for row in passages:
        assert 80 <= len(row.text.split()) <= 120, row.id
        assert row.text == row.text.strip()


def test_plain_text_has_many_kinds(passages):
    """Forty-eight recipes say how well a model reads recipes."""
    kinds = Counter(row.kind for row in passages)
    assert len(kinds) >= 30
    assert max(kinds.values()) <= 3


def test_plain_text_passages_are_no_copies_of_each_other(passages):
    """A reworded passage counts twice, so that the interval is too narrow."""
    runs = {row.id: _runs(row.text, 5) for row in passages}
    for (first, some), (second, others) in itertools.combinations(runs.items(), 2):
        assert len(some & others) <= 1, (first, second, some & others)


def test_plain_text_is_in_no_packaged_training_set(passages):
    """A passage that was trained on shows a gain in recall as one in language."""
    boundary = [row for split in ("train", "validation") for row in packaged_rows(f"boundary_{split}.jsonl", dict)]
    trained = set()
    for row in [*load_starter_set("train"), *boundary]:
        trained |= _runs(row["prompt"], 6) | _runs(row["response"], 6)
    for row in passages:
        assert not _runs(row.text, 6) & trained, row.id


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "a", "kind": "letter", "text": "Too short."}', "80 to 120 words"),
        ('{"id": "a", "kind": "", "text": "%s"}' % ("word " * 90), "exactly the keys"),
        ('{"id": "a", "text": "%s"}' % ("word " * 90), "exactly the keys"),
        ('{"id": "a", "kind": "letter", "text": 7}', "each with a text"),
    ],
)
def test_plain_text_broken_row_is_named(line, reason, monkeypatch, tmp_path):
    """A row that is half there would be read as a text of another length or kind."""
    (tmp_path / "plain_text.jsonl").write_text(line)
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=rf"plain_text\.jsonl, line 1.*{reason}"):
        load_plain_text()
