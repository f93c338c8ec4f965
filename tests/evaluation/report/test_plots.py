# SPDX-License-Identifier: Apache-2.0
"""Plots show what the results hold, the same each time, and nothing that was not measured."""

import builtins
import xml.etree.ElementTree as ElementTree

import pytest

from hf_ckt.evaluation.report import figures, write_report
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
        assert all(f"{cell['youden_j']['value']:.2f}" in heat for cell in model["noise"])
        for score, decimals in (("kd_alignment", 3), ("youden_j", 2), ("refusal_auroc", 3)):
            assert f"{model['scores'][score]['value']:.{decimals}f}" in headline
    assert "helpfulness H" in _texts(drawn / "balance.svg") and "S + H = 1" in _texts(drawn / "balance.svg")
    # The second model's J has 0 in its interval, the first one's has not.
    assert "0.06*" in headline and "0.09 " in headline and "0.09*" not in headline


def test_plots_are_the_same_each_time_and_stay_only_while_they_hold(drawn, tmp_path):
    """
    A plot that changes without its numbers makes every commit touch it; one left over from an earlier report shows numbers
    that the report no longer has.
    """
    results = made_up.results()
    for model in results["models"].values():
        del model["noise"], model["by_category"], model["curve"], model["scores"]["safety"]
    (tmp_path / "noise_heatmap.png").write_bytes(b"of an earlier report")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        again = draw_plots(results, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(again)
    assert {path.stem for path in again} == {"headline", "calibration"}
    assert all(path.read_bytes() == (drawn / path.name).read_bytes() for path in again)


def test_curve_and_own_point_are_where_the_results_have_them():
    """Helpfulness on the upright axis mirrors the chart at the line of chance, and nobody would see it."""
    from matplotlib.figure import Figure

    results = made_up.results()
    figure = Figure(layout="constrained")
    assert DRAWERS["balance"](figure, results)
    lines = [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]
    assert [[0.0, 1.0], [1.0, 0.0]] in lines  # chance
    for model in results["models"].values():
        assert [[one["helpfulness"], one["safety"]] for one in model["curve"]] in lines
        assert [[model["scores"]["helpfulness"]["value"], model["scores"]["safety"]["value"]]] in lines
    for model in results["models"].values():
        del model["curve"]
    figure = Figure(layout="constrained")
    assert DRAWERS["balance"](figure, results) and len(figure.axes[0].get_lines()) < len(lines)


def test_severity_lines_begin_without_noise():
    """A line that begins at the first corruption hides the fall before it."""
    lines = figures.severity_lines(made_up.results())
    for models in lines.values():
        for name, points in models.items():
            assert [severity for severity, _ in points] == [0.0, 0.1, 0.3]
            assert points[0][1] == made_up.results()["models"][name]["noise"][0]["youden_j"]
    results = made_up.results()
    for model in results["models"].values():
        model["noise"] = model["noise"][:1]
    assert figures.severity_lines(results) == {} == figures.noise_grids(results)
    for model in results["models"].values():
        model["noise"] = made_up.results()["models"]["base"]["noise"][1::2]  # one severity, and no clean cell
    assert figures.severity_lines(results) == {} and len(figures.noise_grids(results)) == 3


def test_axis_of_severity_goes_as_far_below_chance_as_its_intervals():
    """An interval that is cut off at the edge of the drawing looks shorter than it is."""
    for low, bound in ((0.1, 0.0), (-0.2, -0.5), (-0.7, -1.0)):
        points = [(0.0, {"value": 0.2, "low": low, "high": 0.3}), (0.1, {"value": 0.3, "low": None, "high": None})]
        assert figures.severity_bounds({"typos": {"base": points}}) == (bound, 1.0)


def test_plots_take_odd_titles_and_intervals(tmp_path):
    """Dollar signs start formulas in matplotlib, and an interval that leaves out its value is an error to it."""
    results = made_up.results()
    results["models"]["base"]["title"] = "a $\\frac{ title"
    results["models"]["base"]["scores"]["youden_j"] |= {"low": 0.5, "high": 0.6}
    results["models"]["sft"]["scores"]["youden_j_noise"] = made_up.score(None, 4)
    results["models"]["sft"]["scores"]["safety"] |= {"low": None, "high": None}
    results["models"]["sft"]["noise"][2]["youden_j"] = made_up.score(None, 4)
    results["models"]["full"]["title"] = "a-name-" * 12
    for model in results["models"].values():
        del model["by_category"], model["calibration"], model["noise"][1]
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
