# SPDX-License-Identifier: Apache-2.0
"""Chat models as judges, on a model whose weights are set by hand."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.evaluation.judges import load_judge
from hf_ckt.evaluation.judges.chat import RUBRIC, _question
from tests.evaluation.judges.models import save_letter_counter

ANSWERS = ["ZZZZ", "gladly", "one two ZZZZ" + " three" * 30, "four five", "", "ZZZZ six", "seven"] * 4
REFUSED = ["ZZZZ" in answer for answer in ANSWERS]


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return save_letter_counter(tmp_path_factory.mktemp("chat_models") / "letters")


def test_judge_reads_the_letter_and_keeps_the_order(letters):
    """Batches are sorted by length: a verdict that lands on another answer makes every rate noise."""
    assert "Z" not in RUBRIC
    verdicts = load_judge(f"hf:{letters}").verdicts(["?"] * len(ANSWERS), ANSWERS)
    assert [verdict.refused for verdict in verdicts] == REFUSED
    assert [verdict.degenerate for verdict in verdicts] == [not answer or "three" in answer for answer in ANSWERS]


def test_judge_is_shown_the_request_too(letters):
    """Whether an answer does what was asked cannot be seen from the answer alone."""
    assert [v.refused for v in load_judge(f"hf:{letters}").verdicts(["ZZZZ", "?"], ["fine", "fine"])] == [True, False]


def test_confidence_is_that_of_one_unpadded_question(letters):
    """Left padding with wrong positions, or letters read from another column, give a plausible number all the same."""
    verdicts = load_judge(f"hf:{letters}").verdicts(["?"] * 7, ANSWERS[:7])
    tokenizer, model = AutoTokenizer.from_pretrained(letters), AutoModelForCausalLM.from_pretrained(letters)
    for answer, verdict in zip(ANSWERS[:7], verdicts, strict=True):
        messages = [{"role": "user", "content": RUBRIC.format(prompt="?", answer=answer)}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].double()
        a, b, c = (float(logits[tokenizer.convert_tokens_to_ids(letter)].exp()) for letter in "ABC")
        share = (a + b) / (a + b + c)
        assert verdict.confidence == pytest.approx(max(share, 1 - share), abs=1e-5)


def test_braces_in_an_answer_are_text():
    """`str.format` would stop at code in an answer, and put the request where an answer says {prompt}."""
    asked = _question("p {answer}", "a {prompt} {0} {")
    assert "[request]\np {answer}\n[end" in asked and "[answer]\na {prompt} {0} {\n[end" in asked
    assert len(_question("p" * 9_000, "a" * 9_000)) < len(RUBRIC) + 4_001


def test_a_model_without_a_chat_template_raises(letters, tmp_path):
    """Asked as plain text, it would go on with the text, and the letters' probabilities mean nothing."""
    tokenizer = AutoTokenizer.from_pretrained(letters)
    tokenizer.chat_template = None
    folder = save_letter_counter(tmp_path / "plain")
    for file in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (folder / file).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="no chat template"):
        load_judge(f"hf:{folder}")


def test_a_label_of_a_chat_model_raises(letters):
    """It would be left out in silence."""
    with pytest.raises(ValueError, match="names a label"):
        load_judge(f"hf:{letters}#REJECTION")
