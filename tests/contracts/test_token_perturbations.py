# SPDX-License-Identifier: Apache-2.0
"""What every perturbation of token ids keeps, whatever its file."""

import copy
import pickle
import random
from random import Random

import pytest

from hf_ckt.discovery import load_part, part_names
from tests.contracts.documentation import check_documentation
from tests.contracts.settings import check_wrong_settings_raise

NAMES = [name for name in part_names("perturbations") if load_part("perturbations", name).stage == "ids"]
each_perturbation = pytest.mark.parametrize("name", NAMES)
# Without the ids of special tokens, as a tokenizer's vocabulary has it: positions and ids share no number.
VOCABULARY = [index for index in range(1000, 1300) if index % 7]


def make_positions(seed: int) -> list[int]:
    """1 to 60 positions with holes between them, where special tokens and answers stand."""
    rng = Random(seed)
    return sorted(rng.sample(range(100), rng.randint(1, 60)))


POSITIONS = [make_positions(seed) for seed in range(1000)]


@each_perturbation
@pytest.mark.parametrize("severity", [0.05, 0.1, 0.2, 0.3])
def test_share_of_changed_tokens_is_the_asked_one(name, severity):
    """Two perturbations compared at one severity would otherwise be compared at two."""
    perturbation = load_part("perturbations", name)(severity=severity)
    assert perturbation.unit == "tokens"
    # A single token cannot be dropped, and would only measure that.
    offered = [positions for positions in POSITIONS if len(positions) > 1]
    counts = [len(perturbation.edits(positions, VOCABULARY, Random(i))) for i, positions in enumerate(offered)]
    assert sum(counts) / sum(map(len, offered)) == pytest.approx(severity, rel=0.1)


@each_perturbation
@pytest.mark.parametrize("severity", [0.1, 0.5, 1.0])
def test_token_perturbation_changes_only_what_it_is_offered(name, severity):
    """A changed special token breaks the template, a changed answer token is trained on."""
    perturbation = load_part("perturbations", name)(severity=severity)
    for seed, positions in enumerate(POSITIONS[:300]):
        before = list(positions), list(VOCABULARY)
        edits = perturbation.edits(positions, VOCABULARY, Random(seed))
        assert edits.keys() <= set(positions)
        assert set(edits.values()) <= {None, *VOCABULARY}
        assert (positions, VOCABULARY) == before, "it changed the lists that it was given"


@each_perturbation
def test_token_perturbation_never_drops_all_tokens(name):
    """An answer to an empty prompt would be trained, in the short prompts of a data set alone."""
    perturbation = load_part("perturbations", name)(severity=1.0)
    for seed, positions in enumerate((*POSITIONS[:200], *[[9]] * 20, *[[3, 8]] * 20)):
        dropped = [
            position
            for position, new in perturbation.edits(positions, VOCABULARY, Random(seed)).items()
            if new is None
        ]
        assert len(dropped) < len(positions)
    assert perturbation.edits([], VOCABULARY, Random(0)) == {}


@each_perturbation
def test_token_perturbation_of_severity_zero_changes_nothing(name):
    """The first step of a severity schedule, and the control run of every study."""
    perturbation = load_part("perturbations", name)(severity=0.0)
    for seed, positions in enumerate(POSITIONS[:50]):
        assert perturbation.edits(positions, VOCABULARY, Random(seed)) == {}


@each_perturbation
def test_every_position_is_changed_equally_often(name):
    """One end of a prompt that stays clean teaches the student to read that end."""
    perturbation = load_part("perturbations", name)(severity=0.2)
    positions, draws = list(range(5, 65, 3)), 2000
    counts = dict.fromkeys(positions, 0)
    for seed in range(draws):
        for position in perturbation.edits(positions, VOCABULARY, Random(seed)):
            counts[position] += 1
    spread = (draws * 0.2 * 0.8) ** 0.5
    assert all(abs(count - draws * 0.2) < 4.5 * spread for count in counts.values())


@each_perturbation
def test_token_perturbation_follows_the_generator_that_it_is_given_and_no_other(name):
    """A resumed run must see the noise of the first time, whatever else has drawn random numbers meanwhile."""
    perturbation = load_part("perturbations", name)(severity=0.3)
    positions = list(range(40))
    random.seed(0)
    state = random.getstate()
    first = [perturbation.edits(positions, VOCABULARY, Random(seed)) for seed in range(20)]
    assert random.getstate() == state
    random.seed(1)
    for again in (perturbation, copy.deepcopy(perturbation), pickle.loads(pickle.dumps(perturbation))):
        assert [again.edits(positions, VOCABULARY, Random(seed)) for seed in range(20)] == first
    assert all(first[i] != first[j] for i in range(20) for j in range(i))


@each_perturbation
def test_token_perturbation_documents_itself_and_refuses_wrong_settings(name):
    """A severity of 30 percent written as 30 would leave nothing of the prompt."""
    check_documentation(load_part("perturbations", name))
    check_wrong_settings_raise(load_part("perturbations", name))
    with pytest.raises(ValueError, match=r"^severity: must lie in \[0, 1\], got 30\. It is a share"):
        load_part("perturbations", name)(severity=30)
