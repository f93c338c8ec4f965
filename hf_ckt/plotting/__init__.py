# SPDX-License-Identifier: Apache-2.0
"""
What the package's figures have in common.

May enter: colours, fonts and sizes that more than one figure uses; nothing that draws.
"""
