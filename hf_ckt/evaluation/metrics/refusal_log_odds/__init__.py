# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `refusal_log_odds.py` holds it."""

from .refusal_log_odds import RefusalLogOddsMetric

__all__ = ["RefusalLogOddsMetric"]
