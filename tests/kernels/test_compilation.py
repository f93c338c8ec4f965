# SPDX-License-Identifier: Apache-2.0
"""When a program is compiled, and that a compiler which fails or is missing changes nothing but the time."""

import json
from pathlib import Path

import pytest
import torch

from hf_ckt.kernels import compilation
from tests import references

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    monkeypatch.setattr(compilation, "_programs", {})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_short_work_is_not_compiled_and_long_work_is(device):
    """A demo of a minute must not spend it in the compiler, nor a run of a day without one."""
    elements = compilation._WORTH_COMPILING["cpu" if device == "cpu" else "accelerator"]
    assert not compilation.pays_to_compile(elements - 1, torch.device(device))
    assert compilation.pays_to_compile(elements, torch.device(device))


def test_threshold_is_at_least_twice_the_measured_break_even():
    """A threshold that no measurement stands behind makes short runs slower on somebody's machine."""
    results = json.loads((ROOT / "examples/benchmarks/results/objective_smollm2.json").read_text())
    measured = results["compile_break_even_elements"] * 3  # views; the file counts tokens x vocabulary
    assert 2 * measured <= compilation._WORTH_COMPILING["cpu"] <= 10 * measured


def test_one_call_is_plain_by_default(monkeypatch):
    """Ten seconds of compiling for a loss of milliseconds."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    references.run(references.case(), chunk_size=4)


def test_fault_of_a_loss_is_raised_and_not_taken_for_the_compilers():
    """A loss that is broken would train as nothing at all."""

    def broken(tensor):
        raise ZeroDivisionError("the loss's own")

    with pytest.raises(ZeroDivisionError, match="the loss's own"):
        compilation.run_compiled(("broken",), broken, torch.ones(1))


@pytest.mark.skipif(not compilation._ISOLATION, reason="this torch cannot keep compilations of one function apart")
def test_many_programs_are_all_compiled(monkeypatch):
    """Dynamo counts the compilations of one code object; beyond eight it ran everything uncompiled, silently."""
    from torch._dynamo.testing import CompileCounter

    counter, original = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: original(f, backend=counter, **kw))
    torch._dynamo.reset()
    weights = {"nll": 1.0, "forward_kl": 1.0, "consistency_kl": 1.0}
    for number in range(12):
        inputs = references.case(logit_scale=1.0 + number)
        tiled, plain = (references.run(inputs, weights, chunk_size=4, compile=one).total for one in (True, False))
        torch.testing.assert_close(tiled, plain)
    assert counter.frame_count == 12 and None not in compilation._programs.values()
    torch._dynamo.reset()
