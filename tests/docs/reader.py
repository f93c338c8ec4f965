# SPDX-License-Identifier: Apache-2.0
"""
Runs a page's Python as a reader would, with tiny models, two steps and no Hub.

    python -m tests.docs.reader docs/noise.md

runs all of a page in the folder that it is started in, after what the page takes for granted.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# Names that stand for a reader's own models, in the pages.
EXAMPLE_MODELS = ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "org/a-teacher-with-the-same-tokenizer")
# What a card says in the place of its own folder, and where the demo leaves its adapter.
CARD_FOLDER, DEMO_ADAPTER = "path/to/the/folder/of/this/card", "out/quickstart/adapter"


def blocks(page: Path, language: str) -> list[str]:
    """What stands in a page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def drop_in() -> str:
    """The README's program after the change that it shows."""
    (diff,) = blocks(README, "diff")
    return "".join(line[2:] + "\n" for line in diff.splitlines() if not line.startswith("-"))


def drop_in_trainer() -> str:
    """The same up to the line that trains: what a page has at hand that says `trainer`."""
    return drop_in()[: drop_in().index("trainer.train()")]


@contextlib.contextmanager
def reading(model: Path, teacher: Path, **names: Any) -> Iterator[Callable[[str], dict[str, Any]]]:
    """
    A function that runs code and returns the names which it leaves. They stay for the code after it.

    Args:
        model: A tiny model's folder, in the place of a reader's own model.
        teacher: One for the teacher's.
        names: Further names that the code finds.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    import hf_ckt
    from tests.runs import rows
    from tests.trainers import fields

    config = hf_ckt.ContrastiveRobustConfig

    def settings(*args: Any, **given: Any) -> Any:
        short = {"train_sampling_strategy": "random", "eval_steps": 1, "save_steps": 1}
        return config(*args, **fields(**{**short, **given, "max_steps": 2}))

    pushed: list[Any] = []
    found = {
        "dataset": Dataset.from_list(rows()),
        "LoraConfig": LoraConfig,
        "BitsAndBytesConfig": BitsAndBytesConfig,
        "pushed": pushed,
        **names,
    }
    stand_ins = {**dict(zip(EXAMPLE_MODELS, (model, teacher), strict=True)), CARD_FOLDER: DEMO_ADAPTER}

    def run(code: str) -> dict[str, Any]:
        for name, folder in stand_ins.items():
            code = code.replace(f'"{name}"', f'"{folder}"')
        exec(compile(re.sub(r"\b(eval|save)_steps=50\b", r"\1_steps=2", code), "page", "exec"), found)
        return found

    with (
        patch.object(hf_ckt, "ContrastiveRobustConfig", settings),
        patch.object(hf_ckt.ContrastiveRobustTrainer, "push_to_hub", lambda trainer: pushed.append(trainer)),
    ):
        yield run


def read(page: Path, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Runs a page's Python from top to bottom, and returns the names that it leaves."""
    code = [drop_in()] if page.name == "README.md" else blocks(page, "python")
    if "trainer." in "".join(code) and "trainer = " not in "".join(code):
        run(drop_in_trainer())
    return [run(block) for block in code][-1]


if __name__ == "__main__":
    from tests.tiny_models import save_tiny_llama

    for name, seed in (("tiny", 0), ("tiny-teacher", 5)):
        if not Path(name).exists():
            save_tiny_llama(Path(name), hidden_size=64, seed=seed)
    with reading(Path("tiny"), Path("tiny-teacher")) as run_code:
        read(Path(sys.argv[1]).resolve(), run_code)
