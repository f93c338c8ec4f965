# SPDX-License-Identifier: Apache-2.0
"""Show what each text perturbation makes of a text, at several severities."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Any

from .arguments.models import require_there
from .arguments.parser import CommandParser

_SEVERITIES = (0.1, 0.2, 0.4)
# Line breaks and tabs would tear the table apart, and an escape sequence would be obeyed by the terminal.
VISIBLE = {code: chr(0x2400 + code) for code in range(0x20)} | dict.fromkeys(range(127, 160), "�")
VISIBLE |= {ord("\n"): "⏎", 0x7F: "␡"}
_CHANGED, _DIM, _RESET = "\x1b[1;4m", "\x1b[2m", "\x1b[0m"
_LEFT_OUT = "‸"


def run(argv: list[str]) -> int:
    """Prints the perturbed texts as a list to read, or with `--json` as a JSON list."""
    options = _parse(argv)
    texts = _texts(options)

    # After the parsing: reading the parts imports torch, and a wrong option should not wait for it.
    from ..checks import require_count, require_within

    require_count(
        "--seed", options.seed, 0, "Python's generator takes -1 for 1, so two seeds would give the same noise."
    )
    for severity in options.severity:
        require_within("--severity", severity, 0, 1, "It is the share of a text that is affected.")
    parts = _parts(options.perturbation, with_tokenizer=options.tokenizer is not None)
    severities = list(dict.fromkeys(options.severity))
    perturb = _perturber(options.tokenizer)
    results = [
        [
            {"original": text, "name": name, "severity": severity, "text": perturb(cls(severity), text, options.seed)}
            for name, cls in parts.items()
            for severity in severities
        ]
        for text in texts
    ]
    if options.json:
        # Of one text, everybody knows which one it was.
        shown = [row if len(texts) > 1 else {**row, "original": None} for rows in results for row in rows]
        print(json.dumps([{key: value for key, value in row.items() if value is not None} for row in shown], indent=2))
        return 0
    lines = list(_as_lines(results, {name: cls.unit for name, cls in parts.items()}, marked=_is_terminal()))
    if not options.perturbation:
        lines += ["", _not_shown(parts)]
    # Letters of other alphabets are what homoglyphs are about, and not every terminal's encoding has them.
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="hf-ckt perturb",
        description=f"{__doc__} The noise is that of hf_ckt.data.corrupt with the same seed; training draws its own.",
        epilog="`hf-ckt parts --family perturbations` says what each does and where it comes from.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", metavar="TEXT", help="a text; may be given several times")
    source.add_argument("--file", type=Path, metavar="FILE", help="a file with one text a line")
    parser.add_argument(
        "--severity",
        nargs="+",
        type=float,
        default=_SEVERITIES,
        metavar="SHARE",
        help=f"share of the letters, words or gaps that is affected, in [0, 1]; default {' '.join(map(str, _SEVERITIES))}",
    )
    parser.add_argument("--perturbation", nargs="+", metavar="NAME", help="only these; default all that can be shown")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FOLDER",
        help="shows the perturbations of tokens as well, with this tokenizer of the Hub or of a folder",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another noise for each number; default 0")
    parser.add_argument("--json", action="store_true", help="a JSON list with one object for each perturbed text")
    return parser.parse_args(argv)


def _texts(options: argparse.Namespace) -> list[str]:
    if options.file is None:
        given, option = options.text, "--text"
    else:
        option = f"--file {options.file}"
        try:
            given = options.file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{option}: is not UTF-8 text ({error}).") from error
    texts = [text for text in given if text.strip()]
    if not texts:
        raise ValueError(f"{option}: holds no words, so there is nothing to perturb.")
    return texts


def _parts(names: Sequence[str] | None, with_tokenizer: bool) -> dict[str, Any]:
    """Classes of the perturbations to show, by name."""
    from ..checks import require_known
    from ..discovery import load_part, part_names

    known = part_names("perturbations")
    for name in names or ():
        require_known("--perturbation", name, known)
    classes: dict[str, Any] = {name: load_part("perturbations", name) for name in names or known}
    if not names:
        stages = ("text", "ids") if with_tokenizer else ("text",)
        return {name: cls for name, cls in classes.items() if cls.stage in stages}
    for name, cls in classes.items():
        if cls.stage == "embeddings":
            raise ValueError(
                f"--perturbation: {name} changes embeddings, which cannot be shown as text. `hf-ckt parts --family "
                "perturbations` describes it."
            )
        if cls.stage == "ids" and not with_tokenizer:
            raise ValueError(
                f"--perturbation: {name} changes tokens, and which tokens a text has is the tokenizer's to say. Name one "
                "with --tokenizer."
            )
    return classes


def _perturber(tokenizer_name: str | None) -> Callable[[Any, str, int], str]:
    """Returns the function that perturbs a text: with a part, the text and a seed."""
    from ..data.corrupt import prompt_noise

    if tokenizer_name is None:
        return lambda part, text, seed: part.apply(text, prompt_noise(text, seed))

    require_there("--tokenizer", tokenizer_name)
    from transformers import AutoTokenizer

    from ..noise.noisy_prompts import NoisyPrompts
    from ..noise.sources import PromptSources

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_name)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokenizer: cannot load {tokenizer_name!r}: {error}") from error
    prompts = NoisyPrompts(tokenizer, PromptSources())  # knows which ids may be changed and put in

    def perturb(part: Any, text: str, seed: int) -> str:
        rng = prompt_noise(text, seed)
        if part.stage == "text":
            return part.apply(text, rng)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        positions = [index for index, token in enumerate(ids) if token not in prompts.special_ids]
        edits = part.edits(positions, prompts.vocabulary, rng)
        if not edits:
            return text  # not every tokenizer gives back what it was given
        noisy = [edits.get(index, token) for index, token in enumerate(ids)]
        return tokenizer.decode([token for token in noisy if token is not None], clean_up_tokenization_spaces=False)

    return perturb


def _as_lines(results: list[list[dict[str, Any]]], units: dict[str, str], *, marked: bool) -> Iterator[str]:
    width = max(len(f"{row['severity']:g}") for row in results[0])
    for number, rows in enumerate(results):
        yield from ["", ""] if number else []
        yield rows[0]["original"].translate(VISIBLE)
        for name, of_part in groupby(rows, key=lambda row: row["name"]):
            yield ""
            yield f"{name} (share of the {units[name].replace('gaps', 'gaps between words')})"
            for row in of_part:
                shown = _shown(row["original"], row["text"], by_letters=units[name] == "letters", marked=marked)
                yield f"  {row['severity']:<{width}g}  {shown}"
    if marked:
        yield ""
        yield f"{_mark('Changed')} or new; {_mark(_LEFT_OUT)} something left out."


def _shown(clean: str, noisy: str, *, by_letters: bool, marked: bool) -> str:
    """The noisy text on one line; with `marked`, what differs stands out."""
    if noisy == clean:
        # Said and not left to the eye, which cannot tell homoglyphs from the letters they stand for.
        return noisy.translate(VISIBLE) + (f"  {_DIM}(unchanged){_RESET}" if marked else "  (unchanged)")
    if not marked:
        return noisy.translate(VISIBLE)
    pieces = changed_pieces(clean, noisy, by_letters=by_letters)
    return "".join(_mark(piece) if changed else piece.translate(VISIBLE) for piece, changed in pieces)


def changed_pieces(clean: str, noisy: str, *, by_letters: bool) -> Iterator[tuple[str, bool]]:
    """
    Yields a perturbed text in pieces, each with whether it differs from the clean text: words, or with `by_letters` the letters
    of a word where none came or went. A sign stands where something was left out.
    """
    before, after = (re.findall(r"\s+|\S+", text) for text in (clean, noisy))
    if len(before) == len(after):  # words in other places are not words that came and went
        yield from _side_by_side(before, after, by_letters)
        return
    for _, low, high, begin, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if high - low == end - begin:
            yield from _side_by_side(before[low:high], after[begin:end], by_letters)
        else:
            yield "".join(after[begin:end]) or _LEFT_OUT, True


def _side_by_side(before: Sequence[str], after: Sequence[str], by_letters: bool) -> Iterator[tuple[str, bool]]:
    for old, new in zip(before, after, strict=True):
        if by_letters and len(old) == len(new):
            for changed, pairs in groupby(zip(old, new, strict=True), key=lambda pair: pair[0] != pair[1]):
                yield "".join(letter for _, letter in pairs), changed
        else:
            yield new, old != new


def _mark(text: str) -> str:
    return f"{_CHANGED}{text.translate(VISIBLE)}{_RESET}"


def _not_shown(shown: dict[str, Any]) -> str:
    from ..discovery import load_part, part_names

    hidden: dict[str, list[str]] = {}
    for name in part_names("perturbations"):
        if name not in shown:
            cls: Any = load_part("perturbations", name)
            hidden.setdefault(cls.stage, []).append(name)
    reasons = {"embeddings": "change embeddings", "ids": "change tokens and need --tokenizer"}
    listed = "; ".join(f"{', '.join(names)} ({reasons[stage]})" for stage, names in hidden.items())
    return f"Not shown: {listed}. `hf-ckt parts --family perturbations` describes all of them."


def _is_terminal() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
