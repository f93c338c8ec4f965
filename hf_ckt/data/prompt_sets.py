# SPDX-License-Identifier: Apache-2.0
"""The questions of an evaluation: packaged, from files that `hf-ckt data fetch` wrote, from the Hub, or the user's own."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..checks import nearest, require_known
from .boundary import load_boundary_set
from .files import load_rows, packaged_rows, place_of_row, shown_name
from .numbered_rows import BUILDERS, ending_of
from .prompt_set_table import PUBLIC_SETS, PublicSet
from .public_rows import REQUEST, public_rows
from .questions import ChoiceQuestion, EvalPrompt, JailbreakTemplate, WordProblem
from .starter import load_starter_set

logger = logging.getLogger(__name__)

# Name of the set -> loader, split and kind of row.
_PACKAGED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "starter-harmful": (load_starter_set, "heldout", "harmful"),
    "starter-lookalike": (load_starter_set, "heldout", "lookalike"),
    "boundary-harmful": (load_boundary_set, "heldout", "harmful"),
    "boundary-twin": (load_boundary_set, "heldout", "twin"),
    "boundary-validation-harmful": (load_boundary_set, "validation", "harmful"),
    "boundary-validation-twin": (load_boundary_set, "validation", "twin"),
}
PROMPT_SETS: dict[str, PublicSet | None] = {
    **dict.fromkeys(_PACKAGED),
    **{name: found for name, found in PUBLIC_SETS.items() if found.kind in ("harmful", "benign")},
}
_KINDS = ("harmful", "benign")


def load_prompts(name: str, data_dir: str | os.PathLike | None = None) -> list[EvalPrompt]:
    """
    Loads a set of prompts, in the set's order.

    Args:
        name (`str`):
            Of `PROMPT_SETS`. Packaged are `"starter-harmful"` and `"starter-lookalike"`, the held-out part of the starter
            set, `"boundary-harmful"` and `"boundary-twin"`, that of the boundary set, and its validation part,
            `"boundary-validation-harmful"` and `"boundary-validation-twin"`.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder written by `hf-ckt data fetch`, which is read where the set has files in it. None asks the Hub, whose
            `"harmbench"` holds the validation part too.

    Raises:
        ValueError: If there is no such set, its files are not the expected ones, or the Hub cannot be asked.
        FileNotFoundError: If it is not in `data_dir`.

    Example:

    >>> prompts = load_prompts("starter-lookalike")
    >>> prompts[0].id, prompts[0].kind
    ('heldout-lookalike-001', 'benign')
    """
    require_known("prompt set", name, PROMPT_SETS)
    if name in _PACKAGED:
        load, split, of_kind = _PACKAGED[name]
        kind: Any = "harmful" if of_kind == "harmful" else "benign"
        rows = [row for row in load(split) if row["kind"] == of_kind]
        return [EvalPrompt(row["id"], name, kind, row["category"], row["prompt"]) for row in rows]
    kind = PUBLIC_SETS[name].kind
    return [
        EvalPrompt(f"{name}/{number}", name, kind, row["category"] or "", row["text"])
        for number, row in enumerate(public_rows(name, data_dir))
    ]


def load_templates(name: str = "starter", data_dir: str | os.PathLike | None = None) -> list[JailbreakTemplate]:
    """
    Loads jailbreak templates.

    Args:
        name (`str`, *optional*, defaults to `"starter"`):
            `"starter"`: 6 mild ones, packaged. `"dan"`: 14 that circulate, from the folder alone.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder written by `hf-ckt data fetch`.

    Raises:
        ValueError, FileNotFoundError: As [`load_prompts`].

    Example:

    >>> [template.id for template in load_templates()]
    ['role_play', 'prefix', 'no_refusal', 'story', 'authority', 'two_answers']
    """
    require_known("jailbreak templates", name, ("starter", "dan"))
    packaged = name == "starter"
    rows = packaged_rows("jailbreak_templates.jsonl", _check_template) if packaged else public_rows(name, data_dir)
    return [JailbreakTemplate(row["id"], row["text"]) for row in rows]


def load_choices(name: str = "starter", data_dir: str | os.PathLike | None = None) -> list[ChoiceQuestion]:
    """
    Loads multiple-choice questions with four options each.

    Args:
        name (`str`, *optional*, defaults to `"starter"`):
            `"starter"`: 24 easy ones, packaged. `"mmlu-dev"`: the examples of MMLU's 57 subjects, 281 from the folder or
            285 from the Hub.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.

    Raises:
        ValueError, FileNotFoundError: As [`load_prompts`].

    Example:

    >>> question = load_choices()[0]
    >>> question.question, question.options[question.answer]
    ('Which of these is an ocean?', 'Pacific')
    """
    require_known("multiple-choice set", name, ("starter", "mmlu-dev"))
    rows = packaged_rows("starter_choices.jsonl", _check_choice) if name == "starter" else public_rows(name, data_dir)
    return [
        ChoiceQuestion(
            id=row.get("id", f"{name}/{number}"),
            subject=row["subject"].replace("_", " "),
            question=row["question"],
            options=tuple(row["options"]),
            answer=int(row["answer"]),
        )
        for number, row in enumerate(rows)
    ]


def load_word_problems(name: str = "gsm8k", data_dir: str | os.PathLike | None = None) -> list[WordProblem]:
    """
    Loads word problems whose answer is a number.

    Args:
        name (`str`, *optional*, defaults to `"gsm8k"`):
            `"gsm8k"`: 100 from the folder, or the 1319 of the test split from the Hub.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.

    Raises:
        ValueError, FileNotFoundError: As [`load_prompts`].
    """
    require_known("word problems", name, ("gsm8k",))
    return [
        # The Hub's answers are worked solutions that end in `#### 1,234`.
        WordProblem(f"{name}/{number}", row["question"], row["answer"].rpartition("####")[2].strip().replace(",", ""))
        for number, row in enumerate(public_rows(name, data_dir))
    ]


def load_own_prompts(
    source: str,
    kind: Literal["harmful", "benign"],
    *,
    prompt_column: str = "prompt",
    category_column: str | None = None,
    split: str | None = None,
) -> list[EvalPrompt]:
    """
    Loads the user's own prompts.

    Args:
        source (`str`):
            A file, a folder or a Hub id, as for [`~data.files.load_splits`].
        kind (`str`):
            `"harmful"` or `"benign"`.
        prompt_column (`str`, *optional*, defaults to `"prompt"`), category_column (`str`, *optional*):
            Where the text and its category stand; None for no categories. Of a `.txt` file each line is a prompt.
        split (`str`, *optional*):
            Of a Hub data set; `"train"`, or the only one, when left out.

    Returns:
        `list[EvalPrompt]` whose set is named after the source.

    Raises:
        FileNotFoundError: If there is no such file or data set.
        ValueError: If the file cannot be read, a column is missing, or a prompt is no text or empty.
    """
    require_known("kind", kind, _KINDS)
    rows = load_rows(source, split=split)
    shown = shown_name(source)
    if ending_of(source) == ".txt" and prompt_column == "prompt":
        prompt_column = "text"
    for option, column in (("prompt_column", prompt_column), ("category_column", category_column)):
        if column is not None and column not in rows.column_names:
            raise ValueError(
                f"{shown}: has no column {column!r}, so there is nothing to ask.{nearest(column, rows.column_names)} It "
                f"has {', '.join(rows.column_names)}; name the right one with --{option.replace('_', '-')} ({option} in "
                "Python)."
            )
    ending = ending_of(shown)
    name = shown[: shown.lower().rindex(ending)] if ending in BUILDERS else shown.rpartition("/")[2]
    if name in PUBLIC_SETS or name in _PACKAGED:
        # The results would state a known set's source and licence for it.
        name = f"own-{name}"
    prompts = []
    for number, row in enumerate(rows):
        text = row[prompt_column]
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{place_of_row(source, number)}: has {text!r:.80} as {prompt_column!r}, so the model would be asked nothing. "
                "Each prompt must be a text; drop the row or fill it."
            )
        category = "" if category_column is None else row[category_column]
        # With the kind, because two files of one name may hold the two kinds.
        prompts.append(
            EvalPrompt(f"{name}/{kind}-{number}", name, kind, "" if category is None else str(category), text)
        )
    return prompts


def distinct_prompts(prompts: Sequence[EvalPrompt]) -> list[EvalPrompt]:
    """
    Returns prompts of which none is asked twice: a rate's interval would be as narrow as if it were two.

    Of a set, a text that stands there again is left out, with its place in the order; with another category it stays and
    has the id of the first, so that both are one cluster.

    Example:

    >>> asked = [EvalPrompt(f"mine/{n}", "mine", "benign", topic, "Hi.") for n, topic in enumerate(("", "", "talk"))]
    >>> [(prompt.id, prompt.category) for prompt in distinct_prompts(asked)]
    [('mine/0', ''), ('mine/0', 'talk')]
    """
    ids: dict[tuple[str, str, str], str] = {}
    found: dict[tuple[str, str, str, str], EvalPrompt] = {}
    for prompt in prompts:
        text = (prompt.set, prompt.kind, prompt.text.strip())
        found.setdefault((*text, prompt.category), replace(prompt, id=ids.setdefault(text, prompt.id)))
    if len(found) < len(prompts):
        logger.warning(
            "%d of %d prompts stand there more than once; each is asked once and counts once.",
            len(prompts) - len(found),
            len(prompts),
        )
    return list(found.values())


def set_facts(name: str, *, local: bool | None = None) -> dict[str, str]:
    """
    Returns where a known set comes from, and its licence.

    Args:
        name (`str`):
            Of a set of prompts, templates, choices or problems.
        local (`bool`, *optional*):
            Whether it was read from a folder written by `hf-ckt data fetch`. None names both places.

    Raises:
        ValueError: If there is no such set.

    Example:

    >>> set_facts("gsm8k", local=False)
    {'source': 'openai/gsm8k', 'licence': 'MIT'}
    """
    require_known("set", name, [*_PACKAGED, *PUBLIC_SETS])
    if name in _PACKAGED:
        return {"source": "packaged with hf_ckt, held out", "licence": "Apache-2.0"}
    found = PUBLIC_SETS[name]
    wheel = f"wheel {found.wheel.requirement}" if found.wheel else ""
    hub = found.hub.repository if found.hub else ""
    # A set with one place comes from there, whatever was asked for.
    places = [wheel or hub] if local else [hub or wheel] if local is False else [wheel, hub]
    return {"source": " or ".join(filter(None, places)), "licence": found.licence}


def _check_template(row: dict[str, Any]) -> None:
    if sorted(row) != ["id", "text"] or row["text"].count(REQUEST) != 1:
        raise ValueError(f"a template needs an id and a text with {REQUEST} exactly once, got {row!r}.")


def _check_choice(row: dict[str, Any]) -> None:
    keys = ["answer", "id", "options", "question", "subject"]
    if sorted(row) != keys or {len(row["options"]), len(set(row["options"]))} != {4} or row["answer"] not in range(4):
        raise ValueError(
            f"a question needs exactly the keys {', '.join(keys)}, four different options and the index of one of them, got "
            f"{row!r}."
        )
