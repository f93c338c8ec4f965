# SPDX-License-Identifier: Apache-2.0
"""The one thing that pyproject.toml cannot say: the description that a package index shows. All else stands there."""

import re
from pathlib import Path

from setuptools import setup

_IMAGE = re.compile(r"^!\[([^\]]*)\]\((?!https?:)[^)]*\)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


def description(readme: str) -> str:
    """
    Returns README.md as an index can show it: its links and images lead to files of the repository, which an index does not
    have. A link keeps its words, an image its description.
    """
    return _LINK.sub(r"\1", _IMAGE.sub(r"(Figure, in the repository: \1.)", readme))


if __name__ == "__main__":
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=description(text), long_description_content_type="text/markdown")
