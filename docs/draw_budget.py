# SPDX-License-Identifier: Apache-2.0
"""
Draws how a budget moves the consistency weight, as `budget.svg` beside this file: `python docs/draw_budget.py`.

The weights are those of [`ConsistencyBudget`] itself. Its divergences are made up: two are given, and in two a weight w
brings the divergence d down towards d / (1 + w) as slowly as a model learns. Nothing here was measured in training.
"""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import torch
from accelerate import Accelerator

from hf_ckt.objective.budget import ConsistencyBudget

WIDTH, PANEL_HEIGHT, TOP = 940, 150, 58
INK, MUTED, LINE, PANEL = "#1f2933", "#52606d", "#9aa5b1", "#fbfcfd"
# Okabe and Ito's colours, told apart also by colour-blind readers.
DIVERGENCE, BOUNDED, UNBOUNDED, BUDGET = "#0072b2", "#d55e00", "#999999", "#009e73"
LEFT, RIGHT, GAP = 62, 20, 70
PLOT_WIDTH = (WIDTH - LEFT - RIGHT - GAP) / 2

STEPS, ALLOWED, RATE, START, MAXIMUM = 400, 0.05, 0.05, 0.5, 10.0


def burst(step: int, divergence: float, weight: float) -> float:
    """Twenty steps far above the budget, then none above it."""
    return 1.0 if step < 20 else 0.0


def learning(step: int, divergence: float, weight: float) -> float:
    """A model that starts at six times the budget and follows its weight."""
    return divergence + 0.02 * (0.3 / (1 + 4 * weight) - divergence)


def out_of_reach(step: int, divergence: float, weight: float) -> float:
    """Noise that no weight brings below twice the budget, until it is turned down after 250 steps."""
    reachable = 0.1 + 0.2 / (1 + weight) if step < 250 else 0.01
    return divergence + 0.1 * (reachable - divergence)


SCENES: tuple[tuple[str, Callable[[int, float, float], float], float], ...] = (
    ("20 steps at 1 nat per token, then 0", burst, 1.0),
    ("a model that learns to keep the budget", learning, 0.3),
    ("a budget out of reach for 250 steps", out_of_reach, 0.3),
)


def run(follow: Callable[[int, float, float], float], start: float, bounded: bool) -> tuple[list[float], list[float]]:
    """Returns divergence and weight of each step, with the bounds or, as plain dual ascent, without."""
    budget = ConsistencyBudget(Accelerator(cpu=True), ALLOWED, RATE, START, MAXIMUM)
    divergence, weight, found = start, START, ([], [])
    for step in range(STEPS):
        divergence = follow(step, divergence, weight)
        if bounded:
            budget.watch({"consistency_loss": torch.tensor([divergence, 1.0], dtype=torch.float64)})
            budget.on_step_end(None, None, None)
            weight = budget.multiplier
        else:
            weight = max(0.0, weight + RATE * (divergence / ALLOWED - 1))
        found[0].append(divergence)
        found[1].append(weight)
    return found


def text(
    x: float, y: float, words: str, size: int = 12, color: str = MUTED, at: str = "start", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{at}"{weight}>'
        f"{escape(words)}</text>"
    )


def curve(values: list[float], x: float, y: float, highest: float, color: str, dashed: bool = False) -> str:
    """A line of one value a step in the plot whose lower left corner is (x, y); what is higher leaves it at the top."""
    height = PANEL_HEIGHT - 44
    points = " ".join(
        f"{x + PLOT_WIDTH * step / (STEPS - 1):.1f},{y - height * min(value / highest, 1.0):.1f}"
        for step, value in enumerate(values)
        if step % 4 == 0 or step == STEPS - 1
    )
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"{dashes}/>'


def frame(x: float, y: float, highest: float, name: str) -> list[str]:
    height = PANEL_HEIGHT - 44
    drawn = [f'<path d="M{x:.1f} {y - height:.1f} V{y:.1f} H{x + PLOT_WIDTH:.1f}" fill="none" stroke="{LINE}"/>']
    for value in (0, highest / 2, highest):
        drawn.append(text(x - 6, y - height * value / highest + 4, f"{value:g}", 11, at="end"))
    drawn += [text(x, y + 15, "0", 11), text(x + PLOT_WIDTH, y + 15, f"{STEPS} steps", 11, at="end")]
    return [*drawn, text(x, y - height - 8, name, 12)]


def draw() -> str:
    """Returns the picture."""
    height = TOP + len(SCENES) * (PANEL_HEIGHT + 26) + 8
    title = "How a budget moves the consistency weight"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{title}</title>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="{PANEL}" stroke="{LINE}"/>',
    ]
    legend = (
        ("divergence", DIVERGENCE),
        ("budget", BUDGET),
        ("weight", BOUNDED),
        ("weight without bounds", UNBOUNDED),
    )
    place = LEFT
    for name, color in legend:
        drawn.append(f'<path d="M{place} 26 h24" stroke="{color}" stroke-width="2.5"/>')
        drawn.append(text(place + 30, 30, name, 12, INK))
        place += 60 + 7 * len(name)
    drawn.append(
        text(WIDTH - RIGHT, 30, f"budget {ALLOWED:g}, rate {RATE:g}, start {START:g}, maximum {MAXIMUM:g}", at="end")
    )
    for row, (name, follow, start) in enumerate(SCENES):
        bottom = TOP + row * (PANEL_HEIGHT + 26) + PANEL_HEIGHT - 8
        right = LEFT + PLOT_WIDTH + GAP
        (divergence, weight), (_, plain) = run(follow, start, True), run(follow, start, False)
        drawn.append(text(LEFT, bottom - PANEL_HEIGHT + 22, name, 13, INK, bold=True))
        top = max(divergence)
        scale = next(limit for limit in (0.2, 0.3, 0.5, 1.0) if top <= limit)
        drawn += frame(LEFT, bottom, scale, "nats per token")
        drawn += frame(right, bottom, 20.0, "consistency weight")
        drawn.append(curve([ALLOWED] * STEPS, LEFT, bottom, scale, BUDGET, dashed=True))
        drawn.append(curve(divergence, LEFT, bottom, scale, DIVERGENCE))
        drawn.append(curve(plain, right, bottom, 20.0, UNBOUNDED))
        drawn.append(curve(weight, right, bottom, 20.0, BOUNDED))
    return "\n".join([*drawn, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("budget.svg").write_text(draw(), encoding="utf-8")
