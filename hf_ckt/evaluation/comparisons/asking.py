# SPDX-License-Identifier: Apache-2.0
"""What an example asks of each of its models, in the form that its results file keeps."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from ...data.prompt_sets import EvalPrompt
from ...models._upstream import adapters_disabled
from ...models.boundary_probe import BoundaryProbe
from ..measuring.alignment_records import compare_models
from ..measuring.answers import greedy_answers
from ..measuring.probe_odds import ask_probe
from ..measuring.refusal_openings import refusal_leanings
from ..probe import described


def prompt_row(
    request: EvalPrompt, text: str | None = None, *, corruption: str = "", severity: float = 0.0
) -> dict[str, Any]:
    """
    Returns a prompt as a results file keeps it.

    Args:
        request ([`EvalPrompt`]):
            What is asked, without noise: the judge reads this.
        text (`str`, *optional*):
            What the model reads instead, if it is corrupted.
        corruption (`str`, *optional*), severity (`float`, *optional*):
            By which perturbation; `""` where the prompt is clean.
    """
    return {
        "set": request.set,
        "prompt_id": request.id,
        "kind": request.kind,
        "category": request.category,
        "corruption": corruption,
        "severity": severity,
        "request": request.text,
        "prompt": request.text if text is None else text,
    }


def ask(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    *,
    system_prompt: str | None = None,
    new_tokens: int = 24,
    title: str = "answering",
) -> list[dict[str, Any]]:
    """
    Returns a model's greedy answer to each prompt, and how far it leans to refusing it, as a results file keeps them.

    Args:
        model (`PreTrainedModel` or `PeftModel`), tokenizer (`PreTrainedTokenizerBase`):
            Left as they are.
        prompts (`Sequence[Mapping]`):
            Of [`prompt_row`].
        system_prompt (`str`, *optional*), new_tokens (`int`, *optional*), title (`str`, *optional*):
            As for [`~evaluation.measuring.answers.greedy_answers`].

    Returns:
        `list[dict]`: `answer`, `log_odds` and `margin` (nats), in the order of the prompts.
    """
    texts = [row["prompt"] for row in prompts]
    answers = greedy_answers(model, tokenizer, texts, system_prompt=system_prompt, new_tokens=new_tokens, title=title)
    # As many at a time as are answered: each pass over 4-bit weights on a CPU unpacks them all first.
    asked: dict[str, Any] = {"system_prompt": system_prompt, "batch_size": 64}
    leanings = refusal_leanings(model, tokenizer, texts, title=f"{title}: log-odds", **asked)
    return [
        {"answer": answer, "log_odds": leaning.log_odds, "margin": leaning.margin}
        for answer, leaning in zip(answers, leanings, strict=True)
    ]


def probed(
    probe: BoundaryProbe,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    base: str,
    *,
    system_prompt: str | None = None,
) -> dict[str, Any]:
    """
    Returns what a probe of the base makes of each prompt, as a results file keeps it under `probe`.

    Args:
        probe ([`~models.boundary_probe.BoundaryProbe`]), model (`PreTrainedModel` or `PeftModel`), tokenizer
        (`PreTrainedTokenizerBase`), system_prompt (`str`, *optional*):
            As for [`~evaluation.measuring.probe_odds.ask_probe`].
        prompts (`Sequence[Mapping]`):
            Of [`prompt_row`].
        base (`str`):
            Name in the results of the base without adapters, in whose column the probe's scores stand.
    """
    odds = ask_probe(probe, model, tokenizer, [row["prompt"] for row in prompts], system_prompt=system_prompt)
    return {**described(probe), "model": base, "log_odds": odds}


def agreement(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    responses: Sequence[str],
    *,
    system_prompt: str | None = None,
    title: str | None = None,
) -> list[dict[str, Any]]:
    """
    Returns how far a student predicts what its teacher predicts on the teacher's own answers, a record a prompt.

    Args:
        student, teacher (`PreTrainedModel` or `PeftModel`), tokenizer (`PreTrainedTokenizerBase`):
            Of one vocabulary. A teacher of None is the student's own base, its adapters off.
        prompts (`Sequence[Mapping]`), responses (`Sequence[str]`):
            Of [`prompt_row`], and what the teacher answered to each: an empty answer holds no prediction and is left out.
        system_prompt (`str`, *optional*), title (`str`, *optional*):
            As for [`~evaluation.measuring.alignment_records.compare_models`].
    """
    rows = [(row, text) for row, text in zip(prompts, responses, strict=True) if text.strip()]
    records = compare_models(
        partial(nullcontext, student),
        partial(_base_of, student) if teacher is None else partial(nullcontext, teacher),
        tokenizer,
        [row["prompt"] for row, _ in rows],
        [text for _, text in rows],
        system_prompt=system_prompt,
        title=title,
    )
    return [
        record | {"id": row["prompt_id"], "kind": row["kind"], "noise": bool(row["corruption"])}
        for record, (row, _) in zip(records, rows, strict=True)
    ]


@contextmanager
def _base_of(student: Any) -> Iterator[Any]:
    with adapters_disabled(student):
        yield student
