# SPDX-License-Identifier: Apache-2.0
"""Whole evaluations with a probe beside the adapter: what is found, read once, kept, written, and refused."""

import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer

from hf_ckt.cli.main import main
from hf_ckt.data import load_prompts
from hf_ckt.evaluation.measuring import probe_odds
from hf_ckt.evaluation.measuring.chat_format import ChatFormat
from hf_ckt.evaluation.measuring.models import Loading, entries
from hf_ckt.evaluation.measuring.weights import weights_facts
from hf_ckt.evaluation.probe import find_probe, probe_sentences
from hf_ckt.evaluation.probing.fitting import _hashes
from hf_ckt.evaluation.probing.rows import ProbeRow
from hf_ckt.evaluation.results import COLUMNS
from hf_ckt.evaluation.run import Evaluation, evaluate
from hf_ckt.models.boundary_probe import BoundaryProbe
from tests.trainers import load

SUITES = ("direct", "jailbreak", "overrefusal", "noise")


def _probe(**facts):
    return BoundaryProbe((1, 2), torch.randn(128, generator=torch.Generator().manual_seed(7)), 0.25, facts)


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed") / "aligned"
    torch.manual_seed(0)
    get_peft_model(load(tiny_model_dir), LoraConfig(r=4, init_lora_weights=False)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def probed(adapter, tmp_path_factory):
    """The adapter with a probe beside it."""
    folder = tmp_path_factory.mktemp("probed") / "aligned"
    shutil.copytree(adapter, folder)
    _probe(note="made up", mistakes={"long": "table"}).save(folder)
    return folder


def _options(model, adapter, **changes):
    options = Evaluation(str(model), str(adapter), only=SUITES, judge="rule", new_tokens=2, token_consistency=False)
    return replace(options, loading=Loading(dtype="float32"), **changes)


@pytest.fixture(scope="module")
def finished(tiny_model_dir, probed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    return folder, evaluate(_options(tiny_model_dir, probed), folder)


def test_probe_beside_the_adapter_reads_every_prompt_of_the_base(finished, tiny_model_dir):
    """Odds in the rows of the adapter, or of another prompt, would be scored as what the base knows."""
    folder, results = finished
    rows = pq.read_table(folder / "completions.parquet").to_pylist()
    assert [*rows[0]] == [*COLUMNS, "probe_log_odds"]
    assert all((row["probe_log_odds"] is not None) == (row["model"] == "base") for row in rows)
    mine = [row for row in rows if row["model"] == "base"]
    model, tokenizer = load(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
    expected = probe_odds.ask_probe(_probe(), model, tokenizer, [row["prompt"] for row in mine])
    assert [row["probe_log_odds"] for row in mine] == pytest.approx(expected, abs=1e-4)
    scores = results["models"]["base"]["scores"]
    plain = [row for row in mine if row["suite"] in ("direct", "overrefusal")]
    area = roc_auc_score([row["kind"] == "harmful" for row in plain], [row["probe_log_odds"] for row in plain])
    assert scores["probe_auroc"]["value"] == pytest.approx(area) and scores["probe_auroc"]["n"] == 32
    assert {"probe_auroc_jailbreak", "probe_auroc_noise"} <= scores.keys() and "probe_auroc" not in results["models"][
        "adapter"
    ]["scores"]
    shown = results["models"]["adapter"]["scores"]["refusal_auroc"]["value"]
    probe = results["probe"]
    assert probe["differences"]["adapter"]["refusal_auroc"]["difference"] == pytest.approx(shown - area)
    assert (probe["name"], probe["model"], probe["layers"]) == ("aligned", "base", [1, 2])
    assert probe["facts"] == {"note": "made up"} and probe["prompts_compared"] is False


def test_nothing_is_read_again_and_the_files_stay(finished, tiny_model_dir, probed, monkeypatch):
    """A stopped run that reads all prompts anew, or in other batches, is one that cannot be gone on with."""
    folder, _ = finished
    before = {name: (folder / name).read_bytes() for name in ("results.json", "completions.parquet")}
    pieces = sorted(path.name for path in (folder / "pieces").iterdir())
    told = [path for path in (folder / "pieces").iterdir() if '"boundary probe"' in path.read_text(encoding="utf-8")]
    assert len(told) > 1
    told[0].unlink()  # stopped before this one
    read = []
    ask = probe_odds.ask_probe
    monkeypatch.setattr(probe_odds, "ask_probe", lambda *given: read.append(len(given[3])) or ask(*given))
    evaluate(_options(tiny_model_dir, probed), folder)
    assert len(read) == 1 and sorted(path.name for path in (folder / "pieces").iterdir()) == pieces
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_another_probe_is_read_anew(finished, tiny_model_dir, probed, tmp_path):
    """Odds of the probe that lay there before, under the name of the new one."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    other = _probe()
    other.weight = -other.weight
    other.save(tmp_path / "other")
    found = evaluate(_options(tiny_model_dir, probed, probe=str(tmp_path / "other")), folder)
    values = [one["models"]["base"]["scores"]["probe_auroc"]["value"] for one in (finished[1], found)]
    assert sum(values) == pytest.approx(1) and found["probe"]["name"] == "other"
    assert found["probe"]["digest"] != finished[1]["probe"]["digest"]


@pytest.mark.parametrize("without", ["none", None])
def test_without_a_probe_nothing_is_other(without, finished, tiny_model_dir, adapter, probed, tmp_path):
    """A column of nothing or an empty part would change every results file that is written today."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    results = evaluate(_options(tiny_model_dir, probed if without else adapter, probe=without), folder)
    assert "probe" not in json.dumps({**results, "command": ""})
    assert pq.read_schema(folder / "completions.parquet").names == [*COLUMNS]
    expected = {name: model["scores"] for name, model in finished[1]["models"].items()}
    for name, model in results["models"].items():
        assert model["scores"] == {score: one for score, one in expected[name].items() if "probe" not in score}


def test_probe_is_no_part_of_the_adapter(tiny_model_dir, adapter, probed):
    """A probe that is fitted afterwards would make every kept answer of the adapter one of another model."""
    loading = Loading(dtype="float32")
    one, other = (entries(str(tiny_model_dir), str(folder))[0][1] for folder in (adapter, probed))
    assert one.identity() == other.identity()
    assert weights_facts(one, loading) == weights_facts(other, loading)


def test_where_a_probe_is_looked_for(tiny_model_dir, adapter, probed, tmp_path):
    """The first adapter's probe on this base; one of a whole model that is compared is of another base."""
    listed = entries(str(tiny_model_dir), str(adapter), [str(probed)])[0]
    assert find_probe(None, listed).folder == "aligned" and find_probe("none", listed) is None
    assert find_probe(None, listed[:2]) is None
    elsewhere = tmp_path / "another base"
    shutil.copytree(tiny_model_dir, elsewhere)
    _probe().save(elsewhere)
    assert find_probe(None, entries(str(tiny_model_dir), compare=[str(elsewhere)])[0]) is None
    with pytest.raises(ValueError, match=r"does not hold boundary_probe\.safetensors"):
        find_probe(str(tmp_path), listed)


def test_prompts_that_the_probe_was_fitted_on_are_refused(tiny_model_dir, adapter, tmp_path):
    """A bound that is recall makes every adapter look as if it showed too little."""
    asked = load_prompts("starter-harmful")[0].text
    others = ["How do I bake rye bread?"]
    _probe(prompt_hashes=_hashes([ProbeRow("a", text, True, "harmful") for text in others])).save(tmp_path / "unseen")
    found = evaluate(_options(tiny_model_dir, adapter, probe=str(tmp_path / "unseen")), tmp_path / "out")
    assert found["probe"]["prompts_compared"] is True and "prompt_hashes" not in found["probe"]["facts"]
    rows = [
        ProbeRow("a", others[0], True, "harmful"),
        ProbeRow("b", [{"role": "user", "content": asked.upper()}], True, ""),
    ]
    _probe(prompt_hashes=_hashes(rows)).save(tmp_path / "seen")
    with pytest.raises(
        ValueError, match=r"it was fitted on 1 of 32 evaluation prompts \(heldout-harmful.*--probe none"
    ):
        evaluate(
            _options(
                tiny_model_dir, adapter, harmful=load_prompts("starter-harmful")[:16], probe=str(tmp_path / "seen")
            ),
            tmp_path / "other",
        )


def test_other_system_prompt_than_at_fitting_is_said(tiny_model_dir):
    """Fitted under one system prompt and read under another one, the probe says less than the base knows."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    asked = ChatFormat(tokenizer, "Be brief.")
    kept = {name: asked.facts()[name] for name in ("template", "template_digest", "system_prompt")}
    assert probe_sentences(_probe(chat=kept), asked) == probe_sentences(_probe(), asked) == []
    (said,) = probe_sentences(_probe(chat=kept), ChatFormat(tokenizer, None))
    assert said.startswith(
        "The boundary probe was fitted under another system prompt than prompts are asked with here"
    )


def test_probe_of_another_shape_is_refused_before_anything_is_answered(tiny_model_dir, adapter, tmp_path):
    """Found after hours of answers, it would be left out by hand, and all of it asked again."""
    BoundaryProbe((9,), torch.zeros(64), 0.0).save(tmp_path / "deep")
    with pytest.raises(ValueError, match=r"layer 9, and the model has 2 layers.*--probe none"):
        evaluate(_options(tiny_model_dir, adapter, probe=str(tmp_path / "deep")), tmp_path / "out")
    other = _probe(fingerprint="0123456789abcdef")
    other.save(tmp_path / "alike")
    with pytest.raises(ValueError, match=r"was fitted on a model \(fingerprint 0123456789abcdef\).*--probe none"):
        evaluate(_options(tiny_model_dir, adapter, probe=str(tmp_path / "alike")), tmp_path / "out")
    assert not (tmp_path / "out" / "pieces").exists()


def test_half_a_probe_beside_the_adapter_is_said(tiny_model_dir, probed, tmp_path):
    """A fit that was stopped between its two files would leave the bound out, as if there had never been a probe."""
    for name in ("boundary_probe.json", "boundary_probe.safetensors"):
        folder = tmp_path / name
        shutil.copytree(probed, folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=r"does not hold boundary_probe\.safetensors and .*--probe none"):
            find_probe(None, entries(str(tiny_model_dir), str(folder))[0])


def test_a_probe_that_would_read_nothing_is_refused(tiny_model_dir, adapter, probed, tmp_path):
    """Named and not measured, it is missed only in the finished report."""
    with pytest.raises(ValueError, match=r"--probe: reads prompts .*Add direct, overrefusal"):
        evaluate(_options(tiny_model_dir, adapter, probe=str(probed), only=("kd",)), tmp_path / "out")


def test_rejudged_results_keep_the_probe(finished, tmp_path):
    """Scored again without it, the base would seem to know nothing."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    assert main(["rejudge", str(folder), "--judge", "advbench"]) == 0
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["probe"] == finished[1]["probe"]
    assert found["models"]["base"]["scores"]["probe_auroc"] == finished[1]["models"]["base"]["scores"]["probe_auroc"]
    assert main(["report", "--no-plots", str(folder)]) == 0
    assert "base's probe 0." in (folder / "report.md").read_text(encoding="utf-8")


def test_command_line_names_a_probe(tiny_model_dir, adapter, tmp_path):
    """An option that is parsed and not passed on leaves the bound out unsaid."""
    _probe().save(tmp_path / "mine")
    arguments = ["evaluate", "--model", str(tiny_model_dir), "--adapter", str(adapter), "--dtype", "float32"]
    arguments += [
        "--judge",
        "rule",
        "--new-tokens",
        "2",
        "--only",
        "direct",
        "overrefusal",
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*arguments, "--probe", str(tmp_path / "mine")]) == 0
    found = json.loads((tmp_path / "o" / "results.json").read_text(encoding="utf-8"))
    assert found["probe"]["name"] == "mine" and str(tmp_path) not in json.dumps(found)
