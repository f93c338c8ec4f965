# SPDX-License-Identifier: Apache-2.0
"""The boundary probe of an evaluation: where it comes from, whether it is of this base, and whether it has seen the prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.contamination import shortened
from ..data.prompt_sets import EvalPrompt
from ..data.public_hashes import prompt_hashes
from .measuring.models import EvaluatedModel, public_name, source_file
from .measuring.suites import Questions
from .seen_prompts import asked_prompts

if TYPE_CHECKING:
    from ..models.boundary_probe import BoundaryProbe

NONE = "none"
# Facts that a probe's file may hold: a fingerprint of the base that it was fitted on, and of each prompt that it was fitted
# on, the first of `data.public_hashes.prompt_hashes`.
FINGERPRINT, PROMPTS = "fingerprint", "prompt_hashes"
_SHOWN = 5


@dataclass(frozen=True)
class FoundProbe:
    """
    A probe that is measured beside the models.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            As it was read.
        folder (`str`):
            Its folder's name, or the Hub id of the adapter that it lies beside.
        digest (`str`):
            What tells it from others.
    """

    probe: "BoundaryProbe"
    folder: str
    digest: str

    def described(self) -> dict[str, Any]:
        """Returns what results files state of it; of its own facts those that are one value each."""
        plain = {name: value for name, value in self.probe.facts.items() if isinstance(value, (str, int, float, bool))}
        return {"name": self.folder, "digest": self.digest, "layers": [*self.probe.layers], "facts": plain}


def find_probe(given: str | None, entries: Sequence[EvaluatedModel]) -> FoundProbe | None:
    """
    Returns the probe that is measured, or None.

    Args:
        given (`str`, *optional*):
            Folder with a probe; `"none"`: no probe. None: the one that lies beside the first of the adapters that has one on
            the base.
        entries (`Sequence[EvaluatedModel]`):
            All models, the base first.

    Raises:
        ValueError: If the folder holds no probe, or a broken one.
    """
    from ..models.boundary_probe import FACTS, WEIGHTS, BoundaryProbe

    if given == NONE:
        return None
    if given is not None:
        return _read(BoundaryProbe.load(given), public_name(given))
    for entry in entries:
        if entry.adapter is not None and entry.model == entries[0].model:
            files = [source_file(entry.adapter, name) for name in (WEIGHTS, FACTS)]
            if all(files):
                return _read(BoundaryProbe.load(Path(str(files[0])).parent), public_name(entry.adapter))
    return None


def _read(probe: "BoundaryProbe", folder: str) -> FoundProbe:
    told = f"{[*probe.layers]} {probe.bias!r} ".encode() + probe.weight.float().numpy().tobytes()
    return FoundProbe(probe, folder, hashlib.sha256(told).hexdigest()[:16])


def other_base(probe: "BoundaryProbe", model: Any) -> str | None:
    """
    Returns a sentence where a probe was fitted on another base than the one that it reads.

    A base of other layers or another width is refused when it is read; this one is for bases of the same shape.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            With the base's fingerprint among its facts, or without: then nothing is said.
        model (`PreTrainedModel` or `PeftModel`):
            What it reads.
    """
    recorded, found = probe.facts.get(FINGERPRINT), base_fingerprint(model)
    if recorded is None or found is None or recorded == found:
        return None
    return (
        f"The boundary probe was fitted on another base (fingerprint {recorded}, here {found}), so its AUROC does not say what "
        "this base knows. Fit one on this base with `hf-ckt fit-probe`, or give --probe none."
    )


def base_fingerprint(model: Any) -> str | None:
    """Returns what tells a base from others of the same shape, as `hf-ckt fit-probe` records it; None: not known."""
    return None


def require_unseen_by(probe: "BoundaryProbe", asked: Questions) -> bool:
    """
    Raises where a prompt is asked that the probe was fitted on: its AUROC would be recall.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            With hashes of its prompts among its facts, or without.
        asked ([`Questions`]):
            What is asked.

    Returns:
        `bool`: whether there were hashes to compare with.

    Raises:
        ValueError: With the number of such prompts and the first of them.
    """
    hashes = probe.facts.get(PROMPTS)
    if not hashes:
        return False
    known = {*hashes}
    prompts: Mapping[str, EvalPrompt] = {
        one.id: one for suite, mine in asked_prompts(asked).items() if suite != "utility" for one in mine
    }
    seen = [one for one in prompts.values() if prompt_hashes(one.text)[0] in known]
    if seen:
        shown = "; ".join(f"{one.id}: {shortened(one.text)!r}" for one in seen[:_SHOWN])
        raise ValueError(
            f"--probe: it was fitted on {len(seen)} of {len(prompts)} evaluation prompts ({shown}"
            f"{'; ...' if len(seen) > _SHOWN else ''}), so its AUROC would be recall. Ask others, fit it without them, or give "
            "--probe none."
        )
    return True
