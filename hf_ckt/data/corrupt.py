# SPDX-License-Identifier: Apache-2.0
"""Noise put into a training set on purpose and reproducibly: answers of the wrong class, prompts with errors."""

import math
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from ..checks import nearest, require_columns, require_count, require_within

if TYPE_CHECKING:
    from datasets import Dataset

MARKS = ("flipped", "perturbed")
# Of a training set: the prompt that the row's teacher reads in place of the student's, where it has a context of its own.
TEACHER_PROMPT = "teacher_prompt"


def corrupt(
    dataset: "Dataset",
    *,
    flipped: float = 0.0,
    perturbation: str | None = None,
    severity: float | None = None,
    share: float = 1.0,
    seed: int = 0,
    by: str = "kind",
    unsafe: Any = "harmful",
    prompt: str = "prompt",
    answer: str = "response",
    teacher_prompt: bool = False,
) -> "Dataset":
    """
    Puts noise into a training set: swaps answers between unsafe and safe prompts, perturbs prompts, or both.

    A swap answers a harmful prompt helpfully and refuses a harmless one. Every answer stays in the set, so that its
    answers' share of refusals is the same at any noise. With one seed the noise grows: what a lower `flipped` or
    `share` affects, a higher one affects in the same way. Which rows get their answers swapped and which get their
    prompts perturbed is drawn independently.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows with a prompt and an answer, each a text or a list of messages.
        flipped (`float`, *optional*, defaults to `0.0`):
            Label noise, in [0, 1]: share of all rows whose answer is one of the other class, to the nearest even number
            of rows, half of them unsafe. At most twice the share of the smaller class.
        perturbation (`str`, *optional*):
            Name of a perturbation of text, e.g. `"typos"`. None leaves the prompts alone.
        severity (`float`, *optional*):
            Share of a prompt's letters, words or gaps that is affected, in [0, 1]. None: the perturbation's default.
        share (`float`, *optional*, defaults to `1.0`):
            Share of the rows whose prompt is perturbed, in [0, 1].
        seed (`int`, *optional*, defaults to `0`):
            0 or more. A prompt's own noise depends on it and on the prompt's text, not on the row's place.
        by (`str`, *optional*, defaults to `"kind"`), unsafe (*optional*, defaults to `"harmful"`):
            Column that tells the classes apart, and its value in the rows that are unsafe; all others are safe.
        prompt (`str`, *optional*, defaults to `"prompt"`), answer (`str`, *optional*, defaults to `"response"`):
            Columns of the prompts and the answers. Of messages, those of the user are perturbed.
        teacher_prompt (`bool`, *optional*, defaults to `False`):
            Whether a column `teacher_prompt` keeps the clean prompt of each perturbed row, and None of the others: a teacher
            within `privileged_context` reads it, so that the student learns what is said to the prompt without the noise.

    Returns:
        [`~datasets.Dataset`] with the same rows in the same order and two more columns, `flipped` and `perturbed`: True
        where the answer is of the other class, and where the prompt differs from the clean one. A prompt that was
        drawn can stay as it was, where it is short and the severity low.

    Raises:
        ValueError: If a column is missing or in the way, a name is unknown, the perturbation is not of text, a share
            comes to no row at all, or more answers would be swapped than the smaller class has.
        TypeError: If the dataset is not one that is in memory or on disk, or a prompt is neither text nor messages.

    Example:

    >>> from hf_ckt.data import corrupt, load_starter_set
    >>> rows = corrupt(load_starter_set("train"), flipped=0.1, perturbation="typos", share=0.5)
    >>> sum(rows["flipped"]), sum(kind == "harmful" for kind in rows.filter(lambda row: row["flipped"])["kind"])
    (48, 24)
    """
    # Imported here: the command line reads this module's names without wanting to wait for pyarrow.
    from datasets import Dataset, Features

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset: must be a datasets.Dataset, got {type(dataset).__name__}. Choose one split, and load a streaming "
            "dataset in full: which rows are affected is drawn from all of them."
        )
    require_count("seed", seed, 0, "Python's generator takes -1 for 1, so two seeds would give the same noise.")
    require_within("flipped", flipped, 0, 1, "It is a share of the rows.")
    require_within("share", share, 0, 1, "It is a share of the rows.")
    for name in MARKS:
        if name in dataset.column_names:
            raise ValueError(
                f"corrupt: the dataset has a column {name!r} already, so which rows are affected could not be told any "
                "more. Start from the clean set, or rename the column."
            )
    if teacher_prompt and TEACHER_PROMPT in dataset.column_names:
        raise ValueError(
            f"teacher_prompt: the dataset has a column {TEACHER_PROMPT!r} already, and what it says would be lost. Rename it, or "
            "leave teacher_prompt out."
        )
    if perturbation is None and (severity is not None or share != 1 or teacher_prompt):
        raise ValueError(
            f"perturbation: is None, so severity={severity}, share={share} and teacher_prompt={teacher_prompt} would be "
            "ignored and the prompts stay clean. Name a perturbation of text, e.g. 'typos', or leave the three out."
        )

    clean = dataset.with_format(None)
    rows = clean
    is_flipped, is_perturbed = [False] * len(clean), [False] * len(clean)
    if flipped:
        require_columns("training", clean.column_names, (by, answer), "flipped")
        order = list(range(len(clean)))
        for one, other in _pairs(clean[by][:], flipped, seed, by, unsafe):
            order[one], order[other] = other, one
            is_flipped[one] = is_flipped[other] = True
        rows = _with_column(rows, answer, clean.select_columns([answer]).select(order))
    if perturbation is not None:
        part = text_perturbation(perturbation, severity)
        require_columns("training", clean.column_names, (prompt,), "perturbation")
        prompts = clean[prompt][:]
        noisy = _noisy_prompts(prompts, part, share, seed, prompt)
        is_perturbed = [before != after for before, after in zip(prompts, noisy, strict=True)]
        features = clean.select_columns([prompt]).features
        rows = _with_column(rows, prompt, Dataset.from_dict({prompt: noisy}, features=features))
        if teacher_prompt:
            kept = [text if changed else None for text, changed in zip(prompts, is_perturbed, strict=True)]
            features = Features({TEACHER_PROMPT: features[prompt]})
            rows = _with_column(rows, TEACHER_PROMPT, Dataset.from_dict({TEACHER_PROMPT: kept}, features=features))
    for name, values in zip(MARKS, (is_flipped, is_perturbed), strict=True):
        rows = _with_column(rows, name, Dataset.from_dict({name: values}, features=_boolean(name)))
    return rows


