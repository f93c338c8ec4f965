# SPDX-License-Identifier: Apache-2.0
"""What every token metric keeps, whatever its file."""

import pytest
import torch

from hf_ckt.discovery import load_part, part_names
from tests.contracts import token_checks as checks
from tests.contracts.documentation import check_documentation

METRICS = part_names("metrics")
each_metric = pytest.mark.parametrize("name", METRICS)


def metric_sum(case: checks.Case, name: str) -> float:
    return checks.run(case, {"nll": 1.0}, metrics=[name]).metrics[name].item()


@each_metric
def test_metric_equals_its_formula(name):
    """A number in the log or on the card that means something else than its name."""
    for case in (checks.make_case(), checks.make_case(seed=5, positions=40, softcap=2.0, teacher_scale=0.5)):
        expected = checks.expected_sum(case, load_part("metrics", name)())
        checks.close(metric_sum(case, name), expected)


@each_metric
def test_metric_ignores_masked_positions(name):
    """Padding raises every accuracy of a model that predicts padding well."""
    case = checks.make_case()
    masked = (case.labels == -100)[:, None]
    views = ("student", "noisy", "teacher", "reference")
    dirty = case.replace(**{view: getattr(case, view).masked_fill(masked, float("nan")) for view in views})
    checks.close(metric_sum(dirty, name), metric_sum(case, name), 0)


@each_metric
def test_metric_adds_up_over_splits_and_orders(name):
    """A metric that couples tokens differs between accumulation settings that train the same model."""
    case = checks.make_case()
    parts = metric_sum(case.rows(slice(0, 4)), name) + metric_sum(case.rows(slice(4, 9)), name)
    checks.close(parts, metric_sum(case, name), 1e-12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    checks.close(metric_sum(case.rows(order), name), metric_sum(case, name), 1e-12)


@each_metric
def test_metric_leaves_the_gradient_alone(name):
    """A metric in the graph costs memory, and would be trained on if it were added to the total."""
    case = checks.make_case()
    with_metric = checks.gradients(case, {"forward_kl": 1.0}, metrics=[name])
    without = checks.gradients(case, {"forward_kl": 1.0})
    for key, gradient in without.items():
        checks.close(with_metric[key], gradient, 0)
    output = checks.run(case.requiring("student"), {"forward_kl": 1.0}, metrics=[name])
    assert not output.metrics[name].requires_grad


@each_metric
def test_metric_documents_itself(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("metrics", name), example=False)
