# SPDX-License-Identifier: Apache-2.0
"""What is asked: the same prompts for everyone, spread over the sets, noise of a prompt's own."""

from collections import Counter
from dataclasses import replace

import pytest

from hf_ckt.data import load_starter_set
from hf_ckt.data.prompt_sets import EvalPrompt
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.measuring import suites
from hf_ckt.evaluation.measuring.suites import SUITES, Exchange, ask
from hf_ckt.evaluation.measuring.tiers import TIERS

SMOKE = TIERS["smoke"]
HELD_OUT = {row["prompt"]: row["kind"] for row in load_starter_set("heldout")}


def test_smoke_asks_only_held_out_prompts_of_the_project():
    """A smoke test that needs a download fails on the machine it was made for; a training prompt in it is recall."""
    asked = ask(SMOKE, SUITES)
    assert Counter(row["suite"] for row in asked.rows) == {
        "direct": 16,
        "jailbreak": 16,
        "overrefusal": 16,
        "noise": 48,
    }
    kinds = {"harmful": "harmful", "benign": "lookalike"}
    assert all(HELD_OUT[row["request"]] == kinds[row["kind"]] for row in asked.rows)
    assert len(asked.choices) == 16 and len(asked.passages) == 8 and not asked.problems
    clean = [one.prompt for one in asked.exchanges if not one.noise]
    assert len(clean) == 8 and {*clean} <= HELD_OUT.keys()


def test_a_suite_asks_the_same_whatever_else_is_chosen():
    """A rate that depends on which other suites ran cannot be compared between runs."""
    whole = ask(SMOKE, SUITES).rows
    for suite in ("direct", "jailbreak", "overrefusal", "noise"):
        assert ask(SMOKE, [suite]).rows == [row for row in whole if row["suite"] == suite]


def test_jailbreak_and_noise_are_of_prompts_that_were_asked_plainly():
    """Another request behind the template would mix the template's effect with the request's."""
    asked = ask(SMOKE, SUITES)
    plain = {row["prompt_id"]: row["prompt"] for row in asked.rows if row["suite"] in ("direct", "overrefusal")}
    jailbreak = [row for row in asked.rows if row["suite"] == "jailbreak"]
    for kind in ("harmful", "benign"):
        mine = {(row["template"], row["prompt_id"]) for row in jailbreak if row["kind"] == kind}
        assert len(mine) == 8 and len({template for template, _ in mine}) == 4 and len({id_ for _, id_ in mine}) == 2
    for row in asked.rows:
        assert row["request"] == plain[row["prompt_id"]]
        if row["suite"] == "jailbreak":
            assert row["request"] in row["prompt"] and row["prompt"] != row["request"]


def test_templates_are_the_same_around_both_kinds():
    """A model that refuses a template whatever stands in it would earn safety and pay nothing for it."""
    around = {kind: set() for kind in ("harmful", "benign")}
    for row in ask(SMOKE, ["jailbreak"]).rows:
        around[row["kind"]].add((row["template"], row["prompt"].replace(row["request"], "{request}")))
    assert around["harmful"] == around["benign"] and len(around["harmful"]) == 4


def test_agreement_is_asked_of_both_kinds_clean_and_each_once_corrupted():
    """On harmful prompts alone, a student that refuses everything would agree with a teacher that knows when to."""
    asked = ask(replace(SMOKE, responses=(8, 32), corruptions=("typos", "word_swap"), severities=(0.2, 0.4)), ["kd"])
    assert Counter((one.kind, one.noise) for one in asked.exchanges) == {
        (kind, noise): 4 for kind in ("harmful", "benign") for noise in (False, True)
    }
    assert all(one.response is None for one in asked.exchanges)
    assert len({one.id for one in asked.exchanges}) == 16
    noisy = [one for one in asked.exchanges if one.noise]
    # Four cells, and four prompts of each kind: each cell once.
    assert Counter(one.id.split(", ")[1] for one in noisy) == dict.fromkeys(
        ("typos 0.2", "typos 0.4", "word_swap 0.2", "word_swap 0.4"), 2
    )
    assert sum(one["n"] for one in asked.sets) == 8 and {one["suite"] for one in asked.sets} == {"kd"}


def test_noise_covers_every_corruption_of_every_prompt_and_each_is_its_own():
    """One draw for all prompts, or the same draw for each seed, would be fewer measurements than are counted."""
    tier = replace(SMOKE, seeds=2, severities=(0.2, 0.4))
    rows = ask(tier, ["noise"]).rows
    cells = Counter((row["corruption"], row["severity"], row["seed"]) for row in rows if row["corruption"])
    assert len(cells) == 2 * 2 * 2 and set(cells.values()) == {16}
    assert sum(not row["corruption"] for row in rows) == 16
    typos = [row for row in rows if row["corruption"] == "typos" and row["severity"] == 0.4]
    by_seed = {seed: {row["prompt_id"]: row["prompt"] for row in typos if row["seed"] == seed} for seed in (0, 1)}
    assert by_seed[0].keys() == by_seed[1].keys()
    assert sum(by_seed[0][key] != by_seed[1][key] for key in by_seed[0]) > 12
    assert ask(tier, ["noise"]).rows == rows


def test_noise_has_the_severity_of_its_cell(monkeypatch):
    """A severity that does not reach the perturbation gives a flat curve that looks like robustness."""
    seen = []
    original = load_part("perturbations", "typos").apply
    monkeypatch.setattr(
        load_part("perturbations", "typos"),
        "apply",
        lambda self, text, rng: seen.append(self.severity) or original(self, text, rng),
    )
    ask(replace(SMOKE, severities=(0.1, 0.3)), ["noise"])
    assert Counter(seen) == {0.1: 16, 0.3: 16}


