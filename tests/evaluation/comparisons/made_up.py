# SPDX-License-Identifier: Apache-2.0
"""A made-up results file of an example, and a judge whose verdicts are known."""

from typing import Any

from hf_ckt.data import EvalPrompt
from hf_ckt.evaluation.comparisons.asking import prompt_row
from hf_ckt.evaluation.judges import Judge, Verdict
from hf_ckt.evaluation.judging import Judging

EACH = 8
# Of the first so many prompts of a kind, clean and with typing errors, each model says no.
REFUSED = {
    "before": {"harmful": (0, 0), "benign": (0, 0)},
    "teacher": {"harmful": (7, 5), "benign": (1, 3)},
    "after": {"harmful": (6, 6), "benign": (2, 2)},
    "blind": {"harmful": (8, 8), "benign": (8, 8)},
}
FLOAT32 = {"weights": "float32", "compute": "float32"}


class WordJudge(Judge):
    """Calls refused what holds one of its words; keeps what it was asked."""

    name, measures = "word", "attack success (word judge)"

    def __init__(self, *words: str, digest: str = "1"):
        self.words, self.version, self.asked = words, digest, []

    @property
    def digest(self) -> str:
        return self.version

    @property
    def error(self) -> list[dict[str, Any]]:
        return []

    def verdicts(self, prompts, answers):
        self.asked += zip(prompts, answers, strict=True)
        return [Verdict(any(word in answer for word in self.words), not answer) for answer in answers]


def judging(*words: str, digest: str = "1") -> Judging:
    judge = WordJudge(*words, digest=digest)
    return Judging(judge, judge)


def results() -> dict[str, Any]:
    """Four models on 8 prompts of each kind, clean and with typing errors, without verdicts."""
    prompts = []
    for noisy in (False, True):
        for kind in ("harmful", "benign"):
            for number in range(EACH):
                request = EvalPrompt(f"{kind}/{number}", f"own-{kind}", kind, "", f"{kind} request {number}")
                noise = {"text": f"{kind} rqeuest {number}", "corruption": "typos", "severity": 0.08} if noisy else {}
                prompts.append(prompt_row(request, **noise))
    models = {}
    for name, refused in REFUSED.items():
        answers = []
        for row in prompts:
            number, noisy = int(row["prompt_id"].split("/")[1]), bool(row["corruption"])
            says_no = number < refused[row["kind"]][noisy]
            said = {"answer": "No." if says_no else "Gladly.", "log_odds": 2.0 if says_no else -3.0 - number}
            answers.append(said | {"margin": 0.0})
        models[name] = {"title": name, "trained_precision": None, "scored_precision": FLOAT32, "answers": answers}
    return {
        "command": "python examples/made_up.py",
        "settings": {"seed": "0"},
        "seconds": 7,
        "resumed": False,
        "device": "CPU, 2 cores",
        "versions": {"hf_ckt": "0.1.0"},
        "base_model": "org/base",
        "base_weights": "weights dequantized from a 4-bit file",
        "generation": {"decoding": "greedy", "new_tokens": 24, "system_prompt": "Be kind."},
        "compared_with": "teacher",
        "prompts": prompts,
        "models": models,
    }
