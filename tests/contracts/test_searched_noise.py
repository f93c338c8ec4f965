# SPDX-License-Identifier: Apache-2.0
"""What every searched noise on the embeddings keeps, on functions whose steepest and most curved ways are known."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch

from hf_ckt.discovery import load_part, part_names, part_settings
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import from_own_test
from tests.perturbations.toy_search import (
    ALPHA,
    DOCUMENTS,
    LAYOUTS,
    SIZES,
    WIDTH,
    Toy,
    draw,
    flat,
    linear,
    norms,
    quadratic,
)

NAMES = [name for name in part_names("perturbations") if getattr(load_part("perturbations", name), "searches", False)]
# Every searching part, in each of its norms.
VARIANTS = [
    (name, settings)
    for name in NAMES
    for settings in (
        [{"norm": norm} for norm in ("l2", "linf")]
        if "norm" in part_settings(load_part("perturbations", name))
        else [{}]
    )
]
each_search = pytest.mark.parametrize(
    "name, settings", VARIANTS, ids=["-".join([name, *settings.values()]) for name, settings in VARIANTS]
)


def make(name: str, **settings: Any) -> Any:
    return load_part("perturbations", name)(**{"alpha": ALPHA, **settings})


@each_search
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_searched_noise_keeps_to_the_ball_of_its_own_document(name, settings, layout, severity, steps):
    """A norm over the batch leaves next to nothing for all documents but the steepest one."""
    for gradients in (linear()[0], quadratic()[0]):
        toy = Toy(layout, gradients)
        found = toy.search(make(name, severity=severity, steps=steps, **settings))
        for noise, norm, size in zip(found, norms(found), SIZES, strict=True):
            assert 0 < norm <= severity * ALPHA * (1 + 1e-5)
            if settings.get("norm") == "linf":
                assert noise.abs().max() <= severity * ALPHA / math.sqrt(size) * (1 + 1e-5)


@each_search
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-10, 1e10, 1e25])
def test_searched_noise_keeps_to_the_ball_however_steep_the_function_is(name, settings, scale):
    """A confident prediction's gradients are so small that their squares are 0 in float32, and a loss scale's huge."""
    expected = Toy("right", quadratic()[0]).search(make(name, steps=3, **settings))
    found = Toy("right", quadratic(scale)[0]).search(make(name, steps=3, **settings))
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all() and one.double().norm() <= ALPHA * (1 + 1e-5)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


@each_search
@pytest.mark.parametrize("layout", ["right", "left"])
def test_searched_noise_is_zero_at_padding_also_while_it_is_searched(name, settings, layout):
    """Noise on padding is harmless until a model without a mask reads it, and then depends on the batch."""
    toy = Toy(layout, quadratic()[0])
    part = make(name, steps=3, **settings)
    noise = part.noise(toy.ids, toy.views, WIDTH, 1, toy.gradient, toy.lay_out([draw(size, 3) for size in SIZES]))
    for values in (noise, *toy.seen):
        assert values[toy.views.mask].count_nonzero() > 0
        assert values[~toy.views.mask].count_nonzero() == 0


@each_search
@pytest.mark.parametrize("start", [True, False])
def test_document_gets_the_same_searched_noise_wherever_it_stands(name, settings, start):
    """A step or a norm that reaches over documents makes runs differ that ought to be equal."""
    gradients, _ = quadratic()
    slopes = linear()[1]
    curved = [lambda d, g=g, slope=slope: g(d) + slope for g, slope in zip(gradients, slopes, strict=True)]
    part = make(name, steps=3, **settings)
    begin = [draw(size, 60 + size) for size in SIZES] if start else None
    expected = [
        Toy("right", [curved[i]], [DOCUMENTS[i]]).search(part, start=None if begin is None else [begin[i]])[0]
        for i in range(len(DOCUMENTS))
    ]
    for layout in LAYOUTS:
        found = Toy(layout, curved).search(part, start=begin)
        for one, alone in zip(found, expected, strict=True):
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-5)


@each_search
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_search_asks_for_as_many_gradients_as_it_has_steps(name, settings, steps):
    """Each costs two passes through the model: one more is paid for in every training step."""
    toy = Toy("right", quadratic()[0])
    toy.search(make(name, steps=steps, **settings))
    assert len(toy.seen) == steps


@each_search
def test_searched_noise_of_severity_zero_is_zero(name, settings):
    """The first step of a severity schedule, and the control run of every study; 0 / 0 would be NaN."""
    for start in (None, [draw(size, 5) for size in SIZES]):
        for gradients in (quadratic()[0], linear()[0], flat()):
            toy = Toy("right", gradients)
            for noise in (*toy.search(make(name, severity=0.0, steps=2, **settings), start=start), *toy.seen):
                assert noise.isfinite().all() and noise.count_nonzero() == 0


@each_search
@pytest.mark.parametrize("steps", [1, 3])
def test_search_on_a_flat_function_gives_a_number(name, settings, steps):
    """A document without a kept position has no gradient; one NaN from it is in every weight after the step."""
    one_flat = [flat()[0], *quadratic()[0][1:]]
    found = Toy("packed", one_flat).search(make(name, steps=steps, **settings))
    expected = Toy("packed", quadratic()[0]).search(make(name, steps=steps, **settings))
    assert found[0].isfinite().all() and found[0].double().norm() <= ALPHA * (1 + 1e-5)
    for noise, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(noise, other)


@each_search
def test_search_begins_at_the_start_and_at_random_where_that_is_zero(name, settings):
    """A warm start that is not used costs a step of quality, and one of zeros has no gradient to follow."""
    # Inside the ball, outside of it, and none.
    start = [draw(SIZES[0], 1) * 0.01, draw(SIZES[1], 2) * 100, torch.zeros(SIZES[2])]
    begin = from_own_test("perturbations", name, "begin")
    toy, random = Toy("right", flat()), Toy("right", flat())
    toy.search(make(name, **settings), start=start)
    random.search(make(name, **settings))
    began, begins_randomly = toy.split(toy.seen[0]), random.split(random.seen[0])
    for one, other in zip(began[:2], start[:2], strict=True):
        torch.testing.assert_close(one, begin(other, ALPHA, settings.get("norm", "l2")))
    assert torch.equal(began[2], begins_randomly[2]) and began[2].count_nonzero() == SIZES[2]


@each_search
def test_search_leaves_its_start_alone(name, settings):
    """The noise of the step before is the state of a run: changed in place, it would be saved otherwise than used."""
    toy = Toy("right", quadratic()[0])
    start = toy.lay_out([draw(size, 5) for size in SIZES])
    before = start.clone()
    make(name, steps=2, **settings).noise(toy.ids, toy.views, WIDTH, 1, toy.gradient, start)
    assert torch.equal(start, before)


@each_search
def test_search_is_the_same_when_run_again_and_ignores_the_global_generator(name, settings):
    """A resumed run must see the noise of the first time, and another step another one."""
    part = make(name, **settings)
    toy = Toy("right", quadratic()[0])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = toy.search(part, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    for again in (part, copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert all(torch.equal(*pair) for pair in zip(toy.search(again, seed=3), first, strict=True))
    # One document may agree by chance: under linf a step keeps no more of the start than signs.
    assert any(not torch.equal(*pair) for pair in zip(toy.search(part, seed=4), first, strict=True))


WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    *(
        (name, {setting: wrong}, error, rf"^{setting}: must {message}")
        for name in NAMES
        for setting, wrong, error, message in (
            ("severity", 30, ValueError, r"lie in \[0, 1\], got 30"),
            ("severity", -0.1, ValueError, r"lie in \[0, 1\], got -0\.1"),
            ("severity", float("nan"), ValueError, "be finite, got nan"),
            ("alpha", 0, ValueError, r"be greater than 0, got 0\. The noise would vanish"),
            ("alpha", "high", TypeError, "be a number, got 'high'"),
            ("steps", 1.5, TypeError, "be a whole number, got 1.5"),
            ("steps", True, TypeError, "be a whole number, got True"),
        )
    ),
]


@pytest.mark.parametrize("name, settings, error, message", WRONG)
def test_search_refuses_wrong_settings_and_names_them(name, settings, error, message):
    """No step, or one of length 0, would train on random noise under the name of an adversarial one."""
    with pytest.raises(error, match=message):
        load_part("perturbations", name)(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_search_documents_itself(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("perturbations", name), example=False)
