# SPDX-License-Identifier: Apache-2.0
"""The boundary probe of an evaluation: where it comes from, how it was fitted, and whether it has seen the prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.contamination import listed
from ..data.prompt_sets import EvalPrompt
from ..data.public_hashes import prompt_hashes
from .measuring.chat_format import ChatFormat
from .measuring.models import EvaluatedModel, public_name, source_file
from .measuring.probe_odds import WITHOUT
from .measuring.suites import Questions
from .seen_prompts import asked_prompts

if TYPE_CHECKING:
    from ..models.boundary_probe import BoundaryProbe

NONE = "none"
# Facts that a probe's file may hold: how prompts were put, as `ChatFormat.facts` has it; and of each prompt that it was
# fitted on, the first of `data.public_hashes.prompt_hashes`, with spaces between.
CHAT, PROMPTS = "chat", "prompt_hashes"
_CHAT_WORDS = {"system_prompt": "system prompt", "template_digest": "chat template"}


@dataclass(frozen=True)
class FoundProbe:
    """
    A probe that is measured beside the models.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            As it was read.
        folder (`str`):
            Its folder's name, or the Hub id of the adapter that it lies beside.
    """

    probe: "BoundaryProbe"
    folder: str

    @property
    def digest(self) -> str:
        """What tells it from others."""
        return _digest(self.probe)

    def described(self) -> dict[str, Any]:
        """Returns what results files state of it."""
        return {"name": self.folder, **described(self.probe)}


def described(probe: "BoundaryProbe") -> dict[str, Any]:
    """Returns what results files state of a probe; of its own facts those that are one value each."""
    plain = {name: value for name, value in probe.facts.items() if isinstance(value, (str, int, float, bool))}
    plain.pop(PROMPTS, None)
    return {"digest": _digest(probe), "layers": [*probe.layers], "facts": plain}


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
        ValueError: If the folder holds no probe, or that of an adapter half of one, or it is broken.
    """
    from ..models.boundary_probe import FACTS, WEIGHTS, BoundaryProbe

    if given == NONE:
        return None
    if given is not None:
        return FoundProbe(BoundaryProbe.load(given), public_name(given))
    for entry in entries:
        if entry.adapter is not None and entry.model == entries[0].model:
            files = [source_file(entry.adapter, name) for name in (WEIGHTS, FACTS)]
            if any(files):
                folder = Path(str(files[0] or files[1])).parent
                try:
                    return FoundProbe(BoundaryProbe.load(folder), public_name(entry.adapter))
                except (
                    ValueError
                ) as error:  # half written, too: left out unsaid, it would seem never to have been fitted
                    raise ValueError(f"{error} {WITHOUT}") from error
    return None


def _digest(probe: "BoundaryProbe") -> str:
    told = f"{[*probe.layers]} {probe.bias!r} ".encode() + probe.weight.float().cpu().numpy().tobytes()
    return hashlib.sha256(told).hexdigest()[:16]


def probe_sentences(probe: "BoundaryProbe", asked: ChatFormat) -> list[str]:
    """
    Returns a sentence where the base reads prompts otherwise than when the probe was fitted.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]):
            With `chat` among its facts, or without: then nothing is said.
        asked ([`ChatFormat`]):
            How the base is asked.
    """
    recorded, now = probe.facts.get(CHAT) or {}, asked.facts()
    others = [words for name, words in _CHAT_WORDS.items() if name in recorded and recorded[name] != now[name]]
    if not others:
        return []
    return [
        f"The boundary probe was fitted under another {' and another '.join(others)} than prompts are asked with here, so the base "
        "may know more than its AUROC says. Fit it with the same --system-prompt and tokenizer."
    ]


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
    known = {*hashes.split()}
    prompts: Mapping[str, EvalPrompt] = {
        one.id: one for suite, mine in asked_prompts(asked).items() if suite != "utility" for one in mine
    }
    seen = [one for one in prompts.values() if prompt_hashes(one.text)[0] in known]
    if seen:
        raise ValueError(
            f"--probe: it was fitted on {len(seen)} of {len(prompts)} evaluation prompts ({listed(seen)}), so its "
            "AUROC would be recall. Ask others, fit it without them, or give --probe none."
        )
    return True
