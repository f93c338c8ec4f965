# SPDX-License-Identifier: Apache-2.0
"""The longest row that fits, found by trying: the search, and a trainer that runs out of memory."""

import pytest
import torch

import measure_fit
from measure_fit import Rows, Search


@pytest.mark.parametrize("truth", [64, 640, 704, 1984, 17_152, 20_000])
@pytest.mark.parametrize("first", [64, 1000, 17_152])
def test_search_ends_at_the_longest_that_fits(first, truth):
    """A search that stops early reports a limit that the card does not have."""
    search, tried = Search(first), []
    while (tokens := search.next()) is not None:
        tried.append(tokens)
        search.report(tokens, tokens <= truth)
    assert search.fits == truth // 64 * 64 and search.fails == search.fits + 64
    assert len(set(tried)) == len(tried) and all(tokens % 64 == 0 for tokens in tried)


def test_search_near_its_guess_takes_few_trials():
    """Each trial is a step of an 8B model over a long row."""
    search, trials = Search(17_152), 0
    while (tokens := search.next()) is not None:
        search.report(tokens, tokens <= 16_000)
        trials += 1
    assert trials <= 9


def test_search_ends_where_nothing_fits():
    """A model too large for the card would be tried for ever."""
    search = Search(640)
    while (tokens := search.next()) is not None:
        search.report(tokens, False)
    assert (search.fits, search.fails) == (0, 64)


class StandIn:
    """A trainer whose steps run out of memory above 700 tokens."""

    def __init__(self):
        self.callbacks, self.seen = [], []

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def training_step(self, model, inputs, count):
        self.seen.append((inputs["input_ids"].shape[1], int(count)))
        if inputs["input_ids"].shape[1] > 700:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.ones(())


def test_rows_that_run_out_of_memory_end_nothing_but_their_step(monkeypatch):
    """An error that leaves the first row too long would end the check with nothing measured."""
    monkeypatch.setattr(measure_fit.Memory, "reset", lambda self: None)
    trainer, model = StandIn(), torch.nn.Linear(2, 2)
    rows = Rows(trainer, Search(640), trials=9, cap=1e12)
    inputs = {"input_ids": torch.arange(100)[None], "labels": torch.arange(100)[None]}
    control = type("Control", (), {"should_training_stop": False})()
    for _ in range(10):
        trainer.training_step(model, inputs, torch.tensor(99))
        rows.on_step_end(None, None, control)
        if control.should_training_stop:
            break
    # The first at the length of the data, to warm up; then the search.
    assert trainer.seen == [(100, 99), (640, 639), (768, 767), (704, 703)]
    assert [one["fits"] for one in rows.trials] == [True, False, False]
    assert (rows.search.fits, rows.search.fails) == (640, 704)
