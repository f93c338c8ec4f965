# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `noise_robustness.py` holds it."""

from .noise_robustness import NoiseRobustnessMetric

__all__ = ["NoiseRobustnessMetric"]
