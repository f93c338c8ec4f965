# SPDX-License-Identifier: Apache-2.0
"""
A grid of trainings with their evaluations, from one file: `plan.py` says which, `cells.py` makes one of them, `running.py` all, and
what is shared once.
"""
