# SPDX-License-Identifier: Apache-2.0
"""What `objective.py` does: the variants agree first, then their memory is measured, then their times in turns."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from cases import (
    DTYPES,
    GROWTH_FACTORS,
    OBJECTIVE_VARIANTS,
    ObjectiveCase,
    objective_command,
    objective_targets,
)
from growth import measure_growth
from harness import interleaved_seconds, ratio, results_document, seconds_of, summary, write_results
from hf_ckt.checks import require_count, require_known
from memory import peak_extra_bytes, peak_resident_bytes
from objective_variants import (
    MAKERS,
    ObjectiveInputs,
    VariantsDisagreeError,
    dense_result,
    objective_inputs,
    reference_result,
    relative_errors,
    require_agreement,
    why_skipped,
)
from tables import as_text, growth_rows, ratio_rows, variant_rows

_REFERENCE, _COMPILED, _PLAIN = "dense", "hf_ckt", "hf_ckt_plain"


def run_objective(
    case: ObjectiveCase,
    *,
    variants: Sequence[str] = tuple(OBJECTIVE_VARIANTS),
    repeats: int = 7,
    growth: bool = False,
    json: Path | None = None,
) -> int:
    """
    Measures, prints the table, and writes the results file.

    Args:
        case ([`ObjectiveCase`]):
            Shapes, dtype and device; with `growth`, the middle of the grid.
        variants (`Sequence[str]`, *optional*):
            Which to measure. `dense` is computed in any case: how far rounding moves it is how far the others may be.
        repeats (`int`, *optional*, defaults to `7`):
            Rounds of timing, >= 1.
        growth (`bool`, *optional*, defaults to `False`):
            Measure how time and memory grow with N, V and D instead of comparing all variants at one size.
        json (`Path`, *optional*):
            Results file.

    Returns:
        `int`: 0, or 1 if the variants do not agree; then nothing was timed and no file is written.
    """
    _check(case, variants, repeats)
    command = objective_command(case, json.name if json else "FILE", growth)
    try:
        document = _growth(case, repeats, command) if growth else measure_objective(case, variants, repeats, command)
    except VariantsDisagreeError as error:
        print(f"Nothing was timed: the variants do not agree.\n{error}", file=sys.stderr)
        return 1
    if growth:
        print(as_text(growth_rows(document)))
    else:
        print(as_text(variant_rows(document)), as_text(ratio_rows(document)), sep="\n\n")
        if (elements := document["compile_break_even_elements"]) is not None:
            print(f"\nA cold compile is repaid after {elements:.2g} tokens x vocabulary.")
    if json is not None:
        write_results(json, document)
    return 0


def _check(case: ObjectiveCase, variants: Sequence[str], repeats: int) -> None:
    for name in ("tokens", "hidden", "vocab"):
        require_count(f"--{name}", getattr(case, name), 2, "There would be nothing to measure.")
    require_count("--repeats", repeats, 1, "There would be no time to report.")
    require_known("--dtype", case.dtype, DTYPES)
    for variant in variants:
        require_known("--variants", variant, OBJECTIVE_VARIANTS)
    if torch.device(case.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device: {case.device!r} needs a GPU that torch can see, and there is none.")


def measure_objective(case: ObjectiveCase, variants: Sequence[str], repeats: int, command: str) -> dict[str, Any]:
    """
    Returns the results of the variants: first whether they agree, then memory, then interleaved times.

    Raises:
        VariantsDisagreeError: If a variant's loss or gradient differs from float32 by more than rounding.
    """
    skipped = {name: {"skipped": why} for name in variants if (why := why_skipped(name, case))}
    names = [name for name in OBJECTIVE_VARIANTS if name in variants and name not in skipped]
    inputs = objective_inputs(case)
    calls = {name: MAKERS[name](inputs) for name in names}
    measured: dict[str, dict[str, Any]] = {name: {} for name in names}

    with tqdm(total=(2 + repeats) * len(names), unit="call", file=sys.stderr) as progress:

        def show(name: str, doing: str = "timing") -> None:
            progress.set_description(f"{doing} {name}")
            progress.update()

        reference = reference_result(inputs)
        errors = {_REFERENCE: relative_errors(dense_result(inputs), reference)}
        for name in names:
            show(name, "checking")
            if name == _COMPILED:
                result, measured[name] = _first_call(calls[name], case.device)
            else:
                result = calls[name]()
            if result is not None:  # the floor has none
                errors[name] = measured[name]["errors"] = relative_errors(result, reference)
            del result
        del reference
        require_agreement(errors, case.dtype)
        for name in names:
            show(name, "memory of")
            measured[name]["peak_extra_bytes"] = peak_extra_bytes(partial(_made_and_called, name, inputs), case.device)
        for name, seconds in interleaved_seconds(calls, repeats, case.device, show).items():
            measured[name]["seconds"] = summary(seconds)

    results = {name: measured.get(name) or skipped[name] for name in OBJECTIVE_VARIANTS if name in variants}
    rows = [
        ratio(results, _COMPILED, target.to, target.quantity, target.at_most, target.stretch)
        for target in objective_targets(case)
        # What could not be measured is only worth a row where something was aimed at.
        if _COMPILED in measured and (target.to in measured or (target.to in skipped and target.at_most is not None))
    ]
    if {_PLAIN, _REFERENCE} <= measured.keys():
        rows += [ratio(results, _PLAIN, _REFERENCE, quantity) for quantity in ("seconds", "peak_extra_bytes")]
    return results_document(
        "objective",
        command,
        asdict(case),
        results,
        rows,
        compile_break_even_elements=break_even_elements(results, case),
    )


def break_even_elements(results: dict[str, Any], case: ObjectiveCase) -> float | None:
    """
    Returns after how many tokens x vocabulary a cold compile is repaid by the time it saves.

        (first call - later calls) / (plain - compiled, median over rounds) * N * V

    None if the compiled tile was not measured beside the plain one, or is no faster.
    """
    compiled, plain = results.get(_COMPILED, {}), results.get(_PLAIN, {})
    if "seconds" not in compiled or "seconds" not in plain or compiled.get("warnings"):
        return None
    # Of the same round each: a neighbour's load hits both.
    rounds = zip(plain["seconds"]["all"], compiled["seconds"]["all"], strict=True)
    saved = median(one - other for one, other in rounds)
    spent = compiled["first_call_seconds"] - compiled["seconds"]["median"]
    return spent / saved * case.tokens * case.vocab if saved > 0 else None


def _made_and_called(name: str, inputs: ObjectiveInputs) -> Any:
    # The buffers that a variant prepares once are part of what it needs.
    return MAKERS[name](inputs)()


def _first_call(call: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """A call that compiles from nothing, with what it took; its memory is the process's, not an allocator's."""
    results: list[Any] = []
    measured: dict[str, Any] = {}

    def timed() -> None:
        measured["first_call_seconds"] = seconds_of(lambda: results.append(call()), device)

    with _empty_compiler_cache(), _warnings_of("hf_ckt.kernels") as warnings:
        measured["first_call_resident_bytes"] = peak_resident_bytes(timed)
    if warnings:
        # The kernels go on without a compiler where one fails: the times are then those of the plain tile.
        measured["warnings"] = warnings
        print("\n".join(warnings), file=sys.stderr)
    return results[0], measured


@contextmanager
def _empty_compiler_cache() -> Iterator[None]:
    variable = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(variable)
    torch.compiler.reset()  # what this process has compiled
    with tempfile.TemporaryDirectory(prefix="hf_ckt_bench_", ignore_cleanup_errors=True) as folder:
        os.environ[variable] = folder
        try:
            yield
        finally:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


@contextmanager
def _warnings_of(logger_name: str) -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(logger_name)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def _growth(case: ObjectiveCase, repeats: int, command: str) -> dict[str, Any]:
    growth = measure_growth(case, GROWTH_FACTORS, repeats)
    return results_document("growth", command, asdict(case), {}, [], growth=growth)
