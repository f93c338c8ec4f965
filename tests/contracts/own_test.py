# SPDX-License-Identifier: Apache-2.0
"""
What a part's own test file says about it, for the contracts: the contracts know no part by name.

Beside its tests, `tests/<family>/test_<name>.py` holds at module level what `WANTED` lists for its kind. A part out of
the ordinary says more there, and not in its own code, where a slip would change the part and its test together:

- `held_inputs(role)`: which of `student`, `noisy`, `weight`, `bias` a token loss treats as constants in that role,
  though they move its value (a detached target or weight).
- `SMOOTH_AT_EQUALITY = False`: a divergence whose gradient is not 0 where the two distributions are equal.
- `top_k_reference(row, named, label)`: a token loss or metric that reads a top-k teacher otherwise than as its formula
  over the named tokens and the rest as one: the other views' logits, the named ids with their log-probabilities.
- `MOVES_TARGET`: True or False where a divergence is chosen for moving its target, or for leaving it alone.
- `as_read(batch)`: for a teacher that reads more than a batch's inputs, the batch with it.
"""

import importlib
import importlib.util
from typing import Any

import pytest

from hf_ckt.discovery import load_part, part_name
from hf_ckt.losses.base import ContrastiveLoss, Divergence, ParameterLoss

# kind of part -> what its own test file must hold, by the names that it has there
WANTED: dict[str, dict[str, str]] = {
    "divergence": {"reference": "reference(target, prediction, temperature=1.0) of two lists of logits"},
    "contrastive loss": {"reference": "reference(student_row, teacher_row, positive, <settings>) of similarities"},
    "parameter loss": {"reference": "reference(model), the penalty of a model with LoRA adapters"},
    "token loss": {"reference": "reference(row, label), of the logits by view and the label"},
    "metric": {"reference": "reference(row, label), of the logits by view and the label"},
    "token weighting": {
        "reference": "reference(row, label, position), of the logits by view, the label and how many tokens stand before it"
    },
    "perturbation of text": {
        "UNIT": "UNIT, what its severity is a share of",
        "measure": "measure(before, after), which returns how many units differ and how many there are",
    },
    "searched perturbation": {
        "begin": "begin(start, radius, norm), where its search begins in a document that has a start"
    },
    "teacher": {
        "make": "make(student_folder, tmp_path), which returns the teacher, or what teacher_model takes for it, and a "
        "function from a batch to its logits"
    },
}


def kind_of(family: str, name: str) -> str:
    cls = load_part(family, name)
    if family == "losses":
        kinds = {Divergence: "divergence", ContrastiveLoss: "contrastive loss", ParameterLoss: "parameter loss"}
        return next((kind for base, kind in kinds.items() if issubclass(cls, base)), "token loss")
    if family == "perturbations":
        return "perturbation of text" if cls.stage == "text" else "searched perturbation"
    return {"metrics": "metric", "teachers": "teacher", "token_weights": "token weighting"}[family]


def _own_test(family: str, name: str) -> Any:
    module = f"tests.{family}.test_{name}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def from_own_test(family: str, name: str, attribute: str) -> Any:
    """Returns what the part's own test file holds under that name; fails with the file to write where it is missing."""
    found = _own_test(family, name)
    if not hasattr(found, attribute):
        kind = kind_of(family, name)
        pytest.fail(
            f"The {kind} {name!r} is compared with nothing: write {WANTED[kind][attribute]} into "
            f"tests/{family}/test_{name}.py, from the docstring and without the part's code.",
            pytrace=False,
        )
    return getattr(found, attribute)


def reference_of(part: Any) -> Any:
    """Returns the independent formula of a loss or metric, given as a class or an instance."""
    cls = part if isinstance(part, type) else type(part)
    return from_own_test(cls.__module__.split(".")[-2], part_name(cls), "reference")


def said_of(part: Any, attribute: str, otherwise: Any) -> Any:
    """Returns what the part's own test file says under that name, if anything."""
    return getattr(_own_test(*type(part).__module__.split(".")[-2:]), attribute, otherwise)
