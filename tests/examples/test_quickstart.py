# SPDX-License-Identifier: Apache-2.0
"""The quickstart, for two steps on a tiny model: the script, and the command that it is."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from hf_ckt.cli.main import main
from tests.examples.running import run


@pytest.fixture(scope="module")
def quickstart(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of a quickstart of two steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--teacher_steps", "2"]
    options += ["--student_steps", "2", "--prompts", "2", "--new_tokens", "4", "--batch_size", "2"]
    return folder / "out", run("01_quickstart.py", *options, cwd=folder), options


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
    assert {term["role"] for term in results["run"]["objective"]} == {"distillation", "contrastive", "regularization"}


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
    assert re.search(r"^\| Data \| boundary set of hf_ckt, \d+ rows, fingerprint [0-9a-f]{16} \|$", card, flags=re.M)
    assert {one.metric_type for one in ModelCard(card).data.eval_results} >= {
        "youden_j",
        "refusal_auroc",
        "kd_alignment",
    }
    assert AutoPeftModelForCausalLM.from_pretrained(folder / "adapter") is not None
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_command_goes_on_where_the_quickstart_was_and_trains_nothing_twice(quickstart, tmp_path, monkeypatch):
    """A demo that was interrupted after ten minutes and starts over is not run a second time."""
    folder, _, options = quickstart
    before = json.loads((folder / "results.json").read_text())
    (work,) = folder.glob("run-*")
    kept = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.suffix in (".json", ".safetensors")}
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *options]) == 0
    after = json.loads((folder / "results.json").read_text())
    assert after["resumed"] and not before["resumed"]
    assert after["models"] == before["models"]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
