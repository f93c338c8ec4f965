# SPDX-License-Identifier: Apache-2.0
"""The script that runs the pages' commands: what it finds in a page, what it runs in its place, and what it says of a failure."""

import subprocess
from pathlib import Path

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
page_commands = load_script(ROOT / ".ci" / "page_commands.py")

PAGE = """\
# A page

```bash
hf-ckt parts    # all of them
# a line of its own
hf-ckt fit --memory-gb 24 \\
    --json FILE    # in GB

$ pip install x
```

```python
one = 1
```

    hf-ckt env

```
hf-ckt train
```

```python
two = 2
```
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A repository of one page, whose cache is its own too."""
    monkeypatch.setattr(page_commands, "ROOT", tmp_path)
    monkeypatch.setattr(page_commands, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(page_commands, "pages", lambda: [tmp_path / "README.md"])
    for name in ("write_stand_ins", "train_stand_in_teacher"):
        monkeypatch.setattr(page_commands, name, lambda folder: None)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "tests" / "docs").mkdir(parents=True)
    (tmp_path / "tests" / "docs" / "reader.py").touch()
    return tmp_path / "README.md"


def hows(monkeypatch, *found):
    monkeypatch.setattr(page_commands, "HOW", tuple(found))


How = page_commands.How
PYTHON = How("python -m", note="tiny")


def test_commands_are_found_with_their_lines(page):
    """A command that goes on in a second line, or stands behind one that is a comment, would never be run."""
    assert [(one.line, one.text) for one in page_commands.commands_of(page)] == [
        (4, "hf-ckt parts"),
        (6, "hf-ckt fit --memory-gb 24 --json FILE"),
        (9, "pip install x"),
        (13, "python -m tests.docs.reader README.md"),  # both blocks of Python
    ]


def test_no_command_hides_in_a_block_without_a_language():
    """A reader types it all the same, and it would be neither parsed nor run."""
    programs = ("hf-ckt ", "make ", "python ", "pip ", "git ", "accelerate ", "$ ")
    for file in page_commands.pages():
        lines = page_commands.fenced_lines(file.read_text(encoding="utf-8"))
        assert not [
            (file.name, number, line)
            for number, language, line in lines
            if language not in (*page_commands.SHELLS, "python") and line.startswith(programs)
        ]


def test_every_way_is_that_of_a_command():
    """A line for a command that no page has any more hides that a new one is not the same."""
    texts = [text for one in page_commands.all_commands() for text, _ in page_commands.expanded(one.text)]
    used = [page_commands.how(text) for text in texts]
    assert not [one.pattern for one in page_commands.HOW if one not in used]


def test_short_form_has_a_tiny_model_and_keeps_the_rest():
    """A word of which a part is swapped would be another option, or another file."""
    how = How("x", swaps=(("cpu", "smoke"), ("--data", None), ("out/data", None)), more="--new-tokens 4")
    text = "hf-ckt evaluate --model smollm2 --suite cpu --data out/data --output out/cpu --system-prompt 'Be brief.'"
    assert page_commands.shortened(text, how) == (
        "hf-ckt evaluate --model tiny --suite smoke --output out/cpu --system-prompt 'Be brief.' --new-tokens 4"
    )


def test_target_of_the_makefile_is_what_it_runs():
    """The demo would be believed to run since `make` has a target of that name."""
    ((text, how),) = page_commands.expanded("make demo")
    assert text == "hf-ckt demo" and how is not None and not how.why_not
    ((text, _),) = page_commands.expanded("make gpu ARGS=--rehearse")
    assert text.endswith(" --rehearse") and (ROOT / text.split()[1]).is_file()


def test_what_failed_is_said_and_what_ran_is_not_run_again(page, monkeypatch, capsys):
    """A list of commands that all ran must not be had by one that failed, or did not run."""
    hows(
        monkeypatch,
        PYTHON,
        How("hf-ckt parts", swaps=(("hf-ckt", "true"),)),
        How("hf-ckt fit", swaps=(("hf-ckt", "ls"),)),  # which has no such option
    )
    monkeypatch.setattr(page_commands.sys, "executable", "true")
    assert page_commands.main([]) == 1
    said = capsys.readouterr().out
    assert "README.md:4  hf-ckt parts\n    shortened  0 s  true parts" in said
    assert "README.md:6  hf-ckt fit --memory-gb 24 --json FILE\n    failed" in said and "--memory-gb" in said
    assert "README.md:9  pip install x\n    failed    HOW of .ci/page_commands.py says nothing of it" in said
    assert said.endswith("0 as written, 2 shortened, 0 not run, 2 failed\n")

    ran = []
    monkeypatch.setattr(page_commands, "run", lambda text, how, work: ran.append(text) or (0, 1.0, ""))
    hows(monkeypatch, PYTHON, How("pip", why_not="asks PyPI"), How("hf-ckt"))
    assert page_commands.main([]) == 0
    assert ran == ["hf-ckt parts", "hf-ckt fit --memory-gb 24 --json FILE"]
    ran.clear()
    assert page_commands.main([]) == 0 and ran == []
    page.write_text(PAGE.replace("two = 2", "two = 3"))
    assert page_commands.main([]) == 0 and ran == ["python -m tests.docs.reader README.md"]


def test_page_that_is_none_is_named(capsys):
    """A misspelt page would run the README's commands alone and end well."""
    with pytest.raises(SystemExit):
        page_commands.main(["--page", "docs/nose.md"])
    assert "docs/nose.md is no page with commands" in capsys.readouterr().err
