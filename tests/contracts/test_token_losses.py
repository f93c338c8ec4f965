# SPDX-License-Identifier: Apache-2.0
"""What every discovered token loss and metric must keep, whoever adds it."""

import copy
import math
import pickle

import pytest
import torch

from hf_ckt.discovery import load_part, part_name, part_names, part_settings
from hf_ckt.kernels import LinearHead, chunked_token_losses
from hf_ckt.losses.base import PAIRS, Divergence, TokenLoss
from hf_ckt.views import LogitsView, TokenViews
from tests import references

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
    assert name in references.DIVERGENCES, "write the new loss's formula out in tests/references.py"
    loss = load_part("losses", name)(temperature=temperature)
    target_view, prediction_view = PAIRS[loss.role]
    target, prediction = random_logits(2), random_logits(3)
    values = loss.per_token(views_of(**{"student": prediction, target_view: target, prediction_view: prediction}))
    expected = [
        references.divergence(name, p, q, temperature)
        for p, q in zip(target.tolist(), prediction.tolist(), strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_nll_and_dft_equal_their_formulas():
    """The task losses must be SFTTrainer's, or turning an extra term on would change the task."""
    logits, labels = random_logits(4), torch.tensor([1, 0, 6, 3, 2])
    views = TokenViews(labels=labels, student=LogitsView(logits))
    log_probs = [references.log_softmax(row, 1.0)[label] for row, label in zip(logits.tolist(), labels, strict=True)]
    nll = load_part("losses", "nll")().per_token(views)
    dft = load_part("losses", "dft")().per_token(views)
    torch.testing.assert_close(nll, -torch.tensor(log_probs, dtype=torch.float64))
    expected = torch.tensor([-math.exp(value) * value for value in log_probs], dtype=torch.float64)
    torch.testing.assert_close(dft, expected)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_targets_get_a_gradient_only_where_the_loss_says_so(name):
    """A clean view that chases the noisy one lets the model become constant instead of stable."""
    loss = load_part("losses", name)()
    target_view, prediction_view = PAIRS[loss.role]
    target, prediction = random_logits(5).requires_grad_(), random_logits(6).requires_grad_()
    loss.per_token(views_of(**{"student": target, target_view: target, prediction_view: prediction})).sum().backward()
    assert prediction.grad.abs().sum() > 0
    moves_target = {"symmetric_kl": True, "consistency_kl": False, "reference_kl": False}.get(name)
    if moves_target is not None:
        assert (target.grad is not None and bool(target.grad.abs().sum() > 0)) is moves_target


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


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_in_float64_through_the_tiles(name):
    """The code that trains, against finite differences."""
    inputs = references.case(tokens=5, hidden=3, teacher_hidden=2, vocab=4, teacher_vocab=4)
    reference_head = LinearHead(inputs["head"].weight.detach().clone())  # finite differences move the leaf in place
    loss = load_part("losses", name)()
    # A detached target is a constant to autograd and not to a finite difference: hold it fixed.
    fixed = getattr(loss, "detach_target", False) or name == "dft"

    def total(student, noisy, weight, bias):
        if name == "dft":  # its factor sg(p) is a constant: check the gradient of the log-likelihood it weighs
            return chunked_token_losses(
                {"nll": 1.0}, student, LinearHead(weight, bias), inputs["labels"], chunk_size=2
            ).total
        if fixed and loss.role == "consistency":
            student = student.detach()
        return chunked_token_losses(
            {loss: 1.0},
            student,
            LinearHead(weight, bias),
            inputs["labels"],
            noisy_hidden=noisy,
            teacher_hidden=inputs["teacher_hidden"],
            teacher_head=inputs["teacher_head"],
            reference_hidden=inputs["reference_hidden"],
            reference_head=reference_head,
            chunk_size=2,
        ).total

    leaves = references.leaves(inputs)
    if fixed and name != "dft" and loss.role == "consistency":
        # The head is in the target too: only the noisy states are free of the stop-gradient.
        noisy = leaves[1]
        assert torch.autograd.gradcheck(
            lambda x: total(leaves[0].detach(), x, leaves[2].detach(), leaves[3].detach()), (noisy,)
        )
    else:
        assert torch.autograd.gradcheck(total, tuple(leaves))


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


def test_metrics_equal_hand_computed_values():
    """Two tokens by hand, so that a swapped view or a wrong axis shows."""
    student = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.6, 0.2]], dtype=torch.float64).log()
    views = TokenViews(labels=torch.tensor([0, 2]), student=LogitsView(student), teacher=LogitsView(teacher))
    expected = {
        "acceptance": [0.75, 0.8],
        "teacher_agreement": [0.0, 1.0],
        "mean_token_accuracy": [1.0, 0.0],
        "entropy": [-(0.5 * math.log(0.5) + 0.5 * math.log(0.25)), -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))],
        "teacher_entropy": [
            -(0.5 * math.log(0.25) + 0.5 * math.log(0.5)),
            -(0.6 * math.log(0.6) + 0.4 * math.log(0.2)),
        ],
    }
    for name, values in expected.items():
        result = load_part("metrics", name)().per_token(views)
        torch.testing.assert_close(result, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=1e-12)
