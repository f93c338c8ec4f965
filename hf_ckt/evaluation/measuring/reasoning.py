# SPDX-License-Identifier: Apache-2.0
"""
Where a model's reasoning begins and ends, found from its chat template and tokenizer; a thought is no answer.

A template that knows reasoning says how by writing it: a made-up message with a thought and an answer is rendered, and
what stands before and between the two are the markers. A template that only cuts thoughts out of earlier turns names a
pair of tags. Everything else is taken to write `<think>` and `</think>`, and only if an answer begins with the first.
"""

import re
from dataclasses import dataclass
from typing import Any

_USER, _THOUGHT, _ANSWER = "hfcktquestion", "hfcktthought", "hfcktanswer"
_NAMES = r"[\w:.]*(?:think|thought|reason)[\w:.]*"
# A closing tag, and the opening one that belongs to it.
_TAGS = (
    (rf"</({_NAMES})>", "<{}>"),
    (rf"\[/({_NAMES})\]", "[{}]"),
    (rf"◁/({_NAMES})▷", "◁{}▷"),
    (rf"<\|END_({_NAMES})\|>", "<|START_{}|>"),
    (rf"<\|end_of_({_NAMES})\|>", "<|begin_of_{}|>"),
    (r"<(channel)\|>", "<|{}>"),
)
# Arguments of templates that switch reasoning off, with the value that does.
_SWITCHES: dict[str, Any] = {
    **{"enable_thinking": False, "thinking": False, "reasoning": False, "enable_reasoning": False},
    "thinking_budget": 0,
}


@dataclass(frozen=True)
class Reasoning:
    """
    Markers of a model's reasoning.

    Args:
        opens, closes (`str`):
            Text that a thought begins with, and that ends it.
        closing (`str`):
            What is written to end a thought that has no end of its own: `closes` with the space around it.
        declared (`bool`, *optional*, defaults to `True`):
            Whether template or tokenizer names them; else they are the usual ones.
    """

    opens: str
    closes: str
    closing: str
    declared: bool = True

    def split(self, text: str, opened: bool = False) -> tuple[str | None, str]:
        """
        Returns the thoughts that a text begins with, None where there is none, and what stands behind them.

        Args:
            text (`str`):
                What a model wrote.
            opened (`bool`, *optional*, defaults to `False`):
                Whether the prompt has opened a thought already.

        Example:

        >>> usual = Reasoning("<think>", "</think>", "</think>")
        >>> usual.split("<think>I can't help with that?</think> Sure.")
        ("I can't help with that?", 'Sure.')
        >>> usual.split("hm</think>Sure.", opened=True), usual.split("In HTML, <think> is no tag.")
        (('hm', 'Sure.'), (None, 'In HTML, <think> is no tag.'))
        """
        thoughts, rest = [], text.strip()
        while opened or rest.startswith(self.opens):
            thought, _, rest = rest.removeprefix(self.opens).partition(self.closes)
            thoughts.append(thought.strip())
            opened, rest = False, rest.strip()
        return ("\n".join(thoughts) if thoughts else None), rest


USUAL = Reasoning("<think>", "</think>", "\n</think>\n\n", declared=False)


def without_thought(answer: str) -> str:
    """
    Returns an answer of unknown origin without the thought that it begins with, under the usual markers.

    Example:

    >>> without_thought("<think>Sure?</think> I can't help with that."), without_thought("Sure.")
    ("I can't help with that.", 'Sure.')
    """
    return USUAL.split(answer)[1]


def find_reasoning(tokenizer: Any) -> Reasoning:
    """Returns the markers of a tokenizer's chat template, or the usual ones."""
    return _written_by(tokenizer) or _named_by(tokenizer) or USUAL


def find_switch(tokenizer: Any) -> dict[str, Any]:
    """Returns the template's argument that switches reasoning off; empty where it has none, or reasoning is off."""
    usual = render(tokenizer, [_message(_USER)])
    for name, off in _SWITCHES.items():
        if render(tokenizer, [_message(_USER)], **{name: off}) not in (None, usual):
            return {name: off}
    return {}


def answer_lead(tokenizer: Any, reasoning: Reasoning, **options: Any) -> str:
    """
    Returns what stands between a prompt and an answer without a thought: the empty thought that a template writes, the
    end of one that the prompt opens, or nothing.
    """
    prompt = render(tokenizer, [_message(_USER)], **options) or ""
    whole = render(tokenizer, [_message(_USER), _message(_ANSWER, "assistant")], prompt=False, **options) or ""
    if prompt and whole.startswith(prompt) and _ANSWER in whole:
        lead = whole[len(prompt) : whole.index(_ANSWER)]
        return lead if lead.strip() else ""
    return reasoning.closing if is_opened(prompt, reasoning) else ""


def is_opened(prompt: str, reasoning: Reasoning) -> bool:
    """Tells whether a rendered prompt ends in an open thought."""
    return prompt.rstrip().endswith(reasoning.opens)


def render(tokenizer: Any, messages: list[dict[str, Any]], *, prompt: bool = True, **options: Any) -> str | None:
    """Returns messages as the chat template writes them, as a prompt or as a finished chat; None where it cannot."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **options)
    except Exception:  # a template may raise what it likes, and the question is whether it does
        return None


def _message(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _written_by(tokenizer: Any) -> Reasoning | None:
    """The markers around a thought that the template is given."""
    fields = ("reasoning_content", "thinking", "reasoning")
    blocks = [{"type": "thinking", "thinking": _THOUGHT}, {"type": "text", "text": _ANSWER}]
    answers = [_message(_ANSWER, "assistant", **{name: _THOUGHT}) for name in fields]
    prompt = render(tokenizer, [_message(_USER)])
    for answer in (*answers, _message(blocks, "assistant")):
        whole = render(tokenizer, [_message(_USER), answer], prompt=False)
        found = whole and re.search(rf"{_USER}(?!.*{_USER})(.*){_THOUGHT}(.*?){_ANSWER}", whole, re.DOTALL)
        if not found or prompt is None or _USER not in prompt:
            continue
        before, closing = found.groups()
        if re.search(r"""['"]type['"]""", closing):  # a list of blocks, written as a list: the template knows none
            continue
        header = prompt.rpartition(_USER)[2]
        shared = next((n for n, (a, b) in enumerate(zip(before, header, strict=False)) if a != b), None)
        opens = before[min(len(before), len(header)) if shared is None else shared :].strip()
        if not opens:  # the prompt ends in it
            tags = [tag for tag in re.findall(r"<[^<>]*>|\[[^\[\]]*\]|◁[^◁▷]*▷", header) if tag != closing.strip()]
            opens = tags[-1] if tags else ""
        if opens and closing.strip():
            return Reasoning(opens, closing.strip(), closing)
    return None


def _named_by(tokenizer: Any) -> Reasoning | None:
    """A pair of tags that the template, or else a tokenizer among its tokens, names."""
    template = tokenizer.chat_template
    templates = template.values() if isinstance(template, dict) else [template or ""]
    for text in (*templates, " ".join(token.content for token in tokenizer.added_tokens_decoder.values())):
        for pattern, opening in _TAGS:
            for match in re.finditer(pattern, text, re.IGNORECASE):
                opens = opening.format(match[1])
                if opens in text or opens in " ".join(tokenizer.added_tokens_encoder):
                    return Reasoning(opens, match[0], f"\n{match[0]}\n\n")
    return None
