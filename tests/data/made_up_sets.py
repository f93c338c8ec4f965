# SPDX-License-Identifier: Apache-2.0
"""Small made-up sets in the forms of the public ones, and wheels that carry them: no row of a benchmark is in here."""

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from hf_ckt.data.prompt_set_table import PUBLIC_SETS, HubSource, PublicSet, WheelSource

CSV_PATH = "made_up_csv/data/behaviors.csv"
FIRST_PATH, SECOND_PATH = "made_up_json/edgy.json", "made_up_json/more.json"
PROBLEM_PATH = "made_up_json/sums.json"
MARKED_PATH, PLAIN_PATH = "made_up_json/dan/Marked.json", "made_up_json/dan/Plain.json"
SHOTS_PATH = "made_up_json/shots.json"

# Commas, quotes and line breaks within a cell are where a reader that splits lines goes wrong.
BEHAVIORS = [
    {
        "Behavior": 'Explain, "in detail",\nhow to be rude',
        "FunctionalCategory": "standard",
        "SemanticCategory": "manners",
    },
    {"Behavior": "Sing a song that is not yours", "FunctionalCategory": "copyright", "SemanticCategory": "songs"},
    {"Behavior": "Explain how to skip a queue", "FunctionalCategory": "standard", "SemanticCategory": "queues"},
]
EXAMPLES = {
    "number_theory": (
        "The following are multiple choice questions (with answers) about number theory.\n\n"
        "Q: What is 2 + 3?\nGive a number.\n(A) 4 (B) 6 (C) 5 (D) 7\n"
        "A: Let's see. The options are\n(A) 4 and\n(C) 5, and the answer is (A) for 2 + 2. The answer is (C).\n\n"
        "Q: Which is even?\n(A) 1 (B) 2 (C) 3 (D) 5\nA: Two halves. The answer is (B).\n\n"
        "Q: How many lines?\n(A) 1 (B) 2 (C) 3 (D) 4\nA: There are nine. The answer is (E).\n\n"
    ),
    "colours": "About colours.\n\nQ: What colour is snow?\n(A) Red (B) Green (C) Blue (D) White\nA: The answer is (D).\n\n",
}
_SHARED = [{"text": "Can I kill weeds?", "category": "garden"}, {"text": "Can I shoot at noon?", "category": "photos"}]


def _as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


FILES = {
    "made_up_csv-1.0": {CSV_PATH: _as_csv(BEHAVIORS)},
    "made_up_json-2.1": {
        FIRST_PATH: json.dumps(_SHARED).encode(),
        SECOND_PATH: json.dumps([{"text": "Can I execute a script?", "category": "computers"}]).encode(),
        PROBLEM_PATH: json.dumps([{"text": "No.", "text_clean": "What is 1 + 1?", "target_answer": "2"}]).encode(),
        MARKED_PATH: json.dumps(
            ["You are {generator.name}. Prompt: INSERT PROMPT HERE. Be {generator.name}!"]
        ).encode(),
        PLAIN_PATH: json.dumps(['Answer as {{"X"}}, {generator.name}. \n']).encode(),
        SHOTS_PATH: json.dumps(EXAMPLES).encode(),
    },
}


def _wheel(wheel: str, paths: list[str], *rest, rows: int) -> WheelSource:
    name, version = wheel.rsplit("-", 1)
    digests = {path: hashlib.sha256(FILES[wheel][path]).hexdigest() for path in paths}
    return WheelSource(f"{name.replace('_', '-')}=={version}", rows, digests, *rest)


_JSON = "made_up_json-2.1"
_PROMPT = {"text": "prompt", "category": "type"}
SETS = {
    "harmbench": PublicSet(
        "harmful",
        "MIT",
        _wheel(
            "made_up_csv-1.0",
            [CSV_PATH],
            {"text": "Behavior", "category": "SemanticCategory"},
            ("FunctionalCategory", "standard"),
            rows=2,
        ),
        HubSource("somebody/behaviors", "train", 2, _PROMPT, config="plain", where=("label", "standard")),
    ),
    "rho-overrefusal": PublicSet(
        "benign",
        "MIT",
        _wheel(_JSON, [FIRST_PATH, SECOND_PATH], {"text": "text", "category": "category"}, rows=3),
    ),
    "xstest-safe": PublicSet("benign", "CC-BY-4.0", hub=HubSource("somebody/safe", "test", 1, _PROMPT)),
    "dan": PublicSet("templates", "Apache-2.0", _wheel(_JSON, [MARKED_PATH, PLAIN_PATH], rows=2)),
    "mmlu-dev": PublicSet(
        "choices",
        "MIT",
        _wheel(_JSON, [SHOTS_PATH], rows=3),
        HubSource(
            "somebody/choices",
            "dev",
            1,
            {"subject": "about", "question": "question", "options": "choices", "answer": "answer"},
        ),
    ),
    "gsm8k": PublicSet(
        "problems",
        "MIT",
        _wheel(_JSON, [PROBLEM_PATH], {"question": "text_clean", "answer": "target_answer"}, rows=1),
        HubSource("somebody/sums", "test", 1, {"question": "question", "answer": "answer"}),
    ),
}


def use_made_up_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the made-up sets in the place of the public ones."""
    for name in list(PUBLIC_SETS):
        monkeypatch.delitem(PUBLIC_SETS, name)
    for name, made_up in SETS.items():
        monkeypatch.setitem(PUBLIC_SETS, name, made_up)


def write_files(folder: Path) -> None:
    """Writes what a fetch would."""
    for files in FILES.values():
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


def write_wheels(folder: Path) -> None:
    """Writes the wheels, which pip takes for such, each with a package beside the data and a file that leads out."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel, files in FILES.items():
        name, version = wheel.rsplit("-", 1)
        information = f"{wheel}.dist-info"
        others = {
            f"{name}/__init__.py": b"raise RuntimeError('must not be imported')\n",
            "../outside.txt": b"must not be written\n",
            f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{information}/RECORD": b"",
        }
        with zipfile.ZipFile(folder / f"{wheel}-py3-none-any.whl", "w") as archive:
            for path, content in (files | others).items():
                archive.writestr(path, content)
