# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt card`: the card of a saved run is written into its folder, and is the one that a push publishes."""

import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from hf_ckt.cli import main as cli
from hf_ckt.evaluation.published import published_evaluation
from hf_ckt.hub.publishing import published_files
from hf_ckt.hub.saved_run import read_saved_run
from tests.evaluation.test_published import evaluate
from tests.hub.saved_runs import write_run
from tests.processes import ROOT


@pytest.fixture
def saved(tmp_path):
    return write_run(tmp_path / "run", str(tmp_path / "my-base"))


def card(*words, code=0):
    assert cli.main(["card", *map(str, words)]) == code


def test_card_in_the_folder_is_the_one_that_is_pushed(saved, tmp_path, capsys):
    """What was read before a push would not be what others read after it."""
    evaluate(saved / "evaluation", saved)
    (saved / "README.md").unlink()
    card(saved, "me/run", "--base-model", "org/base")
    assert f"wrote {saved / 'README.md'}, with its evaluation" in capsys.readouterr().out
    written = (saved / "README.md").read_text()
    data = ModelCard(written).data
    assert data.base_model == "org/base" and data.model_name == "me/run" and data.eval_results
    assert 'name = "me/run"' in written and str(tmp_path) not in written
    evaluation = published_evaluation(saved / "evaluation", saved, is_adapter=True)
    files = published_files(read_saved_run(saved), "me/run", base_model="org/base", evaluation=evaluation)
    assert {file.path: file.content for file in files}["README.md"] == written.encode()


def test_card_without_an_evaluation_says_so(saved, capsys):
    """Silence would be read as if it had been evaluated."""
    before = (saved / "README.md").read_text()
    card(saved)
    assert "without an evaluation, which it says" in capsys.readouterr().out
    assert (saved / "README.md").read_text() == before and "No evaluation is part of this card" in before
    evaluate(saved / "evaluation", saved)
    card(saved, "--no-evaluation")
    assert (saved / "README.md").read_text() == before
    card(saved)
    assert "## Evaluation" in (saved / "README.md").read_text()


def test_own_words_are_kept_or_the_card_is_not_touched(saved, capsys):
    """The one thing on a card that cannot be written again."""
    readme = saved / "README.md"
    readme.write_text(readme.read_text() + "\nMine.\n")
    card(saved, "me/run")
    assert readme.read_text().endswith("\nMine.\n") and 'name = "me/run"' in readme.read_text()
    readme.write_text(readme.read_text().replace("## Objective", "## Mine"))
    before = readme.read_text()
    card(saved, "me/run", code=2)
    assert "was changed by hand" in capsys.readouterr().err and readme.read_text() == before


@pytest.mark.parametrize(
    ("words", "said"), [(["nowhere"], "no such folder"), (["{saved}", "run"], "REPO_ID: must be OWNER/NAME")]
)
def test_wrong_input_is_one_sentence(words, said, saved, capsys):
    """A card for a folder that is not there, or a repository of nobody."""
    card(*(word.format(saved=saved) for word in words), code=2)
    assert said in capsys.readouterr().err


def test_help_loads_no_torch():
    """A list of options should not wait for a deep learning framework."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\ntry:\n    main(['card', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
