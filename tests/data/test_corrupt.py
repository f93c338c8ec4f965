# SPDX-License-Identifier: Apache-2.0
"""Corrupted training sets: as much noise as asked for, of the kind asked for, the same in every run, and marked."""

import re
from itertools import pairwise

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_ckt.data import corrupt, load_starter_set, to_prompt_completion


def _rows(unsafe: int, safe: int) -> Dataset:
    kinds = ["harmful", "plain"] * min(unsafe, safe)
    kinds += ["harmful"] * (unsafe - min(unsafe, safe)) + ["plain"] * (safe - min(unsafe, safe))
    return Dataset.from_list(
        [
            {"id": number, "kind": kind, "prompt": f"Question number {number} please", "response": f"{kind} {number}"}
            for number, kind in enumerate(kinds)
        ]
    )


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return load_starter_set("train")


def test_corrupt_without_noise_only_adds_the_marks(starter):
    """The clean point of a noise curve has to be the clean set."""
    rows = corrupt(starter)
    assert rows.column_names == [*starter.column_names, "flipped", "perturbed"]
    assert rows.remove_columns(["flipped", "perturbed"]).to_list() == starter.to_list()
    assert set(rows["flipped"]) == set(rows["perturbed"]) == {False}


def test_flipped_answers_are_those_of_the_other_class(starter):
    """An answer swapped within its class is no label noise, and the curve would look flatter than it is."""
    rows = corrupt(starter, flipped=0.2)
    unsafe = set(starter.filter(lambda row: row["kind"] == "harmful")["response"])
    safe = set(starter.filter(lambda row: row["kind"] != "harmful")["response"])
    assert not unsafe & safe
    for clean, row in zip(starter, rows, strict=True):
        if row["flipped"]:
            assert row["response"] in (safe if row["kind"] == "harmful" else unsafe)
        else:
            assert row["response"] == clean["response"]
        assert row["prompt"] == clean["prompt"] and not row["perturbed"]
    # 0.2 of 480 rows, half of them on each side.
    assert sum(rows["flipped"]) == 96
    assert sum(row["kind"] == "harmful" for row in rows if row["flipped"]) == 48


def test_flipped_answers_are_swapped_in_pairs():
    """An answer given to two prompts would change how many refusals there are, and that alone moves a refusal rate."""
    clean = _rows(10, 30)
    rows = corrupt(clean, flipped=0.4)
    assert sorted(rows["response"]) == sorted(clean["response"])
    for row in rows:
        origin = int(row["response"].split()[1])
        assert rows[origin]["response"] == f"{clean[row['id']]['kind']} {row['id']}"


@pytest.mark.parametrize(("share", "expected"), [(0.1, 2), (0.2, 4), (0.24, 4), (0.26, 6), (1.0, 20)])
def test_flipped_rows_are_the_nearest_even_number(share, expected):
    """A share that is halved or doubled on the way moves the whole curve along its axis."""
    assert sum(corrupt(_rows(10, 10), flipped=share)["flipped"]) == expected


def test_flipped_rows_of_a_lower_share_are_among_those_of_a_higher():
    """A fresh draw at each point would add the luck of the draw to the curve."""
    clean = _rows(20, 20)
    curve = [corrupt(clean, flipped=share, seed=3) for share in (0.1, 0.3, 0.8)]
    for fewer, more in pairwise(curve):
        for one, other in zip(fewer, more, strict=True):
            assert not one["flipped"] or one == other


def test_perturbed_rows_of_a_lower_share_are_among_those_of_a_higher():
    """The same for prompts: what is perturbed at a lower share is perturbed in the same way at a higher."""
    curve = [corrupt(_rows(20, 20), perturbation="casing", severity=0.3, share=share) for share in (0.1, 0.5, 1)]
    # A third of some 20 letters changes in every prompt that was drawn.
    assert [sum(rows["perturbed"]) for rows in curve] == [4, 20, 40]
    for fewer, more in pairwise(curve):
        for one, other in zip(fewer, more, strict=True):
            assert not one["perturbed"] or one == other


def test_seed_changes_what_is_affected_and_repeats_it():
    """Seeds that give one set make an error bar of width 0; a seed that gives two sets makes a result nobody repeats."""
    noise = {"flipped": 0.3, "perturbation": "typos", "severity": 0.3, "share": 0.5}
    first, again, other = (corrupt(_rows(20, 20), **noise, seed=seed) for seed in (1, 1, 2))
    assert first.to_list() == again.to_list()
    assert first["flipped"][:] != other["flipped"][:]
    assert first["perturbed"][:] != other["perturbed"][:]
    both = [(a["prompt"], b["prompt"]) for a, b in zip(first, other, strict=True) if a["perturbed"] and b["perturbed"]]
    assert both and all(one != another for one, another in both)


