# SPDX-License-Identifier: Apache-2.0
"""
Is an adapter safe, helpful, robust and close to its teacher: `run` measures, judges and scores in one results file.

May enter: what reads finished models and their answers; nothing here is needed for training.
"""
