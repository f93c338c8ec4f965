# SPDX-License-Identifier: Apache-2.0
"""The metric of refusal margins: the plain function's numbers."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from hf_ckt.evaluation.metrics.refusal_margin import RefusalMarginMetric
from hf_ckt.evaluation.scoring.refusal_margin import refusal_margin_scores


def test_refusal_margin_metric_gives_the_numbers_of_the_plain_function():
    """Two ways to one number that do not meet leave the reader to choose."""
    margins = np.random.default_rng(0).normal(size=20)
    kinds = ["harmful", "benign"] * 10
    expected = refusal_margin_scores(margins, kinds)
    for form in (margins, margins.tolist(), torch.tensor(margins)):
        assert RefusalMarginMetric().compute(predictions=form, references=kinds) == expected
    harmful = [kind == "harmful" for kind in kinds]
    assert expected["refusal_margin_auroc"]["value"] == roc_auc_score(harmful, margins)
