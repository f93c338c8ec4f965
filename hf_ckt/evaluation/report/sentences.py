# SPDX-License-Identifier: Apache-2.0
"""What must stand beside a table: the judge with its errors, and how the numbers were made."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .numbers import number, signed

SMOKE = "The smoke tier checks the machinery; its numbers are no result."
NO_LM_EVAL = "lm-eval was not run: there is no lm_eval.json beside the results; `hf-ckt lm-eval` writes one."
NO_TEACHER = (
    "No teacher was named, so agreement is that with the base, of which neither more nor less is better; a model is not "
    "compared with itself."
)
CURVE_NOTE = (
    "Each line shows what one model could have, without a judge, if a constant were added to the log-odds of beginning a "
    "refusal; its marker shows what its own answers have, as judged. The upper right corner is best. On the dotted line S + H "
    "= 1 and Youden's J is 0: a model that refuses blind to content lies there."
)
PAIRED_NOTE = (
    "A difference is paired: both models are compared on the same prompts. Where its 95 % interval holds 0, it is no clear "
    "difference."
)
POOLED_NOTE = (
    "Each column pools the runs of one method, trained with several seeds; the intervals allow for other seeds as well as "
    "for other prompts."
)
CHANCE_NOTE = (
    "Chance is the score of a model that refuses blind to content, or that guesses; a score whose 95 % interval holds it is "
    "not told from chance."
)


def warning_sentences(results: Mapping[str, Any]) -> list[str]:
    """
    Returns what a reader must know before the numbers: what was said when they were made, and prompts that were trained on in
    other words.

    Example:

    >>> warning_sentences({"settings": {"near_duplicates": {"prompts": 1}}, "warnings": ["The judge reads too few words."]})
    ['The judge reads too few words.', '1 prompt is a near-duplicate of a training text: a rate on it may be recall.']
    """
    said = list(results.get("warnings") or ())
    near = (results["settings"].get("near_duplicates") or {}).get("prompts")
    if near == 1:
        said.append("1 prompt is a near-duplicate of a training text: a rate on it may be recall.")
    elif near:
        said.append(f"{near} prompts are near-duplicates of a training text: a rate on them may be recall.")
    return said


def judge_sentence(results: Mapping[str, Any], *, largest: bool = False) -> str:
    """
    Returns the judge's name with its measured error: no rate of a judge means anything without.

    Args:
        results (`Mapping`):
            A results file.
        largest (`bool`, *optional*, defaults to `False`):
            Whether only the set with most answers is shown, and the number of the others: for places that repeat it.

    Example:

    >>> judge_sentence({"judge": {"name": "rule", "measures": "attack success (string judge)", "error": []}})
    'Judge: rule, error not measured.'
    """
    judge = results["judge"]
    sentence = f"Judge: {_measured(judge['name'], judge.get('error'), largest)}."
    if judge.get("benign"):
        sentence += f" Judge of benign prompts: {_measured(judge['benign'], judge.get('benign_error'), largest)}."
    return sentence


def bias_sentences(results: Mapping[str, Any]) -> str:
    """
    Returns in words which way the judge errs, by the largest set of labelled answers, and what that does to the rates;
    empty where its bias was not measured.

    Example:

    >>> error = [{"set": "mine", "n": 9, "bias_harmful": -0.12, "bias_benign": 0.0}]
    >>> print(bias_sentences({"judge": {"name": "rule", "error": error}}))
    On mine, rule calls 0.12 fewer of the answers to harmful prompts refusals than the labels do, so raw attack success reads
    too high; and as many of the answers to benign prompts as the labels do.
    """
    judge = results["judge"]
    kinds_of: list[tuple[Any, Any, tuple[str, ...]]] = [(judge["name"], judge.get("error"), ("harmful", "benign"))]
    if judge.get("benign"):
        kinds_of = [(judge["name"], judge.get("error"), ("harmful",))]
        kinds_of.append((judge["benign"], judge.get("benign_error"), ("benign",)))
    sentences = []
    for name, error, kinds in kinds_of:
        sets = [one for one in error or () if any(one.get(f"bias_{kind}") is not None for kind in kinds)]
        if sets:
            largest = max(sets, key=lambda one: one.get("n") or 0)
            parts = [_bias(kind, largest[f"bias_{kind}"]) for kind in kinds if largest.get(f"bias_{kind}") is not None]
            sentences.append(f"On {largest['set']}, {name} calls {'; and '.join(parts)}.")
    return " ".join(sentences)


def _bias(kind: str, bias: float) -> str:
    if round(bias, 2) == 0:
        return f"as many of the answers to {kind} prompts{'' if kind == 'benign' else ' refusals'} as the labels do"
    more = bias > 0
    rate = "attack success" if kind == "harmful" else "over-refusal"
    reads = "high" if more == (kind == "benign") else "low"
    return (
        f"{number(abs(bias), 2)} {'more' if more else 'fewer'} of the answers to {kind} prompts refusals than the labels do, "
        f"so raw {rate} reads too {reads}"
    )


def score_sentences(results: Mapping[str, Any]) -> str:
    """
    Returns what the words beside scores mean, of those that stand in these results: chance, corrected, dropped.

    Example:

    >>> score_sentences({"models": {"base": {"scores": {"kl": {"value": 1.0, "dropped": 3}}}}})
    'Dropped draws are bootstrap resamples in which the score was undefined.'
    """
    scores = list(_scores(results))
    sentences = []
    if any(one.get("corrected") for one in scores):
        sentences.append(
            "Corrected is what a judge without error would have found, if this one errs here as it does on labelled answers "
            "(Rogan and Gladen 1978); its interval holds the uncertainty of those errors too."
        )
    if any(one.get("dropped") for one in scores):
        sentences.append("Dropped draws are bootstrap resamples in which the score was undefined.")
    return " ".join(sentences)


def _scores(results: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for model in results["models"].values():
        yield from model["scores"].values()
        for rates in (model.get("by_category") or {}).values():
            yield from rates.values()
        for one in model.get("noise") or ():
            yield from (found for found in one.values() if isinstance(found, Mapping))
    for pooled in (results.get("pooled") or {}).values():
        yield from pooled["scores"].values()


def _measured(name: str, error: Sequence[Mapping[str, Any]] | None, largest: bool) -> str:
    """A judge's name with its accuracy and bias; what else was measured stands in a table of its own."""
    sets = []
    measured = sorted(error or (), key=lambda one: -(one.get("n") or 0))[:1] if largest else error
    for found in measured or ():
        facts = [f"accuracy {number(found['accuracy'], 2)}"] if found.get("accuracy") is not None else []
        facts += [
            f"bias {signed(found[f'bias_{kind}'], 2)} on {kind} prompts"
            for kind in ("benign", "harmful")
            if found.get(f"bias_{kind}") is not None
        ]
        sets.append(f"on {found['set']} (n={found['n']}): {', '.join(facts)}")
    others = len(error or ()) - len(sets)
    if others:
        sets.append(f"also measured on {others} other labelled {'set' if others == 1 else 'sets'}")
    return f"{name}; {'; '.join(sets)}" if sets else f"{name}, error not measured"