def prompt_noise(text: str, seed: int) -> Random:
    """Returns the source of chance for a prompt's noise: the same for a text wherever it stands, in every process."""
    return Random(f"{seed}:{text}")


def _pairs(kinds: Sequence[Any], flipped: float, seed: int, by: str, unsafe: Any) -> list[tuple[int, int]]:
    """An unsafe row and a safe one each, whose answers change places."""
    sides = [[index for index, kind in enumerate(kinds) if bool(kind == unsafe) is wanted] for wanted in (True, False)]
    if not sides[0]:
        known = sorted({str(kind) for kind in kinds})
        raise ValueError(
            f"unsafe: no row has {unsafe!r} in column {by!r}, so there is nothing to swap.{nearest(str(unsafe), known)} "
            f"It has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
        )
    count = _rounded("flipped", flipped, len(kinds) / 2, "pair")
    smaller = min(map(len, sides))
    if count > smaller:
        # Rounded down, so that the number in the message is one that works.
        largest = math.floor(2 * smaller / len(kinds) * 1e4) / 1e4
        raise ValueError(
            f"flipped: {flipped} of {len(kinds)} rows would swap {count} answers on each side, and the smaller one has "
            f"{smaller} rows ({len(sides[0])} are {unsafe!r}, {len(sides[1])} are not): some swaps would have to stay "
            f"within a class and change no label. At most {2 * smaller} rows, flipped={largest}, are possible."
        )
    rng = Random(seed)
    for side in sides:
        rng.shuffle(side)
    return list(zip(*sides, strict=False))[:count]


def _rounded(field: str, share: float, total: float, unit: str) -> int:
    count = round(share * total)
    if share and not count:
        raise ValueError(
            f"{field}: {share} of the rows is not one whole {unit} of them, so the set would stay clean and its results "
            f"be booked as those of a noisy one. Raise it, or use {field}=0 where no noise is meant."
        )
    return count


def text_perturbations() -> dict[str, Any]:
    """Returns the classes of the perturbations that change text, by name."""
    from ..discovery import load_part, part_names

    families: dict[str, Any] = {name: load_part("perturbations", name) for name in part_names("perturbations")}
    return {name: cls for name, cls in families.items() if cls.stage == "text"}


def text_perturbation(name: str, severity: float | None = None) -> Any:
    """
    Returns a perturbation of text.

    Args:
        name (`str`):
            Its name, e.g. `"typos"`.
        severity (`float`, *optional*):
            In [0, 1]. None: its own default.

    Raises:
        ValueError: If there is none of that name, or it changes something else than text.
    """
    from ..discovery import load_part

    cls: Any = load_part("perturbations", name)
    if cls.stage != "text":
        raise ValueError(
            f"perturbation: {name} changes {cls.stage}, which a text as such does not have. Use one of text: "
            f"{', '.join(text_perturbations())}."
        )
    return cls() if severity is None else cls(severity=severity)


def _noisy_prompts(prompts: list[Any], part: Any, share: float, seed: int, column: str) -> list[Any]:
    from ..noise.noisy_prompts import perturb_text

    places = list(range(len(prompts)))
    # A generator of its own, so that which prompts have errors says nothing about which answers are wrong.
    Random(f"rows to perturb:{seed}").shuffle(places)
    noisy = list(prompts)
    for index in places[: _rounded("share", share, len(places), "row")]:
        text = _own_text(prompts[index], column, index)
        noisy[index] = perturb_text(prompts[index], part, prompt_noise(text, seed))
    return noisy


def _own_text(prompt: Any, column: str, index: int) -> str:
    """What the user wrote: the same whether the prompt is a text or a message, so that its noise is the same, too."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list) or not all(isinstance(turn, dict) and "role" in turn for turn in prompt):
        raise TypeError(
            f"prompt: column {column!r} must hold texts or lists of messages with role and content, and row {index} is "
            f"{prompt!r:.80}, which cannot be perturbed. Name the prompts' column with prompt=, or drop such rows."
        )
    contents = [turn.get("content") or "" for turn in prompt if turn["role"] == "user"]
    return "\n".join(
        content if isinstance(content, str) else "\n".join(map(_block_text, content)) for content in contents
    )


def _block_text(block: Any) -> str:
    return block if isinstance(block, str) else block.get("text") or ""


def _boolean(name: str) -> Any:
    from datasets import Features, Value

    return Features({name: Value("bool")})


def _with_column(rows: "Dataset", name: str, column: "Dataset") -> "Dataset":
    """Puts a column in, at the place of the one of its name if there is one."""
    from datasets import concatenate_datasets

    names = rows.column_names if name in rows.column_names else [*rows.column_names, name]
    others = rows.select_columns([other for other in rows.column_names if other != name])
    joined = concatenate_datasets([others, column], split=rows.split, axis=1) if others.column_names else column
    return joined.select_columns(names)
