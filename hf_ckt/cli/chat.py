# SPDX-License-Identifier: Apache-2.0
"""Ask a base and its adapter the same prompt, clean or under noise, and see both answers and refusal margins."""

import argparse
import importlib.util
import io
import sys
from dataclasses import replace

from ..checks import missing_package
from .arguments.parser import CommandParser

_HOST = "127.0.0.1"
# What belongs to the page alone, with its value where it is not given.
_OF_THE_PAGE = {"host": _HOST, "port": None, "share": False}


def run(argv: list[str]) -> int:
    """Talks in the terminal, reads prompts line by line from a pipe, or with `--ui` serves a page until Ctrl-C."""
    options = _parse(argv)

    from ..evaluation.measuring.chat_format import chat_formats
    from ..evaluation.measuring.models import Loading, entries
    from ..evaluation.measuring.weights import loading_of
    from ..evaluation.side_by_side import Asking, SideBySide

    asking = Asking(options.perturbation, options.severity, options.seed, options.temperature)
    listed, _ = entries(options.model, options.adapter, allow_other_base=options.allow_other_base)
    # Of both, so that they share one backbone: as trained is as the adapter was.
    loading = replace(loading_of(listed[-1], Loading.of(options)), as_trained=False)
    formats = chat_formats(
        listed,
        trust_remote_code=options.trust_remote_code,
        allow_other_base=options.allow_other_base,
        system_prompt=options.system_prompt,
        system_fallback=options.system_fallback,
        thinking_tokens=0,  # what is compared are answers, and a margin is read where an answer begins
    )
    side = SideBySide(formats, loading, options.new_tokens, options.keep_generation_config)
    side.load()
    if options.ui:
        from .chatting.page import serve

        serve(side, asking, host=options.host, port=options.port, share=options.share)
        return 0

    from .chatting.terminal import Chat

    if isinstance(sys.stdout, io.TextIOWrapper):
        # Letters of other alphabets are what homoglyphs are about, and not every terminal's encoding has them.
        sys.stdout.reconfigure(errors="backslashreplace")
    Chat(side, asking).run()
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    from ..evaluation.measuring.chat_format import add_chat_options
    from ..evaluation.measuring.models import add_model_options

    parser = CommandParser(
        prog="hf-ckt chat",
        description=f"{__doc__} Prompts are typed, or come line by line from a pipe; /help lists the commands.",
    )
    add_model_options(parser, compare=False)
    add_chat_options(parser, thinking=False)
    add = parser.add_argument
    add("--perturbation", metavar="NAME", help="noise of text, as `hf-ckt perturb` shows it; default: none")
    add("--severity", type=float, metavar="SHARE", help="its strength in [0, 1]; default: the perturbation's own")
    add("--seed", type=int, default=0, metavar="N", help="of the noise, and of what a temperature draws; default: 0")
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="draw answers at it; default: 0, the most probable token each time",
    )
    add("--new-tokens", type=int, default=256, metavar="N", help="most tokens of an answer; default: 256")
    add("--ui", action="store_true", help="a page in the browser in place of the terminal; needs the extra ui")
    add(
        "--host",
        default=_HOST,
        metavar="ADDRESS",
        help=f"where the page is served; default: {_HOST}, this machine alone",
    )
    add("--port", type=int, metavar="N", help="its port; default: the first free one from 7860")
    add("--share", action="store_true", help="also under a public address, through Gradio's servers")
    options = parser.parse_args(argv)

    from .arguments.models import require_models

    require_models(options)
    if options.severity is not None and options.perturbation is None:
        raise ValueError("--severity: belongs to --perturbation, which is missing, so it would be ignored. Give both.")
    for name, default in _OF_THE_PAGE.items():
        if not options.ui and getattr(options, name) != default:
            raise ValueError(f"--{name}: belongs to --ui, which is missing, so it would be ignored. Give both.")
    if options.ui and importlib.util.find_spec("gradio") is None:
        raise ValueError(
            f"--ui: {missing_package('gradio', 'it makes the page', 'ui')}, or leave --ui out to chat in the terminal."
        )
    return options
