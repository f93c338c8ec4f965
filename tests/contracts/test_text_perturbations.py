# SPDX-License-Identifier: Apache-2.0
"""What every perturbation of text keeps, whatever its file."""

import copy
import pickle
import random
import re
from random import Random

import pytest

from hf_ckt.discovery import load_part, part_names
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import from_own_test
from tests.contracts.settings import check_wrong_settings_raise

NAMES = [name for name in part_names("perturbations") if load_part("perturbations", name).stage == "text"]
each_perturbation = pytest.mark.parametrize("name", NAMES)

# All different, also in their small letters: neighbours that are equal could not be seen to change places.
WORDS = re.findall(
    r"\w+",
    "a I of to be we or the and for you can how why what does make bread river letter little coffee summer between "
    "water follow garden question machine reason number balloon keyboard yellow different language address common "
    "happens explain sentence possible translate",
)
ODD_TEXTS = (
    *("", " ", " \n\t ", "\u00a0", "?", "7", "12 + 30 = 42", "a", "Q", "ß", "é", " b\n", "ab", "Go", "yes", "word"),
    *(
        "two words",
        "no no no no",
        "aaaa aaaa",
        "你好",
        "你 好 吗",
        "今天的天气怎么样？",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "Straße İstanbul ŉ",
    ),
    *(
        "e\u0301te\u0301",
        "😀",
        "👩‍👩‍👧 family 🇩🇪",
        "x\u200dy",
        "\x00\x1f",
        "  - one\n\n  - two\n",
        "def f(x):\n\treturn x\n",
    ),
)


def make_text(seed: int) -> str:
    """5 to 40 words of mixed case, with some punctuation and some line breaks."""
    rng = Random(seed)
    words = rng.sample(WORDS, rng.randint(5, 40))
    words = [rng.choice((word, word, word, word.capitalize(), word.upper())) for word in words]
    words = [word + rng.choice(("", "", "", "", ",", ".", "?", "!")) for word in words]
    text = words[0]
    for word in words[1:]:
        text += rng.choice((" ", " ", " ", " ", " ", "\n")) + word
    return text


TEXTS = [make_text(seed) for seed in range(1000)]


@each_perturbation
@pytest.mark.parametrize("severity", [0.05, 0.1, 0.2, 0.3])
def test_measured_severity_is_the_asked_one(name, severity):
    """Two perturbations compared at one severity would otherwise be compared at two."""
    unit, measure = (from_own_test("perturbations", name, wanted) for wanted in ("UNIT", "measure"))
    perturbation = load_part("perturbations", name)(severity=severity)
    assert perturbation.unit == unit
    # Edit distances of long texts take long. The text's own seed would tie what is drawn to the text's length.
    texts = [text[:80] for text in TEXTS] if unit == "letters" else TEXTS
    counts = [measure(text, perturbation.apply(text, Random(f"{name} {i}"))) for i, text in enumerate(texts)]
    affected, units = map(sum, zip(*counts, strict=True))
    assert affected / units == pytest.approx(severity, rel=0.1)


@each_perturbation
def test_text_perturbation_of_severity_zero_changes_nothing(name):
    """The first step of a severity schedule, and the control run of every study."""
    perturbation = load_part("perturbations", name)(severity=0.0)
    for seed, text in enumerate((*ODD_TEXTS, *TEXTS[:50])):
        assert perturbation.apply(text, Random(seed)) == text


@each_perturbation
def test_text_perturbation_follows_the_generator_that_it_is_given_and_no_other(name):
    """A resumed run must see the noise of the first time, whatever else has drawn random numbers meanwhile."""
    perturbation = load_part("perturbations", name)(severity=0.3)
    text = max(TEXTS, key=len)
    random.seed(0)
    state = random.getstate()
    first = [perturbation.apply(text, Random(seed)) for seed in range(20)]
    assert random.getstate() == state
    random.seed(1)
    assert [perturbation.apply(text, Random(seed)) for seed in range(20)] == first
    # Not all 20: a distractor has few sentences of the same length.
    assert len(set(first)) >= 15


@each_perturbation
def test_text_perturbation_survives_copy_and_pickle(name):
    """A setting lost on the way to a worker falls back to its default."""
    perturbation = load_part("perturbations", name)(severity=0.27)
    for again in (copy.deepcopy(perturbation), pickle.loads(pickle.dumps(perturbation))):
        assert repr(again) == repr(perturbation)
        for seed, text in enumerate(TEXTS[:20]):
            assert again.apply(text, Random(seed)) == perturbation.apply(text, Random(seed))


@each_perturbation
@pytest.mark.parametrize("severity", [0.1, 0.5, 1.0])
def test_text_perturbation_takes_any_text_and_leaves_something_of_it(name, severity):
    """One prompt without a letter among a million ends the run; one left empty trains an answer to no question."""
    perturbation = load_part("perturbations", name)(severity=severity)
    for text in ODD_TEXTS:
        for seed in range(50):
            after = perturbation.apply(text, Random(seed))
            assert type(after) is str
            assert bool(after.strip()) == bool(text.strip()), f"{text!r} became {after!r}"


@each_perturbation
@pytest.mark.parametrize("leading, trailing", [("", ""), ("\n\n", ""), ("", " \n"), ("\t ", "  ")])
def test_white_space_around_a_text_stays(name, leading, trailing):
    """The template puts an answer's header behind it: another last token is another prompt, at every severity."""
    for severity in (0.1, 1.0):
        perturbation = load_part("perturbations", name)(severity=severity)
        for seed, inner in enumerate((*TEXTS[:30], "one", "two words", "a")):
            text = leading + inner + trailing
            after = perturbation.apply(text, Random(seed))
            assert after[len(after.rstrip()) :] == trailing
            # What is put in front of a text comes before its leading white space.
            in_front = after.find(text.rstrip(), 1) > 0
            assert in_front or after[: len(after) - len(after.lstrip())] == leading


@each_perturbation
def test_text_perturbation_documents_itself_and_refuses_wrong_settings(name):
    """A severity of 30 percent written as 30 would leave nothing of the text."""
    check_documentation(load_part("perturbations", name))
    check_wrong_settings_raise(load_part("perturbations", name))
    with pytest.raises(ValueError, match=r"^severity: must lie in \[0, 1\], got 30\. It is a share"):
        load_part("perturbations", name)(severity=30)
