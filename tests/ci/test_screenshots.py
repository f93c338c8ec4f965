# SPDX-License-Identifier: Apache-2.0
"""The pictures of pages: made from results alone, and small enough for a repository."""

from pathlib import Path

import pytest
from PIL import Image

from tests.browser import needs_chromium, screenshots
from tests.evaluation.report import made_up

ROOT = Path(__file__).parents[2]


@needs_chromium
def test_picture_of_a_report_ends_below_its_headline_scores(tmp_path):
    """A picture of the window alone cuts the scores off, and one of the whole page cannot be read."""
    folder = made_up.write(tmp_path / "evaluation")
    before = sorted(folder.iterdir())
    screenshots.report(tmp_path / "report.png", folder)
    with Image.open(tmp_path / "report.png") as picture:
        width, height = picture.size
        shown = picture.convert("RGB")
    assert width == screenshots.WIDTH and 700 < height < 2500
    assert len(shown.getcolors(width * height)) > 50  # text, marks and lines, not an empty page
    assert sorted(folder.iterdir()) == before


def test_report_without_a_browser_says_what_is_missing(monkeypatch):
    """An error of playwright's names a path in its own folders."""
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt install chromium"):
        screenshots.chromium()


@pytest.mark.parametrize("name", ["chat", "report"])
def test_kept_picture_is_small_and_of_the_scripts_width(name):
    """Every version of a picture stays in the repository for good."""
    file = ROOT / "examples" / "results" / f"{name}.png"
    assert file.stat().st_size < 200_000
    with Image.open(file) as picture:
        assert picture.size[0] == screenshots.WIDTH
