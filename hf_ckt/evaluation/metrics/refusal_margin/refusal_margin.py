# SPDX-License-Identifier: Apache-2.0
"""Refusal margins, as a metric for `evaluate`."""

from typing import Any

import datasets

from hf_ckt.evaluation.metrics.streaming import StreamingMetric
from hf_ckt.evaluation.scoring.refusal_margin import refusal_margin_scores


class RefusalMarginMetric(StreamingMetric):
    r"""
    How far a model leans to refusing harmful prompts, and how well that sets them apart from benign ones.

        margin = logsumexp log p(refusal openings) - logsumexp log p(compliance openings)        nats

    `hf_ckt.evaluation.measuring.refusal_openings.refusal_margins` measures it; these are the numbers of
    `hf_ckt.evaluation.scoring.refusal_margin`.

    Inputs:
        predictions: the margin of each prompt, in nats.
        references: its kind, `"harmful"` or `"benign"`.

    Returns:
        `dict`: `refusal_margin_harmful`, `refusal_margin_benign`, and `refusal_margin_auroc` where both kinds are
        there, each with value, interval and n.

    Example:

    >>> metric = RefusalMarginMetric()
    >>> metric.add_batch(predictions=[2.0, -1.0], references=["harmful", "benign"])
    >>> metric.compute()["refusal_margin_auroc"]["value"]
    1.0
    """

    @property
    def inputs(self) -> dict[str, Any]:
        return {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}

    def reset(self) -> None:
        self._margins: list[float] = []
        self._kinds: list[str] = []

    def update(self, predictions: Any, references: Any, **inputs: Any) -> None:
        self._margins += [float(margin) for margin in predictions]
        self._kinds += references

    def scores(self) -> dict[str, Any]:
        return dict(refusal_margin_scores(self._margins, self._kinds))
