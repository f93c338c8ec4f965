# SPDX-License-Identifier: Apache-2.0
"""The perturbed input's pass: which sequences make it, what it costs, and that nothing else changes."""

import pytest
import torch

from hf_ckt.discovery import load_part
from hf_ckt.models.backbone import read_head
from hf_ckt.models.batch import Batch
from hf_ckt.noise.mixture import Mixture
from hf_ckt.noise.noisy_view import NoisyView, _stack
from hf_ckt.objective.objective import Objective, Term
from hf_ckt.objective.partition import HiddenStates
from hf_ckt.objective.schedules import Schedule
from hf_ckt.perturbations.gaussian import GaussianPerturbation
from tests.trainers import load


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load(tiny_model_dir)


def make_batch(rows: int = 8, seed: int = 0) -> Batch:
    """Rows of unequal length, half of each its prompt."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 12, (rows,), generator=generator)
    ids = torch.randint(5, 100, (rows, 12), generator=generator)
    mask = (torch.arange(12) < lengths[:, None]).long()
    labels = torch.where((torch.arange(12) >= 2) & mask.bool(), ids, -100)
    return Batch({"input_ids": ids, "attention_mask": mask}, labels)


class Rows:
    """Counts the sequences that pass the first layer of a model."""

    def __init__(self, model):
        self.seen: list[int] = []
        self._handle = model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: self.seen.append((args[0] if args else kwargs["hidden_states"]).shape[0]),
            with_kwargs=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


def run(model, batch: Batch, seed: int = 1, **settings):
    return NoisyView(Mixture.of(GaussianPerturbation()), **settings).run(model, batch.inputs, batch, seed)


@pytest.mark.parametrize("batched", [True, False])
def test_fraction_passes_only_the_chosen_rows_and_their_states_are_those_of_the_whole(batched, model):
    """A noisy pass over all rows of which a part is used would save nothing; a wrong order would mix up the texts."""
    batch = make_batch()
    whole = run(model, batch)
    with Rows(model) as rows:
        part = run(model, batch, fraction=0.5, batched=batched)
    kept_rows = batch.kept // 12
    chosen = set(kept_rows[part.noisy.positions].tolist())
    assert 0 < len(chosen) < 8
    assert sorted(rows.seen) == ([8 + len(chosen)] if batched else sorted([8, len(chosen)]))
    assert torch.equal(torch.isin(kept_rows, torch.tensor(sorted(chosen))).nonzero().squeeze(1), part.noisy.positions)
    torch.testing.assert_close(part.noisy.states, whole.noisy.states[part.noisy.positions], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.student, whole.student, rtol=1e-5, atol=1e-5)
    assert (whole.noisy.states - whole.student).abs().mean() > 1e-3


@pytest.mark.parametrize("batched", [True, False])
def test_masks_of_pairs_go_with_the_chosen_rows(batched, model):
    """A mask of all rows beside some of them is an error of shapes, or hides the wrong tokens where it fits."""
    batch = make_batch()
    mask = batch.inputs["attention_mask"].bool()
    seen = (mask[:, None, :, None] & mask[:, None, None, :]).tril() | torch.eye(12, dtype=torch.bool)
    for given in (seen, {"full_attention": seen}):
        inputs = {"input_ids": batch.inputs["input_ids"], "attention_mask": given}
        if isinstance(given, dict):
            rows = Batch(inputs, batch.labels).rows(torch.tensor([1, 4]))
            assert torch.equal(rows.inputs["attention_mask"]["full_attention"], seen[[1, 4]])
            both = _stack(inputs, rows.inputs, 8)["attention_mask"]["full_attention"]
            assert torch.equal(both, torch.cat([seen, seen[[1, 4]]]))
            continue
        # Padding sees itself there, so its noise is its own: the other positions are those of the mask of rows.
        plain, pairs = (run(model, one, fraction=0.5, batched=batched) for one in (batch, Batch(inputs, batch.labels)))
        assert torch.equal(plain.noisy.positions, pairs.noisy.positions)
        torch.testing.assert_close(pairs.noisy.states, plain.noisy.states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["position_ids", "cu_seq_lens_q"])
def test_one_batch_of_both_views_is_refused_where_boundaries_are_of_one_row(name, model):
    """Below the clean row, the noisy one would have the boundaries of none."""
    ids = torch.randint(5, 100, (1, 6))
    told = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]), "cu_seq_lens_q": torch.tensor([0, 3, 6])}
    with pytest.raises(ValueError, match=f"noisy_view_batched=True: the batch has {name}"):
        run(model, Batch({"input_ids": ids, name: told[name]}, ids), batched=True)


def test_fraction_is_met_over_many_sequences_and_steps(model):
    """A term divided by 0.3 of which 0.5 is computed weighs more than was asked."""
    counts = []
    for seed in range(60):
        batch = make_batch(rows=16, seed=seed % 3)
        rows = NoisyView(Mixture.of(GaussianPerturbation()), fraction=0.3)._choose(batch, seed)
        counts.append(len(rows))
    share = sum(counts) / (60 * 16)
    assert abs(share - 0.3) < 0.06  # four standard deviations of 960 draws
    assert len(set(counts)) > 3


def test_choice_is_the_same_behind_padding_on_either_side():
    """Left-padded batches of a collator would otherwise perturb other texts than right-padded ones."""
    batch = make_batch()
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    order = torch.stack([torch.cat([(row == 0).nonzero()[:, 0], (row == 1).nonzero()[:, 0]]) for row in mask])
    turned = Batch(
        {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)}, batch.labels.gather(1, order)
    )
    view = NoisyView(Mixture.of(GaussianPerturbation()), fraction=0.5)
    assert torch.equal(view._choose(batch, 3), view._choose(turned, 3))


@pytest.mark.parametrize("never_empty", [False, True])
def test_no_chosen_sequence_means_no_pass_or_one_that_does_not_count(never_empty, model):
    """Sharded ranks must make the same passes, or they wait for each other for ever; a lone process need not."""
    batch = make_batch(rows=2)
    run(model, batch)  # the head is compared with the model's logits at the first pass
    with Rows(model) as rows:
        views = run(model, batch, fraction=1e-9, never_empty=never_empty)
    assert rows.seen == ([1, 2] if never_empty else [2])
    assert len(views.noisy.positions) == 0
    if never_empty:
        assert views.noisy.states.shape == (0, 32) and views.noisy.states.requires_grad
        (gradient,) = torch.autograd.grad(views.noisy.states.sum(), model.model.layers[0].mlp.up_proj.weight)
        assert not gradient.any()
    else:
        assert views.noisy.states.shape == (0, 32) and not views.noisy.states.requires_grad


def test_recomputed_pass_keeps_next_to_nothing_and_comes_before_the_clean_one(model):
    """Kept activations are what it is there to avoid; made after the clean pass, both would be alive in the backward."""
    batch = make_batch()

    def kept_bytes(**settings) -> int:
        parameters = {parameter.data_ptr() for parameter in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor):
            if tensor.data_ptr() not in parameters:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            views = run(model, batch, **settings)
        assert views.noisy.states.requires_grad
        return sum(kept.values())

    both, recomputed = kept_bytes(), kept_bytes(recompute=True)
    assert recomputed < 0.6 * both
    backward: list[tuple[int, int]] = []  # which pass a layer's gradient belongs to, and passes run again by then

    def follow(module, arguments, output):
        number = len(passes)
        passes.append(number)
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append((number, len(passes) - 2)))

    passes: list[int] = []
    handle = model.model.layers[0].register_forward_hook(follow)
    views = run(model, batch, recompute=True)
    (views.student.sum() + views.noisy.states.sum()).backward()
    handle.remove()
    model.zero_grad()
    noisy, clean = 0, 1
    assert backward[0] == (clean, 0) and (noisy, 1) in backward
    assert len(passes) == 3  # run once more, in the backward


def searched(model, batch: Batch, steps: int, seed: int = 1, part: str = "adversarial", **settings):
    """The views of a search that ascends the consistency term, and its mean divergence."""
    objective = Objective({"consistency": Term(load_part("losses", "consistency_kl")(), Schedule(1.0))}, compile=False)

    def divergence(noisy, clean):
        with read_head(model) as head:
            states = HiddenStates({"student": clean}, {"student": head, "noisy": head}, noisy)
            return objective.divergence(states, batch.kept_labels)

    noise = load_part("perturbations", part)(alpha=1.0, steps=steps)
    view = NoisyView(Mixture.of(noise), **settings)
    views = view.run(model, batch.inputs, batch, seed, divergence=divergence)
    with torch.no_grad():
        noisy = views.noisy._replace(states=views.noisy.states.detach())
        value = divergence(noisy, views.student.detach()) / max(len(noisy.positions), 1)
    return views, float(value), view


@pytest.mark.parametrize("part", ["adversarial", "virtual_adversarial"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_search_reuses_the_clean_pass_and_forms_no_gradient_of_a_parameter(part, steps, model):
    """A clean pass anew in each step, or weight gradients that are thrown away, would double what it costs."""
    batch, weight_products = make_batch(), []
    weight = model.model.layers[0].mlp.up_proj.weight
    handle = weight.register_hook(lambda gradient: weight_products.append(gradient))
    with Rows(model) as rows:
        views, _, _ = searched(model, batch, steps, part=part)
    assert rows.seen == [8] * (1 + steps + 1)  # clean, one a step, the noisy view itself
    assert not weight_products and all(parameter.grad is None for parameter in model.parameters())
    views.noisy.states.sum().backward()
    assert weight_products  # the view that is trained on has its gradient
    handle.remove()
    model.zero_grad()


def test_a_search_finds_more_than_chance_and_more_with_every_step(model):
    """An ascent that descends, or leaves its ball, shows in the divergence and nowhere else."""
    batch = make_batch()
    found = [searched(model, batch, steps)[1] for steps in (1, 4)]
    random = run(model, batch, seed=1)
    gaussian = NoisyView(Mixture.of(GaussianPerturbation(alpha=1.0))).run(model, batch.inputs, batch, 1)
    objective = Objective({"consistency": Term(load_part("losses", "consistency_kl")(), Schedule(1.0))}, compile=False)
    with read_head(model) as head, torch.no_grad():
        states = HiddenStates({"student": gaussian.student}, {"student": head, "noisy": head}, gaussian.noisy)
        value = objective.divergence(states, batch.kept_labels)
    chance = float(value) / len(batch.kept)
    print(f"divergence: gaussian {chance:.4f}, adversarial of the same norm {found[0]:.4f}, four steps {found[1]:.4f}")
    assert found[0] > 2 * chance and found[1] > found[0]
    assert random.noisy.states.shape == gaussian.noisy.states.shape


def test_a_search_of_a_part_of_the_rows_finds_the_noise_of_the_whole(model):
    """States of other rows as the target would be ascended from the wrong prediction."""
    batch = make_batch()
    whole, _, _ = searched(model, batch, 2)
    part, _, _ = searched(model, batch, 2, fraction=0.5)
    assert 0 < len(part.noisy.positions) < len(batch.kept)
    torch.testing.assert_close(part.noisy.states, whole.noisy.states[part.noisy.positions], rtol=1e-4, atol=1e-4)


def test_a_warm_search_begins_where_the_last_one_ended(model):
    """Begun anew each step, the option would do nothing."""
    batch = make_batch()
    _, _, view = searched(model, batch, 1, warm_start=True)
    assert view.previous.shape == (12, 32) and view.previous.abs().sum() > 0
    assert searched(model, batch, 1)[2].previous is None
    start = view._start(batch.documents)
    length = int(batch.documents.mask[3].sum())
    assert torch.equal(start[3, :length], view.previous[:length]) and start.shape == (8, 12, 32)
    view.previous = view.previous[:5]
    beyond = batch.documents.positions >= 5
    assert beyond.any() and not view._start(batch.documents)[beyond].any()


def test_searching_is_the_same_in_evaluation_where_gradients_are_off(model):
    """Under no_grad the search would fail, or return its random start."""
    batch = make_batch()
    _, value, _ = searched(model, batch, 1)
    with torch.no_grad():
        assert searched(model, batch, 1)[1] == pytest.approx(value, rel=1e-5)
