# SPDX-License-Identifier: Apache-2.0
"""
Draws one training step, its views and terms, as `objective.svg` beside this file: `python docs/draw_objective.py`.

The picture has a panel of its own, so that it reads the same on a light and on a dark page.
"""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 940, 484
INK, MUTED, LINE, PANEL = "#1f2933", "#52606d", "#9aa5b1", "#fbfcfd"
# Okabe and Ito's colours, told apart also by colour-blind readers.
FROZEN, TRAINED, INPUT, TERM = "#e4e7eb", "#f5c26b", "#d6e9f8", "#dcefe3"
GRADIENT = "#b35900"

INPUT_X, INPUT_WIDTH = 20, 184
MODEL_X, MODEL_WIDTH = 254, 224
VIEW_X, VIEW_WIDTH = 512, 88
TERM_X, TERM_WIDTH = 664, 256

# view -> (middle of its row, what computes it, in the second line, and whether the adapter takes part)
VIEWS = {
    "p_teacher": (100, "Teacher", "another model, or the base", False),
    "p_base": (186, "Base", "the student, adapter off", False),
    "p_clean": (272, "Student", "frozen 4- or 8-bit backbone", True),
    "p_noisy": (358, "Student", "the same weights", True),
}
# term -> (middle of its box, what it measures, the views it reads)
TERMS = {
    "contrastive": (82, "like the teacher here, not elsewhere", ("p_teacher", "p_clean")),
    "distillation": (148, "D(p_teacher, p_clean)", ("p_teacher", "p_clean")),
    "regularization": (214, "KL(p_base, p_clean), or adapter size", ("p_base", "p_clean")),
    "task": (280, "-log p_clean(label)", ("p_clean",)),
    "consistency": (346, "D(p_clean, p_noisy)", ("p_clean", "p_noisy")),
}


def box(x: float, y: float, width: float, height: float, fill: str, radius: int = 6) -> str:
    shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"'
    return f'<rect {shape} fill="{fill}" stroke="{LINE}"/>'


def text(
    x: float, y: float, words: str, size: int = 13, color: str = INK, bold: bool = False, at: str = "middle"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{at}"{weight}>{escape(words)}</text>'


def arrow(points: list[tuple[float, float]], color: str = MUTED, width: float = 1.4, head: str = "head") -> str:
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="{width}" marker-end="url(#{head})"/>'


def inputs() -> list[str]:
    drawn, middle, right = [], INPUT_X + INPUT_WIDTH / 2, INPUT_X + INPUT_WIDTH
    clean, noisy = VIEWS["p_clean"][0], VIEWS["p_noisy"][0]
    for row, name, detail in (
        (clean, "Batch", "prompt and answer"),
        (noisy, "Perturbed batch", "noisy prompt, same answer"),
    ):
        drawn += [box(INPUT_X, row - 27, INPUT_WIDTH, 54, INPUT), text(middle, row - 4, name, bold=True)]
        drawn += [text(middle, row + 14, detail, 12, MUTED), arrow([(right, row), (MODEL_X - 2, row)])]
    for name in ("p_teacher", "p_base"):
        row, bend = VIEWS[name][0], right + 24
        drawn.append(arrow([(right, clean), (bend, clean), (bend, row), (MODEL_X - 2, row)]))
    return [*drawn, arrow([(middle, clean + 27), (middle, noisy - 29)])]


def models() -> list[str]:
    drawn = []
    for view, (middle, name, detail, adapter) in VIEWS.items():
        drawn.append(box(MODEL_X, middle - 31, MODEL_WIDTH, 62, FROZEN))
        drawn.append(text(MODEL_X + 12, middle - 9, name, bold=True, at="start"))
        drawn.append(text(MODEL_X + 12, middle + 10, detail, 12, MUTED, at="start"))
        if adapter:
            drawn.append(box(MODEL_X + MODEL_WIDTH - 74, middle - 25, 66, 22, TRAINED, 4))
            drawn.append(text(MODEL_X + MODEL_WIDTH - 41, middle - 10, "adapter", 12))
        drawn.append(arrow([(MODEL_X + MODEL_WIDTH, middle), (VIEW_X - 2, middle)]))
        drawn.append(box(VIEW_X, middle - 14, VIEW_WIDTH, 28, "#ffffff", 14))
        drawn.append(text(VIEW_X + VIEW_WIDTH / 2, middle + 5, view))
    return drawn


def terms() -> list[str]:
    drawn = []
    for name, (middle, measured, views) in TERMS.items():
        for view in views:
            start = VIEWS[view][0]
            drawn.append(arrow([(VIEW_X + VIEW_WIDTH, start), (TERM_X - 2, middle)], LINE, 1.2, "light"))
        drawn.append(box(TERM_X, middle - 25, TERM_WIDTH, 50, TERM))
        drawn.append(text(TERM_X + 12, middle - 4, name, bold=True, at="start"))
        drawn.append(text(TERM_X + 12, middle + 14, measured, 12, MUTED, at="start"))
    return drawn


def loss() -> list[str]:
    middle, top = 432, max(term[0] for term in TERMS.values()) + 25
    drawn = [box(TERM_X, middle - 22, TERM_WIDTH, 44, "#ffffff")]
    drawn += [text(TERM_X + TERM_WIDTH / 2, middle + 5, "L = weighted sum of the terms", bold=True)]
    drawn += [arrow([(TERM_X + TERM_WIDTH / 2, top), (TERM_X + TERM_WIDTH / 2, middle - 24)])]
    back = MODEL_X + MODEL_WIDTH / 2
    drawn += [arrow([(TERM_X, middle), (back + 134, middle)], GRADIENT, 2, "gradient")]
    drawn += [
        box(back - 122, middle - 18, 254, 36, TRAINED),
        text(back + 5, middle + 5, "gradients reach the adapter only"),
    ]
    return drawn


def draw() -> str:
    """Returns the picture."""
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{color}"/></marker>'
        for name, color in (("head", MUTED), ("light", LINE), ("gradient", GRADIENT))
    )
    title = "One training step: the views that are computed and the terms that compare them"
    columns = [
        ("Input", INPUT_X + INPUT_WIDTH / 2),
        ("Passes", MODEL_X + MODEL_WIDTH / 2),
        ("Views", VIEW_X + VIEW_WIDTH / 2),
        ("Terms", TERM_X + TERM_WIDTH / 2),
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{title}</title><defs>{markers}</defs>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="10" fill="{PANEL}" stroke="{LINE}"/>',
        *(text(x, 36, name, 14, MUTED, bold=True) for name, x in columns),
        *inputs(),
        *models(),
        *terms(),
        *loss(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("objective.svg").write_text(draw(), encoding="utf-8")
