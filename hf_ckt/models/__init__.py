# SPDX-License-Identifier: Apache-2.0
"""
What is asked of a model of transformers: hidden states below its head, the head, adapters switched off; and the batch
that it reads.

May enter: code on models that knows nothing of losses; private names of other libraries, in `_upstream` only.
"""
