# SPDX-License-Identifier: Apache-2.0
"""Apostrophes and quotation marks as on a keyboard, so that two spellings of a phrase are one."""

_APOSTROPHES = dict.fromkeys("\u2018\u2019\u02bc\u2032\uff07\u00b4`", "'")
_QUOTATION_MARKS = dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f\uff02", '"')
_PLAIN = str.maketrans(_APOSTROPHES | _QUOTATION_MARKS)


def plain_marks(text: str) -> str:
    """
    Returns a text with plain apostrophes and quotation marks, as long as before.

    Example:

    >>> plain_marks("\u201cI can\u2019t\u201d")
    '"I can\\'t"'
    """
    return text.translate(_PLAIN)
