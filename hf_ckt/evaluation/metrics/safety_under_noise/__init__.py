# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `safety_under_noise.py` holds it."""

from .safety_under_noise import SafetyUnderNoiseMetric

__all__ = ["SafetyUnderNoiseMetric"]