def test_flipped_and_perturbed_rows_are_drawn_independently(starter):
    """If the rows with errors were those with wrong answers, the two kinds of noise could not be told apart."""
    rows = corrupt(starter, flipped=0.5, perturbation="casing", severity=0.5, share=0.5)
    both = sum(row["flipped"] and row["perturbed"] for row in rows)
    # Hypergeometric: 120 expected of 480, standard deviation 5.5.
    assert 90 < both < 150


def test_perturbed_prompts_are_changed_and_answers_are_not(starter):
    """Noise in an answer would be learnt as the way to answer."""
    rows = corrupt(starter, perturbation="casing", severity=1)
    assert rows["prompt"][:] == [prompt.swapcase() for prompt in starter["prompt"]]
    assert rows["response"][:] == starter["response"][:]
    assert set(rows["perturbed"]) == {True} and set(rows["flipped"]) == {False}


def test_perturbation_has_its_own_severity_by_default():
    """A default other than the one `hf-ckt parts` lists would be in no record."""
    clean = _rows(5, 5)
    assert (
        corrupt(clean, perturbation="typos").to_list() == corrupt(clean, perturbation="typos", severity=0.1).to_list()
    )
    assert (
        corrupt(clean, perturbation="typos").to_list() != corrupt(clean, perturbation="typos", severity=0.5).to_list()
    )


def test_noise_of_a_prompt_does_not_depend_on_its_place():
    """A set that is sorted or filtered before would get other noise, and two runs on it would not compare."""
    clean = _rows(10, 10)
    noise = {"perturbation": "typos", "severity": 0.3}
    expected = {row["id"]: row["prompt"] for row in corrupt(clean, **noise)}
    part = clean.select([*range(15, 3, -1)])  # with an indices mapping, too
    assert {row["id"]: row["prompt"] for row in corrupt(part, **noise)} == {i: expected[i] for i in range(4, 16)}


def test_messages_are_corrupted_like_texts(starter):
    """The order of the two preparations must not matter, and system prompts stay as they are."""
    noise = {"flipped": 0.2, "perturbation": "typos", "severity": 0.2, "share": 0.5}
    before = to_prompt_completion(corrupt(starter, **noise), system_prompt="Be kind.")
    after = corrupt(to_prompt_completion(starter, system_prompt="Be kind."), answer="completion", **noise)
    assert sum(after["perturbed"]) > 100
    for one, other in zip(before, after, strict=True):
        assert one == other


def test_content_blocks_keep_what_is_not_text():
    """Prompts with images are lists of blocks; an image that is lost leaves a question about nothing."""
    blocks = [{"type": "image", "text": None}, {"type": "text", "text": "what is this"}]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": blocks}], "response": "A cat."}])
    noisy = corrupt(rows, perturbation="casing", severity=1)[0]["prompt"][0]["content"]
    assert noisy == [{"type": "image", "text": None}, {"type": "text", "text": "WHAT IS THIS"}]


def test_blocks_that_are_plain_texts_are_corrupted_too():
    """Some templates take a list of texts; the set stopped being made where a trainer would have read it."""
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look"}}]}
    prompt = [{"role": "user", "content": ["what is", " this"]}, call]
    rows = Dataset.from_list([{"prompt": prompt, "response": "A cat."}])
    noisy = corrupt(rows, perturbation="casing", severity=1.0, share=1.0)
    assert noisy[0]["prompt"][0]["content"] == ["WHAT IS", " THIS"]
    assert noisy[0]["prompt"][1] == rows[0]["prompt"][1] and noisy["perturbed"][:] == [True]


def test_perturbed_is_false_where_nothing_could_change():
    """A single word cannot be swapped with a neighbour; counted as noisy, it would make the noise look harmless."""
    rows = Dataset.from_list([{"prompt": "Hello", "response": "Hi."}, {"prompt": "Hello you", "response": "Hi."}])
    noisy = corrupt(rows, perturbation="word_swap", severity=1)
    assert noisy["prompt"][:] == ["Hello", "you Hello"]
    assert noisy["perturbed"][:] == [False, True]


def test_columns_keep_their_types_and_places():
    """A class label that becomes a plain number loses its names, and a column that moves breaks who reads by place."""
    features = Features(
        {"response": Value("large_string"), "unsafe": ClassLabel(names=["no", "yes"]), "prompt": Value("large_string")}
    )
    rows = Dataset.from_dict(
        {"response": ["a", "b"], "unsafe": [1, 0], "prompt": ["x y", "y z"]}, features=features, split="train"
    )
    noisy = corrupt(rows, flipped=1, by="unsafe", unsafe=1, perturbation="casing", severity=1)
    assert list(noisy.features.items()) == [
        *features.items(),
        ("flipped", Value("bool")),
        ("perturbed", Value("bool")),
    ]
    assert noisy["response"][:] == ["b", "a"] and noisy["prompt"][:] == ["X Y", "Y Z"]
    assert str(noisy.split) == "train"
    assert rows["response"][:] == ["a", "b"]


