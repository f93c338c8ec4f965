# SPDX-License-Identifier: Apache-2.0
"""Student entropy. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import torch

from hf_ckt.metrics.entropy import EntropyMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import softmax
from tests.metrics.two_tokens import two_tokens


def reference(row: dict[str, list[float]], label: int) -> float:
    return -math.fsum(p * math.log(p) for p in softmax(row["student"]))


def test_entropy_equals_trls():
    """The name is SFTTrainer's: another base or another distribution would read as a change of the model."""
    from trl.trainer.utils import entropy_from_logits

    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64)
    views = TokenViews(torch.zeros(5).long(), LogitsView(logits))
    torch.testing.assert_close(EntropyMetric().per_token(views), entropy_from_logits(logits))


def test_entropy_equals_values_by_hand():
    """Two tokens, so that a swapped view or a wrong axis shows."""
    expected = torch.tensor(
        [-(0.5 * math.log(0.5) + 0.5 * math.log(0.25)), -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))],
        dtype=torch.float64,
    )
    torch.testing.assert_close(EntropyMetric().per_token(two_tokens()), expected, rtol=1e-12, atol=1e-12)
