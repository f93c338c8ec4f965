# SPDX-License-Identifier: Apache-2.0
"""Wrong settings of any part, which must raise where they are set and name the field."""

import re
from typing import Any

import pytest

from hf_ckt.discovery import part_settings


def numeric_settings(cls: type) -> list[str]:
    return [name for name, field in part_settings(cls).items() if isinstance(field.default, (int, float))]


def check_wrong_settings_raise(cls: type) -> None:
    for name in numeric_settings(cls):
        # Of a whole number, these two are of a wrong kind already.
        no_number = TypeError if isinstance(part_settings(cls)[name].default, int) else ValueError
        for wrong, error in ((float("nan"), no_number), (float("inf"), no_number), ("high", TypeError)):
            values: dict[str, Any] = {name: wrong}
            with pytest.raises(error, match=rf"^{re.escape(name)}: "):
                cls(**values)
        # No setting of a part may be far below 0: temperatures, shares, strengths, cosines.
        with pytest.raises(ValueError, match=rf"^{re.escape(name)}: must .*got -7"):
            cls(**{name: -7})
