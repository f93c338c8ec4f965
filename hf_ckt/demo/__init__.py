# SPDX-License-Identifier: Apache-2.0
"""
The demo: what it trains (`recipe.py`), on which rows (`rows.py`), how (`training.py`), and the whole of it from a probe of the base
to the table (`running.py`).

May enter: what `hf-ckt demo` does. What a user's own run needs belongs in a layer below.
"""
