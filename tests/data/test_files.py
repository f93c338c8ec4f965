# SPDX-License-Identifier: Apache-2.0
"""Files as data sets: whatever ending and encoding mark they have, and what is said of those that cannot be read."""

import gzip
import json
import logging

import datasets
import pytest
from datasets import Dataset, DatasetDict

from hf_ckt.data.files import load_rows, load_splits, place_of_row

ROWS = [{"prompt": "Hi, you", "completion": "Zwölf"}, {"prompt": "Bye", "completion": "None"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'prompt{0}completion\n"Hi, you"{0}Zwölf\nBye{0}None\n'
FILES = {
    "rows.jsonl": LINES,
    "ROWS.JSONL": LINES,
    "rows.ndjson": LINES,
    "lines.json": LINES,
    "list.json": json.dumps(ROWS),
    "mark.jsonl": "\ufeff" + LINES,
    "blank.jsonl": LINES.replace("\n", "\n\n"),
    "ends.jsonl": LINES.replace("\n", "\r\n"),
    "rows.csv": TABLE.format(","),
    "Rows.CSV": "\ufeff" + TABLE.format(","),
    "rows.tsv": TABLE.format("\t"),
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """A file that is looked up on the Hub fails the test."""
    real = datasets.load_dataset

    def load(path, *args, **kwargs):
        assert path in ("json", "csv", "text", "parquet", "arrow"), f"{path!r} was looked up"
        return real(path, *args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_files_of_any_ending_hold_the_same_rows(name, streaming, tmp_path):
    """pandas takes an answer `None` for a missing one, and a line of tabs for one column."""
    (tmp_path / name).write_bytes(FILES[name].encode())
    assert list(load_splits(str(tmp_path / name), streaming=streaming)["train"]) == ROWS


def test_packed_parquet_and_text_files_are_read(tmp_path):
    """A text a line is the simplest set of prompts that there is."""
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.PARQUET")
    for name in ("rows.jsonl.gz", "rows.PARQUET"):
        assert load_rows(str(tmp_path / name)).to_list() == ROWS
    (tmp_path / "texts.txt").write_text("one, two\n\nthree\n")
    assert load_rows(str(tmp_path / "texts.txt")).to_list() == [{"text": "one, two"}, {"text": "three"}]


def test_saved_folders_have_their_splits(tmp_path):
    """A split that is not there is best answered by those that are."""
    DatasetDict(train=Dataset.from_list(ROWS), dev=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "saved")
    assert load_rows(str(tmp_path / "saved")).to_list() == ROWS
    assert load_rows(str(tmp_path / "saved"), split="dev").to_list() == ROWS[:1]
    with pytest.raises(ValueError, match=r"no split 'devl'\. Did you mean 'dev'"):
        load_rows(str(tmp_path / "saved"), split="devl")


@pytest.mark.parametrize("name", ["rows", "rows.data", "rows.jsonl.bak", "rows.yaml"])
def test_a_file_of_another_ending_is_told_the_known_ones(name, tmp_path):
    """Looked up on the Hub, its path would be answered by a connection error or somebody's data set."""
    (tmp_path / name).write_text(LINES)
    with pytest.raises(ValueError, match=rf"{name}: its ending .*\.jsonl"):
        load_rows(str(tmp_path / name))


@pytest.mark.parametrize("name", ["none.jsonl", "none.CSV", "./none", "/none/here", "~/none", "a/b/c", "none.tsv"])
def test_a_path_without_a_file_is_no_hub_id(name, tmp_path, monkeypatch):
    """The library answers with a search of the Hub."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_rows(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl: cannot be read as rows \(it is empty\)"),
        ("a.csv", b"", r"a\.csv: cannot be read as rows \(it is empty\)"),
        ("a.jsonl", b"\n \n", r"a\.jsonl: cannot be read as rows \(it holds no row\)"),
        ("a.json", b"[]", r"a\.json: cannot be read as rows \(it holds no row\)"),
        ("a.csv", b"prompt,x\n", r"a\.csv: cannot be read as rows \(it holds no row\)"),
        ("a.txt", b"\n\n", r"a\.txt: cannot be read as rows \(it holds no row\)"),
        ("a.jsonl", b'{"x": "a"}\n{"x": "b"},\n', r"a\.jsonl, line 2: is not JSON .* comma"),
        ("a.jsonl", '{"x": "ä"}\n'.encode("cp1252"), r"a\.jsonl, line 1: is not UTF-8"),
        ("a.csv", "x\nä\n".encode("cp1252"), r"a\.csv, line 2: is not UTF-8"),
        ("a.txt", "ä\n".encode("cp1252"), r"a\.txt, line 1: is not UTF-8"),
        ("a.csv", b"x,y\na,1,2\nb,1,2\n", r"a\.csv, line 2: has 3 cells"),
        ("a.csv", b"x,y\na,1\nb,1,2\n", r"a\.csv, line 3: has 3 cells"),
        ("a.csv", b"x,x\na,1\n", r"a\.csv: two of its columns are called 'x'"),
        ("a.parquet", b"nothing of the kind", r"a\.parquet: cannot be read as rows"),
        ("a.jsonl.gz", b"not packed", r"a\.jsonl\.gz: "),
    ],
)
def test_files_that_cannot_be_read_are_named_with_their_line(name, content, message, tmp_path, caplog):
    """A row shifted by one cell is read without an error, and an empty file ends in StopIteration."""
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=message):
        load_rows(str(tmp_path / name))
    # The library's own line of the same has no number and the whole path.
    assert not caplog.messages


def test_rows_with_nan_are_read(tmp_path):
    """Python writes NaN where JSON has null; the rest of the file is right."""
    (tmp_path / "a.jsonl").write_text('{"x": "a", "y": NaN}\n\n{"x": NaN, "y": 2.0}\n')
    assert load_rows(str(tmp_path / "a.jsonl")).to_list() == [{"x": "a", "y": None}, {"x": None, "y": 2.0}]


def test_places_count_from_one(tmp_path, monkeypatch):
    """Row 0 is nobody's first row, and with blank lines a row is not a line."""
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    assert place_of_row(str(tmp_path / "a.jsonl"), 1) == "a.jsonl, row 2 (line 3)"
    assert place_of_row("somebody/set", 1) == "somebody/set, row 2"


@pytest.mark.parametrize("streaming", [False, True])
def test_numbers_in_a_table_are_texts(streaming, tmp_path):
    """A column of answers such as 42 was refused as no text, and 007 would have been trained on as 7."""
    path = tmp_path / "sums.csv"
    path.write_text("prompt,completion,empty\n2+2?,4,\n6+1?,007,x\n")
    assert list(load_splits(str(path), streaming=streaming, text_cells=True)["train"]) == [
        {"prompt": "2+2?", "completion": "4", "empty": None},
        {"prompt": "6+1?", "completion": "007", "empty": "x"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.bz2", b"plain text", r"a\.jsonl\.bz2: cannot be unpacked"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\\ud800"}\n', r"a\.jsonl, line 2: holds half of a character"),
        ("a.jsonl", b'{"prompt": "a"}\n' + b"[" * 100_000, r"a\.jsonl, line 2: is nested too deeply"),
    ],
)
def test_files_that_break_a_reader_are_named_with_the_line(name, content, message, tmp_path):
    """`Invalid data stream` does not say of which file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(str(tmp_path / name))
