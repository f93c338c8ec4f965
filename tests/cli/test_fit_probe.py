# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt fit-probe`: from rows to a probe in a folder, and what it refuses."""

import json

import pytest

from hf_ckt.cli import main as cli
from hf_ckt.models.boundary_probe import BoundaryProbe
from tests import tiny_models
from tests.trainers import load, lora


def write(path, start, count=16, **changes):
    rows = [
        {
            "prompt": f"{'abc' if number % 2 else 'def'} {number} {'!!!' if number % 2 else '???'}",
            "kind": "harmful" if number % 2 else "twin",
            "category": "letters",
            **changes,
        }
        for number in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def arguments(tmp_path, tiny_model_dir):
    data, validation = write(tmp_path / "train.jsonl", 0), write(tmp_path / "validation.jsonl", 100)
    words = ["--model", str(tiny_model_dir), "--data", data, "--validation", validation, "--dtype", "float32"]
    return ["fit-probe", *words, "--output", str(tmp_path / "out")]


def test_fit_probe_writes_a_probe_and_prints_its_figures(arguments, tmp_path, capsys, tiny_model_dir):
    """The table is what one decides by whether to route by the probe."""
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "AUROC, harmful against twins          1.000 [" in printed and "right at p 0.5, harmful" in printed
    assert "8 of 8" in printed and "No mistakes, typing errors." in printed
    assert "Written to " in printed and max(map(len, printed.splitlines())) <= 140
    probe = BoundaryProbe.load(tmp_path / "out")
    probe.require_model(load(tiny_model_dir))
    assert probe.facts["base"] == tiny_model_dir.name and probe.facts["loading"]["dtype"] == "float32"
    assert str(tmp_path) not in json.dumps(probe.facts)


def test_fit_probe_keeps_its_columns_apart(arguments, tmp_path, capsys):
    """A figure that runs into its title is misread."""
    rows = [
        {"prompt": f"abc {number} {'!!!' if number % 2 else '???'}", "harmful": bool(number % 2)}
        for number in range(200, 216)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = str(tmp_path / "own.jsonl")
    assert cli.main([*arguments, "--validation", data, "--layers", "1"]) == 0
    assert "AUROC, harmful against benign prompts 1.000 [" in capsys.readouterr().out


def test_fit_probe_json_is_what_the_file_says(arguments, tmp_path, capsys):
    """Two accounts of one probe would be compared by a script sooner or later."""
    assert cli.main([*arguments, "--json", "--layers", "2", "--no-typos"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "boundary_probe.json").read_text())
    assert printed["layers"] == [2] and printed["typos"]["train"] is False


def test_fit_probe_replaces_its_own_probe_and_keeps_anothers(arguments, tmp_path, capsys):
    """A probe of another model beside an adapter cannot be made again without that model."""
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0
    other = tiny_models.save_tiny_llama(tmp_path / "other", seed=3)
    again = [str(other) if word == arguments[2] else word for word in arguments]
    before = (tmp_path / "out" / "boundary_probe.safetensors").read_bytes()
    capsys.readouterr()
    assert cli.main(again) == 2
    assert "--output: 'out' holds a probe that is not one of --model" in capsys.readouterr().err
    assert (tmp_path / "out" / "boundary_probe.safetensors").read_bytes() == before
    (tmp_path / "out" / "boundary_probe.json").rename(tmp_path / "facts")
    assert cli.main(again) == 2
    assert "--output: 'out' holds half a probe, or a damaged one" in capsys.readouterr().err
    (tmp_path / "facts").rename(tmp_path / "out" / "boundary_probe.json")
    assert cli.main([*again, "--overwrite"]) == 0
    BoundaryProbe.load(tmp_path / "out").require_model(load(other))


def test_fit_probe_beside_an_adapter_wants_its_base(arguments, tmp_path, capsys, tiny_model_dir):
    """Training with the adapter's base would read a probe of another model."""
    from peft import get_peft_model

    get_peft_model(load(tiny_model_dir), lora()).save_pretrained(tmp_path / "out")
    assert cli.main(arguments) == 0
    other = tiny_models.save_tiny_llama(tmp_path / "other", seed=3)
    capsys.readouterr()
    assert cli.main([str(other) if word == arguments[2] else word for word in arguments]) == 2
    assert "Give the adapter's base as --model" in capsys.readouterr().err


def test_fit_probe_says_what_is_wrong_with_its_input(arguments, tmp_path, capsys):
    """Each of these would end in a probe that means nothing, or in an error of another library after minutes."""

    def refused(words, message):
        capsys.readouterr()
        try:
            code = cli.main(words)
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2
        assert message in capsys.readouterr().err

    at = arguments.index("--validation")
    refused([*arguments[:at], *arguments[at + 2 :]], "--validation: is missing beside --data")
    data = arguments.index("--data")
    refused([*arguments[:data], *arguments[data + 2 :]], "--validation: belongs to --data")
    one_side = write(tmp_path / "one.jsonl", 50, kind="twin")
    refused([*arguments, "--data", one_side], "are not harmful (kinds: twin)")
    refused([*arguments, "--validation", arguments[data + 1]], "are in the training rows too")
    refused([*arguments, "--layers", "9"], "layers: 9 is asked for, and the model has 2")
    refused([*arguments, "--batch-size", "0"], "--batch-size: must be 1 or more")
    mute = tiny_models.save_tiny_llama(tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    refused([str(mute) if word == arguments[2] else word for word in arguments], "has no chat template")
    assert not (tmp_path / "out").exists()
