# SPDX-License-Identifier: Apache-2.0
"""What every token weighting keeps, whatever its file."""

import copy
import pickle

import pytest
import torch

from hf_ckt.discovery import load_part, part_names
from hf_ckt.kernels import compilation
from hf_ckt.kernels.position_values import position_values
from hf_ckt.training.token_weights_config import TokenWeightsConfig
from tests.contracts import token_checks as checks
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import reference_of
from tests.contracts.settings import check_wrong_settings_raise

VIEWS = ("student", "teacher", "reference")
each_weighting = pytest.mark.parametrize("name", part_names("token_weights"))


def weights_of(
    case: checks.Case, part, positions: torch.Tensor, chunk_size: int | None = 4, **options
) -> torch.Tensor:
    """The weights of the kept positions, a few to a tile, from the views that the part names and nothing else."""
    kept = case.rows(case.kept)
    hidden = {view: getattr(kept, view) for view in {"student", *part.needs}}
    heads = {"student": kept.head, "teacher": kept.teacher_head, "reference": kept.reference_head}
    before = positions if part.reads_positions else None
    return position_values(part, hidden, heads, kept.labels, before, chunk_size=chunk_size, **options)


def places(case: checks.Case) -> torch.Tensor:
    return torch.tensor([3, 0, 12, 1, 2, 700, 5, 4, 8, 6, 9])[: len(case.kept)]


@each_weighting
def test_token_weights_equal_their_formula(name):
    """A weighting by something else than its docstring says still gives weights with a mean of 1."""
    part = load_part("token_weights", name)()
    assert part.needs <= set(VIEWS)
    for case in (checks.make_case(), checks.make_case(seed=5, positions=11, softcap=2.0, teacher_scale=0.5)):
        logits = {view: checks._plain_logits(case, view) for view in VIEWS}
        positions = places(case)
        expected = [
            reference_of(part)({view: logits[view][i].tolist() for view in VIEWS}, int(case.labels[i]), position)
            for i, position in zip(case.kept.tolist(), positions.tolist(), strict=True)
        ]
        for chunk_size in (1, 4, None):
            found = weights_of(case, part, positions, chunk_size)
            # Positions are counted in whole numbers, their decay in float32.
            torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)
        assert (found >= 0).all() and not found.requires_grad


@each_weighting
def test_token_weights_do_not_couple_tokens(name):
    """A weight that depends on the tile's other tokens differs between devices, whose tiles have other sizes."""
    part, case = load_part("token_weights", name)(), checks.make_case(masked=())
    positions = torch.arange(9)
    whole = weights_of(case, part, positions)
    halves = [weights_of(case.rows(rows), part, positions[rows]) for rows in (slice(0, 4), slice(4, 9))]
    checks.close(torch.cat(halves), whole, 1e-12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    checks.close(weights_of(case.rows(order), part, positions[order]), whole[order], 1e-12)


@each_weighting
def test_compiled_token_weights_are_the_plain_ones(name):
    """The rows that fill the last block up would be weighed, or shift those behind them."""
    part, case = load_part("token_weights", name)(), checks.make_case(positions=11, masked=(2,))
    plain = weights_of(case, part, torch.arange(10))
    checks.close(weights_of(case, part, torch.arange(10), compile=True), plain, 1e-6)
    programs = [program for key, program in compilation._programs.items() if key[:2] == ("values", type(part))]
    assert programs and all(program is not None for program in programs), "it was not compiled"


@each_weighting
def test_token_weights_of_no_token_are_none(name):
    """A batch in which nothing counts must not stop the run."""
    case = checks.make_case()
    case.labels[:] = -100
    assert weights_of(case, load_part("token_weights", name)(), places(case)).shape == (0,)


@each_weighting
def test_token_weights_survive_copy_and_pickle(name):
    """A setting lost on the way falls back to its default."""
    part, case = load_part("token_weights", name)(), checks.make_case()
    for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert repr(again) == repr(part)
        checks.close(weights_of(case, again, places(case)), weights_of(case, part, places(case)), 0)


@each_weighting
@pytest.mark.parametrize("role", ["task", "distillation"])
def test_token_weights_are_chosen_by_name(name, role):
    """A part that the configuration does not find is one that nobody can use."""
    chosen = TokenWeightsConfig(**{f"{role}_token_weights": name}).token_weights
    assert {key: type(part) for key, part in chosen.items()} == (
        {} if name == "uniform" else {role: load_part("token_weights", name)}
    )


@each_weighting
def test_token_weights_document_themselves_and_refuse_wrong_settings(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("token_weights", name))
    check_wrong_settings_raise(load_part("token_weights", name))
