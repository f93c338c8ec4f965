# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a call, against allocations counted by hand."""

import mmap

import pytest
import torch

import memory
from memory import highest_sum, peak_extra_bytes, peak_resident_bytes


def test_peak_is_that_of_the_worst_moment():
    """The sum of all allocations would charge a tile loop for every tile, the end alone for none."""

    def call():
        first = torch.empty(1000)
        second = torch.empty(3000)
        del first
        third = torch.empty(500)
        del second
        return third, torch.empty(200)

    assert peak_extra_bytes(call, "cpu") == 4 * (1000 + 3000)


def test_peak_leaves_out_what_was_there_and_counts_what_is_returned():
    """Inputs would hide a small variant's own memory; gradients that are returned would be free."""
    before = torch.ones(100_000)
    assert peak_extra_bytes(lambda: before.sum(), "cpu") < 100_000
    assert peak_extra_bytes(lambda: [torch.empty(1000) for _ in range(4)], "cpu") == 4 * 4000


def test_peak_sees_what_autograd_keeps():
    """What a backward pass needs is most of the memory of dense logits."""

    def call():
        inputs = torch.ones(1000, requires_grad=True)
        return torch.autograd.grad(inputs.exp().exp().sum(), inputs)

    # The input, two exponentials that are kept, and at least one gradient beside them.
    assert peak_extra_bytes(call, "cpu") >= 4 * 4000


def test_peak_of_freeing_alone_is_nothing():
    """A buffer that the call frees would otherwise make room for one that it allocates afterwards."""
    held = [torch.empty(1000)]
    assert peak_extra_bytes(held.clear, "cpu") == 0
    assert highest_sum([-8, 3]) == 0


def test_resident_peak_sees_memory_that_is_gone_at_the_end():
    """A compiler's memory is freed when the call returns, and a difference before and after shows none of it."""
    size = 64 * 2**20

    def call():
        # Pages straight from the system: an allocator may hold freed ones that earlier tests left, and none would be new.
        with mmap.mmap(-1, size) as pages:
            for page in range(0, size, mmap.PAGESIZE):
                pages[page] = 1

    peak = peak_resident_bytes(call)
    if peak is None:
        pytest.skip("needs Linux's /proc")
    assert size * 0.9 < peak < size * 2


def test_resident_peak_runs_the_call_where_it_cannot_measure(monkeypatch, tmp_path):
    """The first call of a variant would be skipped on a system without /proc, and the second would be the cold one."""
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    called = []
    assert peak_resident_bytes(lambda: called.append(1)) is None
    assert called == [1]
