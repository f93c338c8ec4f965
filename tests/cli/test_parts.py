# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt parts`: every part is shown, to people and to programs."""

import json
from pathlib import Path

import pytest

from hf_ckt.cli import main as cli

PACKAGE = Path(__file__).parents[2] / "hf_ckt"


def _files(family: str) -> set[str]:
    return {path.stem for path in (PACKAGE / family).glob("*.py")} - {"__init__", "base"}


def test_parts_json_holds_every_file(capsys):
    """A part that is missing from the list is one that no script can find."""
    assert cli.main(["parts", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    for family in ("losses", "teachers", "perturbations", "metrics"):
        assert {part["name"] for part in parts if part["family"] == family} == _files(family)
    for part in parts:
        assert {"family", "name", "roles", "settings", "source", "summary"} <= part.keys()
        assert part["summary"], f"{part['name']} has no first sentence"


def test_parts_json_gives_settings_with_defaults(capsys):
    """The default is what a run used that did not name the setting."""
    assert cli.main(["parts", "--json", "--family", "losses"]) == 0
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)}
    assert parts["forward_kl"]["settings"]["temperature"] == 1.0
    assert "distillation" in parts["forward_kl"]["roles"]
    assert "1503.02531" in parts["forward_kl"]["source"]


def test_parts_table_shows_names_and_sources(capsys):
    """The table is read by people: the name to write in a config has to stand at the line's beginning."""
    assert cli.main(["parts", "--family", "losses"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("losses\n")
    for name in _files("losses"):
        assert f"\n  {name} " in printed or f"\n  {name}\n" in printed
    assert max(map(len, printed.splitlines())) <= 140


def test_parts_unknown_family_names_the_nearest(capsys):
    """An empty list for a misspelt family would read as 'there are none'."""
    assert cli.main(["parts", "--family", "loses"]) == 2
    assert "Did you mean 'losses'?" in capsys.readouterr().err


def test_parts_unknown_option_exits_with_usage():
    """A misspelt --json that is ignored hands a table to a program."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["parts", "--jsn"])
    assert stopped.value.code == 2


def test_parts_lists_the_probe_beside_the_families(capsys):
    """Who looks for what tells harmful prompts apart finds it by the command that lists everything."""
    assert cli.main(["parts", "--json", "--family", "probes"]) == 0
    (part,) = json.loads(capsys.readouterr().out)
    assert (part["family"], part["name"], part["class"]) == ("probes", "boundary_probe", "BoundaryProbe")
    assert "1610.01644" in part["source"] and "hf-ckt fit-probe" in part["summary"]
    assert cli.main(["parts"]) == 0
    assert "\nprobes\n  boundary_probe\n" in capsys.readouterr().out
