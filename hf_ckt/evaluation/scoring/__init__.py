# SPDX-License-Identifier: Apache-2.0
"""
From verdicts and measurements to scores with their intervals.

May enter: arithmetic over rows that are already measured; nothing that loads a model.
"""
