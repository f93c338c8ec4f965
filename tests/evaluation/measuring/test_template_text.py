# SPDX-License-Identifier: Apache-2.0
"""What a chat template says by itself is found, in the forms that published models use, and marks of turns are not."""

import pytest

from hf_ckt.evaluation.measuring.chat_format import ChatFormat
from tests.tiny_models import CHAT_TEMPLATE, build_tokenizer

_BRIEF = "You are a small assistant.\nAnswer briefly."
_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# As Qwen's and SmolLM2's: a system turn of its own where none is given.
_DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a small assistant.\nAnswer briefly.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _END
)
# As Llama 3's: something in the system turn whether or not one is given.
_ALWAYS = (
    "<|im_start|>system\n\nKnowledge ends in May.\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}<|im_end|>"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}<|im_end|>{% endfor %}" + _END
)
# As Alpaca's: headings that are no tokens, and a sentence before them.
_HEADINGS = (
    "Below is an instruction.\n\n{% for m in messages %}### {{ 'Response' if m.role == 'assistant' else 'Instruction' }}:\n"
    "{{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
# As Llama 2's and Mistral's: marks of turns that are no tokens, and nothing said.
_BRACKETS = (
    "{{ bos_token }}{% set s = '' %}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{{ (s if loop.first else '') + m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_NO_ROLE = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHAT_TEMPLATE


def _inserted(template, system_prompt=None, fallback="refuse"):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    asked = ChatFormat(tokenizer, system_prompt, fallback)
    return asked.facts()["inserted_system_prompt"]


@pytest.mark.parametrize(
    ("template", "alone", "beside"),
    [
        (_DEFAULT, _BRIEF, None),
        (_ALWAYS, "Knowledge ends in May.", "Knowledge ends in May."),
        (_HEADINGS, "Below is an instruction.", "Below is an instruction."),
        (_BRACKETS, None, None),
        (CHAT_TEMPLATE, None, None),
    ],
    ids=["default", "always", "headings", "brackets", "plain"],
)
def test_inserted_text_is_found(template, alone, beside):
    """A report said "no system prompt" while the template put one before every question."""
    assert _inserted(template) == alone
    assert _inserted(template, "Be kind.") == beside


def test_system_prompt_in_the_users_text_is_not_the_templates():
    """What was given, and sent in another place, would stand in a report twice."""
    assert _inserted(_NO_ROLE, "Be kind.", "user") is None


def test_smollm2s_own_system_prompt_is_stated(smollm2_dir):
    """The demo's base is asked under a sentence of its template where no system prompt is given."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    facts = ChatFormat(tokenizer).described()
    assert facts["inserted_system_prompt"] == ("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
    assert facts["inserted_system_prompt"] in facts["sent"] and facts["system_prompt"] is None
    given = ChatFormat(tokenizer, "Be kind.").described()
    assert given["inserted_system_prompt"] is None and "Be kind." in given["sent"] and "SmolLM" not in given["sent"]
