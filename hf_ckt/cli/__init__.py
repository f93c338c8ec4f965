# SPDX-License-Identifier: Apache-2.0
"""
The `hf-ckt` command line: one file of this folder is one command.

May enter: options, their help and what is printed; the work is done in the layers below.
"""
