# SPDX-License-Identifier: Apache-2.0
"""The `hf-ckt` command line: one file of this folder is one command."""
