# SPDX-License-Identifier: Apache-2.0
"""Tables from results documents."""

import pytest

from tables import (
    as_markdown,
    as_text,
    demo_rows,
    fit_rows,
    floor_sentence,
    growth_rows,
    losing_rows,
    ratio_rows,
    variant_rows,
)
from tests.examples.benchmarks import documents


def test_variant_rows_hold_median_quartiles_and_memory():
    """A mean would hide a disturbed round, a table without memory half of what the objective is for."""
    rows = {row[0]: row for row in variant_rows(documents.objective())}
    assert rows["hf_ckt"][1:4] == ["2.1", "2.05 - 2.15", "100"]
    assert rows["variant"][3] == "extra memory, MB"
    assert rows["liger"][1] == "not run: its kernels need a GPU"
    assert len({len(row) for row in rows.values()}) == 1


def test_demo_rows_are_those_of_the_demo_itself():
    """The page would fail, after the run on a rented machine, on keys that the demo no longer writes."""
    document = documents.demo()
    models = document["quickstart"]["models"].values()
    head, *rows = demo_rows(document)
    assert head[1:] == [model["title"] for model in models]
    (j,) = (row for row in rows if row[0].startswith("Youden's J = S + H - 1 ("))
    assert [float(cell.split()[0]) for cell in j[1:]] == [
        pytest.approx(model["scores"]["youden_j"]["value"], abs=0.005) for model in models
    ]


def test_step_rows_hold_the_prediction_beside_the_measure():
    """Without it a ratio of 2.5 cannot be told from the work that all terms are."""
    rows = {
        row[0]: dict(zip(variant_rows(documents.step())[0], row, strict=True))
        for row in variant_rows(documents.step())
    }
    assert rows["hf_ckt_all"]["time / sft"] == "2.50"
    assert rows["hf_ckt_all"]["predicted"] == "2.26"
    assert rows["hf_ckt_all"]["peak memory, MB"] == "6,800"


def test_ratio_rows_say_what_is_met_and_what_is_missed():
    """A table of ratios without targets lets every reader find them good."""
    rows = {(row[0], row[1]): row[2:] for row in ratio_rows(documents.objective())[1:]}
    assert rows["hf_ckt / dense", "time"] == ["0.420", "at most 0.55 (stretch 0.45)", "met, stretch too"]
    assert rows["hf_ckt / dense", "extra memory"] == ["0.100", "at most 0.15 (stretch 0.09)", "met"]
    assert rows["hf_ckt / trl", "time"] == ["0.300", "at most 0.22", "missed"]
    assert rows["hf_ckt / liger", "time"] == ["not measured", "at most 0.80", ""]
    assert rows["hf_ckt_plain / dense", "time"] == ["1.200", "", ""]


def test_losing_rows_hold_every_loss_and_every_miss_and_nothing_else():
    """The list of one's own losses is the one that is shortened when it is typed."""
    rows = losing_rows({"a": documents.objective(), "b": documents.step(), "c": documents.growth()})[1:]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("a", "hf_ckt / trl", "time"),  # misses its target
        ("a", "hf_ckt_plain / dense", "time"),  # above a peer
        ("b", "hf_ckt_all / sft", "step time"),  # both
        ("b", "hf_ckt_all / sft", "peak memory"),  # above a peer, within its target
    ]
    assert rows[2][4] == "at most 2.35, missed"


def test_losing_rows_leave_out_the_floor_unless_its_target_is_missed():
    """Being above the bare products is no loss, being further above than was aimed at is one."""
    document = documents.objective()
    floor = next(row for row in document["ratios"] if row["to"] == "floor")
    assert not any("floor" in row[1] for row in losing_rows({"a": document}))
    floor["value"] = 1.2
    assert any("floor" in row[1] for row in losing_rows({"a": document}))


def test_growth_rows_hold_the_exponents():
    """An exponent that could not be fitted must not read as 0."""
    rows = growth_rows(documents.growth())
    assert rows[1] == ["tokens N", "64", "256", "hf_ckt", "1.00", "0.00"]
    assert rows[2][-1] == ""


def test_fit_rows_put_precisions_side_by_side():
    """A model that does not fit must not read as one that was left out."""
    one = {"model": "M 8B", "precision": "nf4"}
    variants = {
        "a": {**one, "noisy_view_recompute": False, "tokens": 0},
        "b": {**one, "noisy_view_recompute": True, "tokens": 4096},
    }
    rows = fit_rows({"variants": variants})
    assert rows == [["model", "nf4", "nf4, recomputed"], ["M 8B", "does not fit", "4,096"]]


@pytest.mark.parametrize("form", [as_text, as_markdown])
def test_forms_keep_every_cell(form):
    """A column cut to fit would lose the digit that matters."""
    rows = variant_rows(documents.objective())
    printed = form(rows)
    assert all(cell in printed for row in rows for cell in row)


def test_floor_sentence_gives_the_least_possible_ratio():
    """A missed target that the bare products alone would miss looks like a fault of ours."""
    document = documents.objective()
    assert floor_sentence(document) == "The bare products of `floor` alone take 0.40 of dense's, 0.29 of trl's time."
    del document["variants"]["floor"]
    assert floor_sentence(document) is None
