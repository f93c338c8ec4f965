# SPDX-License-Identifier: Apache-2.0
"""What is written beside saved weights: backbone, objective, settings and teachers, of which an adapter tells nothing."""

import os
from typing import Any

from ..checkpoints import replace_json
from ..hub.run_card import run_record
from ..models.precision import RECORD


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
