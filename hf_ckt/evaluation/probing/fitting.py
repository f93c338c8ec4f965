# SPDX-License-Identifier: Apache-2.0
"""Fits the boundary probe: states read once, layers and strength chosen and odds calibrated on validation rows."""

import importlib.util
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...checks import missing_package, require_count
from ...data.contamination import training_texts
from ...data.corrupt import prompt_noise
from ...data.public_hashes import prompt_hashes
from ...discovery import load_part
from ...hub.provenance import library_versions
from ...noise.messages import perturb_text
from .quality import Calibration, against, area, calibrate, compared, measured, mistakes, nll
from .rows import ProbeRow, require_apart

if TYPE_CHECKING:
    import numpy as np

    from ...models.boundary_probe import BoundaryProbe
    from ..measuring.chat_format import ChatFormat

# scikit-learn's C, the inverse of the weight of the squared norm. Of SmolLM2-135M on the boundary set all sixteen settings
# have areas between 0.91 and 0.93, in the mean of clean prompts and those with typing errors: none of them matters much.
STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2)
# First and last of four layers, evenly spaced, as shares of the model's depth.
_SPANS = ((0.3, 0.6), (0.4, 0.6), (0.45, 0.75), (0.5, 0.85))
_LAYERS = 4
SEVERITY = 0.08
_STEPS = 3000


def require_sklearn() -> None:
    """Raises ValueError where scikit-learn is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError(f"fit-probe: {missing_package('scikit-learn', 'it fits the probe', 'eval')}.")


def candidate_layers(depth: int) -> list[tuple[int, ...]]:
    """
    Returns the sets of layers that a probe is fitted on by default.

    Args:
        depth (`int`):
            Number of the model's blocks, at least 1.

    Example:

    >>> candidate_layers(30)
    [(9, 12, 15, 18), (12, 14, 16, 18), (14, 17, 20, 23), (15, 19, 22, 26)]
    >>> candidate_layers(2)
    [(1,), (1, 2)]
    """
    sets = []
    for first, last in _SPANS:
        places = [first + (last - first) * step / (_LAYERS - 1) for step in range(_LAYERS)]
        sets.append(tuple(sorted({max(1, int(depth * place + 0.5 + 1e-9)) for place in places})))
    return list(dict.fromkeys(sets))


class _Fit(NamedTuple):
    """A linear function of features, its standardization folded in, in float64."""

    weight: "np.ndarray"
    bias: float

    def scores(self, features: "np.ndarray") -> "np.ndarray":
        return features.astype("float64") @ self.weight + self.bias


class _Tried(NamedTuple):
    """One setting, and what it does on the validation rows; areas and scores clean and with typing errors."""

    layers: tuple[int, ...]
    strength: float
    areas: list[float]
    nll: float
    fit: _Fit
    scores: "dict[str, np.ndarray]"
    calibration: Calibration


def fit_logistic(features: "np.ndarray", harmful: "np.ndarray", strength: float) -> _Fit:
    """
    Fits a logistic regression of balanced classes on standardized features, and folds the standardization in.

    Args:
        features (`numpy.ndarray` of shape `(n, K)`):
            Of any floating dtype; computed in float32, standardized in float64.
        harmful (`numpy.ndarray` of shape `(n,)`):
            Whether each is harmful.
        strength (`float`):
            scikit-learn's C, > 0: smaller keeps the weights smaller.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    spread[spread < 1e-6 * (1e-6 + np.abs(mean))] = 1.0  # a feature that is the same everywhere says nothing
    standardized = ((features - mean) / spread).astype(np.float32)
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=_STEPS).fit(standardized, harmful)
    weight = fitted.coef_[0].astype(np.float64) / spread
    return _Fit(weight, float(fitted.intercept_[0] - weight @ mean))


