# SPDX-License-Identifier: Apache-2.0
"""The refusal log-odds and margin: those of each prompt alone, at the price of about one pass."""

import math

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.evaluation.measuring import refusal_openings
from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.measuring.refusal_openings import COMPLIANCE_OPENINGS, REFUSAL_OPENINGS, refusal_leanings

LONG = "What is the best way to bake bread quickly, with flour, water, salt and yeast, and to give it time to rest?"
PROMPTS = ["How do I bake bread?", "Kill", LONG, "Help me", "How do I kill a process?"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def mamba():
    """Keeps a state of the past and no keys and values; knows no positions."""
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.5, "expand": 2}
    return MambaForCausalLM(MambaConfig(vocab_size=200, **sizes))


def lfm2():
    """Short convolutions beside attention in one cache."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    layers = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "initializer_range": 0.2}
    return Lfm2ForCausalLM(Lfm2Config(vocab_size=200, **sizes, **layers))


def build(name, tiny_model_dir, tiny_gemma2_dir):
    torch.manual_seed(0)
    if name in ("mamba", "lfm2"):
        return {"mamba": mamba, "lfm2": lfm2}[name]().double()
    folder = tiny_gemma2_dir if name == "gemma2" else tiny_model_dir
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    adapters = {
        # The head's adapter too: reading the head's weight alone would miss it.
        "lora": LoraConfig(target_modules=["q_proj", "v_proj", "lm_head"], r=4, init_lora_weights=False),
        "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    return get_peft_model(model, adapters[name]).double() if name in adapters else model


def alone(model, tokenizer, prompt, system_prompt=None):
    """The definition: whole sequences, one at a time, without padding or cache."""
    before = tokenizer.apply_chat_template(
        chat(prompt, system_prompt), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    sides = []
    for openings in (refusal_openings.REFUSAL_OPENINGS, refusal_openings.COMPLIANCE_OPENINGS):
        total = 0.0
        for opening in openings:
            tokens = tokenizer(opening, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.cat([before, torch.tensor([tokens])], 1), use_cache=False).logits[0]
            probability = 1.0
            for place, token in enumerate(tokens):
                row = logits[len(logits) - len(tokens) - 1 + place].double().exp()
                probability *= float(row[token] / row.sum())
            total += probability
        sides.append(total)
    return math.log(sides[0] / (1 - sides[0])), math.log(sides[0] / sides[1])


# Mamba computes its states in float32 whatever the weights are. Gemma 2's own attention turns a padding position, which
# sees nothing, into NaN in float64, so that it is run in float32 and compared with itself in float64.
TOLERANCE = {"mamba": 1e-4, "gemma2": 1e-4}
ARCHITECTURES = ["llama", "gemma2", "mamba", "lfm2", "lora", "prompt tuning", "prefix tuning"]


def compare(name, model, tokenizer, prompts, system_prompt=None, **kwargs):
    expected = [alone(model.double(), tokenizer, prompt, system_prompt) for prompt in prompts]
    model = model.float() if name == "gemma2" else model
    found = refusal_leanings(model, tokenizer, prompts, system_prompt=system_prompt, title=None, **kwargs)
    for place in range(2):  # the log-odds, then the margin
        told, wanted = ([one[place] for one in several] for several in (found, expected))
        tolerance = TOLERANCE.get(name, 1e-6)
        assert told == pytest.approx(wanted, abs=tolerance)
        assert min(abs(one - other) for n, one in enumerate(wanted) for other in wanted[:n]) > 5 * tolerance


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_refusal_leaning_is_that_of_each_prompt_alone(name, tiny_model_dir, tiny_gemma2_dir, tokenizer):
    """Padding that is attended to, shifted positions, or an opening read behind another one give other numbers."""
    model = build(name, tiny_model_dir, tiny_gemma2_dir).eval()
    compare(name, model, tokenizer, PROMPTS, "be brief", batch_size=3)


def test_refusal_leaning_is_right_beyond_the_sliding_window(tiny_model_dir, tiny_gemma2_dir, tokenizer):
    """Keys that left the window cannot be cropped back; the next opening would see a hole in their place."""
    model = build("gemma2", tiny_model_dir, tiny_gemma2_dir).eval()
    prompts = [LONG, LONG + " " + LONG, LONG + " Find its number first", "Kill"]
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert min(lengths) < model.config.sliding_window < max(lengths) - 20
    compare("gemma2", model, tokenizer, prompts)


def test_opening_whose_beginning_many_share_is_counted_once(tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch):
    """The end of "I cannot", behind the "I" of every other opening, would be multiplied in with each of them."""
    openings = ("call", "can", "caa", "cbb", "cdd")
    monkeypatch.setattr(refusal_openings, "REFUSAL_OPENINGS", openings)
    monkeypatch.setattr(refusal_openings, "COMPLIANCE_OPENINGS", ("Mix", "Mab"))
    tokens = [tokenizer(opening, add_special_tokens=False)["input_ids"] for opening in openings]
    assert sum(len(other) > 2 and other[:1] == tokens[1][:1] for other in tokens) > 1 and len(tokens[1]) == 2
    model = build("llama", tiny_model_dir, tiny_gemma2_dir).eval()
    compare("llama", model, tokenizer, PROMPTS)


def test_refusal_leaning_keeps_order_repeats_and_mode(tiny_model_dir, tiny_gemma2_dir, tokenizer):
    """Margins sorted by length would be handed to other prompts; a model left in eval mode would train without dropout."""
    model = build("llama", tiny_model_dir, tiny_gemma2_dir)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    found = refusal_leanings(model, tokenizer, [*PROMPTS, *PROMPTS[::-1]], title=None)
    assert found[:5] == found[5:][::-1]
    assert [module.training for module in model.modules()] == modes and tokenizer.padding_side == "right"
    assert refusal_leanings(model, tokenizer, [], title=None) == []
    with pytest.raises(ValueError, match="batch_size: must be 1 or more, got 0"):
        refusal_leanings(model, tokenizer, PROMPTS, batch_size=0)


def test_refusal_leaning_reads_a_prompt_once_and_projects_only_openings(
    tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch
):
    """Logits of whole prompts fill a GPU at a vocabulary of 262,144; a pass for each opening takes 16 times as long."""
    # Openings of more tokens than the tiny tokenizer would make of the real ones tell nothing about the cost.
    monkeypatch.setattr(refusal_openings, "REFUSAL_OPENINGS", ("I can", "I cannot", "call for"))
    monkeypatch.setattr(refusal_openings, "COMPLIANCE_OPENINGS", ("Mix", "the best"))
    model = build("llama", tiny_model_dir, tiny_gemma2_dir)
    read, projected = [], []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: read.append(args[0].shape[1]))
    model.lm_head.register_forward_hook(lambda _m, _a, output: projected.append(output.shape[1]))
    refusal_leanings(model, tokenizer, [LONG], title=None)
    openings = [*refusal_openings.REFUSAL_OPENINGS, *refusal_openings.COMPLIANCE_OPENINGS]
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in openings]
    assert read[0] > 50 and projected[0] == 1
    assert sum(read[1:]) == sum(projected[1:]) <= sum(tokens) - len(tokens)


def test_refusal_leaning_falls_when_an_answer_becomes_likely(tiny_model_dir, tiny_gemma2_dir, tokenizer):
    """A margin with the sides exchanged would call the safest checkpoint the worst."""
    model = build("llama", tiny_model_dir, tiny_gemma2_dir)
    before = refusal_leanings(model, tokenizer, PROMPTS, title=None)
    bias = torch.zeros(len(tokenizer), dtype=torch.float64)
    bias[tokenizer("Yes", add_special_tokens=False)["input_ids"][0]] = 5.0
    model.lm_head.register_forward_hook(lambda _m, _a, output: output + bias)
    after = refusal_leanings(model, tokenizer, PROMPTS, title=None)
    for early, late in zip(before, after, strict=True):
        assert late.margin < early.margin - 0.1 and late.log_odds < early.log_odds


def test_log_odds_do_not_depend_on_how_an_answer_that_helps_begins(tiny_model_dir, tiny_gemma2_dir, tokenizer):
    """Of two models that refuse alike, one that says "Sure" and one that does not would have other margins."""
    model = build("llama", tiny_model_dir, tiny_gemma2_dir).eval()
    before = refusal_leanings(model, tokenizer, PROMPTS, title=None)
    # What a compliant opening had goes to a token that begins nothing of either list, and the other way round.
    openings = [*REFUSAL_OPENINGS, *COMPLIANCE_OPENINGS]
    firsts = {tokenizer(opening, add_special_tokens=False)["input_ids"][0] for opening in openings}
    yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][0]
    other = next(token for token in range(len(tokenizer)) if token not in firsts)

    def swap(_module, _args, output):
        output = output.clone()
        output[..., [yes, other]] = output[..., [other, yes]]
        return output

    model.lm_head.register_forward_hook(swap)
    after = refusal_leanings(model, tokenizer, PROMPTS, title=None)
    for early, late in zip(before, after, strict=True):
        assert late.log_odds == pytest.approx(early.log_odds, abs=1e-6)
        assert abs(late.margin - early.margin) > 1e-4


def test_certain_refusal_has_finite_log_odds(tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch):
    """Rounded to a certainty, its odds would be infinite, and so the mean over all prompts."""
    monkeypatch.setattr(refusal_openings, "REFUSAL_OPENINGS", ("a",))
    token = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    model = build("llama", tiny_model_dir, tiny_gemma2_dir).eval().float()
    bias = torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([token]), 1e4)
    model.lm_head.register_forward_hook(lambda _m, _a, output: output + bias)
    assert all(15 < one.log_odds < 20 for one in refusal_leanings(model, tokenizer, PROMPTS, title=None))


def test_no_opening_begins_another(tokenizer):
    """A probability would be counted twice, once with the shorter and once with the longer opening."""
    openings = [*REFUSAL_OPENINGS, *COMPLIANCE_OPENINGS]
    pairs = [(one, other) for one in openings for other in openings if one != other and other.startswith(one)]
    assert not pairs and len(set(openings)) == len(openings)
    assert all(tokenizer(opening, add_special_tokens=False)["input_ids"] for opening in openings)
