# SPDX-License-Identifier: Apache-2.0
"""
Agreement of a student with its teacher, token by token on given responses.

With a named teacher more is better; without one the same acceptance is only how much of the base is left, and neither
more nor less is better. Each quantity is that of the part of its name: acceptance, top-1 agreement, top-10 overlap,
KL(t || s) in nats, JSD in bits. Beside them

    gap closed = 1 - KL(t || s) / KL(t || base)              1: at the teacher, 0: where the base was
    calibration error = sum over bins of n_b / n |confidence_b - agreement_b|

where confidence is the student's largest probability and agreement whether the teacher holds the same token most
probable (expected calibration error, Guo et al. 2017, https://huggingface.co/papers/1706.04599, against the teacher's
choice; ten bins of equal width, each with its lower end). The noise of small bins only ever adds to a calibration
error, and resampling adds more of it: its interval leans upwards where tokens are few.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...discovery import load_part
from ...views import LogitsView, TokenViews
from .compared import Drawn, ModelScores
from .intervals import DRAWS
from .parts import Measure, Part, Row, Sums, response_of

BINS = 10
# score -> quantity
_QUANTITIES = {
    "kd_alignment": "acceptance",
    "top1_agreement": "agreement",
    "top10_overlap": "top10_overlap",
    "kl": "kl",
    "jsd": "jsd",
}


def token_alignment(views: TokenViews) -> dict[str, Tensor]:
    """
    Returns each quantity at each token, `(N,)`: `acceptance`, `agreement`, `top10_overlap`, `kl` (nats), `jsd`
    (bits), and the student's `confidence`.

    Args:
        views ([`TokenViews`]):
            With `student` and `teacher`; of heads padded to different sizes the shared ids count.
    """
    shared = views.shared_vocab("teacher", "student")
    return {
        "acceptance": load_part("metrics", "acceptance")().per_token(views),
        "agreement": load_part("metrics", "teacher_agreement")().per_token(views),
        "top10_overlap": load_part("metrics", "top_overlap")(k=10).per_token(views),
        "kl": load_part("losses", "forward_kl")().per_token(views),
        "jsd": load_part("losses", "jensen_shannon")(beta=0.5).per_token(views) / math.log(2),
        "confidence": views.student.probs(shared).max(-1).values,
    }


def alignment_record(quantities: Mapping[str, Tensor], base_kl: Tensor | None = None) -> dict[str, Any]:
    """
    Returns the sums of [`token_alignment`] over tokens, which is all that is kept of them.

    Args:
        quantities (`Mapping[str, torch.Tensor]`):
            Of [`token_alignment`], each `(N,)`.
        base_kl (`torch.Tensor` of shape `(N,)`, *optional*):
            KL(t || base) in nats.

    Returns:
        `dict`, as JSON holds it: `tokens`, how many; `sums` by quantity; and `bins`, ten triples of count, summed
        confidence and summed agreement.
    """
    confidence, agreement = (quantities[name].double() for name in ("confidence", "agreement"))
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    columns = torch.stack([torch.ones_like(confidence), confidence, agreement], 1)
    bins = torch.zeros(BINS, 3, dtype=torch.double, device=place.device).index_add_(0, place, columns)
    sums = {name: quantities[name].double().sum().item() for name in _QUANTITIES.values()}
    if base_kl is not None:
        sums["base_kl"] = base_kl.double().sum().item()
    return {"tokens": len(confidence), "sums": sums, "bins": bins.tolist()}


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the record of all tokens of several records, at least one."""
    bins = torch.tensor([record["bins"] for record in records], dtype=torch.double).sum(0)
    return {
        "tokens": sum(record["tokens"] for record in records),
        "sums": {name: sum(record["sums"][name] for record in records) for name in records[0]["sums"]},
        "bins": bins.tolist(),
    }


def tile_record(student: Tensor, teacher: Tensor, base: Tensor | None = None) -> dict[str, Any]:
    """
    Returns the record (see [`alignment_record`]) of a tile.

    Args:
        student, teacher, base (`torch.Tensor` of shape `(N, V)`):
            Logits, or log-probabilities, at the same positions.
    """
    labels = torch.zeros(len(student), dtype=torch.long, device=student.device)  # no quantity reads them
    views = TokenViews(labels=labels, student=LogitsView(student), teacher=LogitsView(teacher))
    base_kl = None
    if base is not None:
        base_views = TokenViews(labels=labels, student=LogitsView(base), teacher=views.teacher)
        base_kl = load_part("losses", "forward_kl")().per_token(base_views)
    return alignment_record(token_alignment(views), base_kl)


