# SPDX-License-Identifier: Apache-2.0
"""
The help of `hf-ckt train`, which is asked for more often than torch can be waited for.

Its text is made of the fields of the configuration, whose module takes seconds to import, and kept in a file beside this one. A test
compares the two; `python -m hf_ckt.cli.arguments.train_parser` writes the file.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = Path(__file__).with_name("train_help.txt")
_WIDTH, _INDENT = 110, 38


def short_help(usage: str, intro: str, sections: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """
    Returns a help with one line an option.

    Args:
        usage (`str`), intro (`str`):
            What stands before the options.
        sections (`Mapping[str, Sequence[tuple[str, str]]]`):
            By heading, options and their whole help, of which the first sentence is shown, without its examples and choices.
    """
    lines = [usage, "", *textwrap.wrap(intro, _WIDTH)]
    for title, options in sections.items():
        lines += ["", f"{title}:"]
        for option, whole in options:
            said = textwrap.wrap(_first_sentence(whole), _WIDTH - _INDENT) or [""]
            if len(option) > _INDENT - 4:
                said = ["", *said]  # below a name that leaves no room beside it
            lines.append(f"  {option:<{_INDENT - 2}}{said[0]}".rstrip())
            lines += [" " * _INDENT + more for more in said[1:]]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    """Without choices, and without names of parts: a part is one new file, and would be a change of this text."""
    sentence = re.split(r"(?<=[^.]{2})\.(?= [A-Z'\"]|$)", text.replace("%%", "%"), maxsplit=1)[0]
    return re.split(r"; |, e\.g\. |(?<=by name): |: (?=')", sentence, maxsplit=1)[0]
