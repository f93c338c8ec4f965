# SPDX-License-Identifier: Apache-2.0
"""Similarities between the student's own readings of prompts, in its middle layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.batch import Batch
from ..models.boundary_probe import prompt_features
from ..views import Similarities


def state_similarities(
    hidden_states: Sequence[Tensor],
    batch: Batch,
    documents: Tensor,
    sides: Tensor,
    layers: Sequence[int],
) -> Similarities:
    """
    Returns how alike the student reads A documents' prompts, each an anchor and a candidate with gradient.

    What is compared are the states that a probe of the boundary reads
    ([`~models.boundary_probe.prompt_features`]): the cosine is taken in each layer, at the prompt's last token and of its mean,
    from which the mean over the anchors is subtracted; a similarity is the mean of these cosines. An anchor is one of its own
    positives, with similarity 1 whatever is learnt; what draws a side together are the others. Of two anchors each is the
    other's opposite, so there have to be three.

    Source: Khosla et al. 2020, https://huggingface.co/papers/2004.11362, with states for the embeddings. Differs: of several
    layers and two readings of each, without a projection, which would be thrown away with what it learnt; there an anchor is no
    positive of its own.

    Args:
        hidden_states (`Sequence[torch.Tensor]`):
            The student's, `(B, T, D)` from the embeddings on.
        batch ([`~models.batch.Batch`]):
            Where documents and their answers lie.
        documents (`torch.Tensor` of shape `(A,)`), sides (`torch.Tensor` of shape `(A,)`):
            Numbers of the documents, ascending, each with an answer, and of the side that each is on.
        layers (`Sequence[int]`):
            Which states are read; 0 are the embeddings.
    """
    numbers, features = prompt_features(hidden_states, batch, layers)
    features = features[torch.searchsorted(numbers, documents)]
    readings = features.unflatten(1, (2 * len(layers), -1))
    directions = F.normalize(readings - readings.mean(0), dim=-1).flatten(1)
    cosines = directions @ directions.T / (2 * len(layers))
    positive = torch.arange(len(documents), device=cosines.device)
    return Similarities(cosines, cosines.detach(), positive, sides[:, None] == sides)


def middle_layers(depth: int) -> list[int]:
    """
    Returns the layers from half to five sixths of a model's depth, in which probes of the boundary read it best.

    Example:

    >>> middle_layers(12)
    [6, 7, 8, 9, 10]
    """
    return list(range(max(1, depth // 2), 5 * depth // 6 + 1)) or [depth]
