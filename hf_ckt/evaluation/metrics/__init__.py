# SPDX-License-Identifier: Apache-2.0
"""
Metrics for the `evaluate` library, a folder each, over the plain functions of this package.

    import evaluate
    from hf_ckt.evaluation.metrics import metric_folder

    metric = evaluate.load(metric_folder("safety"))     # or: from hf_ckt.evaluation.metrics.safety import SafetyMetric

May enter: what hands rows to a function of `scoring/`; no formula stands here.
"""

from pathlib import Path

from ...checks import require_known


def metric_folder(name: str) -> str:
    """
    Returns the folder of a metric, as `evaluate.load` takes it; nothing is asked of the Hub.

    Args:
        name (`str`):
            `"safety"`, `"safety_under_noise"`, `"refusal_log_odds"` or `"kd_alignment"`.

    Raises:
        ValueError: If there is no such metric.

    Example:

    >>> metric_folder("safety").replace("\\\\", "/").endswith("hf_ckt/evaluation/metrics/safety")
    True
    """
    here = Path(__file__).parent
    require_known("metric", name, [path.parent.name for path in here.glob("*/*.py") if path.stem == path.parent.name])
    return str(here / name)
