# SPDX-License-Identifier: Apache-2.0
"""Processes that do not outlive the one that started them: what is left on a GPU would slow all that is timed after it."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)
# Loaded here, since hardly anything is safe to do between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """
    For `preexec_fn` of `subprocess`: the kernel kills the new process when its parent ends in whatever way, SIGKILL too.

    Only where the kernel is Linux, and only the process itself: what it starts in turn has to ask for the same.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
