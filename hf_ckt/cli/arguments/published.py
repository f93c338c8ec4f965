# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that write the card of a saved run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...hub.publishing import PublishedEvaluation


def add_card_options(parser: argparse.ArgumentParser, *, without: str) -> None:
    """
    Adds `folder`, `--evaluation`, `--no-evaluation` and `--base-model`.

    Args:
        parser (`ArgumentParser`):
            The command's.
        without (`str`):
            What the help says of `--no-evaluation`.
    """
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="written by `hf-ckt train` or trainer.save_model()"
    )
    evaluated = parser.add_mutually_exclusive_group()
    evaluated.add_argument(
        "--evaluation",
        type=Path,
        metavar="DIR",
        help="written by `hf-ckt evaluate --output`, of these weights; default: FOLDER or FOLDER/evaluation, if results.json is "
        "there",
    )
    evaluated.add_argument("--no-evaluation", action="store_true", help=without)
    parser.add_argument(
        "--base-model",
        metavar="ID",
        help="Hub id of the base, where the adapter was trained on a folder; default: the base that the training recorded",
    )


def find_published_evaluation(options: argparse.Namespace, *, is_adapter: bool) -> "PublishedEvaluation | None":
    """Returns the evaluation that the options name, or that lies in the folder; None: there is none, or it is not wanted."""
    from ...evaluation.published import find_evaluation, published_evaluation

    if options.no_evaluation:
        return None
    folder = options.evaluation or find_evaluation(options.folder)
    return None if folder is None else published_evaluation(folder, options.folder, is_adapter)
