# SPDX-License-Identifier: Apache-2.0
"""
Writes the tables of `judges.md` from the judges' measured errors: `python docs/judge_tables.py`.

The errors are those beside the judges, written by `hf-ckt judge`; what older versions of a judge got is in
`examples/evaluation/earlier_judges.json`, and what was tried in training in `learned_training.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ckt.checkpoints import replace_block
from hf_ckt.evaluation.judges import PEOPLE
from hf_ckt.evaluation.judges.base import measured_error
from hf_ckt.evaluation.judges.learned import WEIGHTS
from hf_ckt.evaluation.report.tables import table

PAGE = Path(__file__).with_name("judges.md")
EARLIER = Path(__file__).parents[1] / "examples" / "evaluation" / "earlier_judges.json"
OWN, HARD = "labelled answers, test", "learned answers, heldout"
NAMES = ("advbench", "rule", "learned")


def measured() -> dict[str, dict[str, Mapping[str, Any]]]:
    """Returns what was measured, by the judge's title and by set."""
    earlier = {one["title"]: one["entries"] for one in json.loads(EARLIER.read_text(encoding="utf-8"))}
    entries = earlier | {name: measured_error(name) for name in NAMES}
    order = ("advbench", "rule, before", "rule", "learned, without the rule", "learned")
    return {title: {one["set"]: one for one in entries[title]} for title in order}


def people_table() -> str:
    """What each judge got on the answers that people labelled."""
    head = ("judge", "accuracy", "precision", "recall", "F1", "bias, harmful", "bias, benign")
    rates = ("accuracy", "precision", "recall", "f1", "bias_harmful", "bias_benign")
    return table([head, *([title, *(_rate(of[PEOPLE], rate) for rate in rates)] for title, of in measured().items())])


def own_table() -> str:
    """The accuracy of each judge on the project's own answers."""
    head = ("judge", f"{OWN} (n=160)", f"{HARD} (n=719)")
    rows = (
        [title, *(_rate(of[name], "accuracy") if name in of else "" for name in (OWN, HARD))]
        for title, of in measured().items()
    )
    return table([head, *rows])


def form_table() -> str:
    """How many answers of each held-out form each judge got right."""
    found = {title: of[HARD]["by_form"] for title, of in measured().items() if HARD in of}
    forms = next(iter(found.values()))
    rows = ([form, str(forms[form]["n"]), *(str(of[form]["right"]) for of in found.values())] for form in forms)
    return table([("form", "n", *found), *rows])


def trial_table() -> str:
    """What was tried, by cross-validation within the train rows."""
    record = json.loads(WEIGHTS.with_name("learned_training.json").read_text(encoding="utf-8"))
    head = ("learnt from", "new form, new request", "mean of forms", "new request")
    keys = ("new_form_and_request", "mean_of_forms", "new_request")
    return table([head, *([one["trial"].strip(), *(f"{one[key]:.3f}" for key in keys)] for one in record["trials"])])


def weight_table() -> str:
    """What is right by the weight of the rule's verdict."""
    record = json.loads(WEIGHTS.with_name("learned_training.json").read_text(encoding="utf-8"))
    rows = ([f"{one['rule']:.1f}", f"{one['train']:.3f}", f"{one['dev']:.3f}"] for one in record["rule_weights"])
    return table([("nats", "train rows, cross-validated", "labelled answers, dev"), *rows])


# By the name of its markers on the page.
BLOCKS = {
    "people": people_table,
    "own": own_table,
    "forms": form_table,
    "trials": trial_table,
    "weights": weight_table,
}


def _rate(found: Mapping[str, Any], name: str) -> str:
    sign = "+" if name.startswith("bias") else ""
    # Rounded first, so that there is no -0.00.
    value, low, high = (f"{round(one, 2) + 0.0:{sign}.2f}" for one in (found[name], *found["intervals"][name]))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    for name, block in BLOCKS.items():
        replace_block(PAGE, name, block())
