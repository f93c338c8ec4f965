# SPDX-License-Identifier: Apache-2.0
"""The chat in a terminal, and line by line where prompts come from a pipe or a file."""

import sys
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...checks import require_known
from ...data.corrupt import text_perturbation, text_perturbations
from ...evaluation.measuring.models import EvaluatedModel
from ...evaluation.side_by_side import Asking, SideBySide
from ..perturb import VISIBLE, changed_pieces
from .words import ALONE, MARGIN_HELP, introduction, margin, title, undrawn

# An escape sequence in an answer would be obeyed by the terminal. Line breaks are part of an answer.
_SAFE = {code: sign for code, sign in VISIBLE.items() if code not in (ord("\n"), ord("\t"))}
_STOPPED = "… (stopped)"
_COMMANDS = {
    "noise": "/noise NAME [SEVERITY], /noise off: disturb each prompt from now on",
    "seed": "/seed N: another noise, and other draws while answering",
    "temperature": "/temperature T: draw answers; 0 takes the most probable token each time",
    "help": "/help: this list",
    "quit": "/quit, or Ctrl-D: leave",
}


@dataclass
class Chat:
    """
    Reads prompts and commands, and prints the answers of all models to each prompt.

    Args:
        side ([`~evaluation.side_by_side.SideBySide`]):
            The models.
        asking ([`~evaluation.side_by_side.Asking`]):
            How prompts are asked until a command changes it.
        console (`rich.console.Console`, *optional*):
            Where it is printed.
    """

    side: SideBySide
    asking: Asking
    console: Console = field(default_factory=lambda: Console(highlight=False))
    _conversing: bool = field(default=False, init=False)

    def run(self) -> None:
        """Reads the standard input to its end, or to `/quit`: as a conversation from a terminal, else line by line."""
        if sys.stdin.isatty():
            self.converse(self._typed)
            return
        for line in introduction(self.side):
            print(line, file=sys.stderr)
        for line in sys.stdin:
            # What is wrong in a script ends it: the next prompts would be asked in another way than it says.
            if not self.take(line.rstrip("\n")):
                return

    def converse(self, read: Callable[[], str]) -> None:
        """Talks with who types what `read` returns, until that raises EOFError; what is wrong is said, and the talk goes on."""
        self._conversing = True
        self._say(*introduction(self.side), ALONE, MARGIN_HELP, self._how(), "/help lists the commands.")
        while True:
            try:
                if not self.take(read()):
                    return
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self._say("(/quit, or Ctrl-D, leaves)")
            except (ValueError, TypeError, RuntimeError) as error:  # the last where memory does not suffice
                self._say(str(error))

    def take(self, line: str) -> bool:
        """Does what a line says: a command, or a prompt that is asked. Returns whether to go on."""
        if not line.strip():
            return True
        if not line.startswith("/"):
            self._ask(line.strip())
            return True
        name, *words = line[1:].split() or [""]
        if name not in _COMMANDS:
            require_known("/", name, _COMMANDS)
        if name == "quit":
            return False
        if name == "help":
            self._say(
                *_COMMANDS.values(),
                f"Noises: {', '.join(text_perturbations())}.",
                "A prompt that begins with / is written with a space before it.",
            )
            return True
        self.asking = _changed(self.asking, name, words)
        self._say(self._how())
        return True

    def _how(self) -> str:
        drawn = (
            undrawn(self.side)
            if not self.asking.temperature
            else f"temperature {self.asking.temperature:g}, seed {self.asking.seed}"
        )
        return f"Noise: {self.asking.described()}. Decoding: {drawn}."

    def _typed(self) -> str:
        with suppress(ImportError):  # there is none on Windows
            import readline  # noqa: F401 - the line can be edited, and earlier ones brought back
        self.console.print()
        return input("> ")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(Text(line.translate(_SAFE), "dim"))

    def _ask(self, prompt: str) -> None:
        if not prompt.isascii() and any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise ValueError(
                f"prompt: holds bytes that are not UTF-8 ({prompt!a:.60}), which no tokenizer reads. Write it in UTF-8."
            )
        asked = self.asking.asked(prompt)
        self._show_prompt(prompt, asked)
        prompts = [asked] if asked == prompt else [asked, prompt]
        margins = {
            entry: "refusal margin " + margin(*self.side.leanings(entry, prompts)) for entry in self.side.entries
        }
        answers = dict.fromkeys(self.side.entries, "")
        side_by_side = self.console.is_terminal
        with Live(console=self.console, auto_refresh=False) if side_by_side else nullcontext() as live:
            for entry in self.side.entries:
                # Around the drawing too, in which most of the time goes by: Ctrl-C ends this answer alone.
                try:
                    with closing(self.side.answer(entry, asked, self.asking)) as pieces:
                        for piece in pieces:
                            answers[entry] += piece
                            if live is not None:
                                live.update(_columns(margins, answers), refresh=True)
                except KeyboardInterrupt:
                    if not self._conversing:
                        raise
                    answers[entry] += _STOPPED
                if live is None:
                    self.console.print(Text(f"{title(entry)}, {margins[entry]}"), soft_wrap=True)
                    self.console.print(Text(answers[entry].strip().translate(_SAFE)), soft_wrap=True)
                else:
                    live.update(_columns(margins, answers), refresh=True)
        if not side_by_side:
            self.console.print()

    def _show_prompt(self, prompt: str, asked: str) -> None:
        shown = Text("prompt: ", "dim")
        if self.asking.perturbation is None:
            shown.append(asked.translate(_SAFE), "not dim")
        else:
            by_letters = text_perturbation(self.asking.perturbation).unit == "letters"
            for piece, changed in changed_pieces(prompt, asked, by_letters=by_letters):
                shown.append(piece.translate(_SAFE), "not dim bold underline" if changed else "not dim")
            shown.append(f"  ({self.asking.described()}{', unchanged' if asked == prompt else ''})")
        if self.asking.perturbation is not None or not self.console.is_terminal:
            self.console.print(shown, soft_wrap=True)


def _changed(asking: Asking, name: str, words: list[str]) -> Asking:
    """How prompts are asked after a command."""
    if name == "noise" and len(words) in (1, 2):
        if words == ["off"]:
            return replace(asking, perturbation=None, severity=None)
        return replace(asking, perturbation=words[0], severity=_number(name, words[1], float) if words[1:] else None)
    if name == "seed" and len(words) == 1:
        return replace(asking, seed=_number(name, words[0], int))
    if name == "temperature" and len(words) == 1:
        return replace(asking, temperature=_number(name, words[0], float))
    raise ValueError(
        f"/{name}: has {len(words)} words behind it, so it is unclear what to do. Write {_COMMANDS[name]}."
    )


def _number(name: str, word: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"/{name}: {word!r} is no number, so nothing was changed. Write {_COMMANDS[name]}.") from None


def _columns(margins: dict[EvaluatedModel, str], answers: dict[EvaluatedModel, str]) -> Table:
    table = Table(expand=True, header_style="bold")
    for entry in answers:
        table.add_column(Text(title(entry)), ratio=1, overflow="fold")
    table.add_row(*(Text(margins[entry], "dim") for entry in answers))
    table.add_row(*(Text(answer.strip().translate(_SAFE)) for answer in answers.values()))
    return table
