# SPDX-License-Identifier: Apache-2.0
"""Where a step makes the host wait for the device: at the places of a list, each with its reason, and nowhere else."""

import warnings

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, masking_utils

from hf_ckt.models.batch import Batch
from hf_ckt.training import trainer as trainer_module
from tests import tiny_models
from tests.gpu.devices import build_on, each_device, on_cuda, to_device
from tests.gpu.waits import Waits
from tests.runs import rows
from tests.trainers import ON, first_batch, gradients, lora

EAGER = {"model_init_kwargs": {"attn_implementation": "eager"}}

# Function -> why it waits. Once a batch, in every run:
BATCH = {"hf_ckt.models.batch.Batch.__post_init__": "how many positions count is the size of every tensor after it"}
# Of transformers 5.23, once a backbone pass; SFTTrainer waits there too.
SDPA = {"transformers.masking_utils._ignore_causal_mask_sdpa": "asks whether the mask has no padding, to leave it out"}
PACKED = {"transformers.masking_utils.find_packed_sequence_indices": "asks whether position_ids hold several texts"}
# Of transformers 5.17 and not of 5.23, once a backbone pass under eager attention.
MASK = {"transformers.masking_utils.eager_mask": "copies the number that stands for a position in sight"}
FRACTION = {
    "hf_ckt.noise.noisy_view.NoisyView._choose": "how many rows are perturbed is the size of the noisy pass",
    "hf_ckt.noise.noisy_view._positions": "how many positions lie in those rows is the size of what is compared",
    "hf_ckt.objective.partition._by_noise": "and how many do not",
}
SEQUENCE = {
    "hf_ckt.objective.candidates.Contrast._pool": "how many documents have a kept token is the number of anchors"
}
DECISION = {"hf_ckt.objective.candidates._where": "how many documents have a kept token is the number of anchors"}
# Documented to wait: text is no tensor.
TEXT = {
    "hf_ckt.noise.document_batches.split_documents": "reads the batch's tokens to find their text",
}
CHOICE = {"hf_ckt.noise.noisy_view.NoisyView._rewrite": "reads which perturbation each document drew"}

STATE = {
    "hf_ckt.models.batch.Batch.of_route": "asks which documents a teacher was given",
    "hf_ckt.models.batch.Batch.of_documents": "how many documents each of several teachers reads is the size of its batch",
    "hf_ckt.objective.candidates.Contrast._of_states": "how many documents have a kept token is the number of anchors",
    "hf_ckt.models.boundary_probe.prompt_features": "how many documents and tokens of prompts there are is what is summed",
}

# What a run sets -> the places beside BATCH and SDPA.
RUNS = {
    "all_terms": ({}, {}),
    "reference_kl": ({"regularization_loss": "reference_kl"}, {}),
    "queue": ({"contrastive_queue_size": 50}, {}),
    "anchors": ({"contrastive_max_anchors": 16}, {}),
    "relational_kl": ({"contrastive_loss": "relational_kl"}, {}),
    "rejected": ({"contrastive_rejected": True}, {}),
    "label_trust": ({"label_trust": True}, {}),
    "budget": ({"consistency_budget": 0.1}, {}),
    "recompute": ({"noisy_view_recompute": True}, {}),
    "batched": ({"noisy_view_batched": True}, {}),
    "checkpointing": ({"gradient_checkpointing": True}, {}),
    "bf16": ({"bf16": True}, {}),
    "mixture": ({"perturbation": {"gaussian": 0.5, "uniform": 0.5}}, {}),
    "adversarial": ({"perturbation": "adversarial"}, {}),
    "virtual_adversarial": ({"perturbation": "virtual_adversarial", "perturbation_warm_start": True}, {}),
    "fraction": ({"consistency_fraction": 0.5}, FRACTION),
    "sequence": ({"contrastive_level": "sequence"}, SEQUENCE),
    "decision": ({"contrastive_level": "decision", "contrastive_queue_size": 50}, DECISION),
    "typos": ({"perturbation": "typos"}, TEXT),
    "token_dropout": ({"perturbation": "token_dropout"}, TEXT),
    "text_mixture": ({"perturbation": {"typos": 0.5, "gaussian": 0.5}}, TEXT | CHOICE),
}


def make(device, folder, model, data=None, given=None, **changes):
    return build_on(device, folder, model, data, given={"peft_config": lora(), **(given or {})}, **{**ON, **changes})


def warmed(trainer):
    """A batch on the device, after two steps: the heads' Gram matrices, the queue and the allocator are there."""
    batch = to_device(first_batch(trainer), str(trainer.args.device))
    for _ in range(2):
        gradients(trainer, batch)
    trainer.model.zero_grad()
    return batch, torch.tensor(100, device=trainer.args.device)


def step(trainer, batch, num_items):
    with torch.autocast(trainer.args.device.type, dtype=torch.bfloat16, enabled=trainer.args.bf16):
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=num_items)
    loss.backward()


def waits_of_a_step(trainer):
    batch, num_items = warmed(trainer)
    with Waits(trainer.args.device.type) as found:
        step(trainer, batch, num_items)
    return found.places


def check(found, allowed, device):
    """The list, and on the CPU, where each of its places is known to show, the whole list."""
    unknown = {place: lines for place, lines in found.items() if place not in allowed}
    assert not unknown, "the host waits:\n" + "\n".join(line for lines in unknown.values() for line in lines)
    if device == "cpu":
        assert not allowed.keys() - found.keys(), "on the list, and no longer waits"


