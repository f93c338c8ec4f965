# SPDX-License-Identifier: Apache-2.0
"""The contract that the metrics for `evaluate` keep: sums are kept of a batch, and not the batch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import datasets

from ...checks import missing_package, nearest

try:
    import evaluate
except ImportError as error:
    raise ImportError(
        f"hf_ckt.evaluation.metrics: {missing_package('evaluate', 'these are its metrics', 'eval')}."
    ) from error


class StreamingMetric(evaluate.Metric, ABC):
    """
    An `evaluate.Metric` that takes in a batch when it is added. The library's own way is to write all batches to an
    Arrow file and to read them back to compute, which for distributions over a vocabulary is the size of the logits.

    `compute()` returns the scores and forgets everything that was added, also where it raises: a batch left behind
    would be counted with the next ones.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    """Names of inputs beside `predictions` and `references`, which may be left out."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.num_process != 1:
            raise ValueError(
                f"num_process: must be 1, got {self.num_process}. What other processes add would be missing here. Gather "
                "the batches and add them in one process."
            )
        self._added = 0
        self.reset()

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Types of one prediction and one reference, as `datasets` names them."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything that was added."""

    @abstractmethod
    def update(self, predictions: Any, references: Any, **inputs: Any) -> None:
        """Takes in a batch, of which all columns have the same length, at least 1."""

    @abstractmethod
    def scores(self) -> dict[str, Any]:
        """Returns the scores of at least one row."""

    def __len__(self) -> int:
        return self._added

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """
        Adds a batch. Of it only sums are kept.

        Args:
            predictions, references:
                Row by row; columns of a dataset (a dict of lists) are taken as rows.

        Raises:
            ValueError: If the batch is empty, columns differ in length, or an input has another name.
        """
        for name in kwargs:
            if name not in self.optional:
                known = ("predictions", "references", *self.optional)
                raise ValueError(
                    f"{name}: is no input of {self.name}.{nearest(name, known)} Known: {', '.join(known)}."
                )
        batch = {"predictions": predictions, "references": references}
        batch |= {name: value for name, value in kwargs.items() if value is not None}
        for name, value in batch.items():
            if value is None:
                raise ValueError(f"{name}: are missing, and there is nothing to compare. Pass them by their name.")
            if isinstance(value, Mapping):
                batch[name] = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        lengths = {name: len(value) for name, value in batch.items()}
        if len({*lengths.values()}) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"{self.name}: rows would be paired wrongly ({listed}). Give as many of each.")
        if not lengths["predictions"]:
            raise ValueError(
                f"{self.name}: the batch is empty, and a score of nothing is no number. Add at least one row."
            )
        self.update(**batch)
        self._added += lengths["predictions"]

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one row: a batch of one."""
        inputs = {name: value if value is None else [value] for name, value in kwargs.items()}
        self.add_batch(
            predictions=None if prediction is None else [prediction],
            references=None if reference is None else [reference],
            **inputs,
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """
        Returns the scores of all that was added, and of the batch given here, and forgets it.

        Raises:
            ValueError: If nothing was added.
        """
        try:
            if predictions is not None or references is not None or kwargs:
                self.add_batch(predictions=predictions, references=references, **kwargs)
            if not self._added:
                raise ValueError(
                    f"{self.name}: nothing was added, and a score of nothing is no number. Add a batch first."
                )
            return self.scores()
        finally:
            self._added = 0
            self.reset()

    def _info(self) -> evaluate.MetricInfo:
        text = type(self).__doc__ or ""
        return evaluate.MetricInfo(
            description=text, citation="", inputs_description=text, features=datasets.Features(self.inputs)
        )
