# SPDX-License-Identifier: Apache-2.0
"""Answers of a chat model, greedy ones by default, and the thoughts before them."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ...progress.bars import ProgressBar
from .chat_format import ChatFormat, chat_format
from .generation import decoding, generating
from .shared_prefix import forward_arguments, prefix_groups, read_prefix, shared_length

if TYPE_CHECKING:
    import torch

# Prompts that are generated for at a time, and their tokens with padding and answers: long prompts make small batches.
_BATCH = 64
_BATCH_TOKENS = 24_576


class Answer(NamedTuple):
    """
    What a model wrote.

    Args:
        text (`str`):
            The answer.
        reasoning (`str`, *optional*):
            The thought before it; None where there was none.
    """

    text: str
    reasoning: str | None = None


class Written(NamedTuple):
    """
    What a model wrote behind one row.

    Args:
        ids (`list[int]`):
            Tokens, without padding and without the one that ended it.
        ended (`bool`):
            Whether it ended of itself.
    """

    ids: list[int]
    ended: bool


# `write(rows, answer_tokens, thinking_tokens)`: goes on behind rows of ids, for so many tokens; where the last is not None,
# a row that thinks goes on for that many instead, and stops where its thought ends.
Write: TypeAlias = Callable[[list[list[int]], int, int | None], list[Written]]


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    new_tokens: int = 24,
    keep_generation_config: bool = False,
    title: str = "answering",
) -> list[str]:
    """
    Answers prompts by greedy decoding, so that the same model gives the same answers again: the token of highest logit
    each time, whatever penalties, beams or sampling the model's own generation configuration asks for.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode, training or not, that it is in.
        tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template; left as it is.
        prompts (`Sequence[str]`):
            What the user says.
        system_prompt (`str`, *optional*):
            Put before each prompt; a [`ChatFormat`] has its own.
        new_tokens (`int`, *optional*, defaults to `24`):
            Most tokens of an answer; a thought before it has a limit of its own, that of the [`ChatFormat`].
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Answers as the model's own generation configuration says instead, with an adapter that of its base; what it samples is
            drawn with a fixed seed.
        title (`str`, *optional*, defaults to `"answering"`):
            Name of the progress bar.

    Returns:
        `list[str]`: the answers without their thoughts, in the order of the prompts.
    """
    asked = chat_format(tokenizer, system_prompt)
    answers: dict[str, Answer] = {}
    options: dict[str, Any] = {"new_tokens": new_tokens, "keep_generation_config": keep_generation_config}
    for batch, _ in ProgressBar(plan_batches(asked, prompts, new_tokens=new_tokens), desc=title, unit="batch"):
        answers |= zip(batch, answer_batch(model, asked, batch, **options), strict=True)
    return [answers[prompt].text for prompt in prompts]


def plan_batches(
    tokenizer: Any, prompts: Iterable[str], *, system_prompt: str | None = None, new_tokens: int
) -> list[tuple[list[str], int]]:
    """
    Groups prompts that begin alike, and those of like length, each once. The groups depend on the prompts alone, not on
    their order nor on what has been answered already: in another group a prompt has other padding, and rounding may turn a
    greedy answer.

    Returns:
        `list[tuple[list[str], int]]`: the prompts of each batch, and the tokens that are read and written, what its prompts
        share counted once.
    """
    asked = chat_format(tokenizer, system_prompt)
    unique = sorted(set(prompts))
    room = new_tokens + (asked.thinking_tokens if asked.reasoning.declared else 0)
    ids = asked.ids(unique)
    batches: list[list[int]] = []
    last = None
    for group, length, number in sorted(zip(prefix_groups(ids), map(len, ids), range(len(ids)), strict=True)):
        full = batches and (len(batches[-1]) == _BATCH or (len(batches[-1]) + 1) * (length + room) > _BATCH_TOKENS)
        if full or group != last:
            batches.append([])
        batches[-1].append(number)
        last = group
    found = []
    for batch in batches:
        rows = [ids[number] for number in batch]
        shared = shared_length(rows)
        size = shared + len(rows) * (max(map(len, rows)) - shared + room)
        found.append(([unique[number] for number in batch], size))
    return found


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    new_tokens: int,
    keep_generation_config: bool = False,
    beside: Any = None,
) -> list[Answer]:
    """
    Answers one batch of prompts; see [`greedy_answers`], and [`decoding`] for `beside`. What is drawn at random depends on the
    batch alone.
    """
    import torch

    from ...models.backbone import frozen

    asked = chat_format(tokenizer, system_prompt)
    config = decoding(model.generation_config, asked.tokenizer, beside, keep_own=keep_generation_config)
    devices = [model.device] if model.device.type == "cuda" else []
    with frozen(model), generating(model, config), torch.random.fork_rng(devices):
        if config.do_sample:
            torch.manual_seed(0)
        return answers_by(_writer(model, asked, config, share=not keep_generation_config), asked, prompts, new_tokens)


def answers_by(write: Write, asked: ChatFormat, prompts: Sequence[str], new_tokens: int) -> list[Answer]:
    """
    Returns answers with their thoughts, whichever engine writes.

    A thought has `asked.thinking_tokens`. One that is longer is closed as the template would close it, so that there is an
    answer to judge; a model that ends inside its thought has given none.

    Args:
        write (`Callable`):
            Goes on behind rows of ids.
        asked ([`ChatFormat`]):
            How the prompts are put.
        prompts (`Sequence[str]`):
            What the user says.
        new_tokens (`int`):
            Most tokens of an answer.
    """
    tokenizer, reasoning = asked.tokenizer, asked.reasoning
    rows = asked.ids(prompts)
    told = write(rows, new_tokens, asked.thinking_tokens)
    answers: dict[int, Answer] = {}
    going_on: dict[int, tuple[list[int], str, str]] = {}  # row -> what has been said, thought, and the answer so far
    for row, (ids, ended) in enumerate(told):
        if not thinks(asked, ids):
            begun = _behind(tokenizer, ids, asked.lead.strip()) if asked.lead.strip() else None
            kept, said = (ids[begun[0] :], begun[1]) if begun is not None and begun[2] == "" else (ids, "")
            answers[row] = _answer(said + tokenizer.decode(kept[:new_tokens], skip_special_tokens=True), asked)
            continue
        closed = _behind(tokenizer, ids, reasoning.closes)
        thought = tokenizer.decode(ids[: asked.thinking_tokens]) if closed is None else closed[2]
        thought = thought.strip().removeprefix(reasoning.opens).strip()
        if closed is not None:
            going_on[row] = (ids[: closed[0]], thought, closed[1])
        elif ended and len(ids) < asked.thinking_tokens:
            answers[row] = Answer("", thought)
        else:
            ids = ids[: asked.thinking_tokens]  # behind them a row that has stopped is padded
            closing = tokenizer(reasoning.closing, add_special_tokens=False)["input_ids"]
            going_on[row] = ([*ids, *closing], thought, "")
    if going_on:
        behind = write([rows[row] + going_on[row][0] for row in going_on], new_tokens, None)
        for (row, (_, thought, begun_text)), (ids, _) in zip(going_on.items(), behind, strict=True):
            found = _answer(begun_text + tokenizer.decode(ids, skip_special_tokens=True), asked)
            more = [thought] if found.reasoning is None else [thought, found.reasoning]
            answers[row] = Answer(found.text, "\n".join(more))
    return [answers[row] for row in range(len(rows))]


def thinks(asked: ChatFormat, ids: Sequence[int]) -> bool:
    """Tells whether what is written behind a prompt is a thought, from its first tokens."""
    if asked.opened:
        return True
    window = len(asked.reasoning.opens) + 4  # a token is a letter or more, and there may be space before
    return asked.tokenizer.decode(list(ids[:window])).lstrip().startswith(asked.reasoning.opens)


def _answer(text: str, asked: ChatFormat) -> Answer:
    reasoning, rest = asked.reasoning.split(text)
    return Answer(rest, reasoning)


def _behind(tokenizer: Any, ids: list[int], mark: str) -> tuple[int, str, str] | None:
    """How many tokens reach past the end of a mark, the rest of the last one's text, and the text before the mark."""
    if mark not in tokenizer.decode(ids):
        return None
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if mark in tokenizer.decode(ids[:middle]) else (middle + 1, high)
    before, _, rest = tokenizer.decode(ids[:low]).partition(mark)
    return low, rest, before


