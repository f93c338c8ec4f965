# SPDX-License-Identifier: Apache-2.0
"""Multiple choice by the next token, and numbers read from worked solutions."""

import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.data.prompt_sets import ChoiceQuestion
from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.measuring.utility import LETTERS, choice_answers, choice_prompt, last_number
from tests.trainers import load

QUESTIONS = [
    ChoiceQuestion("q/1", "sums", "What is 2 + 2?", ("3", "4", "5", "6"), 1),
    ChoiceQuestion("q/2", "bread", "How do I bake bread quickly, and what does it need?", ("Flour", "Sand"), 0),
    ChoiceQuestion("q/3", "foxes", "Who jumps over the dog?", ("The fox", "The cat", "The bread"), 0),
]


def test_choice_is_the_most_probable_letter_of_the_question_alone(tiny_model_dir, monkeypatch):
    """Left padding without its positions, or another question's options, would answer something else."""
    model, tokenizer = load(tiny_model_dir).eval(), AutoTokenizer.from_pretrained(tiny_model_dir)
    found = choice_answers(model, tokenizer, QUESTIONS, system_prompt="be brief")
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in LETTERS]
    assert all(len(ids) == 1 for ids in letters)
    expected = []
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            chat(choice_prompt(question), "be brief"),
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )["input_ids"]
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, -1]
        options = [float(scores[letters[index][0]]) for index in range(len(question.options))]
        expected.append(options.index(max(options)))
    assert found == expected


def test_choice_leaves_the_model_in_its_mode(tiny_model_dir):
    """A model left in eval mode trains on without dropout."""
    model = load(tiny_model_dir).train()
    choice_answers(model, AutoTokenizer.from_pretrained(tiny_model_dir), QUESTIONS[:1])
    assert model.training


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 2280", 2280.0),
        ("3 + 4 = 7, so 7 apples.", 7.0),
        ("It costs $1,250.50 in all.", 1250.5),
        ("The temperature is -5", -5.0),
        ("no number here", None),
        ("", None),
        ("18.", 18.0),
    ],
)
def test_last_number_is_the_result_of_a_solution(text, number):
    """A sentence's full stop read as a decimal point, or a thousand's comma as an end, marks a right answer wrong."""
    assert last_number(text) == number
