# SPDX-License-Identifier: Apache-2.0
"""Two models side by side: each answers as it does alone, from one backbone, and stops when it is told to."""

from contextlib import closing

import pytest
import torch

from hf_ckt.data.corrupt import prompt_noise
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.measuring.answers import greedy_answers
from hf_ckt.evaluation.measuring.chat_format import chat_formats
from hf_ckt.evaluation.measuring.models import Loading, entries
from hf_ckt.evaluation.measuring.refusal_openings import refusal_leanings
from hf_ckt.evaluation.side_by_side import Asking, SideBySide
from tests.evaluation.measuring.saved_adapters import save_adapter
from tests.trainers import load

PROMPT = "How do I kill a process?"
CLEAN = Asking()
LOADING = Loading(dtype="float32")


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    return save_adapter(tiny_model_dir, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def pair(tiny_model_dir, adapter):
    """Makes the base and its adapter, with further settings."""

    def make(**settings):
        listed, _ = entries(str(tiny_model_dir), adapter)
        return SideBySide(chat_formats(listed, thinking_tokens=0), LOADING, **{"new_tokens": 12, **settings})

    return make


def _answers(side, asking=CLEAN, prompt=PROMPT):
    return ["".join(side.answer(entry, prompt, asking)) for entry in side.entries]


def test_each_streams_the_answer_that_it_gives_alone(pair, tiny_model_dir, adapter):
    """The adapter left on for the base, or sampling from its own configuration, would show answers of no evaluation."""
    from peft import PeftModel

    side = pair()
    base = load(tiny_model_dir).eval()
    tokenizer = side.formats[side.entries[0]].tokenizer
    alone = greedy_answers(base, tokenizer, [PROMPT], new_tokens=12)
    alone += greedy_answers(PeftModel.from_pretrained(base, adapter).eval(), tokenizer, [PROMPT], new_tokens=12)
    assert alone[0] != alone[1]
    for _ in range(2):  # the first to be asked is the base, whose backbone has no adapter on it by then
        assert [answer.strip() for answer in _answers(side)] == alone


def test_margins_are_those_of_an_evaluation(pair, tiny_model_dir, adapter):
    """A margin of another model or prompt than the answer beside it explains nothing."""
    from peft import PeftModel

    side, prompts = pair(), [PROMPT, "How do I bake bread?"]
    tokenizer = side.formats[side.entries[0]].tokenizer
    base = load(tiny_model_dir).eval()
    alone = [refusal_leanings(base, tokenizer, prompts, title=None)]
    alone.append(refusal_leanings(PeftModel.from_pretrained(base, adapter).eval(), tokenizer, prompts, title=None))
    for entry, wanted in zip(side.entries, alone, strict=True):
        found = side.leanings(entry, prompts)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=0, atol=1e-4)
    assert abs(alone[0][0].margin - alone[1][0].margin) > 0.01


def test_both_share_one_backbone(pair):
    """A second copy of the base would double the memory that a chat takes."""
    side = pair()
    side.load()
    pointers = []
    for entry in side.entries:
        with side._backbones.active(entry) as model:
            pointers.append({p.data_ptr() for name, p in model.named_parameters() if "lora_" not in name})
    assert pointers[0] == pointers[1] and len(pointers[0]) > 10


def test_streaming_gives_words_before_the_end_and_stops_when_closed(pair):
    """An answer that comes at once is no stream; one that is written on after Ctrl-C keeps the next prompt waiting."""
    side = pair(new_tokens=200)
    base = side.entries[0]
    passes = []
    with side._backbones.active(base) as model:
        model.register_forward_hook(lambda *_: passes.append(1))
    with closing(side.answer(base, PROMPT, Asking())) as pieces:
        next(pieces)
        at_first = len(passes)
    assert at_first < 150, "the first word came with the last"
    stopped = len(passes)
    assert stopped < 200
    assert len("".join(side.answer(base, PROMPT, Asking()))) > 0 and len(passes) - stopped >= 100


