# SPDX-License-Identifier: Apache-2.0
"""TRL's tests with other names: what is swapped, and what counts as lost."""

from pathlib import Path

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
trl_tests = load_script(ROOT / ".ci" / "trl_tests.py")

SUBJECT = "import torch\n\nfrom trl import SFTConfig, SFTTrainer\nfrom trl.trainer.sft_trainer import (\n    DataCollatorForLanguageModeling,\n)\n"


@pytest.mark.parametrize("names", trl_tests.RUNS.values(), ids=str)
def test_swapped_names_are_this_packages(names):
    """A name that stays TRL's compares SFTTrainer with itself, and nothing is ever lost."""
    import trl

    import hf_ckt

    text = trl_tests.swapped(SUBJECT, names)
    space = {}
    exec(text, space)
    for name in ("SFTTrainer", "SFTConfig"):
        expected = getattr(hf_ckt, trl_tests.NAMES[name]) if name in names else getattr(trl, name)
        assert space[name] is expected
    assert "DataCollatorForLanguageModeling" in space


def test_a_file_that_imports_otherwise_is_refused():
    """TRL may write its imports in another way one day; the run would be one of its own trainer."""
    with pytest.raises(ValueError, match="does not import SFTTrainer from trl"):
        trl_tests.swapped("import trl\n", ("SFTTrainer",))


def test_names_that_the_installed_trl_lacks_are_found():
    """A test file of another version fails as a whole at an import, and every comparison of nothing is equal."""
    text = SUBJECT.replace("DataCollatorForLanguageModeling,", "DataCollatorForLanguageModeling,\n    no_such_loss,")
    assert trl_tests.missing_names(text) == {"trl.trainer.sft_trainer": ["no_such_loss"]}
    assert trl_tests.missing_names(SUBJECT) == {}


@pytest.mark.parametrize(
    ("theirs", "ours", "status"),
    [
        ({"a": "passed", "b": "failure"}, {"a": "passed", "b": "failure"}, 0),
        ({"a": "passed", "b": "failure"}, {"a": "passed", "b": "passed"}, 0),
        ({"a": "passed", "b": "passed"}, {"a": "passed", "b": "failure"}, 1),
        ({"a": "passed", "b": "passed"}, {"a": "passed"}, 1),
        ({"a": "failure"}, {"a": "failure"}, 1),
    ],
    ids=["equal", "more", "lost", "gone", "nothing passes"],
)
def test_what_passes_with_sft_trainer_must_pass(theirs, ours, status, tmp_path, monkeypatch, capsys):
    """An exit code of 0 where a test was lost, or where none could be run, says that all is well."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / trl_tests.SUBJECT).write_text(SUBJECT)
    monkeypatch.setattr(trl_tests, "run_tests", lambda tests, names, *rest: ours if names else theirs)
    assert trl_tests.main([str(tmp_path), "--run", "trainer swapped", "--", "-x"]) == status
    assert ("alone: b" in capsys.readouterr().out) == (theirs.get("b") == "passed" and ours.get("b") != "passed")
