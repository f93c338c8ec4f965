# SPDX-License-Identifier: Apache-2.0
"""How terms pull at an adapter: that each term's gradient is its own, and that the script measures a run."""

import copy
import json
import runpy

import pytest
import torch
import yaml

from tests import trainers
from tests.examples.running import EXAMPLES, run_here

SCRIPT = runpy.run_path(str(EXAMPLES / "studies" / "gradients.py"))
ROLES = ("task", "distillation", "contrastive", "consistency", "regularization")


def test_gradients_of_terms_add_up_to_that_of_the_loss(tiny_model_dir, tmp_path):
    """A term that is left out, weighed twice, or that reads another queue than the loss, is not the one that trains."""
    given = {"peft_config": trainers.lora()}
    settings = {"task_weight": 1.0, "perturbation": "gaussian", "contrastive_queue_size": 64}
    trainer = trainers.build(tmp_path, tiny_model_dir, given=given, **trainers.ON, **settings)
    trainer.model.train()
    contrast, terms = trainer.objective.contrast, trainer.objective.terms
    schedules = {role: term.schedule for role, term in terms.items()}
    for inputs in [*trainer.get_train_dataloader()][:2]:
        inputs = trainer._prepare_inputs(inputs)
        before = copy.deepcopy(contrast.queue)
        found = SCRIPT["gradients_of"](trainer, inputs)
        assert {*found} == {*ROLES} and all(gradient.norm() > 0 for gradient in found.values())
        assert {role: term.schedule for role, term in terms.items()} == schedules
        held, contrast.queue = contrast.queue, before
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, dict(inputs)).backward()
        torch.testing.assert_close(held.states, contrast.queue.states)  # the batch is in it once
        whole = torch.cat([one.grad.flatten() for one in trainer.model.parameters() if one.requires_grad])
        torch.testing.assert_close(sum(found.values()), whole, rtol=1e-4, atol=1e-6)


def test_cosine_of_the_mean_shows_what_batches_hide():
    """Two terms that agree batch by batch in noise alone pull apart over all."""
    batches = [
        {"a": torch.tensor([10.0, 1.0]), "b": torch.tensor([10.0, -1.0])},
        {"a": torch.tensor([-10.0, 1.0]), "b": torch.tensor([-10.0, -1.0])},
    ]
    found = SCRIPT["summary"](batches)
    assert found["cosine"]["a, b"] == pytest.approx(99 / 101) and found["cosine_of_mean"]["a, b"] == pytest.approx(-1)
    assert found["norm"]["a"] == pytest.approx(101**0.5) and found["norm_of_mean"]["a"] == pytest.approx(1)
    assert "| cosine: a, b | 0.98 | -1 |" in SCRIPT["show"](found)


def test_script_measures_a_run_from_its_file(tiny_model_dir, tmp_path, capsys):
    """A run without terms has nothing to compare, and says so."""
    data = tmp_path / "rows.jsonl"
    row = {
        "prompt": [{"role": "user", "content": "Hello"}],
        "completion": [{"role": "assistant", "content": "Hi there."}],
    }
    data.write_text(f"{json.dumps(row)}\n" * 8)
    run = {"model_name_or_path": str(tiny_model_dir), "dataset_name": str(data), "output_dir": str(tmp_path / "out")}
    run |= {"use_peft": True, "lora_target_modules": "all-linear", "use_cpu": True, "bf16": False, "report_to": "none"}
    run |= {"gradient_checkpointing": False, "max_steps": 1, "contrastive_weight": 0.0, "consistency_weight": 0.0}
    file, output = tmp_path / "run.yaml", tmp_path / "gradients.json"
    file.write_text(
        yaml.safe_dump(run | {"task_weight": 1.0, "distillation_weight": 1.0, "regularization_weight": 1e-5})
    )
    run_here("studies/gradients.py", "--run", str(file), "--batches", "1", "--output", str(output), cwd=tmp_path)
    found = json.loads(output.read_text())
    assert found["batches"] == 1 and found["norm"]["task"] > 0
    assert {*found["cosine"]} == {"task, distillation", "task, regularization", "distillation, regularization"}
    file.write_text(
        yaml.safe_dump(run | {"task_weight": 1.0, "distillation_weight": 0.0, "regularization_weight": 0.0})
    )
    with pytest.raises(SystemExit, match="nothing but the task is on"):
        run_here("studies/gradients.py", "--run", str(file), cwd=tmp_path)
