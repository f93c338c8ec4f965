# SPDX-License-Identifier: Apache-2.0
"""The wording of input errors: each names the field, the value and what to do."""

import pytest

from hf_ckt import checks


@pytest.mark.parametrize("value", [True, "1", None, 1j, [1]])
def test_number_of_another_type_is_a_type_error(value):
    """`True` is 1 in Python: a flag put in the wrong field would be a weight of 1."""
    with pytest.raises(TypeError, match=r"^weight: must be a number, got "):
        checks.require_number("weight", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_that_is_not_finite_is_refused(value):
    """NaN passes every comparison that asks whether a value is too large or too small."""
    for check in (
        checks.require_number,
        checks.require_weight,
        lambda field, x: checks.require_positive(field, x, "."),
        lambda field, x: checks.require_within(field, x, 0, 1, "."),
    ):
        with pytest.raises(ValueError, match=r"^weight: must be finite"):
            check("weight", value)


def test_weight_may_be_zero_and_not_negative():
    """Zero is how a term is switched off."""
    for value in (0, 0.0, 3):
        checks.require_weight("weight", value)
    with pytest.raises(ValueError, match=r"^weight: must be 0 or more, got -0.1\. .*Use 0 to switch it off"):
        checks.require_weight("weight", -0.1)


def test_positive_excludes_zero():
    """A temperature of 0 passes a test for >= 0 and divides by zero."""
    checks.require_positive("temperature", 1e-9, "undefined.")
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"^temperature: must be greater than 0, got {value}\. undefined\."):
            checks.require_positive("temperature", value, "undefined.")


@pytest.mark.parametrize(
    ("options", "good", "bad", "bounds"),
    [
        ({}, [0, 0.5, 1], [-0.01, 1.01], r"\[0, 1\]"),
        ({"open_low": True}, [0.01, 1], [0, 2], r"\(0, 1\]"),
        ({"open_high": True}, [0, 0.99], [1, -1], r"\[0, 1\)"),
        ({"open_low": True, "open_high": True}, [0.5], [0, 1], r"\(0, 1\)"),
    ],
)
def test_bounds_are_shown_open_or_closed_as_they_are_tested(options, good, bad, bounds):
    """A message that allows the value it has just refused sends the user in a circle."""
    for value in good:
        checks.require_within("beta", value, 0, 1, "why", **options)
    for value in bad:
        with pytest.raises(ValueError, match=rf"^beta: must lie in {bounds}, got {value}\. why"):
            checks.require_within("beta", value, 0, 1, "why", **options)


def test_count_is_whole_and_large_enough():
    """2.0 positions in a tile fail somewhere in an index, and far from the setting."""
    checks.require_count("chunk_size", 1, 1, "why")
    for value in (2.0, True, "2"):
        with pytest.raises(TypeError, match=r"^chunk_size: must be a whole number"):
            checks.require_count("chunk_size", value, 1, "why")
    with pytest.raises(ValueError, match=r"^chunk_size: must be 1 or more, got 0\. why"):
        checks.require_count("chunk_size", 0, 1, "why")


def test_unknown_name_gets_the_nearest_only_when_one_is_near():
    """A hint that has nothing to do with the name is worse than none."""
    with pytest.raises(ValueError, match=r"^role: unknown name 'tsak'\. Did you mean 'task'\? Known: other, task\.$"):
        checks.require_known("role", "tsak", ["task", "other"])
    with pytest.raises(ValueError, match=r"^role: unknown name 'zzz'\. Known: other, task\.$"):
        checks.require_known("role", "zzz", ["task", "other"])
    with pytest.raises(ValueError, match=r"^role: unknown name None\. Known"):
        checks.require_known("role", None, ["task"])
    checks.require_known("role", "task", iter(["task"]))


def test_missing_columns_are_named_with_those_there_are():
    """`KeyError: 'rejected'` after an hour of tokenizing."""
    with pytest.raises(
        ValueError,
        match=r"^contrastive_rejected: the train dataset has no column 'rejected' \(it has 'chosen', 'rejcted'\).*"
        r"Did you mean 'rejcted'\?",
    ):
        checks.require_columns("train", ["chosen", "rejcted"], ["chosen", "rejected"], "contrastive_rejected")
    checks.require_columns("train", ["chosen", "rejected"], ["rejected"], "contrastive_rejected")


def test_single_candidate_is_refused_with_a_remedy():
    """With one candidate the loss is 0 from the first step on and looks learnt."""
    with pytest.raises(ValueError, match=r"^info_nce: needs at least 2 sequences, got 1\. .* Take more\."):
        checks.require_candidates("info_nce", "sequences", 1, "Take more.")
    checks.require_candidates("info_nce", "sequences", 2, "")
    with pytest.raises(ValueError, match=r"needs at least 3 sequences, got 2\. With fewer there is nothing to part"):
        checks.require_candidates("sincere", "sequences", 2, "Take more.", least=3)


def test_vocabularies_may_differ_in_what_was_added_behind():
    """A cloned chat template adds a few tokens; refusing those would refuse most teachers."""
    shared = {f"t{i}": i for i in range(500)}
    checks.require_same_vocabulary(shared | {"<added>": 500}, shared)
    checks.require_same_vocabulary(shared, shared | {f"x{i}": 500 + i for i in range(900)})


def test_vocabularies_that_name_an_id_differently_are_refused_with_examples():
    """Distilled id by id, the student would learn a permutation of the teacher's words."""
    student = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
    teacher = {"a": 0, "c": 1, "b": 2, "e": 3, "d": 4}
    with pytest.raises(ValueError, match=r"4 ids differ.*1: 'b' / 'c', 2: 'c' / 'b', 3: 'd' / 'e'\)"):
        checks.require_same_vocabulary(student, teacher)


def test_teacher_that_lacks_many_ids_is_refused():
    """Equal where they overlap, two sizes of a family are still two tokenizers."""
    student = {f"t{i}": i for i in range(500)}
    with pytest.raises(ValueError, match="lacks 400 ids"):
        checks.require_same_vocabulary(student, {f"t{i}": i for i in range(100)})
