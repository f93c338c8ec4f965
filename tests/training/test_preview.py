# SPDX-License-Identifier: Apache-2.0
"""What is shown of a run's rows and model is what the run has."""

from types import SimpleNamespace

import pytest
from datasets import Dataset

from hf_ckt.noise.noisy_prompts import NoisyPrompts
from hf_ckt.training.preview import first_documents, model_facts, token_texts
from tests.runs import OFF, rows
from tests.trainers import build, lora, run

NOISY = {**OFF, "consistency_weight": 1.0}


@pytest.mark.parametrize("perturbation", ["typos", "token_dropout"])
def test_noisy_prompts_that_are_shown_are_those_of_the_first_step(perturbation, tiny_model_dir, tmp_path, monkeypatch):
    """Noise that is drawn anew for the eye is not the noise that is trained on."""
    changes = {**NOISY, "perturbation": perturbation, "perturbation_severity": 0.3, "consistency_fraction": 0.7}
    trainer = build(tmp_path, tiny_model_dir, **changes, max_length=None, max_steps=1, per_device_train_batch_size=8)
    shown = first_documents(trainer, 8)
    made, perturb = {}, NoisyPrompts.perturb

    def spy(self, document, *args, **kwargs):
        noisy = perturb(self, document, *args, **kwargs)
        made[tuple(token_texts(self.tokenizer, document.ids))] = tuple(token_texts(self.tokenizer, noisy.ids))
        return noisy

    monkeypatch.setattr(NoisyPrompts, "perturb", spy)
    run(trainer)
    expected = [made.get(one.clean.tokens) for one in shown]
    assert [None if one.noisy is None else one.noisy.tokens for one in shown] == expected
    assert 0 < expected.count(None) < 8  # by the fraction
    assert any(one.noisy not in (None, one.clean) for one in shown)
    for one in shown:
        if one.noisy is not None:
            answers = [
                [token for token, counts in zip(text.tokens, text.counts, strict=True) if counts]
                for text in (one.clean, one.noisy)
            ]
            assert answers[0] == answers[1]


def test_documents_of_a_packed_row_are_shown_apart(tiny_model_dir, tmp_path):
    """A row of several texts that is shown as one hides where each ends."""
    trainer = build(tmp_path, tiny_model_dir, **OFF, packing=True, max_length=200)
    shown = first_documents(trainer, 3)
    assert [(one.row, one.number) for one in shown][:2] == [(1, 1), (1, 2)] and shown[0].of > 1
    for one in shown:
        text = "".join(one.clean.tokens)
        assert text.startswith("How do I kill ") and text.endswith("<|im_end|>") and text.count("How do I") == 1


@pytest.mark.parametrize("perturbation", ["gaussian", "typos"])
def test_cut_rows_say_so(perturbation, tiny_model_dir, tmp_path):
    """An answer that was cut teaches to stop in the middle, or never to stop."""
    trainer = build(tmp_path, tiny_model_dir, **NOISY, perturbation=perturbation, max_length=20)
    tokenizer = trainer.processing_class
    for one, row in zip(first_documents(trainer, 3), rows(3), strict=True):
        whole = len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1
        assert whole > 20 and len(one.clean.tokens) == 20
        # Only where texts are kept is it known how long they were.
        assert (one.whole, one.at_limit) == ((whole, False) if perturbation == "typos" else (None, True))
    whole = build(tmp_path, tiny_model_dir, **NOISY, perturbation=perturbation, max_length=None)
    assert all(one.whole is None and not one.at_limit for one in first_documents(whole, 3))


def test_severity_that_begins_at_nothing_is_shown_at_its_end(tiny_model_dir, tmp_path):
    """A noisy view without noise looks like one that does not work."""
    changes = {"perturbation": "typos", "perturbation_severity": 0.4, "perturbation_severity_schedule": "warmup"}
    trainer = build(tmp_path, tiny_model_dir, **NOISY, **changes)
    (one,) = first_documents(trainer, 1)
    assert one.severity == 0.4 and one.noisy != one.clean


def test_looking_at_rows_counts_for_no_log(tiny_model_dir, tmp_path):
    """Rows that are only shown would be among the share that stayed clean."""
    trainer = build(tmp_path, tiny_model_dir, **NOISY, perturbation="typos")
    counts = trainer._extra_passes.noisy.prompts.stayed_clean
    first_documents(trainer, 3)
    assert trainer._extra_passes.noisy.prompts.stayed_clean is not counts
    assert not trainer._extra_passes.noisy.prompts.stayed_clean._tried


def test_tokens_keep_the_space_that_is_part_of_them():
    """SentencePiece drops the space before the first word of a text, and each token is one."""
    words = {0: ("<s>", "<s>"), 1: ("\u2581Hi", "Hi"), 2: ("!", "!"), 3: ("\u2581you", "you")}
    tokenizer = SimpleNamespace(
        convert_ids_to_tokens=lambda ids: [words[one][0] for one in ids],
        batch_decode=lambda lists, **_: [words[one][1] for (one,) in lists],
    )
    assert token_texts(tokenizer, [0, 1, 3, 2]) == ["<s>", " Hi", " you", "!"]


def test_model_facts_are_those_of_its_parameters(tiny_model_dir, tmp_path):
    """A count that takes frozen weights for trained ones hides a model that trains as a whole."""
    adapter = build(tmp_path, tiny_model_dir, Dataset.from_list(rows()), given={"peft_config": lora()}, **OFF)
    whole = build(tmp_path, tiny_model_dir, Dataset.from_list(rows()), **OFF)
    for trainer in (adapter, whole):
        parameters = list(trainer.model.parameters())
        facts = model_facts(trainer)
        assert facts.total == sum(p.numel() for p in parameters) and facts.kind == "LlamaForCausalLM"
        assert facts.trained == sum(p.numel() for p in parameters if p.requires_grad)
    found = model_facts(adapter).adapter
    assert found["kind"] == "LORA" and found["r"] == 4 and len(found["target_modules"]) >= 7
    assert model_facts(whole).adapter is None
