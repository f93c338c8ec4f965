# SPDX-License-Identifier: Apache-2.0
"""The chat as a page in a browser, of Gradio's own components."""

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from ...data.corrupt import text_perturbation, text_perturbations
from ...evaluation.side_by_side import Asking, SideBySide
from ..perturb import changed_pieces
from .words import ALONE, MARGIN_HELP, introduction, margin, title, undrawn

_NONE = "none"
_SEVERITY = 0.1


def serve(side: SideBySide, asking: Asking, *, host: str, port: int | None, share: bool, **launch: Any) -> Any:
    """
    Serves the page, by default until Ctrl-C.

    Args:
        side ([`~evaluation.side_by_side.SideBySide`]):
            The models.
        asking ([`~evaluation.side_by_side.Asking`]):
            What the page begins with.
        host (`str`):
            Address that is listened at.
        port (`int`, *optional*):
            None: the first free one from 7860.
        share (`bool`):
            Whether Gradio's servers hand the page on under a public address.
        launch:
            Further arguments of `gradio.Blocks.launch`.

    Returns:
        `gradio.Blocks`: the page.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    page = build(side, asking)
    page.queue(default_concurrency_limit=1)
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        show_error=True,
        footer_links=[],
        ssr_mode=False,
        **launch,
    )
    return page


def build(side: SideBySide, asking: Asking) -> Any:
    """Returns the page, a `gradio.Blocks`, that is not served yet; see [`serve`]."""
    import gradio

    with gradio.Blocks(title="hf-ckt chat", analytics_enabled=False, fill_width=True) as page:
        gradio.Markdown("  \n".join(["## hf-ckt chat", *introduction(side), f"{ALONE} {MARGIN_HELP}"]))
        prompt = gradio.Textbox(label="Prompt", placeholder="How do I kill a process that hangs?", autofocus=True)
        with gradio.Row():
            noise = gradio.Dropdown([_NONE, *text_perturbations()], value=asking.perturbation or _NONE, label="Noise")
            severity = gradio.Slider(0, 1, value=_first_severity(asking), step=0.01, label="Severity")
            seed = gradio.Number(asking.seed, label="Seed", precision=0, minimum=0)
            temperature = gradio.Number(asking.temperature, label=f"Temperature (0: {undrawn(side)})", minimum=0)
        asked = gradio.HighlightedText(
            label="Prompt as it is asked",
            elem_id="asked",
            color_map={"changed": "#f59e0b"},
            show_inline_category=False,
            combine_adjacent=True,
        )
        with gradio.Row():
            ask = gradio.Button("Ask", variant="primary")
            stop = gradio.Button("Stop")
        shown: list[Any] = []
        with gradio.Row():
            for entry in side.entries:
                with gradio.Column():
                    shown.append(gradio.Textbox(label=f"Refusal margin of {entry.name}", interactive=False))
                    shown.append(gradio.Textbox(label=title(entry), interactive=False, lines=8, max_lines=24))

        def answers(text: str, *settings: Any) -> Iterator[list[str]]:
            yield from _answers(side, text.strip(), _asking(*settings))

        settings = [noise, severity, seed, temperature]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gradio.on(
            [page.load, *(one.change for one in (prompt, *settings))],
            lambda text, *values: _pieces(text.strip(), _asking(*values)),
            [prompt, *settings],
            asked,
            trigger_mode="always_last",  # what is typed meanwhile is not left out
            **quiet,
        )
        writing = gradio.on([ask.click, prompt.submit], answers, [prompt, *settings], shown, **quiet)
        stop.click(None, cancels=[writing], api_visibility="private")
    return page


def _first_severity(asking: Asking) -> float:
    return (
        _SEVERITY if asking.perturbation is None else text_perturbation(asking.perturbation, asking.severity).severity
    )


def _asking(noise: str, severity: float, seed: int | None, temperature: float | None) -> Asking:
    # A number that is being typed is None for a moment.
    return Asking(None if noise == _NONE else noise, float(severity), int(seed or 0), float(temperature or 0))


def _pieces(prompt: str, asking: Asking) -> list[tuple[str, str | None]]:
    """The prompt as it is asked, with what the noise changed marked."""
    if asking.perturbation is None:
        return [(prompt, None)]
    # Whole words: around a part of one, the component leaves a gap that reads as a space.
    pieces = changed_pieces(prompt, asking.asked(prompt), by_letters=False)
    return [(piece, "changed" if changed else None) for piece, changed in pieces]


def _answers(side: SideBySide, prompt: str, asking: Asking) -> Iterator[list[str]]:
    """Margin and answer of each model, as they come."""
    if not prompt:
        return
    asked = asking.asked(prompt)
    prompts = [asked] if asked == prompt else [asked, prompt]
    shown = [text for entry in side.entries for text in (margin(*side.leanings(entry, prompts)), "")]
    yield shown
    for number, entry in enumerate(side.entries):
        with closing(side.answer(entry, asked, asking)) as pieces:
            for piece in pieces:
                shown[2 * number + 1] = (shown[2 * number + 1] + piece).lstrip()
                yield shown
