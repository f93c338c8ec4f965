# SPDX-License-Identifier: Apache-2.0
"""The sections of a dry run, as text: in colour in a terminal, and readable without."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...fit.run_memory import RunMemory
from ...hub.public import SECRET
from ...progress.bars import duration
from ...training.preview import ModelFacts, ShownDocument, ShownText
from ...training.trial import Plan, Trial

_PIPE_WIDTH = 240
# Tokens of a document that are printed; of a longer one, half of them from each end.
_SHOWN_TOKENS = 400
_VALUE_LETTERS = 160
# Between two tokens.
_DOT = "·"
_SECRET = re.compile(r"(^|_)(key|password|secret|token)$", re.IGNORECASE)
# Tokens of a tokenizer.
_NO_SECRET = re.compile(r"^(bos|eos|pad|sep|cls|unk|mask)_token$")


class Page:
    """
    Prints one section after the other.

    Args:
        shown (`bool`, *optional*, defaults to `True`):
            Whether anything is printed: of several processes, one does.
    """

    def __init__(self, shown: bool = True):
        self.console = Console(highlight=False, quiet=not shown)
        if not self.console.is_terminal:
            self.console.width = _PIPE_WIDTH  # a pipe has no width of its own
        self._begun = False

    def settings(self, changed: Mapping[str, tuple[Any, Any]], resolved: Mapping[str, Any]) -> None:
        """What differs from the defaults, and what settings that were left at None became."""
        self._heading("Settings that differ from their defaults")
        table = _table("setting", "value", "default")
        for name, (value, default) in changed.items():
            table.add_row(Text(name), Text(_said(name, value), "bold"), Text(_said(name, default), "dim"))
        for name, value in resolved.items():
            off = ", off" if name.endswith("_weight") and not value else ""
            table.add_row(Text(name), Text(f"{_said(name, value)} (chosen by this run{off})"), Text("None", "dim"))
        self.console.print(table)

    def objective(self, terms: Sequence[Mapping[str, Any]]) -> None:
        """The terms of the loss."""
        self._heading("Objective: the sum of these terms, each times its weight")
        table = _table("term", "loss", "weight", "schedule", "settings")
        for term in terms:
            settings = ", ".join(f"{name}={value}" for name, value in term.get("settings", {}).items())
            cells = (term["role"], term["loss"], f"{term['weight']:g}", term["schedule"], settings)
            table.add_row(*map(Text, cells))
        self.console.print(table)
        if len(terms) == 1 and "settings" not in terms[0]:
            self._line("No extra term is on: this run is SFTTrainer's.")

    def rows(self, documents: Sequence[ShownDocument], *, noisy: bool) -> None:
        """The first documents, as the student, its noisy view and its teacher read them."""
        self._heading("First rows, as they are trained on")
        self._line(f"[[ ]] holds what the loss counts, {_DOT} stands between tokens.")
        for one in documents:
            place = f"row {one.row}" + (f", document {one.number} of {one.of}" if one.of > 1 else "")
            self._line()
            self._line(f"{place}: {_described(one)}", "bold")
            self._text("student", one.clean)
            if one.noisy is not None and one.noisy != one.clean:
                self._text(f"noisy view ({one.perturbation}, severity {one.severity:g})", one.noisy)
            elif one.noisy is not None:
                self._line(f"  noisy view: {one.perturbation} found nothing to change here")
            elif one.perturbation is not None:
                self._line(f"  noisy view: the same tokens, with {one.perturbation} noise on their embeddings")
            elif noisy:
                self._line("  noisy view: this row has none in the first step (consistency_fraction)")
            if one.context is not None:
                self._text("what the teacher reads", one.context)
            if one.rejected is not None:
                self._text("rejected", one.rejected)

    def model(self, facts: Mapping[str, Any], model: ModelFacts) -> None:
        """What is trained, what is frozen, and who teaches."""
        self._heading("Model")
        self._line(f"backbone: {facts['base_model']} ({model.kind}), {facts['settings']['backbone']}")
        if facts.get("base_weights"):
            self._line(f"its weights: {facts['base_weights']}")
        share = model.trained / max(model.total, 1)
        frozen = model.total - model.trained
        self._line(f"trained: {model.trained:,} of {model.total:,} parameters ({share:.2%}); frozen: {frozen:,}")
        if model.adapter is not None:
            said = [f"{name}={_listed(value)}" for name, value in model.adapter.items() if name != "kind"]
            self._line(f"adapter: {model.adapter['kind']}, {', '.join(said)}")
        for teacher in facts["teacher"] or ():
            route = f" {teacher['route']}" if teacher.get("route") else ""
            about = [teacher["kind"], *(f"{key} {teacher[key]}" for key in _ABOUT_TEACHERS if teacher.get(key))]
            self._line(f"teacher{route}: {teacher.get('name', 'without a name')} ({', '.join(about)})")
        if not facts["teacher"]:
            self._line("teacher: none is read")

    def memory(self, memory: RunMemory | str, rows: int, width: int, known: str) -> None:
        """What a CUDA device would hold."""
        self._heading("Memory on a CUDA device, calculated as by `hf-ckt fit`, not measured")
        if isinstance(memory, str):
            self._line(f"No calculation: {memory}.")
            return
        self._line(
            f"{rows} rows of {width:,} tokens, the longest of {known}, in GB; of the last two only the larger counts:"
        )
        table = _table("part", "GB")
        table.columns[-1].justify = "right"
        teachers = {"teachers that are models of their own": memory.teachers} if memory.teachers else {}
        for name, size in (memory.parts | teachers | {"peak": memory.peak}).items():
            table.add_row(name, f"{size / 1e9:.2f}")
        self.console.print(table)
        for name, tokens in memory.fits.items():
            per_row = tokens // max(rows, 1)
            said = (
                f"{tokens:,} tokens a micro-batch fit, {per_row:,} for each of {rows} rows"
                if tokens
                else "does not fit"
            )
            self._line(f"{name}: {said}")
        for one in memory.differences:
            self._line(f"The calculation is of {one}.")

    def steps(self, plan: Plan, trial: Trial | str, trainer: Any) -> None:
        """How many steps, and how long they take."""
        args, processes = trainer.args, trainer.accelerator.num_processes
        self._heading("Steps and time")
        rows = "rows stream, their number is not known" if plan.rows is None else f"{plan.rows:,} rows"
        accumulated = args.gradient_accumulation_steps
        batch = f"{args.per_device_train_batch_size} rows x {accumulated} micro-batches"
        batch += f" x {processes} processes" if processes > 1 else ""
        self._line(f"{rows}; an optimizer step reads {batch}")
        epochs = "" if plan.epochs is None else f", {plan.epochs:g} epochs of {plan.steps_per_epoch:,}"
        self._line(f"optimizer steps: {plan.steps:,}{epochs}")
        if args.resume_from_checkpoint is not None:
            self._line(f"resumed from {args.resume_from_checkpoint}, whose steps are among them")
        if isinstance(trial, str):
            self._line(f"No pass was timed: {trial}.")
            return
        count = len(trial.seconds)
        tokens, counted = (sum(one) / count * accumulated for one in (trial.tokens, trial.counted))
        measured = f"mean of {count} micro-batches" if count > 1 else "of the only micro-batch"
        self._line(f"tokens a step: about {tokens:,.0f}, of which {counted:,.0f} count ({measured})")
        seconds = trial.seconds_per_micro_batch
        step = seconds * accumulated
        timed = f"the last {count - 1} of {count} micro-batches" if count > 1 else "the only micro-batch"
        self._line(f"time a step: {duration(step)}; the whole run: about {duration(step * plan.steps)}")
        self._line(
            f"An estimate: {timed}, forward and back on {args.device.type}, took {duration(seconds)} each. The optimizer's "
            "step, evaluations and saving are left out."
        )
        if trainer.objective is not None and args.consistency_every > 1:
            self._line(
                f"The noisy view was among them, which one step in {args.consistency_every} has: the run is faster."
            )
        if trial.peak_bytes is not None:
            self._line(
                f"memory measured in these passes: {trial.peak_bytes / 1e9:.2f} GB, without the optimizer's moments"
            )
        terms = ", ".join(f"{name} {value:.4g}" for name, value in trial.terms.items())
        self._line(f"loss of these micro-batches: {trial.loss:.4g}" + (f" ({terms})" if terms else ""))

    def _heading(self, title: str) -> None:
        if self._begun:
            self._line()
        self._begun = True
        self._line(title, "bold underline")

    def _line(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def _text(self, title: str, shown: ShownText) -> None:
        line = Text(f"  {title}: ", "dim")
        line.append_text(marked_tokens(shown))
        self.console.print(line, soft_wrap=True)


_ABOUT_TEACHERS = ("revision", "quantization", "base", "licence")


def marked_tokens(shown: ShownText, limit: int = _SHOWN_TOKENS) -> Text:
    """
    Returns a document's tokens with what counts in brackets and in green.

    Args:
        shown ([`~training.preview.ShownText`]):
            The document.
        limit (`int`, *optional*):
            More tokens than this are printed from both ends only.

    Example:

    >>> marked_tokens(ShownText(("<s>", "Hi", "!\\n", " Yes", "."), (False, False, False, True, True))).plain
    '<s>·Hi·!\\\\n·[[ Yes·.]]'
    """
    pairs = list(zip(shown.tokens, shown.counts, strict=True))
    if len(pairs) <= limit:
        return _bracketed(pairs)
    middle = pairs[limit // 2 : -(limit // 2)]
    counted = sum(counts for _, counts in middle)
    text = _bracketed(pairs[: limit // 2])
    text.append(f" ... {len(middle):,} tokens, of which {counted:,} count ... ", "dim")
    return text.append_text(_bracketed(pairs[-(limit // 2) :]))


def _bracketed(pairs: Sequence[tuple[str, bool]]) -> Text:
    text = Text()
    for place, (token, counts) in enumerate(pairs):
        before = pairs[place - 1][1] if place else False
        if place:
            text.append("]]" if before and not counts else "", "green")
            text.append(_DOT, "dim")
        text.append("[[" if counts and not before else "", "green")
        text.append(_printable(token), "bold green" if counts else "")
    text.append("]]" if pairs and pairs[-1][1] else "", "green")
    return text


def _printable(token: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in token)


def _described(one: ShownDocument) -> str:
    said = [f"{len(one.clean.tokens):,} tokens, {sum(one.clean.counts):,} of them count"]
    if one.whole is not None:
        said.append(f"cut by max_length from {one.whole:,}")
    elif one.at_limit:
        said.append("as long as max_length, so it may have been cut")
    if one.teacher is not None:
        said.append(f"teacher: {one.teacher}")
    if one.left_out:
        said.append(f"left out of: {', '.join(one.left_out)}")
    return "; ".join(said)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _listed(value: Any) -> str:
    """A setting of an adapter; modules by their own names, which are the same in all layers."""
    if not isinstance(value, list):
        return f"{value}"
    names = sorted({str(one).rpartition(".")[2] for one in value})
    return " ".join(names) + (f" ({len(value)} modules)" if len(names) < len(value) else "")


def _said(name: str, value: Any) -> str:
    """A setting's value in short, without what nobody else may read."""
    value = _without_secrets(name, getattr(value, "value", value))
    text = value if isinstance(value, str) else json.dumps(value, default=str) if _is_nested(value) else str(value)
    return text if len(text) <= _VALUE_LETTERS else f"{text[:_VALUE_LETTERS]} ..."


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _without_secrets(name: str, value: Any) -> Any:
    if value is not None and _SECRET.search(name) and not _NO_SECRET.match(name):
        return "(set, not shown)"
    if isinstance(value, Mapping):
        return {key: _without_secrets(str(key), one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets("", one) for one in value]
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{"):
            try:
                return _without_secrets(name, json.loads(text))
            except ValueError:
                pass
        return SECRET.sub("(not shown)", value)
    return value
