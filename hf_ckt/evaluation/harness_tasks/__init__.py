# SPDX-License-Identifier: Apache-2.0
"""This package's suites as tasks of EleutherAI's harness: one YAML file each, and the functions that they name."""
