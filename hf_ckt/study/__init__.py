# SPDX-License-Identifier: Apache-2.0
"""
A grid of trainings with their evaluations, from one file: `plan.py` says which, `cells.py` makes one of them, `running.py` all of them
and their comparison.

May enter: what plans and runs many trainings. A method is a set of fields in a study's file, never code here.
"""
