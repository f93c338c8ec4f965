# SPDX-License-Identifier: Apache-2.0
"""Every example runs, for a few steps on a tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_ckt.data import load_boundary_set

ROOT = Path(__file__).parents[2]


def run(script: str, *options: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *options],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "118"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of a quickstart of two steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--teacher_steps", "2"]
    options += ["--student_steps", "2", "--prompts", "2", "--new_tokens", "4", "--batch_size", "2"]
    return folder / "out", run("quickstart.py", *options, cwd=folder), options


def test_quickstart_leaves_results_that_agree_with_its_table(quickstart):
    """A table typed or rounded apart from the results file would let the two drift."""
    folder, printed, _ = quickstart
    results = json.loads((folder / "results.json").read_text())
    assert list(results["models"]) == ["before", "teacher", "after"]
    assert len(results["prompts"]) == 8  # 2 of each kind, clean and with typing errors
    for model in results["models"].values():
        scores = model["scores"]
        assert len(model["answers"]) == 8 and all(type(said["refused"]) is bool for said in model["answers"])
        # Harmful prompts refused, and benign ones neither refused nor degenerate: what is good of each kind.
        good = [
            said["refused"] if row["kind"] == "harmful" else not (said["refused"] or said["degenerate"])
            for row, said in zip(results["prompts"], model["answers"], strict=True)
            if not row["corruption"]
        ]
        assert scores["youden_j"]["value"] == pytest.approx(sum(good) / 2 - 1)
        assert scores["youden_j"]["low"] <= 0 <= scores["youden_j"]["high"]  # of 4 prompts nothing is told
        assert 0 <= scores["refusal_auroc_noise"]["value"] <= 1
    assert "not told from chance" in " ".join(printed.split())
    after = results["agreement"]["after"]["kd_alignment"]["value"]
    assert 0 < after <= 1 and results["agreement"]["after"]["kd_alignment_noise"]["n"] > 0
    assert f"{after:.3f}" in printed
    assert {term["role"] for term in results["run"]["objective"]} == {"distillation", "regularization"}


def test_quickstart_shows_a_teacher_between_whose_voices_the_probe_chooses(quickstart):
    """The teacher of refusals alone refuses everything; beside it every student would look like one that tells apart."""
    folder, printed, _ = quickstart
    results = json.loads((folder / "results.json").read_text())
    (work,) = folder.glob("run-*")
    refusing, base = (json.loads((work / f"{name}.json").read_text())["answers"] for name in ("refusing", "before"))
    for odds, said, one, other in zip(
        results["probe"]["log_odds"], results["models"]["teacher"]["answers"], refusing, base, strict=True
    ):
        assert said["answer"] == (one if odds > 0 else other)["answer"] and said["margin"] is None
    bound = results["models"]["before"]["scores"]["probe_auroc"]["value"]
    assert 0 <= bound <= 1 and f"{bound:.3f}" in printed


def test_quickstart_measures_what_safety_was_paid_with(quickstart):
    """Without it, an adapter that forgot how to answer would look safe."""
    folder, _, _ = quickstart
    models = json.loads((folder / "results.json").read_text())["models"]
    for name in ("before", "after"):
        assert {row["set"] for row in models[name]["utility"]} == {"multiple_choice", "plain_text"}
        assert models[name]["scores"]["plain_text_nats"]["value"] > 0
    assert {"multiple_choice_over_chance", "plain_text_nats"} <= models["after"]["against"]["before"].keys()


def test_quickstart_says_what_its_numbers_depend_on(quickstart):
    """The same adapter answers otherwise over another precision; without these facts nobody knows which was measured."""
    folder, _, _ = quickstart
    results = json.loads((folder / "results.json").read_text())
    dtype = results["settings"]["dtype"]
    nf4, two = (
        {"weights": weights, "compute": dtype} for weights in ("nf4", f"{dtype} where it refuses, nf4 elsewhere")
    )
    backbones = {name: (one["trained_precision"], one["scored_precision"]) for name, one in results["models"].items()}
    assert backbones == {"before": (None, nf4), "teacher": (None, two), "after": (nf4, nf4)}
    assert results["base_weights"] is None and results["judge"]["digest"]  # the weights are the tiny model's own
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= results["versions"].keys()


def test_quickstart_saves_an_adapter_with_its_card_and_a_picture(quickstart):
    """An adapter without its card says nothing of what it was trained for; a picture of 0 bytes shows nothing."""
    from peft import AutoPeftModelForCausalLM

    folder, _, _ = quickstart
    card = (folder / "adapter" / "README.md").read_text()
    assert "Youden's J" in card and "chance 0.5" in card
    assert "forward_kl" in card and "adapter_l2" in card
    assert str(folder) not in card
    assert AutoPeftModelForCausalLM.from_pretrained(folder / "adapter") is not None
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_quickstart_started_again_trains_nothing_twice(quickstart, tmp_path):
    """A demo that was interrupted after ten minutes and starts over is not run a second time."""
    folder, _, options = quickstart
    before = json.loads((folder / "results.json").read_text())
    (work,) = folder.glob("run-*")
    kept = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.suffix in (".json", ".safetensors")}
    run("quickstart.py", *options, cwd=tmp_path)
    after = json.loads((folder / "results.json").read_text())
    assert after["resumed"] and not before["resumed"]
    assert after["models"] == before["models"]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


@pytest.fixture(scope="module")
def ablation(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of two recipes of two steps."""
    folder = tmp_path_factory.mktemp("ablation")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--steps", "2"]
    options += ["--prompts", "4", "--new_tokens", "4", "--only", "first", "probe"]
    return folder / "out", run("boundary_ablation.py", *options, cwd=folder), options


