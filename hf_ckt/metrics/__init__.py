# SPDX-License-Identifier: Apache-2.0
"""
Metrics, one file each; `base.py` is the contract. `hf-ckt parts --family metrics` lists them.

May enter: a quantity per token that is reported and never trained on.
"""
