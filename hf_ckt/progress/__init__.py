# SPDX-License-Identifier: Apache-2.0
"""
How far work is, in a terminal and in a file, and the time that is left of it.

May enter: what is drawn or written while work runs, whatever the work; nothing that knows of models.
"""
