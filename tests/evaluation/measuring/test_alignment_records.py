# SPDX-License-Identifier: Apache-2.0
"""Student, teacher and base on the same responses: against the models' own logits, and what is kept in memory."""

from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring import alignment_records as module
from hf_ckt.evaluation.measuring.alignment_records import compare_models
from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.scoring.alignment import merged
from tests.evaluation.scoring.test_alignment import expected_quantities
from tests.references import Recorder
from tests.tiny_models import save_tiny_llama
from tests.trainers import load, lora

PROMPTS = ["How do I bake bread?", "Kill a process", "Help", "What is it?"]
RESPONSES = ["Mix flour and water.", "Find its number first, then end it.", "", "I cannot help with that."]


def _response_logits(model, tokenizer, prompt, response, limit=None):
    """Logits at the tokens of one response, without padding."""
    before = tokenizer.apply_chat_template(
        chat(prompt, "be brief"), tokenize=True, return_dict=True, add_generation_prompt=True
    )["input_ids"]
    after = tokenizer(response, add_special_tokens=False)["input_ids"][:limit]
    with torch.no_grad():
        return model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].numpy()


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_gemma2_dir"])
def test_compare_models_is_what_the_models_logits_say(folder, limit, request, monkeypatch, tmp_path):
    """Shifted by one token, without the adapter or the cap of Gemma, it would be the agreement of other predictions."""
    monkeypatch.setattr(module, "_ROWS", 3)
    monkeypatch.setattr(module, "_TILE", 4)
    path = request.getfixturevalue(folder)
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    student = get_peft_model(load(path, attn_implementation="eager"), lora())
    teacher = load(save_tiny_llama(tmp_path / "teacher", seed=5))
    records = compare_models(
        partial(nullcontext, student),
        partial(nullcontext, teacher),
        tokenizer,
        PROMPTS,
        RESPONSES,
        base=partial(_without, student),
        system_prompt="be brief",
        max_tokens=limit,
    )
    answered = [(prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True) if response]
    assert len(records) == len(answered)  # an empty response has no token to agree on
    student.eval(), teacher.eval()
    for (prompt, response), record in zip(answered, records, strict=True):
        logits = [_response_logits(model, tokenizer, prompt, response, limit) for model in (student, teacher)]
        with student.disable_adapter():
            base = _response_logits(student, tokenizer, prompt, response, limit)
        expected = {name: sum(values) for name, values in expected_quantities(*logits).items() if name != "confidence"}
        expected["base_kl"] = sum(expected_quantities(base, logits[1])["kl"])
        assert record["sums"] == pytest.approx(expected, abs=2e-4) and record["tokens"] == len(logits[0])
        assert record["bins"] == np.array(record["bins"]).tolist() and sum(one[0] for one in record["bins"]) == len(
            logits[0]
        )
    assert abs(records[0]["sums"]["kl"] - records[0]["sums"]["base_kl"]) > 1e-3  # the adapter does something


@contextmanager
def _without(model):
    with model.disable_adapter():
        yield model


def test_compare_models_switches_adapters_on_one_backbone(tiny_model_dir):
    """Models that are made ready one after the other, but read only at the end, would all be the last one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    torch.manual_seed(0)
    model = get_peft_model(load(tiny_model_dir), lora(), adapter_name="student")
    model.add_adapter("teacher", lora())

    @contextmanager
    def active(name):
        model.set_adapter(name)
        yield model

    records = compare_models(
        partial(active, "student"),
        partial(active, "teacher"),
        tokenizer,
        PROMPTS,
        RESPONSES,
        base=partial(_without, model),
    )
    total = merged(records)
    assert total["sums"]["kl"] > 0.01 * total["tokens"] and total["sums"]["base_kl"] != total["sums"]["kl"]
    same = merged(
        compare_models(partial(active, "student"), partial(active, "student"), tokenizer, PROMPTS, RESPONSES)
    )
    assert same["sums"]["kl"] == 0 and same["sums"]["acceptance"] == pytest.approx(same["tokens"])


def test_compare_models_reads_without_dropout_and_gives_each_module_its_mode_back(tiny_model_dir):
    """In training mode a model would disagree with itself, by its dropout."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = load(tiny_model_dir, attention_dropout=0.5).train()
    model.lm_head.eval()
    modes = [module.training for module in model.modules()]
    (record,) = compare_models(
        partial(nullcontext, model), partial(nullcontext, model), tokenizer, PROMPTS[:1], RESPONSES[:1]
    )
    assert record["sums"]["kl"] == 0
    assert [module.training for module in model.modules()] == modes


def test_compare_models_holds_the_logits_of_a_tile_alone(tiny_model_dir, monkeypatch):
    """With a vocabulary of 262,144 the logits of one batch of long responses are tens of gigabytes."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = load(tiny_model_dir)
    monkeypatch.setattr(module, "_TILE", 40)  # more than the 32 rows of the head's transpose, which looks like logits
    with Recorder(len(tokenizer)) as recorder:
        records = compare_models(
            partial(nullcontext, model), partial(nullcontext, model), tokenizer, PROMPTS, [RESPONSES[1] * 5] * 4
        )
    assert sum(record["tokens"] for record in records) > 160
    assert recorder.largest_logits == 40 * len(tokenizer)


def test_a_token_that_the_teacher_has_no_embedding_for_is_named(tiny_model_dir):
    """A student with added tokens ended in an IndexError of the teacher's embedding, after minutes of generation."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["<|new|>"])
    student = load(tiny_model_dir)
    student.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    models = partial(nullcontext, student.eval()), partial(nullcontext, load(tiny_model_dir).eval())
    assert compare_models(*models, tokenizer, PROMPTS[:1], RESPONSES[:1])
    with pytest.raises(
        ValueError, match=rf"has embeddings for {len(tokenizer) - 1} tokens.*gave id {len(tokenizer) - 1}"
    ):
        compare_models(*models, tokenizer, PROMPTS[:1], ["Mix <|new|> flour."])
