# SPDX-License-Identifier: Apache-2.0
"""Which perturbation a document gets, and how strong it is by now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.batch import Documents
from ..objective.schedules import Schedule
from ..perturbations.base import Perturbation, document_uniform

# Set apart from the noise's own draws, which start from the same seed.
_CHOICE_KEY = 0xC401CE00


@dataclass
class Mixture:
    """
    One perturbation, or several of which each document draws one.

    Args:
        parts (`Mapping[str, Perturbation]`):
            By name.
        probabilities (`Mapping[str, float]`):
            By the same names; they add up to 1.
        severities (`Mapping[str, Schedule]`, *optional*):
            By name, how severity moves with training progress; a part without one keeps its own.
    """

    parts: Mapping[str, Perturbation]
    probabilities: Mapping[str, float]
    severities: Mapping[str, Schedule]

    @classmethod
    def of(cls, part: Perturbation) -> "Mixture":
        """The mixture of one."""
        return cls({"only": part}, {"only": 1.0}, {})

    def at(self, progress: float) -> list[Perturbation]:
        """Returns the parts with the severity of a training progress in [0, 1]."""
        return [
            replace(part, severity=self.severities[name].at(progress)) if name in self.severities else part
            for name, part in self.parts.items()
        ]

    def choose(self, input_ids: Tensor, documents: Documents, seed: int) -> Tensor | None:
        """
        Draws each document's part by its own tokens and the step's seed.

        Returns:
            `torch.Tensor` of shape `(documents.count,)`, indices into the parts; None where there is only one.
        """
        if len(self.parts) == 1:
            return None
        # The draw of a document is that of its first token: the only one at position 0 that is real.
        draws = document_uniform(input_ids, documents, 1, seed ^ _CHOICE_KEY)[..., 0]
        draws = draws * (documents.mask & (documents.positions == 0))
        of_document = draws.new_zeros(documents.count).index_add_(0, documents.index.flatten(), draws.flatten())
        # Compared number by number: a tensor of limits would be copied from the host, which waits for the device.
        choice = torch.zeros_like(of_document, dtype=torch.long)
        limit = 0.0
        for name in [*self.parts][:-1]:
            limit += self.probabilities[name]
            choice += (of_document >= limit).long()
        return choice
