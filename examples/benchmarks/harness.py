# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: timing in turns, quartiles, ratios, and the results file."""

import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ckt.checkpoints import replace_json
from hf_ckt.hub.provenance import machine_facts


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Returns median, quartiles and count of repeated timings, and the timings."""
    ordered = sorted(seconds)
    low, middle, high = (
        statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 3
    )
    return {"median": middle, "q1": low, "q3": high, "n": len(ordered), "all": [round(one, 5) for one in seconds]}


def seconds_of(call: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Returns how long a call took, waiting for an accelerator before and after it."""
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    synchronize()
    start = time.perf_counter()
    returned = call()
    synchronize()
    seconds = time.perf_counter() - start
    del returned  # freeing what came back is not part of the call
    return seconds


def interleaved_seconds(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: torch.device | str = "cpu",
    before_each: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
    """
    Times each call once a round, every round beginning with another, so that drift and neighbours hit all alike.

    Args:
        calls (`Mapping[str, Callable]`):
            What to time, warmed up.
        repeats (`int`):
            Number of rounds.
        device (`torch.device` or `str`, *optional*):
            What to wait for.
        before_each (`Callable`, *optional*):
            Told the name before each call; for showing progress.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(repeats):
        first = i % max(len(names), 1)
        for name in (*names[first:], *names[:first]):
            before_each(name)
            seconds[name].append(seconds_of(calls[name], device))
    return seconds


def ratio(
    variants: dict[str, Any],
    of: str,
    to: str,
    quantity: str,
    target: float | None = None,
    stretch: float | None = None,
) -> dict[str, Any]:
    """
    Returns one row of a benchmark's ratios; `value` is None where either variant was not measured.

    Args:
        variants (`dict`):
            `variants.<name>` of the results file.
        of, to (`str`):
            Numerator and denominator, names of variants.
        quantity (`str`):
            `seconds` (medians are compared) or a key with one number, such as `peak_extra_bytes`.
        target (`float`, *optional*):
            At most this is aimed at.
        stretch (`float`, *optional*):
            A target beyond the target, which none is missed for not reaching.
    """
    values = [variants.get(name, {}).get(quantity) for name in (of, to)]
    values = [value["median"] if isinstance(value, dict) else value for value in values]
    value = values[0] / values[1] if None not in values and values[1] else None
    return {"of": of, "to": to, "quantity": quantity, "value": value, "target": target, "stretch": stretch}


def results_document(
    benchmark: str, command: str, case: dict, variants: dict, ratios: list[dict], **more: Any
) -> dict:
    """Returns the document that `write_results` writes and plots and pages read."""
    return {
        "benchmark": benchmark,
        "command": command,
        "case": case,
        "facts": machine_facts(case.get("device")),
        "variants": variants,
        "ratios": ratios,
        **more,
    }


def command_line(script: str, argv: Sequence[str]) -> str:
    """Returns the command that was given; of the results file the name alone, since where it lies says nothing."""
    words = [Path(word).name if before == "--json" else word for before, word in zip(["", *argv], argv, strict=False)]
    return shlex.join(["python", f"examples/benchmarks/{script}", *words])


def write_results(path: Path, document: dict[str, Any]) -> None:
    """Writes a results file, aside first, so that an interrupted run never leaves half of one."""
    replace_json(path, document, indent=2)
