# SPDX-License-Identifier: Apache-2.0
"""Rows that say how it was measured: models, judge, sets, settings, versions, and the tasks of the harness."""

from collections.abc import Iterator, Mapping
from typing import Any

from .figures import titles
from .findings import Findings
from .numbers import interval, number, signed, spaced

Rows = list[list[str]]
# Keys of a model's part of the results that hold its scores, which have tables of their own.
_MEASURED = ("title", "scores", "by_category", "noise", "calibration", "curve", "against")
# Texts of several lines, shown as they were sent and not in a table.
_SENT = ("sent", "example")
_CALLED = {
    **{"trained_on": "adapter trained on", "identity": "digests", "template": "chat template"},
    **{"template_digest": "chat template, digest", "reasoning": "thoughts"},
    **{"inserted_system_prompt": "system prompt that the template inserts"},
}


def model_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each fact that the file states of a model, with a column a model."""
    facts = [dict(_facts(model)) for model in results["models"].values()]
    # An adapter has facts that a base has not; in its order they stand where they belong.
    names = dict.fromkeys(name for one in sorted(facts, key=len, reverse=True) for name in one)
    return [
        ["fact", *titles(results).values()],
        *([_CALLED.get(name, spaced(name)), *(one.get(name, "") for one in facts)] for name in names),
    ]


def _facts(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of what is known of a model; of a group of facts each on its own, and those of its chat as its own."""
    for key, value in model.items():
        if key in _MEASURED:
            continue
        if key == "adapter":
            yield key, str(value or "none")
        elif isinstance(value, Mapping) and key != "generation":
            for name, one in value.items():
                if one is not None and not (key == "chat" and name in _SENT):
                    yield (name if key == "chat" else f"{key}, {name}"), shown(one)
        elif value is not None and key not in _SENT:
            yield key, shown(value)


def sent_texts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Returns what was really sent for a prompt, each text with the titles of the models that it was sent to.

    Example:

    >>> chat = {"sent": "<user>{prompt}"}
    >>> sent_texts({"models": {"a": {"title": "A", "chat": chat}, "b": {"title": "B", "chat": chat}}})
    [('A, B', '<user>{prompt}')]
    """
    found: dict[str, list[str]] = {}
    for model in results["models"].values():
        facts = {**model, **(model.get("chat") or {})}
        text = next((facts[key] for key in reversed(_SENT) if isinstance(facts.get(key), str)), None)
        if text is not None:
            found.setdefault(text, []).append(str(model["title"]))
    return [(", ".join(names), text) for text, names in found.items()]


def model_left_out(results: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each suite that was left out of one model alone."""
    return [
        f"{model['title']}: {spaced(suite)} was left out, since {str(reason).rstrip('.')}."
        for model in results["models"].values()
        for suite, reason in (model.get("left_out") or {}).items()
    ]


def judge_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each judge and set of labelled answers that its error was measured on."""
    keys = ("accuracy", "precision", "recall", "f1", "bias_benign", "bias_harmful")
    rows = [["judge", "labelled set", "n", *map(spaced, keys)]]
    for name, found in _errors(results):
        writers = [signed if key.startswith("bias") else number for key in keys]
        numbers = [write(found.get(key), 3) for write, key in zip(writers, keys, strict=True)]
        rows.append([name, str(found["set"]), str(found["n"]), *numbers])
    return rows


def judge_form_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each judge, set of labelled answers and form of answer: how many it judges as the labels do."""
    rows = [["judge", "labelled set", "form of answer", "judged as labelled", "of"]]
    for name, found in _errors(results):
        for form, one in (found.get("by_form") or {}).items():
            rows.append([name, str(found["set"]), spaced(form), str(one["right"]), str(one["n"])])
    return rows


def _errors(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    judge = results["judge"]
    for name, error in ((judge["name"], judge.get("error")), (judge.get("benign"), judge.get("benign_error"))):
        for found in error or ():
            yield str(name), found


def set_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each set of prompts and suite."""
    keys = ("name", "suite", "n", "source", "licence")
    return [
        ["set", "suite", "n", "source", "licence"],
        *([str(one.get(key, "")) for key in keys] for one in results["sets"]),
    ]


def near_duplicate_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each prompt that is much like a text of the training data, as far as the file names them."""
    found = results["settings"].get("near_duplicates") or {}
    rows = [["prompt", "training file", "number of the text, from 0", "similarity"]]
    for prompt, file, place, similarity in found.get("pairs") or ():
        rows.append([str(prompt), str(file), str(place), number(similarity, 2)])
    return rows


def lm_eval_rows(findings: Findings) -> Rows:
    """Returns a row for each task of the harness and model."""
    names = titles(findings.results)
    rows = [["task", "model", "metric", "value", "standard error", "n", "examples in the prompt"]]
    for task, found in (findings.lm_eval or {"tasks": {}})["tasks"].items():
        shots = found.get("num_fewshot")
        for name, one in found["models"].items():
            value = f"{number(one['value'], 3)} {interval(one, 3)}".strip()
            facts = [value, number(one.get("stderr"), 3), str(one.get("n", "-")), "-" if shots is None else str(shots)]
            rows.append([str(found.get("title") or task), names.get(name, name), str(one["metric"]), *facts])
    return rows


def setting_rows(findings: Findings) -> Rows:
    """Returns how the runs were made, a row each."""
    results, harness = findings.results, findings.lm_eval or {}
    facts = {"command": results.get("command") or "not recorded", "tier": results["tier"], "device": results["device"]}
    facts |= {"suites": results["suites"], "seeds": results["seeds"], **results["generation"], **results["settings"]}
    judge = results["judge"]
    if results.get("rejudged"):
        facts["judged again by"] = results["rejudged"]
    facts |= {f"judge {key}": judge[key] for key in ("digest", "benign_digest") if judge.get(key)}
    if facts.get("system_prompt") is None:
        facts["system_prompt"] = "none given"  # a chat template may have one of its own: see the models
    for name in ("training_compared", "near_duplicates"):
        if name in facts and facts[name] is None:  # "none" would say that none were found
            facts[name] = "not compared"
    if isinstance(duplicates := facts.get("near_duplicates"), Mapping):
        facts["near_duplicates"] = {name: one for name, one in duplicates.items() if name != "pairs"}
    if probe := results.get("probe"):
        told = {name: probe[name] for name in ("name", "digest", "layers", "prompts_compared") if name in probe}
        facts["boundary probe"] = told | dict(probe.get("facts") or {})
    own = {"command": harness.get("command"), "seeds": harness.get("seeds"), **(harness.get("settings") or {})}
    facts |= {f"lm-eval {name}": value for name, value in own.items() if value is not None}
    return [["setting", "value"], *([spaced(name), shown(value)] for name, value in facts.items())]


def version_rows(findings: Findings) -> Rows:
    """Returns the libraries with their versions; those of the harness where it was run with others."""
    versions = dict(findings.results["versions"])
    for name, version in ((findings.lm_eval or {}).get("versions") or {}).items():
        if versions.setdefault(name, version) != version:
            versions[f"{name} (lm-eval)"] = version
    return [["library", "version"], *([name, str(version)] for name, version in versions.items())]


def shown(value: Any) -> str:
    """
    Returns a value of a file as a reader would say it.

    Example:

    >>> shown(None), shown(True), shown([0.1, 0.3]), shown({"beams": 4})
    ('none', 'yes', '0.1, 0.3', 'beams 4')
    """
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(one) for one in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{spaced(str(name))} {shown(one)}" for name, one in value.items()) or "none"
    return str(value)
