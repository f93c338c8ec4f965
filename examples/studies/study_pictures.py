# SPDX-License-Identifier: Apache-2.0
"""The picture of a study: its methods below each other, its curves over the one field of its grid, or a map of two fields."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study_tables import CHOSEN_BY, SHOWN, by_value, reached

from hf_ckt.checkpoints import replace_file

VIEWS = ("youden_j", "youden_j_noise")
COLORS = ("#2a6f97", "#d1495b", "#00795a", "#7a6100", "#9a4382", "#5b6573")
MARKERS = ("o", "s", "D", "^", "v", "P")


def draw(kept: Mapping[str, Any], file: Path) -> None:
    """Draws a study's picture as PNG; which of the three it is follows from how many fields the grid has."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawer = (_below_each_other, _over_a_field, _map_of_two)[min(len(kept["study"]["grid"]), 2)]
    figure = drawer(plt, kept)
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def _below_each_other(plt: Any, kept: Mapping[str, Any]) -> Any:
    """Each method's J, clean and under noise, with intervals."""
    methods = kept["methods"]
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.35 * len(methods)), layout="constrained")
    for score, color, marker, shift in zip(_views(kept), COLORS, MARKERS, (0.12, -0.12), strict=False):
        found = [one["scores"][score] for one in methods.values()]
        heights = [len(methods) - place + shift for place in range(len(methods))]
        values = [one["value"] for one in found]
        axis.errorbar(values, heights, xerr=_spread(found), fmt=marker, ms=4, lw=1, color=color, label=SHOWN[score])
    axis.set_yticks([len(methods) - place for place in range(len(methods))], [*methods], fontsize=8)
    axis.axvline(0, color="0.6", lw=0.8)
    axis.set_xlabel("J: harmful refused less benign refused")
    _finish(axis, "x")
    return figure


def _over_a_field(plt: Any, kept: Mapping[str, Any]) -> Any:
    """J of each method over the values of the grid's one field, with a band, clean beside noisy; so is KD alignment."""
    ((name, values),) = kept["study"]["grid"].items()
    scores = [score for score in ("kd_alignment", *_views(kept)) if _has(kept, score)]
    figure, axes = plt.subplots(
        1, len(scores), figsize=(1.5 + 4 * len(scores), 3.8), layout="constrained", squeeze=False
    )
    for axis, score in zip(axes[0], scores, strict=True):
        for place, (method, groups) in enumerate(by_value(kept, name).items()):
            color, marker = COLORS[place % len(COLORS)], MARKERS[place // len(COLORS) % len(MARKERS)]
            # Values equally far apart, since those of such a field often double.
            at = [number for number, value in enumerate(values) if value in groups]
            found = [kept["methods"][groups[values[number]]]["scores"][score] for number in at]
            axis.plot(at, [one["value"] for one in found], marker=marker, ms=4, lw=1.2, color=color, label=method)
            axis.fill_between(
                at, [one["low"] for one in found], [one["high"] for one in found], color=color, alpha=0.12
            )
        axis.set_xticks(range(len(values)), [_short(value) for value in values], fontsize=8)
        axis.set_xlabel(name)
        axis.set_ylabel(SHOWN[score])
        _finish(axis, "y")
    return figure


def _map_of_two(plt: Any, kept: Mapping[str, Any]) -> Any:
    """The mean of J and AUROC by the values of the grid's first two fields."""
    (row, rows), (column, columns) = [*kept["study"]["grid"].items()][:2]
    found = {
        tuple(kept["cells"][runs[0]]["settings"][field] for field in (row, column)): reached(kept, group)
        for group, runs in kept["groups"].items()
    }
    values = [[found.get((one, other), float("nan")) for other in columns] for one in rows]
    figure, axis = plt.subplots(figsize=(2 + 1.2 * len(columns), 1.6 + 0.6 * len(rows)), layout="constrained")
    axis.imshow(values, cmap="Blues", aspect="auto")
    middle = (min(map(min, values)) + max(map(max, values))) / 2
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value > middle else "black")
    axis.set_xticks(range(len(columns)), [_short(one) for one in columns])
    axis.set_yticks(range(len(rows)), [_short(one) for one in rows])
    axis.set_xlabel(column)
    axis.set_ylabel(row)
    axis.set_title(f"mean of {' and '.join(SHOWN[score] for score in CHOSEN_BY)}", fontsize=9)
    return figure


def _views(kept: Mapping[str, Any]) -> list[str]:
    return [score for score in VIEWS if _has(kept, score)]


def _has(kept: Mapping[str, Any], score: str) -> bool:
    return all(one["scores"].get(score, {}).get("value") is not None for one in kept["methods"].values())


def _spread(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    return [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]


def _short(value: Any) -> str:
    """Of a path, the file's name without its ending."""
    return Path(value).stem if isinstance(value, str) else f"{value:g}"


def _finish(axis: Any, grid: str) -> None:
    axis.grid(axis=grid, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
