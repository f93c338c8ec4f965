# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt chat`: which models it loads and how, what is refused before they are, and that its help does not wait for torch."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli.chatting import terminal
from hf_ckt.cli.main import main
from hf_ckt.evaluation.side_by_side import Asking
from hf_ckt.models.precision import RECORD
from tests.evaluation.measuring.saved_adapters import save_adapter
from tests.tiny_models import save_tiny_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Options that name a tiny model, wide enough for 4-bit blocks, and an adapter that was trained over it in NF4."""
    folder = tmp_path_factory.mktemp("chat")
    base = save_tiny_llama(folder / "base", hidden_size=64)
    adapter = save_adapter(base, folder / "aligned")
    Path(adapter, RECORD).write_text(json.dumps({"backbone": {"weights": "nf4", "compute": "float32"}}))
    return ["--model", str(base), "--adapter", adapter]


@pytest.fixture
def begun(monkeypatch):
    """Catches the chat that would begin."""
    caught = []
    monkeypatch.setattr(terminal.Chat, "run", lambda chat: caught.append(chat))
    return caught


def test_options_reach_the_chat(models, begun):
    """An option that is parsed and dropped shows something else than was asked for."""
    options = ["--perturbation", "typos", "--severity", "0.3", "--seed", "4", "--temperature", "0.7"]
    options += ["--new-tokens", "9", "--system_prompt", "Be brief.", "--dtype", "float32", "--keep-generation-config"]
    assert main(["chat", *models, *options]) == 0
    (chat,) = begun
    assert chat.asking == Asking("typos", 0.3, 4, 0.7)
    assert chat.side.new_tokens == 9 and chat.side.keep_generation_config
    assert {asked.system_prompt for asked in chat.side.formats.values()} == {"Be brief."}
    assert [entry.name for entry in chat.side.entries] == ["base", "adapter"]


@pytest.mark.parametrize(("option", "kind"), [("--as-trained", "Linear4bit"), ("--dtype=float32", "Linear")])
def test_both_are_loaded_in_one_precision_on_one_backbone(models, begun, option, kind):
    """As trained, the base would stay in another precision than its adapter, in memory twice, and be another model."""
    assert main(["chat", *models, option]) == 0
    (chat,) = begun
    layers = []
    for entry in chat.side.entries:
        with chat.side._backbones.active(entry) as model:
            named = dict(model.named_modules())
            (name,) = [name for name in named if name.endswith("layers.0.mlp.down_proj")]
            layers.append(named[name])
    assert layers[0] is layers[1] and type(layers[0]).__name__ == kind


def test_base_alone_answers(models, monkeypatch, capsys):
    """Without an adapter there is still a model to talk to."""
    monkeypatch.setattr("sys.stdin", io.StringIO("How are you?\n"))
    assert main(["chat", *models[:2], "--dtype", "float32", "--new-tokens", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("refusal margin") == 1 and "prompt: How are you?" in printed


def test_precision_that_is_not_the_trained_one_is_said(models, monkeypatch, capsys):
    """An adapter over another precision is not the model that was trained, and its answers look like it."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat", *models, "--dtype", "float32"]) == 0
    assert "its adapter was trained over a backbone in nf4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--severity", "0.3"], "--severity: belongs to --perturbation, which is missing"),
        (["--perturbation", "typo"], "Did you mean 'typos'"),
        (["--host", "0.0.0.0"], "--host: belongs to --ui, which is missing"),
        (["--port", "80"], "--port: belongs to --ui"),
        (["--share"], "--share: belongs to --ui"),
        (["--new-tokens", "0"], "--new-tokens: must be 1 or more"),
        (["--model", "/no/such/model"], "--model: there is no such file or folder"),
        (["--compare", "x"], "unknown option '--compare'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(models, begun, options, message, capsys):
    """What is ignored looks like what has no effect."""
    try:
        assert main(["chat", *models, *options]) == 2
    except SystemExit as left:  # as argparse does
        assert left.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("hf-ckt chat: error:") and not begun


def test_missing_gradio_names_the_extra(models, monkeypatch, capsys):
    """After minutes of loading a traceback of an import names no extra."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["chat", *models, "--ui"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and 'pip install "hf-ckt[ui]"' in error


def test_help_imports_no_torch():
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\n"
        "try:\n    main(['chat', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'rich', 'gradio'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0
