# SPDX-License-Identifier: Apache-2.0
"""
What `hf-ckt chat` shows: in a terminal or line by line, and as a page in a browser.

May enter: input and output of the chat; what is computed is in `evaluation/side_by_side.py`.
"""
