# SPDX-License-Identifier: Apache-2.0
"""What a study's file asks for: the runs that others build on, and the cells of its grid."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ..checks import nearest, require_known
from .entries import LIKE, of_tier, spelled, with_likes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
# `@safe`, or at the end of `harmful=@safe`; elsewhere an @ is one.
_PREPARED = re.compile(r"(?:^|(?<==))@([A-Za-z0-9][\w.=-]*)$")
# What a study decides itself, for each run.
_ITS_OWN = ("output_dir", "seed", "model_name_or_path", "push_to_hub", "resume_from_checkpoint")
PROGRAM = "program"  # a method's field that is none of `hf-ckt train`
_OF_EVALUATION = ("model", "adapter", "compare", "pool", "pieces", "output")
BASE = "base"  # a model's name in every evaluation
_LETTERS = 80  # of a name, since it is a folder's


@dataclass(frozen=True)
class Cell:
    """
    One training, and what is evaluated of it.

    Args:
        model (`str`):
            The base, as the file names it.
        method (`str`):
            Its name in the file.
        settings (`Mapping`):
            Its place in the grid: field -> value; empty without one.
        seed (`int`):
            Of the training.
        fields (`Mapping`):
            All fields of `hf-ckt train`, but for those that the study decides.
    """

    model: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    fields: Mapping[str, Any]

    @property
    def group(self) -> str:
        """Method and settings: what cells of other seeds share, and are pooled by."""
        name = "-".join([self.method, *(f"{name}={value}" for name, value in self.settings.items())])
        short = re.sub(r"[^\w.=+-]+", "_", name)[:_LETTERS]
        return short if short == name else f"{short}-{digest(self.settings)}"

    @property
    def name(self) -> str:
        """Names its folders, with a digest of base, fields and seed, so that one of others is another cell."""
        return f"{self.group}-{self.seed}-{digest([self.model, self.fields, self.seed])}"


@dataclass(frozen=True)
class Study:
    """
    A study as its file describes it.

    Args:
        model (`str`):
            Hub id or folder of the base, or `"smollm2"`.
        methods (`Mapping[str, Mapping]`):
            By name, the fields of `hf-ckt train` that are the method's own. `like` names another method whose fields it has
            too, and `program` a Python script that trains in place of `hf-ckt train`.
        train (`Mapping`):
            Fields that all runs share.
        evaluate (`Mapping`):
            Options of `hf-ckt evaluate`, without models and folders.
        prepare (`Mapping[str, Mapping]`):
            By name, runs that are made once, in this order. `@name` in any text stands for the folder of one.
        grid (`Mapping[str, Sequence]`):
            Field -> values: each method is run with all combinations.
        seeds (`Sequence[int]`):
            Of the trainings.
        only (`Sequence[str]`, *optional*):
            Names of the methods that are run, where others are there for `like` or for another file; none: all.
        compare (`Sequence[str]`, *optional*):
            Names of prepared runs that are scored and compared beside the cells: the teachers.
        minutes (`float`, *optional*):
            Of a cell, for what is said before one was measured.

    Raises:
        ValueError: If an entry is unknown, of another kind or decided by the study, or `@name` names no run.
    """

    model: str
    methods: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    prepare: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    only: Sequence[str] = ()
    compare: Sequence[str] = ()
    minutes: float | None = None

    @classmethod
    def of(cls, entries: Mapping[str, Any], tier: str | None = None) -> "Study":
        """
        Returns the study of a file's entries; one that is left empty is one that is not there.

        Args:
            entries (`Mapping`):
                By name; under `tiers` there may be others, by the name of a tier.
            tier (`str`, *optional*):
                Whose entries are put over the file's own, by name at every depth.
        """
        entries = of_tier(spelled(entries), tier, [*cls.__dataclass_fields__])
        given = {name: value for name, value in entries.items() if value is not None}
        for name in ("model", "methods"):
            if not given.get(name):
                raise ValueError(f"study: has no {name}, so there is nothing to run. Name it in the file.")
        given["methods"] = with_likes(given["methods"])
        return cls(**given)

    def __post_init__(self) -> None:
        for part in ("methods", "prepare"):
            for name, fields in getattr(self, part).items():
                if not _NAME.fullmatch(name) or name == BASE:
                    raise ValueError(
                        f"{part}: {name!r} is no name for a run: it may hold letters, digits, dots and underscores, and {BASE} is "
                        "the base's. Take another."
                    )
                _require_own(f"{part}, {name}", fields, _ITS_OWN)
                _require_program(f"{part}, {name}", fields.get(PROGRAM))
        for part in ("train", "grid"):
            _require_own(part, getattr(self, part), (*_ITS_OWN, PROGRAM))
        for part, fields in (
            ("train", self.train),
            ("grid", self.grid),
            *(("prepare", one) for one in self.prepare.values()),
        ):
            if LIKE in fields:
                raise ValueError(f"{part}: {LIKE} stands in a method alone. Write the fields out.")
        for part, names, runs in (("only", self.only, self.methods), ("compare", self.compare, self.prepare)):
            if names:
                _require_different(part, names)
                for name in names:
                    require_known(part, name, runs)
        for name in self.compare:
            if name in self.methods:
                raise ValueError(
                    f"compare: {name!r} is a method's name too, and both would stand in one table. Rename one."
                )
        _require_own("evaluate", self.evaluate, _OF_EVALUATION)
        for name, values in self.grid.items():
            _require_different(f"grid, {name}", values)
        _require_different("seeds", self.seeds)
        if not all(type(seed) is int for seed in self.seeds):
            raise ValueError(f"seeds: must be whole numbers, got {[*self.seeds]}.")
        if self.minutes is not None and not (isinstance(self.minutes, (int, float)) and self.minutes > 0):
            raise ValueError(f"minutes: must be a number above 0, got {self.minutes!r}.")
        known: list[str] = []
        for name, fields in self.prepare.items():
            self._require_prepared(f"prepare, {name}", {**self.train, **fields}, known)
            known.append(name)
        for part in ("train", "methods", "grid", "evaluate"):
            self._require_prepared(part, getattr(self, part), known)

    def cells(self) -> list[Cell]:
        """The cells in the order in which they are run: shuffled, always alike, so that half a study is half of all of it."""
        places = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        prepared = self.prepared()
        found = [
            Cell(self.model, method, place, seed, _renamed({**self.train, **own, **place}, prepared))
            for method, own in self.methods.items()
            if not self.only or method in self.only
            for place in places
            for seed in self.seeds
        ]
        Random(0).shuffle(found)
        return found

    def prepared(self) -> dict[str, Cell]:
        """The runs that others build on, by the name in the file, each before those that name it; no others are made."""
        found: dict[str, Cell] = {}
        for name, own in self.prepare.items():
            found[name] = Cell(self.model, name, {}, 0, _renamed({**self.train, **own}, found))
        methods = [self.methods[name] for name in self.only or self.methods]
        named = _named([self.train, methods, self.grid, self.evaluate]) | {*self.compare}
        for name in reversed([*self.prepare]):
            if name in named:
                named |= _named({**self.train, **self.prepare[name]})
        return {name: cell for name, cell in found.items() if name in named}

    def evaluation(self) -> dict[str, Any]:
        """The options of `hf-ckt evaluate`."""
        options: dict[str, Any] = _renamed(dict(self.evaluate), self.prepared())
        return options

    def _require_prepared(self, where: str, value: Any, known: Sequence[str]) -> None:
        for text in _texts(value):
            for name in _PREPARED.findall(text):
                if name not in known:
                    raise ValueError(
                        f"{where}: @{name} stands for a run under `prepare`, and none before it has that name."
                        f"{nearest(name, known)}"
                    )
            inside = [name for name in self.prepare if f"@{name}" in text and not _PREPARED.search(text)]
            if inside:
                raise ValueError(
                    f"{where}: {text!r:.60} names the run @{inside[0]} within other text, where it stands for nothing. A "
                    "text is one such name alone, or ends in one behind `=`."
                )


def _require_own(where: str, fields: Mapping[str, Any], taken: Sequence[str]) -> None:
    for name in fields:
        if name in taken:
            raise ValueError(f"{where}: sets {name}, which the study decides for each run. Leave it out.")


def _require_program(where: str, program: Any) -> None:
    if program is not None and not (isinstance(program, str) and program):
        raise ValueError(f"{where}: program must be the path of a Python script, got {program!r}.")


def _require_different(where: str, values: Any) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{where}: must be a list of values, got {values!r}. Give at least one.")
    if len({str(value) for value in values}) < len(values):
        raise ValueError(
            f"{where}: has a value twice, {[*values]}, and a run that counts twice is no second run. Drop one."
        )


def with_folders(value: Any, root: Path) -> Any:
    """
    Returns a value with the folder below `root` in place of each `@name`.

    Example:

    >>> with_folders({"teacher": ["harmful=@safe", "benign=base"]}, Path("runs"))
    {'teacher': ['harmful=runs/safe', 'benign=base']}
    """
    return _each_text(value, lambda text: _PREPARED.sub(lambda found: str(root / found[1]), text))


def _renamed(value: Any, prepared: Mapping[str, Cell]) -> Any:
    """With the full name of each run that is built on: where its fields change, so does what is built on it."""
    return _each_text(value, lambda text: _PREPARED.sub(lambda found: f"@{prepared[found[1]].name}", text))


def _named(value: Any) -> set[str]:
    """The runs that a value names."""
    return {name for text in _texts(value) for name in _PREPARED.findall(text)}


def _texts(value: Any) -> list[str]:
    texts: list[str] = []
    _each_text(value, texts.append)
    return texts


def _each_text(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _each_text(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def digest(facts: Any) -> str:
    """A short name for what something depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
