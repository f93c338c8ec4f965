# SPDX-License-Identifier: Apache-2.0
"""The fields of [`ContrastiveRobustConfig`] that say what is contrasted with what, beside the role's weight and loss."""

from dataclasses import dataclass
from typing import Any

from ..checks import require_candidates, require_count, require_known
from ..objective.candidates import LEVELS, Contrast, TeacherQueue
from .noise_config import require_whole_documents, setting


@dataclass
class ContrastConfig:
    """What an anchor of the contrastive role is, how many there are, and where its candidates come from."""

    contrastive_temperature: float | None = setting(
        "Temperature of the softmax over candidates, > 0; lower looks only at the hardest. None: its default, 0.1."
    )
    contrastive_false_negative_threshold: float | None = setting(
        "info_nce, sincere and supervised_contrastive: a candidate whose teacher-teacher cosine exceeds it is no negative, in "
        "(-1, 1]; 1 keeps all. Not to be set at the level 'decision' with several teachers or a soft route, which say it. None: "
        "its default, 0.95."
    )
    contrastive_level: str = setting(
        "What is contrasted: 'token' (kept positions), 'sequence' (mean over a document's kept positions) or 'decision' "
        "(a document's first kept position, whose next token begins to refuse or to answer; of several turns the first "
        "one's). The last two need at least two documents in a batch; 'decision' data of which only the answers are "
        "trained on.",
        "token",
        choices=list(LEVELS),
    )
    contrastive_max_anchors: int = setting(
        "At most this many positions of a batch are contrasted, evenly spaced: the cost grows with its square. 1024 "
        "keeps the similarities at 4 MB.",
        1024,
    )
    contrastive_queue_size: int = setting(
        "Past teacher states kept as further candidates; 4096 of them cost 4096 times the teacher's hidden width. 0: none.",
        0,
    )
    contrastive_rejected: bool = setting(
        "Whether the teacher's reading of each example's `rejected` completion is a hard negative. Needs the columns "
        "prompt, chosen (or completion) and rejected, and no packing.",
        False,
    )

    def build_contrast(self, vocab_size: int | None) -> Contrast:
        """Builds what the contrastive role needs beside its loss."""
        queue = TeacherQueue(self.contrastive_queue_size)
        return Contrast(self.contrastive_level, self.contrastive_max_anchors, queue, vocab_size)

    def require_sequences(self) -> None:
        """Raises ValueError when a batch cannot hold the two sequences that contrast between documents compares."""
        own: Any = self
        require_candidates(
            own.contrastive_loss,
            "sequences",
            own.per_device_train_batch_size,
            'Raise per_device_train_batch_size or use contrastive_level="token".',
        )

    def _check_contrast(self) -> None:
        own: Any = self
        require_known("contrastive_level", self.contrastive_level, LEVELS)
        require_count(
            "contrastive_max_anchors", self.contrastive_max_anchors, 2, "One anchor has nothing to contrast."
        )
        require_count("contrastive_queue_size", self.contrastive_queue_size, 0, "It is a number of states.")
        for packing in ("packing", "eval_packing"):
            if self.contrastive_rejected and getattr(self, packing):
                raise ValueError(
                    f"contrastive_rejected: cannot be combined with packing, which would separate an answer from its "
                    f"rejected counterpart. Set {packing}=False or contrastive_rejected=False."
                )
        if self.contrastive_level == "sequence" and own.packing and own.packing_strategy == "wrapped":
            raise ValueError(
                "contrastive_level='sequence': packing_strategy='wrapped' cuts documents and leaves no boundaries, so "
                "unrelated texts would be averaged. Use packing_strategy='bfd' or contrastive_level='token'."
            )
        if self.contrastive_level == "decision":
            self._check_decision(own)

    def _check_decision(self, own: Any) -> None:
        unknown = "so it would be contrasted where nothing is decided"
        require_whole_documents("contrastive_level='decision'", own, unknown)
        if self.contrastive_rejected:
            raise ValueError(
                "contrastive_level='decision': a rejected answer stands behind the same prompt, so where it is decided the "
                "teacher's state is that of the chosen one, its own positive. Set contrastive_rejected=False, or "
                "contrastive_level='token' or 'sequence'."
            )
