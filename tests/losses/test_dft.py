# SPDX-License-Identifier: Apache-2.0
"""Dynamic fine-tuning. What the contracts do not hold already."""

import torch
import torch.nn.functional as F

from hf_ckt.losses.dft import DFTLoss
from hf_ckt.views import LogitsView, TokenViews


def test_dft_gradient_is_the_weighed_one_of_nll():
    """With the weight in the graph, the loss would also push improbable tokens down to escape them."""
    torch.manual_seed(0)
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 9, (6,))
    (found,) = torch.autograd.grad(DFTLoss().per_token(TokenViews(labels, LogitsView(logits))).sum(), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    weight = logits.detach().softmax(-1).gather(1, labels[:, None])
    torch.testing.assert_close(found, weight * plain)
