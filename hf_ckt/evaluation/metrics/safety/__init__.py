# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `safety.py` holds it."""

from .safety import SafetyMetric

__all__ = ["SafetyMetric"]
