# SPDX-License-Identifier: Apache-2.0
"""The rows that the trainings of a [`Recipe`] read, and the prompts that something is chosen on."""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from datasets import Dataset

from ..data import load_boundary_set, load_prompts, load_starter_set, to_prompt_completion
from ..data.prompt_sets import EvalPrompt
from ..evaluation.comparisons.asking import prompt_row
from ..evaluation.measuring.refusal_openings import REFUSAL_OPENINGS
from .recipe import BENIGN, NOISES, SYSTEM_PROMPT, TYPOS, Recipe

REFUSE, ANSWER = "refuse", "answer"
OPENING = "Sorry"  # the word that decides
REFUSAL = f"{OPENING}, I can't help with that."
TOGETHER = 20  # batches whose rows are sorted by length at a time
UNLABELLED_ANSWER = "I can't help with that."


def labelled_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The labelled rows of a recipe as they are."""
    if recipe.data == "starter":
        rows = [{**row, "twin": None} for row in load_starter_set("train")]
        # Each look-alike twice: they are the harder half of telling a request from its wording.
        return rows + [{**row, "id": f"{row['id']}-again"} for row in rows if row["kind"] == "lookalike"]
    rows = list(load_boundary_set("train"))
    if recipe.rows is None:
        return rows
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["twin"] or row["id"], []).append(row)
    names = [*groups]
    Random(0).shuffle(names)
    kept: list[dict[str, Any]] = []
    for name in names:
        if len(kept) < recipe.rows:
            kept += groups[name]
    return kept


def refusals(recipe: Recipe) -> list[dict[str, Any]]:
    """
    Harmful rows of both sets whose answers open in a few ways, or in one: a teacher that refuses in ever other words leaves
    the decision on no token.
    """
    rows = [*load_starter_set("train"), *load_boundary_set("train")]
    rows = [row for row in rows if row["kind"] == "harmful" and row["response"].startswith(REFUSAL_OPENINGS)]
    return [row | {"response": sorry(row["response"])} for row in rows] if recipe.one_refusal else rows


def sorry(refusal: str) -> str:
    """
    The first sentence of a refusal, begun with [`OPENING`]; [`REFUSAL`] for one that begins with none of `REFUSAL_OPENINGS`, as
    most do.
    """
    if not refusal.startswith(REFUSAL_OPENINGS):
        return REFUSAL
    first = re.split(r"(?<=[.!?])\s", refusal, maxsplit=1)[0]
    for opening in (OPENING, "I'm sorry"):
        if first.startswith(opening):
            return OPENING + first.removeprefix(opening)
    return f"{OPENING}, {first}"


def student_rows(
    recipe: Recipe,
    seed: int,
    answers: Mapping[str, str] | None = None,
    labelled: Sequence[dict[str, Any]] | None = None,
) -> Dataset:
    """
    The student's training set, with the columns `teacher` and `twin`, and with `teacher_prompt` where teachers read other prompts;
    `answers` are read in place of those that are written, `labelled` rows in place of the recipe's. Of rows that are read one after
    another, by length, only those that its steps reach.
    """
    rows, answers = [], answers or {}
    labelled = labelled_rows(recipe) if labelled is None else labelled
    for row in labelled:
        harmful = row["kind"] == "harmful"
        words = recipe.refusal_words if harmful else recipe.answer_words
        answer = answers.get(row["id"], row["response"])
        if harmful and recipe.one_refusal:
            answer = sorry(answer)
        answer = " ".join(answer.split()[:words])
        row = {**row, "response": answer, "teacher": REFUSE if harmful else ANSWER}
        rows += _copies(row, recipe, seed, recipe.harmful_times if harmful else 1)
    if recipe.unlabelled:
        known = {row["id"] for row in labelled}
        for row in load_boundary_set("train"):
            if row["id"] not in known:
                # Who reads the prompt mixes the teachers; whatever is answered, the decision stands before its first word.
                row = {**row, "response": UNLABELLED_ANSWER, "teacher": "", "kind": "", "category": "", "twin": None}
                rows += _copies(row, recipe, seed)
    if recipe.by_length:
        together = TOGETHER if recipe.by_length is True else recipe.by_length
        rows = in_batches_by_length(rows, recipe.batch_size, seed, together)[
            : recipe.student_steps * recipe.batch_size
        ]
    return to_prompt_completion(Dataset.from_list(rows), SYSTEM_PROMPT)


def in_batches_by_length(
    rows: list[dict[str, Any]], batch_size: int, seed: int, together: int = TOGETHER
) -> list[dict[str, Any]]:
    """
    Rows in a random order of batches, each of rows of like length, to be read one after another. Rows of `together` batches are
    sorted at a time: the more batches, the less padding.
    """
    random = Random(seed)
    rows = random.sample(rows, len(rows))
    batches = []
    for start in range(0, len(rows), together * batch_size):
        part = sorted(
            rows[start : start + together * batch_size], key=lambda row: len(row["prompt"]) + len(row["response"])
        )
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    random.shuffle(batches)
    # One that is not full comes last, so that it moves no other; a row that the trainer leaves out as too long still does.
    batches.sort(key=len, reverse=True)
    return [row for batch in batches for row in batch]


def _copies(row: dict[str, Any], recipe: Recipe, seed: int, times: int = 1) -> list[dict[str, Any]]:
    """A row as it is, and by each perturbation that is for rows of its kind, so often; each of a group of twins of its own."""
    found = []
    for time in range(times):
        for name in ([""] if recipe.clean else []) + [*recipe.copies]:
            again = name.startswith(BENIGN)
            if again and row["kind"] == "harmful":
                continue
            end = f"-{name}{time or ''}" if name or time else ""
            prompt = row["prompt"]
            if name:
                noise = NOISES[name.removeprefix(BENIGN)]
                draw = time + again  # not the same as without the prefix
                prompt = noise.apply(prompt, Random(f"{seed}:{row['id']}:{draw}:{prompt}"))
            twin = row["twin"] and f"{row['twin']}{end}"
            copy = {**row, "id": f"{row['id']}{end}", "twin": twin, "prompt": prompt}
            if recipe.teacher == "label_clean":
                copy["teacher_prompt"] = row["prompt"] if name else None
            found.append(copy)
    return found


def with_typos(prompts: Sequence[EvalPrompt], seed: int = 0) -> list[dict[str, Any]]:
    """Prompts to ask, then the same with typing errors that training never saw."""
    rows = [prompt_row(prompt) for prompt in prompts]
    for prompt in prompts:
        noisy = TYPOS.apply(prompt.text, Random(f"{10_000 + seed}:{prompt.text}"))
        rows.append(prompt_row(prompt, noisy, corruption="typos", severity=TYPOS.severity))
    return rows


def validation_prompts(count: int | None = None) -> list[dict[str, Any]]:
    """Validation prompts of both kinds, `count` of each or all, clean and with typing errors."""
    names = ("boundary-validation-harmful", "boundary-validation-twin")
    return [row for name in names for row in with_typos(load_prompts(name)[:count])]
