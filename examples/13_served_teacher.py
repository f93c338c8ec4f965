# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
Asks a served model what it says of a run's rows, and makes a teacher's cache of it: `hf-ckt train` then learns from a model
that never was in its memory.

    vllm serve org/teacher --max-logprobs 20
    python examples/13_served_teacher.py --config run.yaml --url http://localhost:8000/v1 --served-model org/teacher --output cache
    hf-ckt train --config run.yaml --teacher-cache cache

The server must be OpenAI-compatible and have the run's tokenizer: rows go there as token ids, so that it reads what the
student reads. It is asked for completions with `echo`, or with --vllm for `prompt_logprobs`. Stopped at any moment, the same
command goes on where it was. An API key is read from the environment variable OPENAI_API_KEY.

Expected output: how many rows were asked and where they are, then what `hf-ckt import-logprobs` says of the cache:

    8 rows, 2 of them were there: cache_served/train.jsonl

Time and memory: those of the server, and here of the student, which is loaded to lay out the rows.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

from hf_ckt.checks import require_count, require_positive
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data.served_log_probs import served_rows


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, help="YAML file of the run; further options are those of hf-ckt train"
    )
    parser.add_argument("--output", required=True, help="folder of the cache; the responses are kept beside it")
    parser.add_argument("--url", default="http://localhost:8000/v1", help="of the server (default: %(default)s)")
    parser.add_argument("--served-model", required=True, help="what the server calls the model")
    parser.add_argument(
        "--top-k", type=int, default=20, help="tokens that are asked for at each position (default: 20)"
    )
    parser.add_argument("--vllm", action="store_true", help="ask for prompt_logprobs, which are named by their ids")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one answer may take (default: 120)")
    parser.add_argument("--retries", type=int, default=5, help="further tries of a row (default: 5)")
    parser.add_argument(
        "--wait", type=float, default=1.0, help="seconds before the second try, doubled at each (default: 1)"
    )
    options, others = parser.parse_known_args()
    require_count("--top-k", options.top_k, 1, "Without a named token there is no distribution to learn.")
    require_count("--retries", options.retries, 0, "It is a number of further tries.")
    require_positive("--timeout", options.timeout, "No answer comes at once.")
    return options, others


def request_of(options: argparse.Namespace, ids: list[int]) -> dict[str, Any]:
    """What the server is asked for one row."""
    asked = {"model": options.served_model, "prompt": ids, "temperature": 1.0}
    if options.vllm:
        return {**asked, "max_tokens": 1, "prompt_logprobs": options.top_k}
    return {**asked, "max_tokens": 0, "echo": True, "logprobs": options.top_k}


def ask(options: argparse.Namespace, row: int, body: dict[str, Any]) -> dict[str, Any]:
    """The server's response; where it is away or busy, it is asked again."""
    key = os.environ.get("OPENAI_API_KEY")
    url, content = options.url.rstrip("/") + "/completions", json.dumps(body).encode()
    for tried in range(options.retries + 1):
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # for this server alone
        try:
            with urllib.request.urlopen(request, timeout=options.timeout) as answer:
                found = json.load(answer)
            if isinstance(found, dict):
                return found
            said = f"no JSON object: {found!r:.80}"
        except urllib.error.HTTPError as error:
            said = f"status {error.code}, {error.read(300).decode(errors='replace')}"
            said = said.replace(key, "***") if key else said
            if error.code < 500 and error.code not in (408, 429):
                raise ValueError(
                    f"row {row}: {url} refused the request ({said}). Asked again, it would do so again."
                ) from error
        except (OSError, HTTPException, ValueError) as error:  # no connection, a timeout, an answer that broke off
            said = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
        if tried < options.retries:
            print(f"row {row}: no answer ({said}); asked again", file=sys.stderr, flush=True)
            time.sleep(options.wait * 2**tried)
    raise ValueError(
        f"row {row}: {url} gave no answer in {options.retries + 1} tries (last: {said}). The rows before are kept: start the same "
        "command again once the server answers."
    )


def rows_there(file: Path) -> set[int]:
    """Numbers of the rows that a file has; a last line that was cut off is dropped from it."""
    if not file.exists():
        return set()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as cut:
            cut.truncate(len(whole))
    return {json.loads(line)["row"] for line in whole.splitlines()}


def fill(options: argparse.Namespace, file: Path, rows: list[list[int] | None]) -> None:
    """Asks for the rows that a file does not have yet."""
    asked = {number: request_of(options, ids) for number, ids in enumerate(rows) if ids is not None}
    # Answers to other questions are not mixed with these.
    digest = hashlib.blake2b(json.dumps([*asked.items()]).encode(), digest_size=16).hexdigest()
    about = file.with_suffix(".asked")
    if file.exists() and (not about.exists() or about.read_text() != digest):
        raise ValueError(
            f"--output: {file.name} holds answers to other questions (rows, model or --top-k differ), so one cache would hold two "
            "teachers. Name another folder, or delete that file."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(digest)
    there = rows_there(file)
    before = len(there)
    with file.open("a", encoding="utf-8") as lines:
        for number, body in asked.items():
            if number not in there:
                # `row` last: a server's own field of that name would be another's.
                lines.write(json.dumps({**ask(options, number, body), "row": number}) + "\n")
                lines.flush()
                if not there:
                    next(served_rows([file]))  # one that cannot be read shows now, and not after all others
                there.add(number)
    print(f"{len(asked)} rows, {before} of them were there: {file}", flush=True)


def main() -> None:
    options, others = parse_options()
    from hf_ckt.cli.import_logprobs import run, with_prepared_run
    from hf_ckt.training.served_teacher import rows_of

    run_file = ["--config", options.config, *others]
    found: dict[str, list[list[int] | None]] = {}

    def read(trainer: Any) -> None:
        for name, rows in rows_of(trainer).items():
            found[name] = [None if one is None else one.ids.tolist() for one in rows]

    with_prepared_run(run_file, read)
    folder = Path(f"{options.output}_served")
    files = {name: folder / f"{name.replace('_dataset', '')}.jsonl" for name in found}
    for name, rows in found.items():
        fill(options, files[name], rows)
    words = [str(files["train_dataset"])]
    evaluated = [str(file) for name, file in files.items() if name != "train_dataset"]
    words += ["--eval-files", *evaluated] if evaluated else []
    run([*words, "--output", options.output, "--name", options.served_model, *run_file])


if __name__ == "__main__":
    sys.exit(run_guarded(Path(__file__).name, main))
