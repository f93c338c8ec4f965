# SPDX-License-Identifier: Apache-2.0
"""What is saved and what would be uploaded: the adapter and an honest card, and no token."""

from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from tests.hub.hub_server import TOKEN, ask_here, serving_hub
from tests.runs import OFF
from tests.trainers import ON, build, first_batch, lora, run


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    changes = {"distillation_temperature": 2.0, "perturbation": "uniform", "hub_token": "hf_secret"}
    trainer = run(build(folder / "run", tiny_model_dir, given={"peft_config": lora()}, **ON, **changes))
    trainer.save_model()
    trainer.create_model_card()
    return trainer


def test_card_names_base_objective_and_settings(finished, tiny_model_dir):
    """A card without the objective leaves the reader with weights of unknown making."""
    path = Path(finished.args.output_dir) / "README.md"
    card = ModelCard.load(path)
    text = path.read_text()
    # A folder of this machine is no model of the Hub: its name, and no link to it.
    assert card.data.base_model is None and str(tiny_model_dir) not in text
    assert f"| Base model | {tiny_model_dir.name} |" in text
    assert card.data.library_name == "peft"
    assert {"trl", "sft", "hf_ckt"} <= set(card.data.tags)
    for word in ("forward_kl", "info_nce", "consistency_kl", "adapter_l2", "nll", "uniform", "learning_rate"):
        assert word in text, word
    assert "the student's own base, adapters off" in text
    assert "temperature" in text and "2.0" in text
    assert "hf_secret" not in text


def test_a_saved_adapter_loads_and_predicts_as_trained(finished):
    """Saved under another name or scale, an adapter loads in silence and does nothing."""
    loaded = AutoPeftModelForCausalLM.from_pretrained(finished.args.output_dir, dtype=torch.float32).eval()
    batch = first_batch(finished)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        expected = finished.model.eval()(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(loaded.get_base_model().model(**inputs)[0], expected[..., :32])


@pytest.fixture
def uploads(monkeypatch):
    """The files of each upload, which are kept here in place of being sent."""
    seen = []

    def create_repo(self, repo_id=None, **kwargs):
        class Url(str):
            repo_id = "me/run"

        return Url("https://huggingface.co/me/run")

    def upload_folder(self, *, folder_path, **kwargs):
        seen.append({path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()})
        sent = Future()
        sent.set_result(None)
        return sent

    for module in ("transformers.trainer", "huggingface_hub"):
        monkeypatch.setattr(f"{module}.create_repo", lambda *a, **k: create_repo(None, *a, **k), raising=False)
        monkeypatch.setattr(f"{module}.upload_folder", lambda **k: upload_folder(None, **k), raising=False)
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return seen


def test_push_uploads_adapter_and_card_and_no_token(finished, uploads):
    """A push goes through huggingface_hub as on any Trainer; what it leaves behind there is public."""
    finished.push_to_hub(commit_message="done", dataset_name="starter")
    (files,) = uploads
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= files.keys()
    assert b"starter" in files["README.md"] and b"uniform" in files["README.md"]
    assert all(b"hf_secret" not in content for content in files.values())
    assert not [name for name in files if name.endswith((".bin", ".pt")) and name != "training_args.bin"]
    names = load_file(Path(finished.args.output_dir) / "adapter_model.safetensors").keys()
    assert names and all("lora_" in name for name in names)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "end"])
def test_pushes_during_a_run_upload_no_token(strategy, uploads, tiny_model_dir, tmp_path):
    """Trainer writes its arguments anew for each of these, and whoever downloads them could push in their owner's name."""
    changes = {"push_to_hub": True, "hub_strategy": strategy, "hub_model_id": "me/run", "hub_token": "hf_secret"}
    changes |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = run(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **ON, **changes))
    trainer.push_to_hub()
    assert any("training_args.bin" in files for files in uploads)
    assert len(uploads) > (1 if strategy != "end" else 0)
    assert all(b"hf_secret" not in content for files in uploads for content in files.values())
    assert trainer.args.hub_token == "hf_secret"


@pytest.mark.parametrize("weights", [OFF, ON], ids=["zero", "all"])
def test_checkpoints_hold_the_card(weights, tiny_model_dir, tmp_path):
    """SFTTrainer writes the card with each checkpoint, so that a pushed one has it."""
    changes = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **weights, **changes))
    assert "base_model" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").exists()


def test_full_fine_tuning_saves_a_whole_model(tiny_model_dir, tmp_path):
    """A patched forward must not get into the files, nor change what loads from them."""
    from tests.trainers import load

    trainer = run(build(tmp_path, tiny_model_dir, **{**OFF, "consistency_weight": 1.0}))
    trainer.save_model()
    trainer.create_model_card()
    loaded = load(tmp_path).eval()
    ids = first_batch(trainer)["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "transformers"


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_a_hub_gets_an_adapter_that_loads_and_no_token(strategy, tiny_model_dir, tmp_path, monkeypatch):
    """The fixture above stands for the client; here the client itself asks, and what a Hub holds in the end is read."""
    with serving_hub() as hub:
        ask_here(hub, monkeypatch, token=None)
        changes = {"push_to_hub": True, "hub_strategy": strategy, "hub_model_id": "me/run", "hub_token": TOKEN}
        changes |= {"hub_private_repo": True, "save_strategy": "steps", "save_steps": 1}
        trainer = run(build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **ON, **changes))
        trainer.push_to_hub(dataset_name="org/rows")
        files, messages = hub.files("me/run"), hub.repositories["me/run"].commits
    assert hub.repositories["me/run"].private
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= files.keys()
    assert files["adapter_model.safetensors"] == (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == ["org/rows"] and 'name = "me/run"' in card.text
    assert not [name for name, content in files.items() if TOKEN.encode() in content]
    within = {name.partition("/")[0] for name in files if "/" in name}
    assert within == ({"last-checkpoint"} if strategy == "checkpoint" else set())
    assert ("last-checkpoint/optimizer.pt" in files) == (strategy == "checkpoint")
    # Later saves are passed over while the first is still sent.
    assert ("Training in progress, step 1" in messages) == (strategy != "end") and "End of training" in messages
    # What `hf-ckt push` leaves out, and Trainer does not.
    assert str(tmp_path).encode() in files["training_args.bin"]
    assert str(tiny_model_dir) in files["adapter_config.json"].decode()
