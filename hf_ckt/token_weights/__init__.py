# SPDX-License-Identifier: Apache-2.0
"""
Token weightings, one file each; `base.py` is the contract. `hf-ckt parts --family token_weights` lists them.

May enter: how much a token's loss counts against the other tokens', known before the loss is computed.
"""
