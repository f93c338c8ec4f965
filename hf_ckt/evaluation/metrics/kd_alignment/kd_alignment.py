# SPDX-License-Identifier: Apache-2.0
"""Agreement of a student with its teacher, as a metric for `evaluate`."""

from typing import Any, ClassVar

import datasets
import torch

from hf_ckt.evaluation.metrics.streaming import StreamingMetric
from hf_ckt.evaluation.scoring.alignment import alignment_scores, merged, tile_record

_TILE = 128


class KDAlignmentMetric(StreamingMetric):
    r"""
    How well a student's next-token distributions agree with its teacher's.

        KD alignment = mean over tokens of sum_v min(p_t(v), p_s(v))        in [0, 1]

    With top-1 agreement, top-10 overlap, KL(t || s) in nats, JSD in bits, the gap closed and the calibration error;
    see `hf_ckt.evaluation.scoring.alignment`, whose numbers these are. A batch is read in tiles of 128 tokens, of which
    sums are kept.

    Inputs:
        predictions, references: the student's and the teacher's logits or log-probabilities, `(n, V)`: tensors, arrays
            or lists. Of heads padded to different sizes the shared ids count.
        base (*optional*): the same of the student before training, `(n, V)`, which `gap_closed` needs.
        response_ids (*optional*): which response each token is of, `(n,)`. Intervals resample responses; without ids
            each call to `add_batch` is one response.

    Returns:
        `dict`: scores by name, each with value, interval and n, and `calibration`, a dict for each bin.

    Example:

    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> metric = KDAlignmentMetric()
    >>> round(metric.compute(predictions=student, references=teacher)["kd_alignment"]["value"], 6)
    0.75
    """

    optional: ClassVar[tuple[str, ...]] = ("base", "response_ids")

    @property
    def inputs(self) -> dict[str, Any]:
        row = datasets.List(datasets.Value("float32"))
        return {"predictions": row, "references": row}

    def reset(self) -> None:
        self._records: dict[Any, dict[str, Any]] = {}
        self._calls = 0

    @torch.no_grad()
    def update(self, predictions: Any, references: Any, **inputs: Any) -> None:
        given = {"predictions": predictions, "references": references}
        if "base" in inputs:
            given["base"] = inputs["base"]
        self._calls += 1
        count = len(predictions)
        responses = inputs.get("response_ids")
        ids = [("call", self._calls)] * count if responses is None else [("id", _plain(one)) for one in responses]
        places: dict[Any, list[int]] = {}
        for place, key in enumerate(ids):
            places.setdefault(key, []).append(place)
        found: dict[Any, dict[str, Any]] = {}
        for key, rows in places.items():
            for start in range(0, len(rows), _TILE):
                tile = [_logits(name, value, rows[start : start + _TILE]) for name, value in given.items()]
                record = tile_record(*(logits.to(tile[0].device) for logits in tile))
                found[key] = merged([found[key], record]) if key in found else record
        kept = next(iter(self._records.values()), None)
        if kept is not None and ("base_kl" in kept["sums"]) != ("base" in given):
            raise ValueError(
                "base: some batches have one and some have none, and the gap would be that of a part. Give it with every "
                "batch or with none."
            )
        for key, record in found.items():
            self._records[key] = merged([self._records[key], record]) if key in self._records else record

    def scores(self) -> dict[str, Any]:
        records = [{**record, "id": f"{number:09}"} for number, record in enumerate(self._records.values())]
        found = alignment_scores({"": records}, named=True)[""]
        return {**found.scores, "calibration": found.calibration}


def _plain(value: Any) -> Any:
    """An element as a key: those of a tensor are not equal to one another."""
    return value.item() if hasattr(value, "item") else value


def _logits(name: str, value: Any, rows: list[int]) -> torch.Tensor:
    """Rows of logits, in float32 or wider."""
    whole = isinstance(value, torch.Tensor) or hasattr(value, "__array__")
    tile = torch.as_tensor(value[rows]) if whole else torch.stack([torch.as_tensor(value[row]) for row in rows])
    if tile.dim() != 2:
        raise ValueError(
            f"{name}: must have the shape (n, V), got {(len(value), *tile.shape[1:])}. Flatten batch and sequence, and keep "
            "only the tokens that count."
        )
    tile = tile.to(torch.promote_types(tile.dtype, torch.float32))
    if not tile.isfinite().all():
        raise ValueError(
            f"{name}: hold a value that is not finite. The KL of a probability of 0 is infinite, and that of two is not a "
            "number. Leave ids that no model can choose out."
        )
    if (tile >= 0).all() and ((tile.sum(1) - 1).abs() < 1e-4).all():
        raise ValueError(
            f"{name}: look like probabilities (none is negative, and each row adds up to 1), which would be read as logits "
            "of nearly uniform distributions. Give their logarithm."
        )
    return tile
