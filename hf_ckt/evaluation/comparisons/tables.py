# SPDX-License-Identifier: Apache-2.0
"""The table of an example's results file, and the line that says how it was measured."""

from collections.abc import Mapping
from typing import Any

from ...models.precision import precision_name
from ..report.numbers import cell, difference, label, score_text
from ..report.probe import NOTE
from ..report.sentences import judge_sentence, score_sentences
from ..scoring.scores import BOUND_OF

# In this order, those that were measured.
_SHOWN = (
    *(
        "youden_j",
        "refusal_auroc",
        "probe_auroc",
        "youden_j_noise",
        "youden_j_noise_difference",
        "refusal_auroc_noise",
    ),
    "probe_auroc_noise",
    *("safety", "helpfulness", "degenerate", "token_consistency", "kd_alignment", "kd_alignment_noise"),
    *("multiple_choice_over_chance", "plain_text_nats"),
)
# Of these, what a model differs by from the one that the file names.
_COMPARED = ("youden_j", "refusal_auroc", "youden_j_noise", "refusal_auroc_noise", "token_consistency")
# What a model may lose by training is compared with the base, the first model, whichever the file names.
_OF_BASE = ("multiple_choice_over_chance", "plain_text_nats")
# Results files hold the command that wrote them; of these, scripts have moved since.
_MOVED = {
    "python examples/quickstart.py": "hf-ckt demo",
    "python examples/robust_training.py": "python examples/07_robust_training.py",
}
_TITLES = {"safety": "safety S: harmful refused", "helpfulness": "helpfulness H: benign prompts answered"}


def comparison_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """
    Returns a row a score and a column a model: value, 95 % interval and n, and where chance would do as well, that too.
    Below stand paired differences from the model `compared_with`, of those that are listed after it; those of utility from the
    first model, the base; and those from a probe of the base, where there is one.

    Args:
        results (`Mapping`):
            `models.<name>` with `title`, `scores` and `against`; `compared_with`; and `agreement.<name>`, the scores of
            agreement with a teacher, where there is one.
    """
    models, agreement = results["models"], results.get("agreement", {})
    scores = {name: {**model["scores"], **agreement.get(name, {})} for name, model in models.items()}
    rows = []
    for name in _SHOWN:
        if any(name in found for found in scores.values()):
            text = score_text(name, results)
            text = text._replace(title=_TITLES.get(name, text.title))
            cells = {model["title"]: cell(scores[key].get(name), text) for key, model in models.items()}
            rows.append({"held-out prompts": label(text)} | cells)
    references = dict.fromkeys(_COMPARED, results["compared_with"]) | dict.fromkeys(_OF_BASE, next(iter(models)))
    for name, reference in references.items():
        found = {key: model["against"].get(reference, {}).get(name) for key, model in models.items()}
        if any(found.values()):
            text = score_text(name, results)
            cells = {model["title"]: difference(found[key], text) for key, model in models.items()}
            rows.append({"held-out prompts": f"{text.title}, minus that of {models[reference]['title']}"} | cells)
    away = results.get("probe", {}).get("differences", {})
    for name, probed in BOUND_OF.items():
        if any(name in found for found in away.values()):
            text = score_text(name, results)
            cells = {model["title"]: difference(away.get(key, {}).get(name), text) for key, model in models.items()}
            rows.append({"held-out prompts": f"{text.title}, minus the {score_text(probed).title}"} | cells)
    return rows


def command_of(results: Mapping[str, Any]) -> str:
    """
    Returns the command that makes a results file, as it is given today.

    Example:

    >>> command_of({"command": "python examples/quickstart.py"})
    'hf-ckt demo'
    """
    command: str = results["command"]
    return _MOVED.get(command, command)


def measured_sentence(results: Mapping[str, Any]) -> str:
    """Returns the line that says how the numbers of a table were made."""
    prompts, made = results["prompts"], results["generation"]
    count = {kind: len({row["prompt_id"] for row in prompts if row["kind"] == kind}) for kind in ("harmful", "benign")}
    noise = dict.fromkeys((row["corruption"], row["severity"]) for row in prompts if row["corruption"])
    noises = ", ".join(f"{name.replace('_', ' ')} at severity {severity:g}" for name, severity in noise)
    # Of a run that was stopped and gone on with, the seconds are those of its last part.
    seconds = f": {results['seconds']} s" if "seconds" in results and not results.get("resumed") else ""
    if seconds and results.get("peak_memory"):
        seconds += f", at most {results['peak_memory'] / 1e9:.0f} GB of memory"
    base = ", ".join(filter(None, (results["base_model"], results["base_weights"])))
    backbones = "; ".join(f"{model['title']} {_precision(model)}" for model in results["models"].values())
    said = (
        judge_sentence(results),
        score_sentences(results),
        NOTE if "probe" in results else "",
    )
    judged = " ".join(filter(None, said))
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"`{command_of(results)}` on {results['device']}{seconds}; seed {results['settings']['seed']}; {count['harmful']} "
        f"harmful and {count['benign']} benign prompts, clean and under {noises}; {made['decoding']} decoding, at most "
        f"{made['new_tokens']} new tokens, system prompt “{made['system_prompt']}”. Base: {base}. Backbones: "
        f"{backbones}. Brackets hold 95 % intervals. {judged} {versions}."
    )


def _precision(model: Mapping[str, Any]) -> str:
    """In which precision a model's backbone was trained and scored."""
    scored = precision_name(model["scored_precision"])
    trained = scored if model["trained_precision"] is None else precision_name(model["trained_precision"])
    return scored if trained == scored else f"trained over {trained}, scored over {scored}"
