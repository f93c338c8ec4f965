# SPDX-License-Identifier: Apache-2.0
"""What is written beside saved weights, for programs and for readers: of its training an adapter tells nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints import replace_file, replace_json
from ..hub.run_card import run_card, run_record
from ..hub.saved_run import CARD
from ..models.precision import RECORD


@contextmanager
def card_kept(folder: str) -> Iterator[None]:
    """
    Leaves a folder's README.md as it was before weights are saved there: PEFT would write its own tags and lines into it, with the
    base's folder among them. Where there is none, PEFT's empty form is written, as SFTTrainer leaves it.

    Args:
        folder (`str`):
            Where weights are saved.
    """
    card = Path(folder, CARD)
    before = card.read_bytes() if card.is_file() else None
    yield
    if before is not None and card.read_bytes() != before:
        replace_file(card, lambda aside: Path(aside).write_bytes(before))


def write_record(trainer: Any, folder: str) -> None:
    """
    Writes a trainer's record into a folder with weights that it saved.

    Args:
        trainer ([`~transformers.Trainer`]):
            Its model and arguments are read.
        folder (`str`):
            Where the weights are.
    """
    replace_json(os.path.join(folder, RECORD), run_record(trainer))


def write_card(
    trainer: Any, model_name: str | None, dataset_name: str | Sequence[str] | None, tags: str | list[str] | None
) -> None:
    """
    Writes a trainer's card into its output folder.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its `dataset_name` is set where a name is given, and then stands in the record of weights that are saved there, too.
        model_name (`str`, *optional*), dataset_name (`str` or `Sequence[str]`, *optional*), tags (`str` or `list[str]`, *optional*):
            As Trainer's `create_model_card` takes them.
    """
    folder = str(trainer.args.output_dir)
    if dataset_name is not None:
        trainer.dataset_name = dataset_name
        if os.path.exists(os.path.join(folder, RECORD)):
            write_record(trainer, folder)
    replace_file(os.path.join(folder, CARD), run_card(trainer, model_name, tags).save)