def alignment_scores(
    records: Mapping[str, Sequence[Mapping[str, Any]]], *, named: bool, draws: int = DRAWS
) -> dict[str, ModelScores]:
    """
    Returns scores of several models' records and every model's differences to those before it, on the responses that both
    read. Intervals resample responses, the same ones for all models. Every token weighs the same.

    Args:
        records (`Mapping[str, Sequence[Mapping]]`):
            By model, one a response, of [`~evaluation.measuring.alignment_records.compare_models`], with `id`, which
            response it is, and `noise`, whether it was read after a corrupted prompt. Their order does not matter.
        named (`bool`):
            Whether the teacher was named: it is the base otherwise.
        draws (`int`, *optional*, defaults to `10000`):
            Bootstrap resamples.

    Returns:
        `dict[str, ModelScores]`, of models that have records: `kd_alignment` (acceptance) and `kd_alignment_noise` with a
        named teacher, and of clean prompts `top1_agreement`, `top10_overlap`, `kl`, `jsd`, `calibration_error`,
        `gap_closed` where the base was compared too, and the calibration: for each bin that holds a token `low`, `high`,
        `confidence`, `agreement` and `n`. Without a named teacher `base_agreement` and `base_agreement_noise` alone.

    Raises:
        ValueError: If there is no record.
    """
    if not any(records.values()):
        raise ValueError("records: there are none, so there is no agreement to report. Compare at least one response.")
    found = {name: ModelScores() for name, mine in records.items() if mine}
    for measure in alignment_measures(named):
        drawn = Drawn(measure, records, draws)
        for name in drawn.parts:
            found[name].scores |= drawn.scores(name, {})
            if named and not drawn.rows[name][0].get("noise"):
                found[name].calibration = _calibration(drawn.means[name], drawn.rows[name])
            for other in found:
                if other == name:
                    break
                differences = drawn.differences(name, other)
                if differences:
                    found[name].against.setdefault(other, {}).update(differences)
    return found


def alignment_measures(named: bool) -> tuple[Measure, ...]:
    """Returns what is scored of records: those of clean prompts, and those under noise."""
    first = "kd_alignment" if named else "base_agreement"
    return (
        Measure(lambda record: not record.get("noise"), lambda records: _part(records, first, named)),
        Measure(lambda record: bool(record.get("noise")), lambda records: _part(records, f"{first}_noise", False)),
    )


def _part(records: Sequence[Row], first: str, whole: bool) -> Part:
    import numpy as np

    names = [name for name in (*_QUANTITIES.values(), "base_kl") if all(name in one["sums"] for one in records)]
    rows = [[*(one["sums"][name] for name in names), *np.ravel(one["bins"])] for one in records]
    columns = [*names, *((number, column) for number in range(BINS) for column in range(3))]
    tokens = [float(one["tokens"]) for one in records]
    clusters = [response_of(one) for one in records]
    quantities: dict[Any, Any] = {
        column: Sums([row[at] for row in rows], tokens, clusters) for at, column in enumerate(columns)
    }

    def scores(means: Mapping[Any, Any]) -> dict[str, Any]:
        found = {first: means["acceptance"]}
        if whole:
            found |= {score: means[name] for score, name in _QUANTITIES.items() if score != "kd_alignment"}
            found["calibration_error"] = sum(abs(means[number, 1] - means[number, 2]) for number in range(BINS))
            if "base_kl" in means:
                with np.errstate(divide="ignore", invalid="ignore"):
                    base = np.asarray(means["base_kl"])
                    found["gap_closed"] = np.where(base > 0, 1 - means["kl"] / base, np.nan)
        return found

    return Part(quantities, scores, dict.fromkeys(scores(dict.fromkeys(columns, 0.0)), len({*clusters})))


def _calibration(means: Mapping[Any, float], records: Sequence[Row]) -> list[dict[str, Any]]:
    tokens = sum(record["tokens"] for record in records)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "confidence": means[number, 1] / means[number, 0],
            "agreement": means[number, 2] / means[number, 0],
            "n": round(means[number, 0] * tokens),
        }
        for number in range(BINS)
        if means[number, 0] > 0
    ]
