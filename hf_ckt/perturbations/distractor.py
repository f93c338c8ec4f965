# SPDX-License-Identifier: Apache-2.0
"""A sentence that has nothing to do with the question."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count, split_words

# By number of words, so that what is added is as long as asked. Harmless, and no question or instruction: the answer to
# the prompt stays the same.
_SENTENCES: dict[int, tuple[str, ...]] = {
    1: ("Hello.", "Thanks.", "Hi."),
    2: ("Good morning.", "Many thanks.", "Hello there."),
    3: ("Thank you kindly.", "Greetings to all.", "It is Tuesday."),
    4: ("The train was late.", "Our cat is asleep.", "Rain is expected tonight."),
    5: ("My tea has gone cold.", "The museum closes at six.", "Somebody is practising the piano."),
    6: ("The neighbours have painted their fence.", "We had soup for lunch today.", "A red bicycle leans against it."),
    7: ("Most of the leaves have fallen already.", "Yesterday the choir sang in the park."),
    8: ("The ferry leaves from the second pier today.", "There are eleven chairs in the waiting room."),
    9: ("The old clock on the wall stopped last winter.", "A pair of gloves was left on the bench."),
    10: (
        "The bakery around the corner has changed its opening hours.",
        "All of the windows on the second floor are open.",
    ),
}
_LONGEST = max(_SENTENCES)


@dataclass(eq=False)
class DistractorPerturbation(TextPerturbation):
    """
    Puts irrelevant sentences before or after the text.

    Source: Jia and Liang 2017, https://huggingface.co/papers/1707.07328, and Shi et al. 2023,
    https://huggingface.co/papers/2302.00093. Differs: statements without any relation to the text.
    Related: [`WordDropoutPerturbation`] takes context away instead.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Number of added words as a share of the text's own, in [0, 1].

    Example:

    >>> DistractorPerturbation(severity=0.8).apply("How do I bake bread?", Random(0))
    'Our cat is asleep. How do I bake bread?'
    """

    unit: ClassVar[str] = "words"

    def apply(self, text: str, rng: Random) -> str:
        missing = draw_count(self.severity, len(split_words(text)[0]), rng)
        sentences = []
        while missing:
            count = missing if missing <= _LONGEST else rng.randint(_LONGEST // 2, _LONGEST)
            sentences.append(rng.choice(_SENTENCES[count]))
            missing -= count
        if not sentences:
            return text
        added = " ".join(sentences)
        if rng.random() < 0.5:
            body = text.lstrip()
            return f"{text[: len(text) - len(body)]}{added} {body}"
        body = text.rstrip()
        return f"{body} {added}{text[len(body) :]}"
