# SPDX-License-Identifier: Apache-2.0
"""The contract that teachers keep."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..discovery import part_name
from ..kernels.signals import Signal, TeacherSignal
from ..models.batch import Batch
from ..models.offload import is_sharded
from ..views import LinearHead


@dataclass
class TeacherSetup:
    """
    What a run has when its teachers are loaded.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The student's.
        student (`PreTrainedModel` or `PeftModel`, *optional*):
            The student, adapters around it.
        causal_lm (`PreTrainedModel`, *optional*):
            The student's causal language model, unwrapped: what [`Teacher.signal`] is given.
        accelerator (`Accelerator`, *optional*):
            Knows device and processes.
        build (`Callable`, *optional*):
            From what `teacher_model` takes to a teacher, for one that wraps others; `tokenizer` in place of the student's.
    """

    tokenizer: PreTrainedTokenizerBase
    student: Any = None
    causal_lm: Any = None
    accelerator: Any = None
    build: "Callable[..., Teacher]" = None  # type: ignore[assignment]

    @property
    def sharded(self) -> bool:
        """Whether the run shards its models over its processes."""
        return is_sharded(self.accelerator)


class Teacher(ABC):
    """
    Supplies the distribution that the student is compared with.

    A teacher `example` is given as `teacher_model={"example": source, "setting": value}`, in YAML and on the command line
    too: its `load` takes the source and the settings.
    """

    lossy: bool = False
    """Whether it gives less than the whole distribution, so that nothing can be made of its hidden states."""
    own_base: bool = False
    """Whether it is the student's own base, adapters off, so that another who reads that need not make its pass again."""
    by_document: bool = False
    """Whether it must be told where documents begin, which a pack that was cut up does not say."""
    sided: bool = False
    """Whether its signal says which documents are on one side: parts of several names, or a [`~kernels.signals.MixedSignal`]."""
    gives: str = "its most probable tokens"
    """What that is, where it is less."""
    name: str = ""
    """For logs, messages and cards."""
    unknown: dict[int, str] = {}  # noqa: RUF012 - replaced, never written into
    """Tokens of the student's tokenizer that the teacher cannot read, by id."""

    @classmethod
    @abstractmethod
    def load(cls, source: Any, setup: TeacherSetup, **settings: Any) -> "Teacher":
        """
        Loads a teacher.

        Args:
            source (`Any`):
                What it is loaded from: an id, a folder, a model, or what else the kind takes.
            setup ([`TeacherSetup`]):
                The run's.
            settings (`Any`):
                The kind's own.
        """

    @abstractmethod
    def signal(self, batch: Batch, student: PreTrainedModel) -> Signal:
        """
        Reads a batch.

        Args:
            batch ([`~models.batch.Batch`]):
                Inputs and kept positions.
            student (`PreTrainedModel`):
                The student's causal language model, unwrapped, called from within its own forward.

        Returns:
            [`~kernels.signals.TeacherSignal`]: hidden states at the kept positions and the head, without gradient; or
            another kind of [`~kernels.signals.Signal`].
        """

    def head(self, student: PreTrainedModel) -> LinearHead:
        """
        Returns the head that [`signal`] will give, for a batch in which the teacher has nothing to read.

        Raises:
            NotImplementedError: If the kind does not say, and asks no other teacher: only one that is not `lossy` need have it.
        """
        if len(self.behind) != 1:
            raise NotImplementedError(
                f"{type(self).__name__}: does not say which head it gives, so it cannot be routed."
            )
        return self.behind[0].head(student)

    def silence(self, student: PreTrainedModel) -> Signal:
        """Returns the signal of no position: what is laid out by the heads of a batch has a place for it all the same."""
        head = self.head(student)
        return TeacherSignal(head.weight.new_zeros(0, head.weight.shape[1]), head)

    def place(self, accelerator: Accelerator) -> None:
        """Moves what the teacher holds to the training device, or shards it as the run shards its models."""
        for one in self.behind:
            one.place(accelerator)

    def facts(self) -> dict[str, Any]:
        """
        Returns `name`, and what else tells the teacher from another (`revision`, `quantization`, `weights`: its fingerprint),
        fit for a JSON file.
        """
        return {"name": self.name}

    def manifest(self) -> dict[str, Any]:
        """Returns what the teacher is known by in a checkpoint and on a card: its `kind`, and its [`facts`]."""
        return {"kind": part_name(self), **self.facts()}

    def collator(self, inner: Callable) -> Callable:
        """Returns a data collator around another, for a teacher that looks something up for each batch."""
        for one in self.behind:
            inner = one.collator(inner)
        return inner

    @property
    def log_names(self) -> list[str]:
        """The names that [`take_counts`] may give."""
        return [name for one in self.behind for name in one.log_names]

    def take_counts(self, like: Tensor) -> dict[str, Tensor]:
        """Returns, by logged name, what the teacher counted since the last call: sum and count, `(2,)`."""
        return {name: value for one in self.behind for name, value in one.take_counts(like).items()}

    @property
    def parts(self) -> dict[str, "Teacher"]:
        """The teachers that this one is, by name, for one that is several."""
        return {}

    @property
    def voices(self) -> Sequence["Teacher"]:
        """Who is heard on a row: this teacher, or the two of a mixture, that of prompts to refuse first."""
        return [self]

    @property
    def behind(self) -> Sequence["Teacher"]:
        """The teachers that this one asks; they are placed, look things up and count as it does."""
        return [*self.parts.values()]
