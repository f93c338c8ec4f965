# SPDX-License-Identifier: Apache-2.0
"""How many documents stayed clean although they were to be perturbed, and why."""

import logging
from collections import Counter
from enum import Enum

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Documents of which none could be perturbed before training stops: with so many it is no coincidence.
_PATIENCE = 8
# Share above which a warning is given.
_TOLERATED = 0.05


class CleanReason(Enum):
    """Why a document stayed clean, as it is said of several, and what to do about it."""

    NOT_ALIGNED = (
        "could not be aligned with the answers",
        "The tokenizer or chat template renders prompts otherwise than in the dataset; use a perturbation of embeddings, "
        "or render and tokenize the data with this one.",
    )
    NOTHING_TO_CHANGE = (
        "hold nothing that it may change",
        "It changes what users wrote, as far as that is found in the rendering of the chat template; use another "
        "perturbation, or one of embeddings.",
    )
    UNDONE = (
        "came out of the chat template and the tokenizer as they had been",
        "Template or tokenizer drop what it changes; use another perturbation.",
    )
    CUT_OFF = (
        "have no prompt left, or no room for a noisy one, within max_length",
        "Raise max_length.",
    )
    CHANCE = (
        "drew no change",
        "A small share of a short prompt is less than one word or token of it; raise perturbation_severity, unless its "
        "schedule does.",
    )

    @property
    def description(self) -> str:
        return self.value[0]

    @property
    def remedy(self) -> str:
        return self.value[1]


class StayedClean:
    """
    Counts the documents that a perturbation of text or tokens left as they were, by the perturbation's name.

    Two equal views have no divergence, which a mean over all documents does not show. Those of an evaluation are counted
    apart: they neither stop a training nor hide that all of its own stay clean.
    """

    def __init__(self) -> None:
        # Each by name, and whether it is of the training.
        self._tried: Counter[tuple[str, bool]] = Counter()
        self._clean: dict[tuple[str, bool], Counter[CleanReason]] = {}
        self._taken: dict[tuple[str, bool], tuple[int, int]] = {}
        self._warned: set[tuple[str, bool]] = set()

    def note(self, name: str, reason: CleanReason | None, *, training: bool = True) -> None:
        """
        Notes a document that was to be perturbed.

        Args:
            name (`str`):
                The perturbation.
            reason ([`CleanReason`], *optional*):
                Why the document stayed clean; None where it did not.
            training (`bool`, *optional*, defaults to `True`):
                Whether it is trained on.

        Raises:
            ValueError: If none of the first documents of the training could be perturbed, and not by chance.
        """
        key = name, training
        clean = self._clean.setdefault(key, Counter())
        self._tried[key] += 1
        if reason is None:
            return
        clean[reason] += 1
        tried, count = self._tried[key], clean.total()
        if training and tried >= _PATIENCE and count - clean[CleanReason.CHANCE] == tried:
            raise ValueError(_as_error(name, clean))
        if key not in self._warned and count > max(1, _TOLERATED * tried):
            self._warned.add(key)
            logger.warning(
                "perturbation: %d of the first %d documents%s stayed clean under %s (%s), so that their two views are the "
                "same and %s. %s It is said once; the log has the share under stayed_clean_%s.",
                count,
                tried,
                "" if training else " of an evaluation",
                name,
                _listed(clean),
                "teach nothing" if training else "their divergence is 0",
                clean.most_common(1)[0][0].remedy,
                name,
            )

    def forget(self) -> None:
        """Leaves out of the next [`take`] what was noted since the last: of a batch that was broken off."""
        self._taken = {key: (self._clean[key].total(), tried) for key, tried in self._tried.items()}

    # Kept out of torch_compile, which would trace a step anew for every count.
    @torch.compiler.disable
    def take(self, like: Tensor) -> dict[str, Tensor]:
        """Returns, by logged name, documents that stayed clean and documents tried since the last call, `(2,)`."""
        sums = {}
        for key, tried in self._tried.items():
            now = (self._clean[key].total(), tried)
            since = [new - old for new, old in zip(now, self._taken.get(key, (0, 0)), strict=True)]
            self._taken[key] = now
            if since[1]:
                # Filled, not copied from the host, which would wait for the device.
                sums[log_name(key[0])] = torch.stack([like.detach().new_full((), count) for count in since])
        return sums


def log_name(name: str) -> str:
    """Returns the name under which a perturbation's share of clean documents is logged."""
    return f"stayed_clean_{name}"


def _listed(clean: Counter[CleanReason]) -> str:
    return "; ".join(f"{count} {reason.description}" for reason, count in clean.most_common())


def _as_error(name: str, clean: Counter[CleanReason]) -> str:
    (reason, _), tried = clean.most_common(1)[0], clean.total()
    if len(clean) > 1:
        what = f"none of the first {tried} prompts was changed by {name} ({_listed(clean)})"
    elif reason is CleanReason.NOT_ALIGNED:
        what = f"none of the first {tried} noisy prompts could be aligned with the answers ({name})"
    else:
        what = f"the first {tried} prompts all {reason.description} ({name})"
    return f"perturbation: {what}, so the two views would be the same. {reason.remedy}"
