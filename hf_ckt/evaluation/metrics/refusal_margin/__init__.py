# SPDX-License-Identifier: Apache-2.0
"""A metric for `evaluate`; `refusal_margin.py` holds it."""

from .refusal_margin import RefusalMarginMetric

__all__ = ["RefusalMarginMetric"]
