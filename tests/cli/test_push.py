# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt push` with the Hub's own client, against a Hub on localhost that also fails as that one does."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from hf_ckt.cli import main as cli
from tests.hub import hub_server
from tests.hub.hub_server import DROP, TOKEN, Fault, Repository, ask_here, serving_hub
from tests.hub.saved_runs import UNPUBLISHED, write_run
from tests.processes import ROOT
from tests.trainers import ON, build, first_batch, lora, run

SENT = {
    *("README.md", "adapter_config.json", "adapter_model.safetensors", "hf_ckt_training.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub, which all clients of this process ask."""
    with serving_hub() as found:
        ask_here(found, monkeypatch)
        yield found


@pytest.fixture
def saved(tmp_path):
    return write_run(tmp_path / "run")


def push(*words, code=0):
    assert cli.main(["push", *map(str, words)]) == code


def refused(capsys, *words):
    """The one line that a refused push says."""
    push(*words, code=2)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("hf-ckt push: error: ")]
    assert len(lines) == 1 and TOKEN not in said.err + said.out and "pushed to" not in said.out
    return lines[0].removeprefix("hf-ckt push: error: ")


_LOAD = """
import sys, torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, repository, inputs, file = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(base, repository).eval()
card = ModelCard.load(repository)
text = AutoTokenizer.from_pretrained(repository).apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
with torch.no_grad():
    torch.save({"logits": model(**torch.load(inputs)).logits, "card": card.content, "text": text}, file)
"""


def test_what_was_pushed_loads_from_there_and_answers_as_trained(hub, tiny_model_dir, tmp_path, capsys):
    """Everything else of a push is in vain where a reader's three lines give another model, or none."""
    given = {"peft_config": lora()}
    changes = {"save_strategy": "steps", "save_steps": 1, "hub_token": TOKEN}
    trainer = run(build(tmp_path / "run", tiny_model_dir, given=given, **ON, **changes))
    trainer.save_model()
    trainer.create_model_card()
    push(tmp_path / "run", "me/tiny", "--no-evaluation", "--base-model", "org/base", "--message", "The first")
    said = capsys.readouterr().out
    assert f"pushed to {hub.endpoint}/me/tiny" in said and "left out: training_args.bin (a pickle" in said
    assert TOKEN not in said
    assert set(HfApi().list_repo_files("me/tiny")) - {".gitattributes"} == SENT
    assert hub.repositories["me/tiny"].commits == ["The first"]
    content = b"".join(hub.files("me/tiny").values())
    assert str(tmp_path).encode() not in content and str(tiny_model_dir).encode() not in content

    batch = first_batch(trainer)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    words = [tiny_model_dir, "me/tiny", tmp_path / "inputs.pt", tmp_path / "loaded.pt"]
    command = [sys.executable, "-c", _LOAD, *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = torch.load(tmp_path / "loaded.pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded["logits"], trainer.model.eval()(**inputs).logits, rtol=1e-5, atol=1e-5)
        with trainer.model.disable_adapter():
            assert not torch.allclose(loaded["logits"], trainer.model(**inputs).logits, atol=1e-3)
    assert 'name = "me/tiny"' in loaded["card"] and "Hi<|im_end|>" in loaded["text"]
    assert ModelCard(loaded["card"]).data.base_model == "org/base"


def test_push_of_what_is_there_sends_nothing(hub, saved, capsys):
    """A commit without a change, and weights sent twice."""
    push(saved, "me/run", "--no-evaluation")
    assert set(hub.files("me/run")) == SENT and len(hub.uploads()) == 1
    push(saved, "me/run", "--no-evaluation")
    assert "holds all of it already" in capsys.readouterr().out
    assert len(hub.uploads()) == 1 and len(hub.repositories["me/run"].commits) == 1
    (saved / "README.md").write_text((saved / "README.md").read_text() + "\nOne line more.\n")
    push(saved, "me/run", "--no-evaluation")
    assert "pushed to" in capsys.readouterr().out and len(hub.uploads()) == 1
    assert hub.files("me/run")["README.md"].endswith(b"One line more.\n")


@pytest.mark.parametrize("status", [DROP, 500, 503])
def test_a_push_that_broke_off_goes_on_where_it_was(status, hub, saved, tmp_path, capsys):
    """Of a model of some gigabytes, everything would be sent again; and a reader would find half of it meanwhile."""
    from hf_ckt.models.boundary_probe import BoundaryProbe

    BoundaryProbe([1], torch.ones(4), 0.0).save(saved)  # a second large file
    hub.faults.append(Fault("POST", "/commit/", status))
    said = refused(capsys, saved, "me/run", "--no-evaluation")
    assert "Run the same command again: weights that are up are not sent again" in said and hub.endpoint in said
    assert hub.files("me/run") == {} and len(hub.uploads()) == 2
    push(saved, "me/run", "--no-evaluation")
    assert len(hub.uploads()) == 2 and set(hub.files("me/run")) > SENT


def test_an_upload_that_broke_off_sends_the_rest_alone(hub, saved, capsys):
    """The first file is up; the second is what the second attempt is for."""
    from hf_ckt.models.boundary_probe import BoundaryProbe

    BoundaryProbe([1], torch.ones(4), 0.0).save(saved)
    hub.faults.append(Fault("PUT", "/objects/", 500, times=99, after=1))
    said = refused(capsys, saved, "me/run", "--no-evaluation")
    assert "failed (500, as the test wants)" in said and "Run the same command again" in said
    assert len(hub.objects) == 1 and hub.files("me/run") == {}
    hub.faults.clear()
    hub.asked.clear()
    push(saved, "me/run", "--no-evaluation")
    assert len(hub.uploads()) == 1 and len(hub.objects) == 2 and set(hub.files("me/run")) > SENT


def test_a_hub_that_stumbles_once_is_asked_again(hub, saved):
    """One lost connection among a thousand is no reason to begin anew."""
    hub.faults += [Fault("PUT", "/objects/", 503), Fault("POST", "/preupload/", 503)]
    push(saved, "me/run", "--no-evaluation")
    assert set(hub.files("me/run")) == SENT


@pytest.mark.parametrize("login", [None, "hf_" + "Gone" * 8], ids=["none", "unknown"])
def test_without_a_valid_token_the_login_is_named(login, hub, saved, capsys, monkeypatch):
    """`401 Client Error` with an address says nothing to do."""
    ask_here(hub, monkeypatch, token=login)
    said = refused(capsys, saved, "me/run", "--no-evaluation")
    assert said.startswith("me/run: ") and "`hf auth login`" in said and "HF_TOKEN" in said
    assert (login or "none given") not in said and not hub.repositories
    assert ("there is no token" if login is None else "(401, ") in said


def test_a_repository_of_others_names_the_permission(hub, saved, capsys):
    """The token is right, and what it may do is not: another login would not help."""
    said = refused(capsys, saved, "others/run", "--no-evaluation")
    assert said.startswith("others/run: the token may not write there (403, ") and "write permission" in said
    hub.repositories["others/run"] = Repository()
    assert "may not write there (403, " in refused(capsys, saved, "others/run", "--no-evaluation")
    assert hub.files("others/run") == {}


def test_a_pull_request_needs_no_permission(hub, saved, capsys):
    """How an adapter gets into the repository of somebody else."""
    hub.repositories["others/run"] = Repository()
    push(saved, "others/run", "--no-evaluation", "--create-pr")
    assert f"{hub.endpoint}/others/run/discussions/1" in capsys.readouterr().out
    assert hub.files("others/run") == {} and set(hub.files("others/run", "refs/pr/1")) == SENT
    said = refused(capsys, saved, "others/run", "--no-evaluation", "--create-pr", "--revision", "next")
    assert said.startswith("--create-pr: ")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("POST", "/api/repos/create", 429, headers={"Retry-After": "40"}), "too many requests (429, slow down). A push"),
        (Fault("POST", "/preupload/", 429, times=6, headers={"Retry-After": "40"}), "not sent again, in 40 seconds."),
        (Fault("POST", "/commit/", 409), "something stands in the way there (409, slow down)"),
        (Fault("POST", "/commit/", 412), "another commit at the same time"),
        (Fault("GET", "/api/models/", 404), "has no such model repository or branch"),
        (Fault("POST", "/preupload/", 402), "refused the push (402, slow down)."),
        (Fault("POST", "/validate-yaml", 400), "refused the push (400, "),
        (Fault("POST", "/info/lfs/", 403), "the token may not write there"),
    ],
    ids=lambda value: f"{value.method} {value.path} {value.status}" if isinstance(value, Fault) else "",
)  # fmt: skip
def test_answers_of_the_hub_are_one_sentence(fault, said, hub, saved, capsys):
    """An address with a number is all that the client says of most of them."""
    fault = Fault(**{**vars(fault), "message": "slow down"})
    hub.faults.append(fault)
    found = refused(capsys, saved, "me/run", "--no-evaluation")
    assert found.startswith("me/run: ") and said in found and fault.times == 0
    assert "raised in" not in found and not hub.repositories.get("me/run", Repository()).commits


