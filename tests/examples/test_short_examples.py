# SPDX-License-Identifier: Apache-2.0
"""The examples of a minute, for two steps on a tiny model: what each prints is true."""

import json
import math
import re

import pytest
import torch

from tests.examples.running import EXAMPLES, run_here
from tests.scripts import load_script

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def printed(tiny_model_dir, tmp_path, capsys):
    """Runs a script for two steps and returns what it prints."""

    def run(script, *options):
        capsys.readouterr()
        run_here(script, "--model", str(tiny_model_dir), "--steps", "2", *options, cwd=tmp_path)
        return capsys.readouterr().out

    return run


def test_teacher_from_disk_teaches_what_it_taught_in_each_step(printed):
    """A cache of other rows, or of a teacher without its context, would be faster too."""
    lines = printed("05_teacher_cache.py", "--batch-size", "4").splitlines()
    losses = {line[:14].strip(): [float(cell) for cell in line[14:].split()[1:]] for line in lines[-3:-1]}
    assert losses.keys() == {"in each step", "from disk"}
    # Up to the dtype that states are kept in; told to refuse, the base says something else than the student hears.
    assert losses["from disk"] == pytest.approx(losses["in each step"], abs=2e-3)
    assert min(losses["in each step"]) > 0.05
    kept = re.search(r"^([\d,]+) answer tokens of 8 rows kept in", "\n".join(lines), flags=re.M)
    assert int(kept[1].replace(",", "")) > 100


def test_each_prompt_rejects_the_answer_that_its_twin_wants():
    """Rejected answers of other rows would be easy negatives, and their students the same as without."""
    example = load_script(EXAMPLES / "06_preference_data.py")
    pairs = example.preference_pairs("validation").to_list()
    assert len(pairs) > 60 and not len(pairs) % 2
    for harmful, twin in zip(pairs[::2], pairs[1::2], strict=True):
        assert harmful["chosen"] == twin["rejected"] != harmful["rejected"] == twin["chosen"]
        assert harmful["prompt"] != twin["prompt"]
    rows = {row["prompt"]: row for row in example.load_boundary_set("validation")}
    for kind, start in (("harmful", 0), ("twin", 1)):
        assert {rows[pair["prompt"][0]["content"]]["kind"] for pair in pairs[start::2]} == {kind}


def test_hard_negatives_make_the_contrast_harder(printed):
    """Of a student that has not been trained yet, further candidates can only raise the loss; left out, they raise nothing."""
    lines = printed("06_preference_data.py", "--pairs", "4", "--batch-size", "4").splitlines()
    base, plain, hard = lines[-3:]
    assert all(re.search(r" [0-4] of 4 +[-+]\d\.\d{3}", line) for line in (base, plain, hard))
    assert float(hard.split()[-2]) > float(plain.split()[-2]) >= 0


def test_own_loss_is_its_formula_and_goes_to_the_two_divergences():
    """A slip in the exponents is still 0 at equality, and trains something else."""
    example = load_script(EXAMPLES / "08_own_loss.py")
    p, q = [0.5, 0.5], [0.25, 0.75]

    def of(alpha):
        return (
            example.AlphaDivergenceLoss(alpha=alpha)
            .divergence(*(torch.tensor([one]).double().log() for one in (p, q)))
            .item()
        )

    assert of(0.5) == pytest.approx(4 * (1 - math.sqrt(0.5 * 0.25) - math.sqrt(0.5 * 0.75)))
    forward, reverse = (sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in ((p, q), (q, p)))
    assert of(1 - 1e-6) == pytest.approx(forward, rel=1e-4) and of(1e-6) == pytest.approx(reverse, rel=1e-4)
    with pytest.raises(ValueError, match="alpha"):
        example.AlphaDivergenceLoss(alpha=1.0)


def test_own_loss_is_what_the_trainer_minimises(printed):
    """A config whose loss is not asked would train forward_kl twice."""
    lines = printed("08_own_loss.py").splitlines()
    assert "gradients agree with finite differences: yes" in lines
    assert any(re.fullmatch(r"where both sides are equal: [0-2]e[-+]\d\d", line) for line in lines)
    (_, kl, accepted, own, own_accepted), (_, *last) = ([float(cell) for cell in line.split()] for line in lines[-2:])
    assert accepted == own_accepted  # the same student before its first step
    assert kl != own and last[0] < kl and last[2] < own


def test_evaluation_is_shown_as_it_is_written(printed, tmp_path):
    """A table typed or rounded apart from the results file would let the two drift."""
    said = printed(
        "09_evaluate_and_report.py", "--output-dir", "out", "--new-tokens", "4", "--only", "direct", "overrefusal"
    )
    results = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert list(results["models"]) == ["base", "adapter"]
    cells = [one["scores"]["refusal_auroc"] for one in results["models"].values()]
    shown = " +".join(re.escape(f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]") for one in cells)
    assert re.search(rf"^AUROC of the refusal log-odds +{shown}$", said, flags=re.M)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert "<html" in (tmp_path / "out" / "evaluation" / "report.html").read_text()[:200]


def test_publishing_without_its_option_sends_nothing(printed, tmp_path, monkeypatch):
    """A first try that uploads what it was to show cannot be taken back."""
    import huggingface_hub

    def refuse(*args, **kwargs):
        pytest.fail("the Hub was asked")

    for name in ("create_repo", "create_commit", "upload_folder", "upload_file", "repo_info", "whoami"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    said = printed("10_publish.py", "--folder", "out", "--repo", "me/mine")
    listed = said.split("me/mine would get:\n")[1]
    assert re.search(r"^ +[\d,]+  adapter_model\.safetensors$", listed, flags=re.M)
    assert "left out: training_args.bin" in listed and "training_args.bin" not in listed.split(" bytes in ")[0]
    card = (tmp_path / "out" / "adapter" / "README.md").read_text()
    assert card[:200] in said and f"base_model: {BASE}" in card and "starter set of hf_ckt" in card
    assert str(tmp_path) not in card
