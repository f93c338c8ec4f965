# SPDX-License-Identifier: Apache-2.0
"""What every token loss keeps when it runs on tiles, in each of its roles: values, gradients, settings, documentation."""

import pickle

import pytest

from hf_ckt.discovery import load_part, names_for_role, part_names
from hf_ckt.losses.base import Divergence, TokenLoss
from tests.contracts import token_checks as checks
from tests.contracts.documentation import check_documentation
from tests.contracts.settings import check_wrong_settings_raise

LOSSES = checks.token_losses()
DIVERGENCES = [key for key, make in LOSSES.items() if isinstance(make(), Divergence)]
ONE_EACH = [key for key in LOSSES if not key.endswith("-2.5") and "robust" not in key]
CLASSES = [name for name in part_names("losses") if issubclass(load_part("losses", name), TokenLoss)]

each_loss = pytest.mark.parametrize("key", LOSSES)
one_each = pytest.mark.parametrize("key", ONE_EACH)
each_divergence = pytest.mark.parametrize("key", DIVERGENCES)


@each_loss
def test_token_loss_equals_its_formula(key):
    """A loss that computes something else than its docstring says still falls during training."""
    checks.check_value(LOSSES[key]())


@each_loss
def test_token_loss_gradient_equals_differences_of_its_formula(key):
    """A right value with a wrong gradient (temperature^2 in one of them only) trains to another optimum."""
    checks.check_gradient_against_differences(LOSSES[key]())


@each_loss
def test_token_loss_gradients_equal_dense_autograd(key):
    """The gradient made tile by tile in the forward pass could miss a view, a tile or a stop-gradient."""
    checks.check_gradients_equal_dense(LOSSES[key]())


@each_divergence
def test_divergence_is_zero_at_equality(key):
    """A 'KL' that is 2.05 at equality keeps pulling on a student that has arrived."""
    checks.check_zero_at_equality(LOSSES[key]())


@each_divergence
def test_divergence_is_positive_elsewhere(key):
    """A negative divergence rewards the student for leaving its target."""
    checks.check_positive_elsewhere(LOSSES[key]())


@one_each
def test_token_loss_ignores_masked_positions(key):
    """Padding or prompt tokens that leak into the sum change the loss with the batch's shape."""
    checks.check_masked_positions_do_not_matter(LOSSES[key]())


@one_each
def test_token_loss_ignores_the_order_of_tokens(key):
    """A loss that couples neighbouring positions of a tile would depend on how the data were shuffled."""
    checks.check_order_does_not_matter(LOSSES[key]())


@one_each
def test_token_loss_of_a_split_batch_adds_up(key):
    """Gradient accumulation would train on another objective than one large batch."""
    checks.check_split_batch_adds_up(LOSSES[key]())


@one_each
def test_token_loss_of_an_all_masked_batch_is_zero_and_connected(key):
    """0 / 0 turns the weights into NaN; a missing gradient hangs DDP."""
    checks.check_all_masked_is_zero_and_connected(LOSSES[key]())


@each_loss
def test_token_loss_passes_gradcheck(key):
    """Every entry of every gradient, in the code that trains, over several tiles."""
    checks.check_gradcheck(LOSSES[key]())


@each_loss
def test_token_loss_gives_its_target_models_no_gradient(key):
    """A teacher that moves towards its student lowers the loss and teaches nothing."""
    checks.check_targets_get_no_gradient(LOSSES[key]())


@one_each
def test_token_loss_honours_an_outer_factor(key):
    """A loss scaler or an outer weight that is forgotten in backward changes the step size silently."""
    checks.check_outer_gradient(LOSSES[key]())


@one_each
def test_token_loss_survives_copy_and_pickle(key):
    """Data loaders and launchers copy objects; a setting lost on the way falls back to its default."""
    checks.check_copies_compute_the_same(LOSSES[key]())
    checks.check_copies_compute_the_same(LOSSES[key](), lambda loss: pickle.loads(pickle.dumps(loss)))


@pytest.mark.parametrize("name", CLASSES)
def test_token_loss_documents_itself(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("losses", name))


@pytest.mark.parametrize("name", CLASSES)
def test_token_loss_refuses_wrong_settings_by_name(name):
    """A NaN temperature is found at once here, or after an hour as a NaN loss."""
    check_wrong_settings_raise(load_part("losses", name))


@pytest.mark.parametrize("name", [name for name in CLASSES if issubclass(load_part("losses", name), Divergence)])
def test_divergence_refuses_temperature_zero(name):
    """Division by it gives inf - inf in the softmax."""
    with pytest.raises(ValueError, match=r"^temperature: must be greater than 0, got 0"):
        load_part("losses", name)(temperature=0)


@pytest.mark.parametrize("name", checks.CONSISTENCY)
def test_consistency_loss_moves_the_clean_view_unless_it_says_otherwise(name):
    """`consistency_kl` fixes the clean prediction; the symmetric ones move it, which is what they are chosen for."""
    cls = load_part("losses", name)
    loss = cls(role="consistency")
    if cls.detach_target:
        checks.check_clean_view_is_detached(loss)
    else:
        found = checks.gradients(checks.make_case(), {loss: 1.0}, ("student", "noisy"))
        assert min(gradient.abs().max() for gradient in found.values()) > 1e-3


def test_consistency_kl_fixes_its_target_and_the_symmetric_losses_do_not():
    """By name, so that a flag flipped in a file does not flip its own test with it."""
    fixed = {name for name in names_for_role("consistency") if load_part("losses", name).detach_target}
    assert "consistency_kl" in fixed
    assert not {"symmetric_kl", "jensen_shannon"} & fixed


def test_squared_temperature_belongs_to_the_kl_family_alone():
    """Total variation and Jensen-Shannon would leave their bounds, KL would lose its gradient's size."""
    squared = {name for name in CLASSES if getattr(load_part("losses", name), "squared_temperature", None)}
    assert {"forward_kl", "reverse_kl", "skew_forward_kl", "skew_reverse_kl"} <= squared
    assert {"consistency_kl", "symmetric_kl", "reference_kl"} <= squared
    assert not {"total_variation", "jensen_shannon"} & squared


def test_token_loss_roles_are_the_known_ones():
    """A misspelt role makes the loss unreachable from every config."""
    from hf_ckt.objective.objective import ROLES

    for name in part_names("losses"):
        roles = load_part("losses", name).roles
        assert roles and set(roles) <= set(ROLES), name
