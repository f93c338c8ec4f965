# SPDX-License-Identifier: Apache-2.0
"""How much each tier of the evaluation asks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """
    The size of an evaluation.

    Args:
        harmful_sets, benign_sets (`tuple[str, ...]`):
            Prompt sets, by name; a suite's prompts are spread evenly over its sets.
        templates, choices, problems (`str`, *optional*):
            Sets of jailbreak templates, multiple-choice questions and word problems.
        direct, overrefusal (`int`):
            Harmful and benign prompts.
        jailbreak (`tuple[int, int]`):
            Templates, and prompts of each kind that each is put around.
        noise (`int`):
            Prompts of each kind that are corrupted.
        corruptions (`tuple[str, ...]`), severities (`tuple[float, ...]`), seeds (`int`):
            Each prompt is corrupted in every way, at every severity, `seeds` times. More prompts narrow an interval more
            than more seeds: the draws of one prompt are nearly one observation.
        responses (`tuple[int, int]`):
            Prompts that agreement with the teacher is measured on, half of each kind, clean and once corrupted; and the most
            tokens of each of the teacher's answers.
        questions, word_problems, passages (`int`):
            Multiple-choice questions, word problems and passages of plain text.
        new_tokens, problem_tokens (`int`):
            Most tokens of an answer, and of a worked solution.
    """

    harmful_sets: tuple[str, ...]
    benign_sets: tuple[str, ...]
    templates: str
    choices: str
    problems: str | None
    direct: int
    jailbreak: tuple[int, int]
    overrefusal: int
    noise: int
    corruptions: tuple[str, ...]
    severities: tuple[float, ...]
    seeds: int
    responses: tuple[int, int]
    questions: int
    word_problems: int
    passages: int
    new_tokens: int
    problem_tokens: int


TIERS = {
    # Checks the machinery on the project's own prompts; never quoted as a result.
    "smoke": Tier(
        harmful_sets=("starter-harmful",),
        benign_sets=("starter-lookalike",),
        templates="starter",
        choices="starter",
        problems=None,
        direct=16,
        jailbreak=(4, 2),
        overrefusal=16,
        noise=8,
        corruptions=("typos", "word_swap"),
        severities=(0.2,),
        seeds=1,
        responses=(8, 32),
        questions=16,
        word_problems=0,
        passages=8,
        new_tokens=16,
        problem_tokens=16,
    ),
    "cpu": Tier(
        harmful_sets=("harmbench", "strongreject-small"),
        benign_sets=("rho-overrefusal",),
        templates="dan",
        choices="mmlu-dev",
        problems=None,
        direct=60,
        jailbreak=(8, 20),
        overrefusal=60,
        noise=40,
        # One of each kind: letters, order of words, words added.
        corruptions=("typos", "word_swap", "distractor"),
        severities=(0.1, 0.3),
        seeds=1,
        responses=(64, 64),
        questions=100,
        word_problems=0,
        passages=48,
        new_tokens=64,
        problem_tokens=64,
    ),
    "gpu": Tier(
        harmful_sets=("harmbench", "strongreject"),
        benign_sets=("rho-overrefusal", "xstest-safe", "or-bench-hard"),
        templates="dan",
        choices="mmlu-dev",
        problems="gsm8k",
        direct=472,
        jailbreak=(14, 60),
        overrefusal=600,
        noise=200,
        corruptions=("typos", "casing", "homoglyphs", "whitespace", "word_dropout", "word_swap", "distractor"),
        severities=(0.1, 0.3),
        seeds=1,
        responses=(400, 256),
        questions=281,
        word_problems=100,
        passages=48,
        new_tokens=512,
        problem_tokens=512,
    ),
}
