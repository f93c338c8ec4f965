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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder with all plots, drawn once, with text as text."""
    folder = tmp_path_factory.mktemp("plots")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        written = draw_plots(made_up.results(), folder)
    assert {path.name for path in written} == {f"{name}.{kind}" for name in DRAWERS for kind in ("png", "svg")}
    return folder


def test_plots_name_every_model_and_number(drawn):
    """A panel whose label is cut off or whose number is another one is believed."""
    for name in DRAWERS:
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        text = _texts(drawn / f"{name}.svg")
        assert all(title in text for title in made_up.MODELS.values()), name
        assert ("accuracy 0.91" in text) == (name != "calibration"), name  # no judge has a say in that one
    models = made_up.results()["models"]
    heat, headline = _texts(drawn / "noise_heatmap.svg"), _texts(drawn / "headline.svg")
    for model in models.values():
        assert all(f"{cell['oss']:.1f}" in heat for cell in model["noise"])
        assert f"{model['scores']['kd_alignment']['value']:.3f}" in headline
    assert "attack success (string judge), direct" in _texts(drawn / "balance.svg")


def test_plots_are_the_same_each_time_and_stay_only_while_they_hold(drawn, tmp_path):
    """
    A plot that changes without its numbers makes every commit touch it; one left over from an earlier report shows numbers
    that the report no longer has.
    """
    results = made_up.results()
    for model in results["models"].values():
        del model["noise"], model["by_category"], model["scores"]["overrefusal"]
    (tmp_path / "noise_heatmap.png").write_bytes(b"of an earlier report")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        again = draw_plots(results, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(again)
    assert {path.stem for path in again} == {"headline", "calibration"}
    assert all(path.read_bytes() == (drawn / path.name).read_bytes() for path in again)


def test_plots_take_odd_titles_and_intervals(tmp_path):
    """Dollar signs start formulas in matplotlib, and an interval that leaves out its value is an error to it."""
    results = made_up.results()
    results["models"]["base"]["title"] = "a $\\frac{ title"
    results["models"]["base"]["scores"]["oss"] |= {"low": 50.0, "high": 60.0}
    results["models"]["sft"]["scores"]["noise_robustness"] = made_up.score(None, 4)
    results["models"]["sft"]["scores"]["overrefusal"] |= {"low": None, "high": None}
    for model in results["models"].values():
        del model["by_category"], model["calibration"], model["noise"][0]
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
