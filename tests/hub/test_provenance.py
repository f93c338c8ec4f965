# SPDX-License-Identifier: Apache-2.0
"""The facts beside a figure."""

import subprocess
import sys

from hf_ckt.hub import provenance


def test_commit_of_a_copy_without_history_is_the_one_it_is_told(monkeypatch):
    """Figures of a machine that got the files alone would name no commit, and nobody could run them again."""

    def without_history(*_, **__):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(provenance.subprocess, "run", without_history)
    monkeypatch.delenv("HF_CKT_COMMIT", raising=False)
    assert provenance.machine_facts("cpu")["commit"] is None
    monkeypatch.setenv("HF_CKT_COMMIT", "0123456789ab")
    assert provenance.machine_facts("cpu")["commit"] == "0123456789ab"


def test_peak_memory_is_in_bytes_and_grows_with_what_is_held():
    """In kilobytes, a run of ten gigabytes would look like one of ten megabytes."""
    before = provenance.peak_memory()
    held = bytearray(300_000_000)
    held[::4096] = b"x" * len(held[::4096])  # touched, so that it is held
    assert provenance.peak_memory() >= max(before, len(held))
    assert provenance.peak_memory() < 10**12


def test_process_that_is_waited_for_has_its_exit_code_and_its_memory():
    """Read from the process that waits, the memory would be another's."""
    words = [sys.executable, "-c", "held = bytearray(300_000_000); raise SystemExit(3)"]
    process = subprocess.Popen(words)
    memory = provenance.wait_for(process)
    assert process.returncode == 3 and 300_000_000 <= memory < 10**12


def test_device_that_is_neither_cpu_nor_cuda_keeps_its_name():
    """A card of a training on a Mac's GPU would say that its CPU did it."""
    assert provenance.short_device_name("mps") == "mps" and provenance.short_device_name("cpu").startswith("CPU, ")
