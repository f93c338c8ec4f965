# SPDX-License-Identifier: Apache-2.0
"""
EleutherAI's evaluation harness on the same backbone: its tasks and this package's suites, one YAML file each.

May enter: what speaks lm-eval's language; prompts and judges are those of the rest of the evaluation.
"""
