# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt judge`."""

import json
import subprocess
import sys

import pytest

from hf_ckt.cli.main import main
from tests.evaluation.judges.models import save_word_classifier

ROWS = [
    ("I can't help with that.", True, "harmful", "dev"),
    ("I'm sorry, but I cannot help you.", True, "harmful", "test"),
    ("Forget it, friend.", True, "harmful", "test"),
    ("Boil the eggs.", False, "benign", "test"),
]


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "answers.jsonl"
    keys = ("answer", "refused", "kind", "split")
    path.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in ROWS), encoding="utf-8")
    return path


def test_judge_in_a_folder_whose_name_holds_a_sign_is_found(labelled, tmp_path, capsys):
    """A folder named after its version, judge@2, would be looked for under half its name."""
    judge = save_word_classifier(tmp_path / "judge@2")
    assert main(["judge", "--labelled", str(labelled), "--judge", f"hf:{judge}"]) == 0
    assert "hf:judge@2 on answers: 4 answers" in capsys.readouterr().out


def test_command_prints_and_writes_what_it_measured(labelled, tmp_path, capsys):
    """A number without its set, size, command and versions cannot be checked."""
    output = tmp_path / "out" / "error.json"
    assert (
        main(["judge", "--labelled", str(labelled), "--judge", "rule", "--split", "test", "--output", str(output)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "rule on answers, test: 3 answers" in printed and "labelled refused" in printed
    (entry,) = json.loads(output.read_text(encoding="utf-8"))
    # by hand: the second refusal is in words of its own
    assert (entry["set"], entry["judge"], entry["n"]) == ("answers, test", "rule", 3)
    assert entry["accuracy"] == pytest.approx(2 / 3) and entry["bias_harmful"] == pytest.approx(-0.5)
    assert entry["command"] == "hf-ckt judge --labelled answers.jsonl --judge rule --split test"
    assert list(entry["sha256"]) == ["answers.jsonl"] and "hf_ckt" in entry["versions"]
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


def test_another_set_and_judge_are_added(labelled, tmp_path, capsys):
    """Measuring on a second set must not cost the first."""
    output = tmp_path / "error.json"
    for name in ("one", "two", "two"):
        assert main(["judge", "--labelled", str(labelled), "--set", name, f"--output={output}"]) == 0
    entries = json.loads(output.read_text(encoding="utf-8"))
    assert [entry["set"] for entry in entries] == ["one", "two"]
    assert "--output" not in entries[0]["command"] and str(tmp_path) not in output.read_text(encoding="utf-8")
    assert main(["judge", "--labelled", str(labelled), "--judge", "advbench"]) == 0
    assert "advbench on answers: 4 answers" in capsys.readouterr().out


def test_a_model_is_measured_like_a_rule(labelled, tmp_path, capsys):
    """A judge that nobody measured gives rates that nobody can read."""
    folder = save_word_classifier(tmp_path / "words")
    output = tmp_path / "error.json"
    judge = f"hf:{folder}#REJECTION"
    assert main(["judge", "--labelled", str(labelled), "--judge", judge, "--output", str(output)]) == 0
    (entry,) = json.loads(output.read_text(encoding="utf-8"))
    assert entry["command"].endswith("'hf:words#REJECTION'") and entry["judge"] == "hf:words#REJECTION"
    assert {"torch", "transformers"} <= entry["versions"].keys() and entry["true_refusals"] == 1  # "sorry" alone
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "ruel"], "Did you mean 'rule'"),
        (["--judge", "hf:./none#REJECTION"], "--judge: there is no such file or folder, './none'"),
        (["--refusal_label", "x"], "Did you mean '--refusal_labels'"),
        (["--split", "tset"], "Did you mean 'test'"),
        (["--label-column", "refuse"], "--label-column: the answers.jsonl dataset has no column 'refuse'"),
    ],
)
def test_wrong_input_is_one_line(labelled, capsys, options, message):
    """A traceback hides the sentence that says what to do."""
    try:
        code = main(["judge", "--labelled", str(labelled), *options])
    except SystemExit as stopped:  # by the parser
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            '{"answer": "No.", "refused": true}\n\n{"answer": null, "refused": true}\n',
            "a.jsonl, line 3: has None",
        ),
        ("a.jsonl", '{"answer": "No.", "refused": true}\n{"refused": true}\n', "a.jsonl, line 2"),
        ("a.jsonl", '{"answer": NaN, "refused": true}\n', "a.jsonl, line 1: has None"),
        ("a.jsonl", '{"answer": 5, "refused": true}\n', "a.jsonl, line 1: has 5"),
        ("a.jsonl", '{"answer": "No.", "refused": null}\n', "a.jsonl, line 1: refused must be true or false"),
        ("a.jsonl", '{"answer": "No.", "refused": true},\n', "a.jsonl, line 1: is not JSON"),
        ("a.csv", "answer,refused\nNo.\n", "a.csv, line 2: has 1 cells"),
        ("a.csv", 'answer,refused\n"No.,true\nYes.,false\n', "a.csv, line 2: is not CSV"),
        ("a.jsonl", "", "a.jsonl holds no row"),
        ("a", "", "neither .jsonl nor .csv"),
    ],
)
def test_rows_that_cannot_be_judged_are_named(name, text, message, tmp_path, capsys):
    """A null is judged as the word None, an answer that refuses nothing."""
    (tmp_path / name).write_text(text)
    assert main(["judge", "--labelled", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_labels_that_are_missing_are_no_answers(tmp_path, capsys):
    """With labels by name, no label is none of those that mean refusal."""
    (tmp_path / "a.jsonl").write_text('{"answer": "No.", "refused": "yes"}\n{"answer": "No.", "refused": null}\n')
    assert main(["judge", "--labelled", str(tmp_path / "a.jsonl"), "--refusal-labels", "yes"]) == 2
    assert "a.jsonl, line 2: has no refused" in capsys.readouterr().err


def test_long_cells_and_other_endings_are_read(tmp_path, capsys):
    """An answer may be longer than the csv module's own limit."""
    (tmp_path / "a.TSV").write_text(f"answer\trefused\n{'x' * 140_000}\tfalse\n")
    assert main(["judge", "--labelled", str(tmp_path / "a.TSV")]) == 0
    assert "1 answers" in capsys.readouterr().out


def test_an_output_of_something_else_is_left_alone(labelled, tmp_path, capsys):
    """The error of a JSON parser names no file."""
    (tmp_path / "error.json").write_text("{,")
    assert main(["judge", "--labelled", str(labelled), "--output", str(tmp_path / "error.json")]) == 2
    assert "'error.json' is not a list of measured errors" in capsys.readouterr().err


def test_missing_file_is_one_line(tmp_path, capsys):
    """The same for a name that is misspelt."""
    assert main(["judge", "--labelled", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_a_rule_needs_no_torch(labelled):
    """Measuring strings should take a second, not the loading of a framework."""
    code = (
        "import sys; from hf_ckt.cli.main import main\n"
        f"assert main(['judge', '--labelled', {str(labelled)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
