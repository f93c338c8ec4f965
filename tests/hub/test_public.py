# SPDX-License-Identifier: Apache-2.0
"""What may be published of a value: names and numbers as they are, nothing of the machine and no secret."""

from enum import Enum

import pytest

from hf_ckt.hub.public import hub_id, public_command, public_name, public_text

TOKEN = "hf_" + "a1B2" * 8


class _Strategy(Enum):
    STEPS = "steps"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("https://huggingface.co/papers/2510.27077", "https://huggingface.co/papers/2510.27077"),
        ("org/name", "org/name"),
        ("1/2", "1/2"),
        ("skew_forward_kl_with_a_long_name", "skew_forward_kl_with_a_long_name"),
        ("read /a/b/c then", "read c then"),
        ("C:\\Users\\me\\base", "base"),
        ("~/models/base", "base"),
        ("../base", "base"),
        ("file:///srv/x/base", "base"),
        (_Strategy.STEPS, "steps"),
        (True, "True"),
        (None, "None"),
        ({"b": 1, "a": [1, 2]}, "b=1, a=1, 2"),
        ({"z", "a"}, "a, z"),
    ],
)
def test_public_text(value, text):
    """What is no path stays as it is: a card that mangles names and addresses cannot be followed."""
    assert public_text(value) == text


def test_public_name_of_a_folder_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    """Read from a record on another machine, `my-base` would be the model of a stranger."""
    (tmp_path / "runs" / "my-base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/my-base", str(tmp_path / "runs" / "my-base"), "../my-base"):
        assert public_name(name) == "./my-base"
    assert hub_id("./my-base") is None and public_text("./my-base") == "my-base"
    for words in ("rows of a/b", "files of this machine"):
        assert public_name(words) == public_text(words) == words and hub_id(words) is None
    assert public_name("org/base") == hub_id(public_name("org/base")) == "org/base"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/x/bin/hf-ckt", "train", "--config", "/home/me/run.yaml"], "hf-ckt train --config run.yaml"),
        (["/x/hf_ckt/cli/main.py", "train", "--seed=1"], "hf-ckt train --seed=1"),
        (["/home/me/run it.py", "--hub_token", "mine", "--lr", "2e-4"], "python 'run it.py' --hub_token '[removed]' --lr 2e-4"),
        (["a.py", "--hub-token=mine", "--eos_token", "</s>"], "python a.py '--hub-token=[removed]' --eos_token '</s>'"),
        (["a.py", "--output_dir", "secret/out", TOKEN], "python a.py --output_dir out '[removed]'"),
        (["a.py", '--kwargs={"token": "mine", "a": 1}'], """python a.py '--kwargs={"a": 1}'"""),
        (["a.py", "-m", "org/base"], "python a.py -m org/base"),
        (["a.py", "--wandb-key", "mine", "--Aws_Secret_Access_Key=mine"], "python a.py --wandb-key '[removed]' '--Aws_Secret_Access_Key=[removed]'"),
        (["a.py", "wandb.api_key=mine", "lr=1", "--kwargs", "{'token': 'mine', 'a': 1}"], """python a.py 'wandb.api_key=[removed]' lr=1 --kwargs '{"a": 1}'"""),
        (["a.py", "--model_name_or_path", "org/base", "--teacher-model-name-or-path=/x/mine"], "python a.py --model_name_or_path org/base --teacher-model-name-or-path=mine"),
        (["a.py", "--dataset_name", "customer.jsonl", '--datasets=[{"path": "/data/customer"}]'], """python a.py --dataset_name '[files]' '--datasets=[{"path": "[files]"}]'"""),
        (["a.py", "--dataset_name", "org/rows"], "python a.py --dataset_name org/rows"),
        (["/x/ipykernel_launcher.py", "-f", "/home/me/kernel.json"], ""),
        ([""], ""),
        (["-c"], ""),
    ],
)  # fmt: skip
def test_public_command_holds_no_secret_and_no_folder(words, shown):
    """A command line is where a token is typed."""
    assert public_command(words) == shown
