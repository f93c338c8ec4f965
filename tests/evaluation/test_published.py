# SPDX-License-Identifier: Apache-2.0
"""What of an evaluation goes to the Hub: scores of the weights that are pushed, and no answers."""

import json

import pytest

from hf_ckt.cli import main as cli
from hf_ckt.evaluation.measuring.weights import digest_and_revision
from hf_ckt.evaluation.published import find_evaluation, published_evaluation
from hf_ckt.evaluation.report import write_report
from tests.evaluation.report import made_up
from tests.hub.saved_runs import change_json, write_run


@pytest.fixture
def saved(tmp_path):
    return write_run(tmp_path / "run")


def evaluate(folder, run, name="full", *, is_adapter=True):
    """An evaluation whose model `name` has the weights of a run."""
    found = made_up.results()
    for model in found["models"].values():
        base = {"digest": "0" * 32, "revision": None, "origin": None}
        model["weights"] = {"base": base, "adapter": model["adapter"] and {"digest": "1" * 32, "revision": None}}
    own = {"digest": digest_and_revision(str(run))["digest"], "revision": None}
    found["models"][name]["weights"] |= {"adapter": own} if is_adapter else {"adapter": None, "base": own}
    return made_up.write(folder, found)


def test_scores_of_the_pushed_weights_are_the_text(saved, tmp_path):
    """A reader who cannot tell which of three columns the model is takes the best."""
    folder = evaluate(tmp_path / "evaluation", saved)
    found = published_evaluation(folder, saved, is_adapter=True)
    assert found.card.text.startswith("The column `full objective` is the model of this card.\n\n| ")
    results = json.loads((folder / "results.json").read_text())
    assert f"{results['models']['full']['scores']['refusal_auroc']['value']:.3f}" in found.card.text
    assert results["command"] in found.card.text and "From `evaluation/results.json`." in found.card.text
    assert found.files == {f"evaluation/{name}": folder / name for name in ("results.json", "lm_eval.json")}


def test_report_goes_along_with_its_plots(saved, tmp_path):
    """A report whose pictures stayed at home shows dead links; its page holds answers to harmful prompts."""
    pytest.importorskip("matplotlib")
    folder = evaluate(tmp_path / "evaluation", saved)
    write_report(folder)
    files = published_evaluation(folder, saved, is_adapter=True).files
    plots = {name for name in files if name.startswith("evaluation/plots/")}
    shown = {f"evaluation/plots/{path.name}" for path in (folder / "plots").glob("*.svg")}
    assert plots == shown and plots
    assert files.keys() - plots == {f"evaluation/{name}" for name in ("results.json", "lm_eval.json", "report.md")}


def test_evaluation_of_a_full_model_is_told_from_its_base(saved, tmp_path):
    """Of a model without adapter, the weights are those of its own base, and an adapter's are not."""
    full = write_run(tmp_path / "full", is_adapter=False)
    folder = evaluate(tmp_path / "evaluation", full, "base", is_adapter=False)
    assert published_evaluation(folder, full, is_adapter=False).card.text.startswith("The column `base` is the model")


@pytest.mark.parametrize("change", ["other weights", "no digest", "as a base"])
def test_evaluation_of_other_weights_is_refused(change, saved, tmp_path):
    """The card of a run that was trained once more would show what the run before it could."""
    folder = evaluate(tmp_path / "evaluation", saved, is_adapter=change != "as a base")
    results = json.loads((folder / "results.json").read_text())
    if change == "other weights":
        weights = saved / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    elif change == "no digest":
        for model in results["models"].values():
            del model["weights"]
        change_json(folder / "results.json", models=results["models"])
    with pytest.raises(ValueError, match=r"none of the models evaluated \(base, sft, full\) has the weights in "):
        published_evaluation(folder, saved, is_adapter=True)


def test_evaluation_is_found_where_the_run_is(saved):
    """A path that is asked for and lies in front of the program is typed wrong sooner or later."""
    assert find_evaluation(saved) is None
    evaluate(saved / "evaluation", saved)
    assert find_evaluation(saved) == saved / "evaluation"
    evaluate(saved, saved)
    assert find_evaluation(saved) == saved


@pytest.mark.parametrize("place", ["beside", "within", "elsewhere"])
def test_push_takes_the_evaluation_along(place, saved, tmp_path, capsys):
    """What is measured and not published helps nobody who asks what the model refuses."""
    folder = {"beside": saved, "within": saved / "evaluation", "elsewhere": tmp_path / "out"}[place]
    evaluate(folder, saved)
    words = ["--evaluation", str(folder)] if place == "elsewhere" else []
    assert cli.main(["push", str(saved), "me/run", "--dry-run", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[1] for line in lines if line.startswith("  ")}
    assert {"evaluation/results.json", "evaluation/lm_eval.json", "README.md"} <= listed
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert not any("results.json" in line or "evaluation/" in line for line in left_out)
    assert any("completions.parquet (answers" in line for line in left_out) == (place == "beside")
    assert cli.main(["push", str(saved), "me/run", "--dry-run", "--no-evaluation"]) == 0
    assert "evaluation/results.json" not in capsys.readouterr().out
    assert cli.main(["push", str(saved), "me/run", "--dry-run", "--evaluation", str(tmp_path)]) == 2
    assert "holds no results.json" in capsys.readouterr().err
