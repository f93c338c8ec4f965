# SPDX-License-Identifier: Apache-2.0
"""
Results files of the examples: answers that are kept in them, judged, scored, and written as tables, pages and cards.

May enter: what fills, reads or shows such a file; scores come from `scoring/`, verdicts from `judges/`.
"""