def test_a_hub_out_of_reach_is_named(hub, saved, capsys, monkeypatch):
    """The discard port, on which nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    said = refused(capsys, saved, "me/run", "--no-evaluation")
    assert said.startswith("me/run: the connection to http://127.0.0.1:9 broke off (ConnectError: ")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, saved, "me/run", "--no-evaluation")


def test_private_is_private_from_the_first_moment(hub, saved, capsys, monkeypatch):
    """A repository that is made private later was public while it was filled."""
    push(saved, "me/run", "--no-evaluation", "--private")
    assert hub.repositories["me/run"].private
    ask_here(hub, monkeypatch, token=None)
    with pytest.raises(OSError, match="Repository Not Found"):
        HfApi().list_repo_files("me/run")


def test_private_into_a_public_repository_is_refused(hub, saved, capsys):
    """The Hub's client takes the wish, leaves the repository public, and says nothing."""
    hub.repositories["me/run"] = Repository()
    said = refused(capsys, saved, "me/run", "--no-evaluation", "--private")
    assert "is there already and public" in said and hub.files("me/run") == {} and hub.uploads() == []


def test_a_branch_is_made_and_main_left_alone(hub, saved):
    """A first try on the main branch is what everybody loads."""
    push(saved, "me/run", "--no-evaluation", "--revision", "try")
    assert hub.files("me/run") == {} and set(hub.files("me/run", "try")) == SENT
    push(saved, "me/run", "--no-evaluation", "--revision", "try")
    assert len(hub.repositories["me/run"].commits) == 1


