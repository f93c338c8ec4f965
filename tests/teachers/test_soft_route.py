# SPDX-License-Identifier: Apache-2.0
"""Two teachers mixed by a probe of the prompt; `make` is what the contracts compare it by."""

import torch

from hf_ckt.models.boundary_probe import BoundaryProbe
from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.teachers.soft_route import SoftRouteTeacher
from tests import tiny_models
from tests.teachers.signals import dense
from tests.trainers import load

LAYERS = [1, 2]
# The tiny model's width.
WIDTH = 32


def probe(layers=LAYERS, seed=3, scale=0.02, bias=0.3, **facts):
    """A probe whose odds differ from prompt to prompt, some for and some against."""
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(2 * len(layers) * WIDTH, generator=generator)
    return BoundaryProbe(layers, weight, bias, facts)


def odds_by_hand(base, ids, labels, one=None, sharpness=1.0):
    """The log-odds of one text's prompt: a loop over the layers of a pass over it alone, in float64."""
    one = one or probe()
    first = next(place for place, label in enumerate(labels.tolist()) if label != -100) - 1
    with torch.no_grad():
        states = base(input_ids=ids[None], output_hidden_states=True).hidden_states
    features = []
    for layer in one.layers:
        own = states[layer][0].double()
        features += [own[first], own[1 : first + 1].mean(0)]
    return sharpness * float(torch.cat(features) @ one.weight.double() + one.bias)


def rows_of(batch):
    """The texts of a padded batch, each with its labels, without its padding."""
    for ids, labels, mask in zip(batch.inputs["input_ids"], batch.labels, batch.inputs["attention_mask"], strict=True):
        yield ids[mask.bool()], labels[mask.bool()]


def mixed_by_hand(refuse, base, batch, one=None, sharpness=1.0):
    """Log-probabilities of the mixture at the kept positions, text by text."""
    found = []
    for ids, labels in rows_of(batch):
        p = torch.sigmoid(torch.tensor(odds_by_hand(base, ids, labels, one, sharpness), dtype=torch.float64))
        places = (labels[1:] != -100).nonzero()[:, 0]
        with torch.no_grad():
            two = [model(input_ids=ids[None]).logits[0, places].double().softmax(-1) for model in (refuse, base)]
        found.append((p * two[0] + (1 - p) * two[1]).log())
    return torch.cat(found).float()


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "refuse", seed=7)
    probe().save(tmp_path / "probe")
    given = {"soft_route": str(tmp_path / "probe"), "refuse": str(folder)}
    return given, lambda batch: mixed_by_hand(load(folder).eval(), load(student_folder).eval(), batch)
