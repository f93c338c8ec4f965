# SPDX-License-Identifier: Apache-2.0
"""
Perturbations, one file each; `base.py` is the contract. `hf-ckt parts --family perturbations` lists them.

May enter: whatever changes an input and keeps its meaning.
"""
