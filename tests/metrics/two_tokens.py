# SPDX-License-Identifier: Apache-2.0
"""Two tokens with probabilities short enough to compute with by hand."""

import torch

from hf_ckt.views import LogitsView, TokenViews


def two_tokens() -> TokenViews:
    """Labels 0 and 2; the most probable ids are 0 and 1 to the student, 1 and 1 to the teacher."""
    student = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.6, 0.2]], dtype=torch.float64).log()
    return TokenViews(labels=torch.tensor([0, 2]), student=LogitsView(student), teacher=LogitsView(teacher))
