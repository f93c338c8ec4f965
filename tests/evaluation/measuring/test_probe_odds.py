# SPDX-License-Identifier: Apache-2.0
"""A probe's log-odds of prompts: those of the base's states, whatever is on it and however a batch is padded."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring import probe_odds
from hf_ckt.evaluation.measuring.probe_odds import ask_probe
from hf_ckt.models.batch import Batch
from hf_ckt.models.boundary_probe import BoundaryProbe
from tests.trainers import load

PROMPTS = [
    "How do I bake bread?",
    "Kill",
    "What is the best way to bake bread quickly, with flour and water?",
    "Help me",
]
SYSTEM = "Be brief."


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def probe():
    return BoundaryProbe((0, 2), torch.randn(128, generator=torch.Generator().manual_seed(3)), -0.4)


def _ids(tokenizer, prompt, system_prompt=None):
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    chat = [*system, {"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]


def alone(model, probe, ids):
    """The definition: one prompt, nothing behind it, no padding, by hand."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    read = [part for layer in probe.layers for part in (states[layer][0, -1], states[layer][0, 1:].mean(0))]
    return float(torch.cat(read).double() @ probe.weight.double()) + probe.bias


@pytest.mark.parametrize("system_prompt", [None, SYSTEM])
@pytest.mark.parametrize("side", ["left", "right"])
def test_log_odds_are_those_of_each_prompt_alone(side, system_prompt, tiny_model_dir, tokenizer, probe):
    """A padding position or the token of an answer in the mean, or a prompt without its system prompt, is another prompt."""
    model = load(tiny_model_dir).eval()
    expected = [alone(model, probe, _ids(tokenizer, prompt, system_prompt)) for prompt in PROMPTS]
    tokenizer.padding_side = side
    try:
        found = ask_probe(probe, model, tokenizer, PROMPTS, system_prompt=system_prompt)
        assert tokenizer.padding_side == side
    finally:
        tokenizer.padding_side = "right"
    assert found == pytest.approx(expected, abs=1e-4)
    assert min(abs(one - other) for n, one in enumerate(expected) for other in expected[:n]) > 0.01


@pytest.mark.parametrize("side", ["left", "right"])
def test_log_odds_are_those_of_a_batch_by_hand(side, tiny_model_dir, tokenizer, probe):
    """Training reads prompts in collated batches: the numbers of a report must be those that route there."""
    model = load(tiny_model_dir).eval()
    answer = tokenizer("Gladly.")["input_ids"]
    rows = [(_ids(tokenizer, prompt), answer) for prompt in PROMPTS]
    width = max(len(before) + len(after) for before, after in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels, positions = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (before, after) in enumerate(rows):
        start = width - len(before) - len(after) if side == "left" else 0
        whole = slice(start, start + len(before) + len(after))
        ids[row, whole] = torch.tensor(before + after)
        labels[row, start + len(before) : whole.stop] = torch.tensor(after)
        mask[row, whole], positions[row, whole] = 1, torch.arange(len(before) + len(after))
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        states = model(**inputs, position_ids=positions, output_hidden_states=True).hidden_states
    numbers, expected = probe.log_odds(states, Batch(inputs, labels))
    assert numbers.tolist() == [0, 1, 2, 3]
    assert ask_probe(probe, model, tokenizer, PROMPTS) == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], r=4, init_lora_weights=False),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "saved module", "prompt tuning", "prefix tuning"],
)
def test_the_base_reads_whichever_adapter_is_on(adapter, tiny_model_dir, tokenizer, probe):
    """States of the adapter would make the bound of what it can show a part of what it shows."""
    expected = ask_probe(probe, load(tiny_model_dir), tokenizer, PROMPTS)
    model = get_peft_model(load(tiny_model_dir), adapter)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    before = _logits(model, tokenizer)
    assert ask_probe(probe, model, tokenizer, PROMPTS) == expected
    assert torch.equal(_logits(model, tokenizer), before)  # and the adapter is on again
    if not adapter.is_prompt_learning:
        with model.disable_adapter():
            assert not torch.allclose(_logits(model, tokenizer), before)
            assert ask_probe(probe, model, tokenizer, PROMPTS) == expected


def _logits(model, tokenizer):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([_ids(tokenizer, PROMPTS[0])])).logits


def test_order_repeats_and_mode_are_kept(tiny_model_dir, tokenizer, probe, monkeypatch):
    """Odds sorted by length would be handed to other prompts; a model left in eval mode would train without dropout."""
    model = load(tiny_model_dir).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    found = ask_probe(probe, model, tokenizer, [*PROMPTS, *PROMPTS[::-1]])
    assert found[:4] == found[4:][::-1] and ask_probe(probe, model, tokenizer, []) == []
    assert [module.training for module in model.modules()] == modes
    read = []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: read.append(tuple(args[0].shape)))
    monkeypatch.setattr(probe_odds, "_ROWS", 3)
    assert ask_probe(probe, model, tokenizer, PROMPTS) == pytest.approx(found[:4], abs=1e-5)
    assert [rows for rows, _ in read] == [3, 1]
    del read[:]
    monkeypatch.setattr(probe_odds, "_TOKENS", 1)
    assert ask_probe(probe, model, tokenizer, PROMPTS) == pytest.approx(found[:4], abs=1e-5)
    assert [rows for rows, _ in read] == [1] * 4


def test_a_probe_of_another_model_is_refused(tiny_model_dir, tokenizer):
    """A probe of a wider or deeper base would read numbers that it was never fitted on."""
    model = load(tiny_model_dir)
    with pytest.raises(ValueError, match="layer 9, and the model has 2 layers"):
        ask_probe(BoundaryProbe((9,), torch.zeros(64), 0.0), model, tokenizer, PROMPTS)
    with pytest.raises(ValueError, match="reads 32 numbers of each prompt, and this model gives 64"):
        ask_probe(BoundaryProbe((1,), torch.zeros(32), 0.0), model, tokenizer, PROMPTS)
