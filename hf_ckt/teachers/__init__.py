# SPDX-License-Identifier: Apache-2.0
"""
Teachers, one file each; `base.py` is the contract. `hf-ckt parts --family teachers` lists them.

May enter: whatever supplies the distribution that the student learns from.
"""
