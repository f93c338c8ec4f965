# SPDX-License-Identifier: Apache-2.0
"""
The noisy view: which perturbation a document draws, its prompt rewritten with the answer kept, its backbone pass.

May enter: what applies perturbations to a batch; the perturbations themselves are parts, in `perturbations/`.
"""