def test_corrupt_says_how_much_can_be_flipped():
    """Swaps beyond the smaller class would change no label, and 0.8 would be booked for what is 0.67."""
    clean = _rows(5, 10)
    with pytest.raises(
        ValueError, match=r"flipped: 0\.8 of 15 rows .* At most 10 rows, flipped=0\.6666, are"
    ) as error:
        corrupt(clean, flipped=0.8)
    possible = float(re.search(r"flipped=([\d.]+), are", str(error.value))[1])
    assert sum(corrupt(clean, flipped=possible)["flipped"]) == 10


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"flipped": 0.01}, r"flipped: 0\.01 .* not one whole pair"),
        ({"perturbation": "typos", "share": 0.01}, r"share: 0\.01 .* not one whole row"),
        ({"flipped": 1.5}, r"flipped: must lie in \[0, 1\], got 1\.5"),
        ({"perturbation": "typos", "share": -0.5}, r"share: must lie in \[0, 1\], got -0\.5"),
        ({"perturbation": "typos", "severity": 2}, r"severity: must lie in \[0, 1\], got 2"),
        ({"severity": 0.2}, r"perturbation: is None, so severity=0\.2"),
        ({"share": 0.5}, r"perturbation: is None, so .* share=0\.5"),
        ({"teacher_prompt": True}, r"perturbation: is None, so .* teacher_prompt=True"),
        ({"perturbation": "typo"}, r"perturbation: unknown name 'typo'\. Did you mean 'typos'\?"),
        ({"perturbation": "gaussian"}, r"perturbation: gaussian changes embeddings.*casing.*typos"),
        ({"perturbation": "token_dropout"}, r"perturbation: token_dropout changes ids"),
        ({"flipped": 0.5, "unsafe": "harmfull"}, r"unsafe: no row has 'harmfull' .* Did you mean 'harmful'\?"),
        ({"flipped": 0.5, "by": "kinds"}, r"flipped: the training dataset has no column 'kinds'.*'kind'\?"),
        ({"flipped": 0.5, "answer": "completion"}, r"flipped: the training dataset has no column 'completion'"),
        (
            {"perturbation": "typos", "prompt": "question"},
            r"perturbation: the training dataset has no column 'question'",
        ),
        ({"seed": -1}, r"seed: must be 0 or more, got -1"),
    ],
)
def test_corrupt_refuses_what_would_not_be_the_noise_it_is_called(noise, message):
    """Each of these would give a set with another noise than its record says, mostly none."""
    with pytest.raises(ValueError, match=message):
        corrupt(_rows(6, 6), **noise)


@pytest.mark.parametrize("name", ["flipped", "perturbed", "teacher_prompt"])
def test_corrupt_keeps_a_column_that_is_in_its_way(name):
    """Noise upon noise would leave marks that tell of the last of them only, and prompts for a teacher that are none."""
    with pytest.raises(ValueError, match=f"has a column '{name}' already"):
        corrupt(_rows(2, 2).add_column(name, [True] * 4), perturbation="casing", teacher_prompt=True)


@pytest.mark.parametrize("as_messages", [False, True])
def test_clean_prompts_of_perturbed_rows_are_kept_for_a_teacher(as_messages):
    """Lost, the teacher would read the noise; kept for a clean row, the row would pass for one with a context."""
    rows = _rows(1000, 1100)  # more than a batch of the mapping, the first of which holds no perturbed row
    if as_messages:
        rows = to_prompt_completion(rows, "Be brief.").rename_column("completion", "response")
    noisy = corrupt(rows, perturbation="typos", severity=0.3, share=0.01, teacher_prompt=True)
    noisy = noisy.select(sorted(range(len(noisy)), key=noisy["perturbed"][:].__getitem__))
    if as_messages:
        noisy = noisy.rename_column("response", "completion")
    else:
        noisy = to_prompt_completion(noisy, "Be brief.")
    clean = {row["id"]: row["prompt"] for row in rows}
    assert 0 < sum(noisy["perturbed"]) <= 21
    for row in noisy:
        before = clean[row["id"]]
        said = before[-1]["content"] if as_messages else before
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]
        assert row["teacher_prompt"] == (messages if row["perturbed"] else None)
        assert (row["prompt"] == messages) is not row["perturbed"]
        assert [message["role"] for message in row["completion"]] == ["assistant"]


def test_corrupt_asks_for_one_split():
    """An AttributeError from within tells nobody to choose a split."""
    with pytest.raises(TypeError, match=r"dataset: must be a datasets\.Dataset, got DatasetDict\. Choose one split"):
        corrupt(DatasetDict(train=_rows(2, 2)), flipped=0.5)


@pytest.mark.parametrize("prompt", [None, [{"from": "human", "value": "hello"}]])
def test_corrupt_names_the_row_that_is_no_prompt(prompt):
    """Left as it is, a prompt that is stored otherwise would be a clean one among the noisy."""
    with pytest.raises(TypeError, match=r"prompt: column 'prompt' must hold .* row 0 is"):
        corrupt(Dataset.from_list([{"prompt": prompt, "response": "Hi."}]), perturbation="typos")
