# SPDX-License-Identifier: Apache-2.0
"""What every discovered token loss and metric must keep, whoever adds it."""

import copy
import pickle

import pytest
import torch

from hf_ckt.discovery import load_part, part_name, part_names, part_settings
from hf_ckt.kernels import LinearHead, chunked_token_losses
from hf_ckt.losses.base import PAIRS, Divergence, TokenLoss
from hf_ckt.views import LogitsView, TokenViews
from tests import references
from tests.contracts import token_checks as checks
from tests.contracts.own_test import reference_of, said_of

LOSSES = [name for name in part_names("losses") if issubclass(load_part("losses", name), TokenLoss)]
DIVERGENCES = [name for name in LOSSES if issubclass(load_part("losses", name), Divergence)]
METRICS = part_names("metrics")
# Each divergence in each role that it can serve; consistency may also aim at the teacher.
ROLES = [(name, role) for name in DIVERGENCES for role in load_part("losses", name).roles]
ROLES += [(name, "robust_consistency") for name, role in ROLES if role == "consistency"]


def views_of(**logits) -> TokenViews:
    return TokenViews(
        labels=torch.zeros(next(iter(logits.values())).shape[0], dtype=torch.long),
        **{name: LogitsView(value) for name, value in logits.items()},
    )


def random_logits(seed: int, rows: int = 5, vocab: int = 7) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "role"), ROLES)
def test_divergence_is_zero_at_equality_and_never_negative(name, role):
    """A KL that is 2.05 at equality trains away from a teacher that was already matched."""
    loss = load_part("losses", name)(role=role)
    target, prediction = PAIRS[role]
    same, other = random_logits(0), random_logits(1)
    equal = loss.per_token(views_of(**{target: same, prediction: same.clone(), "student": same}))
    torch.testing.assert_close(equal, torch.zeros(5, dtype=torch.float64), atol=1e-14, rtol=0)
    assert (loss.per_token(views_of(**{"student": other, target: same, prediction: other})) > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_equals_its_formula_written_out(name, temperature):
    """Expected values from loops over the vocabulary: a swapped argument or a lost factor shows at once."""
    loss = load_part("losses", name)(temperature=temperature)
    reference = reference_of(loss)
    target_view, prediction_view = PAIRS[loss.role]
    target, prediction = random_logits(2), random_logits(3)
    values = loss.per_token(views_of(**{"student": prediction, target_view: target, prediction_view: prediction}))
    expected = [reference(p, q, temperature) for p, q in zip(target.tolist(), prediction.tolist(), strict=True)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in DIVERGENCES])
