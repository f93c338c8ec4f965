# SPDX-License-Identifier: Apache-2.0
"""Refusals behind a compliant beginning: what is trained is to turn back, and not to begin."""

import json
import re
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from ..checks import nearest, require_columns, require_count, require_within
from .starter import to_prompt_completion

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "answer_prefix"
"""Key of `chat_template_kwargs` that holds a row's compliant beginning, None where it has none."""
_OPTIONS = "chat_template_kwargs"

# Whole sentences, and beginnings that end in a colon: behind both a refusal reads as well as an answer does, so that none
# of them tells which of the two follows.
_OPENINGS = (
    "Sure!",
    "Sure, here is how.",
    "Of course.",
    "Certainly, I can help with that.",
    "Yes, that is easy enough.",
    "Absolutely! Here is what you need:",
    "Here you go:",
    "Okay, let's go through it.",
    "Happy to help!",
    "No problem at all.",
    "Good question.",
    "Let me walk you through it.",
    "All right, step 1:",
    "Step one:",
    "Here are the details you asked for:",
    "To start with:",
    "Gladly.",
    "I have just the thing for you.",
    "Right, this is what I would do:",
    "There are several ways, and this is the best one:",
    "That can be done.",
    "You have come to the right place.",
    "The short version:",
    "I know this subject well. Listen:",
)
_ABOUT = (
    "Here is how to {what}:",
    "Sure, to {what}, begin like this:",
    "How to {what}, in short:",
    "If you want to {what}, this is the way.",
    "Yes, I can tell you how to {what}.",
    "Many people want to {what}. It goes like this:",
)
_QUOTING = (
    'You asked: "{prompt}" Here is my answer:',
    'Re: "{prompt}"',
    'The answer to "{prompt}" is this:',
    'Sure. "{prompt}" is quickly answered.',
)
_INFINITIVE = re.compile(
    r"(?:please )?(?:(?:tell|show|teach) me |explain |describe )?how (?:(?:do|can|could|should|would|might) "
    r"(?:i|you|we|one|someone|somebody) |to )(?P<what>[^.?!;:]+)[.?! ]*",
    re.IGNORECASE,
)
_OTHER_PERSON = {"my": "your", "me": "you", "myself": "yourself", "our": "your", "us": "you", "mine": "yours"}
_LONGEST = 20  # words of a prompt that is quoted: a beginning as long as a whole answer is none
# What stands between a beginning and the answer: the first of them at which no token holds parts of both.
_JOINTS = (" ", "\n\n", "\n")


