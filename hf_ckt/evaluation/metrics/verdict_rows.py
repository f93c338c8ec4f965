# SPDX-License-Identifier: Apache-2.0
"""From predictions and references to rows with verdicts."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...checks import require_known
from ..judging import load_judging


class VerdictRows:
    """
    Turns predictions into verdicts, and forgets the answers.

    Args:
        judge (`str`):
            Judges predictions that are texts; see `judges.load_judge`. One that cannot see refusals leaves benign
            prompts to the rule.
        keys (`Mapping[str, Any]`):
            What is kept of each reference, with the value where it is missing.
    """

    def __init__(self, judge: str, keys: Mapping[str, Any]):
        self.judging = load_judging(judge)
        self.keys = dict(keys)

    def rows(self, predictions: Iterable[Any], references: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        Returns a row for each prediction: the keys of its reference, `refused` and `degenerate`.

        Args:
            predictions (`Iterable`):
                Each an answer (`str`); a verdict, True where it was refused; or a dict with `refused` and, where
                known, `degenerate`.
            references (`Iterable[Mapping]`):
                Each with `prompt_id`, `kind` and what else is kept; `prompt` for judges that read it.

        Raises:
            ValueError: If a reference lacks its id or kind, or a verdict is None.
            TypeError: If a prediction is none of the three.
        """
        rows, answered, texts = [], [], []
        for prediction, reference in zip(predictions, references, strict=True):
            row = {key: reference.get(key, default) for key, default in self.keys.items()}
            for key in ("prompt_id", "kind"):
                if row[key] is None:
                    raise ValueError(
                        f"references: one has no {key!r}, without which rows of one prompt would count as several. Give "
                        "each reference a prompt_id and a kind."
                    )
            require_known("kind", row["kind"], ("harmful", "benign"))
            if isinstance(prediction, str):
                answered.append(row)
                request = str(reference.get("prompt") or "")
                texts.append({"kind": row["kind"], "request": request, "answer": prediction})
            else:
                row |= _verdict(prediction)
            rows.append(row)
        for row, judged in zip(answered, self.judging.judged(texts), strict=True):
            row |= {"refused": judged["refused"], "degenerate": judged["degenerate"]}
        return rows


def _verdict(prediction: Any) -> dict[str, bool]:
    import numpy as np

    given = prediction if isinstance(prediction, Mapping) else {"refused": prediction}
    refused, degenerate = given.get("refused"), given.get("degenerate", False)
    for value in (refused, degenerate):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(
                f"predictions: must be answers (str), verdicts (bool) or dicts with 'refused', got {prediction!r}. A number "
                "would be read as a verdict."
            )
    return {"refused": bool(refused), "degenerate": bool(degenerate)}
