# SPDX-License-Identifier: Apache-2.0
"""The example that asks a server, against one that computes with a tiny model."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from transformers import AutoTokenizer

from tests import served, tiny_models
from tests.by_hand import rows_by_hand, table
from tests.cli.test_import_logprobs import PLAIN, places, stored
from tests.runs import OFF
from tests.scripts import load_script
from tests.teachers.signals import from_cache
from tests.trainers import load, run, steps

SCRIPT = Path(__file__).parents[2] / "examples" / "13_served_teacher.py"
K = 4
KEY = "sk-of-nobody-1234"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return load(tiny_models.save_tiny_llama(tmp_path_factory.mktemp("teacher"), seed=11)).eval()


@pytest.fixture(scope="module")
def answer(teacher, tiny_model_dir):
    """What the server says: with echo as a completion, else as vLLM."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)

    def say(body, number):
        ids = body["prompt"]
        if "prompt_logprobs" in body:
            assert body["max_tokens"] == 1
            return 200, served.prompt_logprobs(teacher, tokenizer, ids, body["prompt_logprobs"])
        assert body["echo"] is True and body["max_tokens"] == 0
        return 200, served.completion(teacher, tokenizer, ids, body["logprobs"])

    return say


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ask(tmp_path, tiny_model_dir, monkeypatch, capsys):
    """Runs the script, in this process: starting one takes longer than all that it does here."""
    module = load_script(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    PLAIN.to_json(str(tmp_path / "rows.jsonl"))
    where = {"output_dir": "out", "dataset_name": "rows.jsonl", "model_name_or_path": str(tiny_model_dir)}
    fields = {"use_peft": True, "lora_target_modules": "all-linear", "report_to": "none", "use_cpu": True}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**where, **fields, "distillation_weight": 1.0}))

    def run_script(url, *more):
        words = [
            "--config",
            "run.yaml",
            "--output",
            "cache",
            "--url",
            url,
            "--served-model",
            "stub",
            "--top-k",
            str(K),
        ]
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, *words, "--wait", "0.01", *more])
        capsys.readouterr()
        return Done(module.run_guarded(SCRIPT.name, module.main), *capsys.readouterr())

    return run_script


@pytest.mark.parametrize("vllm", [[], ["--vllm"]])
def test_script_makes_a_teacher_of_a_server(vllm, ask, tmp_path, tiny_model_dir, teacher, answer):
    """The whole way: rows asked as the run has them, a cache, and a run whose loss is that of the buckets."""
    by_hand = rows_by_hand(tiny_model_dir, table())
    with served.serving(answer) as (url, asked):
        done = ask(url, *vllm)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [one["prompt"] for one in asked] == [row.ids.tolist() for row in by_hand]
    assert {one["path"] for one in asked} == {"/v1/completions"}
    assert {one["authorization"] for one in asked} == {f"Bearer {KEY}"}

    ids, log_probs = stored(tmp_path / "cache")
    found = iter(zip(ids.tolist(), log_probs.tolist(), strict=True))
    losses = []
    data = PLAIN.select(range(4))
    trainer = from_cache(
        tmp_path / "run",
        tiny_model_dir,
        data,
        tmp_path / "cache",
        max_steps=1,
        **{**OFF, "distillation_weight": 1.0, "distillation_loss": "forward_kl"},
    )
    for number, row in enumerate(by_hand):
        tokens = row.ids.tolist()
        target, student = (served.log_softmax(one, tokens) for one in (teacher, trainer.model))
        for place in places(row):
            named, values = next(found)
            kept = {a: b for a, b in zip(named, values, strict=True) if a >= 0}
            wanted = {*target[place - 1].topk(K).indices.tolist(), tokens[place]}
            assert kept == pytest.approx({a: target[place - 1, a].item() for a in wanted}, abs=1e-5)
            p, q = ([math.exp(one[place - 1, a]) for a in wanted] for one in (target, student))
            p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
            if number < len(data):
                losses.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert next(found, None) is None
    (logged,) = steps(run(trainer))
    assert logged["distillation_loss"] == pytest.approx(sum(losses) / len(losses), rel=2e-4)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not left and KEY not in done.stdout + done.stderr


def test_script_goes_on_where_it_was_stopped(ask, tmp_path, answer):
    """Rows cost money: none is asked twice, and a half-written one is asked again."""

    def breaks(body, number):
        return answer(body, number) if number < 3 else (400, {"error": f"no credit left on {KEY}"})

    with served.serving(breaks) as (url, asked):
        done = ask(url)
    assert done.returncode == 2 and len(asked) == 4
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("13_served_teacher.py: error: row 3: ") and "refused the request (status 400" in said
    assert KEY not in done.stdout + done.stderr
    file = tmp_path / "cache_served" / "train.jsonl"
    whole = file.read_bytes()
    assert len(whole.splitlines()) == 3
    file.write_bytes(whole[:-25])
    with served.serving(answer) as (url, asked):
        done = ask(url)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(asked) == 6 and "8 rows, 2 of them were there" in done.stdout
        assert [json.loads(line)["row"] for line in file.read_text().splitlines()] == list(range(8))
        done = ask(url, "--top-k", "3")
        assert done.returncode == 2 and "answers to other questions" in done.stderr and len(asked) == 6


def test_script_asks_a_busy_server_again(ask, tmp_path, answer):
    """One answer that broke off, or came late, would end hours of asking."""

    def busy(body, number):
        if number == 1:
            return 429, {"error": "busy"}
        if number == 2:
            return 200, b'{"choices": ['
        if number == 4:
            time.sleep(3)
        return answer(body, number)

    with served.serving(busy) as (url, asked):
        done = ask(url, "--timeout", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(asked) == 8 + 3 and done.stderr.count("asked again") == 3
    assert (tmp_path / "cache" / "index.json").exists()


@pytest.mark.parametrize(
    ("more", "status", "found", "said"),
    [
        (["--retries", "1"], 503, {"error": "starting"}, "gave no answer in 2 tries (last: status 503"),
        ([], 200, {"choices": [{"text": "hi", "logprobs": None}]}, "train.jsonl, line 1: holds no log-probabilities"),
        (["--top-k", "0"], 200, {}, "--top-k: must be 1 or more"),
        (
            ["--url", "http://127.0.0.1:9/v1", "--retries", "0"],
            200,
            {},
            "http://127.0.0.1:9/v1/completions gave no answer",
        ),
    ],
)
def test_script_says_what_is_wrong_in_one_line(more, status, found, said, ask, tmp_path):
    """After the first row, and not after all of them."""
    with served.serving(lambda body, number: (status, found)) as (url, asked):
        done = ask(url, *more)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stderr.strip().splitlines()[-1].startswith("13_served_teacher.py: error: ") and said in done.stderr
    assert len(asked) <= 2 and not (tmp_path / "cache").exists()


def test_script_starts_as_a_program(tmp_path):
    """As a user starts it, from any folder."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0 and "--served-model" in done.stdout, done.stderr
