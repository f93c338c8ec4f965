# SPDX-License-Identifier: Apache-2.0
"""Token accuracy. `reference` is the formula of its docstring; the contracts compare against it."""

import torch

from hf_ckt.metrics.mean_token_accuracy import MeanTokenAccuracyMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.metrics.two_tokens import two_tokens


def reference(row: dict[str, list[float]], label: int) -> float:
    return float(row["student"].index(max(row["student"])) == label)


def test_mean_token_accuracy_counts_hits():
    """Against the unshifted label it would measure how well the model copies its input."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0], [0.0, 1.0, 0.5]])
    views = TokenViews(torch.tensor([0, 1, 1]), LogitsView(logits))
    assert MeanTokenAccuracyMetric().per_token(views).tolist() == [1.0, 0.0, 1.0]


def test_mean_token_accuracy_equals_values_by_hand():
    """Two tokens, so that a swapped view or a wrong axis shows."""
    expected = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(MeanTokenAccuracyMetric().per_token(two_tokens()), expected, rtol=1e-12, atol=1e-12)
