# SPDX-License-Identifier: Apache-2.0
"""Every token alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..views import TokenViews
from .base import TokenWeights


@dataclass(eq=False)
class UniformTokenWeights(TokenWeights):
    r"""
    Lets every kept token count alike, as language models are trained; nothing is computed for it.

        weight_i = 1

    Source: the mean over tokens, as in [`~trl.SFTTrainer`].
    Related: [`PositionDecayTokenWeights`] counts an answer's beginning for more, [`TeacherDivergenceTokenWeights`] what
    the teacher changes.

    Shapes:
        labels `(N,)` -> `(N,)`.

    Example:

    >>> UniformTokenWeights().per_token(TokenViews(torch.tensor([5, 7])), None)
    tensor([1., 1.])
    """

    def per_token(self, views: TokenViews, positions: Tensor | None) -> Tensor:
        return torch.ones(views.labels.shape, device=views.labels.device)
