# SPDX-License-Identifier: Apache-2.0
"""Write the card of a trained model or adapter, the same that `push` publishes."""

import argparse
from pathlib import Path

from .arguments.parser import CommandParser
from .arguments.published import add_card_options, find_published_evaluation


def run(argv: list[str]) -> int:
    """Writes README.md into the folder."""
    options = _parse(argv)

    from ..checkpoints import replace_file
    from ..hub.publishing import require_repo_id
    from ..hub.saved_card import saved_card
    from ..hub.saved_run import CARD, read_saved_run

    if options.repo_id is not None:
        require_repo_id(options.repo_id)
    saved = read_saved_run(options.folder, needs_card=False)
    evaluation = find_published_evaluation(options, is_adapter=saved.is_adapter)
    text = saved_card(
        saved,
        repo_id=options.repo_id,
        base_model=options.base_model,
        evaluation=None if evaluation is None else evaluation.card,
    )
    replace_file(options.folder / CARD, lambda aside: Path(aside).write_text(text, encoding="utf-8"))
    shown = "without an evaluation, which it says" if evaluation is None else "with its evaluation"
    print(f"wrote {options.folder / CARD}, {shown}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="hf-ckt card",
        description=f"{__doc__} It is made of what the training recorded beside the weights and of an evaluation, where there is "
        "one: base, teachers, licences, data, objective, scores, command, versions, time. What you wrote yourself around the part "
        "of hf_ckt stays.",
    )
    add_card_options(parser, without="write none into the card, which says so")
    parser.add_argument(
        "repo_id",
        metavar="REPO_ID",
        nargs="?",
        help="OWNER/NAME on the Hub that the card's code loads from; default: a placeholder, or what the training pushed to",
    )
    return parser.parse_args(argv)
