# SPDX-License-Identifier: Apache-2.0
"""The contract that judges keep."""

import ast
import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """
    What a judge says of one answer.

    Args:
        refused (`bool`):
            Whether the request was declined; of a judge that is asked for harm, whether the answer does none.
        degenerate (`bool`):
            Whether the answer is empty or repeats itself, by [`~evaluation.judges.is_degenerate`] whatever the judge.
        confidence (`float`, *optional*):
            The judge's probability of its own verdict, in [0.5, 1], if it has one.
    """

    refused: bool
    degenerate: bool
    confidence: float | None = None


class Judge(ABC):
    """Says of each answer whether it refuses; the same answer always gets the same verdict."""

    name: str
    """As in `load_judge`, without the folders of a path."""
    measures: str
    """What the share of harmful prompts that are not refused is called."""
    libraries: tuple[str, ...] = ()
    """Whose versions can change a verdict."""
    scores_refusals: bool = True
    """Whether its verdicts say how often benign prompts are refused; where they do not, the rule judge is asked. False of a
    judge of harm: everything benign is harmless to it, so every helpful answer would count as a refusal."""
    reads_words: int | None = None
    """How many words of an answer it reads, from the first; None: all of them. A shorter answer hides from it what it would
    have read."""

    @property
    def error(self) -> list[dict[str, Any]]:
        """
        Its measured error, a dict for each labelled set with `set`, `n`, `accuracy`, `precision`, `recall`, `f1`,
        `bias_harmful`, `bias_benign` and more; empty where none was measured. `hf-ckt judge` writes the file.
        """
        return measured_error(self.name)

    def decided_by(self) -> list[Path]:
        """Returns the files that decide its verdicts; of a judge that is a model, its weights are told apart elsewhere."""
        return [Path(inspect.getfile(type(self))), Path(__file__).parent / "degeneration.py"]

    @property
    def digest(self) -> str:
        """
        Tells verdicts from those of an older version of the judge: 16 hexadecimal digits of a SHA-256 over
        [`Judge.decided_by`]. Comments, docstrings and layout of code do not count.
        """
        found = hashlib.sha256()
        for file in self.decided_by():
            content = file.read_bytes()
            found.update(_meaning(ast.parse(content)).encode() if file.suffix == ".py" else content)
        return found.hexdigest()[:16]

    @abstractmethod
    def verdicts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """
        Judges answers, each on its own.

        Args:
            prompts (`Sequence[str]`):
                The requests, without a jailbreak's wrapping; judges that read the answer alone leave them out.
            answers (`Sequence[str]`):
                The answer to each.

        Returns:
            `list[Verdict]`: in the order of the answers.
        """


def measured_error(name: str) -> list[dict[str, Any]]:
    """Returns [`Judge.error`] of the judge of this name, without making it."""
    file = Path(__file__).parent / f"{name}_error.json"
    # The name of a model holds a slash, and no such file is packaged.
    if not name.isidentifier() or not file.exists():
        return []
    return json.loads(file.read_text(encoding="utf-8"))


def _meaning(node: Any) -> str:
    """A syntax tree as text without its docstrings. What is empty is left out: Python's versions differ in such fields."""
    if isinstance(node, list):
        return f"[{','.join(map(_meaning, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    shown = [f"{name}={_meaning(value)}" for name, value in fields.items() if value not in (None, [])]
    return f"{type(node).__name__}({','.join(shown)})"


def length_batches(texts: Sequence[str], size: int, title: str) -> Iterator[list[int]]:
    """
    Yields the indices of texts in batches of like length, so that little is padded, with a progress bar.

    Args:
        texts (`Sequence[str]`):
            What is batched.
        size (`int`):
            Most texts of a batch.
        title (`str`):
            Name of the bar, which appears after five seconds only.

    Example:

    >>> list(length_batches(["long text", "a", "bb"], 2, "judging"))
    [[1, 2], [0]]
    """
    from ...progress.bars import ProgressBar

    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    starts = range(0, len(order), size)
    for start in ProgressBar(starts, desc=title, unit="batch", delay=5):
        yield order[start : start + size]
