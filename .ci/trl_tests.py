# SPDX-License-Identifier: Apache-2.0
"""
Runs TRL's own tests of SFTTrainer with this package's names in place of TRL's, and says which then fail.

    git clone --depth 1 --branch v1.16.0 https://github.com/huggingface/trl
    python .ci/trl_tests.py trl                        # with the Hub's tiny models
    python .ci/trl_tests.py trl --offline -- -x        # with stand-ins for them; what follows -- goes to pytest

The tests are run three times: as they are, with the trainer's name swapped, and with the configuration's name swapped
too. Whatever passes as it is must pass with other names; else the exit code is 1.

`--offline` takes the place of the Hub: a random model of the same class for each text model that the tests name, with a
tokenizer of its own, and data sets of the same columns. Tests of images, of remote code and of numbers that belong to the
real tokenizers fail then, the same ones in each run, and so do names that the installed TRL has not got.
"""

import argparse
import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SUBJECT = "test_sft_trainer.py"
NAMES = {"SFTTrainer": "ContrastiveRobustTrainer", "SFTConfig": "ContrastiveRobustConfig"}
RUNS = {"as they are": (), "trainer swapped": ("SFTTrainer",), "both names swapped": ("SFTTrainer", "SFTConfig")}
HUB = "trl-internal-testing/"

# Each text ends in the answer to the question before it, so that all of TRL's dataset types can be made of these.
_QUESTIONS = [
    ("What is better than war?", "Peace."),
    ("What is better than noise?", "Quiet."),
    ("What is better than haste?", "Care."),
    ("What is better than a guess?", "A test."),
    ("What is better than a long file?", "A short one."),
    ("What is better than a riddle?", "A plain word."),
    ("What is colder than rain?", "Snow."),
    ("What is louder than a cat?", "A dog."),
    ("What is older than a child?", "A tree."),
    ("What is wider than a river?", "The sea."),
    ("What is softer than wood?", "Bread."),
    ("What is faster than a walk?", "A run."),
    ("What is higher than a house?", "A hill."),
    ("What is brighter than a lamp?", "The sun."),
    ("What is smaller than a hand?", "A seed."),
    ("What is sweeter than milk?", "Honey."),
    ("What is heavier than air?", "Water."),
    ("What is later than noon?", "Night."),
    ("What is earlier than noon?", "Dawn."),
]
_HELD_OUT = 2


def swapped(text: str, names: tuple[str, ...]) -> str:
    """
    Returns a test file's text in which `from trl import ...` takes some names from this package.

    Raises:
        ValueError: If a name is not imported that way: the run would be one of TRL's own trainer.
    """
    imports = "".join(f"from hf_ckt import {NAMES[name]} as {name}\n" for name in names)
    statement = re.search(r"^from trl import .*$", text, re.M)
    missing = [name for name in names if statement is None or name not in statement[0]]
    if missing:
        raise ValueError(f"{SUBJECT}: does not import {', '.join(missing)} from trl, so nothing would be swapped.")
    return text if statement is None else f"{text[: statement.end() + 1]}{imports}{text[statement.end() + 1 :]}"


def missing_names(text: str) -> dict[str, list[str]]:
    """Returns what a test file imports from TRL and the installed one has not got, by module."""
    missing: dict[str, list[str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trl" and not node.level:
            module = importlib.import_module(node.module or "")
            absent = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            if absent:
                missing[node.module or ""] = absent
    return missing


def rows_by_type() -> dict[str, list[dict[str, Any]]]:
    """Returns rows of each of TRL's dataset types that its tests of SFTTrainer read."""
    turns = [
        ([{"role": "user", "content": question}], [{"role": "assistant", "content": answer}])
        for question, answer in _QUESTIONS
    ]
    return {
        "standard_language_modeling": [{"text": f"{question} {answer}"} for question, answer in _QUESTIONS],
        "standard_prompt_completion": [{"prompt": q, "completion": f" {answer}"} for q, answer in _QUESTIONS],
        "standard_implicit_prompt_preference": [
            {"chosen": f"{q} {answer}", "rejected": f"{q} I do not know."} for q, answer in _QUESTIONS
        ],
        "conversational_language_modeling": [{"messages": asked + answered} for asked, answered in turns],
        "conversational_prompt_completion": [{"prompt": asked, "completion": answered} for asked, answered in turns],
    }


def write_datasets(folder: Path) -> None:
    """Writes a data set that `load_dataset(folder, type, split=...)` reads."""
    configs = []
    for name, rows in rows_by_type().items():
        files = []
        for split, part in (("train", rows[:-_HELD_OUT]), ("test", rows[-_HELD_OUT:])):
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in part))
            files.append({"split": split, "path": f"{name}/{split}.jsonl"})
        configs.append({"config_name": name, "data_files": files})
    # YAML reads JSON.
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")


