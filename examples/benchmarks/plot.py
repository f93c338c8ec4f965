# SPDX-License-Identifier: Apache-2.0
"""Draws results files as PNG and SVG, from nothing but the files."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cases import BASELINE
from hf_ckt.checkpoints import replace_file
from hf_ckt.checks import missing_package, require_known
from hf_ckt.cli.main import run_guarded
from tables import AXIS_NAMES

# Okabe and Ito's colours, told apart also by colour-blind readers; hf_ckt's own is the one that stands out.
_OURS, _OURS_LIGHT, _PEER, _REFERENCE, _MARK = "#0072B2", "#56B4E9", "#999999", "#000000", "#D55E00"
_SERIES = {"hf_ckt": (_OURS, "o", "-"), "dense": (_MARK, "s", "--")}
_BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def run(argv: list[str]) -> int:
    """Draws each file that is named."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="results files")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to; default beside each file")
    options = parser.parse_args(argv)
    for path in options.results:
        for drawn in plot_file(path, options.out or path.parent):
            print(drawn)
    return 0


def plot_file(results: Path, folder: Path) -> list[Path]:
    """
    Draws a results file as `NAME.png` and `NAME.svg`.

    Args:
        results (`Path`):
            `NAME.json`.
        folder (`Path`):
            Where to; made if missing.

    Returns:
        `list[Path]`: What was written.

    Raises:
        ValueError: If the file is of a kind that has no plot, or matplotlib is not installed.
    """
    document = json.loads(results.read_text(encoding="utf-8"))
    require_known(f"{results.name}: benchmark", document.get("benchmark"), DRAWERS)
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"{missing_package('matplotlib', 'it does the drawing', 'plot')}.") from error

    style: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "hf_ckt"}
    written = []
    with rc_context(style):  # a Figure of its own: neither a window nor what else this process draws is touched
        figure = Figure(layout="constrained")
        DRAWERS[document["benchmark"]](figure, document)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            path = folder / f"{results.stem}{suffix}"
            kind = suffix.removeprefix(".")
            replace_file(
                path,
                lambda aside, kind=kind, metadata=metadata: figure.savefig(  # type: ignore[misc]
                    aside, format=kind, dpi=160, metadata=metadata
                ),
            )
            written.append(path)
    return written


def _objective(figure: Any, document: dict[str, Any]) -> None:
    variants = {name: facts for name, facts in document["variants"].items() if "seconds" in facts}
    case = document["case"]
    figure.set_size_inches(9.5, 1.7 + 0.42 * len(variants))
    figure.suptitle(
        f"Three token losses with their gradients: N {case['tokens']:,}, D {case['hidden']:,}, V {case['vocab']:,}, "
        f"{case['dtype']}\n{document['facts']['device']}",
        fontsize=11,
    )
    seconds = [facts["seconds"] for facts in variants.values()]
    unit, scale = ("s", 1.0) if max(one["median"] for one in seconds) >= 1 else ("ms", 1e-3)
    time_axis, memory_axis = figure.subplots(1, 2, sharey=True)
    _bars(
        time_axis,
        list(variants),
        [one["median"] / scale for one in seconds],
        f"median time of a call, {unit} (line: quartiles)",
        spread=[(one["q1"] / scale, one["q3"] / scale) for one in seconds],
    )
    sizes = [facts["peak_extra_bytes"] for facts in variants.values()]
    unit, scale = _unit(max(sizes))
    _bars(memory_axis, list(variants), [size / scale for size in sizes], f"peak extra memory, {unit}")


def _step(figure: Any, document: dict[str, Any]) -> None:
    variants = {name: facts for name, facts in document["variants"].items() if "seconds" in facts}
    case, base = document["case"], variants.get(BASELINE, {})
    figure.set_size_inches(10.5, 1.9 + 0.42 * len(variants))
    checkpointing = "with" if case.get("gradient_checkpointing") else "without"
    figure.suptitle(
        f"A training step against SFTTrainer: {case['model']}, {case['batch_size']} x {case['length']} tokens, "
        f"{case['precision']}, {checkpointing} gradient checkpointing\n{document['facts']['device']}",
        fontsize=11,
    )
    time_axis, memory_axis = figure.subplots(1, 2, sharey=True)
    names = list(variants)
    # Each one's ratio to the baseline of its own group where the file has it: a machine drifts between groups.
    times = [
        facts.get("relative_seconds") or facts["seconds"]["median"] / base["seconds"]["median"]
        for facts in variants.values()
    ]
    peaks = [facts.get("relative_peak") or facts["peak_bytes"] / base["peak_bytes"] for facts in variants.values()]
    predictions = [facts.get("predicted_ratio") for facts in variants.values()]
    marked = [(i, value) for i, value in enumerate(predictions) if value is not None]
    _bars(time_axis, names, times, "step time / sft step time", marks=dict(marked))
    if marked:
        rows, values = zip(*marked, strict=True)
        style = {"marker": "D", "s": 34, "color": _MARK, "edgecolor": "white", "zorder": 4}
        time_axis.scatter(values, rows, label="predicted by counting products", **style)
        time_axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9)
    _bars(memory_axis, names, peaks, "peak memory / sft peak memory")
    for axis in (time_axis, memory_axis):
        axis.axvline(1, color=_REFERENCE, linewidth=0.8, linestyle=":", zorder=3)


