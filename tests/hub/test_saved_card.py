# SPDX-License-Identifier: Apache-2.0
"""The card of a saved run: that of a training which knew where it would be published, and what its author wrote beside it."""

import json

import pytest
from huggingface_hub import EvalResult, ModelCard

from hf_ckt.hub.model_card import CardEvaluation
from hf_ckt.hub.saved_card import saved_card
from hf_ckt.hub.saved_run import read_saved_run
from tests.hub.saved_runs import card, change_json, write_run

SCORE = EvalResult("text-generation", "a-set", "a set", "youden_j", 0.5, metric_name="J: n=12")
EVALUATED = CardEvaluation("| J |\n|---|\n| 0.50 |\n\nOn 12 prompts.", [SCORE])


@pytest.fixture(params=[True, False], ids=["adapter", "full"])
def run(request, tmp_path):
    """A run that was trained on a folder of this machine."""
    folder = write_run(tmp_path / "run", str(tmp_path / "my-base"), is_adapter=request.param)
    return read_saved_run(folder)


def readme(run, text=None):
    path = run.folder / "README.md"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def test_card_is_what_it_would_have_been_had_the_training_known(run):
    """A card that names a folder to load from sends every reader to a model of another name, or to none."""
    wanted = card(hub_model_id="me/run", evaluation=EVALUATED, is_adapter=run.is_adapter)
    found = saved_card(run, repo_id="me/run", base_model="org/base", evaluation=EVALUATED)
    assert found == wanted and "my-base" in readme(run)
    assert 'name = "me/run"' in found and "No evaluation" not in found and "my-base" not in found
    assert ModelCard(found).data.eval_results == [SCORE]


def test_card_of_the_folder_is_the_one_the_training_wrote(run):
    """Two cards of one run would each be read as the run's."""
    assert saved_card(run) == readme(run)
    (run.folder / "README.md").unlink()
    assert saved_card(run) == card(base_model="./my-base", is_adapter=run.is_adapter)


def test_card_without_an_evaluation_says_so_again(run):
    """Scores of the weights before would stay on the card of those that were trained anew."""
    bare = readme(run)
    readme(run, saved_card(run, repo_id="me/first", evaluation=EVALUATED))
    assert "0.50" in readme(run) and saved_card(run) == bare
    assert saved_card(run, repo_id="me/second") == card(
        base_model="./my-base", hub_model_id="me/second", is_adapter=run.is_adapter
    )


def test_what_an_author_wrote_around_the_card_stays(run):
    """A sentence of the author's that disappears on the way is not missed until a reader asks."""
    head, body = readme(run).split("\n---\n", 1)
    head = head.replace("tags:\n", "license: mit\ntags:\n- mine\n")
    mine = f"{head}\nlanguage: en\n---\nAbove.\n{body}\n## Notes\n\nBelow, with 7 words of my own.\n"
    readme(run, mine.replace("\n", "\r\n"))
    found = saved_card(run, repo_id="me/run", base_model="org/base", evaluation=EVALUATED)
    data = ModelCard(found).data
    assert data.license == "mit" and data.language == "en" and {"mine", "hf_ckt"} <= set(data.tags)
    assert data.base_model == "org/base" and data.eval_results == [SCORE]
    own = card(hub_model_id="me/run", evaluation=EVALUATED, is_adapter=run.is_adapter).split("\n---\n", 1)[1]
    assert found.split("\n---\n", 1)[1] == f"Above.\n{own}\n## Notes\n\nBelow, with 7 words of my own.\n"
    readme(run, found)
    assert saved_card(run, repo_id="me/run", base_model="org/base", evaluation=EVALUATED) == found


def test_title_that_was_chosen_stays(run):
    """A push would call the model by the name of a folder on somebody's disk."""
    readme(run, card(model_name="My model, v2", base_model="./my-base", is_adapter=run.is_adapter))
    assert "\n# My model, v2\n" in saved_card(run, repo_id="me/run")


def test_words_within_the_written_part_are_not_lost_in_silence(run):
    """What is written anew would take a correction by hand away, and nobody would see it go."""
    readme(run, readme(run).replace("## Limits\n", "## Limits\n\n- Mine.\n"))
    with pytest.raises(
        ValueError, match=r"README\.md: the part between .* was changed by hand.*Move your words above"
    ):
        saved_card(run)