def rejected():
    return Dataset.from_list(
        [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": " No, wait for it."} for row in rows()]
    )


@each_device
@pytest.mark.parametrize("name", list(RUNS))
def test_step_waits_for_the_device_at_no_place_but_those_of_the_list(name, device, tiny_model_dir, tmp_path):
    """One `.item()` empties the queue of kernels; a tiny loss then takes as long as its launch, at every step."""
    changes, places = RUNS[name]
    trainer = make(device, tmp_path, tiny_model_dir, rejected() if name == "rejected" else None, **changes)
    check(waits_of_a_step(trainer), BATCH | SDPA | places, device)


@each_device
def test_padding_free_step_waits_at_no_place_but_those_of_the_list(device, tiny_model_dir, tmp_path):
    """Without a mask the batch takes another path to its documents, its token count and its attention."""
    trainer = make(device, tmp_path, tiny_model_dir, padding_free=True, max_length=None)
    check(waits_of_a_step(trainer), BATCH | PACKED, device)


@each_device
@pytest.mark.parametrize("kind", ["dora", "nf4", "teacher", "full"])
def test_step_of_another_student_or_teacher_waits_at_no_other_place(kind, device, tmp_path):
    """Adapters, quantized layers and a second model each bring code of their own into the step."""
    folder = tiny_models.save_tiny_llama(tmp_path / "model", hidden_size=64)
    given = {
        "dora": {"peft_config": lora(use_dora=True)},
        "nf4": {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")},
        "teacher": {"teacher_model": str(folder)},
        "full": {"teacher_model": str(folder), "peft_config": None},
    }[kind]
    changes = {"regularization_weight": 0.0} if kind == "full" else {}
    trainer = make(device, tmp_path / "out", folder, given=given, **changes)
    check(waits_of_a_step(trainer), BATCH | SDPA, device)


@each_device
def test_state_contrast_waits_where_prompts_are_looked_up(device, tiny_model_dir, tmp_path):
    """Where prompts end is counted, in each batch and by each layer's states alike."""
    data = Dataset.from_list([{**row, "teacher": "ab"[number % 2]} for number, row in enumerate(rows())])
    other = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    changes = {"contrastive_level": "state", "contrastive_loss": "sincere", "contrastive_layers": [1, 2]}
    given = {"teachers": {"a": None, "b": str(other)}}
    trainer = make(device, tmp_path / "out", tiny_model_dir, data, given=given, **changes)
    check(waits_of_a_step(trainer), BATCH | SDPA | STATE, device)


@each_device
def test_forward_and_backward_wait_nowhere_once_the_batch_is_laid_out(device, tiny_model_dir, tmp_path, monkeypatch):
    """The list's one place in every run could hide a second wait in the same function; here is none at all."""
    trainer = make(device, tmp_path, tiny_model_dir, **EAGER, contrastive_queue_size=50)
    batch, num_items = warmed(trainer)
    laid_out = Batch({name: value for name, value in batch.items() if name != "labels"}, batch["labels"])
    monkeypatch.setattr(trainer_module, "read_batch", lambda inputs, marks: (laid_out, {}))
    with Waits(device) as found:
        step(trainer, batch, num_items)
    assert found.places.keys() <= MASK.keys(), found.places


@pytest.fixture
def mask_that_may_wait(monkeypatch):
    """Leaves the one function of MASK out of what is watched."""

    def unwatched(*args, **kwargs):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return masking_utils.eager_mask(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setitem(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS, "eager", unwatched)


@on_cuda
@pytest.mark.usefixtures("mask_that_may_wait")
def test_step_runs_where_a_wait_is_an_error(device, tiny_model_dir, tmp_path, monkeypatch):
    """A wait inside autograd's own threads would be a warning that no Python line is given for; here it stops the step."""
    trainer = make(device, tmp_path, tiny_model_dir, **EAGER, bf16=True, gradient_checkpointing=True)
    batch, num_items = warmed(trainer)
    step(trainer, batch, num_items)
    laid_out = Batch({name: value for name, value in batch.items() if name != "labels"}, batch["labels"])
    monkeypatch.setattr(trainer_module, "read_batch", lambda inputs, marks: (laid_out, {}))
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(trainer, batch, num_items)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_device
def test_recorder_of_waits_sees_each_kind(device):
    """A recorder that sees nothing would find that nothing waits."""
    values = torch.arange(6, device=device)
    for wait in (
        lambda: values.sum().item(),
        lambda: values.tolist(),
        lambda: bool((values > 3).any()),
        lambda: values.nonzero(),
        lambda: values[values > 3],
        lambda: values.unique(),
        lambda: torch.tensor([1, 2], device=device),
        lambda: values.new_tensor([1, 2]),
    ):
        with Waits(device) as found:
            wait()
        assert [*found.places] == [f"{__name__}.test_recorder_of_waits_sees_each_kind.<locals>.<lambda>"]
        assert "tests/gpu/test_waits.py:" in next(iter(found.places.values()))[0]
    with Waits(device) as found:
        values.new_full((), 3) + torch.full((), 4, device=device) * values.gather(0, values) + values[values]
        torch.tensor([1.0]).to(device, non_blocking=True)
    assert not found.places


def test_recorder_names_the_line_of_a_warning(monkeypatch):
    """On a GPU a wait is known by a warning; noted as a line of the warning's own machinery, none could be found."""
    for name in ("synchronize", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    with Waits("cuda") as found:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at c10/cuda)")
        torch.zeros(2, 2, 3).T  # noqa: B018 - a warning that torch raises below Python, of another kind
    assert [*found.places] == [f"{__name__}.test_recorder_names_the_line_of_a_warning"]
    assert "at tests/gpu/test_waits.py:" in next(iter(found.places.values()))[0]
