# SPDX-License-Identifier: Apache-2.0
"""Messages of libraries below that tell a user nothing to do about his run, and are left out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Logger -> how the message begins. bitsandbytes looks for faster 4-bit products on CPUs in a package of the Hub; without it
# its own are used, which is what is tested here.
_LOGGED = {"bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward"}
# trl 1.16 and peft 0.21 use names that transformers 5.23 renamed: between those three.
_WARNED = r"`(is_)?gradient_checkpointing(_\w+)?` is deprecated"


class _Without(logging.Filter):
    """Leaves out messages that begin so."""

    def __init__(self, beginning: str):
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginning)


def leave_out() -> None:
    """Leaves these messages out from now on, of this process; all others of the same libraries stay."""
    for name, beginning in _LOGGED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Without) for one in logger.filters):
            logger.addFilter(_Without(beginning))
    warnings.filterwarnings("ignore", message=_WARNED, category=FutureWarning)


@contextmanager
def without_preparation_bars(*, unless: bool = False) -> Iterator[None]:
    """
    Leaves out the progress bars with which datasets, transformers and huggingface_hub prepare rows, load weights and fetch
    files.

    Args:
        unless (`bool`, *optional*, defaults to `False`):
            Whether they are to be seen all the same: in a terminal, where they go again.
    """
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers

    shown = (
        (not are_progress_bars_disabled(), disable_progress_bars, enable_progress_bars),
        (transformers.is_progress_bar_enabled(), transformers.disable_progress_bar, transformers.enable_progress_bar),
        (not hub.are_progress_bars_disabled(), hub.disable_progress_bars, hub.enable_progress_bars),
    )
    ours = [] if unless else [(hide, show) for on, hide, show in shown if on]
    for hide, _ in ours:
        hide()
    try:
        yield
    finally:
        for _, show in ours:
            show()
