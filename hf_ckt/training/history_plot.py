# SPDX-License-Identifier: Apache-2.0
"""A training's log as a figure."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints import last_complete_checkpoint
from ..checks import missing_package
from ..discovery import part_name
from ..models.precision import RECORD
from ..objective.objective import ROLES
from ..plotting.style import COLORS, GRID, INK, STYLE

_STATE = "trainer_state.json"
_STYLE: Any = STYLE | {"font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left"}


@dataclass
class _Run:
    """What is known of a training: its log, and by role the loss's name and the weight at each step."""

    history: Sequence[Mapping[str, Any]]
    losses: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Callable[[float], float]] = field(default_factory=dict)


def plot_history(source: Any) -> Any:
    """
    Draws a training's log: the loss with what each term adds to it, each term before its weight with the shares of several
    teachers, agreement with the teacher, norm of the gradient and learning rate. Circles are evaluations. What was not
    logged has no panel.

    Args:
        source ([`ContrastiveRobustTrainer`], `str`, `os.PathLike` or `list[dict]`):
            A trainer, also of transformers; a `trainer_state.json`, or a folder that holds one or checkpoints with one;
            or a `log_history`. What terms add to the loss is drawn where their weights are known: of a trainer, and of a file
            beside a `hf_ckt_training.json` whose weights are constant.

    Returns:
        `matplotlib.figure.Figure`: to be shown, or saved with `savefig`.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If the source is none of these.
        ValueError: If the source is no such file, or logged no step.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plot_history: {missing_package('matplotlib', 'it draws the figure', 'plot')}.") from error
    run = _run_of(source)
    panels = [panel for panel in _panels(run) if panel.lines]
    if not panels:
        raise ValueError(
            "plot_history: no training step was logged, so there is nothing to draw. Train first, with logging_steps at most "
            "the number of steps."
        )
    count = len(panels)
    columns = count if count <= 3 else min((4, 3), key=lambda columns: -count % columns)  # with few places left empty
    rows = math.ceil(count / columns)
    with rc_context(_STYLE):  # a Figure of its own: neither a window nor what else this process draws is touched
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        for number, panel in enumerate(panels, 1):
            panel.draw(figure.add_subplot(rows, columns, number), last_row=number > count - columns)
    return figure


@dataclass
class _Panel:
    title: str
    lines: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    evaluated: list[tuple[int, float]] = field(default_factory=list)

    def draw(self, axis: Any, last_row: bool) -> None:
        """Draws the first line in bold, and names the lines where there are several."""
        from matplotlib.ticker import MaxNLocator

        for place, (name, points) in enumerate(self.lines.items()):
            color = INK if place == 0 else COLORS[(place - 1) % len(COLORS)]
            width, marker = (1.8, 1.2)[place > 0], "." if len(points) == 1 else None
            axis.plot(*zip(*points, strict=True), color=color, linewidth=width, marker=marker, label=name)
        if self.evaluated:
            shown = zip(*self.evaluated, strict=True)
            axis.plot(*shown, color=INK, linewidth=0, marker="o", fillstyle="none", label="evaluation")
        axis.set_title(self.title)
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if last_row:
            axis.set_xlabel("optimizer step")
        if len(self.lines) + bool(self.evaluated) > 1:
            axis.legend(frameon=False, fontsize=7.5, handlelength=1.2)


def _panels(run: _Run) -> list[_Panel]:
    multipliers = dict(_points(run, "consistency_multiplier"))
    loss = _panel(run, "loss", "loss and what each term adds to it" if run.weights else "loss", "loss")
    for role, weight in run.weights.items():
        added = _added(run, role, weight)
        if role == "consistency" and multipliers:  # a budget's weight moves with what it sees, and is logged
            added = [(step, value * multipliers[step]) for step, value in _points(run, "consistency_loss")]
        if added:
            loss.lines[role] = added
    panels = [loss]
    logged = {name: None for entry in run.history for name in entry}
    for role in ROLES:
        name = f"{role}_loss"
        by = f": {run.losses[role]}" if role in run.losses else ""
        panels.append(_panel(run, name, f"{role}{by}, unweighted" if run.weights else f"{role}{by}", "all tokens"))
        for part in logged:
            if part.startswith(f"{name}/"):
                panels[-1].lines[part.removeprefix(f"{name}/")] = _points(run, part)
    panels.append(_panel(run, "acceptance", "agreement with the teacher (1 = the same)", "acceptance"))
    agreement = _points(run, "teacher_agreement")
    if agreement:
        panels[-1].lines["same most probable token"] = agreement
    panels.append(_panel(run, "grad_norm", "norm of the gradient", "norm"))
    panels.append(_panel(run, "learning_rate", "learning rate", "rate"))
    return panels


def _panel(run: _Run, name: str, title: str, label: str) -> _Panel:
    points = _points(run, name)
    return _Panel(title, {label: points} if points else {}, _points(run, f"eval_{name}"))


def _points(run: _Run, name: str) -> list[tuple[int, float]]:
    found = ((entry["step"], entry.get(name)) for entry in run.history if "step" in entry)
    return [(step, value) for step, value in found if isinstance(value, (int, float)) and math.isfinite(value)]


def _added(run: _Run, role: str, weight: Callable[[float], float]) -> list[tuple[int, float]]:
    """What a term adds to the loss: its mean over the steps since the last log times the mean of its weights there."""
    found, last = [], 0
    for step, value in _points(run, f"{role}_loss"):
        # A step's weights are those of the number of steps before it.
        steps = range(last, step) if last < step else range(step - 1, step)
        found.append((step, value * sum(map(weight, steps)) / len(steps)))
        last = step
    return found


def _run_of(source: Any) -> _Run:
    if isinstance(source, (str, os.PathLike)):
        return _run_of_file(Path(source))
    if isinstance(source, Sequence):
        return _Run(source)
    objective, state = getattr(source, "objective", None), getattr(source, "state", None)
    if state is None:
        raise TypeError(
            f"plot_history: a {type(source).__name__} holds no log. Give a trainer, a {_STATE} or its folder, or a log_history."
        )
    if objective is None:
        return _Run(state.log_history)
    end = max(state.max_steps, 1)
    return _Run(
        state.log_history,
        {role: part_name(term.loss) for role, term in objective.terms.items()},
        {role: lambda step, term=term: term.schedule.at(step / end) for role, term in objective.terms.items()},  # type: ignore[misc]
    )


def _run_of_file(path: Path) -> _Run:
    if path.is_dir() and not (path / _STATE).is_file():
        path = Path(last_complete_checkpoint(path, required=False) or path)
    file = path / _STATE if path.is_dir() else path
    try:
        history = [*map(dict, json.loads(file.read_text(encoding="utf-8"))["log_history"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"plot_history: {file} cannot be read as a {_STATE} ({type(error).__name__}), and the log stands there. Give such a "
            "file, or a folder with one or with checkpoints."
        ) from error
    record = file.with_name(RECORD)
    terms = json.loads(record.read_text(encoding="utf-8")).get("objective") if record.is_file() else None
    # SFTTrainer logs no term of its own.
    terms = [term for term in terms or () if any(f"{term['role']}_loss" in entry for entry in history)]
    losses = {term["role"]: term["loss"] for term in terms}
    if any(term["schedule"] != "constant" for term in terms):
        return _Run(history, losses)  # where such a weight ends, the file does not say
    return _Run(history, losses, {term["role"]: lambda _, term=term: term["weight"] for term in terms})  # type: ignore[misc]
