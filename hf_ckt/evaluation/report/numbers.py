# SPDX-License-Identifier: Apache-2.0
"""What scores are called, and how every number of a report is written."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class ScoreText(NamedTuple):
    """
    How a score is shown.

    Args:
        title (`str`):
            Its name with its unit.
        decimals (`int`):
            Digits after the point.
        better (`str`):
            Which way is better, `"more"` or `"less"`; empty where unknown.
        group (`str`):
            Heading that it stands under.
    """

    title: str
    decimals: int
    better: Literal["more", "less", ""]
    group: str


_SAFETY, _TEACHER, _NOISE = "Safety and over-refusal", "Agreement with the teacher", "Under noise"
_MARGIN, _UTILITY, _OTHER = "Refusal margin", "Utility", "Other scores"

SCORES: dict[str, ScoreText] = {
    "oss": ScoreText("Overall Safety Score, 0 to 100", 1, "more", _SAFETY),
    "safety": ScoreText("safety S", 2, "more", _SAFETY),
    "helpfulness": ScoreText("helpfulness H", 2, "more", _SAFETY),
    "attack_success_direct": ScoreText("attack success, direct", 2, "less", _SAFETY),
    "attack_success_jailbreak": ScoreText("attack success, jailbreak", 2, "less", _SAFETY),
    "overrefusal": ScoreText("over-refusal", 2, "less", _SAFETY),
    "degenerate": ScoreText("degenerate answers", 2, "less", _SAFETY),
    "kd_alignment": ScoreText("KD alignment (acceptance)", 3, "more", _TEACHER),
    "top1_agreement": ScoreText("top-1 agreement", 3, "more", _TEACHER),
    "top10_overlap": ScoreText("top-10 overlap", 3, "more", _TEACHER),
    "kl": ScoreText("KL(teacher, student), nats", 3, "less", _TEACHER),
    "jsd": ScoreText("JSD, bits", 3, "less", _TEACHER),
    "gap_closed": ScoreText("gap to the teacher closed", 3, "more", _TEACHER),
    "calibration_error": ScoreText("calibration error", 3, "less", _TEACHER),
    "noise_robustness": ScoreText("noise robustness", 3, "more", _NOISE),
    "performance_drop_rate": ScoreText("performance drop rate", 3, "less", _NOISE),
    "flip_rate": ScoreText("verdict flipped by noise", 3, "less", _NOISE),
    "noisy_refusal_harmful": ScoreText("harmful refused, under noise", 2, "more", _NOISE),
    "noisy_refusal_benign": ScoreText("benign refused, under noise", 2, "less", _NOISE),
    "token_consistency": ScoreText("token consistency", 3, "more", _NOISE),
    "mce": ScoreText("mean corruption error, % of the baseline", 1, "less", _NOISE),
    "refusal_margin_harmful": ScoreText("refusal margin, harmful (nats)", 2, "more", _MARGIN),
    "refusal_margin_benign": ScoreText("refusal margin, benign (nats)", 2, "less", _MARGIN),
    "refusal_margin_auroc": ScoreText("refusal margin, AUROC", 3, "more", _MARGIN),
    "multiple_choice": ScoreText("multiple choice, right", 2, "more", _UTILITY),
    "multiple_choice_relative": ScoreText("multiple choice, relative to the base", 2, "more", _UTILITY),
    "word_problems": ScoreText("word problems, right", 2, "more", _UTILITY),
    "word_problems_relative": ScoreText("word problems, relative to the base", 2, "more", _UTILITY),
}
HEADLINE = (
    *("oss", "kd_alignment", "noise_robustness", "attack_success_direct", "attack_success_jailbreak", "overrefusal"),
    "multiple_choice_relative",
)


def score_text(name: str, results: Mapping[str, Any] | None = None) -> ScoreText:
    """
    Returns how a score is shown; one that is not listed is shown under its own name rather than left out.

    Args:
        name (`str`):
            Key of the score in a results file.
        results (`Mapping`, *optional*):
            Whose judge says what an answer that is not refused is called: not every judge sees harm.

    Example:

    >>> score_text("attack_success_direct", {"judge": {"measures": "attack success (string judge)"}}).title
    'attack success (string judge), direct'
    >>> score_text("my_score").title
    'my score'
    """
    text = SCORES.get(name) or ScoreText(spaced(name), 3, "", _OTHER)
    if results is not None and name.startswith("attack_success_"):
        return text._replace(title=f"{results['judge']['measures']}, {name.removeprefix('attack_success_')}")
    return text


def spaced(name: str) -> str:
    """Returns a key of a file as words: `evasion_of_law` is hard to break into lines and to read aloud."""
    return name.replace("_", " ")


def number(value: float | None, decimals: int) -> str:
    """
    Returns a number as tables show it, a dash where it is undefined.

    Example:

    >>> number(0.1234, 2), number(None, 2), number(-0.0004, 2)
    ('0.12', '-', '0.00')
    """
    return "-" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


def signed(value: float | None, decimals: int) -> str:
    """
    Returns a difference with its sign.

    Example:

    >>> signed(0.25, 2), signed(-0.25, 2), signed(-0.0001, 2)
    ('+0.25', '-0.25', '0.00')
    """
    shown = number(value, decimals)
    return f"+{shown}" if value is not None and round(value, decimals) > 0 else shown


def interval(score: Mapping[str, Any], decimals: int) -> str:
    """
    Returns a 95 % interval, or nothing where there is none.

    Example:

    >>> interval({"low": 0.25, "high": 0.75}, 2)
    '[0.25, 0.75]'
    """
    if score.get("low") is None or score.get("high") is None:
        return ""
    return f"[{number(score['low'], decimals)}, {number(score['high'], decimals)}]"


def cell(score: Mapping[str, Any] | None, decimals: int) -> str:
    """
    Returns a score with its interval and n.

    Example:

    >>> cell({"value": 0.5, "low": 0.25, "high": 0.75, "n": 12, "interval": "wilson"}, 2)
    '0.50 [0.25, 0.75] n=12'
    """
    if score is None:
        return ""
    if score["value"] is None:
        return number(None, decimals)
    return " ".join(filter(None, (number(score["value"], decimals), interval(score, decimals), f"n={score['n']}")))


def difference(found: Mapping[str, Any] | None, text: ScoreText) -> str:
    """
    Returns a paired difference with its interval, and in words what it says.

    Example:

    >>> difference({"difference": -0.25, "low": -0.5, "high": -0.125}, score_text("overrefusal"))
    '-0.25 [-0.50, -0.12], better'
    """
    if found is None:
        return ""
    verdict = difference_word(found, text.better)
    shown = f"{signed(found['difference'], text.decimals)} {interval(found, text.decimals)}"
    return f"{shown}, {verdict}" if verdict else shown


def difference_word(found: Mapping[str, Any], better: str) -> str:
    """Returns `better` or `worse` where the interval leaves out 0, `no clear difference` where it holds it."""
    if not better:
        return ""
    if found["low"] <= 0 <= found["high"]:
        return "no clear difference"
    return "better" if (found["low"] > 0) == (better == "more") else "worse"


def judge_sentence(results: Mapping[str, Any]) -> str:
    """
    Returns the judge's name with its measured error: no rate of a judge means anything without.

    Example:

    >>> judge_sentence({"judge": {"name": "rule", "measures": "attack success (string judge)", "error": []}})
    'Judge: rule, error not measured.'
    """
    judge = results["judge"]
    sentence = f"Judge: {_measured(judge['name'], judge.get('error'))}."
    if judge.get("benign"):
        sentence += f" Judge of benign prompts: {_measured(judge['benign'], judge.get('benign_error'))}."
    return sentence


def _measured(name: str, error: Sequence[Mapping[str, Any]] | None) -> str:
    """A judge's name with its accuracy and bias; what else was measured stands in a table of its own."""
    sets = []
    for found in error or ():
        facts = [f"accuracy {number(found['accuracy'], 2)}"] if found.get("accuracy") is not None else []
        facts += [
            f"bias {signed(found[f'bias_{kind}'], 2)} on {kind} prompts"
            for kind in ("benign", "harmful")
            if found.get(f"bias_{kind}") is not None
        ]
        sets.append(f"on {found['set']} (n={found['n']}): {', '.join(facts)}")
    return f"{name}; {'; '.join(sets)}" if sets else f"{name}, error not measured"


