# SPDX-License-Identifier: Apache-2.0
"""A parser that takes hyphens and underscores alike, and says in one sentence what it does not know."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ...checks import nearest

# Of many options, one is always a little like a wrong one.
_CUTOFF = 0.7


class CommandParser(argparse.ArgumentParser):
    """
    As `argparse.ArgumentParser`, but that an option may be written with hyphens or underscores, none may be shortened (it
    would stop working the day that a second one begins like it), and a wrong one is answered by the nearest.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses what is known of the words, whichever way options are written."""
        words = spelled(sys.argv[1:] if args is None else args, self._option_string_actions)
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses all words."""
        _, unknown = self.parse_known_args(args)
        try:
            require_no_unknown(unknown, self._options())
        except ValueError as error:
            self.error(str(error).rstrip("."))
        return super().parse_args(args, namespace)

    def _options(self) -> set[str]:
        """Its options and those of its subcommands."""
        choices: Any = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return {*self._option_string_actions}.union(*(one._options() for named in choices for one in named.values()))

    def error(self, message: str) -> NoReturn:
        """Leaves with one line; argparse would print all options before it."""
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: error: {message}{stop} `{self.prog} --help` lists the options.\n")


def spelled(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """
    Returns words with each option as it is known, where it was written with hyphens for underscores or the reverse.

    Example:

    >>> spelled(["--new_tokens=3", "--seeds", "1"], ["--new-tokens", "--seeds"])
    ['--new-tokens=3', '--seeds', '1']
    """
    as_known = {option.replace("_", "-"): option for option in known if option.startswith("--")}
    exact = set(known)
    found: list[str] = []
    for place, word in enumerate(words):
        if word == "--":  # what follows are no options
            return [*found, *words[place:]]
        name, equals, value = word.partition("=")
        if word.startswith("--") and name not in exact:
            name = as_known.get(name.replace("_", "-"), name)
        found.append(f"{name}{equals}{value}" if word.startswith("--") else word)
    return found


def require_no_unknown(unknown: Sequence[str], known: Iterable[str], consequence: str = "") -> None:
    """Raises ValueError at the first word that no option took, with the nearest option."""
    for word in unknown:
        if word.startswith("--"):
            name = word.partition("=")[0]
            # `--no-x` only for who wants to switch something off, and in the spelling that was used.
            negative = name.startswith("--no")
            options = [one.replace("_", "-") for one in known if one.startswith(("--no-", "--no_")) <= negative]
            if "_" in name:
                options = [f"--{one[2:].replace('-', '_')}" for one in options]
            raise ValueError(f"unknown option {name!r}.{nearest(name, options, _CUTOFF)}{consequence}")
    if unknown:
        raise ValueError(
            f"unexpected argument {unknown[0]!r}. Options begin with --, lists are separated by spaces, and a text with "
            "spaces stands in quotation marks."
        )
