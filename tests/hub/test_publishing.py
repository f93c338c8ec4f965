# SPDX-License-Identifier: Apache-2.0
"""What of a saved run goes up: loadable by everybody, and nothing of the machine or its owner in it."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from hf_ckt.hub.model_card import CardEvaluation
from hf_ckt.hub.publishing import PublishedEvaluation, published_files, require_repo_id
from hf_ckt.hub.saved_run import read_saved_run
from tests.hub.saved_runs import change_json, write_json, write_run

TOKEN = "hf_" + "a1B2" * 8
REPO = "me/run"


def files_of(folder, **given):
    """Name to content, as it goes up."""
    found = published_files(read_saved_run(folder), REPO, **given)
    assert [file.path for file in found] == sorted({file.path for file in found})
    contents = {one.path: one.content if isinstance(one.content, bytes) else one.content.read_bytes() for one in found}
    assert all(one.size == len(contents[one.path]) for one in found)
    return contents


def test_files_go_up_as_they_are_but_for_the_card(tmp_path):
    """A push that changed weights or tokenizer would publish another model than was evaluated."""
    folder = write_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    sent = files_of(folder)
    assert all(sent[name] == (folder / name).read_bytes() for name in sent if name != "README.md")
    assert b'name = "me/run"' in sent["README.md"] and b"in place of the name" not in sent["README.md"]
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_base_of_this_machine_is_replaced_by_its_hub_id(tmp_path):
    """An adapter that names /home/someone/base loads nowhere else, and tells who someone is."""
    folder = write_run(tmp_path / "run", str(tmp_path / "my-base"))
    with pytest.raises(ValueError, match=r"names its base by a folder of this machine \('my-base'\).*--base-model"):
        files_of(folder)
    sent = files_of(folder, base_model="org/base")
    settings = json.loads(sent["adapter_config.json"])
    assert settings == {
        **json.loads((folder / "adapter_config.json").read_text()),
        "base_model_name_or_path": "org/base",
    }
    data = ModelCard(sent["README.md"].decode()).data.to_dict()
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert not any(str(tmp_path).encode() in content for content in sent.values())


def test_base_in_the_hubs_cache_is_named_by_its_id(tmp_path):
    """Such a path is what transformers records of a model that it loaded without network."""
    folder = write_run(tmp_path / "run", "/home/someone/hub/models--org--base/snapshots/0123abcd")
    assert json.loads(files_of(folder)["adapter_config.json"])["base_model_name_or_path"] == "org/base"


def test_base_that_the_adapter_does_not_record_is_refused(tmp_path):
    """On other weights of the same shape it loads without a word, and answers as nobody trained it to."""
    folder = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"--base-model: the adapter was trained on 'org/base', got 'org/other'"):
        files_of(folder, base_model="org/other")
    assert (
        files_of(folder, base_model="org/base")["adapter_config.json"] == (folder / "adapter_config.json").read_bytes()
    )
    change_json(folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter_config\.json: names no base"):
        files_of(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json: is no JSON"):
        files_of(folder)


def test_base_of_a_full_model_is_named_on_its_card(tmp_path):
    """A model that was fine-tuned from a folder would be shown without its origin."""
    folder = write_run(tmp_path / "run", str(tmp_path / "my-base"), is_adapter=False)
    data = ModelCard(files_of(folder, base_model="org/base")["README.md"].decode()).data.to_dict()
    assert data["base_model"] == "org/base" and "base_model_relation" not in data


def test_evaluation_goes_up_and_stands_on_the_card(tmp_path):
    """A file of scores that no card mentions is not read."""
    folder = write_run(tmp_path / "run")
    write_json(tmp_path / "results.json", {"J": 0.5})
    evaluation = PublishedEvaluation(
        CardEvaluation("| J | 0.5 |"), {"evaluation/results.json": tmp_path / "results.json"}
    )
    sent = files_of(folder, evaluation=evaluation)
    assert json.loads(sent["evaluation/results.json"]) == {"J": 0.5}
    assert b"\n## Evaluation\n\n| J | 0.5 |\n" in sent["README.md"] and b"No evaluation" not in sent["README.md"]


def _in_card(folder):
    (folder / "README.md").write_text((folder / "README.md").read_text() + f"\nUse `{TOKEN}`.\n")


def _in_head(folder):
    tensor = {"lora_A": np.ones(2, dtype=np.float32)}
    save_file(tensor, folder / "adapter_model.safetensors", metadata={"from": f"https://me:{TOKEN}@host/x"})


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_in_card, r"README\.md, line \d+"),
        (_in_head, r"adapter_model\.safetensors, line 1"),
        (lambda run: change_json(run / "tokenizer_config.json", token=TOKEN), r"tokenizer_config\.json, line \d+"),
        (lambda run: change_json(run / "tokenizer.json", note=TOKEN), r"tokenizer\.json, line \d+"),
        (lambda run: change_json(run / "adapter_config.json", note=TOKEN), r"adapter_config\.json, line \d+"),
        (lambda run: write_json(run / "training_args.json", {"hub_token": TOKEN}), r"training_args\.json, line 2"),
    ],
    ids=["card", "weights' head", "settings", "tokenizer", "changed on the way", "arguments"],
)
def test_a_token_in_any_file_is_refused_and_not_shown(spoil, name, tmp_path):
    """Whoever downloads it may push in its owner's name; and a message with it stands in a terminal's log."""
    folder = write_run(tmp_path / "run", str(tmp_path / "base"))
    spoil(folder)
    with pytest.raises(ValueError, match=f"^{name}: holds what looks like an access token") as error:
        files_of(folder, base_model="org/base")
    assert TOKEN not in str(error.value)


def test_vocabulary_may_hold_what_looks_like_an_address(tmp_path):
    """Of a vocabulary in one line, all between "://" and "@" would be taken for a password."""
    folder = write_run(tmp_path / "run")
    (folder / "vocab.json").write_text('{"://":1,"abc":2,"@":3,"/usr/bin":4}')
    assert "vocab.json" in files_of(folder)


@pytest.mark.parametrize("name", ["hf_ckt_training.json", "README.md"])
@pytest.mark.parametrize("where", ["run", "home"])
def test_a_folder_of_this_machine_in_a_text_is_refused(name, where, tmp_path, monkeypatch):
    """A path tells the name of a user or a project that nobody has heard of yet."""
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    folder = write_run(tmp_path / "run")
    files_of(folder)
    path = f"{home if where == 'home' else folder}/rows.jsonl"
    file = folder / name
    if file.suffix == ".json":
        change_json(file, note=f"from {path}")
    else:
        file.write_text(file.read_text() + f"\nSee `{path}`.\n")
    with pytest.raises(ValueError, match=rf"^{name}: names a folder or file of this machine .*rows\.jsonl"):
        files_of(folder)


def test_a_file_of_this_machine_as_a_setting_is_refused(tmp_path):
    """Data sets lie anywhere, not below the home or the run alone."""
    folder = write_run(tmp_path / "run")
    rows = tmp_path / "rows.jsonl"
    write_json(folder / "training_args.json", {"data": [{"name": str(rows)}]})
    assert "training_args.json" in files_of(folder)  # no such file: it may be of another machine, or no path at all
    rows.touch()
    with pytest.raises(ValueError, match=r"^training_args\.json: names a folder or file of this machine"):
        files_of(folder)


@pytest.mark.parametrize("name", ["run", "me/run/main", "me/ru n", "me/-run", ""])
def test_name_of_a_repository_needs_an_owner(name):
    """Whose it is would depend on the token; a name of three parts fails after the weights are read."""
    require_repo_id(REPO)
    with pytest.raises(ValueError, match="REPO_ID: "):
        require_repo_id(name)
