# SPDX-License-Identifier: Apache-2.0
"""`python examples/benchmarks/objective.py` from end to end, tiny: the gate, the file, the table. No test looks at the clock."""

import json
import logging
import os
from functools import partial

import pytest
import torch

import measure_objective
import objective
from cases import OBJECTIVE_CASES, OBJECTIVE_VARIANTS, ObjectiveCase, objective_targets
from harness import interleaved_seconds, ratio, summary
from hf_ckt.cli.main import run_guarded
from hf_ckt.kernels import compilation

TINY = ["--tokens", "12", "--hidden", "8", "--vocab", "40", "--repeats", "2"]
UNCOMPILED = ["--variants", "hf_ckt_plain", "dense", "trl", "floor"]


def run(*arguments):
    """The script with these arguments, errors of input as one line."""
    return run_guarded("objective.py", lambda: objective.run([*arguments]))


@pytest.fixture
def quick_compiler(monkeypatch):
    """torch.compile that traces but leaves out the C++ compiler; tests of the kernels run the whole of it."""
    monkeypatch.setattr(compilation, "_programs", {})
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def test_objective_compares_all_variants_and_writes_the_file(tmp_path, capsys, quick_compiler):
    """The file is what the page and the plots are made of: a key that moves leaves them empty."""
    path = tmp_path / "new" / "results.json"
    assert run(*TINY, "--json", str(path)) == 0
    document = json.loads(path.read_text())
    assert {"benchmark", "command", "case", "facts", "variants", "ratios"} <= document.keys()
    assert document["case"] == {"tokens": 12, "hidden": 8, "vocab": 40, "dtype": "float32", "device": "cpu"}
    assert {"commit", "device", "versions"} <= document["facts"].keys()
    assert list(document["variants"]) == list(OBJECTIVE_VARIANTS)
    assert document["variants"].pop("liger") == {"skipped": "its kernels need a GPU"}
    for name, facts in document["variants"].items():
        assert facts["seconds"]["median"] > 0 and facts["seconds"]["n"] == 2
        assert facts["peak_extra_bytes"] > 0
        assert ("errors" in facts) == (name != "floor")
    assert document["variants"]["hf_ckt"]["first_call_seconds"] > 0
    assert "compile_break_even_elements" in document
    assert str(tmp_path) not in path.read_text()
    printed = capsys.readouterr().out
    assert "hf_ckt / dense" in printed and "hf_ckt / floor" in printed and "extra memory" in printed


def test_objective_that_disagrees_is_not_timed(tmp_path, monkeypatch, capsys):
    """A variant that is fast because it is wrong would win the table."""

    def wrong(inputs):
        loss, student, noisy = measure_objective.dense_result(inputs)
        return loss, student, noisy * 1.01

    monkeypatch.setitem(measure_objective.MAKERS, "trl", lambda inputs: lambda: wrong(inputs))
    monkeypatch.setattr(measure_objective, "interleaved_seconds", lambda *_: pytest.fail("timed"))
    path = tmp_path / "results.json"
    assert run(*TINY, *UNCOMPILED, "--json", str(path)) == 1
    assert "trl: noisy_gradient is off by 1.0e-02" in capsys.readouterr().err
    assert not path.exists()


def test_objective_without_dense_is_still_checked(tmp_path, monkeypatch):
    """Leaving dense out saves its time, not the check."""
    monkeypatch.setitem(
        measure_objective.MAKERS, "trl", lambda inputs: lambda: (torch.zeros(()), inputs.student, inputs.noisy)
    )
    assert run(*TINY, "--variants", "trl") == 1


