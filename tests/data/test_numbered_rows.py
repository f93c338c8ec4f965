# SPDX-License-Identifier: Apache-2.0
"""Rows of text files by line, and what is said of a wrong one."""

import bz2
import gzip
import lzma

import pytest

from hf_ckt.data.numbered_rows import ending_of, numbered_rows

PAIR = {"prompt": "Hi, you", "answer": "Zwölf"}


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.jsonl", '{"prompt": "Hi, you", "answer": "Zwölf"}\n\n{"prompt": "Hi, you", "answer": "Zwölf"}\n', [1, 3]),
        ("a.JSONL", '\ufeff{"prompt": "Hi, you", "answer": "Zwölf"}\r\n' * 1, [1]),
        ("a.json", '[{"prompt": "Hi, you", "answer": "Zwölf"}]', [None]),
        ("a.json", '{"prompt": "Hi, you", "answer": "Zwölf"}\n{"prompt": "Hi, you", "answer": "Zwölf"}', [1, 2]),
        ("a.csv", '\ufeffprompt,answer\n\n"Hi, you",Zwölf\n', [3]),
        ("a.tsv", "prompt\tanswer\nHi, you\tZwölf\n", [2]),
    ],
)
def test_rows_come_with_their_lines(name, text, lines, tmp_path):
    """A reader that counts rows for lines sends the user to the wrong place in the file."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert list(numbered_rows(path)) == [(line, PAIR) for line in lines]


def test_a_cell_over_several_lines_has_the_line_it_begins_on(tmp_path):
    """Behind such a cell a count of rows is no count of lines."""
    path = tmp_path / "a.csv"
    path.write_text('prompt\n"one\ntwo"\nthree\n')
    assert list(numbered_rows(path)) == [(2, {"prompt": "one\ntwo"}), (4, {"prompt": "three"})]


def test_text_files_are_a_row_a_line(tmp_path):
    """An empty line is no prompt."""
    path = tmp_path / "a.txt"
    path.write_text("one, two\n\nthree")
    assert list(numbered_rows(path)) == [(1, {"text": "one, two"}), (3, {"text": "three"})]


def test_cells_may_be_long(tmp_path):
    """The csv module stops at 131,072 letters, which an answer may exceed."""
    path = tmp_path / "a.csv"
    path.write_text(f"prompt\n{'x' * 200_000}\n")
    assert [len(row["prompt"]) for _, row in numbered_rows(path)] == [200_000]


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_packed_files_are_unpacked(ending, pack, tmp_path):
    """A packed line is no UTF-8, and the file would be called one of another encoding."""
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(pack.compress(b'{"prompt": "a"}\n'))
    assert ending_of(path) == ".jsonl" and list(numbered_rows(path)) == [(1, {"prompt": "a"})]
    path.write_bytes(pack.compress(b'{"prompt": "a"}\n' * 1000)[:-12])
    with pytest.raises(ValueError, match="half a download"):
        list(numbered_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": 1},\n', r"a\.jsonl, line 2: is not JSON .* Remove the comma behind the object"),
        ("a.jsonl", b'{"x": 1}\n\n{"x": 1,}\n', r"a\.jsonl, line 3: is not JSON"),
        ("a.jsonl", b'{"x": 1}\n["x"]\n', r"a\.jsonl, line 2: must be an object with the columns, got \['x'\]"),
        ("a.json", b'[{"x": 1}, "x"]', r"a\.json, row 2: must be an object"),
        ("a.json", b'[{"x": 1},\n {"x": }]', r"a\.json, line 2: is not JSON"),
        ("a.json", b'{"x": 1},\n{"x": 1}\n', r"a\.json, line 1: is not JSON"),
        ("a.jsonl", '{"x": 1}\n{"x": "ä"}\n'.encode("latin-1"), r"a\.jsonl, line 2: is not UTF-8 text \(byte 0xe4\)"),
        ("a.jsonl", '{"x": 1}\n'.encode("utf-16"), r"a\.jsonl, line 1: .* UTF-16"),
        ("a.csv", "x\nä\n".encode("latin-1"), r"a\.csv, line 2: is not UTF-8"),
        ("a.csv", b"x,y\n1,2\n1,2,3\n", r"a\.csv, line 3: has 3 cells where the first line names 2 columns"),
        ("a.csv", b"x,y\n1\n", r"a\.csv, line 2: has 1 cells"),
        ("a.csv", b'x\n1\n"2\n3\n', r"a\.csv, line 3: is not CSV"),
        ("a.csv", b"x,x\n1,2\n", r"a\.csv: two of its columns are called 'x'"),
        (
            "a.csv",
            b"prompt;kind\na;b\n",
            r"a\.csv: its first line names one column, 'prompt;kind', .* separated by ';'",
        ),
        ("a.csv", b"prompt\tkind\na\tb\n", r"a\.csv: .* by tabs in a file that ends in \.tsv"),
        ("a.yaml", b"x: 1", r"a\.yaml: its ending"),
    ],
)
def test_wrong_lines_are_named(name, content, message, tmp_path):
    """An error without file and line sends the reader through the whole file."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(numbered_rows(path))
