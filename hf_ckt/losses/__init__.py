# SPDX-License-Identifier: Apache-2.0
"""
Losses, one file each; `base.py` is the contract. `hf-ckt parts --family losses` lists them.

May enter: a loss on tensors alone, without trainer, config or model.
"""