def _writer(model: Any, asked: ChatFormat, config: Any, *, share: bool) -> Write:
    """Goes on by transformers' `generate`, which knows `config` alone; `share`: what rows begin with is read once."""
    import torch
    from transformers import StoppingCriteriaList

    from ...models._upstream import cache_argument
    from ...models.positions import learned_positions, require_room

    def write(rows: list[list[int]], answer_tokens: int, thinking_tokens: int | None) -> list[Written]:
        inputs = padded(asked.tokenizer, rows).to(model.device)
        shared = shared_length(rows) if share else 0
        with torch.no_grad():
            cache = read_prefix(model, rows[0][:shared], [*map(len, rows)]) if shared else None
        if cache is not None:
            inputs[cache_argument(forward_arguments(model))] = cache
        start = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"tokenizer": asked.tokenizer} if config.stop_strings else {}
        most = answer_tokens
        if thinking_tokens is not None:
            most = max(answer_tokens, thinking_tokens)
            stop = _ends_of_thoughts(asked, start, answer_tokens, thinking_tokens)
            options["stopping_criteria"] = StoppingCriteriaList([stop])
        require_room(model, start + answer_tokens)
        positions = learned_positions(model)
        if positions is not None:
            most = min(most, positions - start)  # a thought has what is left
        model.generation_config.max_new_tokens = most
        output = model.generate(**inputs, **options)
        return [written(row, config.eos_token_id or ()) for row in output[:, start:].tolist()]

    return write


