# SPDX-License-Identifier: Apache-2.0
"""
What `hf-ckt train --dry-run` prints in place of training.

May enter: the order of the sections and their words; what is found out about a run is found in the layers below.
"""
