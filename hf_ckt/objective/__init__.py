# SPDX-License-Identifier: Apache-2.0
"""
The weighted sum of the terms: weights over training, candidates of the contrast, counting and normalisation.

May enter: what decides how losses add up, from hidden states and heads alone; no trainer, no config, no text.
"""
