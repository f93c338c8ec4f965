# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a run goes on from, as a command line or a run file says it."""

import os

from ...checkpoints import last_complete_checkpoint


def resolve_checkpoint(value: str | None, output_dir: str | None) -> str | None:
    """
    Returns the checkpoint to resume from, or None to start anew.

    Args:
        value (`str`, *optional*):
            A checkpoint's folder; `"auto"` or `"true"` for the last one in `output_dir`, if there is one; None or
            `"false"` for a fresh start.
        output_dir (`str`, *optional*):
            Where the run saves.

    Raises:
        ValueError: If `value` is a folder that does not exist.
    """
    # YAML gives `true` as a bool, the shell as a string.
    word = str(value).lower()
    if value is None or word in ("false", "none", "no", ""):
        return None
    if word in ("auto", "true", "yes"):
        # None here starts anew; the trainer's own `True` insists on a checkpoint.
        return last_complete_checkpoint(output_dir, required=False) if output_dir else None
    if not os.path.isdir(value):
        raise ValueError(
            f"resume_from_checkpoint: no such folder, {value!r}. A run that starts anew instead would overwrite what "
            "is in output_dir. Name an existing checkpoint, or use 'auto' for the last one if there is one."
        )
    return value
