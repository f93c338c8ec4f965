# SPDX-License-Identifier: Apache-2.0
"""The fields of [`ContrastiveRobustConfig`] that say what is contrasted with what, beside the role's weight and loss."""

from dataclasses import dataclass
from typing import Any

from ..checks import require_candidates, require_count, require_known
from ..models.backbone import trained_from
from ..objective.candidates import DECIDED, LEVELS, Contrast, TeacherQueue
from ..objective.state_contrast import middle_layers
from .noise_config import require_whole_documents, setting


@dataclass
class ContrastConfig:
    """What an anchor of the contrastive role is, how many there are, and where its candidates come from."""

    contrastive_temperature: float | None = setting(
        "Temperature of the softmax over candidates, > 0; lower looks only at the hardest. None: its default, 0.1."
    )
    contrastive_false_negative_threshold: float | None = setting(
        "info_nce, sincere and supervised_contrastive: a candidate whose teacher-teacher cosine exceeds it is no negative, in "
        "(-1, 1]; 1 keeps all. Not to be set at the levels 'decision' and 'state' with several teachers or a soft route, which "
        "say it. None: "
        "its default, 0.95."
    )
    contrastive_level: str = setting(
        "What is contrasted: 'token' (kept positions), 'sequence' (mean over a document's kept positions), 'decision' "
        "(a document's first kept position, whose next token begins to refuse or to answer; of several turns the first "
        "one's) or 'state' (what the student's middle layers hold of a document's prompt; its documents among themselves, by "
        "the sides that several teachers or a soft route give). 'sequence' and 'decision' need at least two documents in a batch, "
        "'state' three; the last two data of which only the answers are trained on.",
        "token",
        choices=list(LEVELS),
    )
    contrastive_layers: list[int] | None = setting(
        "Layers whose states are contrasted at the level 'state', from 1 on. None: those from half to five sixths of the depth."
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

    def build_contrast(self, vocab_size: int | None, model: Any) -> Contrast:
        """Builds what the contrastive role needs beside its loss, for a causal language model."""
        queue = TeacherQueue(self.contrastive_queue_size)
        layers = self._state_layers(model) if self.contrastive_level == "state" else None
        return Contrast(self.contrastive_level, self.contrastive_max_anchors, queue, vocab_size, layers)

    def require_sequences(self) -> None:
        """Raises ValueError when a batch cannot hold the two sequences that contrast between documents compares."""
        own: Any = self
        require_candidates(
            own.contrastive_loss,
            "sequences",
            own.per_device_train_batch_size,
            'Raise per_device_train_batch_size or use contrastive_level="token".',
            least=3 if self.contrastive_level == "state" else 2,
        )

    def _state_layers(self, model: Any) -> list[int]:
        depth = model.config.get_text_config().num_hidden_layers
        layers = middle_layers(depth) if self.contrastive_layers is None else self.contrastive_layers
        missing = [layer for layer in layers if layer > depth]
        if missing:
            raise ValueError(
                f"contrastive_layers: {missing[0]} is none of the model's {depth} layers, so it has no states to contrast. Name "
                "layers up to that, or leave contrastive_layers out."
            )
        begin = trained_from(model)
        constant = [layer for layer in layers if begin is not None and layer <= begin]
        if constant:
            raise ValueError(
                f"contrastive_layers: nothing that trains lies below layer {constant[-1]}, so its states stay as they are and the "
                "contrast teaches it nothing. Name higher layers, or let the adapter reach below them."
            )
        return layers

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
        if self.contrastive_level in DECIDED:
            self._check_decision(own)
        if self.contrastive_layers is not None:
            self._check_layers(self.contrastive_layers)
        if self.contrastive_level == "state":
            self._check_states(own)

    def _check_decision(self, own: Any) -> None:
        level = f"contrastive_level={self.contrastive_level!r}"
        unknown = "so it would be contrasted where nothing is decided"
        require_whole_documents(level, own, unknown)
        if self.contrastive_rejected:
            raise ValueError(
                f"{level}: a rejected answer stands behind the same prompt, so where it is decided the "
                "state is that of the chosen one, its own positive. Set contrastive_rejected=False, or "
                "contrastive_level='token' or 'sequence'."
            )

    def _check_layers(self, layers: Any) -> None:
        if self.contrastive_level != "state":
            raise ValueError(
                f"contrastive_layers={layers} would be ignored: at contrastive_level={self.contrastive_level!r} logits are "
                "contrasted. Set contrastive_level='state', or leave it out."
            )
        listed = isinstance(layers, (list, tuple)) and all(type(one) is int and one >= 1 for one in layers)
        if not listed or not layers or len({*layers}) < len(layers):
            raise ValueError(
                f"contrastive_layers={layers!r}: must be a list of different whole numbers from 1 on, such as [6, 7], so that each "
                "layer has states and counts once. Leave it out for those from half to five sixths of the depth."
            )

    def _check_states(self, own: Any) -> None:
        if self.contrastive_queue_size:
            raise ValueError(
                f"contrastive_level='state': contrastive_queue_size={self.contrastive_queue_size} would keep states of a student "
                "that has changed since. Set contrastive_queue_size=0."
            )
        why = {
            "relational_kl": "compares the student's similarities with a teacher's, and here are the student's alone",
            "info_nce": "has the anchor itself as its one positive, so it draws no side together and hardly trains",
        }.get(own.contrastive_loss)
        if why is not None:
            raise ValueError(
                f"contrastive_level='state': {own.contrastive_loss} {why}. Use contrastive_loss='sincere' or "
                "'supervised_contrastive'."
            )
