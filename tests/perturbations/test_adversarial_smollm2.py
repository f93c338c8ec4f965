# SPDX-License-Identifier: Apache-2.0
"""On the real SmolLM2: noise that was searched moves the prediction more than random noise of the same norm."""

import pytest
import torch

from hf_ckt.data import load_starter_set
from hf_ckt.discovery import load_part
from hf_ckt.models.backbone import read_head
from hf_ckt.models.batch import Batch
from hf_ckt.noise.mixture import Mixture
from hf_ckt.noise.noisy_view import NoisyView
from hf_ckt.objective.objective import Objective, Term
from hf_ckt.objective.partition import HiddenStates
from hf_ckt.objective.schedules import Schedule
from hf_ckt.perturbations.base import document_norms
from tests.trainers import load

ALPHA = 1.0


@pytest.mark.slow
def test_adversarial_noise_moves_smollm2_more_than_gaussian_noise_of_the_same_norm(smollm2_dir):
    """An ascent that only works on toys would make adversarial training an expensive gaussian one."""
    from transformers import AutoTokenizer

    model = load(smollm2_dir, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    rows = load_starter_set("train").shuffle(seed=0).select(range(3))
    prompts = [tokenizer(f"{row['prompt']}\n")["input_ids"] for row in rows]
    answers = [tokenizer(row["response"])["input_ids"] for row in rows]
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids, mask = torch.zeros(3, length, dtype=torch.long), torch.zeros(3, length, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end], mask[row, :end] = torch.tensor(prompt + answer), 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    batch = Batch({"input_ids": ids, "attention_mask": mask}, labels)
    objective = Objective({"consistency": Term(load_part("losses", "consistency_kl")(), Schedule(1.0))}, compile=False)
    norms = []

    def divergence(noisy, clean):
        with read_head(model) as head:
            states = HiddenStates({"student": clean}, {"student": head, "noisy": head}, noisy)
            return objective.divergence(states, batch.kept_labels)

    def measure(name: str, **settings) -> float:
        view = NoisyView(Mixture.of(load_part("perturbations", name)(alpha=ALPHA, **settings)))
        draw = view._noise

        def keep_norm(*args):
            noise = draw(*args)
            norms.append(document_norms(noise, batch.documents)[:, 0, 0])
            return noise

        view._noise = keep_norm
        with torch.no_grad():
            views = view.run(model, batch.inputs, batch, 1, divergence=divergence)
            return float(divergence(views.noisy, views.student)) / len(batch.kept)

    found = {"gaussian": measure("gaussian")}
    for name, settings in (
        ("adversarial", {}),
        ("adversarial, 2 steps", {"steps": 2}),
        ("virtual_adversarial", {}),
        ("adversarial, linf", {"norm": "linf"}),
    ):
        found[name] = measure(name.split(",")[0], **settings)
    print("nats per token at norm 1:", {name: round(value, 4) for name, value in found.items()})
    # Gaussian noise has the norm in expectation; searched noise has it at most.
    assert all(norm.max() < 1.03 * ALPHA for norm in norms)
    assert norms[0].min() > 0.97 * ALPHA
    for name in ("adversarial", "virtual_adversarial", "adversarial, linf"):
        assert found[name] > 5 * found["gaussian"]
    assert found["adversarial, 2 steps"] > found["adversarial"]
