# SPDX-License-Identifier: Apache-2.0
"""What every penalty on the student's parameters keeps, whatever its file."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_ckt.discovery import load_part, part_names
from hf_ckt.losses.base import ParameterLoss
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import reference_of
from tests.contracts.settings import check_wrong_settings_raise

NAMES = [name for name in part_names("losses") if issubclass(load_part("losses", name), ParameterLoss)]
each_loss = pytest.mark.parametrize("name", NAMES)


def make_model() -> nn.Module:
    """Two adapted layers of different shape, in float64."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["0", "1"], init_lora_weights=False)
    return get_peft_model(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), config).double()


@each_loss
def test_parameter_loss_equals_its_formula(name):
    """A penalty on something else than its docstring says still shrinks during training."""
    model = make_model()
    loss = load_part("losses", name)()
    assert loss.penalty(model).item() == pytest.approx(reference_of(loss)(model), rel=1e-10)


@each_loss
def test_parameter_loss_gradient_equals_differences_of_its_formula(name):
    """A right value with a wrong gradient shrinks other parameters than those that the value counts."""
    model, step = make_model(), 1e-5
    loss = load_part("losses", name)()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss.penalty(model), trained, allow_unused=True)
    for parameter, gradient in zip(trained, found, strict=True):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[0, 1] += sign * step
                values.append(reference_of(loss)(model))
                parameter[0, 1] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        assert (0.0 if gradient is None else gradient[0, 1].item()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@each_loss
def test_parameter_loss_leaves_frozen_parameters_alone(name):
    """A gradient for the base would be computed, kept in memory and never used."""
    model = make_model()
    load_part("losses", name)().penalty(model).backward()
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


@each_loss
def test_parameter_loss_survives_copy_and_pickle(name):
    """A setting lost on the way falls back to its default."""
    loss, model = load_part("losses", name)(), make_model()
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(again.penalty(model), loss.penalty(model))


@each_loss
def test_parameter_loss_documents_itself_and_refuses_wrong_settings(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("losses", name), example=False)
    check_wrong_settings_raise(load_part("losses", name))
