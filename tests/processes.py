# SPDX-License-Identifier: Apache-2.0
"""Modules of the tests that run in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_module(*words: str | Path, timeout: int = 300, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m` with these words, and fails with the end of what it said where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run_on_two(module: str, *words: str | Path) -> subprocess.CompletedProcess:
    """Runs a module on two processes that find each other, with a thread each."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    return run_module(*launcher, module, *words, OMP_NUM_THREADS="1")
