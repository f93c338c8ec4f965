# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: measure into JSON, draw and write from JSON. `hf-ckt bench --help` lists them."""
