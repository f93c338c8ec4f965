# SPDX-License-Identifier: Apache-2.0
"""The card: says what was trained, claims nothing else, and gives nothing of the machine away."""

import re

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_ckt.hub import build_model_card
from hf_ckt.hub.model_card import LOAD_FROM, CardEvaluation

OBJECTIVE = [
    {"role": "task", "loss": "nll", "weight": 1.0, "schedule": "constant", "settings": {}},
    {
        "role": "distillation",
        "loss": "jensen_shannon",
        "weight": 0.5,
        "schedule": "cosine",
        "settings": {"beta": 0.5, "temperature": 2.0},
    },
]
TOKEN = "hf_" + "a1B2" * 8


def _card(**changes):
    arguments = {
        "model_name": "my-adapter",
        "base_model": "org/base",
        "hub_model_id": "me/my-adapter",
        "data": {"names": ["org/data"], "rows": 12, "fingerprint": "0123456789abcdef"},
        "tags": ["demo"],
        "objective": OBJECTIVE,
        "settings": {"learning_rate": 2e-4, "max_steps": 10, "lr_scheduler_type": "cosine"},
        "framework_versions": {"TRL": "1.16.0", "PyTorch": "2.13.0"},
        "teacher": "org/teacher",
        "is_adapter": True,
        "training_summary": {"distillation_loss": 0.123456789, "steps": 10},
    }
    return build_model_card(**{**arguments, **changes})


def test_card_metadata_of_an_adapter():
    """The Hub shows the adapter under its base model only if the metadata says so."""
    data = _card().data.to_dict()
    assert data["library_name"] == "peft"
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["org/data"]
    assert {"hf_ckt", "trl", "contrastive-distillation", "demo"} <= set(data["tags"])


def test_card_metadata_of_a_full_model():
    """A full model loaded as an adapter fails at the reader's first line."""
    card = _card(is_adapter=False)
    assert card.data.to_dict()["library_name"] == "transformers"
    assert "base_model_relation" not in card.data.to_dict()
    assert "peft" not in card.text
    assert 'name = "me/my-adapter"\nmodel = AutoModelForCausalLM.from_pretrained(name' in card.text


def test_card_head_is_yaml_and_body_is_rendered():
    """A card whose head does not parse is shown without tags, and leftover template marks are shown to everyone."""
    content = _card(tags=["a: b", "{{ base_link }}"]).content
    head, body = content.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["tags"][-2:] == ["a: b", "{{ base_link }}"]
    assert "{%" not in body and "{{ " not in body
    assert re.match(r"\n<!-- hf_ckt [0-9a-f]{16}: .* -->\n# my-adapter\n", body)


def test_card_shows_objective_settings_and_versions():
    """The objective is what this run differs by from any other fine-tuning."""
    text = _card().text
    assert "| distillation | jensen_shannon | 0.5 | cosine | beta=0.5, temperature=2 |" in text
    assert "| task | nll | 1 | constant |  |" in text
    assert "| learning_rate | 0.0002 |" in text
    assert "| TRL | 1.16.0 |" in text
    assert "| distillation_loss | 0.123457 |" in text
    assert "[org/base](https://huggingface.co/org/base)" in text
    assert "[org/teacher](https://huggingface.co/org/teacher)" in text
    data = "[org/data](https://huggingface.co/datasets/org/data), 12 rows, fingerprint 0123456789abcdef"
    assert f"| Data | {data} |" in text


def test_card_tables_stay_tables():
    """An unescaped bar or a line break in a value shifts every column after it."""
    text = _card(settings={"chat": "a|b\nc"}).text
    assert "| chat | a\\|b c |" in text


def test_card_without_results_says_that_nothing_was_evaluated():
    """A safety model's card that is silent on evaluation is read as if it had been evaluated."""
    text = _card().text
    assert "No evaluation is part of this card" in text and "## Evaluation" not in text
    text = _card(evaluation=CardEvaluation("| refused |\n|---|\n| 0.81 |")).text
    assert "No evaluation is part" not in text
    assert "\n## Evaluation\n\n| refused |\n|---|\n| 0.81 |\n\n## Limits\n" in text


def test_card_cites_the_method_and_trl():
    """What came from whom has to be on the card, and so has what is not reproduced."""
    text = _card().text
    assert "2510.27077" in text and "huggingface/trl" in text
    assert "only its abstract was public" in text


def test_card_hides_local_base_models(tmp_path):
    """A folder's path tells the user's name and machine, and in the metadata it is a link to a stranger's model."""
    folder = tmp_path / "my-base"
    folder.mkdir()
    data = {"names": [str(tmp_path / "rows.jsonl")]}
    card = _card(base_model=str(folder), teacher=str(folder / "teacher"), data=data)
    data = card.data.to_dict()
    assert "base_model" not in data and "datasets" not in data and "base_model_relation" not in data
    assert str(tmp_path) not in card.content
    assert "| Base model | my-base |" in card.text
    assert "| Teacher | teacher |" in card.text
    assert "| Data | rows.jsonl, number of rows not recorded, fingerprint not recorded |" in card.text


def test_card_hides_relative_folders(tmp_path, monkeypatch):
    """A relative folder looks exactly like a Hub id, and would link to whoever owns that id."""
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = _card(base_model="runs/base")
    assert "base_model" not in card.data.to_dict()
    assert "runs/base" not in card.content and "| Base model | base |" in card.text


def test_card_names_a_cached_snapshot_by_its_hub_id():
    """The last part of such a path is a commit hash, which tells a reader nothing."""
    path = "/home/someone/.cache/huggingface/hub/models--org--base/snapshots/0123abcd"
    card = _card(base_model=path)
    assert card.data.to_dict()["base_model"] == "org/base"
    assert "someone" not in card.content and "0123abcd" not in card.content