def test_growth_replaces_the_comparison(tmp_path, monkeypatch, capsys):
    """Exponents of one size, or variants of none, would be written without a complaint."""
    monkeypatch.setitem(
        measure_objective.MAKERS, "hf_ckt", measure_objective.MAKERS["hf_ckt_plain"]
    )  # many sizes, none compiled
    monkeypatch.setattr(measure_objective, "GROWTH_FACTORS", (1, 4))
    path = tmp_path / "growth.json"
    assert run("--growth", *TINY, "--json", str(path)) == 0
    document = json.loads(path.read_text())
    assert document["benchmark"] == "growth" and "--growth" in document["command"]
    assert document["growth"]["vocab"]["sizes"] == [40, 160]
    assert document["growth"]["vocab"]["dense"]["exponents"]["peak_extra_bytes"] == pytest.approx(1, abs=0.2)
    assert "time exponent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--variants", "dens"], "unknown name 'dens'. Did you mean 'dense'?"),
        (["--repeats", "0"], "--repeats: must be 1 or more"),
        (["--tokens", "0"], "--tokens: must be 2 or more"),
        (["--device", "cuda"], "needs a GPU that torch can see"),
    ],
)
def test_objective_refuses_what_it_cannot_measure(options, said, capsys):
    """Found after the measurement it would cost minutes, ignored it would be believed."""
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is one")
    assert run(*options) == 2
    assert said in capsys.readouterr().err


def test_failed_compile_is_recorded_and_repays_nothing(monkeypatch):
    """The kernels go on without a compiler where it fails: plain times would pass for compiled ones."""

    def call():
        logging.getLogger("hf_ckt.kernels.compilation").warning("torch.compile failed")
        return "result"

    result, measured = measure_objective._first_call(call, "cpu")
    assert result == "result" and measured["warnings"] == ["torch.compile failed"]
    times = {"seconds": summary([1.0]), "first_call_seconds": 11.0}
    plain = {"seconds": summary([3.0])}
    case = ObjectiveCase(10, 4, 100)
    assert measure_objective.break_even_elements({"hf_ckt": times | measured, "hf_ckt_plain": plain}, case) is None
    # Ten seconds of compiling, two saved each call of 1,000 elements.
    assert measure_objective.break_even_elements({"hf_ckt": times, "hf_ckt_plain": plain}, case) == 5000
    assert measure_objective.break_even_elements({"hf_ckt": times, "hf_ckt_plain": times}, case) is None
    assert measure_objective.break_even_elements({"hf_ckt": times}, case) is None


def test_first_call_finds_an_empty_compiler_cache(monkeypatch, tmp_path):
    """A warm cache makes a cold compile look ten times cheaper than its users find it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    seen = []
    measure_objective._first_call(lambda: seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]), "cpu")
    assert seen[0] != str(tmp_path) and not os.path.exists(seen[0])
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_interleaving_gives_every_variant_the_same_neighbours():
    """A variant that always runs after the one that fills the caches is slower for it."""
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = interleaved_seconds(calls, 3)
    assert order == [*"abc", *"bca", *"cab"]
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 3)


def test_ratio_compares_medians_and_is_none_without_both():
    """A ratio to a variant that was skipped must not read as 0."""
    variants = {"a": {"seconds": summary([1.0, 2.0, 9.0]), "bytes": 3}, "b": {"seconds": summary([4.0]), "bytes": 6}}
    assert ratio(variants, "a", "b", "seconds", 0.6)["value"] == 0.5
    assert ratio(variants, "a", "b", "bytes")["value"] == 0.5
    assert ratio({**variants, "b": {"skipped": "why"}}, "a", "b", "seconds")["value"] is None


def test_targets_are_of_the_case_and_ratios_of_all():
    """A target of another size would be met or missed by accident."""
    aimed = {(t.to, t.quantity): t.at_most for t in objective_targets(OBJECTIVE_CASES["objective_smollm2"])}
    other = {(t.to, t.quantity): t.at_most for t in objective_targets(ObjectiveCase(8, 8, 8))}
    assert aimed["dense", "seconds"] == 0.55 and aimed["floor", "seconds"] == 1.15
    assert aimed.keys() == other.keys() and set(other.values()) == {None}
