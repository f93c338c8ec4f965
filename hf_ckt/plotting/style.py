# SPDX-License-Identifier: Apache-2.0
"""How every figure of the package looks."""

from typing import Any

INK, GRID = "#1A1D21", "#DDDDDD"
COLORS = ("#0072B2", "#C2500A", "#00795A", "#9A4382", "#7A6100")
"""Okabe and Ito's colours, darkened where they would be faint on white."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a title with dollar signs is a title
}
"""For `matplotlib.rc_context`."""