def test_card_leaves_out_secrets_and_places(tmp_path):
    """A token on a card is public the moment the card is pushed."""
    settings = {
        "hub_token": TOKEN,
        "push_to_hub_token": "something",
        "output_dir": str(tmp_path),
        "logging_dir": "runs/x",
        "run_name": "out/secret-project",
        "note": f"pushed with {TOKEN} from {tmp_path}/sub to https://user:pass@example.org/x",
        "model_init_kwargs": {"token": TOKEN, "cache_dir": "/srv/cache/hub", "revision": "main"},
        "eos_token": "<|im_end|>",
    }
    content = _card(settings=settings).content
    for secret in (TOKEN, str(tmp_path), "runs/x", "secret-project", "user:pass", "/srv/cache", "something"):
        assert secret not in content
    assert "| eos_token | <\\|im_end\\|> |" in content
    assert "| model_init_kwargs | revision=main |" in content


def test_card_of_a_run_that_stays_local_says_what_to_fill_in():
    """A snippet with a name that is on no Hub would download a stranger's model of that name."""
    text = _card(hub_model_id=None).text
    assert f'name = "{LOAD_FROM}"' in text and "Put the folder that holds this card in place of the name." in text
    assert "Put the folder" not in _card().text
    with pytest.raises(HFValidationError):  # the Hub is never asked for it
        validate_repo_id(LOAD_FROM)


def test_card_with_the_least_there_is():
    """A run without teacher, data name or summary still gets a card."""
    card = _card(base_model=None, data=None, tags=None, teacher=None, training_summary=None, objective=[])
    assert "| Teacher | none |" in card.text and "| Data | not recorded |" in card.text
    assert "## How the run ended" not in card.text and "The command was not recorded." in card.text
    assert "| Trained on | device not recorded; time not recorded; energy not measured |" in card.text
    assert "| Its licence | not known |" in card.text


def test_card_says_on_what_machine_and_how_long_it_was_trained():
    """Two trainings that differ in their seconds may differ in their machine, or one of them was stopped between."""
    given = {
        "device": "CPU, 2 cores",
        "training_summary": {"train_runtime": 12.34},
        "command": "hf-ckt train --seed 1",
    }
    text = _card(**given).text
    assert "| Trained on | CPU, 2 cores; 12 s of training; energy not measured |" in text
    assert "\n```bash\nhf-ckt train --seed 1\n```\n" in text
    assert "12 s of training since it was last resumed;" in _card(**given, resumed=True).text


def test_scores_of_a_card_are_what_the_hub_reads():
    """A model index that the Hub's parser refuses takes base model and tags with it."""
    one = EvalResult("text-generation", "a-set", "a set", "youden_j", 0.5, metric_name="J: [0.25, 0.75], n=12")
    other = EvalResult("text-generation", "b", "b", "safety", 0.75)
    evaluation = CardEvaluation("| J |", [one, other])
    read = ModelCard(_card(evaluation=evaluation).content)
    assert read.data.eval_results == [one, other] and read.data.model_name == "me/my-adapter"
    name, found = model_index_to_eval_results(read.data.to_dict()["model-index"])
    assert (name, found) == ("me/my-adapter", [one, other])
    local = ModelCard(_card(evaluation=evaluation, hub_model_id=None).content)
    assert local.data.model_name == "my-adapter" and local.data.base_model == "org/base"
    assert "model-index" not in _card().data.to_dict() and "model_name" not in _card().data.to_dict()


def test_card_says_where_the_base_weights_come_from():
    """What was measured on dequantized weights is not what a reader gets who loads the repository that is named."""
    origin = "weights dequantized from a 4-bit file"
    assert f"| Its weights | {origin} |\n| Teacher |" in _card(base_weights=origin).text
    assert "Its weights" not in _card().text


def test_card_says_over_which_precision_an_adapter_was_trained():
    """The snippet loads the base in another precision, where the adapter answers otherwise than it was measured."""
    settings = {"backbone": "nf4 weights, multiplied in bfloat16"}
    assert "trained over a backbone of nf4 weights, multiplied in bfloat16." in _card(settings=settings).text
    assert "trained over a backbone" not in _card().text
    assert "trained over a backbone" not in _card(settings=settings, is_adapter=False).text


def test_card_says_how_its_table_was_measured():
    """A table without judge, length and precision cannot be compared with any other."""
    token = f"Judge: rule. Read /data/out/file.json with {TOKEN}."
    card = _card(evaluation=CardEvaluation(f"| J | 0.10 |\n\n{token}")).text
    assert "| J | 0.10 |\n\nJudge: rule. Read file.json with [removed].\n" in card
    assert "A rate of refusal alone is no sign of safety" in card
    assert "A rate of refusal alone" not in _card().text


def test_card_links_teachers_that_are_on_the_hub_with_their_commit():
    """Which state of a repository taught is as much a fact as which repository."""
    rows = [
        {"route": "a", "kind": "model", "name": "org/one", "revision": "0123456789abcdef", "licence": "mit"},
        {"route": "b|c", "kind": "adapter", "name": "/home/someone/two", "base": "org/base", "quantization": "nf4"},
    ]
    text = _card(teacher=rows).text
    hub = "https://huggingface.co"
    assert (
        f"| Teacher of rows that name a | [org/one]({hub}/org/one) (kind model, revision 0123456789ab, licence mit) |"
        in text
    )
    second = f"two (kind adapter, an adapter on [org/base]({hub}/org/base), held in nf4, licence not known)"
    assert f"| Teacher of rows that name b\\|c | {second} |" in text and "someone" not in text
    assert "| Teacher | org" not in text