def test_loss_of_labels_equals_its_formula_written_out(name):
    """The task losses must be SFTTrainer's, or turning an extra term on would change the task."""
    loss, labels = load_part("losses", name)(), torch.tensor([1, 0, 6, 3, 2])
    reference = reference_of(loss)
    logits = {view: random_logits(seed) for seed, view in enumerate(("student", "teacher", "noisy", "reference"), 4)}
    views = TokenViews(labels=labels, **{view: LogitsView(values) for view, values in logits.items()})
    rows = [{view: values[i].tolist() for view, values in logits.items()} for i in range(len(labels))]
    expected = [reference(row, label) for row, label in zip(rows, labels.tolist(), strict=True)]
    torch.testing.assert_close(loss.per_token(views), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_targets_get_a_gradient_only_where_the_loss_says_so(name):
    """A clean view that chases the noisy one lets the model become constant instead of stable."""
    loss = load_part("losses", name)()
    target_view, prediction_view = PAIRS[loss.role]
    target, prediction = random_logits(5).requires_grad_(), random_logits(6).requires_grad_()
    loss.per_token(views_of(**{"student": target, target_view: target, prediction_view: prediction})).sum().backward()
    assert prediction.grad.abs().sum() > 0
    moves_target = said_of(loss, "MOVES_TARGET", None)
    if moves_target is not None:
        assert (target.grad is not None and bool(target.grad.abs().sum() > 0)) is moves_target


def test_own_tests_say_which_divergences_move_their_target():
    """A misspelt answer would drop the check above for the three losses that it is about."""
    said = {name: said_of(load_part("losses", name)(), "MOVES_TARGET", None) for name in DIVERGENCES}
    expected = {"consistency_kl": False, "reference_kl": False, "symmetric_kl": True}
    assert {name: said[name] for name in expected} == expected


@pytest.mark.parametrize("name", LOSSES)
def test_loss_survives_copies_and_names_its_source(name):
    """A loss that cannot be pickled cannot be sent to another process; one without a source cannot be checked."""
    cls = load_part("losses", name)
    loss = cls()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(twin) == repr(loss) and part_name(twin) == name
    doc = cls.__doc__
    assert "Source:" in doc and ">>>" in doc
    for setting in part_settings(cls):
        assert f"{setting} (`" in doc, f"{name}: describe the setting {setting}"


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_refuses_an_impossible_temperature(name, temperature):
    """A temperature of 0 gives NaN at the first step, long after it was typed."""
    with pytest.raises(ValueError, match="temperature"):
        load_part("losses", name)(temperature=temperature)


def inputs_for(name: str, **kwargs) -> tuple[dict, dict]:
    inputs = references.case(**kwargs)
    return inputs, {name: 1.0}


@pytest.mark.parametrize("name", LOSSES)
def test_masked_positions_do_not_matter(name):
    """Padding that leaks into a loss makes it depend on the longest sequence of the batch."""
    inputs, weights = inputs_for(name)
    reference = references.run(inputs, weights, chunk_size=4)
    masked = inputs["labels"] == -100
    for key in ("student_hidden", "noisy_hidden", "teacher_hidden", "reference_hidden"):
        inputs[key] = torch.where(masked[:, None], torch.full_like(inputs[key], 1e6), inputs[key])
    changed = references.run(inputs, weights, chunk_size=4)
    assert torch.equal(changed.total, reference.total)
    assert changed.num_kept == int((~masked).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_order_does_not_matter_and_parts_add_up(name):
    """A loss that couples tokens would change with shuffling, micro-batches and ranks."""
    inputs, weights = inputs_for(name)
    whole = references.run(inputs, weights, chunk_size=4, num_items=1.0).total
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))

    def rows(index):
        picked = {
            key: inputs[key][index]
            for key in ("student_hidden", "noisy_hidden", "teacher_hidden", "reference_hidden", "labels")
        }
        return references.run({**inputs, **picked}, weights, chunk_size=4, num_items=1.0).total

    torch.testing.assert_close(rows(order), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows(torch.arange(4)) + rows(torch.arange(4, 11)), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_all_masked_batch_is_zero_and_connected(name):
    """0 / 0 is NaN, and a loss without a graph makes backward fail on the one rank whose batch is all prompt."""
    inputs, weights = inputs_for(name)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    output = references.run(inputs, weights)
    assert output.total.item() == 0 and output.num_kept == 0
    output.total.backward()
    for leaf in references.leaves(inputs):
        assert leaf.grad is not None and not leaf.grad.any()


def moved_inputs(name: str) -> list[str]:
    """Inputs of a loss whose finite differences are its gradient: a constant of the loss is none to them."""
    loss = load_part("losses", name)()
    return [key for key in checks.TRAINED if key not in checks.stop_gradient(loss)]


def is_checked(name: str) -> bool:
    """Whether a loss reads anything that finite differences may move; dft's own test compares its gradient."""
    views = load_part("losses", name)().needs & {"student", "noisy"}
    return bool({*views, "weight", "bias"} & {*moved_inputs(name)})


@pytest.mark.parametrize("name", [name for name in LOSSES if is_checked(name)])
def test_gradcheck_in_float64_through_the_tiles(name):
    """The code that trains, against finite differences."""
    inputs = references.case(tokens=5, hidden=3, teacher_hidden=2, vocab=4, teacher_vocab=4)
    reference_head = LinearHead(inputs["head"].weight.detach().clone())  # finite differences move the leaf in place
    loss = load_part("losses", name)()
    leaves = dict(zip(checks.TRAINED, references.leaves(inputs), strict=True))
    moved = moved_inputs(name)
    held = {key: leaf.detach() for key, leaf in leaves.items() if key not in moved}

    def total(*values):
        given = held | dict(zip(moved, values, strict=True))
        return chunked_token_losses(
            {loss: 1.0},
            given["student"],
            LinearHead(given["weight"], given["bias"]),
            inputs["labels"],
            noisy_hidden=given["noisy"],
            teacher_hidden=inputs["teacher_hidden"],
            teacher_head=inputs["teacher_head"],
            reference_hidden=inputs["reference_hidden"],
            reference_head=reference_head,
            chunk_size=2,
        ).total

    assert torch.autograd.gradcheck(total, tuple(leaves[key] for key in moved))


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_summed_over_kept_tokens_only(name):
    """A metric averaged over padding looks better the more padding there is."""
    inputs = references.case()
    whole = references.run(inputs, {"nll": 1.0}, metrics=[name], chunk_size=4).metrics[name]
    kept = (inputs["labels"] != -100).nonzero().squeeze(1)
    single = 0.0
    for index in kept:
        row = {
            key: inputs[key][index : index + 1]
            for key in ("student_hidden", "noisy_hidden", "teacher_hidden", "reference_hidden", "labels")
        }
        single += references.run({**inputs, **row}, {"nll": 1.0}, metrics=[name]).metrics[name]
    torch.testing.assert_close(whole, single, rtol=1e-12, atol=1e-12)
