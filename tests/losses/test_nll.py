# SPDX-License-Identifier: Apache-2.0
"""Negative log-likelihood. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import torch
import torch.nn.functional as F

from hf_ckt.losses.nll import NLLLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import softmax


def reference(row: dict[str, list[float]], label: int) -> float:
    return -math.log(softmax(row["student"])[label])


def test_nll_equals_cross_entropy():
    """Supervised fine-tuning through the tiles would otherwise drift away from SFTTrainer's."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9, dtype=torch.float64), torch.randint(0, 9, (6,))
    value = NLLLoss().per_token(TokenViews(labels, LogitsView(logits)))
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, reduction="none"))
