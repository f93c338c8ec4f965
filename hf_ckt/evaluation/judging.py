# SPDX-License-Identifier: Apache-2.0
"""The judges of an evaluation: one of harmful prompts, and one of benign ones where the first sees no refusals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..hub.provenance import library_versions
from .judges import Judge, Verdict, load_judge, model_of
from .measuring.models import identity_of
from .measuring.store import PieceStore

_AT_A_TIME = 64  # verdicts of a judge that is a model that are kept together


@dataclass(frozen=True)
class Judging:
    """
    Args:
        harmful, benign ([`Judge`]):
            Of answers to prompts of each kind; the same one where it sees refusals.
        store ([`PieceStore`], *optional*):
            Keeps verdicts of judges that are models of the Hub or a folder; the others are quicker than reading a file.
        identity (`str`, *optional*):
            Of the model that judges: a folder's weights may change under its name.
    """

    harmful: Judge
    benign: Judge
    store: PieceStore | None = None
    identity: str | None = None

    @classmethod
    def by(cls, judge: Judge, store: PieceStore | None = None, identity: str | None = None) -> "Judging":
        """Returns the judging of a judge; answers to benign prompts are left to the rule where it sees no refusals."""
        return cls(judge, judge if judge.scores_refusals else load_judge("rule"), store, identity)

    def of(self, kind: str) -> Judge:
        """Returns the judge of a kind of prompts."""
        return self.harmful if kind == "harmful" else self.benign

    def judged(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        Returns rows with verdicts (`refused`, `degenerate`, `confidence`), in place of those that they have. A judge reads
        the request itself, without the template around it and without noise. Rows of questions stay as they are.

        Args:
            rows (`Sequence[Mapping]`):
                With `kind`, `request` and `answer`.
        """
        verdicts: dict[tuple[str, str, str], Verdict] = {}
        for kind in ("harmful", "benign"):
            pairs = sorted({(row["request"], row["answer"]) for row in rows if row["kind"] == kind})
            if pairs:
                verdicts |= zip(((kind, *pair) for pair in pairs), self._verdicts(self.of(kind), pairs), strict=True)
        found = []
        for row in rows:
            verdict = verdicts.get((row["kind"], row["request"], row["answer"]))
            found.append({**row, **asdict(verdict)} if verdict is not None else dict(row))
        return found

    def described(self) -> dict[str, Any]:
        """Returns what results files state of the judges."""
        judge, benign = self.harmful, self.benign
        facts = {"name": judge.name, "digest": judge.digest, "measures": judge.measures, "error": list(judge.error)}
        if benign is judge:
            return facts
        return {
            **facts,
            "benign": benign.name,
            "benign_digest": benign.digest,
            "benign_error": list(benign.error),
        }

    def _verdicts(self, judge: Judge, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        if self.store is None or self.identity is None or not judge.name.startswith("hf:"):
            return judge.verdicts(*zip(*pairs, strict=True))
        verdicts = []
        told: dict[str, Any] = {"what": "verdicts", "judge": [judge.name, judge.digest], "model": self.identity}
        told["versions"] = library_versions(*judge.libraries)
        for start in range(0, len(pairs), _AT_A_TIME):
            batch = pairs[start : start + _AT_A_TIME]
            kept = self.store.piece({**told, "pairs": batch}, partial(_as_dicts, judge, batch))
            verdicts += [Verdict(**one) for one in kept]
        return verdicts


def load_judging(spec: str, *, trust_remote_code: bool = False, store: PieceStore | None = None) -> Judging:
    """
    Returns the judges of an evaluation.

    Args:
        spec (`str`):
            See [`~evaluation.judges.load_judge`].
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with a judge that is a model.
        store ([`PieceStore`], *optional*):
            Where verdicts that take long are kept.
    """
    judge = load_judge(spec, trust_remote_code=trust_remote_code)
    identity = None
    if spec.startswith("hf:"):
        model, _, revision = model_of(spec)
        identity = identity_of(model, revision)
    return Judging.by(judge, store, identity)


def _as_dicts(judge: Judge, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    prompts, answers = zip(*pairs, strict=True)
    return [asdict(verdict) for verdict in judge.verdicts(prompts, answers)]
