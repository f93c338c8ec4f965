# SPDX-License-Identifier: Apache-2.0
"""The probe of the boundary reads the same of a prompt however the batch is laid out."""

import pytest
import torch

from hf_ckt.models.batch import Batch
from hf_ckt.models.boundary_probe import BoundaryProbe, prompt_features
from hf_ckt.models.fingerprint import base_fingerprint
from tests import tiny_models
from tests.trainers import load

PROMPTS, ANSWERS = ([5, 6, 7], [8, 9], [3, 4, 2, 1, 6]), ([1, 2], [3], [4, 5, 6])


def _states(ids):
    """States of a model of two layers in which a token's is a function of itself and of its place."""
    generator = torch.Generator().manual_seed(1)
    tables = torch.randn(3, 12, 4, generator=generator)
    places = torch.randn(40, 4, generator=generator)
    return [table[torch.tensor(ids)] + places[: len(ids)] for table in tables]


def _expected(prompt, layers):
    """By hand: last state and mean without the first token, layer by layer."""
    states = _states(prompt)
    return torch.cat([part for layer in layers for part in (states[layer][-1], states[layer][1:].mean(0))])


def _padded():
    width = max(len(p) + len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True))
    ids, labels = torch.zeros(3, width, dtype=torch.long), torch.full((3, width), -100)
    states = [torch.zeros(3, width, 4) for _ in range(3)]
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        whole = prompt + answer
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(prompt) : len(whole)] = torch.tensor(answer)
        for layer, values in enumerate(_states(whole)):
            states[layer][row, : len(whole)] = values
    mask = torch.tensor([[i < len(p) + len(a) for i in range(width)] for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    return Batch({"input_ids": ids, "attention_mask": mask.long()}, labels), states


def _packed():
    ids, labels, positions, states = [], [], [], [[], [], []]
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        whole = prompt + answer
        ids += whole
        labels += [-100] * len(prompt) + answer
        positions += range(len(whole))
        for layer, values in enumerate(_states(whole)):
            states[layer].append(values)
    inputs = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    return Batch(inputs, torch.tensor([labels])), [torch.cat(parts)[None] for parts in states]


@pytest.mark.parametrize("laid_out", [_padded, _packed])
def test_prompt_features_are_those_by_hand(laid_out):
    """An answer's or a neighbour's token in the mean would let the probe read what it is to foretell."""
    batch, states = laid_out()
    numbers, features = prompt_features(states, batch, (1, 2))
    assert numbers.tolist() == [0, 1, 2]
    torch.testing.assert_close(features, torch.stack([_expected(prompt, (1, 2)) for prompt in PROMPTS]))


def test_documents_without_an_answer_are_left_out():
    """A row that counts nowhere has no decision; its odds would be those of another."""
    batch, states = _padded()
    batch = Batch(batch.inputs, batch.labels.index_fill(0, torch.tensor([1]), -100))
    numbers, features = prompt_features(states, batch, (2,))
    assert numbers.tolist() == [0, 2]
    torch.testing.assert_close(features[1], _expected(PROMPTS[2], (2,)))


def test_a_saved_probe_is_read_back(tmp_path):
    """A weight lost on the way to the file would route every row by chance."""
    batch, states = _padded()
    probe = BoundaryProbe((0, 2), torch.randn(16), -0.5, {"auroc": 0.9})
    probe.save(tmp_path)
    again = BoundaryProbe.load(tmp_path)
    assert again.layers == [0, 2] and again.facts == {"auroc": 0.9}
    assert torch.equal(again.weight, probe.weight) and again.bias == probe.bias
    for one, other in zip(probe.log_odds(states, batch), again.log_odds(states, batch), strict=True):
        torch.testing.assert_close(one, other)


def test_odds_under_autocast_are_those_without():
    """A matrix product in bfloat16 keeps 8 bits of sums in which large parts cancel: a sure prompt becomes a doubtful one."""
    batch, states = _padded()
    probe = BoundaryProbe((0, 2), torch.randn(16, generator=torch.Generator().manual_seed(0)) * 100, 3.0)
    expected = probe.log_odds(states, batch)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe.log_odds(states, batch)[1], expected)


def test_files_of_two_probes_are_refused(tmp_path):
    """A stop between two files leaves the weights of one probe with the layers of the other."""
    BoundaryProbe((0, 2), torch.randn(16), 0.0).save(tmp_path)
    facts = (tmp_path / "boundary_probe.json").read_text()
    for text in (facts.replace("2", "1"), facts.replace("layers", "levels"), "{", "[]"):
        (tmp_path / "boundary_probe.json").write_text(text)
        with pytest.raises(ValueError, match="damaged or of two probes"):
            BoundaryProbe.load(tmp_path)
    BoundaryProbe((0, 2), torch.full((16,), torch.nan), 0.0).save(tmp_path)
    with pytest.raises(ValueError, match="no finite weights"):
        BoundaryProbe.load(tmp_path)
    (tmp_path / "boundary_probe.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged or of two probes"):
        BoundaryProbe.load(tmp_path)


def test_a_probe_knows_its_model(tiny_model_dir, tmp_path):
    """Another model of the same shape gives as many numbers, of which the odds mean nothing."""
    model = load(tiny_model_dir)
    probe = BoundaryProbe((1,), torch.zeros(64), 0.0, {"fingerprint": base_fingerprint(model), "base": "tiny"})
    probe.require_model(model)
    with pytest.raises(ValueError, match="was fitted on tiny"):
        probe.require_model(load(tiny_models.save_tiny_llama(tmp_path / "other", seed=1)))
    BoundaryProbe((1,), torch.zeros(64), 0.0).require_model(model)  # says nothing of its model


def test_a_probe_of_another_model_is_refused(tmp_path):
    """Silently reading the wrong layer would give odds that mean nothing."""
    batch, states = _padded()
    with pytest.raises(ValueError, match="layer 7, and the model has 2 layers"):
        prompt_features(states, batch, (7,))
    with pytest.raises(ValueError, match="reads 5 numbers of each prompt, and this model gives 8"):
        BoundaryProbe((1,), torch.zeros(5), 0.0).log_odds(states, batch)
    with pytest.raises(ValueError, match=r"does not hold boundary_probe\.safetensors"):
        BoundaryProbe.load(tmp_path)
