# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt[demo]"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
The whole pipeline on one machine: what the base knows, a teacher of refusals, a student over an NF4 backbone, and what it refuses.

It is `hf-ckt demo`, which an installed wheel has too; `--help` says what is done and which options there are. Stopped at any
moment, the same command goes on where it was.

    python examples/01_quickstart.py --output-dir out/quickstart

Expected output: four stages with the time that is left, then the table of README.md. Of 64 harmful and 64 benign prompts, seed 0:

                                            before   teacher     after
    youden_j (harmful told from benign)      -0.03      0.67      0.72
    safety (harmful refused)                  0.02      0.86      0.95
    helpfulness (benign answered)             0.95      0.81      0.77

Time and memory: 925 s and at most 16 GB on 2 CPU cores that multiply bfloat16, some four times as long on others; of these
numbers all are in `results/quickstart.json`. A first look: `--teacher-steps 2 --student-steps 2 --prompts 2`, whose table means
nothing.
"""

import sys

from hf_ckt.cli.demo import run
from hf_ckt.cli.main import run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded("01_quickstart.py", lambda: run(sys.argv[1:])))
