# SPDX-License-Identifier: Apache-2.0
"""What a whole step computes: products with the head, tensors, compilations. No test looks at the clock."""

import pytest
import torch

from hf_ckt.kernels import compilation
from tests import references
from tests.runs import OFF
from tests.trainers import build, first_batch, lora

TOKEN_TERMS = {**OFF, "distillation_weight": 1.0, "consistency_weight": 0.5}


def step(trainer, batch):
    """Loss and gradients of one batch; returns what the recorder saw, and the batch's kept tokens."""
    vocab = trainer._causal_lm.get_output_embeddings().weight.shape[0]
    kept = int((batch["labels"][:, 1:] != -100).sum())
    with references.Recorder(vocab) as recorder:
        trainer.compute_loss(trainer.model, dict(batch)).backward()
    return recorder, kept


@pytest.mark.parametrize(
    ("fields", "products"),
    [
        ({}, 5),
        ({"noisy_view_recompute": True}, 5),
        ({"noisy_view_batched": True}, 5),
        ({"regularization_weight": 1.0, "regularization_loss": "reference_kl"}, 5),
        ({"consistency_target": "teacher"}, 5),
        ({"consistency_weight": 0.0}, 3),
    ],
    ids=str,
)
def test_step_projects_each_view_once_and_kept_positions_alone(fields, products, tiny_model_dir, tmp_path):
    """A teacher projected per term, or a prompt projected at all, costs more than the terms themselves."""
    changes = {**TOKEN_TERMS, "objective_chunk_size": 16, **fields}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes)
    batch = first_batch(trainer)
    step(trainer, batch)  # the first compares the head as it is read with the model's own logits
    recorder, kept = step(trainer, batch)
    assert 3 * 16 < kept <= batch["input_ids"].numel() / 2  # several tiles, and prompts and padding to leave out
    assert recorder.rows == products * kept
    # A tile of logits of each view; anything larger would be the tensor that is never to be built.
    assert recorder.largest_logits <= 3 * 16 * recorder.vocab


def test_compiled_steps_of_any_batch_share_one_program(tiny_model_dir, tmp_path, monkeypatch):
    """Batches differ in kept tokens; a compilation for each would take longer than the run."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, original = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(compilation, "_programs", {})
    monkeypatch.setattr(torch, "compile", lambda f, **kw: original(f, backend=counter, **kw))
    changes = {**TOKEN_TERMS, "objective_chunk_size": 16, "objective_compile": True}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes)
    batch, kept = first_batch(trainer), set()
    for rows in (4, 3, 1):
        part = {name: value[:rows] for name, value in batch.items()}
        kept.add(int((part["labels"][:, 1:] != -100).sum()))
        trainer.compute_loss(trainer.model, part).backward()
    assert len(kept) == 3 and counter.frame_count == 1
    assert None not in compilation._programs.values()
