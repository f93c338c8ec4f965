# SPDX-License-Identifier: Apache-2.0
"""The browser that pages are tested in: the one that the script of the pictures finds, and starts as quietly."""

from pathlib import Path

import pytest

from tests.scripts import load_script

screenshots = load_script(Path(__file__).parents[1] / ".ci" / "screenshots.py")
CHROMIUM, QUIET = screenshots.find_chromium(), screenshots.QUIET
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH: apt install chromium")
