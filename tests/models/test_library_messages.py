# SPDX-License-Identifier: Apache-2.0
"""Messages that a user can do nothing about are left out, and no others."""

import logging
import subprocess
import sys
import warnings

import pytest

from hf_ckt.models.library_messages import leave_out


def test_left_out_are_these_messages_alone(caplog):
    """A library whose warnings are all switched off is silent on the day when one matters."""
    leave_out()
    leave_out()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert sum(type(one).__name__ == "_Without" for one in logger.filters) == 1
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
    logger.warning("the quantization state is damaged")
    assert [record.getMessage() for record in caplog.records] == ["the quantization state is damaged"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leave_out()
        warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning):
            warnings.warn("`max_length` is deprecated", FutureWarning, stacklevel=1)


def test_command_that_needs_no_model_says_nothing_of_kernels():
    """The first line that a new user saw was about a package that he does not need."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import hf_ckt; hf_ckt.ContrastiveRobustConfig('out', use_cpu=True, bf16=False); import peft",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout and "kernels" not in done.stderr and "deprecated" not in done.stderr
