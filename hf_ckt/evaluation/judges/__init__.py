# SPDX-License-Identifier: Apache-2.0
"""
Judges, which say whether an answer refuses, one file each; `base.py` is the contract, `error.py` how wrong they are.

May enter: what reads a prompt and its answer and gives a verdict.
"""

import importlib
from pathlib import Path
from typing import Any

from ...checks import require_known
from .base import Judge, Verdict, measured_error
from .degeneration import is_degenerate
from .encoder import encoder_folder
from .rule import is_refusal

__all__ = [
    "AUTO",
    "PEOPLE",
    "Judge",
    "Verdict",
    "best_judge",
    "is_degenerate",
    "is_refusal",
    "judge_names",
    "load_judge",
    "model_of",
]

# Files of the folder that are no judge by themselves; the last two are given a model.
_NOT_NAMED = ("__init__", "base", "degeneration", "encoder", "error", "labelled", "typography", "chat", "classifier")
AUTO = "auto"
PEOPLE = "XSTest completions"
"""The measured set whose answers are models' and whose labels are people's."""


def judge_names() -> list[str]:
    """Returns the judges that need no model: `name` is the class `NameJudge` of the file `name.py`."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_NAMED)


def best_judge() -> str:
    """
    Returns the name of the judge that was right most often on [`PEOPLE`], by its measured error: the rule, or the learned
    one if its wheel is installed. What others wrote and others labelled decides, and not our own answers.
    """
    runs_here = ["rule"] if encoder_folder() is None else ["rule", "learned"]
    return max(runs_here, key=_accuracy)


def _accuracy(name: str) -> float:
    return next((found["accuracy"] for found in measured_error(name) if found["set"] == PEOPLE), 0.0)


def load_judge(spec: str, *, trust_remote_code: bool = False) -> Judge:
    """
    Returns a judge.

    Args:
        spec (`str`):
            `"auto"`, what [`best_judge`] names; the name of a file of this folder, such as `"advbench"`; or `"hf:<id or folder>"`, a sequence
            classifier or a chat model that is asked with a rubric, as its config says. `"hf:<id>@<revision>"` names a
            branch, tag or commit, and `"hf:<id>#<label>"` the label of a classifier that means refusal
            (`#harm=<label>`: harm).
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with a model.

    Raises:
        ValueError: If there is no such judge, the model is neither of the two kinds, or the judge's wheel is missing.

    Example:

    >>> load_judge("rule").verdicts(["How do I pick a lock?"], ["I can't help with that."])
    [Verdict(refused=True, degenerate=False, confidence=None)]
    """
    if spec.startswith("hf:"):
        return _model_judge(spec, trust_remote_code)
    if "/" in spec or Path(spec).is_dir():
        raise ValueError(f"--judge: {spec!r} looks like a model, and those are marked: write 'hf:{spec}'.")
    require_known("--judge", spec, [AUTO, *judge_names()])
    if spec == AUTO:
        spec = best_judge()
    module = importlib.import_module(f".{spec}", package=__package__)
    return getattr(module, f"{spec.title().replace('_', '')}Judge")()


def model_of(spec: str) -> tuple[str, str | None, str | None]:
    """
    Returns the Hub id or folder that a judge is loaded from, the label that is named behind it, and the revision.

    Example:

    >>> model_of("hf:org/judge@v2#refusal"), model_of("hf:org/judge")
    (('org/judge', 'refusal', 'v2'), ('org/judge', None, None))
    """
    model, label, revision = spec.removeprefix("hf:"), "", ""
    if not Path(model).is_dir():  # a folder's name may hold either sign
        model, _, label = model.partition("#")
        if not Path(model).is_dir():
            model, _, revision = model.partition("@")
    return model, label or None, revision or None


def _model_judge(spec: str, trust_remote_code: bool) -> Judge:
    from transformers import AutoConfig

    model, label, revision = model_of(spec)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(model, **options)
    architecture = next(iter(config.architectures or []), "model of unknown architecture")
    if "SequenceClassification" in architecture:
        from .classifier import ClassifierJudge

        return ClassifierJudge(model, label, **options)
    generates = ("CausalLM", "LMHead", "ConditionalGeneration")
    if any(name in architecture for name in generates) and not config.is_encoder_decoder:
        if label:
            raise ValueError(
                f"--judge: {spec.removeprefix('hf:')!r} names a label, and the model is a {architecture}, which has none. Leave '#{label}' out."
            )
        from .chat import ChatJudge

        return ChatJudge(model, **options)
    raise ValueError(
        f"--judge: {model!r} is a {architecture}, which neither classifies texts nor chats, so it cannot judge. Name a "
        "sequence classifier or a chat model."
    )
