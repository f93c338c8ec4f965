# SPDX-License-Identifier: Apache-2.0
"""The starter set: short harmful, look-alike and plain prompts, each with the answer an aligned model should give."""

from typing import TYPE_CHECKING, Any, Literal

from ..checks import require_columns, require_known
from .corrupt import TEACHER_PROMPT
from .files import packaged_dataset

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "heldout")
KINDS = ("harmful", "lookalike", "plain")
COLUMNS = ("id", "kind", "category", "prompt", "response")


def load_starter_set(split: Literal["train", "heldout"] = "train") -> "Dataset":
    """
    Loads one part of the starter set; nothing is downloaded.

    The harmful prompts are short requests without harmful content, answered by a refusal that gives its reason and a
    safe way on. The look-alikes use a violent or illegal word innocently and are answered helpfully, like the plain
    ones: without them a model learns to refuse by keyword. The two parts share no wording, so a rate measured on
    `"heldout"` is not recall.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"heldout"`.

    Returns:
        [`~datasets.Dataset`] with the string columns `id`, `kind` (`"harmful"`, `"lookalike"` or `"plain"`),
        `category`, `prompt` and `response`.

    Raises:
        ValueError: If there is no such split, or if a line of the packaged file cannot be read as a row.

    Example:

    >>> from hf_ckt.data import load_starter_set
    >>> rows = load_starter_set("heldout")
    >>> sorted(set(rows["kind"]))
    ['harmful', 'lookalike', 'plain']
    """
    require_known("split", split, SPLITS)
    return packaged_dataset(f"starter_{split}.jsonl", COLUMNS, _check_row)


def to_prompt_completion(dataset: "Dataset", system_prompt: str | None = None) -> "Dataset":
    """
    Turns starter rows into TRL's conversational prompt-completion format, so that only the answers are trained on.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows with `prompt` and `response` as text, and `teacher_prompt` (as text or None) where a teacher reads another
            prompt. Their other columns are kept.
        system_prompt (`str`, *optional*):
            Put before each prompt as a system message.

    Returns:
        [`~datasets.Dataset`] with `prompt`, `completion` and `teacher_prompt` as lists of messages, without `response`.

    Raises:
        ValueError: If `prompt` or `response` is missing.

    Example:

    >>> from hf_ckt.data import load_starter_set, to_prompt_completion
    >>> row = to_prompt_completion(load_starter_set("train"))[0]
    >>> [message["role"] for message in row["prompt"] + row["completion"]]
    ['user', 'assistant']
    """
    from datasets import Features, Value

    require_columns("starter", dataset.column_names, ("prompt", "response"), "to_prompt_completion")
    before = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

    def asked(prompt: str) -> list[dict[str, str]]:
        return [*before, {"role": "user", "content": prompt}]

    def to_messages(row: dict[str, Any]) -> dict[str, Any]:
        texts = {
            "prompt": asked(row["prompt"]),
            "completion": [{"role": "assistant", "content": row["response"]}],
        }
        if isinstance(row.get(TEACHER_PROMPT), str):
            texts[TEACHER_PROMPT] = asked(row[TEACHER_PROMPT])
        return texts

    features = None
    if TEACHER_PROMPT in dataset.column_names and dataset.features[TEACHER_PROMPT] in (
        Value("string"),
        Value("large_string"),
    ):
        # A first batch without any would be taken for a column of nothing.
        messages = [{name: Value("string") for name in ("role", "content")}]
        others = {name: kind for name, kind in dataset.features.items() if name != "response"}
        features = Features({**others, "prompt": messages, "completion": messages, TEACHER_PROMPT: messages})
    return dataset.map(
        to_messages, remove_columns=["response"], features=features, desc="Writing prompts and answers as messages"
    )


def _check_row(row: dict[str, str]) -> None:
    if sorted(row) != sorted(COLUMNS) or row["kind"] not in KINDS:
        raise ValueError(
            f"a row needs exactly the keys {', '.join(COLUMNS)}, with kind one of {', '.join(KINDS)}, got {row!r}."
        )