def test_boundary_ablation_measures_each_recipe_beside_the_probe(ablation):
    """A change that was not made, or scored on other prompts than the rest, would be taken for one that brings nothing."""
    folder, printed, _ = ablation
    results = json.loads((folder / "results.json").read_text())
    measured = results["measured"]
    assert list(measured) == list(results["rows"]) == ["first", "probe"]
    assert 0 <= results["probe"]["refusal_auroc_noise"]["value"] <= 1
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    first, probe = (runs[0] for runs in measured.values())
    assert first["labelled"] == 480 + 160 and probe["labelled"] == len(load_boundary_set("train"))
    assert probe["rows"] == 2 * 16  # those that two steps read
    assert "consistency_loss" in first["log"] and "consistency_loss" not in probe["log"]
    assert 0 < probe["log"]["soft_route_refuse"] < 1 and "soft_route_refuse" not in first["log"]
    for name, one in (("first", first), ("probe", probe)):
        (file,) = (folder / "runs").glob(f"{name}-0-*.json")
        answers = json.loads(file.read_text())["answers"]
        assert len(answers) == 16  # 4 of each side, clean and with typing errors
        assert one["seconds"] > 0 and one["differences"].keys() == {"refusal_auroc", "refusal_auroc_noise"}
        assert f"{one['scores']['refusal_auroc']['value']:.2f}" in printed


