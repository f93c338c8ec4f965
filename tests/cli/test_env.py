# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt env`: what a bug report needs, and nothing that should not stand in one."""

import json
from importlib.metadata import version
from pathlib import Path

from hf_ckt import __version__
from hf_ckt.cli import main as cli


def test_env_tells_versions_and_machine(capsys):
    """Without them a report is answered by the question for them."""
    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hf_ckt"].startswith(__version__)
    for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "evaluate", "scikit-learn"):
        assert facts[name] == version(name)
    assert {"python", "system", "processor", "memory", "dtype that it multiplies"} <= facts.keys()
    assert any(name.startswith("GPU") for name in facts)
    assert facts["deepspeed"] == "not installed" or facts["deepspeed"][0].isdigit()


def test_env_is_a_list_that_can_be_pasted(capsys):
    """Markdown of a report: one line a fact."""
    assert cli.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20 and all(line.startswith("- ") and ": " in line for line in lines)


def test_env_holds_no_token_and_no_folder(capsys, monkeypatch):
    """A report is public."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_user")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cli.main(["env"]) == 0
    said = capsys.readouterr().out
    assert "hf_secret" not in said and "- Hub login: a token is set" in said and "- OMP_NUM_THREADS: 3" in said
    assert str(Path.home()) not in said.replace("- Hub login", "") and str(Path.cwd()) not in said
