# SPDX-License-Identifier: Apache-2.0
"""How a prompt is put to a model: whose tokenizer and template, where the system prompt goes, and where an answer begins."""

import hashlib
import json
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .adapters import require_embedded
from .models import EvaluatedModel, public_name, source_file
from .reasoning import Reasoning, answer_lead, find_reasoning, find_switch, is_opened, render
from .store import file_digest
from .template_text import inserted_text

THINKING_TOKENS = 1024
_SYSTEM, _USER = "hfcktsystem", "hfcktuser"
SYSTEM_FALLBACKS = ("refuse", "user")


@dataclass(frozen=True)
class ChatFormat:
    """
    A tokenizer with its chat template, and what is decided about both.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            With a chat template; left as it is.
        system_prompt (`str`, *optional*):
            Put before each prompt.
        system_fallback (`str`, *optional*, defaults to `"refuse"`):
            What is done with it where the template has no system role: `"refuse"`, or `"user"`, which puts it in front
            of the user's text.
        thinking_tokens (`int`, *optional*, defaults to `1024`):
            Most tokens of a thought before an answer, of a model that thinks. 0: no thought; the template's own switch
            is set where it has one, and else the thought is closed where it would begin.
        source (`str`, *optional*):
            Public name of where tokenizer and template come from, for results.
        template_source (`str`, *optional*):
            The same of the template, where it comes from elsewhere.

    Raises:
        ValueError: If there is no template, one that does not write what a user says, or one without a system role for a
            system prompt that may not go elsewhere.
    """

    tokenizer: Any
    system_prompt: str | None = None
    system_fallback: str = "refuse"
    thinking_tokens: int = THINKING_TOKENS
    source: str | None = None
    template_source: str | None = None

    def __post_init__(self) -> None:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self._name!r} has no chat template, so it is unknown how a user speaks to it. Evaluate "
                "an instruct model, or add a chat_template to the tokenizer."
            )
        if _USER not in (render(self.tokenizer, [{"role": "user", "content": _USER}]) or ""):
            raise ValueError(
                f"the chat template of {self._name!r} fails or leaves out what a user says as a text, so all prompts would be "
                "asked alike. Evaluate with a tokenizer whose template writes it."
            )
        if self.system_prompt is not None and self.system_fallback == "refuse" and not self.has_system_role:
            raise ValueError(
                f"--system-prompt: the chat template of {self._name!r} has no system role, so it would be left out, or "
                "nothing could be asked. Leave it out, or put it in front of the user's text with --system-fallback user."
            )

    @property
    def _name(self) -> str:
        return self.template_source or self.source or public_name(str(self.tokenizer.name_or_path))

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes what a system message says; some raise, and some drop it without a word."""
        said = render(self.tokenizer, [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}])
        return said is not None and _SYSTEM in said and _USER in said

    @cached_property
    def reasoning(self) -> Reasoning:
        """The markers of a thought."""
        return find_reasoning(self.tokenizer)

    @cached_property
    def switch(self) -> dict[str, Any]:
        """Arguments of the template that switch its reasoning off, where it is to be."""
        return find_switch(self.tokenizer) if self.thinking_tokens == 0 else {}

    @cached_property
    def lead(self) -> str:
        """What stands before an answer that has no thought."""
        return answer_lead(self.tokenizer, self.reasoning, **self.switch)

    @cached_property
    def opened(self) -> bool:
        """Whether a prompt ends in an open thought, so that what is generated begins inside it."""
        prompt = render(self.tokenizer, [{"role": "user", "content": _USER}], **self.switch) or ""
        return self.thinking_tokens > 0 and is_opened(prompt, self.reasoning)

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """Returns a prompt as the messages that are sent."""
        return self.placed(chat(prompt, self.system_prompt))

    def placed(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Returns messages with a system message in front of the first text of the user, where there is no such role."""
        system, rest = messages[:1], [dict(message) for message in messages[1:]]
        if not system or system[0]["role"] != "system" or self.has_system_role:
            return [dict(message) for message in messages]
        first = next((message for message in rest if message["role"] == "user"), None)
        if first is not None:
            first["content"] = f"{system[0]['content']}\n\n{first['content']}"
        return rest

    def text(self, messages: Sequence[Mapping[str, Any]], *, answering: bool = False, **options: Any) -> str:
        """Returns messages as they are sent, up to where the model goes on; see [`ids`]."""
        options = {"add_generation_prompt": True, **self.switch, **options}
        lead = self.lead if (answering or self.thinking_tokens == 0) and options["add_generation_prompt"] else ""
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options) + lead

    def ids(self, prompts: Iterable[str], *, answering: bool = False) -> list[list[int]]:
        """
        Returns the tokens of prompts as they are sent.

        Args:
            prompts (`Iterable[str]`):
                What the user says.
            answering (`bool`, *optional*, defaults to `False`):
                Up to where an answer begins, behind any thought, for what is measured on given answers; else up to where
                the model goes on by itself.
        """
        texts = [self.text(self.messages(prompt), answering=answering) for prompt in prompts]
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    @cached_property
    def tokenizer_digest(self) -> str:
        """Of all that decides which ids a text becomes."""
        return tokenizer_digest(self.tokenizer)

    @cached_property
    def inserted_system_prompt(self) -> str | None:
        """What the template says to the model before the user by itself, beside a system prompt that is given."""
        given = self.system_prompt if self.has_system_role else None
        return inserted_text(self.tokenizer, given, **self.switch)

    def facts(self) -> dict[str, Any]:
        """Returns what results files state of it, and what kept answers depend on."""
        template = self.tokenizer.chat_template
        digest = hashlib.sha256(repr(template).encode()).hexdigest()[:16]
        sent_as = "system" if self.has_system_role else "user"
        thinks = self.reasoning.declared
        return {
            "tokenizer": self.source or public_name(str(self.tokenizer.name_or_path)),
            "tokenizer_digest": self.tokenizer_digest,
            "template": self._name,
            "template_digest": digest,
            "system_prompt": self.system_prompt,
            "system_prompt_sent_as": sent_as if self.system_prompt is not None else None,
            # A template may write the date: an answer of another day was then given to another text.
            "inserted_system_prompt": self.inserted_system_prompt,
            "reasoning": [self.reasoning.opens, self.reasoning.closes] if thinks else None,
            "thinking_tokens": self.thinking_tokens,
            "reasoning_switch": self.switch or None,
        }

    def described(self) -> dict[str, Any]:
        """Returns its [`facts`], and under `sent` what is really sent for a prompt, with `{prompt}` in its place."""
        return {**self.facts(), "sent": self.text(self.messages("{prompt}"))}