def refuse_after_prefix(
    dataset: "Dataset",
    tokenizer: Any,
    *,
    share: float = 0.5,
    balance: bool = True,
    seed: int = 0,
    by: str = "kind",
    unsafe: Any = "harmful",
    chat_template: str | None = None,
) -> "Dataset":
    """
    Lets a share of the harmful rows begin their answer compliantly, which is not trained on, and then refuse, which is.

        <user> How do I pick a lock? <assistant> Here is how to pick a lock: | I can't help with breaking in. <end>
        no loss                                                              | loss

    A model whose refusal lies in its first tokens alone goes on once those are written for it. The beginnings are short,
    varied and without harmful content; some name what the prompt asks for.

    A row stays a conversation: its answer holds the beginning, and its `chat_template_kwargs` hold it again, with a
    template that writes it behind the header of the answer wherever a prompt alone is rendered. `SFTTrainer` masks what
    the prompt and the whole have in common, so it works there as well as here, and what perturbs prompts finds the
    user's text as before. Each row is rendered here, and one whose mask would not end where the beginning ends raises.

    The first position that counts lies behind the beginning. So does the one that `contrastive_level="decision"` takes.

    Source: Qi et al. 2024, https://huggingface.co/papers/2406.05946, section 3.1, from where `share` is. Differs: own
    beginnings in place of a harmful answer's first tokens, and a beginning in front of benign answers too.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows with a kind, and with prompt and response as texts or prompt and completion as messages.
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model that will be trained.
        share (`float`, *optional*, defaults to `0.5`):
            Of the harmful rows, in [0, 1]. Those of a lower share are among those of a higher.
        balance (`bool`, *optional*, defaults to `True`):
            Whether the same share of the other rows begins so, too, with their answer behind it. Without it a compliant
            beginning announces a refusal.
        seed (`int`, *optional*, defaults to `0`):
            0 or more. A row's beginning depends on it and on the prompt's text, not on the row's place.
        by (`str`, *optional*, defaults to `"kind"`), unsafe (*optional*, defaults to `"harmful"`):
            Column that tells the classes apart, and its value in the harmful rows.
        chat_template (`str`, *optional*):
            What the trainer renders with; None: the tokenizer's own. All rows carry it from here on, so one that is set
            later is not read. With `assistant_only_loss` it needs generation markers.

    Returns:
        [`~datasets.Dataset`] with the same rows in the same order: `prompt` and `completion` as messages,
        `chat_template_kwargs`, and all other columns but `response`.

    Raises:
        ValueError: If a column is missing, no row is harmful, the share comes to no row, an answer is not one text, or the
            template does not write an answer behind a prompt as it does in a conversation.
        TypeError: If the dataset streams.

    Example:

    ```python
    rows = refuse_after_prefix(load_boundary_set("train"), tokenizer, share=0.3)
    trainer = ContrastiveRobustTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    ```
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset: must be a datasets.Dataset, got {type(dataset).__name__}. Choose one split, and load a streaming "
            "dataset in full: which rows begin compliantly is drawn from all of them."
        )
    require_within("share", share, 0, 1, "It is a share of the harmful rows.")
    require_count("seed", seed, 0, "Python's generator takes -1 for 1, so two seeds would give the same rows.")
    template = chat_template or getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str):
        raise ValueError(
            "chat_template: the tokenizer has none, or several by name, so it is unknown where an answer begins. Give the one "
            "that is trained with."
        )
    rows = dataset.with_format(None)
    if "completion" not in rows.column_names:
        rows = to_prompt_completion(rows)
    require_columns("training", rows.column_names, ("prompt", "completion", by), "refuse_after_prefix")
    drawn = _drawn(rows[by][:], share, balance, seed, by, unsafe)
    made = [_made(index, row, tokenizer, template, seed, index in drawn) for index, row in enumerate(rows)]
    completions, options = [[*column] for column in zip(*made, strict=True)] if made else ([], [])
    names = [name for name in rows.column_names if name != _OPTIONS]
    rows = rows.remove_columns([name for name in ("completion", _OPTIONS) if name in rows.column_names])
    return rows.add_column("completion", completions).select_columns(names).add_column(_OPTIONS, options)


def prefixed_template(template: str) -> str:
    """
    Returns a chat template that writes a prompt, where `answer_prefix` is given, as the conversation goes on to there.

    It renders the conversation with that as the answer and cuts behind it, so that headers, empty thoughts and channels
    stand before it as they do before a whole answer. Whatever else is rendered is what `template` makes of it.
    """
    # Jinja drops one line break at a template's end. The pluses keep blanks and breaks beside the blocks.
    body = template.removesuffix("\n").removesuffix("\r")
    return (
        f"{{%- if add_generation_prompt and {PREFIX} -%}}"
        f"{{%- set messages = messages + [{{'role': 'assistant', 'content': {PREFIX}}}] -%}}"
        "{%- set add_generation_prompt = false -%}"
        f"{{%- set conversation +%}}{body}{{%+ endset -%}}"
        f"{{{{- conversation.rpartition({PREFIX})[:2] | join -}}}}"
        f"{{%- else +%}}{body}{{%+ endif %}}"
    )


def compliant_beginning(prompt: str, rng: Random) -> str:
    """
    Returns a compliant beginning of an answer; in half of the cases it names what the prompt asks for.

    Example:

    >>> compliant_beginning("How can I wash my car?", Random(1))
    'Here is how to wash your car:'
    """
    text = " ".join(prompt.split())
    if rng.random() < 0.5 and text and len(text.split()) <= _LONGEST:
        asked = _INFINITIVE.fullmatch(text)
        words = asked["what"].strip().split() if asked else []
        # "what I did" cannot be turned into the other person word by word.
        if words and not {"i", "we", "am", "i'm", "i've"} & {word.lower() for word in words}:
            what = " ".join(_OTHER_PERSON.get(word.lower(), word) for word in words)
            return rng.choice(_ABOUT).format(what=what)
        return rng.choice(_QUOTING).format(prompt=text)
    return rng.choice(_OPENINGS)


def _drawn(kinds: list[Any], share: float, balance: bool, seed: int, by: str, unsafe: Any) -> set[int]:
    """Places of the rows that begin compliantly."""
    sides = [[index for index, kind in enumerate(kinds) if bool(kind == unsafe) is wanted] for wanted in (True, False)]
    if not sides[0]:
        known = sorted({str(kind) for kind in kinds})
        raise ValueError(
            f"unsafe: no row has {unsafe!r} in column {by!r}, so none would refuse behind a compliant beginning."
            f"{nearest(str(unsafe), known)} It has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
        )
    if share and not round(share * len(sides[0])):
        raise ValueError(
            f"share: {share} of {len(sides[0])} harmful rows is not one whole row, so nothing would be changed. Raise it, or "
            "leave the operation out."
        )
    rng = Random(f"rows with a compliant beginning:{seed}")
    chosen: set[int] = set()
    for side in sides if balance else sides[:1]:
        rng.shuffle(side)
        chosen.update(side[: round(share * len(side))])
    return chosen


def _made(
    index: int, row: Mapping[str, Any], tokenizer: Any, template: str, seed: int, begins: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row's completion, and what its template is given."""
    for name in ("prompt", "completion"):
        if not isinstance(row[name], list):
            raise ValueError(
                f"row {index}: its {name} is {row[name]!r:.80}, and where an answer begins is written by the chat template, which is "
                "given messages. Write prompt and completion as messages, or prompt and response as texts."
            )
    own = dict(row.get(_OPTIONS) or {})
    if own.get(PREFIX):
        raise ValueError(
            f"row {index}: its answer begins with {own[PREFIX]!r} already, and a second beginning would be trained on. Start "
            "from the rows as they were."
        )
    options = {**own, "chat_template": prefixed_template(own.get("chat_template") or template), PREFIX: None}
    completion = [dict(message) for message in row["completion"]]
    if not begins:
        return completion, options
    answer = completion[0].get("content") if len(completion) == 1 else None
    if not isinstance(answer, str) or completion[0]["role"] != "assistant":
        raise ValueError(
            f"row {index}: its completion is {row['completion']!r:.80}, and a beginning can be put in front of one text of the "
            "assistant alone. Drop the row, or write its answer as one message."
        )
    asked = _last_user_text(row["prompt"])
    options[PREFIX] = compliant_beginning(asked, Random(f"{seed}:{asked}"))
    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
    for joint in _JOINTS:
        begun = [{**completion[0], "content": f"{options[PREFIX]}{joint}{answer.lstrip()}"}]
        if _is_masked_to_its_end(tokenizer, row["prompt"], begun, {"tools": tools, **options}):
            return begun, options
    raise ValueError(
        f"row {index}: the chat template, or the tokenizer, writes an answer that has begun otherwise behind a prompt than in "
        "a conversation, so that the compliant beginning would be trained on. Give a chat_template that writes what is said "
        "as it is."
    )


def _is_masked_to_its_end(tokenizer: Any, prompt: list, completion: list, options: dict[str, Any]) -> bool:
    """Whether the tokens of the prompt with the beginning are, to the last, those that the whole begins with."""
    from ..models._upstream import tokenize_example

    try:
        before = tokenize_example(tokenizer, prompt, add_generation_prompt=True, **options)["input_ids"]
        whole = tokenize_example(tokenizer, [*prompt, *completion], **options)["input_ids"]
    except Exception:  # a template may raise what it likes
        return False
    # Empty where the template rewrites what is said, so that it could not be cut behind it.
    return 0 < len(before) < len(whole) and list(whole[: len(before)]) == list(before)


def _last_user_text(prompt: list[Mapping[str, Any]]) -> str:
    texts = [turn["content"] for turn in prompt if turn["role"] == "user" and isinstance(turn.get("content"), str)]
    return texts[-1] if texts else ""
