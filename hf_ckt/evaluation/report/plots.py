# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as PNG and SVG files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from ...checkpoints import replace_file
from ...checks import missing_package
from ...plotting.style import COLORS, GRID, INK, STYLE
from . import figures
from .numbers import chance_word, number, score_text, spaced
from .probe import bound_line
from .sentences import judge_sentence

# Grey for the first model, the base. Each has a marker of its own, so that colour is never the only difference.
_COLORS = ("#5B6573", *COLORS, "#3B4CC0", INK)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_STYLE: Any = STYLE | {"font.size": 10, "svg.hashsalt": "hf_ckt", "text.usetex": False}


def draw_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """
    Draws every figure that the results have something for, as `NAME.png` and `NAME.svg`; the same results give the same
    files.

    Args:
        results (`Mapping`):
            A results file.
        folder (`Path`):
            Where to; made if missing. Plots of an earlier report that have nothing to show any more are removed.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            f"hf-ckt report: {missing_package('matplotlib', 'it draws the plots', 'plot')}, or leave the plots out with "
            "--no-plots."
        ) from error

    written = []
    with rc_context(_STYLE):  # a Figure of its own: neither a window nor what else this process draws is touched
        for name, draw in DRAWERS.items():
            figure = Figure(layout="constrained")
            drawn = draw(figure, results)
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
                path = folder / f"{name}{suffix}"
                if not drawn:
                    path.unlink(missing_ok=True)
                    continue
                kind = suffix.removeprefix(".")
                replace_file(
                    path,
                    lambda aside, figure=figure, kind=kind, metadata=metadata: figure.savefig(  # type: ignore[misc]
                        aside, format=kind, dpi=160, metadata=metadata
                    ),
                )
                written.append(path)
    return written


def _headline(figure: Any, results: Mapping[str, Any]) -> bool:
    names, shown = figures.measured_panels(results), figures.titles(results)
    if not names:
        return False
    labels = [fill(title, 30) for title in shown.values()]
    height = 0.25 + 0.17 * max(label.count("\n") + 1 for label in labels)
    figure.set_size_inches(2.9 * len(names) + 1.2, 1.5 + max(0.42, height) * len(shown))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, score in zip(axes, names, strict=True):
        text = score_text(score)
        if text.chance is not None:
            axis.axvline(text.chance, color=INK, linewidth=0.9, linestyle=":")
        if (known := bound_line(results, score)) is not None:
            axis.axvline(known, color=INK, linewidth=1.2, linestyle="--")
        for row, name in enumerate(shown):
            found = results["models"][name]["scores"].get(score)
            if found and found["value"] is not None:
                _interval(axis, found, row, row)
                axis.annotate(
                    number(found["value"], text.decimals) + ("*" if chance_word(found, text) else ""),
                    (found["value"], row),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the line of chance
                )
        low, high = figures.PANELS[score]
        axis.set_xlim(low - (high - low) * 0.03, high + (high - low) * 0.03)
        axis.set_title(text.title, fontsize=10)
        axis.grid(True, axis="x", color=GRID, linewidth=0.6)
    axes[0].set_yticks(range(len(shown)), labels)
    axes[0].set_ylim(len(shown) - 0.4, -0.7)
    probed = " Dashed: a probe of the base." if any(bound_line(results, name) is not None for name in names) else ""
    _note(figure, results, f"Dotted: chance. *: not told from chance, or below it.{probed}")
    return True


def _balance(figure: Any, results: Mapping[str, Any]) -> bool:
    found, shown = figures.balances(results), figures.titles(results)
    if not found:
        return False
    figure.set_size_inches(5.8, 6.0)
    axis = figure.subplots()
    axis.plot([0, 1], [1, 0], color=INK, linewidth=0.9, linestyle=":", label="chance: S + H = 1")
    for number_, name in enumerate(shown):
        if name not in found:
            continue
        color, (curve, point) = _color(number_), found[name]
        if curve:
            axis.plot(*zip(*curve, strict=True), color=color, linewidth=1.4, label=None if point else shown[name])
        if point:
            x, y = point
            axis.errorbar(
                x["value"],
                y["value"],
                xerr=_errors(x),
                yerr=_errors(y),
                color=color,
                marker=_marker(number_),
                markersize=9,
                markeredgecolor="white",
                capsize=3,
                elinewidth=1.2,
                linestyle="none",
                label=shown[name],
            )
    for set_limits in (axis.set_xlim, axis.set_ylim):
        set_limits(-0.03, 1.03)
    axis.set_xlabel("helpfulness H (more is better)")
    axis.set_ylabel("safety S (more is better)")
    axis.grid(True, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    _legend(figure)
    _note(figure, results, "Curves: a shift of the refusal log-odds, no judge; markers: own answers.")
    return True


def _categories(rate: str, title: Callable[[Mapping[str, Any]], str]) -> Callable[[Any, Mapping[str, Any]], bool]:
    def draw(figure: Any, results: Mapping[str, Any]) -> bool:
        rows, shown = figures.category_rows(results, rate), figures.titles(results)
        if not rows:
            return False
        height = 0.3 + 0.2 * len(shown)
        figure.set_size_inches(8.5, 1.8 + height * len(rows))
        axis = figure.subplots()
        for row, (_, scores) in enumerate(rows):
            for number_, name in enumerate(shown):
                if name in scores and scores[name]["value"] is not None:
                    offset = (number_ - (len(shown) - 1) / 2) * 0.7 / len(shown)
                    label = shown[name] if name not in axis.get_legend_handles_labels()[1] else None
                    _interval(axis, scores[name], row + offset, number_, label)
        axis.set_yticks(range(len(rows)), [spaced(category) for category, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks([row + 0.5 for row in range(len(rows) - 1)], minor=True)
        axis.tick_params(axis="y", length=0, which="both")
        axis.grid(True, axis="x", color=GRID, linewidth=0.6)
        axis.grid(True, axis="y", which="minor", color=GRID, linewidth=0.6)
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel(title(results))
        _legend(figure)
        _note(figure, results)
        return True

    return draw


def _noise_heatmap(figure: Any, results: Mapping[str, Any]) -> bool:
    grids, shown = figures.noise_grids(results), figures.titles(results)
    if not grids:
        return False
    first = next(iter(grids.values()))
    severities = [*([0.0] if any(grid.clean for grid in grids.values()) else []), *first.severities]
    columns, lines = min(len(grids), 4), -(-len(grids) // 4)
    width, height = 1.0 + 0.75 * len(severities), 1.1 + 0.42 * len(first.corruptions)
    figure.set_size_inches(max(5.0, 1.9 + width * columns), 0.8 + height * lines)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for empty in axes.flat[len(grids) :]:
        empty.set_visible(False)
    from matplotlib import colormaps

    image = None
    # Lightness alone carries the value, so it can be read without colour; below 0 is one grey, and the number has the sign.
    colours = colormaps["cividis"].with_extremes(under="#DADCE0")
    for axis, (name, grid) in zip(axes.flat, grids.items(), strict=False):
        cells = [[_youden(grid, corruption, severity) for severity in severities] for corruption in first.corruptions]
        values = [[float("nan") if one is None else one["value"] for one in line] for line in cells]
        image = axis.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for row, line in enumerate(cells):
            for column, one in enumerate(line):
                if one is not None:  # a cell that was not measured stays empty
                    shade = "white" if 0 <= one["value"] < 0.5 else INK
                    star = "*" if chance_word(one, score_text("youden_j")) else ""
                    place = {"ha": "center", "va": "center", "color": shade, "fontsize": 9}
                    axis.text(column, row, number(one["value"], 2) + star, **place)
        axis.set_xticks(range(len(severities)), [f"{severity:g}" for severity in severities])
        axis.set_xlabel("severity")
        axis.set_title(fill(shown[name], int(13 * width)), fontsize=10)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0][0].set_yticks(range(len(first.corruptions)), [spaced(name) for name in first.corruptions])
    figure.colorbar(image, ax=list(axes.flat), label="Youden's J", pad=0.02, extend="min")
    _note(figure, results, "Severity 0: no noise. *: not told from chance, which is 0, or below it.", intervals=False)
    return True


def _severity(figure: Any, results: Mapping[str, Any]) -> bool:
    lines, shown = figures.severity_lines(results), figures.titles(results)
    if not lines:
        return False
    low, high = figures.severity_bounds(lines)
    figure.set_size_inches(1 + 2.8 * min(len(lines), 4), 1.2 + 2.6 * -(-len(lines) // 4))
    grid = figure.subplots(-(-len(lines) // 4), min(len(lines), 4), sharex=True, sharey=True, squeeze=False)
    axes = [axis for row in grid for axis in row]
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    for axis, (corruption, models) in zip(axes, lines.items(), strict=False):
        axis.axhline(0, color=INK, linewidth=0.9, linestyle=":")
        for number_, name in enumerate(shown):
            if points := models.get(name):
                x, found = zip(*points, strict=True)
                style: dict[str, Any] = {"color": _color(number_), "marker": _marker(number_), "label": shown[name]}
                axis.plot(x, [one["value"] for one in found], **style)
                for severity, one in points:
                    if one["low"] is not None:
                        axis.vlines(severity, one["low"], one["high"], color=_color(number_), linewidth=1, alpha=0.5)
        axis.set_title(spaced(corruption), fontsize=10)
        axis.set_ylim(low - 0.03, high + 0.03)
        axis.set_xticks(sorted({severity for line in models.values() for severity, _ in line}))
        axis.set_xlabel("severity")
        axis.grid(True, color=GRID, linewidth=0.6)
    axes[0].set_ylabel("Youden's J")
    _legend(figure)
    _note(figure, results, "Dotted: chance. Severity 0: no noise.")
    return True


def _calibration(figure: Any, results: Mapping[str, Any]) -> bool:
    lines, shown = figures.calibration_bins(results), figures.titles(results)
    if not lines:
        return False
    figure.set_size_inches(5.6, 5.6)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="as confident as right")
    for number_, name in enumerate(shown):
        if bins := lines.get(name):
            x, y = [one["confidence"] for one in bins], [one["agreement"] for one in bins]
            axis.plot(x, y, color=_color(number_), marker=_marker(number_), linewidth=1.4, label=shown[name])
    for set_limits in (axis.set_xlim, axis.set_ylim):
        set_limits(-0.02, 1.02)
    axis.set_xlabel("confidence of the student")
    axis.set_ylabel("share of tokens where the teacher agrees")
    axis.grid(True, color=GRID, linewidth=0.6)
    _legend(figure)
    return True


def _interval(axis: Any, score: Mapping[str, Any], row: float, number_: int, label: str | None = None) -> None:
    style: dict[str, Any] = {"color": _color(number_), "marker": _marker(number_), "capsize": 3, "elinewidth": 1.4}
    axis.errorbar(score["value"], row, xerr=_errors(score), markersize=6, linestyle="none", label=label, **style)


def _errors(score: Mapping[str, Any]) -> list[list[float]] | None:
    if score["low"] is None or score["high"] is None:
        return None
    # A percentile interval need not hold the value itself; matplotlib takes no negative length.
    return [[max(0.0, score["value"] - score["low"])], [max(0.0, score["high"] - score["value"])]]


def _youden(grid: figures.NoiseGrid, corruption: str, severity: float) -> Mapping[str, Any] | None:
    return figures.youden_j(grid.clean if severity == 0 else grid.cells.get((corruption, severity)))


def _color(number_: int) -> str:
    return _COLORS[number_ % len(_COLORS)]


def _marker(number_: int) -> str:
    return _MARKERS[number_ % len(_MARKERS)]


def _legend(figure: Any) -> None:
    found: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in found}
    # So many columns as the figure has room for: about 0.085 inches a letter, and the marker.
    columns = int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, found))))
    columns = max(1, min(columns, 4, len(found)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(found) // columns) - 1))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _note(figure: Any, results: Mapping[str, Any], more: str = "", intervals: bool = True) -> None:
    """Whose verdicts are drawn, and what the lines through the markers are."""
    first = "Lines through markers: 95 % intervals. " if intervals else ""
    text = f"{first}{more} {judge_sentence(results, largest=True)}"
    figure.suptitle(fill(text, int(15 * figure.get_figwidth())), fontsize=8, x=0.01, ha="left")


DRAWERS: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "headline": _headline,
    "balance": _balance,
    "attack_success": _categories(
        "attack_success", lambda results: score_text("attack_success_direct", results).title
    ),
    "overrefusal": _categories("overrefusal", lambda results: score_text("overrefusal").title),
    "noise_heatmap": _noise_heatmap,
    "severity": _severity,
    "calibration": _calibration,
}
