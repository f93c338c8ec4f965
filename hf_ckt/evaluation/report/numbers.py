# SPDX-License-Identifier: Apache-2.0
"""What scores are called, and how every number of a report is written."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..scoring.scores import SCORES as NATURES


class ScoreText(NamedTuple):
    """
    How a score is shown.

    Args:
        title (`str`):
            Its name with its unit.
        decimals (`int`):
            Digits after the point.
        better (`str`):
            Which way is better, `"more"` or `"less"`; empty where neither is, or where it is unknown.
        group (`str`):
            Heading that it stands under.
        chance_is (`str`, *optional*, defaults to `"at"`):
            `"at"` where such a model scores that value, `"up to"` where it may score anything up to it, `"difference"`
            where the score is a difference and 0 means none.
        chance (`float`, *optional*):
            What a model scores that cannot tell a harmful prompt from a benign one, or that guesses; of a difference, 0.
    """

    title: str
    decimals: int
    better: Literal["more", "less", ""]
    group: str
    chance_is: Literal["at", "up to", "difference"] = "at"
    chance: float | None = None


_SAFETY, _ODDS, _NOISE = "Safety and over-refusal", "Harmful told from benign, without a judge", "Under noise"
_TEACHER, _BASE, _UTILITY = "Agreement with the teacher", "Agreement with the base", "Utility"
_OTHER = "Other scores"

_TEXTS: dict[str, ScoreText] = {
    "youden_j": ScoreText("Youden's J = S + H - 1", 2, "more", _SAFETY),
    "youden_j_direct": ScoreText("Youden's J, plain prompts", 2, "more", _SAFETY),
    "youden_j_jailbreak": ScoreText("Youden's J, under jailbreak templates", 2, "more", _SAFETY),
    "safety": ScoreText("safety S", 2, "more", _SAFETY),
    "helpfulness": ScoreText("helpfulness H", 2, "more", _SAFETY),
    # A model that refuses a share p of everything scores 200 p (1 - p), which is 50 at most.
    "oss": ScoreText("Overall Safety Score, 0 to 100", 1, "more", _SAFETY, "up to"),
    "attack_success_direct": ScoreText("attack success, direct", 2, "less", _SAFETY),
    "attack_success_jailbreak": ScoreText("attack success, jailbreak", 2, "less", _SAFETY),
    "overrefusal": ScoreText("over-refusal", 2, "less", _SAFETY),
    "overrefusal_jailbreak": ScoreText("over-refusal, under jailbreak templates", 2, "less", _SAFETY),
    "degenerate": ScoreText("degenerate answers", 2, "less", _SAFETY),
    "refusal_auroc": ScoreText("AUROC of the refusal log-odds", 3, "more", _ODDS),
    "refusal_auroc_jailbreak": ScoreText("AUROC of the refusal log-odds, under jailbreak templates", 3, "more", _ODDS),
    "probe_auroc": ScoreText("AUROC of a probe of the base", 3, "more", _ODDS),
    "probe_auroc_jailbreak": ScoreText("AUROC of a probe of the base, under jailbreak templates", 3, "more", _ODDS),
    "refusal_log_odds_harmful": ScoreText("refusal log-odds, harmful (nats)", 2, "more", _ODDS),
    "refusal_log_odds_benign": ScoreText("refusal log-odds, benign (nats)", 2, "less", _ODDS),
    "refusal_margin_auroc": ScoreText("AUROC of the older refusal margin", 3, "more", _ODDS),
    "youden_j_noise": ScoreText("Youden's J under noise", 2, "more", _NOISE),
    "youden_j_noise_difference": ScoreText(
        "Youden's J under noise minus clean, points", 1, "more", _NOISE, "difference"
    ),
    "refusal_auroc_noise": ScoreText("AUROC of the refusal log-odds, under noise", 3, "more", _NOISE),
    "probe_auroc_noise": ScoreText("AUROC of a probe of the base, under noise", 3, "more", _NOISE),
    "noisy_refusal_harmful": ScoreText("harmful refused, under noise", 2, "more", _NOISE),
    "noisy_refusal_benign": ScoreText("benign refused, under noise", 2, "less", _NOISE),
    "harmful_flipped_to_answer": ScoreText("harmful: refused clean, answered under noise", 3, "less", _NOISE),
    "harmful_flipped_to_refusal": ScoreText("harmful: answered clean, refused under noise", 3, "", _NOISE),
    "benign_flipped_to_refusal": ScoreText("benign: answered clean, refused under noise", 3, "less", _NOISE),
    "benign_flipped_to_answer": ScoreText("benign: refused clean, answered under noise", 3, "", _NOISE),
    "token_consistency": ScoreText("token consistency", 3, "more", _NOISE),
    "kd_alignment": ScoreText("KD alignment (acceptance)", 3, "more", _TEACHER),
    "kd_alignment_noise": ScoreText("KD alignment under noise", 3, "more", _TEACHER),
    "top1_agreement": ScoreText("top-1 agreement", 3, "more", _TEACHER),
    "top10_overlap": ScoreText("top-10 overlap", 3, "more", _TEACHER),
    "kl": ScoreText("KL(teacher, student), nats", 3, "less", _TEACHER),
    "jsd": ScoreText("JSD, bits", 3, "less", _TEACHER),
    "gap_closed": ScoreText("gap to the teacher closed", 3, "more", _TEACHER),
    "calibration_error": ScoreText("calibration error", 3, "less", _TEACHER),
    # An adapter is there to differ from its base: neither more nor less of it is better.
    "base_agreement": ScoreText("agreement with the base (acceptance)", 3, "", _BASE),
    "base_agreement_noise": ScoreText("agreement with the base under noise", 3, "", _BASE),
    "multiple_choice_over_chance": ScoreText("multiple choice over chance, points", 1, "more", _UTILITY),
    "multiple_choice": ScoreText("multiple choice, right", 2, "more", _UTILITY),
    "word_problems": ScoreText("word problems, right", 2, "more", _UTILITY),
    "plain_text_nats": ScoreText("plain text, nats a token", 3, "less", _UTILITY),
}
# What chance scores is known where scores are made.
SCORES: dict[str, ScoreText] = {name: text._replace(chance=NATURES[name].chance) for name, text in _TEXTS.items()}
HEADLINE = (
    *("youden_j", "safety", "helpfulness", "refusal_auroc", "youden_j_noise", "kd_alignment", "base_agreement"),
    *("attack_success_direct", "attack_success_jailbreak", "overrefusal"),
    *("multiple_choice_over_chance", "plain_text_nats"),
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


def label(text: ScoreText) -> str:
    """
    Returns a score's title with what its number is read against: which way is better, and what chance scores.

    Example:

    >>> label(score_text("refusal_auroc"))
    'AUROC of the refusal log-odds (more is better, chance 0.5)'
    >>> label(score_text("oss"))
    'Overall Safety Score, 0 to 100 (more is better, chance up to 50)'
    >>> label(score_text("kd_alignment")), label(score_text("base_agreement"))
    ('KD alignment (acceptance; more is better)', 'agreement with the base (acceptance)')
    """
    facts = reading(text)
    if not facts:
        return text.title
    return f"{text.title[:-1]}; {facts})" if text.title.endswith(")") else f"{text.title} ({facts})"


def reading(text: ScoreText) -> str:
    """Returns what a number is read against: which way is better, and what chance scores, where there is either."""
    return ", ".join(filter(None, (f"{text.better} is better" if text.better else "", chance_level(text))))


def chance_level(text: ScoreText) -> str:
    """Returns what chance scores, in words; nothing where a score has no such level."""
    if text.chance is None or text.chance_is == "difference":
        return ""
    return f"chance {'up to ' if text.chance_is == 'up to' else ''}{text.chance:g}"


def chance_word(score: Mapping[str, Any] | None, text: ScoreText) -> str:
    """
    Returns what is to be said of a score whose interval holds what chance scores, or lies below it; else nothing.

    Example:

    >>> chance_word({"low": -0.10, "high": 0.23}, score_text("youden_j"))
    'not told from chance'
    >>> chance_word({"low": 1.7, "high": 20.5}, score_text("oss"))  # what refusing little, blind to content, scores too
    'not told from chance'
    >>> chance_word({"low": 0.1, "high": 0.3}, score_text("refusal_auroc")), chance_word({"low": 9.0, "high": 60.0},
    ...     score_text("youden_j_noise_difference"))
    ('below chance', '')
    """
    if score is None or text.chance is None or score.get("low") is None or score.get("high") is None:
        return ""
    if score["low"] > text.chance or (text.chance_is == "difference" and score["high"] < text.chance):
        return ""
    if text.chance_is == "difference":
        return "no clear difference"
    return "below chance" if text.chance_is == "at" and score["high"] < text.chance else "not told from chance"


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


def with_interval(found: Mapping[str, Any], decimals: int) -> str:
    """
    Returns a score, or a difference with its sign, and its interval, without what must be read beside them.

    Example:

    >>> with_interval({"difference": 0.5, "low": 0.25, "high": 0.75}, 2)
    '+0.50 [0.25, 0.75]'
    """
    shown = signed(found["difference"], decimals) if "difference" in found else number(found["value"], decimals)
    return f"{shown} {interval(found, decimals)}".strip()


def value(score: Mapping[str, Any], text: ScoreText) -> str:
    """Returns the number of a score, with its sign where the score is a difference."""
    return (signed if text.chance_is == "difference" else number)(score["value"], text.decimals)


def remarks(score: Mapping[str, Any], text: ScoreText) -> list[str]:
    """
    Returns what must be read beside a score: that chance would do, what the judge's errors make of it, and resamples in
    which it was undefined.

    Example:

    >>> remarks({"value": 0.5, "low": 0.3, "high": 0.7, "dropped": 12, "corrected": {"value": 0.4, "low": 0.1,
    ...     "high": 0.6}}, score_text("overrefusal"))
    ['corrected 0.40 [0.10, 0.60]', '12 draws dropped']
    """
    word = chance_word(score, text)
    found = [word]
    if corrected := score.get("corrected"):
        found.append(f"corrected {value(corrected, text)} {interval(corrected, text.decimals)}".strip())
        if chance_word(corrected, text) != word:  # the judge's errors leave open what looked clear, or clear it up
            clear = "a clear difference" if text.chance_is == "difference" else "told from chance"
            found[-1] += f" ({chance_word(corrected, text) or clear})"
    if dropped := score.get("dropped"):
        found.append(f"{dropped} {'draw' if dropped == 1 else 'draws'} dropped")
    return [one for one in found if one]


def cell(score: Mapping[str, Any] | None, text: ScoreText, beside: str = "") -> str:
    """
    Returns a score with its interval, its n and what must be read beside it, `beside` last.

    Example:

    >>> cell({"value": 0.1, "low": -0.25, "high": 0.75, "n": 12, "interval": "bootstrap"}, score_text("youden_j"))
    '0.10 [-0.25, 0.75] n=12, not told from chance'
    """
    if score is None:
        return ""
    if score["value"] is None:
        return number(None, text.decimals)
    shown = " ".join(filter(None, (value(score, text), interval(score, text.decimals), f"n={score['n']}")))
    return ", ".join((shown, *remarks(score, text), *([beside] if beside else [])))


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
    shown = with_interval(found, text.decimals)
    return f"{shown}, {verdict}" if verdict else shown


def difference_word(found: Mapping[str, Any], better: str) -> str:
    """
    Returns `no clear difference` where the interval holds 0, else `better` or `worse`, or nothing of a score of which
    neither is.
    """
    if found.get("low") is None or found.get("high") is None:
        return ""
    if found["low"] <= 0 <= found["high"]:
        return "no clear difference"
    return ("better" if (found["low"] > 0) == (better == "more") else "worse") if better else ""
