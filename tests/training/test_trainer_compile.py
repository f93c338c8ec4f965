# SPDX-License-Identifier: Apache-2.0
"""`torch_compile=True`: the backbone is compiled, the objective is not, and neither is traced anew in each step."""

import pytest
import torch
from datasets import Dataset
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from tests import tiny_models
from tests.trainers import ON, build, first_batch, gradients, lora, run, steps

# Traced as for any backend, and then run as it stands: no compiler takes its time.
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}
# Each batch of four is longer than the one before.
ROWS = [{"prompt": f"How do I kill {n}?", "completion": " Find its number first." * (1 + n // 4)} for n in range(32)]


class Graphs(TrainerCallback):
    """Notes how many graphs there are after each step."""

    def __init__(self):
        self.counts = []

    def on_step_end(self, args, state, control, **kwargs):
        self.counts.append(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("one_layer"), num_hidden_layers=1)


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_steps_of_any_length_share_their_graphs(one_layer, tmp_path):
    """A frame around the objective is traced anew in every step, for minutes, and then given up."""
    graphs = Graphs()
    given = {"peft_config": lora(), "callbacks": [graphs], "eval_dataset": Dataset.from_list(ROWS[:4])}
    data = Dataset.from_list(ROWS)
    trainer = run(build(tmp_path / "1", one_layer, data, given=given, max_steps=4, **ON, **COMPILED))
    # Clean, noisy and teacher's pass, each once for the first length and once for all others.
    assert graphs.counts[2:] == [6] * 2 and not counters["graph_break"]
    trainer.evaluate()
    evaluated = counters["stats"]["unique_graphs"]
    trainer.evaluate(Dataset.from_list(ROWS[20:]))
    assert counters["stats"]["unique_graphs"] <= evaluated + 3
    given = {"peft_config": lora()}
    plain = run(build(tmp_path / "2", one_layer, data, given=given, max_steps=4, **ON))
    for found, expected in zip(steps(trainer), steps(plain), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["consistency_loss"] == pytest.approx(expected["consistency_loss"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"noisy_view_recompute": True},
        {"noisy_view_batched": True},
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
        {"consistency_fraction": 0.5},
    ],
    ids=str,
)
def test_compiled_gradients_are_those_without(changes, one_layer, tmp_path):
    """What is compiled does not see a hook that comes and goes: noise would be left out, or stay."""
    expected = gradients(build(tmp_path / "1", one_layer, given={"peft_config": lora()}, **ON, **changes))
    trainer = build(tmp_path / "2", one_layer, given={"peft_config": lora()}, **ON, **changes, **COMPILED)
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
    batch = first_batch(trainer)
    for _ in range(2):
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model_wrapped, dict(batch)).backward()
        found = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys() and counters["stats"]["unique_graphs"] > 0
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