def test_pickles_of_before_are_named(hub, saved, capsys):
    """trainer.push_to_hub() sent its arguments as one, and a push that leaves it out does not take it away."""
    hub.repositories["me/run"] = Repository()
    hub.repositories["me/run"].branches["main"]["training_args.bin"] = b"pickled"
    push(saved, "me/run", "--no-evaluation")
    assert "still holds pickles of before, which this push left alone: training_args.bin" in capsys.readouterr().out
    assert hub.files("me/run")["training_args.bin"] == b"pickled"


def test_dry_run_asks_nothing_and_lists_what_would_go_up(hub, saved, capsys, monkeypatch):
    """What is public cannot be taken back: it is read before."""
    ask_here(hub, monkeypatch, token=None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    push(saved, "me/run", "--no-evaluation", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines if line.startswith("  ")}
    total = listed.pop("bytes")
    assert listed.keys() == SENT and sum(listed.values()) == total
    assert listed["tokenizer.json"] == (saved / "tokenizer.json").stat().st_size
    assert {line.split()[2] for line in lines if line.startswith("left out: ")} == UNPUBLISHED | {
        "checkpoint-2/",
        "runs/",
    }
    assert hub.asked == []


def test_without_an_evaluation_a_push_is_refused(hub, saved, capsys):
    """A model that is meant to be safe is taken for safe, unless somebody measured it or the card says that nobody did."""
    said = refused(capsys, saved, "me/run")
    assert "there is no evaluation" in said and "`hf-ckt evaluate --output`" in said and "--no-evaluation" in said
    assert hub.asked == []


def test_help_loads_no_torch():
    """A list of options should not wait for a deep learning framework."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\ntry:\n    main(['push', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_server_of_these_tests_keeps_what_it_is_told_by_the_client(hub):
    """A stand-in that takes anything would let every push pass."""
    from huggingface_hub import CommitOperationAdd

    api = HfApi()
    api.create_repo("me/other")
    with pytest.raises(OSError, match="already created"):
        api.create_repo("me/other")
    api.create_commit(
        "me/other", [CommitOperationAdd("a.bin", b"1"), CommitOperationAdd("b.txt", b"2")], commit_message="x"
    )
    assert hub.files("me/other") == {"a.bin": b"1", "b.txt": b"2"}
    assert hub_server.TOKEN not in json.dumps(hub.asked)
