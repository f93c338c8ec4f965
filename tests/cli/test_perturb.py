# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt perturb`: shows the noise that is used, all of it, and in a way that can be seen."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hf_ckt.cli import main as cli
from hf_ckt.data import corrupt
from tests import tiny_models

ROOT = Path(__file__).parents[2]
TEXT = "How do I safely dispose of old batteries?"


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_models.build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def printed(capsys):
    """Runs the command and returns what it prints."""

    def run(*arguments) -> str:
        assert cli.main(["perturb", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def terminal(printed, monkeypatch):
    """The same with a terminal that shows marks."""

    def run(*arguments) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return printed(*arguments)

    return run


def _json(printed, *arguments) -> list[dict]:
    return json.loads(printed(*arguments, "--json"))


def test_perturb_groups_by_perturbation_with_severity_beside_the_text(printed):
    """A text under the wrong name or severity makes its reader choose the wrong noise."""
    out = printed("--text", TEXT, "--severity", 0, 1, "--perturbation", "casing", "whitespace")
    lines = out.splitlines()
    assert lines[0] == TEXT
    assert lines[1:5] == [
        "",
        "casing (share of the letters)",
        f"  0  {TEXT}  (unchanged)",
        f"  1  {TEXT.swapcase()}",
    ]
    assert lines[5:8] == ["", "whitespace (share of the gaps between words)", f"  0  {TEXT}  (unchanged)"]
    assert re.sub(r"[\s␉⏎]", "", lines[8]) == "1" + TEXT.replace(" ", "") and len(lines) == 9


def test_perturb_shows_or_names_every_perturbation(printed):
    """One that is neither shown nor named is one that nobody tries."""
    *table, last = printed("--text", TEXT).splitlines()
    shown = {line.split(" (")[0] for line in table[1:] if line and not line.startswith(" ")}
    files = {path.stem for path in (ROOT / "hf_ckt" / "perturbations").glob("*.py")} - {"__init__", "base"}
    named = files - shown
    assert {"casing", "distractor", "typos", "word_swap"} <= shown <= files
    assert {"adversarial", "gaussian", "token_dropout"} <= named
    assert last.startswith("Not shown: ") and "`hf-ckt parts --family perturbations`" in last
    assert all(name in last for name in named) and not any(name in last for name in shown)


def test_perturb_json_holds_each_text_at_each_severity(printed):
    """A program has to know which text, perturbation and severity a line belongs to, whatever their number."""
    rows = _json(printed, "--text", "one two", "--text", "three\tfour", "--perturbation", "casing", "word_swap")
    assert [(row["original"], row["name"], row["severity"]) for row in rows] == [
        (text, name, severity)
        for text in ("one two", "three\tfour")
        for name in ("casing", "word_swap")
        for severity in (0.1, 0.2, 0.4)
    ]
    assert all(row.keys() == {"original", "name", "severity", "text"} for row in rows)
    assert all("\t" in row["text"] for row in rows[6:])


@pytest.mark.parametrize("name", ["typos", "distractor"])
def test_perturb_shows_the_noise_of_corrupted_sets(name, printed):
    """A preview with other noise than the set gets would be no preview."""
    (row,) = _json(printed, "--text", TEXT, "--perturbation", name, "--severity", 0.3, "--seed", 7)
    clean = Dataset.from_list([{"prompt": "another"}, {"prompt": TEXT}])
    assert row["text"] == corrupt(clean, perturbation=name, severity=0.3, seed=7)[1]["prompt"] != TEXT


def test_perturb_reads_a_text_from_each_line(printed, tmp_path):
    """A file taken as one text would hide the noise of its short lines in the average."""
    path = tmp_path / "prompts.txt"
    path.write_text("Grüße\n\nsecond line\n", encoding="utf-8")
    rows = _json(printed, "--file", path, "--perturbation", "casing", "--severity", 1)
    assert [(row["original"], row["text"]) for row in rows] == [("Grüße", "gRÜßE"), ("second line", "SECOND LINE")]


def test_perturb_makes_control_characters_visible(printed):
    """A line break would look like the next row, and an escape sequence would be obeyed by the terminal."""
    out = printed("--text", "a\tb\nc \x1b[31md", "--perturbation", "casing", "--severity", 1)
    assert out.splitlines()[-1] == "  1  A␉B⏎C ␛[31MD"
    assert "\x1b" not in out and "\t" not in out


def test_perturb_marks_letters_on_a_terminal(terminal):
    """Letters that only look the same are seen by their marks alone."""
    out = terminal("--text", "ab1 cd", "--perturbation", "casing", "--severity", 1)
    assert "\n  1  \x1b[1;4mAB\x1b[0m1 \x1b[1;4mCD\x1b[0m\n" in out


def test_perturb_marks_words_that_moved_and_where_words_are_missing(terminal):
    """What was left out leaves nothing to underline, and would go unnoticed."""
    out = terminal("--text", "one two", "--perturbation", "word_swap", "word_dropout", "--severity", 1)
    assert "\n  1  \x1b[1;4mtwo\x1b[0m \x1b[1;4mone\x1b[0m\n" in out
    assert re.search(r"\n  1  (one\x1b\[1;4m‸\x1b\[0m|\x1b\[1;4m‸\x1b\[0mtwo)\n", out)


def test_perturb_marks_leave_the_text_as_it_is(terminal, tokenizer_dir):
    """A mark that swallowed a word would show noise that is not there."""
    options = ("--text", TEXT, "--severity", "0.1", "0.5", "1", "--tokenizer", tokenizer_dir)
    rows = _json(terminal, *options)
    out = re.sub(r"\x1b\[[\d;]*m|‸|  \(unchanged\)", "", terminal(*options)).splitlines()
    texts = [re.sub(r"^  [\d.]+ +", "", line) for line in out if line.startswith("  ")]
    assert texts == [re.sub(r"^ +", "", row["text"]).replace("\t", "␉").replace("\n", "⏎") for row in rows]


@pytest.mark.parametrize("setting", ["NO_COLOR", "TERM", "pipe"])
def test_perturb_marks_nothing_where_marks_are_not_wanted(setting, printed, monkeypatch):
    """In a file, escape sequences are noise of their own."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: setting != "pipe")
    monkeypatch.setenv("TERM", "dumb" if setting == "TERM" else "xterm")
    monkeypatch.setenv("NO_COLOR", "1" if setting == "NO_COLOR" else "")
    assert "\x1b" not in printed("--text", TEXT, "--perturbation", "typos", "--severity", 0.5)


def test_perturb_prints_in_any_encoding(monkeypatch):
    """Homoglyphs are what an old terminal's encoding lacks: the command would end in the middle of its table."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert cli.main(["perturb", "--text", "a", "--perturbation", "homoglyphs", "--severity", "1"]) == 0
    assert raw.getvalue().splitlines()[-1] == b"  1  \\u0430"


def test_perturb_edits_ordinary_tokens_only(printed, tokenizer_dir):
    """In training special tokens stay: a preview without them would promise a noise that is never used."""
    tokenizer = tiny_models.build_tokenizer()
    text = "How do I bake bread?<|im_end|>"
    names = ("token_dropout", "token_replacement")
    dropped, replaced = _json(
        printed, "--text", text, "--tokenizer", tokenizer_dir, "--severity", 1, "--perturbation", *names
    )
    pieces = {tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]}
    assert dropped["text"].endswith("<|im_end|>")
    assert dropped["text"].removesuffix("<|im_end|>") in pieces - {"<|im_end|>"}
    assert replaced["text"].endswith("<|im_end|>")
    assert not any(token in replaced["text"].removesuffix("<|im_end|>") for token in tokenizer.all_special_tokens)
    assert "bread" not in replaced["text"]


def test_perturb_with_a_tokenizer_shows_tokens_too(printed, tokenizer_dir):
    """The closing line would go on to say that they need a tokenizer."""
    out = printed("--text", TEXT, "--tokenizer", tokenizer_dir, "--severity", 0)
    assert "\ntoken_dropout (share of the tokens)\n" in out
    assert "token_" not in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a", "--severity", "0.1", "1.5"], r"--severity: must lie in \[0, 1\], got 1\.5\."),
        (["--text", "a", "--perturbation", "typo"], r"--perturbation: unknown name 'typo'\. Did you mean 'typos'\?"),
        (["--text", "a", "--perturbation", "gaussian"], "--perturbation: gaussian changes embeddings"),
        (["--text", "a", "--perturbation", "token_dropout"], "token_dropout changes tokens.* with --tokenizer"),
        (["--text", "a", "--tokenizer", "no/such-folder"], "--tokenizer: cannot load 'no/such-folder'"),
        (["--text", " "], "--text: holds no words"),
        (["--file", "no_such_file.txt"], "no_such_file.txt"),
        (["--text", "a", "--seed", "-1"], "--seed: must be 0 or more, got -1"),
    ],
)
def test_perturb_wrong_input_is_one_line(arguments, message, capsys):
    """A traceback, or an empty table, leaves the reader to guess what was wrong."""
    assert cli.main(["perturb", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert re.search(message, captured.err)


def test_perturb_file_that_is_not_text_is_named(tmp_path, capsys):
    """'can't decode byte 0xff' alone does not say where that byte is."""
    path = tmp_path / "prompts.bin"
    path.write_bytes(b"\xff\xfe\x00")
    assert cli.main(["perturb", "--file", str(path)]) == 2
    assert "prompts.bin: is not UTF-8 text" in capsys.readouterr().err


def test_perturb_reads_past_a_byte_order_mark(tmp_path, capsys):
    """The mark would be a letter of the first text, and seen by nobody."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone two")
    assert cli.main(["perturb", "--file", str(tmp_path / "a.txt"), "--perturbation", "casing"]) == 0
    assert capsys.readouterr().out.startswith("one two")


def test_perturb_names_a_tokenizer_that_is_not_there(capsys):
    """The library answers that a path is no name of a repository."""
    assert cli.main(["perturb", "--text", "a", "--tokenizer", "./none"]) == 2
    assert "--tokenizer: there is no such file or folder, './none'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--text", "a", "--file", "b"], ["--text", "a", "--severity", "high"]])
def test_perturb_wrong_usage_exits_with_usage(arguments):
    """Without a text, or with two sources of it, it is unclear what to show."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["perturb", *arguments])
    assert stopped.value.code == 2


def test_help_of_perturb_imports_no_torch():
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\n"
        "try:\n    main(['perturb', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: hf-ckt perturb" in done.stdout and "0.1 0.2 0.4" in done.stdout
