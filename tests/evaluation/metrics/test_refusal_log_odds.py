# SPDX-License-Identifier: Apache-2.0
"""The metric of refusal log-odds: the plain function's numbers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hf_ckt.evaluation.metrics.refusal_log_odds import RefusalLogOddsMetric


def test_log_odds_metric_gives_scikit_learns_area_from_every_form():
    """A form that is silently read as another gives other numbers."""
    values = np.random.default_rng(0).normal(size=20)
    kinds = ["harmful", "benign"] * 10
    harmful = [kind == "harmful" for kind in kinds]
    for form in (values, values.tolist(), torch.tensor(values)):
        found = RefusalLogOddsMetric().compute(predictions=form, references=kinds)
        assert found["refusal_auroc"]["value"] == pytest.approx(roc_auc_score(harmful, values))
        assert found["refusal_log_odds_harmful"]["value"] == pytest.approx(values[::2].mean())
        assert {*found} == {"refusal_auroc", "refusal_log_odds_harmful", "refusal_log_odds_benign", "curve"}


def test_log_odds_metric_refuses_what_is_no_number_of_a_kind():
    """NaN is above and below nothing, and would move the area unseen."""
    for value, kind, message in (
        (float("nan"), "benign", "predictions: must be finite"),
        (1.0, "bad", "kind: unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            RefusalLogOddsMetric().compute(predictions=[value], references=[kind])
