# SPDX-License-Identifier: Apache-2.0
"""
Agreement of a student with its teacher, token by token on given responses.

Each quantity is that of the part of its name: acceptance, top-1 agreement, top-10 overlap, KL(t || s) in nats, JSD in
bits. Beside them

    gap closed = 1 - KL(t || s) / KL(t || base)              1: at the teacher, 0: where the base was
    calibration error = sum over bins of n_b / n |confidence_b - agreement_b|

where confidence is the student's largest probability and agreement whether the teacher holds the same token most
probable (expected calibration error, Guo et al. 2017, https://huggingface.co/papers/1706.04599, against the teacher's
choice; ten bins of equal width, each with its lower end). The noise of small bins only ever adds to a calibration
error, and resampling adds more of it: its interval may lie above its value where tokens are few.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...discovery import load_part
from ...views import LogitsView, TokenViews
from .intervals import DRAWS, resampled_means
from .scores import Score, bootstrap_score

BINS = 10
# score -> quantity
_SCORES = {
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
    sums = {name: quantities[name].double().sum().item() for name in _SCORES.values()}
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
    records: Sequence[Mapping[str, Any]], *, draws: int = DRAWS
) -> tuple[dict[str, Score], list[dict[str, Any]]]:
    """
    Returns scores of records, whose intervals resample responses, and the calibration by bin. Every token weighs the
    same.

    Args:
        records (`Sequence[Mapping]`):
            One a response, of [`~evaluation.measuring.alignment_records.compare_models`]. Their order does not matter.
        draws (`int`, *optional*, defaults to `10000`):
            Bootstrap resamples.

    Returns:
        `kd_alignment` (acceptance), `top1_agreement`, `top10_overlap`, `kl`, `jsd`, `calibration_error`, and
        `gap_closed` where the base was compared too; and for each bin that holds a token `low`, `high`, `confidence`,
        `agreement` and `n`.

    Raises:
        ValueError: If there is no record.
    """
    import numpy as np

    if not records:
        raise ValueError("records: there are none, so there is no agreement to report. Compare at least one response.")
    names = list(records[0]["sums"])
    # In an order of their own: sums of floats depend on it.
    ordered = sorted(
        records, key=lambda record: (record["tokens"], [record["sums"][name] for name in names], record["bins"])
    )
    tokens = np.array([[record["tokens"]] for record in ordered], float)
    bins = np.array([np.ravel(record["bins"]) for record in ordered])  # (R, 30)
    sums = np.concatenate([np.array([[record["sums"][name] for name in names] for record in ordered]), bins], axis=1)
    counts = np.broadcast_to(tokens, sums.shape)
    whole, drawn = (sums.sum(0) / counts.sum(0))[None], resampled_means(sums, counts, draws=draws)
    value, resampled = _statistics(whole, names), _statistics(drawn, names)
    scores = {name: bootstrap_score(float(value[name][0]), resampled[name], len(records)) for name in value}
    calibration = []
    for number, (share, confidence, agreement) in enumerate(whole[0, len(names) :].reshape(BINS, 3)):
        if share > 0:
            calibration.append(
                {
                    "low": number / BINS,
                    "high": (number + 1) / BINS,
                    "confidence": float(confidence / share),
                    "agreement": float(agreement / share),
                    "n": round(share * tokens.sum()),
                }
            )
    return scores, calibration


def _statistics(means: Any, names: list[str]) -> dict[str, Any]:
    import numpy as np

    found = {score: means[:, names.index(quantity)] for score, quantity in _SCORES.items()}
    bins = means[:, len(names) :].reshape(len(means), BINS, 3)
    found["calibration_error"] = np.abs(bins[:, :, 1] - bins[:, :, 2]).sum(1)
    if "base_kl" in names:
        base = means[:, names.index("base_kl")]
        with np.errstate(divide="ignore", invalid="ignore"):
            found["gap_closed"] = np.where(base > 0, 1 - found["kl"] / base, np.nan)
    return found
