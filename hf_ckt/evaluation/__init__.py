# SPDX-License-Identifier: Apache-2.0
"""Judging answers and the uncertainty of rates."""