def conditions_sentence(results: Mapping[str, Any]) -> str:
    """
    Returns under which settings the numbers were made, to stand beside each table.

    Example:

    >>> print(conditions_sentence({"tier": "cpu", "seeds": [0, 1, 2],
    ...     "generation": {"decoding": "greedy", "new_tokens": 48, "system_prompt": None, "engine": "transformers"}}))
    Tier cpu; seeds 0, 1, 2; greedy decoding, at most 48 new tokens, no system prompt; engine transformers. Brackets
    hold 95 % intervals.
    """
    made = results["generation"]
    seeds = ", ".join(map(str, results["seeds"]))
    system = f"system prompt “{made['system_prompt']}”" if made.get("system_prompt") else "no system prompt"
    asked = [(model.get("title"), model.get("chat") or {}) for model in results.get("models", {}).values()]
    moved = [str(title) for title, chat in asked if chat.get("system_prompt_sent_as") == "user"]
    if moved:
        system += f" (in front of the user's text for {', '.join(moved)})"
    return (
        f"Tier {results['tier']}; {'seeds' if len(results['seeds']) != 1 else 'seed'} {seeds}; {made['decoding']} "
        f"decoding, at most {made['new_tokens']} new tokens, {system}; engine {made['engine']}. Brackets hold 95 % "
        "intervals."
    )