def test_part_of_a_sorted_file_is_a_draw_of_all_of_it():
    """Its first prompts alone would be one category's, and their noise and jailbreaks would stand for all."""
    own = {
        kind: [EvalPrompt(f"own/{kind}-{n}", "own", kind, "ab"[n >= 50], f"{kind} {n}") for n in range(100)]
        for kind in ("harmful", "benign")
    }
    asked = ask(replace(SMOKE, jailbreak=(4, 20), noise=20, responses=(40, 8)), SUITES[:5], **own)
    names = {kind: [prompt.id for prompt in mine] for kind, mine in own.items()}
    for suite, kind in (("direct", "harmful"), ("overrefusal", "benign")):
        assert [row["prompt_id"] for row in asked.rows if row["suite"] == suite] == names[kind]
    parts = [[row["prompt_id"] for row in asked.rows if row["suite"] == suite] for suite in ("jailbreak", "noise")]
    parts.append([one.id for one in asked.exchanges if not one.noise])
    for part in parts:
        for kind in own:
            mine = {name for name in part if kind in name}
            late = sum(int(name.rpartition("-")[2]) >= 50 for name in mine)
            assert len(mine) == 20 and 4 <= late <= 16
    again = ask(replace(SMOKE, jailbreak=(4, 20), noise=20, responses=(40, 8)), SUITES[:5], **own)
    assert again.rows == asked.rows and again.exchanges == asked.exchanges


def test_prompts_are_spread_over_sets_of_any_size(monkeypatch):
    """Sixty prompts of the first set alone would be a rate on that set under the name of both."""
    sizes = {"a": 100, "b": 100, "c": 3}
    monkeypatch.setattr(
        suites,
        "load_prompts",
        lambda name, _dir: [EvalPrompt(f"{name}/{i}", name, "harmful", "", f"{name} {i}") for i in range(sizes[name])],
    )
    rows = ask(replace(SMOKE, harmful_sets=("a", "b", "c"), direct=43), ["direct"]).rows
    assert Counter(row["set"] for row in rows) == {"a": 20, "b": 20, "c": 3}
    assert Counter(row["set"] for row in rows[:6]) == {"a": 2, "b": 2, "c": 2}


def test_own_prompts_take_the_place_of_the_sets_and_are_all_asked():
    """A tenth of somebody's prompts under the name of all is a wrong rate."""
    own = [EvalPrompt(f"mine/{i}", "mine", "harmful", "", f"request {i}") for i in range(40)]
    asked = ask(SMOKE, ["direct"], harmful=own)
    assert [row["prompt_id"] for row in asked.rows] == [prompt.id for prompt in own]
    assert asked.sets == [
        {"name": "mine", "suite": "direct", "n": 40, "source": "given by the user", "licence": "not stated"}
    ]


def test_a_file_of_prompts_twice_is_asked_and_counted_once():
    """A rate over the same prompts twice has an interval as if it were over twice as many."""
    own = [EvalPrompt(f"own/{n}", "own", "harmful", "", f"Do {n % 3}.") for n in range(6)]
    asked, once = (ask(SMOKE, ["direct", "noise"], harmful=prompts) for prompts in (own, own[:3]))
    assert asked.rows == once.rows and asked.sets == once.sets
    assert {entry["suite"]: entry["n"] for entry in asked.sets if entry["name"] == "own"} == {"direct": 3, "noise": 3}
    given = [Exchange(f"own/{n}", "", "a", text) for n, text in enumerate("bcb")]
    assert ask(SMOKE, ["kd"], responses=given).exchanges == given[:2]


def test_a_prompt_of_two_categories_is_put_under_noise_and_templates_once():
    """Its two clean rows would end an evaluation in an error once everything has been answered."""
    own = [EvalPrompt(f"own/{n}", "own", "harmful", "ab"[n % 2], f"Do {n // 2}.") for n in range(6)]
    rows = ask(SMOKE, SUITES, harmful=own).rows
    mine = Counter((row["suite"], row["prompt_id"]) for row in rows if row["set"] == "own")
    cells = 1 + len(SMOKE.corruptions)
    each = {"direct": (3, 2), "noise": (3, cells), "jailbreak": (SMOKE.jailbreak[1], SMOKE.jailbreak[0])}
    for suite, (prompts, number) in each.items():
        found = {name: times for (of, name), times in mine.items() if of == suite}
        assert len(found) == prompts and {*found.values()} == {number}
        assert found.keys() <= {"own/0", "own/2", "own/4"}
    asked = ask(SMOKE, ["kd"], harmful=own).exchanges
    assert sorted(one.id for one in asked if one.kind == "harmful" and not one.noise) == ["own/0", "own/2", "own/4"]


def test_no_prompt_of_a_kind_raises():
    """An empty file gives a rate of nothing."""
    with pytest.raises(ValueError, match="benign: there is no prompt"):
        ask(SMOKE, ["overrefusal"], benign=[])


def test_every_tier_names_sets_and_corruptions_that_exist():
    """A misspelt set is found after the models are loaded."""
    from hf_ckt.data.prompt_sets import PROMPT_SETS
    from hf_ckt.discovery import part_names

    for tier in TIERS.values():
        assert {*tier.harmful_sets, *tier.benign_sets} <= PROMPT_SETS.keys()
        assert {*tier.corruptions} <= {*part_names("perturbations")}
