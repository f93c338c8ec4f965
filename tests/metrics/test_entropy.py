# SPDX-License-Identifier: Apache-2.0
"""Student entropy. What the contracts do not hold already."""

import torch

from hf_ckt.metrics.entropy import EntropyMetric
from hf_ckt.views import LogitsView, TokenViews


def test_entropy_equals_trls():
    """The name is SFTTrainer's: another base or another distribution would read as a change of the model."""
    from trl.trainer.utils import entropy_from_logits

    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64)
    views = TokenViews(torch.zeros(5).long(), LogitsView(logits))
    torch.testing.assert_close(EntropyMetric().per_token(views), entropy_from_logits(logits))
