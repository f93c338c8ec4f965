# SPDX-License-Identifier: Apache-2.0
"""One step under the profiler, and the outcome of tests in a file."""

import json
from dataclasses import asdict

import pytest
import torch

import gpu_tests
from cases import StepCase
from measure_profile import KERNELS, WAITS, places_of_waits, profile_step, thinned


@pytest.fixture(scope="module")
def measured(tiny_model_dir):
    case = StepCase(str(tiny_model_dir), batch_size=2, length=16)
    return profile_step({"variant": "hf_ckt_all", "case": asdict(case), "path": case.model, "compile": False}, 1)


def test_phases_add_up_to_the_step(measured):
    """A phase that is not marked would hide in the others, or count twice."""
    assert list(measured["phases"]) == ["forward", "backward", "optimizer", "else"]
    assert all(seconds > 0 for seconds in measured["phases"].values())
    assert sum(measured["phases"].values()) == pytest.approx(measured["seconds"])


def test_operations_are_ranked_and_their_shares_are_of_all(measured):
    """Shares of the rows that are shown would make every step look as if it were explained."""
    rows = measured["kernels"]
    assert len(rows) == KERNELS and rows == sorted(rows, key=lambda row: -row["seconds"])
    assert 0 < sum(row["share"] for row in rows) < 1
    assert any(row["name"] == "aten::mm" for row in rows)
    assert not any(row["name"].startswith(("phase", "[memory]", "ProfilerStep")) for row in rows)


def test_waits_are_counted_and_named_by_line(measured):
    """A host wait without its line is a number that nobody can act on."""
    assert list(measured["waits"]) == list(WAITS) and measured["waits"]["aten::item"] > 0
    assert all(" " in one["place"] and ":" in one["place"] for one in measured["wait_places"])
    json.dumps(measured)


def test_memory_over_time_returns_to_where_it_began(measured):
    """A running sum that loses the frees would climb to the end of every step."""
    times, sizes = measured["memory"]["milliseconds"], measured["memory"]["bytes"]
    assert len(times) == len(sizes) <= 500 and times == sorted(times)
    assert abs(sizes[-1]) < max(sizes) / 2


def test_thinning_keeps_the_highest():
    """The peak is one point among thousands, and the reason to look."""
    points = [(float(i), i % 7) for i in range(1000)] + [(1000.0, 99)] + [(1001.0 + i, 3) for i in range(500)]
    kept = thinned(points, 100)
    assert len(kept) <= 100 and (1000.0, 99) in kept


def test_place_is_the_line_that_reads_a_value():
    """The debugger's own frames would be named for every wait, and methods must be what they were."""
    before = torch.Tensor.item
    with places_of_waits() as found:
        torch.ones(()).item()
    assert torch.Tensor.item is before
    assert list(found.values()) == [1] and "test_place_is_the_line_that_reads_a_value" in next(iter(found))


TESTS = """
import time, pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.fixture
def broken(): raise OSError("no file")
def test_broken(broken): pass
@pytest.mark.skip
def test_skipped(): pass
def test_hangs(): time.sleep({seconds})
"""


@pytest.mark.parametrize(("seconds", "workers"), [(0, 2), (120, 0)])
def test_tests_are_counted_also_where_the_time_ends_first(seconds, workers, tmp_path):
    """A run of nothing but skips would look like success, and one ended at its limit would leave nothing."""
    tests, results = tmp_path / "test_few.py", tmp_path / "results.json"
    tests.write_text(TESTS.format(seconds=seconds))
    limit = "60" if seconds == 0 else "15"
    options = ["--tests", str(tests), "--marker", "", "--workers", str(workers), "--seconds", limit]
    assert gpu_tests.run([*options, "--json", str(results)]) != 0
    counts = json.loads(results.read_text())["variants"]["tests"]
    assert counts["complete"] is (seconds == 0)
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (2 if seconds == 0 else 1, 2, 1)
    reasons = {name.rpartition("::")[2]: reason for name, reason in counts["failing"].items()}
    assert reasons == {"test_bad": "assert 1 == 2", "test_broken": "OSError: no file"}
