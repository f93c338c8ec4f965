# SPDX-License-Identifier: Apache-2.0
"""The checks of the tile runner fail when the fault that they are there for is put in."""

import pytest
import torch

from hf_ckt.discovery import load_part, part_names
from hf_ckt.kernels import chunked_linear, tile_program
from hf_ckt.losses import base, consistency_kl, forward_kl
from hf_ckt.views import LogitsView, TokenViews
from tests import references
from tests.contracts.own_test import reference_of

DIVERGENCES = [name for name in part_names("losses") if issubclass(load_part("losses", name), base.Divergence)]


def check_all() -> None:
    """Every comparison that the runner has to pass, on one draw."""
    references.check_matches_dense(3)
    references.check_matches_dense(3, num_items=64.0)
    references.check_error_budget(torch.bfloat16, 3)
    references.check_error_budget(torch.float32, 3)


def check_divergences() -> None:
    """Every divergence against its formula written out, at a temperature other than 1."""
    rows = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in DIVERGENCES:
        loss = load_part("losses", name)(temperature=2.0)
        target, prediction = base.PAIRS[loss.role]
        views = {"student": LogitsView(rows[1:]), target: LogitsView(rows[:1]), prediction: LogitsView(rows[1:])}
        value = loss.per_token(TokenViews(labels=torch.zeros(1, dtype=torch.long), **views)).item()
        assert value == pytest.approx(reference_of(loss)(*rows.tolist(), temperature=2.0), rel=1e-9)


def test_checks_pass_without_a_fault():
    """A check that always fails would make every fault below look caught."""
    check_all()
    check_divergences()


def overwrites_instead_of_adding(patch):
    original = chunked_linear._run_blocks
    last = {}

    def run_blocks(*args, **kwargs):
        sums = original(*args, **kwargs)
        previous, last["sums"] = last.get("sums", torch.zeros_like(sums)), sums
        return sums - previous.to(sums.dtype)  # the running sum then holds the last tile alone

    patch.setattr(chunked_linear, "_run_blocks", run_blocks)


def leaves_the_logits_where_their_gradient_belongs(patch):
    original = tile_program.TileProgram.differentiate

    def differentiate(self, logits, *rest):
        return original(self, {name: raw.clone() for name, raw in logits.items()}, *rest)

    patch.setattr(tile_program.TileProgram, "differentiate", differentiate)


def forgets_the_outer_gradient(patch):
    original = chunked_linear._ChunkedTokenLosses.backward

    def backward(ctx, grad_total, grad_sums):
        return original(ctx, torch.ones_like(grad_total), grad_sums)

    patch.setattr(chunked_linear._ChunkedTokenLosses, "backward", staticmethod(backward))


def ignores_num_items(patch):
    original = chunked_linear.run_tiles
    patch.setattr(chunked_linear, "run_tiles", lambda *args, **kw: original(*args, **{**kw, "num_items": None}))


def keeps_masked_positions(patch):
    original = chunked_linear.chunked_token_losses

    def keep_all(losses, student, head, labels, **kwargs):
        return original(losses, student, head, labels.clamp(min=0), **kwargs)

    patch.setattr(references, "chunked_token_losses", keep_all)


def drops_the_last_position_of_a_tile(patch):
    original = tile_program.TileProgram.__call__

    def call(self, logits, views, caps, labels, mask, *rest):
        mask = mask.clone()
        mask[-1] = False
        return original(self, logits, views, caps, labels, mask, *rest)

    patch.setattr(tile_program.TileProgram, "__call__", call)


def accumulates_in_bfloat16(patch):
    original = torch.Tensor.addmm_

    def addmm_(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return result.copy_(result.bfloat16()) if self.dtype == torch.float32 else result

    patch.setattr(torch.Tensor, "addmm_", addmm_)


def lets_the_clean_target_learn(patch):
    patch.setattr(consistency_kl.ConsistencyKLLoss, "detach_target", False)


def turns_the_divergence_around(patch):
    patch.setattr(forward_kl.ForwardKLLoss, "divergence", lambda self, p, q: base.kl_divergence(q, p))


def ignores_the_softcap(patch):
    patch.setattr(
        tile_program,
        "scale_and_cap",
        lambda raw, scale, softcap: raw.to(torch.promote_types(raw.dtype, torch.float32)),
    )


def forgets_the_squared_temperature(patch):
    patch.setattr(base.Divergence, "squared_temperature", False)


@pytest.mark.parametrize(
    "fault",
    [
        overwrites_instead_of_adding,
        leaves_the_logits_where_their_gradient_belongs,
        forgets_the_outer_gradient,
        ignores_num_items,
        keeps_masked_positions,
        drops_the_last_position_of_a_tile,
        accumulates_in_bfloat16,
        lets_the_clean_target_learn,
        turns_the_divergence_around,
    ],
    ids=lambda fault: fault.__name__,
)
def test_fault_in_the_runner_is_caught(fault, monkeypatch):
    """A suite that passes with the mask dropped holds nothing."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check_all()


@pytest.mark.parametrize(
    "fault", [forgets_the_squared_temperature, turns_the_divergence_around], ids=lambda f: f.__name__
)
def test_fault_in_a_divergence_is_caught(fault, monkeypatch):
    """Losses of the wrong size or direction still go down in training."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check_divergences()


def test_ignored_softcap_is_caught(monkeypatch):
    """Gemma 2 would train on logits that it never has."""
    ignores_the_softcap(monkeypatch)
    with pytest.raises(AssertionError):
        references.check_matches_dense(softcap=1.5)
