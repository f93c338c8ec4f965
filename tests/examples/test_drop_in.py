# SPDX-License-Identifier: Apache-2.0
"""The script that sets the trainer beside SFTTrainer, on a tiny model."""

import re

from tests.examples.running import run


def test_drop_in_prints_a_largest_difference_of_zero(tiny_model_dir, tmp_path):
    """The claim of the README's first paragraph, in the script that shows it."""
    printed = run("02_drop_in.py", "--model", str(tiny_model_dir), "--steps", "2", cwd=tmp_path)
    assert re.search(r"^largest difference in .*: 0\.0$", printed, flags=re.MULTILINE)
    assert "consistency" in printed
