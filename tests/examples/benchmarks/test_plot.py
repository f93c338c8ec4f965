# SPDX-License-Identifier: Apache-2.0
"""Plots are made from results files alone."""

import builtins
import json

import pytest

from plot import DRAWERS, plot_file
from tests.examples.benchmarks import documents

DOCUMENTS = {"objective": documents.objective, "growth": documents.growth, "step": documents.step}
DOCUMENTS |= {"profile": documents.profile}


def _written(folder, document):
    path = folder / "case.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("kind", DRAWERS)
def test_plot_shows_every_variant_and_says_what_is_drawn(kind, tmp_path):
    """A bar without a name or an axis without a unit is guessed at."""
    pytest.importorskip("matplotlib")
    import matplotlib

    document = DOCUMENTS[kind]()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text
        png, svg = plot_file(_written(tmp_path, document), tmp_path / "plots")
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = svg.read_text(encoding="utf-8")
    names = {
        "growth": ["hf_ckt, k = 1.00", "dense"],
        "profile": [
            "hf_ckt_all",
            *(row["name"] for row in document["variants"].get("hf_ckt_all", {}).get("kernels", [])),
        ],
    }.get(kind) or [name for name, facts in document["variants"].items() if "seconds" in facts]
    for text in (*names, document["facts"]["device"]):
        assert text in drawn
    units = {"objective": (", s", ", MB"), "growth": (", s", ", MB"), "step": ("sft step time", "sft peak memory")}
    units["profile"] = (", MB", ", ms", "kernels' time, %")
    assert all(unit in drawn for unit in units[kind])
    assert ("predicted" in drawn) == (kind == "step")


def test_plot_is_the_same_each_time(tmp_path):
    """A plot that changes without its numbers makes every commit touch it."""
    pytest.importorskip("matplotlib")
    path = _written(tmp_path, documents.objective())
    first = [one.read_bytes() for one in plot_file(path, tmp_path)]
    assert [one.read_bytes() for one in plot_file(path, tmp_path)] == first


def test_plot_of_an_unknown_kind_names_those_it_knows(tmp_path):
    """A results file of something else would be drawn as nonsense or end in a KeyError."""
    path = _written(tmp_path, {"benchmark": "quickstart"})
    with pytest.raises(ValueError, match=r"unknown name 'quickstart'.*Known: growth, objective, profile, step"):
        plot_file(path, tmp_path)


def test_plot_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    """matplotlib is no dependency, and a bare ImportError does not say which extra brings it."""
    really_import = builtins.__import__

    def without_matplotlib(name, *arguments, **keywords):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return really_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ValueError, match=r'pip install "hf-ckt\[plot\]"'):
        plot_file(_written(tmp_path, documents.objective()), tmp_path)
