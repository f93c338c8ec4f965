# SPDX-License-Identifier: Apache-2.0
"""
A student and a teacher with different vocabularies whose every probability stands in a table, and what a loss between
them is, counted by name with plain numbers.

The student writes `<s> ab c d ab </s>`, the teacher `[B] a b cd a b [E]`.
"""

import itertools
import math

import torch

from hf_ckt.kernels.signals import TeacherSignal
from hf_ckt.models.batch import Batch
from hf_ckt.models.foreign_tokenizer import ForeignTokenizer
from hf_ckt.teachers.base import Teacher
from hf_ckt.teachers.cross_tokenizer import CrossTokenizerTeacher
from hf_ckt.views import LinearHead
from tests.losses.loops import kl, softmax
from tests.models.two_tokenizers import letters

OWN, FOREIGN = letters(["ab"], "<s>", "</s>"), letters(["cd"], "[B]", "[E]", first=True)
TEXT = "<s>abcdab</s>"
SHARED = {"a": "a", "b": "b", "c": "c", "d": "d", "</s>": "[E]"}
# Of the kept positions that are matched: the student's token before and behind, the teacher's before, and those behind.
MATCHES = {
    0: ("<s>", "ab", "[B]", ["a", "b"]),
    1: ("ab", "c", "b", ["cd"]),
    3: ("d", "ab", "cd", ["a", "b"]),
    4: ("ab", "</s>", "b", ["[E]"]),
}


def table(tokenizer, seed):
    """Logits `(V, V)` of the next token by the token before."""
    size = len(tokenizer)
    return 2 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _TableTeacher(Teacher):
    """Its state is the token before as one of V directions, its head the table."""

    name = "a table"

    def __init__(self):
        self.unknown, self.logits = {}, table(FOREIGN, 1)

    @classmethod
    def load(cls, source, setup):
        return cls()

    def signal(self, batch, student):
        states = torch.eye(len(FOREIGN), dtype=torch.float64)[batch.inputs["input_ids"]]
        return TeacherSignal(batch.keep(states), self.head(student))

    def head(self, student):
        return LinearHead(self.logits.T.contiguous())


def teacher():
    return CrossTokenizerTeacher(_TableTeacher(), ForeignTokenizer(OWN, FOREIGN))


def batch():
    """The text in one row, and again behind a shorter one."""
    ids = OWN(TEXT)["input_ids"]
    rows = torch.tensor([ids, [*OWN("<s>d")["input_ids"], *[0] * (len(ids) - 2)]])
    mask = torch.tensor([[1] * len(ids), [1, 1, *[0] * (len(ids) - 2)]])
    labels = rows.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return Batch({"input_ids": rows, "attention_mask": mask}, labels)


def student_states(which):
    """The student's states at the kept positions, and its head."""
    states = torch.eye(len(OWN), dtype=torch.float64)[which.inputs["input_ids"]]
    return which.keep(states), LinearHead(table(OWN, 0).T.contiguous())


def _by_name(tokenizer, seed, before):
    logits = table(tokenizer, seed)[tokenizer.convert_tokens_to_ids(before)].tolist()
    return dict(zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), softmax(logits), strict=True))


def buckets(position):
    """Both sides' probabilities of shared tokens, the next token and the rest; and those of the rest, one by one."""
    before, label, teacher_before, path = MATCHES[position]
    p, q = _by_name(FOREIGN, 1, teacher_before), _by_name(OWN, 0, before)
    moved = 0.0
    if path != [SHARED.get(label)]:
        chances = [p[path[0]]]
        for one, following in itertools.pairwise(path):
            chances.append(_by_name(FOREIGN, 1, one)[following])
        moved = math.prod(chances)
        p[path[0]] -= moved
    own = label not in SHARED
    first = [p[SHARED[name]] + (moved if name == label else 0.0) for name in SHARED] + [moved if own else 0.0]
    second = [q[name] for name in SHARED] + [q[label] if own else 0.0]
    rest_p = sorted((value for name, value in p.items() if name not in SHARED.values()), reverse=True)
    rest_q = sorted((q[name] for name in q if name not in SHARED and not (own and name == label)), reverse=True)
    return [*first, math.fsum(rest_p)], [*second, math.fsum(rest_q)], rest_p, rest_q


def forward_kl(position):
    p, q, _, _ = buckets(position)
    return kl(p, q)


def by_rank(position):
    """The distance of Boizard et al. between what the two sides have alone."""
    _, _, first, second = buckets(position)
    width = max(len(first), len(second))
    return math.fsum(abs(a - b) for a, b in zip(_filled(first, width), _filled(second, width), strict=True))


def _filled(values, width):
    return [*values, *[0.0] * (width - len(values))]