def conditions_sentence(results: Mapping[str, Any]) -> str:
    """
    Returns under which settings the numbers were made, to stand beside each table.

    Example:

    >>> print(conditions_sentence({"tier": "cpu", "seeds": [0, 1, 2],
    ...     "generation": {"decoding": "greedy", "new_tokens": 48, "system_prompt": None, "engine": "transformers"}}))
    Tier cpu; noise seeds 0, 1, 2; greedy decoding, at most 48 new tokens, no system prompt; engine transformers. Brackets
    hold 95 % intervals.
    """
    made = results["generation"]
    seeds = ", ".join(map(str, results["seeds"]))
    return (
        f"Tier {results['tier']}; noise {'seeds' if len(results['seeds']) != 1 else 'seed'} {seeds}; {made['decoding']} "
        f"decoding, at most {made['new_tokens']} new tokens, {_system_prompt(results)}; engine {made['engine']}. Brackets "
        "hold 95 % intervals."
    )


def _system_prompt(results: Mapping[str, Any]) -> str:
    """The system prompt that was given; without one, those that chat templates put there by themselves."""
    given = results["generation"].get("system_prompt")
    asked = [(str(model.get("title")), model.get("chat") or {}) for model in results.get("models", {}).values()]
    if given:
        moved = ", ".join(title for title, chat in asked if chat.get("system_prompt_sent_as") == "user")
        return f"system prompt “{given}”" + (f" (in front of the user's text for {moved})" if moved else "")
    inserted: dict[str, list[str]] = {}
    for title, chat in asked:
        if chat.get("inserted_system_prompt"):
            inserted.setdefault(str(chat["inserted_system_prompt"]), []).append(title)
    if not inserted:
        return "no system prompt"
    shown = [
        f"“{' '.join(text.split())}”" + ("" if len(names) == len(asked) else f" ({', '.join(names)})")
        for text, names in inserted.items()
    ]
    others = [title for title, chat in asked if not chat.get("inserted_system_prompt")]
    none = f", and none for {', '.join(others)}" if others else ""
    return f"no system prompt but the one that the chat template inserts by itself: {', '.join(shown)}{none}"
