# SPDX-License-Identifier: Apache-2.0
"""Runs a script of `examples/`, in a process of its own as its user does, or in this one, which need not import all again."""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BOUNDARY = EXAMPLES / "boundary"


def run(script: str, *options: str, cwd: Path) -> str:
    """Returns what a script prints that ends well, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "118"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_here(script: str, *options: str, cwd: Path) -> None:
    """Runs a script in this process; what it prints is pytest's to capture, and an exit other than a good end is raised."""
    before = Path.cwd()
    with examples_importable(), patch.object(sys, "argv", [script, *options]), patch.dict(os.environ, COLUMNS="118"):
        try:
            os.chdir(cwd)
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        finally:
            os.chdir(before)


@contextmanager
def examples_importable() -> Iterator[None]:
    """Lets modules of `examples/boundary/` be imported by their names, and forgets those that were."""
    before = {*sys.modules}
    try:
        with patch.object(sys, "path", [str(BOUNDARY), *sys.path]):
            yield
    finally:
        for name, module in [*sys.modules.items()]:
            # No other: of a class that is imported twice, an instance is none of the other, and a test that
            # replaces a part of a module replaces it in the one that it imported itself.
            if name not in before and str(getattr(module, "__file__", None) or "").startswith(f"{EXAMPLES}{os.sep}"):
                sys.modules.pop(name)