@pytest.mark.parametrize("spoil", ["gone", "broken", "a number", "older"])
def test_card_without_a_record_is_not_guessed(spoil, run):
    """What is not known of a training would be missing on its card, as if there had been none of it."""
    record = run.folder / "hf_ckt_training.json"
    if spoil == "gone":
        record.unlink()
    elif spoil == "broken":
        record.write_text("{")
    elif spoil == "a number":
        record.write_text("3")
    else:
        found = json.loads(record.read_text())
        del found["data"]
        record.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"hf_ckt_training\.json.*or write a card by hand"):
        saved_card(run)


def test_card_names_the_base_that_was_trained_on(tmp_path):
    """An adapter would be loaded onto weights that it was not made for."""
    run = read_saved_run(write_run(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"trained on 'org/base', got 'org/other'"):
        saved_card(run, base_model="org/other")
    assert saved_card(run, base_model="org/base") == saved_card(run)


def test_repository_may_have_the_name_of_a_folder_here(tmp_path, monkeypatch):
    """`hf-ckt push me/run me/run` would publish a card whose code loads from a placeholder."""
    run = read_saved_run(write_run(tmp_path / "me" / "run"))
    monkeypatch.chdir(tmp_path)
    assert 'name = "me/run"' in saved_card(run, repo_id="me/run")


def test_card_that_is_not_utf8_is_refused(run):
    """The Hub refuses it after the weights are up."""
    (run.folder / "README.md").write_bytes(b"---\nlicense: mit\n---\n\xff")
    with pytest.raises(ValueError, match=r"README\.md: is not UTF-8"):
        saved_card(run)


@pytest.mark.parametrize("by_hand", [False, True])
def test_folder_of_the_base_stays_out_of_the_tags(by_hand, run):
    """PEFT adds a tag with the base's folder to every card that it finds, and a push would publish it."""
    tag = f"base_model:adapter:{run.folder.parent / 'my-base'}"
    text = BY_HAND if by_hand else readme(run)
    readme(
        run,
        text.replace("library_name:", f"tags:\n- mine\n- {tag}\nlibrary_name:", 1)
        if by_hand
        else text.replace("tags:\n", f"tags:\n- mine\n- {tag}\n"),
    )
    found = saved_card(run, repo_id="me/run", base_model="org/base")
    assert "my-base" not in found and "mine" in ModelCard(found).data.tags


def test_record_is_what_the_card_is_made_of(run):
    """A card that copied the text before it would keep what it said of another training."""
    change_json(run.folder / "hf_ckt_training.json", device="a GPU", data={"names": ["org/new"], "rows": 3})
    found = saved_card(run)
    assert "| Trained on | a GPU; 12 s of training" in found and ModelCard(found).data.datasets == [
        "org/new",
        "org/data",
    ]
    assert "3 rows, fingerprint not recorded" in found


BY_HAND = "---\nlicense: mit\nlibrary_name: peft\n---\n\n# Mine\n\n## Evaluation\n\nBy hand: good.\n"


def test_a_card_by_another_hand_keeps_its_text(run):
    """Whoever wrote a card of their own did not ask for another one."""
    readme(run, BY_HAND)
    assert saved_card(run, repo_id="me/run") == BY_HAND
    found = saved_card(run, repo_id="me/run", base_model="org/base", evaluation=EVALUATED)
    assert found.split("\n---\n", 1)[1] == BY_HAND.split("\n---\n", 1)[1]
    data = ModelCard(found).data
    assert data.license == "mit" and data.base_model == "org/base"
    assert data.eval_results == [SCORE] and data.model_name == "me/run"
    plain = BY_HAND.split("\n## Evaluation")[0]
    readme(run, plain.replace("\n", "\r\n"))
    assert saved_card(run, evaluation=CardEvaluation("| a |")) == plain + "\n## Evaluation\n\n| a |\n"
    assert saved_card(run) == plain


@pytest.mark.parametrize(
    "text", ["# No head\n", "---\n---\n# Empty\n", "---\na: [b\n---\n# Broken\n", "---\n- a\n---\nx\n"]
)
def test_card_whose_metadata_cannot_be_read_is_refused(text, run):
    """The Hub refuses it after the weights are up, or shows the model without base and library."""
    readme(run, text)
    with pytest.raises(ValueError, match=r"README\.md: "):
        saved_card(run, repo_id="me/run")
