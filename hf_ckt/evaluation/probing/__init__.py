# SPDX-License-Identifier: Apache-2.0
"""
Fits the probe that tells prompts to refuse from prompts to answer by what a frozen model makes of them, and measures it.

May enter: what reads a model's states of prompts and fits or judges a probe on them; training needs the probe alone.
"""
