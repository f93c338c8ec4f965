# SPDX-License-Identifier: Apache-2.0
"""
What takes a model: questions asked, answers, margins, agreement and consistency, kept in pieces that outlive a kill.

May enter: what runs a model and returns raw measurements; no verdicts, no intervals.
"""