def fit_probe(
    model: Any,
    chat: "ChatFormat",
    train: Sequence[ProbeRow],
    validation: Sequence[ProbeRow],
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    typos: bool = True,
    batch_size: int = 32,
) -> "BoundaryProbe":
    """
    Fits a boundary probe on a frozen model.

    Every prompt is read once, and once more with typing errors (`typos`, severity 0.08). Of sets of layers and strengths
    the one is taken whose area under the ROC curve, harmful prompts against twins, clean and with typing errors, is
    highest in the mean on the validation rows (of equal ones that with the lower NLL). So those areas are of the best of
    several, and a little too good: what the probe does on other prompts is to be measured on other prompts. The order of the
    rows changes nothing.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Adapters are switched off.
        chat ([`~evaluation.measuring.chat_format.ChatFormat`]):
            How prompts are put to it: as in the training that reads the probe.
        train, validation (`Sequence[ProbeRow]`):
            Rows that are fitted on, and rows by which is chosen and calibrated; no prompt in both.
        layers (`Sequence[int]`, *optional*):
            These only; by default [`candidate_layers`] are tried. 0 is the embeddings, l the output of the l-th block.
        strengths (`Sequence[float]`, *optional*):
            scikit-learn's C that are tried, each > 0.
        typos (`bool`, *optional*, defaults to `True`):
            Whether copies of the training prompts with typing errors are fitted on too. On SmolLM2-135M they raise the
            area under typing errors.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts a pass.

    Returns:
        [`~models.boundary_probe.BoundaryProbe`], whose facts say what it was fitted on, how well it does on the validation
        rows and where it errs.

    Raises:
        ValueError: If scikit-learn is missing, the model has no such layer, one side has no rows, or a prompt is in both.
    """
    import numpy as np
    import torch

    from ...models.boundary_probe import BoundaryProbe
    from ...models.fingerprint import base_fingerprint
    from ..measuring.response_batches import causal_lm
    from .states import prompt_ids, read_states

    require_sklearn()
    depth = causal_lm(model).config.get_text_config().num_hidden_layers
    sets = candidate_layers(depth) if layers is None else [_checked(layers, depth)]
    for name, rows in (("train", train), ("validation", validation)):
        if len({row.harmful for row in rows}) < 2:
            raise ValueError(
                f"{name}: has no rows of one of the two sides, so there is nothing to tell apart. Give both."
            )
    require_apart(train, validation)

    # In an order of their own, so that the probe is the same to the last bit however the rows lie in their files.
    train, validation = (sorted(rows, key=_place) for rows in (train, validation))
    noise: Any = load_part("perturbations", "typos")
    prompts = [row.prompt for row in (*train, *validation)]
    noisy = [perturb_text(one, noise(severity=SEVERITY), prompt_noise(str(one), 0)) for one in prompts]
    read = sorted({layer for one in sets for layer in one})
    states = read_states(model, prompt_ids(chat, [*prompts, *noisy]), read, batch_size)  # (n, L, 2 D)
    split = np.cumsum([len(train), len(validation), len(train)])
    parts = dict(zip(("train", "clean", "train_typos", "typos"), np.split(states, split), strict=True))
    fitted_on = np.concatenate([parts["train"], parts["train_typos"]]) if typos else parts["train"]
    sides = np.array([row.harmful for row in train] * (2 if typos else 1))
    harmful = np.array([row.harmful for row in validation])
    used = compared(validation)

    def features(values: "np.ndarray", chosen: Sequence[int]) -> "np.ndarray":
        return values[:, [read.index(layer) for layer in chosen]].reshape(len(values), -1)

    # Of prompts with typing errors too where such are fitted on: there the odds are to be right as well.
    views = ("clean", "typos") if typos else ("clean",)
    several = np.tile(harmful, len(views))
    tried = []
    for chosen, strength in itertools.product(sets, strengths):
        fit = fit_logistic(features(fitted_on, chosen).astype(np.float32), sides, strength)
        scores = {view: fit.scores(features(parts[view], chosen)) for view in ("clean", "typos")}
        areas = [area(one[used], harmful[used]) for one in scores.values()]
        together = np.concatenate([scores[view] for view in views])
        calibration = calibrate(together, several)
        lost = nll(calibration(together), several)
        tried.append(_Tried(chosen, strength, areas, lost, fit, scores, calibration))
    best = max(tried, key=lambda one: (float(np.mean(one.areas)), -one.nll))

    calibration = best.calibration
    weight = torch.from_numpy(best.fit.weight / calibration.temperature).float()
    bias = float(np.float32(calibration(best.fit.bias)))
    log_odds = {view: calibration(scores) for view, scores in best.scores.items()}
    facts = {
        "base": None,
        "fingerprint": base_fingerprint(model),
        "chat": {name: chat.facts()[name] for name in ("template", "template_digest", "system_prompt")},
        "train": _counts(train),
        "prompt_hashes": _hashes(train),
        "typos": {"train": typos, "severity": SEVERITY},
        "C": best.strength,
        "tried": [{"layers": [*one.layers], "C": one.strength, "auroc": one.areas, "nll": one.nll} for one in tried],
        "calibration": calibration._asdict(),
        "validation": {
            "rows": _counts(validation),
            "against": against(validation),
            **{view: _judged(best.scores[view], log_odds[view], validation) for view in ("clean", "typos")},
        },
        "mistakes": {view: mistakes(log_odds[view], validation) for view in ("clean", "typos")},
        "versions": library_versions("torch", "transformers", "tokenizers", "scikit-learn"),
    }
    return BoundaryProbe([*best.layers], weight, bias, facts)


def _hashes(rows: Sequence[ProbeRow]) -> str:
    """What later shows whether a prompt was fitted on; no text can be read from it."""
    texts = training_texts({"prompt": row.prompt} for row in rows)
    return " ".join(sorted({prompt_hashes(text)[0] for text in texts}))


def _checked(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    for layer in layers:
        require_count("layers", layer, 0, "Layers are counted from the embeddings, which are 0.")
        if layer > depth:
            raise ValueError(
                f"layers: {layer} is asked for, and the model has {depth}. Give numbers from 0 to {depth}."
            )
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(
            f"layers: must name at least one layer, and none twice, got {[*layers]}. Leave it out to try several."
        )
    return tuple(layers)


def _place(row: ProbeRow) -> tuple[str, bool, str]:
    return repr(row.prompt), row.harmful, row.id


def _counts(rows: Sequence[ProbeRow]) -> dict[str, int]:
    return dict(sorted(Counter(row.kind for row in rows).items()))


def _judged(scores: "np.ndarray", log_odds: "np.ndarray", rows: Sequence[ProbeRow]) -> dict[str, Any]:
    """Measures of one view, with what calibration changed."""
    before = measured(scores, rows)
    uncalibrated = {f"{name}_uncalibrated": before[name] for name in ("nll", "calibration_error")}
    return {**measured(log_odds, rows), **uncalibrated}
