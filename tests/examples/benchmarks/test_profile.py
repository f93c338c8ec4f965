# SPDX-License-Identifier: Apache-2.0
"""One step under the profiler, and the outcome of tests in a file."""

import json
from dataclasses import asdict

import pytest
import torch

from cases import StepCase
from gpu_tests import counted
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


def test_tests_are_counted_from_their_report(tmp_path):
    """A run of nothing but skips would look like success."""
    report = tmp_path / "junit.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="good" time="1.5"/>'
        '<testcase classname="a" name="bad" time="1"><failure message="assert\n 1 == 2">long</failure></testcase>'
        '<testcase classname="b" name="broken"><error message="no"/></testcase>'
        '<testcase classname="b" name="skipped" time="0"><skipped message="no card"/></testcase>'
        "</testsuite></testsuites>"
    )
    counts = counted(report)
    assert (counts["passed"], counts["failed"], counts["skipped"], counts["seconds"]) == (1, 2, 1, 2.5)
    assert counts["failing"] == {"a.bad": "assert 1 == 2", "b.broken": "no"} and counts["tests"] == {"a.good": 1.5}
