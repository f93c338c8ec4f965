# SPDX-License-Identifier: Apache-2.0
"""
What a run with several teachers must compute, in plain PyTorch: whole models, one row at a time, dense logits, each row's
teacher looked up by hand. Nothing of the package but the trainer's model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import build, load, lora

NAMES = ["safety", "base", None, "third", "base", "third", "safety", "base"]
TOPICS = ["cooking", "chemistry", "cooking", "cooking", "chemistry", "cooking", "chemistry", "cooking"]
FIRST = "safety"
SGD = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "max_steps": 1, "max_length": None, **OFF}


def table(names: Any = NAMES, topics: Any = TOPICS, **columns: Any) -> Dataset:
    data = Dataset.from_list(rows(len(names)))
    for name, values in {"teacher": names, "topic": topics[: len(names)], **columns}.items():
        data = data.add_column(name, values)
    return data


def save_teachers(folder: Any) -> dict[str, Any]:
    """A wider one whose head is padded, the student's own base, and one of the student's size."""
    size = len(tiny_models.build_tokenizer())
    safety = tiny_models.save_tiny_llama(folder / "safety", hidden_size=48, seed=7, vocab_size=size + 16)
    third = tiny_models.save_tiny_llama(folder / "third", seed=9)
    return {"safety": str(safety), "base": None, "third": str(third)}


def build_routed(folder: Any, model: Any, teachers: Any, data: Any = None, **changes: Any) -> Any:
    """A trainer with several teachers, of plain gradient descent."""
    given = {"peft_config": lora(), "teachers": teachers}
    return build(folder, model, table() if data is None else data, given=given, **{**SGD, **changes})


class Row(NamedTuple):
    ids: Tensor
    labels: Tensor
    teacher: str
    topic: str


class Read(NamedTuple):
    """One row as whole models read it, at the positions whose next token counts: float64, `(N, V)` each."""

    student: Tensor
    teacher: Tensor
    base: Tensor
    labels: Tensor
    row: Row

    @property
    def divergence(self) -> Tensor:
        return kl(self.teacher, self.student)

    @property
    def reference(self) -> Tensor:
        return kl(self.base, self.student)

    @property
    def nll(self) -> Tensor:
        return torch.nn.functional.cross_entropy(self.student, self.labels, reduction="none")

    @property
    def trust(self) -> Tensor:
        both = self.teacher[:, : self.student.shape[1]].softmax(-1)
        return both.gather(1, self.labels[:, None])[:, 0]

    @property
    def acceptance(self) -> Tensor:
        shared = min(self.teacher.shape[1], self.student.shape[1])
        return torch.minimum(self.teacher[:, :shared].softmax(-1), self.student[:, :shared].softmax(-1)).sum(-1)


def kl(target: Tensor, prediction: Tensor) -> Tensor:
    """KL(target || prediction) of logits, over the ids that both have."""
    shared = min(target.shape[-1], prediction.shape[-1])
    p, q = target[:, :shared].log_softmax(-1), prediction[:, :shared].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def rows_by_hand(folder: Any, data: Dataset, answer: str = "completion") -> list[Row]:
    """Rows tokenized by hand: the answer counts, and the end of the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in data:
        prompt = tokenizer(row["prompt"])["input_ids"]
        end = tokenizer.eos_token if not row[answer].endswith(tokenizer.eos_token) else ""
        ids = tokenizer(row["prompt"] + row[answer] + end)["input_ids"]
        same = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        labels = torch.tensor([-100] * same + ids[same:])
        found.append(Row(torch.tensor(ids), labels, row["teacher"] or FIRST, row["topic"]))
    return found


def places_of(row: Row) -> Tensor:
    """Positions of a row whose next token counts."""
    return (row.labels[1:] != -100).nonzero()[:, 0]


def logits_at(model: Any, row: Row) -> Tensor:
    """What a model says there, in float64."""
    return model(input_ids=row.ids[None]).logits[0][places_of(row)].double()


def read_by_hand(trainer: Any, teachers: dict[str, Any], found: list[Row]) -> list[Read]:
    """Each row through the student, the student without its adapters, and its own teacher."""
    models = {name: load(source).eval() for name, source in teachers.items() if source is not None}
    read = []
    for row in found:
        student = logits_at(trainer.model, row)
        with torch.no_grad(), trainer.model.disable_adapter():
            base = logits_at(trainer.model, row)
        with torch.no_grad():
            teacher = base if teachers[row.teacher] is None else logits_at(models[row.teacher], row)
        read.append(Read(student, teacher, base, row.labels[1:][places_of(row)], row))
    return read


def gradient(trainer: Any, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of a loss by parameter that trains."""
    names, parameters = zip(*[(n, p) for n, p in trainer.model.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


def mean(read: list[Read], value: Callable[[Read], Tensor], where: Callable[[Row], bool] = lambda row: True) -> Tensor:
    """Mean over the tokens of the rows of which something holds."""
    return torch.cat([value(one) for one in read if where(one.row)]).mean()


def share(
    read: list[Read], value: Callable[[Read], Tensor], where: Callable[[Row], bool] = lambda row: True
) -> Tensor:
    """Sum over the tokens of the rows of which something holds, divided by the number of all tokens."""
    count = sum(len(one.labels) for one in read)
    return torch.stack([value(one).sum() for one in read if where(one.row)]).sum() / count


def same_gradient(
    found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-6
) -> None:
    """Asserts that gradients agree to the rounding of float32, and that none is all zero."""
    assert found.keys() == expected.keys() and any(value.abs().max() > 100 * atol for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
