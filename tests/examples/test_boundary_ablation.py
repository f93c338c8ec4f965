# SPDX-License-Identifier: Apache-2.0
"""The ablation of the boundary's recipe, for two steps on a tiny model."""

import importlib
import json

import pytest

from hf_ckt.data import load_boundary_set, load_templates
from hf_ckt.data.contamination import normalized
from hf_ckt.data.public_hashes import known_prompts, sentences
from hf_ckt.perturbations.wrapper import WRAPPERS
from tests.examples.running import examples_importable, run, run_here


@pytest.fixture(scope="module")
def ablation(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of four recipes of two steps, one a change of another."""
    folder = tmp_path_factory.mktemp("ablation")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--steps", "2"]
    options += ["--prompts", "4", "--new_tokens", "4", "--only", "first", "harmful_twice", "label_clean", "probe"]
    return folder / "out", run("boundary/boundary_ablation.py", *options, cwd=folder), options


def test_boundary_ablation_measures_each_recipe_beside_the_probe(ablation):
    """A change that was not made, or scored on other prompts than the rest, would be taken for one that brings nothing."""
    folder, printed, _ = ablation
    results = json.loads((folder / "results.json").read_text())
    measured = results["measured"]
    assert list(measured) == list(results["rows"]) == ["first", "harmful_twice", "label_clean", "probe"]
    assert 0 <= results["probe"]["refusal_auroc_noise"]["value"] <= 1
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    first, label_clean, probe = (measured[name][0] for name in ("first", "label_clean", "probe"))
    assert first["labelled"] == 480 + 160 and probe["labelled"] == len(load_boundary_set("train"))
    assert probe["rows"] == 2 * 16  # those that two steps read
    assert "consistency_loss" in first["log"] and "consistency_loss" not in probe["log"]
    assert 0 < probe["log"]["soft_route_refuse"] < 1 and "soft_route_refuse" not in first["log"]
    assert "distillation_loss/refuse" in label_clean["log"] and "distillation_loss/refuse" not in first["log"]
    for name, runs in measured.items():
        one = runs[0]
        (file,) = (folder / "runs").glob(f"{name}-0-*.json")
        answers = json.loads(file.read_text())["answers"]
        assert len(answers) == 16  # 4 of each side, clean and with typing errors
        assert one["thresholds"].keys() == {"clean", "typos"}
        assert one["seconds"] > 0 and one["differences"].keys() == {"refusal_auroc", "refusal_auroc_noise"}
        assert f"{one['scores']['refusal_auroc']['value']:.2f}" in printed


def test_boundary_ablation_compares_a_row_with_the_one_that_it_changes(ablation):
    """A change would be judged by two intervals that overlap, though both students were asked the same."""
    folder, _, _ = ablation
    results = json.loads((folder / "results.json").read_text())
    assert list(results["differences"]) == ["label_clean"]  # what the others change was not trained
    found = results["differences"]["label_clean"]
    assert found["of"] == "harmful_twice"
    assert found["runs"] == [[results["measured"][name][0]["run"] for name in ("label_clean", "harmful_twice")]]
    for score, one in found["scores"].items():
        mine, other = (results["rows"][name][score]["value"] for name in ("label_clean", "harmful_twice"))
        assert one["difference"] == pytest.approx(mine - other) and one["low"] <= one["difference"] <= one["high"]
    assert "refusal_auroc" in found["scores"]


def test_boundary_ablation_started_again_trains_nothing_twice(ablation, tmp_path, capsys):
    """Hours of training that begin anew after a kill are not begun again; nor lost to, or taken for, a run of other settings."""
    folder, _, options = ablation
    before = json.loads((folder / "results.json").read_text())
    run_here("boundary/boundary_ablation.py", *options, cwd=tmp_path)
    assert json.loads((folder / "results.json").read_text())["measured"] == before["measured"]
    # On another machine, from the results file alone.
    elsewhere = tmp_path / "out"
    elsewhere.mkdir()
    before["measured"]["first"][0]["dtype"] = "float16"
    (elsewhere / "results.json").write_text(json.dumps(before))
    at = options.index("--output_dir") + 1
    options = [*options[:at], str(elsewhere), *options[at + 1 :]]
    capsys.readouterr()
    run_here("boundary/boundary_ablation.py", *options, cwd=tmp_path)
    printed = capsys.readouterr().out
    after = json.loads((elsewhere / "results.json").read_text())
    assert (after["measured"], after["differences"]) == (before["measured"], before["differences"])
    assert not (elsewhere / "work").exists()
    assert "(float16)" in printed and f"({before['measured']['probe'][0]['dtype']})" in printed
    with pytest.raises(SystemExit, match=r"its results\.json alone holds runs of other settings"):
        run_here("boundary/boundary_ablation.py", *options, "--seeds", "1", cwd=tmp_path)


def test_boundary_ablation_keeps_runs_of_other_settings_apart(ablation, tmp_path):
    """Answers of four tokens would be taken for those of three."""
    folder, _, options = ablation
    run_here(
        "boundary/boundary_ablation.py",
        *options[: options.index("--only")],
        "--only",
        "first",
        "--new_tokens",
        "3",
        cwd=tmp_path,
    )
    kept = [json.loads(file.read_text()) for file in (folder / "runs").glob("first-0-*.json")]
    assert sorted(one["known"]["new_tokens"] for one in kept) == [3, 4]
    assert kept[0]["answers"] != kept[1]["answers"]
    measured = json.loads((folder / "results.json").read_text())["measured"]
    assert list(measured) == ["first"]  # the other recipes' runs have 4


def test_thresholds_are_those_of_each_view():
    """A threshold of clean prompts would say of misspelt ones that a shift sets them apart."""
    with examples_importable():
        thresholds = importlib.import_module("boundary_ablation").thresholds
    sides = {"harmful": {"": (2.0, 1.0), "typos": (1.0, -4.0)}, "benign": {"": (-1.0, -3.0), "typos": (0.2, -2.0)}}
    rows = [
        ({"kind": kind, "corruption": view}, {"log_odds": odds, "refused": odds > -1.5})
        for kind, views in sides.items()
        for view, both in views.items()
        for odds in both
    ]
    found = thresholds(*zip(*rows, strict=True))
    at = {"log_odds": 0.0, "youden_j": 1.0}
    assert found["clean"] == {"best": at, "greedy": {"log_odds": -2.0, "youden_j": 0.5}}
    best = {"log_odds": pytest.approx(0.6), "youden_j": 0.5}
    assert found["typos"] == {"best": best, "greedy": {"log_odds": 0.0, "youden_j": 0.0}}
    nobody = thresholds([row for row, _ in rows], [{**said, "refused": False} for _, said in rows])
    assert nobody["clean"] == {"best": at}  # who refuses nothing refuses from no threshold


def test_boundary_wrapped_asks_each_student_of_an_ablation_within_frames(ablation, tmp_path):
    """A student that refuses whatever stands within a frame would pass for a robust one until the public sets are asked."""
    folder, _, options = ablation
    asked = ["--ablation-dir", str(folder), "--output-dir", str(tmp_path), "--prompts", "2", "--new-tokens", "4"]
    asked += options[:2]
    run_here("boundary/boundary_wrapped.py", *asked, cwd=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    # Other tests may have trained some of the rows with other settings too.
    assert {*results["scores"]} == {"base", *(adapter.name for adapter in (folder / "adapters").iterdir())}
    for scores in results["scores"].values():
        for name in ("refusal_auroc", "framed_refusal_auroc_noise", "long_refusal_auroc_noise"):
            assert scores[name]["n"] == 4 and 0 <= scores[name]["value"] <= 1
    assert {*results["headings"]} == {*next(iter(results["scores"].values()))}
    kept = next((tmp_path / "runs").glob("probe-*-long-*.json"))
    answers = json.loads(kept.read_text())
    assert len(answers) == 4  # 2 of each side
    kept.write_text(json.dumps([{**one, "answer": "I can't help with that."} for one in answers]))
    run_here("boundary/boundary_wrapped.py", *asked, cwd=tmp_path)  # from what is kept
    again = json.loads((tmp_path / "results.json").read_text())["scores"]
    (changed,) = (name for name in again if again[name] != results["scores"][name])
    assert changed.startswith("probe-") and again[changed]["long_noisy_refusal_benign"]["value"] == 1
    assert again[changed]["framed_youden_j_noise"] == results["scores"][changed]["framed_youden_j_noise"]
    run_here("boundary/boundary_wrapped.py", *asked, "--only", "probe", cwd=tmp_path)
    assert {*json.loads((tmp_path / "results.json").read_text())["scores"]} == {"base", changed}


def test_frames_are_no_wrappers_of_the_training_and_no_templates_of_the_evaluation():
    """What is chosen on frames that were trained on, or that the report asks, is no choice but a fit."""
    with examples_importable():
        frames = importlib.import_module("boundary_frames")
    mine = [frame for part in (frames.SHORT, frames.LONG) for frame in part]
    others = [template for kind in WRAPPERS.values() for template in kind]
    others += [template.text for template in load_templates()]
    for frame in mine:
        assert frame.count("{request}") == 1
        assert not any(sixgrams(frame) & sixgrams(other) for other in others), frame[:60]
    assert min(len(frame.split()) for frame in frames.LONG) > 400
    assert not known_prompts(sentence for frame in mine for sentence in sentences(frame))


def sixgrams(text):
    words = normalized(text.replace("{request}", "")).split()
    return {tuple(words[start : start + 6]) for start in range(len(words) - 5)}


def test_boundary_wrapped_without_students_says_what_to_run(tmp_path):
    """An empty table would look like a finished run."""
    with pytest.raises(SystemExit, match=r"has no adapters\. Run boundary_ablation\.py first"):
        run_here("boundary/boundary_wrapped.py", "--ablation-dir", str(tmp_path), cwd=tmp_path)
    (tmp_path / "adapters" / "kd-0-0").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"--only: .* has no adapter of steps, upper; train it first"):
        run_here(
            "boundary/boundary_wrapped.py",
            "--ablation-dir",
            str(tmp_path),
            "--only",
            "steps",
            "kd",
            "upper",
            cwd=tmp_path,
        )
