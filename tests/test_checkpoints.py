# SPDX-License-Identifier: Apache-2.0
"""Files that are never half-written, and the last checkpoint that is whole."""

import json
from pathlib import Path

import pytest

from hf_ckt.checkpoints import last_complete_checkpoint, replace_block, replace_file, replace_json_lines


def test_replace_file_writes_whole_files_into_new_folders(tmp_path):
    """A queue or card is written into a folder that may not be there yet."""
    path = tmp_path / "new" / "card.md"
    replace_file(path, lambda aside: Path(aside).write_text("first"))
    replace_file(path, lambda aside: Path(aside).write_text("second"))
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_replace_file_keeps_the_old_file_when_writing_fails(tmp_path):
    """A full disk must not cost the last good file."""
    path = tmp_path / "queue.safetensors"
    path.write_text("good")

    def fail(aside):
        Path(aside).write_text("ha")
        assert path.read_text() == "good"  # not touched while the new one is written
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        replace_file(path, fail)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_json_lines_writes_a_row_a_line_as_people_read_it(tmp_path):
    """A line break within a row would end it, and escapes of every other letter cannot be read."""
    path = tmp_path / "new" / "rows.jsonl"
    rows = [{"prompt": "Wie heißt\ndu?"}, {"prompt": None}]
    assert replace_json_lines(path, iter(rows)) == 2
    text = path.read_text(encoding="utf-8")
    assert "heißt" in text and [json.loads(line) for line in text.splitlines()] == rows
    assert list(path.parent.iterdir()) == [path]


def test_replace_block_writes_between_its_own_markers(tmp_path):
    """A table generated over its neighbour's, or over the words between, is noticed by nobody who generates it."""
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- one.1 -->\nold\n<!-- /one.1 -->\nb\n<!-- one_1 -->\n<!-- /one_1 -->\nc\n")
    replace_block(path, "one.1", r"new \1")  # neither the name nor the block is a pattern
    replace_block(path, "one_1", "other")
    assert path.read_text() == (
        "a\n<!-- one.1 -->\nnew \\1\n<!-- /one.1 -->\nb\n<!-- one_1 -->\nother\n<!-- /one_1 -->\nc\n"
    )


@pytest.mark.parametrize("text", ["", "<!-- a -->\n", "<!-- a -->\n<!-- /a -->\n<!-- a -->\n<!-- /a -->\n"])
def test_replace_block_raises_without_one_place_to_write_to(text, tmp_path):
    """A lost marker leaves yesterday's numbers in the text, under today's date."""
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="markers"):
        replace_block(path, "a", "new")
    assert path.read_text() == text


def checkpoint(folder, step, state='{"global_step": 1}'):
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    if state is not None:
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state)


def test_the_newest_complete_checkpoint_is_by_number(tmp_path):
    """In the order of names 9 comes after 100."""
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1', "{}\x00\x00{"])
def test_incomplete_checkpoints_are_passed_over(state, tmp_path):
    """A kill leaves no state file, an empty one, or a torn one."""
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_other_folders_are_not_taken_for_checkpoints(tmp_path):
    """Users keep copies beside them."""
    checkpoint(tmp_path, 3)
    for name in ("checkpoint-best", "checkpoint-9-copy", "old-checkpoint-10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({}))
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")


def test_no_complete_checkpoint_is_an_error_or_none(tmp_path):
    """A script that resumes where it can, and one that must, ask differently."""
    checkpoint(tmp_path, 1, None)
    assert last_complete_checkpoint(tmp_path, required=False) is None
    assert last_complete_checkpoint(tmp_path / "missing", required=False) is None
    with pytest.raises(ValueError, match=r"no complete checkpoint \(1 incomplete\).*resume_from_checkpoint=None"):
        last_complete_checkpoint(tmp_path)