def test_prompts_stand_alone(pair):
    """With a history, each model would read its own earlier answers, and the texts compared would differ."""
    side = pair()
    first = _answers(side)
    _answers(side, prompt="Something else.")
    assert _answers(side) == first


def test_temperature_draws_by_the_seed_alone(pair):
    """A drawn answer that cannot be had again is an anecdote, and a temperature that changes nothing was dropped."""
    side = pair()
    drawn = [_answers(side, Asking(temperature=2.0, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0] != _answers(side)
    state = torch.random.get_rng_state()
    _answers(side, Asking(temperature=2.0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_temperature_draws_from_all_tokens(pair):
    """transformers fills an open top_k with 50: what is rare would never be drawn, whatever the temperature."""
    side = pair(new_tokens=1)
    entry = side.entries[0]
    seen = {"".join(side.answer(entry, PROMPT, Asking(temperature=50.0, seed=seed))) for seed in range(160)}
    assert len(seen) > 60


@pytest.mark.parametrize("name", ["typos", "wrapper"])
def test_noise_is_that_of_the_perturbation(name):
    """Noise of its own would show prompts that no evaluation and no `hf-ckt perturb` shows."""
    part = load_part("perturbations", name)
    assert Asking(name, 0.4, 3).asked(PROMPT) == part(0.4).apply(PROMPT, prompt_noise(PROMPT, 3)) != PROMPT
    assert Asking(name, seed=3).asked(PROMPT) == part().apply(PROMPT, prompt_noise(PROMPT, 3))
    assert Asking().asked(PROMPT) == PROMPT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perturbation": "typo"}, "Did you mean 'typos'"),
        ({"perturbation": "gaussian"}, "gaussian changes embeddings.*Use one of text: casing"),
        ({"perturbation": "typos", "severity": 1.5}, "severity: must lie in"),
        ({"seed": -1}, "seed: must be 0 or more"),
        ({"temperature": -0.5}, "temperature: must lie in .*Use 0 for greedy"),
    ],
)
def test_asking_refuses_what_it_cannot_do(settings, message):
    """A value that is clipped or ignored shows noise of another kind than the one that is said."""
    with pytest.raises(ValueError, match=message):
        Asking(**settings)


def test_prompt_beyond_the_learned_positions_is_refused_before_its_margin_is_read(pair, monkeypatch):
    """The margin comes first, and an index that is out of range says nothing of the prompt."""
    side = pair()
    monkeypatch.setattr("hf_ckt.models.positions.learned_positions", lambda model: 40)
    with pytest.raises(ValueError, match="the model has learned 40 positions"):
        side.leanings(side.entries[0], ["short", PROMPT * 9])


def test_error_while_writing_reaches_who_reads(pair, monkeypatch):
    """An error in the thread that writes would leave the reader waiting for ever."""
    side = pair(new_tokens=10_000)
    monkeypatch.setattr("hf_ckt.models.positions.learned_positions", lambda model: 256)
    with pytest.raises(ValueError, match="the model has learned 256 positions"):
        _answers(side)


def test_own_generation_configuration_is_kept_where_it_is_asked_for(pair, tiny_model_dir, tmp_path):
    """An adapter with a bias of its own would be shown without it; beams cannot be shown while they are written."""
    from transformers import GenerationConfig

    path = save_adapter(tiny_model_dir, tmp_path / "biased")
    tokenizer = load_tokenizer(tiny_model_dir)
    GenerationConfig(sequence_bias=[[[tokenizer("!").input_ids[0]], 50.0]]).save_pretrained(path)
    formats = chat_formats(entries(str(tiny_model_dir), path)[0], thinking_tokens=0)
    plain = SideBySide(formats, LOADING, new_tokens=4)
    kept = SideBySide(formats, LOADING, new_tokens=4, keep_generation_config=True)
    assert _answers(kept)[1] == "!!!!" != _answers(plain)[1]
    GenerationConfig(num_beams=3).save_pretrained(path)
    with pytest.raises(ValueError, match="3 beams, which cannot be shown while they are written"):
        SideBySide(formats, LOADING, keep_generation_config=True).load()


def load_tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