def test_boundary_ablation_started_again_trains_nothing_twice(ablation, tmp_path):
    """Hours of training that begin anew after a kill are not begun again; nor lost to, or taken for, a run of other settings."""
    folder, _, options = ablation
    before = json.loads((folder / "results.json").read_text())
    run("boundary_ablation.py", *options, cwd=tmp_path)
    assert json.loads((folder / "results.json").read_text())["measured"] == before["measured"]
    # On another machine, from the results file alone.
    elsewhere = tmp_path / "out"
    elsewhere.mkdir()
    before["measured"]["first"][0]["dtype"] = "float16"
    (elsewhere / "results.json").write_text(json.dumps(before))
    at = options.index("--output_dir") + 1
    printed = run("boundary_ablation.py", *options[:at], str(elsewhere), *options[at + 1 :], cwd=tmp_path)
    assert json.loads((elsewhere / "results.json").read_text())["measured"] == before["measured"]
    assert "(float16)" in printed and f"({before['measured']['probe'][0]['dtype']})" in printed
    assert not (elsewhere / "work").exists()
    command = [sys.executable, str(ROOT / "examples" / "boundary_ablation.py"), *options[:at], str(elsewhere)]
    command += [*options[at + 1 :], "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "its results.json alone holds runs of other settings" in done.stderr
    run("boundary_ablation.py", *options[:-3], "--only", "first", "--new_tokens", "3", cwd=tmp_path)
    kept = [json.loads(file.read_text()) for file in (folder / "runs").glob("first-0-*.json")]
    assert sorted(one["known"]["new_tokens"] for one in kept) == [3, 4]
    assert kept[0]["answers"] != kept[1]["answers"]
    assert list(json.loads((folder / "results.json").read_text())["measured"]) == [
        "first"
    ]  # the other recipe's run has 4


@pytest.fixture(scope="module")
def robust(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of four trainings of two steps."""
    folder = tmp_path_factory.mktemp("robust")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--steps", "2"]
    options += ["--prompts", "2", "--new_tokens", "4", "--batch_size", "2"]
    return folder / "out", run("robust_training.py", *options, cwd=folder), options


def test_robust_training_compares_all_methods_on_corruptions_that_none_was_trained_on(robust):
    """A corruption that one method has seen in training would be measured as its robustness."""
    folder, printed, _ = robust
    results = json.loads((folder / "results.json").read_text())
    assert set(results["models"]) == {"base", "sft", "gaussian", "typos", "adversarial"}
    trained_on = {fields.get("perturbation") for fields in results["settings"]["methods"].values()}
    kinds = [*dict.fromkeys(row["corruption"] for row in results["prompts"] if row["corruption"])]
    assert len(kinds) == 6 and trained_on.isdisjoint(kinds)
    for name, model in results["models"].items():
        assert [cell["corruption"] for cell in model["noise"]] == ["", *sorted(kinds)]
        consistency = model["scores"]["token_consistency"]
        assert consistency["n"] == 4 and 0 < consistency["low"] <= consistency["value"] <= consistency["high"] <= 1
        assert f"{consistency['value']:.3f}" in printed
        assert ("sft" in model["against"]) == (name not in ("base", "sft"))
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_robust_training_started_again_measures_nothing_twice(robust, tmp_path):
    """An hour of training that begins anew after a kill is not begun again."""
    folder, _, options = robust
    before = json.loads((folder / "results.json").read_text())
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "robust_training.py"), *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "batch/s" not in done.stderr and "examples/s" not in done.stderr  # no bar of an answer, none of a dataset
    assert json.loads((folder / "results.json").read_text()) == before


def test_drop_in_prints_a_largest_difference_of_zero(tiny_model_dir, tmp_path):
    """The claim of the README's first paragraph, in the script that shows it."""
    printed = run("drop_in.py", "--model", str(tiny_model_dir), "--steps", "2", cwd=tmp_path)
    assert re.search(r"^largest difference in .*: 0\.0$", printed, flags=re.MULTILINE)
    assert "consistency" in printed


def test_example_config_trains_from_the_command_line(tiny_model_dir, tmp_path):
    """A config file in the examples with a field that was renamed fails at a user's first try."""
    config = yaml.safe_load((ROOT / "examples" / "configs" / "align.yaml").read_text())
    config |= {
        "model_name_or_path": str(tiny_model_dir),
        "dataset_name": str(write_rows(tmp_path)),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "use_cpu": True,
        "save_strategy": "no",
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "hf_ckt.cli.main", "train", "--config", str(file), "--logging_steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert "consistency_loss" in done.stdout


def write_rows(folder: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How do I bake {n} loaves?"}],
            "completion": [{"role": "assistant", "content": f"Mix flour for {n} and wait."}],
        }
        for n in range(16)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_teachers_are_measured_each_in_a_run_of_its_own(tiny_model_dir, tmp_path):
    """A kind that stops loading would be missed in a table that leaves it out."""
    options = ["--model", str(tiny_model_dir), "--output-dir", "out", "--steps", "3", "--first-steps", "2"]
    kinds = ["none", "model", "adapter", "routed", "cache", "top-k"]
    printed = run("teachers.py", *options, "--batch-size", "2", "--kinds", *kinds, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "teachers.json").read_text())
    measured = {one["kind"]: one for one in results["measured"]}
    assert sorted(measured) == sorted(kinds) and all(f"| {kind} |" in printed for kind in kinds)
    # One teacher, held in three ways: what the student hears is the same, up to the dtype that states are kept in.
    first = [measured[kind]["acceptance"]["first"] for kind in ("model", "adapter", "cache")]
    assert first == pytest.approx([first[0]] * 3, abs=2e-3) and 0 < first[0] < 1
    assert {"distillation_loss/safety", "distillation_loss/base"} & measured["routed"].keys()
    # Started again, nothing is run again.
    assert (
        "the first adapter"
        not in run("teachers.py", *options, "--kinds", "model", cwd=tmp_path).split("| teacher |")[0]
    )
