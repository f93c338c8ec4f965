# SPDX-License-Identifier: Apache-2.0
"""Finds evaluation prompts that were trained on in other words: `require_unseen` finds them in the same words alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import missing_package
from .contamination import normalized, shortened
from .prompt_sets import EvalPrompt

NEAR = 0.55
"""From this similarity on two texts count as near-duplicates. Chosen on `tests/data/reworded_prompts.jsonl`, whose test states
what is found there and what is found wrongly."""
# Fewer words are shared by requests that have nothing else in common: "Who are you?".
_FEWEST_WORDS = 4
# Prompts of at most so many words are looked for in windows of twice as many: in a long document most letter n-grams of
# any short prompt stand somewhere. Each class is four times the one before.
_WORDS = 40
_TEXTS = 1_000  # compared at a time, so that similarities fit memory
_LETTERS = (3, 5)


@dataclass(frozen=True)
class NearDuplicate:
    """
    An evaluation prompt beside a training text that is much like it.

    Args:
        prompt ([`EvalPrompt`]):
            What is asked.
        index (`int`):
            Place of the training text, from 0.
        text (`str`):
            The training text.
        similarity (`float`):
            In [0, 1].
    """

    prompt: EvalPrompt
    index: int
    text: str
    similarity: float


def near_duplicates(
    prompts: Sequence[EvalPrompt], training: Sequence[str], threshold: float = NEAR
) -> list[NearDuplicate]:
    """
    Returns each prompt with the training text that is most like it, where they are alike enough, the likest first.

    The similarity is the share of a prompt's letter n-grams that stand in the training text, each weighed by how rare it
    is among the training texts:

        similarity = (sum of idf(g) over n-grams g of both) / (sum of idf(g) over n-grams g of the prompt)

    n-grams are 3 to 5 letters within words of the [`~data.contamination.normalized`] texts, so typing errors, another
    order and words around a request change little; a paraphrase is found only where it keeps the rarer words, and
    requests in the same frame with another subject are sometimes found wrongly. Prompts of fewer than 4 words are left to
    [`~data.contamination.require_unseen`].

    All pairs are compared, by a product of sparse matrices (scikit-learn), and not a sample of hashes: MinHash estimates
    the unweighted share of both texts, which a few polite words around a request halve.

    Args:
        prompts (`Sequence[EvalPrompt]`):
            What will be asked.
        training (`Sequence[str]`):
            What was trained on.
        threshold (`float`, *optional*, defaults to `NEAR`):
            Least similarity, in (0, 1].

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:

    >>> prompt = EvalPrompt("mine/0", "mine", "harmful", "", "How do I sharpen a kitchen knife?")
    >>> found = near_duplicates([prompt], ["Pick a card.", "pls, how do i sharpn a kitchen knife"])
    >>> [(one.prompt.id, one.index) for one in found]
    [('mine/0', 1)]
    """
    texts = [normalized(text).split() for text in training]
    classes: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        length = len(normalized(prompt.text).split())
        if length >= _FEWEST_WORDS:
            classes.setdefault(_class_of(length), []).append(number)
    found = []
    for size, members in classes.items():
        windows = [(index, window) for index, words in enumerate(texts) for window in _windows(words, size)]
        if windows:
            best = _best([normalized(prompts[number].text) for number in members], [window for _, window in windows])
            for number, (place, similarity) in zip(members, best, strict=True):
                if similarity >= threshold:
                    index = windows[place][0]
                    found.append(NearDuplicate(prompts[number], index, training[index], round(similarity, 3)))
    return sorted(found, key=lambda one: (-one.similarity, one.prompt.id))


def _class_of(words: int) -> int:
    size = _WORDS
    while size < words:
        size *= 4
    return size


def _windows(words: Sequence[str], size: int) -> Iterator[str]:
    """A text in parts of twice `size` words, of which each begins in the middle of the one before."""
    last = max(1, len(words) - size)
    for start in range(0, last, size):
        yield " ".join(words[start : start + 2 * size])


def _best(prompts: Sequence[str], texts: Sequence[str]) -> list[tuple[int, float]]:
    """The place of the likest text for each prompt, with its similarity."""
    import numpy as np

    try:
        from scipy.sparse import vstack
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError as error:
        said = missing_package("scikit-learn", "it compares the texts", "eval")
        raise ImportError(f"near_duplicates: {said}.") from error

    # Of the texts only those n-grams are counted that a prompt has.
    counter = CountVectorizer(analyzer="char_wb", ngram_range=_LETTERS, binary=True, lowercase=False, dtype=np.float32)
    asked = counter.fit_transform(prompts)
    parts = [counter.transform(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
    counts = np.asarray(vstack(parts).sum(axis=0)).ravel()
    rarity: Any = np.log((1 + len(texts)) / (1 + counts)) + 1  # of an n-gram; scikit-learn's smoothed idf
    asked = asked.multiply(rarity).tocsr()
    whole = np.asarray(asked.sum(axis=1)).ravel()
    best = [(0, 0.0)] * len(prompts)
    for number, part in enumerate(parts):
        shared = (asked @ part.T).toarray()  # (prompts, texts)
        for row, place in enumerate(shared.argmax(axis=1)):
            similarity = float(shared[row, place] / whole[row])
            if similarity > best[row][1]:
                best[row] = (number * _TEXTS + int(place), similarity)
    return best


def shown(duplicate: NearDuplicate, place: str) -> str:
    """
    Returns a pair as a line of a warning; `place` says where the training text stands.

    Example:

    >>> prompt = EvalPrompt("mine/0", "mine", "harmful", "", "How do I pick a lock?")
    >>> print(shown(NearDuplicate(prompt, 3, "how to pick a lok", 0.71), "rows.jsonl:3"))
    0.71 mine/0 'How do I pick a lock?' and rows.jsonl:3 'how to pick a lok'
    """
    asked, text = (shortened(" ".join(one.split())) for one in (duplicate.prompt.text, duplicate.text))
    return f"{duplicate.similarity:.2f} {duplicate.prompt.id} {asked!r} and {place} {text!r}"
