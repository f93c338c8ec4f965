# SPDX-License-Identifier: Apache-2.0
"""Two teachers mixed on every row, by what the student's own base knows of its prompt."""

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..checks import require_positive, require_within, said_of
from ..kernels.signals import MixedSignal, Mixture, RoutedSignal, Signal, SignalPart, TeacherSignal, signal_parts
from ..models._upstream import adapters_disabled
from ..models.backbone import frozen, read_head, run_backbone
from ..models.batch import Batch
from ..models.boundary_probe import BoundaryProbe
from ..models.frozen_base import why_no_frozen_base
from .base import Teacher, TeacherSetup

REFUSED = "soft_route_refuse"


class SoftRouteTeacher(Teacher):
    r"""
    Draws the student towards one teacher as far as a probe holds the prompt to be one to refuse, and towards the other as far
    as it does not: no row needs a label, or an answer worth training on.

        teacher(v) = p * refuse(v) + (1 - p) * answer(v)            p = sigmoid(sharpness * log-odds of the probe)

    The probe reads the student's own base, adapters off, on each document's clean prompt: all up to the first token that
    counts, in a conversation up to its first answer that counts. That pass is the `answer` teacher's too where that is the
    base. Of a document whose prompt is perturbed, p stays that of the clean prompt. The log has p's mean over documents
    (`soft_route_refuse`).

    The mixture is of probabilities, exact, over the ids that both teachers have. Contrast, which is made of logits, takes the
    mixture of those instead: p z_refuse + (1 - p) z_answer.

    Source: mixture of experts with a fixed gate, Jacobs et al. 1991, https://doi.org/10.1162/neco.1991.3.1.79; linear
    probes, https://huggingface.co/papers/1610.01644. Differs: the gate is not trained here, and reads the prompt alone.
    Related: [`RoutedTeacher`] needs a label on each row, and lets one teacher alone speak there.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            Fitted on the student's base.
        refuse ([`~teachers.base.Teacher`]), answer ([`~teachers.base.Teacher`]):
            Of prompts to refuse, and of all others. Each gives hidden states.
        sharpness (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: factor of the log-odds. Above 1 the mixture comes closer to a choice between the two, below 1 to
            their mean; 1 trusts the probe's calibration.
        threshold (`float`, *optional*):
            Probability in (0, 1) from which on the first teacher speaks alone, and below which the second does. None: they
            are mixed.
    """

    by_document = True
    sided = True

    def __init__(
        self,
        probe: BoundaryProbe,
        refuse: Teacher,
        answer: Teacher,
        sharpness: float = 1.0,
        threshold: float | None = None,
    ):
        require_positive("soft_route: sharpness", sharpness, "Every prompt would get the same p, or the opposite one.")
        if threshold is not None:
            unused = "One of the two teachers would never speak."
            require_within("soft_route: threshold", threshold, 0, 1, unused, open_low=True, open_high=True)
            if sharpness != 1:
                raise ValueError(
                    f"soft_route: sharpness={sharpness:g} would be ignored, as threshold={threshold:g} leaves one teacher alone "
                    "on each row. Leave one of the two out."
                )
        self.probe, self.refuse, self.answer = probe, refuse, answer
        self.sharpness, self.threshold = sharpness, threshold
        for said, one in self._members.items():
            if one.lossy or one.parts or one.by_document:
                raise ValueError(
                    f"soft_route: {said} ({one.name}) does not give hidden states over the student's vocabulary at every "
                    "position, so it cannot be mixed with another. Use a model, an adapter or the student's own base there."
                )
        if refuse.own_base and answer.own_base:
            raise ValueError(
                "soft_route: refuse and answer are both the student's own base, so p would change nothing. Name the teacher of "
                "prompts to refuse: {'soft_route': 'probe', 'refuse': 'org/a-model'}."
            )
        self.name = ", ".join(f"{said}: {one.name}" for said, one in self._members.items())
        self.unknown = {**answer.unknown, **refuse.unknown}
        self._counted: list[Tensor] = []

    @classmethod
    def load(  # type: ignore[override]
        cls,
        source: Any,
        setup: TeacherSetup,
        *,
        refuse: Any = None,
        answer: Any = None,
        sharpness: float = 1.0,
        threshold: float | None = None,
    ) -> "SoftRouteTeacher":
        """
        Args:
            source (`str`, `os.PathLike` or [`~models.boundary_probe.BoundaryProbe`]):
                The probe, or the folder that holds it.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            refuse (`Any`), answer (`Any`, *optional*):
                What `teacher_model` takes: the teacher of prompts to refuse, and that of all others. None: the student's own
                base.
            sharpness (`float`, *optional*, defaults to `1.0`), threshold (`float`, *optional*):
                See [`SoftRouteTeacher`].

        Raises:
            ValueError: If the student has no frozen base, the probe is missing or of another base, a setting is out of its
                range, or a teacher gives no hidden states or is itself several.
        """
        if not isinstance(source, (str, os.PathLike, BoundaryProbe)):
            raise ValueError(
                f"soft_route: must be the folder of a probe, got {source!r}, so it is not known which prompts to refuse. For "
                "example {'soft_route': 'probe', 'refuse': 'org/a-model'}."
            )
        missing = why_no_frozen_base(setup.causal_lm)
        if missing:
            raise ValueError(f"soft_route: the probe reads the student's own frozen base, but {missing}.")
        probe = source if isinstance(source, BoundaryProbe) else BoundaryProbe.load(os.fspath(source))
        # Of weights that are sharded already, a process sees a part.
        if not setup.sharded:
            probe.require_model(setup.causal_lm)
        members = {}
        for said, given in (("refuse", refuse), ("answer", answer)):
            with said_of(said, "teacher_model"):
                members[said] = setup.build(given)
        return cls(probe, **members, sharpness=sharpness, threshold=threshold)

    def signal(self, batch: Batch, student: PreTrainedModel) -> RoutedSignal:
        base, log_odds = self._read_base(batch, student)
        # What a pack's document would predict of the next one's beginning is nobody's to say.
        positions = batch.kept_inside.nonzero().squeeze(1)
        refuse, answer = (self._read(said, batch, student, base) for said in self._members)
        signal = MixedSignal(*refuse, answer, Mixture(log_odds[batch.kept_documents]))
        signal = signal if len(positions) == len(batch.kept) else signal.select(positions)
        return RoutedSignal((SignalPart("", positions, signal),))

    def _read_base(self, batch: Batch, student: PreTrainedModel) -> tuple[TeacherSignal, Tensor]:
        """What the student's own base says, and each document's log-odds, `(documents.count,)`: 0 of one without an answer."""
        kept = batch.kept[batch.kept_inside]
        if (batch.documents.positions.flatten()[kept] == 0).any():
            raise ValueError(
                "soft_route: the second token of a text counts already, so it has no prompt of which to tell whether to refuse it. "
                "Give prompts and completions, or conversations with assistant_only_loss=True, and let no truncation take the "
                "prompt away."
            )
        with frozen(student), adapters_disabled(student):
            outputs = run_backbone(student, {**batch.inputs, "output_hidden_states": True})
            numbers, log_odds = self.probe.log_odds(outputs.hidden_states, batch)
            with read_head(student) as head:
                base = TeacherSignal(batch.keep(outputs.last_hidden_state), head.detach())
        if self.threshold is None:
            log_odds = self.sharpness * log_odds
        else:
            # NaN stays NaN, which the loss tells.
            certain = torch.where(log_odds >= math.log(self.threshold / (1 - self.threshold)), math.inf, -math.inf)
            log_odds = torch.where(log_odds.isnan(), log_odds, certain)
        self._counted.append(torch.stack([log_odds.sigmoid().sum(), log_odds.new_tensor(float(len(log_odds)))]))
        return base, log_odds.new_zeros(batch.documents.count).index_copy(0, numbers, log_odds)

    def _read(self, said: str, batch: Batch, student: PreTrainedModel, base: TeacherSignal) -> TeacherSignal:
        one = self._members[said]
        if one.own_base:
            return base
        parts = signal_parts(one.signal(batch, student), len(batch.kept))
        signal = parts[0].signal if len(parts) == 1 and len(parts[0].positions) == len(batch.kept) else None
        if not isinstance(signal, TeacherSignal):
            raise ValueError(
                f"soft_route: {said} ({one.name}) does not give hidden states at every position, so it cannot be mixed with "
                "another. Use one teacher that does."
            )
        return signal

    def silence(self, student: PreTrainedModel) -> Signal:
        first, second = (TeacherSignal(*one.silence(student)[:2]) for one in self._members.values())
        return MixedSignal(*first, second, Mixture(torch.zeros(0, device=first.hidden.device)))

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "probe": probe_digest(self.probe),
            "sharpness": self.sharpness,
            "threshold": self.threshold,
            "teachers": {said: one.manifest() for said, one in self._members.items()},
        }

    @property
    def log_names(self) -> list[str]:
        return [REFUSED, *(f"{count}/{said}" for said, one in self._members.items() for count in one.log_names)]

    def take_counts(self, like: Tensor) -> dict[str, Tensor]:
        found = {
            f"{count}/{said}": value
            for said, one in self._members.items()
            for count, value in one.take_counts(like).items()
        }
        if self._counted:
            found[REFUSED] = torch.stack(self._counted).sum(0).to(like.device)
            self._counted = []
        return found

    @property
    def _members(self) -> Mapping[str, Teacher]:
        return {"refuse": self.refuse, "answer": self.answer}

    @property
    def voices(self) -> list[Teacher]:
        return [self.refuse, self.answer]

    @property
    def behind(self) -> list[Teacher]:
        return self.voices


def probe_digest(probe: BoundaryProbe) -> str:
    """Returns what tells a probe from another one, by what it computes."""
    digest = hashlib.blake2b(f"{[*probe.layers]} {probe.bias}".encode(), digest_size=8)
    digest.update(probe.weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
