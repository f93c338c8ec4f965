# SPDX-License-Identifier: Apache-2.0
"""The card that is pushed: that of a run which knew where it would be published, and how it was evaluated."""

import pytest
from huggingface_hub import ModelCard

from hf_ckt.hub.published_card import published_card
from tests.hub.saved_runs import card

RESULTS = [{"score": "Youden's J", "student": 0.5}]


@pytest.mark.parametrize("is_adapter", [True, False], ids=["adapter", "full"])
def test_card_is_what_it_would_have_been_had_the_run_known(is_adapter):
    """A card that names a folder to load from sends every reader to a model of another name, or to none."""
    known = {"hub_model_id": "me/run", "results": RESULTS, "results_note": "On 128 prompts.", "is_adapter": is_adapter}
    wanted = card(**known)
    section = wanted.split("\n## Evaluation\n\n")[1].split("\n\n## What this card")[0]
    saved = card(base_model="/models/my-base", is_adapter=is_adapter)
    found = published_card(saved, "me/run", base_model="org/base", is_adapter=is_adapter, evaluation=section)
    assert found == wanted
    assert 'name = "me/run"' in found and "No evaluation" not in found and "my-base" not in found
    assert ModelCard(found).data.to_dict() == ModelCard(wanted).data.to_dict()


def test_card_without_an_evaluation_goes_on_saying_so():
    """Silence would be read as if it had been evaluated."""
    found = published_card(card(), "me/run")
    assert found == card(hub_model_id="me/run") and "No evaluation is part of this card" in found


def test_card_that_was_published_elsewhere_loads_from_here():
    """A copy of a repository whose card names the first would load the first."""
    assert published_card(card(hub_model_id="me/first"), "me/second") == card(hub_model_id="me/second")


def test_what_an_author_wrote_stays():
    """A sentence of the author's that disappears on the way is not missed until a reader asks."""
    by_hand = "---\nlicense: mit\nlibrary_name: peft\n---\n\n# Mine\n\n## Evaluation\n\nBy hand: good.\n"
    assert published_card(by_hand, "me/run", evaluation="| a |") == by_hand
    plain = by_hand.split("\n## Evaluation")[0]
    assert published_card(plain, "me/run", evaluation="| a |") == plain + "\n## Evaluation\n\n| a |\n"
    assert published_card(plain.replace("\n", "\r\n"), "me/run") == plain


@pytest.mark.parametrize(
    "text", ["# No head\n", "---\n---\n# Empty\n", "---\na: [b\n---\n# Broken\n", "---\n- a\n---\nx\n"]
)
def test_card_whose_metadata_cannot_be_read_is_refused(text):
    """The Hub refuses it after the weights are up, or shows the model without base and library."""
    with pytest.raises(ValueError, match=r"README\.md: "):
        published_card(text, "me/run")
