# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `kd_alignment.py` holds it."""

from .kd_alignment import KDAlignmentMetric

__all__ = ["KDAlignmentMetric"]