def add_chat_options(parser: ArgumentParser, *, thinking: bool = True) -> None:
    """Adds the options that say how a prompt is put to the models; `thinking`: that of the length of a thought too."""
    add = parser.add_argument
    add("--system-prompt", metavar="TEXT", help="put before each prompt; default: what the chat template puts there")
    fallback = "where a chat template has no system role: refuse, or put the system prompt in front of the user's text"
    add("--system-fallback", choices=SYSTEM_FALLBACKS, default="refuse", help=f"{fallback}; default: refuse")
    if not thinking:
        return
    thought = (
        "most tokens of a thought before an answer, which the judge does not read; 0: none, by the template's switch"
    )
    add(
        "--thinking-tokens",
        type=int,
        default=THINKING_TOKENS,
        metavar="N",
        help=f"{thought}; default: {THINKING_TOKENS}",
    )


def chat(prompt: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """Returns a prompt as messages."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]


def chat_format(tokenizer: Any, system_prompt: str | None = None) -> ChatFormat:
    """Returns a [`ChatFormat`] as it is, and of a tokenizer the one with these settings."""
    return tokenizer if isinstance(tokenizer, ChatFormat) else ChatFormat(tokenizer, system_prompt)


def chat_formats(
    entries: Iterable[EvaluatedModel],
    *,
    trust_remote_code: bool = False,
    allow_other_base: bool = False,
    **settings: Any,
) -> dict[EvaluatedModel, ChatFormat]:
    """
    Returns how each entry is asked: with the tokenizer and template that were saved with its adapter, or
    else those of its model. A base without a template, whose adapter brings one, is asked in that one's words.

    Args:
        entries (`Iterable[EvaluatedModel]`):
            The models, a teacher among them.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with a tokenizer.
        allow_other_base (`bool`, *optional*, defaults to `False`):
            Whether an adapter's tokenizer may write other words under its base's ids.
        settings:
            Of [`ChatFormat`]: `system_prompt`, `system_fallback`, `thinking_tokens`.

    Raises:
        ValueError: If a model has no template, or an adapter's tokenizer is that of another base.
    """
    loaded = {entry: entry_tokenizer(entry, trust_remote_code) for entry in entries}
    for entry, (tokenizer, source) in loaded.items():
        if entry.adapter is not None and source == entry.adapter and not allow_other_base:
            base = _load(entry.model, trust_remote_code)
            differing = differing_ids(tokenizer, base)
            if differing:
                token = differing[0]
                raise ValueError(
                    f"{public_name(entry.adapter)}: {len(differing)} ids of its tokenizer mean other words to that of "
                    f"{public_name(entry.model)} ({token}: {tokenizer.convert_ids_to_tokens(token)!r} and "
                    f"{base.convert_ids_to_tokens(token)!r}), so it was trained on another base. Give that base as --model, "
                    "or say --allow-other-base."
                )
    formats = {}
    for entry, (tokenizer, source) in loaded.items():
        lender = None
        if tokenizer.chat_template is None and entry.adapter is None:
            lent = [
                (other.adapter, loaded[other][0].chat_template)
                for other in loaded
                if other.adapter is not None and other.model == entry.model and loaded[other][0].chat_template
            ]
            if lent:
                lender, tokenizer.chat_template = public_name(str(lent[0][0])), lent[0][1]
        formats[entry] = ChatFormat(tokenizer, source=public_name(source), template_source=lender, **settings)
    return formats


def entry_tokenizer(entry: EvaluatedModel, trust_remote_code: bool = False) -> tuple[Any, str]:
    """
    Returns the tokenizer of an entry, and the folder or id that it comes from: the adapter's own where one was saved with
    it. One of them without a template takes the base's, and a template that lies alone beside an adapter goes with the
    base's tokenizer.
    """
    if entry.adapter is None:
        return _load(entry.model, trust_remote_code), entry.model
    if source_file(entry.adapter, "tokenizer_config.json") is not None:
        tokenizer = _load(entry.adapter, trust_remote_code)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _load(entry.model, trust_remote_code).chat_template
        return tokenizer, entry.adapter
    tokenizer = _load(entry.model, trust_remote_code)
    template = source_file(entry.adapter, "chat_template.jinja")
    if template is None:
        return tokenizer, entry.model
    tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    return tokenizer, entry.adapter


def require_tokens(model: Any, entry: EvaluatedModel, tokenizer: Any, trust_remote_code: bool = False) -> None:
    """Raises ValueError where an entry's model has no embedding for a token that its adapter's tokenizer adds."""
    if entry.adapter is None:
        return
    added = set(tokenizer.get_vocab().values()) - set(_load(entry.model, trust_remote_code).get_vocab().values())
    require_embedded(model, added, public_name(entry.adapter))


def tokenizer_digest(tokenizer: Any) -> str:
    """Returns a digest of all that decides which ids a text becomes; where padding and cutting are set is left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts: dict[str, Any] = json.loads(backend.to_str())
        parts |= dict.fromkeys(("padding", "truncation"))  # set by whoever called it last
    else:
        files = (getattr(tokenizer, name, None) for name in sorted(tokenizer.vocab_files_names))
        named = [Path(str(file)) for file in files if file and Path(str(file)).is_file()]
        parts = {"vocabulary": tokenizer.get_vocab(), "files": [file_digest(file) for file in named]}
    parts["special_tokens"] = tokenizer.special_tokens_map
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_ids(first: Any, second: Any) -> list[int]:
    """Returns the ids that two tokenizers both know and that mean different words to them."""
    words, others = ({number: word for word, number in one.get_vocab().items()} for one in (first, second))
    return sorted(number for number in words.keys() & others.keys() if words[number] != others[number])


def _load(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
