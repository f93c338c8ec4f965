# SPDX-License-Identifier: Apache-2.0
"""Messages of libraries below that tell a user nothing to do about his run, and are left out."""

import logging
import warnings

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
