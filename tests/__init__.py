# SPDX-License-Identifier: Apache-2.0
"""Tests, in folders that mirror hf_ckt/. A regular package, so that no other distribution's `tests` can shadow it."""