def _growth(figure: Any, document: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    case = document["case"]
    figure.set_size_inches(10.5, 6.4)
    figure.get_layout_engine().set(wspace=0.05)
    figure.suptitle(
        f"How the objective grows around N {case['tokens']:,}, D {case['hidden']:,}, V {case['vocab']:,} "
        f"({case['dtype']}); k: fitted exponent\n{document['facts']['device']}",
        fontsize=11,
    )
    axes = figure.subplots(2, len(document["growth"]), sharey="row")
    for column, (axis_name, measured) in enumerate(document["growth"].items()):
        for row, (quantity, scale, label) in enumerate(
            (("seconds", 1.0, "median time of a call, s"), ("peak_extra_bytes", 1e6, "peak extra memory, MB"))
        ):
            axis = axes[row][column]
            for variant in (name for name in measured if name != "sizes"):
                color, marker, line = _SERIES.get(variant, (_PEER, "^", "-."))
                exponent = measured[variant]["exponents"][quantity]
                fitted = f", k = {exponent:.2f}" if exponent is not None else ""
                axis.plot(
                    measured["sizes"],
                    [value / scale for value in measured[variant][quantity]],
                    color=color,
                    marker=marker,
                    linestyle=line,
                    markersize=5,
                    label=f"{variant}{fitted}",
                )
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.margins(y=0.12)
            axis.set_xticks(measured["sizes"], [f"{size:,}" for size in measured["sizes"]])
            axis.minorticks_off()
            axis.grid(True, color="#DDDDDD", linewidth=0.6)
            axis.legend(frameon=False, fontsize=9)
            if row == 1:
                axis.set_xlabel(AXIS_NAMES[axis_name])
            if column == 0:
                axis.set_ylabel(label)


def _profile(figure: Any, document: dict[str, Any]) -> None:
    (variant, measured), case = next(iter(document["variants"].items())), document["case"]
    figure.set_size_inches(10.5, 7.0)
    figure.suptitle(
        f"One training step of {variant}: {case['model']}, {case['batch_size']} x {case['length']} tokens, "
        f"{case['precision']}\n{document['facts']['device']}",
        fontsize=11,
    )
    timeline, longest = figure.subplots(2, 1, height_ratios=(1, 1.2))
    unit, scale = _unit(max(measured["memory"]["bytes"], default=0))
    times, sizes = measured["memory"]["milliseconds"], [size / scale for size in measured["memory"]["bytes"]]
    timeline.fill_between(times, sizes, color=_OURS_LIGHT, linewidth=0, step="post")
    timeline.plot(times, sizes, color=_OURS, linewidth=1, drawstyle="steps-post")
    timeline.set_xlabel("time in the profiled step, ms")
    timeline.set_ylabel(f"allocated, {unit}")
    timeline.set_ylim(bottom=0)
    rows = measured["kernels"][:12]
    names = [row["name"] if len(row["name"]) <= 60 else row["name"][:57] + "..." for row in rows]
    kind = f"share of all {measured['kernel_kind']}s' time, %"
    _bars(longest, names, [100 * row["share"] for row in rows], kind)


def _bars(
    axis: Any,
    names: list[str],
    values: list[float],
    label: str,
    spread: Sequence[tuple[float, float]] = (),
    marks: Mapping[int, float] = MappingProxyType({}),
) -> None:
    """Horizontal bars in the order of the names, from the top; values stand clear of quartiles and of marks by row."""
    rows = range(len(names))
    axis.barh(rows, values, color=[_color(name) for name in names], height=0.66, zorder=2)
    ends = list(values)
    if spread:
        errors = [[v - low for v, (low, _) in zip(values, spread, strict=True)]]
        errors += [[high - v for v, (_, high) in zip(values, spread, strict=True)]]
        axis.errorbar(values, rows, xerr=errors, fmt="none", ecolor=_REFERENCE, elinewidth=1.2, capsize=3, zorder=3)
        ends = [high for _, high in spread]
    ends = [max(end, marks.get(row, end)) for row, end in enumerate(ends)]
    for row, value, end in zip(rows, values, ends, strict=True):
        axis.annotate(_short(value), (end, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(rows, names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, max(ends) * 1.15)
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x", color="#DDDDDD", linewidth=0.6, zorder=0)
    axis.set_xlabel(label)


def _color(name: str) -> str:
    if name == "floor":
        return _REFERENCE
    if name == "hf_ckt_plain":
        return _OURS_LIGHT
    return _OURS if name.startswith("hf_ckt") else _PEER


def _unit(size: float) -> tuple[str, float]:
    return next(((unit, scale) for unit, scale in _BYTES if size >= 10 * scale), ("bytes", 1.0))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


DRAWERS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "objective": _objective,
    "step": _step,
    "growth": _growth,
    "profile": _profile,
}


if __name__ == "__main__":
    sys.exit(run_guarded("plot.py", lambda: run(sys.argv[1:])))