def write_model(name: str, folder: Path) -> None:
    """Saves a small random model of the class that a name such as `tiny-Qwen2ForCausalLM-2.5` has in it."""
    import torch
    import transformers

    from tests import tiny_models

    cls = getattr(transformers, re.sub(r"^tiny-(\w+?)(-.*)?$", r"\1", name))
    tokenizer = tiny_models.build_tokenizer(400, [f"{question} {answer}" for question, answer in _QUESTIONS])
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "num_experts": 4,
        "num_local_experts": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "layer_types": ["full_attention", "full_attention"],
        "tie_word_embeddings": False,
    }
    known = cls.config_class().to_dict()
    torch.manual_seed(0)
    model = cls(cls.config_class(**{field: value for field, value in sizes.items() if field in known}))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_stand_ins(text: str, folder: Path) -> dict[str, str]:
    """Makes what can be made of what a test file names on the Hub, and returns the folder of each name."""
    found: dict[str, str] = {}
    for name in sorted(set(re.findall(rf'"{HUB}([\w.-]+)"', text))):
        target = folder / name
        if name == "zen":
            write_datasets(target)
        elif "ForCausalLM" in name:
            try:
                write_model(name, target)
            except Exception as error:  # a family that needs more than these sizes
                print(f"no stand-in for {name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
        else:
            continue
        found[f"{HUB}{name}"] = str(target)
    return found


def run_tests(tests: Path, names: tuple[str, ...], work: Path, options: argparse.Namespace, stand_ins: dict) -> dict:
    """Runs the tests with some names swapped and returns the outcome of each."""
    copy, report = work / "tests", work / "report.xml"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in [*tests.glob("testing_*.py"), tests / "conftest.py", tests / "__init__.py"]:
        shutil.copy(path, copy)
    if (tests / "data").is_dir():
        shutil.copytree(tests / "data", copy / "data")
    text = (tests / SUBJECT).read_text()
    lines = ["import importlib"]
    for path in [*copy.glob("*.py"), tests / SUBJECT]:
        for module, names_of in missing_names(path.read_text()).items():
            # Called where it asks whether something is installed.
            lines += [
                f"importlib.import_module({module!r}).{name} = lambda *args, **kwargs: False" for name in names_of
            ]
    with (copy / "conftest.py").open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")
    for name, folder in stand_ins.items():
        text = text.replace(f'"{name}"', json.dumps(folder))
    (copy / SUBJECT).write_text(swapped(text, names))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1"} if options.offline else {}
    command = [sys.executable, "-m", "pytest", f"tests/{SUBJECT}", "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", "--tb=line", "--disable-warnings", "--no-header", *options.pytest]
    subprocess.run(command, cwd=work, env=environment, check=False)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        marks = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        # Stand-ins lie elsewhere in another run.
        key = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        outcomes[key] = marks[0] if marks else "passed"
    return outcomes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trl", type=Path, help="a checkout of TRL, of the installed version if it can be had")
    parser.add_argument("--offline", action="store_true", help="stand-ins in place of the Hub's models and data sets")
    parser.add_argument("--run", action="append", choices=list(RUNS)[1:], help="only this one beside TRL's own")
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:end], argparse.Namespace(pytest=argv[end + 1 :]))
    tests = options.trl / "tests"
    if not (tests / SUBJECT).is_file():
        parser.error(f"{options.trl} has no tests/{SUBJECT}. Name a checkout of https://github.com/huggingface/trl.")
    sys.path.insert(0, str(ROOT))
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        stand_ins = {}
        if options.offline:
            stand_ins = write_stand_ins((tests / SUBJECT).read_text(), work / "stand_ins")
        for name, names in RUNS.items():
            if not names or name in (options.run or RUNS):
                outcomes[name] = run_tests(tests, names, work, options, stand_ins)
    expected = {test for test, outcome in outcomes["as they are"].items() if outcome == "passed"}
    status = 0 if expected else 1
    for name, found in outcomes.items():
        counts = {kind: list(found.values()).count(kind) for kind in ("passed", "failure", "error", "skipped")}
        lost = sorted(expected - {test for test, outcome in found.items() if outcome == "passed"})
        print(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
        for test in lost:
            print(f"  passes with SFTTrainer alone: {test}")
        status = status or int(bool(lost))
    return status


if __name__ == "__main__":
    sys.exit(main())
