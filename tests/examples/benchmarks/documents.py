# SPDX-License-Identifier: Apache-2.0
"""Results documents as the benchmarks write them, with made-up figures."""

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
