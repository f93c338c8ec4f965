# SPDX-License-Identifier: Apache-2.0
"""Token accuracy. What the contracts do not hold already."""

import torch

from hf_ckt.metrics.mean_token_accuracy import MeanTokenAccuracyMetric
from hf_ckt.views import LogitsView, TokenViews


def test_mean_token_accuracy_counts_hits():
    """Against the unshifted label it would measure how well the model copies its input."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0], [0.0, 1.0, 0.5]])
    views = TokenViews(torch.tensor([0, 1, 1]), LogitsView(logits))
    assert MeanTokenAccuracyMetric().per_token(views).tolist() == [1.0, 0.0, 1.0]
