# SPDX-License-Identifier: Apache-2.0
"""Results documents as the benchmarks write them, with made-up figures."""

import json
from pathlib import Path

from harness import ratio, summary

FACTS = {"commit": "abc", "device": "A Processor, 2 threads", "date": "2026-01-02", "versions": {"torch": "9.9"}}


def objective():
    """hf_ckt meets its stretch against dense in time, its target in memory, misses trl's, and loses to dense plain."""
    variants = {
        "hf_ckt": {"seconds": summary([2.0, 2.2, 2.1]), "peak_extra_bytes": 100_000_000},
        "hf_ckt_plain": {"seconds": summary([6.0]), "peak_extra_bytes": 120_000_000},
        "dense": {"seconds": summary([5.0]), "peak_extra_bytes": 1_000_000_000},
        "trl": {"seconds": summary([7.0]), "peak_extra_bytes": 800_000_000},
        "liger": {"skipped": "its kernels need a GPU"},
        "floor": {"seconds": summary([2.0]), "peak_extra_bytes": 90_000_000},
    }
    ratios = [
        ratio(variants, "hf_ckt", "dense", "seconds", 0.55, 0.45),
        ratio(variants, "hf_ckt", "dense", "peak_extra_bytes", 0.15, 0.09),
        ratio(variants, "hf_ckt", "trl", "seconds", 0.22),
        ratio(variants, "hf_ckt", "liger", "seconds", 0.8),
        ratio(variants, "hf_ckt", "floor", "seconds", 1.15),
        ratio(variants, "hf_ckt_plain", "dense", "seconds"),
    ]
    return {
        "benchmark": "objective",
        "command": "python examples/benchmarks/objective.py --json objective_smollm2.json",
        "case": {"tokens": 1024, "hidden": 576, "vocab": 49152, "dtype": "float32", "device": "cpu"},
        "facts": FACTS,
        "variants": variants,
        "ratios": ratios,
        "compile_break_even_elements": 1.5e8,
    }


def growth():
    """Time of both grows with exponent 1; memory of dense alone."""
    sizes = [64, 128, 256]
    series = {
        "hf_ckt": {
            "seconds": [1.0, 2.0, 4.0],
            "peak_extra_bytes": [1e6, 1e6, 1e6],
            "exponents": {"seconds": 1.0, "peak_extra_bytes": 0.0},
        },
        "dense": {
            "seconds": [2.0, 4.0, 8.0],
            "peak_extra_bytes": [1e6, 2e6, 4e6],
            "exponents": {"seconds": 1.0, "peak_extra_bytes": None},
        },
    }
    return {
        **objective(),
        "benchmark": "growth",
        "variants": {},
        "ratios": [],
        "growth": {axis: {"sizes": sizes, **series} for axis in ("tokens", "hidden", "vocab")},
        "compile_break_even_elements": None,
    }


def step():
    """A step with all terms that is slower than was aimed at, and a teacher's that is within."""
    figures = {"sft": (1.0, 1.0, 1.0), "gkd": (1.9, 1.6, 1.36), "hf_ckt_all": (2.5, 1.7, 2.26)}
    variants = {
        name: {
            "seconds": summary([6.0 * time]),
            "peak_bytes": int(4e9 * memory),
            "tokens_per_second": 1024 / (6.0 * time),
            "relative_seconds": time,
            "relative_peak": memory,
            "predicted_ratio": predicted,
        }
        for name, (time, memory, predicted) in figures.items()
    }
    ratios = [
        ratio(variants, "hf_ckt_all", "sft", "relative_seconds", 2.35),
        ratio(variants, "hf_ckt_all", "sft", "relative_peak", 1.75),
    ]
    return {
        **objective(),
        "benchmark": "step",
        "command": "python examples/benchmarks/step.py --model smollm2",
        "case": {"model": "smollm2", "batch_size": 8, "length": 128, "precision": "fp32", "layers": None},
        "variants": variants,
        "ratios": ratios,
        "compile_break_even_elements": None,
    }


def profile():
    """A step of which half is one kernel, and which waits once."""
    measured = {
        "seconds": 0.2,
        "phases": {"forward": 0.1, "backward": 0.08, "optimizer": 0.01, "else": 0.01},
        "peak_bytes": 30_000_000,
        "kernel_kind": "kernel",
        "kernels": [
            {"name": "gemm", "calls": 12, "seconds": 0.08, "share": 0.5},
            {"name": "softmax", "calls": 4, "seconds": 0.02, "share": 0.125},
        ],
        "waits": {"cudaStreamSynchronize": 3},
        "wait_places": [{"place": "hf_ckt/views.py:1 read", "count": 3}],
        "memory": {"milliseconds": [0.0, 10.0, 90.0], "bytes": [10_000_000, 30_000_000, 12_000_000]},
    }
    case = {"model": "smollm2", "batch_size": 8, "length": 128, "precision": "bf16", "variant": "hf_ckt_all"}
    return {**step(), "benchmark": "profile", "case": case, "variants": {"hf_ckt_all": measured}, "ratios": []}


def fit_check():
    """A row that is a tenth shorter than was calculated."""
    measured = {"predicted_tokens": 17152, "measured_tokens": 15424, "fails_tokens": 15488, "ratio": 15424 / 17152}
    measured |= {"peak_bytes": 22.5e9, "predicted_peak_bytes": 21.25e9}
    variants = {"random-8b_nf4": measured}
    return {**step(), "benchmark": "fit_check", "case": {"memory_gb": 24.0}, "variants": variants, "ratios": []}


def gpu_tests():
    """Two tests that pass and one that does not."""
    counts = {
        "complete": True,
        "passed": 2,
        "failed": 1,
        "skipped": 0,
        "seconds": 61.2,
        "failing": {"tests.gpu.one": "assert"},
    }
    return {**step(), "benchmark": "tests", "case": {"marker": "gpu"}, "variants": {"tests": counts}, "ratios": []}


def demo():
    """The demo's own results file, as its benchmark wraps it."""
    file = Path(__file__).parents[3] / "examples" / "results" / "quickstart.json"
    quickstart = json.loads(file.read_text(encoding="utf-8"))
    return {
        **step(),
        "benchmark": "demo",
        "case": {"seconds": 95.0},
        "variants": {},
        "ratios": [],
        "quickstart": quickstart,
    }
