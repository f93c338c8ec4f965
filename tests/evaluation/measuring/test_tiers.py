# SPDX-License-Identifier: Apache-2.0
"""What a tier asks, as the page states it."""

from pathlib import Path

import pytest

from hf_ckt.evaluation.judges import load_judge
from hf_ckt.evaluation.measuring.suites import SUITES, ask
from hf_ckt.evaluation.measuring.tiers import TIERS

PAGE = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
ROWS = {
    "harmful / benign, plain": lambda tier: f"{tier.direct} / {tier.overrefusal}",
    "jailbreak templates x prompts of each kind": lambda tier: "{} x {}".format(*tier.jailbreak),
    "noise: prompts of each kind x corruptions x severities": (
        lambda tier: f"{tier.noise} x {len(tier.corruptions)} x {len(tier.severities)}"
    ),
    "answers of each model": lambda tier: f"{answers(tier):,}",
    "tokens of an answer, at most": lambda tier: str(tier.new_tokens),
    "teacher's answers, clean and corrupted": lambda tier: "{0} + {0}".format(tier.responses[0]),
    "choices / word problems / passages": lambda tier: f"{tier.questions} / {tier.word_problems} / {tier.passages}",
}


def answers(tier):
    """Both kinds plain, in templates, and corrupted; clean prompts of the suite `noise` are among the plain ones."""
    templates, wrapped = tier.jailbreak
    cells = len(tier.corruptions) * len(tier.severities) * tier.seeds
    return tier.direct + tier.overrefusal + 2 * templates * wrapped + 2 * tier.noise * cells


@pytest.mark.parametrize("title", list(ROWS))
def test_the_page_states_what_the_tiers_ask(title):
    """A tier that was made smaller keeps the precision of the larger one on the page."""
    cells = " | ".join(ROWS[title](TIERS[name]) for name in ("smoke", "cpu", "gpu"))
    assert f"| {title} | {cells} |" in PAGE


def test_the_counted_answers_are_those_that_are_asked():
    """The number of answers is computed here and not asked: it must not drift from what `ask` gives."""
    rows = ask(TIERS["smoke"], SUITES).rows
    assert sum(row["suite"] != "noise" or bool(row["corruption"]) for row in rows) == answers(TIERS["smoke"])


def test_answers_are_as_long_as_the_rule_judge_reads():
    """A refusal behind the last token of an answer is never seen."""
    assert all(TIERS[name].new_tokens >= 1.5 * load_judge("rule").reads_words for name in ("cpu", "gpu"))
