# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt fit` as a command; its arithmetic is tested in tests/fit/."""

import subprocess
import sys

from hf_ckt.cli import main as cli


def test_help_of_fit_imports_no_torch():
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\n"
        "try:\n    main(['fit', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: hf-ckt fit" in done.stdout


def test_fit_refuses_a_card_without_memory(capsys):
    """A table of zeros would look like a result."""
    assert cli.main(["fit", "--memory-gb", "0"]) == 2
    assert "--memory-gb" in capsys.readouterr().err
