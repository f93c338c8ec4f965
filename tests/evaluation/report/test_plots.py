# SPDX-License-Identifier: Apache-2.0
"""Plots show what the results hold, the same each time, and nothing that was not measured."""

import builtins
import xml.etree.ElementTree as ElementTree

import pytest

from hf_ckt.evaluation.report import write_report
from hf_ckt.evaluation.report.plots import DRAWERS, draw_plots
from tests.evaluation.report import made_up

matplotlib = pytest.importorskip("matplotlib")


def _texts(path):
    return " ".join(
        "".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    )


def test_plots_name_every_model_and_number(tmp_path):
    """A panel whose label is cut off or whose number is another one is believed."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text
        written = draw_plots(made_up.results(), tmp_path)
    assert {path.name for path in written} == {f"{name}.{kind}" for name in DRAWERS for kind in ("png", "svg")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if path.suffix == ".png")
    for name in DRAWERS:
        text = _texts(tmp_path / f"{name}.svg")
        assert all(title in text for title in made_up.MODELS.values()), name
        assert ("accuracy 0.91" in text) == (name != "calibration"), name  # no judge has a say in that one
    models = made_up.results()["models"]
    heat, headline = _texts(tmp_path / "noise_heatmap.svg"), _texts(tmp_path / "headline.svg")
    for model in models.values():
        assert all(f"{cell['oss']:.1f}" in heat for cell in model["noise"])
        assert f"{model['scores']['kd_alignment']['value']:.3f}" in headline
    assert "attack success (string judge), direct" in _texts(tmp_path / "balance.svg")


def test_plots_are_the_same_each_time(tmp_path):
    """A plot that changes without its numbers makes every commit touch it."""
    first = [path.read_bytes() for path in draw_plots(made_up.results(), tmp_path)]
    assert [path.read_bytes() for path in draw_plots(made_up.results(), tmp_path)] == first


def test_plot_of_what_is_gone_is_removed(tmp_path):
    """A plot left over from an earlier report shows numbers that the report no longer has."""
    results = made_up.results()
    draw_plots(results, tmp_path)
    for model in results["models"].values():
        del model["noise"], model["calibration"], model["scores"]["overrefusal"]
    draw_plots(results, tmp_path)
    assert sorted({path.stem for path in tmp_path.iterdir()}) == ["attack_success", "headline", "overrefusal"]


def test_plots_take_odd_titles_and_intervals(tmp_path):
    """Dollar signs start formulas in matplotlib, and an interval that leaves out its value is an error to it."""
    results = made_up.results()
    results["models"]["base"]["title"] = "a $\\frac{ title"
    results["models"]["base"]["scores"]["oss"] |= {"low": 50.0, "high": 60.0}
    results["models"]["sft"]["scores"]["noise_robustness"] = made_up.score(None, 4)
    results["models"]["sft"]["scores"]["overrefusal"] |= {"low": None, "high": None}
    del results["models"]["full"]["noise"][0]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_plots(results, tmp_path)
    assert "a $\\frac{ title" in _texts(tmp_path / "headline.svg")


def test_plots_without_matplotlib_name_the_extra(tmp_path, monkeypatch):
    """matplotlib is no dependency, and a bare ImportError does not say which extra brings it."""
    really_import = builtins.__import__

    def without_matplotlib(name, *arguments, **keywords):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return really_import(name, *arguments, **keywords)

    folder = made_up.write(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ValueError, match=r'pip install "hf-ckt\[plot\]"'):
        write_report(folder)
    assert not (folder / "report.html").exists()  # neither half of a report
    assert len(write_report(folder, plots=False)) == 2