def _ends_of_thoughts(asked: ChatFormat, start: int, answer_tokens: int, thinking_tokens: int) -> Any:
    """The rule by which a row stops: at the end of its thought or of the room for it, and without one as an answer does."""
    import torch
    from transformers import StoppingCriteria

    closes = asked.reasoning.closes
    first, last = len(asked.reasoning.opens) + 4, len(closes) + 4
    known = lru_cache(maxsize=None)(lambda ids: thinks(asked, ids))

    class EndsOfThoughts(StoppingCriteria):
        def __call__(self, input_ids: "torch.Tensor", scores: Any, **kwargs: Any) -> "torch.Tensor":
            written = input_ids.shape[1] - start
            heads = input_ids[:, start : start + first].tolist()
            tails = input_ids[:, max(start, input_ids.shape[1] - last) :].tolist()
            stops = []
            for head, tail in zip(heads, tails, strict=True):
                if known(tuple(head)):
                    stops.append(written >= thinking_tokens or closes in asked.tokenizer.decode(tail))
                else:
                    stops.append(written >= answer_tokens)
            return torch.tensor(stops, device=input_ids.device)

    return EndsOfThoughts()


def written(ids: list[int], ends: Sequence[int]) -> Written:
    """Tokens before the first one that ends an answer: not every end token is one that decoding skips."""
    place = next((place for place, token in enumerate(ids) if token in ends), None)
    return Written(ids if place is None else ids[:place], place is not None)


def left_padded(tokenizer: Any, prompts: Sequence[str], system_prompt: str | None = None) -> Any:
    """Returns rendered prompts as a batch of tensors that all end in the last column, where an answer begins."""
    asked = chat_format(tokenizer, system_prompt)
    return padded(asked.tokenizer, asked.ids(prompts, answering=True))


def padded(tokenizer: Any, rows: Sequence[Sequence[int]]) -> Any:
    """Returns rows of ids as a batch of tensors, padded on the left."""
    import torch
    from transformers import BatchEncoding

    width, fill = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return BatchEncoding({"input_ids": ids, "attention_mask": mask})
