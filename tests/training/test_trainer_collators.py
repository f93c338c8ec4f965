# SPDX-License-Identifier: Apache-2.0
"""Batches of other collators: masks of pairs, boundaries without positions, nothing at all."""

import pytest
import torch

from hf_ckt.models.batch import Batch
from tests.runs import OFF
from tests.trainers import build, build_sft, first_batch, gradients, lora, run, steps

TERMS = {
    "task": {"regularization_weight": 1e-12},
    "distillation": {"distillation_weight": 1.0},
    "token contrast": {"contrastive_weight": 1.0},
    "sequence contrast": {"contrastive_weight": 1.0, "contrastive_level": "sequence"},
    "noise": {"consistency_weight": 1.0},
    "noise in some rows": {"consistency_weight": 1.0, "consistency_fraction": 0.999},
    "searched noise": {"consistency_weight": 1.0, "perturbation": "adversarial"},
    "tokens": {"consistency_weight": 1.0, "perturbation": "token_replacement", "perturbation_severity": 0.5},
    "text": {"consistency_weight": 1.0, "perturbation": "typos", "perturbation_severity": 0.5},
}


class OneRow:
    """All examples of a batch in one row, each seeing itself alone; with `told`, what says so."""

    def __init__(self, *told: str, pad: int = 0):
        self.told, self.pad = told, pad

    def __call__(self, examples):
        lengths = [len(example["input_ids"]) for example in examples]
        number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
        ids = torch.tensor([[token for example in examples for token in example["input_ids"]] + [0] * self.pad])
        labels = torch.tensor([[label for e in examples for label in (-100, *e["labels"][1:])] + [-100] * self.pad])
        seen = torch.zeros(ids.shape[1], ids.shape[1], dtype=torch.bool)
        inside = (number[0, :, None] == number[0]) & torch.ones(sum(lengths), sum(lengths)).tril().bool()
        seen[: sum(lengths), : sum(lengths)] = inside
        if self.pad:
            seen.fill_diagonal_(True)  # a token that sees nothing would be NaN
        cumulated = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        everything = {
            "bool": {"attention_mask": seen[None, None]},
            "float": {"attention_mask": torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None]},
            "cu_seq_lens": {"cu_seq_lens_q": cumulated, "cu_seq_lens_k": cumulated},
            "positions": {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]},
        }
        batch = {"input_ids": ids, "labels": labels}
        for name in self.told:
            batch |= everything[name]
        return batch


def settings(term: str) -> dict:
    return {**OFF, "contrastive_level": "token", "max_length": None, **TERMS[term]}


@pytest.mark.parametrize("told", [("bool",), ("float",), ("bool", "positions")], ids=str)
@pytest.mark.parametrize("term", TERMS)
def test_a_block_diagonal_row_trains_as_the_rows_that_it_holds(term, told, tiny_model_dir, tmp_path):
    """Every term stopped at such a mask, in `index_add_`; read wrongly, strangers would share noise and contrast."""
    given = {"peft_config": lora()}
    plain = gradients(build(tmp_path, tiny_model_dir, given=given, **settings(term)))
    packed = gradients(
        build(tmp_path, tiny_model_dir, given={**given, "data_collator": OneRow(*told)}, **settings(term))
    )
    assert plain.keys() == packed.keys() and any(gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name], gradient, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_mask_of_pairs_is_trained_on_as_sfttrainer_does(kind, tiny_model_dir, tmp_path):
    """Its sum is no number of tokens: of a mask that is added to scores it is minus infinity."""
    mine = run(
        build(
            tmp_path / "mine",
            tiny_model_dir,
            given={"peft_config": lora(), "data_collator": OneRow(kind, pad=3)},
            **settings("task"),
        )
    )
    # SFTTrainer has no number for a mask that is added, so it is shown the same batches as truth and falsehood.
    given = {"peft_config": lora(), "data_collator": OneRow("bool", pad=3)}
    theirs = run(build_sft(tmp_path / "sft", tiny_model_dir, given=given, max_length=None))
    for one, other in zip(steps(mine), steps(theirs), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["num_tokens"] > 0


@pytest.mark.parametrize("told", [(), ("cu_seq_lens",)], ids=["nothing", "boundaries"])
@pytest.mark.parametrize("term", TERMS)
def test_a_batch_without_mask_and_positions_trains(term, told, tiny_model_dir, tmp_path):
    """One row without anything is one document; with boundaries it is several, which contrast needs."""
    collator = OneRow(*told)
    if term in ("tokens", "text") and not told:
        # One document of several texts is in no dataset.
        collator = lambda examples: OneRow()(examples[:1])  # noqa: E731
    trainer = run(
        build(
            tmp_path,
            tiny_model_dir,
            given={"peft_config": lora(), "data_collator": collator},
            **settings(term),
            max_steps=1,
        )
    )
    logged = steps(trainer)[0]
    assert logged["loss"] == logged["loss"] and logged["num_tokens"] > 0
    if "contrastive_weight" in TERMS[term]:
        assert ("contrastive_loss" in logged) == (term == "token contrast" or bool(told))


class Opaque:
    """A mask for another kernel."""


def test_only_what_needs_documents_refuses_a_batch_that_does_not_tell_them(tiny_model_dir, tmp_path):
    """Refused for all, a run of distillation alone would stop for what it never reads."""
    trainer = build(tmp_path, tiny_model_dir, **settings("noise"), consistency_fraction=0.5)
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    opaque = Batch({**batch, "attention_mask": Opaque()}, labels)
    assert torch.equal(opaque.kept, Batch(batch, labels).kept)
    with pytest.raises(ValueError, match="attention_mask: is a Opaque"):
        trainer._extra_passes.noisy._choose(opaque, 1)
