# SPDX-License-Identifier: Apache-2.0
"""What a teacher reads and the student does not: the same answers behind other prompts, made with the dataset."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from datasets import Dataset

from ..checks import require_columns
from ..data.corrupt import TEACHER_PROMPT
from ..data.row_marks import teacher_named, unmarked_list
from ..teachers.base import Teacher
from ..teachers.cache import CacheTeacher
from ..teachers.privileged_context import PrivilegedContextTeacher
from ..teachers.soft_route import SoftRouteTeacher
from .collator import CONTEXT_PREFIX, ContextCollator
from .preferences import ROW

CONTEXT_COLUMNS = (f"{CONTEXT_PREFIX}input_ids", f"{CONTEXT_PREFIX}labels")
_KIND = "privileged_context"
_MIXED = "soft_route"
_CHANGED = "hf_ckt_changed"
_NOBODY = "so nobody would read it"


@dataclass
class TeacherContexts:
    """
    Which of a run's teachers read a context of their own, and what stands in it.

    Args:
        system_prompts (`Mapping[str, str | None]`, *optional*):
            By the teacher's name, of those that read one; None: only what the column `teacher_prompt` says. The name is
            empty where there is one teacher.
        first (`str`, *optional*, defaults to `""`):
            The teacher of rows that name none.
    """

    system_prompts: Mapping[str, str | None] = field(default_factory=dict)
    first: str = ""

    def __bool__(self) -> bool:
        return bool(self.system_prompts)

    @classmethod
    def of_run(
        cls, args: Any, teacher_model: Any, teachers: Mapping[str, Any] | None, dataset: Any
    ) -> "TeacherContexts":
        """
        Returns the contexts that a run's arguments ask for.

        Args:
            args ([`~training.config.ContrastiveRobustConfig`]):
                Its `teacher_system_prompt` is that of `teacher_model`.
            teacher_model (`Any`), teachers (`Mapping[str, Any]`, *optional*):
                As the trainer takes them.
            dataset (`Any`):
                That is trained on, whose column `teacher_prompt` asks for a context too.

        Raises:
            ValueError: If it is not clear whose context it is, or rows are packed or have rejected answers.
        """
        if isinstance(teacher_model, CacheTeacher) or (
            isinstance(teacher_model, Mapping) and "cache" in teacher_model
        ):
            return cls()  # whatever the teacher read, it is kept for the student's own text
        text = args.teacher_system_prompt
        if text is not None and not text.strip():
            raise ValueError(
                f"teacher_system_prompt: is {text!r}, in which there is nothing to learn from. Leave it out, or write a prompt."
            )
        column = TEACHER_PROMPT in (getattr(dataset, "column_names", None) or ())
        asked = "teacher_system_prompt" if text is not None else f"the column {TEACHER_PROMPT!r}"
        if teachers is None:
            reads, own = _reads(teacher_model)
            if text is not None and own is not None:
                raise ValueError(
                    "teacher_system_prompt: the teacher has a system_prompt of its own, and one of the two would be ignored. "
                    "Leave one out."
                )
            if _is_mixed(teacher_model) and not reads and (text is not None or column):
                raise ValueError(
                    f"{asked}: does not say whether {_MIXED}'s refuse or answer reads it, {_NOBODY}. Give that one as "
                    "{'privileged_context': <teacher>, 'system_prompt': '...'}."
                )
            wanted = reads or ((text is not None or column) and _may_read_teacher(args))
            found = {"": own if text is None else text} if wanted else {}
        else:
            members = {str(name): _reads(one) for name, one in teachers.items()}
            found = {name: own for name, (reads, own) in members.items() if reads}
            if text is not None or (column and not found):
                raise ValueError(
                    f"{asked}: does not say which of the teachers ({', '.join(members)}) reads it, {_NOBODY}. Give that one as "
                    "{'privileged_context': <teacher>, 'system_prompt': '...'}."
                )
        contexts = cls(found, next(iter(map(str, teachers or ("",)))))
        if contexts:
            _require_apart(args)
        return contexts

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that a prepared dataset has for it."""
        return CONTEXT_COLUMNS if self else ()

    def collator(self, inner: Callable) -> Callable:
        """Returns a data collator around another, for batches with what the teacher reads."""
        return ContextCollator(inner) if self else inner

    def wrapped(self, teacher_model: Any, model_settings: Mapping[str, Any]) -> Any:
        """Returns a run's only teacher with its context around it, where it has one and does not say so itself."""
        if "" not in self.system_prompts or _is_mixed(teacher_model):
            return teacher_model
        text = self.system_prompts[""]
        if isinstance(teacher_model, PrivilegedContextTeacher):
            return teacher_model
        if isinstance(teacher_model, Mapping) and _KIND in teacher_model:
            return {**teacher_model, "system_prompt": text}
        if not (teacher_model is None or isinstance(teacher_model, (Teacher, Mapping))):
            teacher_model = {"model": teacher_model, **model_settings}
        return {_KIND: teacher_model, "system_prompt": text}

    def prepare(self, prepare: Callable, tokenize: Callable, dataset: Any, args: Any, **kwargs: Any) -> Any:
        """
        Prepares a dataset as the trainer does, with the teacher's text of each row beside the student's.

        Args:
            prepare (`Callable`):
                The trainer's own preparation, of `dataset`, `args` and `kwargs`.
            tokenize (`Callable`):
                The part of it that tokenizes and truncates.
            dataset (`datasets.Dataset`):
                Prompts and completions, or conversations; tokenized already where it has both texts of a row.
            args ([`~trl.SFTConfig`]):
                The trainer's configuration.

        Raises:
            ValueError: If a row's answer is not the same behind the other prompt, or would be cut off there; or no row has
                another prompt.
        """
        name = f"{kwargs['dataset_name']} dataset"
        if not isinstance(dataset, Dataset):
            raise ValueError(
                f"{_KIND}: the {name} is a streaming dataset, in which a row's two texts cannot be joined. Load it in full, or "
                "use a teacher without a context of its own."
            )
        if "input_ids" in dataset.column_names:
            require_columns(
                kwargs["dataset_name"],
                dataset.column_names,
                CONTEXT_COLUMNS,
                _KIND,
                "let the trainer tokenize the text",
            )
            return prepare(dataset, args=args, **kwargs)
        self._require_prompts(dataset, name, args, kwargs)
        numbered = dataset.add_column(ROW, list(range(len(dataset))))
        others = [TEACHER_PROMPT] if TEACHER_PROMPT in dataset.column_names else []
        own = prepare(numbered.remove_columns(others), args=args, **kwargs)
        key = "prompt" if "prompt" in dataset.column_names else "messages"
        changed = numbered.map(
            partial(self._changed, key=key, where=name),
            remove_columns=[key, *others],
            desc=f"Adding the teacher's context to the {name}",
        )
        if kwargs["dataset_name"] == "train" and not any(changed[_CHANGED]):
            raise ValueError(
                f"{_KIND}: no row of the {name} has another prompt for the teacher, so it would teach nothing but what it says "
                f"without. Give teacher_system_prompt, or fill the column {TEACHER_PROMPT!r}."
            )
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        read = tokenize(changed, args=whole, **{**kwargs, "packing": False})
        read = read.select_columns([ROW, _CHANGED, "input_ids", "labels"])
        place = {row: index for index, row in enumerate(read[ROW])}

        def join(row: dict[str, Any]) -> dict[str, Any]:
            other = read[place[row[ROW]]]
            where = f"{name}, row {row[ROW]}"
            ids, labels = row["input_ids"], row["labels"]
            if other[_CHANGED]:
                ids, labels = aligned(labels, other["input_ids"], other["labels"], args, where)
            return dict(zip(CONTEXT_COLUMNS, (ids, labels), strict=True))

        return own.map(join, remove_columns=[ROW], desc=f"Aligning the answers of the {name}")

    def _require_prompts(self, dataset: Dataset, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        columns = dataset.column_names
        if kwargs.get("formatting_func") is not None or not ("prompt" in columns or "messages" in columns):
            raise ValueError(
                f"{_KIND}: the {name} has no prompts that another could stand in the place of (it has "
                f"{', '.join(map(repr, columns))}). Give it the columns prompt and completion, or messages."
            )
        if not (args.completion_only_loss is not False if "prompt" in columns else args.assistant_only_loss):
            option = "completion_only_loss" if "prompt" in columns else "assistant_only_loss"
            raise ValueError(
                f"{_KIND}: prompts of the {name} are trained on like answers, and the teacher reads other ones, so there would be "
                f"nothing to compare. Set {option}=True."
            )
        if all(text is None for text in self.system_prompts.values()):
            # Of an evaluation too: its losses would be those of another teacher.
            require_columns(kwargs["dataset_name"], columns, [TEACHER_PROMPT], _KIND, "give teacher_system_prompt")

    def _changed(self, row: dict[str, Any], *, key: str, where: str) -> dict[str, Any]:
        """A row with the prompt that its teacher reads."""
        # A run's only teacher reads its context on every row, whatever a column `teacher` is there for.
        given, teacher = row.get(TEACHER_PROMPT), "" if "" in self.system_prompts else teacher_named(row) or self.first
        text = self.system_prompts.get(teacher)
        where = f"{where}, row {row[ROW]}"
        if teacher not in self.system_prompts or (given is None and text is None):
            return {key: row[key], _CHANGED: False}
        if isinstance(row[key], str):
            if given is None:
                raise ValueError(
                    f"{where}: its prompt is plain text, which has no system message, so the teacher's system prompt has no "
                    f"place. Give the whole prompt in a column {TEACHER_PROMPT!r}, or messages in place of the text."
                )
            if not isinstance(given, str):
                raise ValueError(
                    f"{where}: its prompt is plain text and its {TEACHER_PROMPT!r} is {type(given).__name__}, so the answer would "
                    "stand behind another template. Give a text."
                )
            return {key: given, _CHANGED: True}
        messages = list(row[key])
        answers = messages[_answer_at(messages) :] if key == "messages" else []
        prompt = messages[: len(messages) - len(answers)]
        if given is not None:
            prompt = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        if text is not None and (given is None or isinstance(given, str)):
            prompt = _with_system_message(prompt, text)
        return {key: [*prompt, *answers], _CHANGED: True}


def _reads(teacher: Any) -> tuple[bool, str | None]:
    """Whether a teacher, as given, reads a context of its own, and its system prompt."""
    if isinstance(teacher, PrivilegedContextTeacher):
        return True, teacher.system_prompt
    if isinstance(teacher, Mapping) and _KIND in teacher:
        return True, teacher.get("system_prompt")
    if _is_mixed(teacher):
        if isinstance(teacher, SoftRouteTeacher):
            members = [teacher.refuse, teacher.answer]
        else:
            members = [teacher.get(name) for name in ("refuse", "answer")]
        found = [own for reads, own in map(_reads, members) if reads]
        if len(set(found)) > 1:
            raise ValueError(
                f"{_MIXED}: refuse and answer have different system prompts, and a row has one text for the teacher beside the "
                "student's. Give both the same, or one of them none."
            )
        return bool(found), found[0] if found else None
    return False, None


def _is_mixed(teacher: Any) -> bool:
    """Whether a teacher, as given, is two that are mixed, each of which may read a context."""
    return isinstance(teacher, SoftRouteTeacher) or (isinstance(teacher, Mapping) and _MIXED in teacher)


def _may_read_teacher(args: Any) -> bool:
    """Whether a term may read a teacher, as far as can be told before the run is known."""
    robust = args.consistency_target == "teacher" and args.may_be_on("consistency")
    weighs = any("teacher" in part.needs for part in args.token_weights.values())
    return args.may_be_on("distillation") or args.may_be_on("contrastive") or robust or args.label_trust or weighs


def _require_apart(args: Any) -> None:
    for packing in ("packing", "eval_packing"):
        if getattr(args, packing):
            raise ValueError(
                f"{_KIND}: cannot be combined with packing, which would separate an answer from its counterpart behind the "
                f"teacher's prompt. Set {packing}=False, or padding_free=True in its place."
            )
    if args.contrastive_rejected:
        raise ValueError(
            f"{_KIND}: cannot be combined with contrastive_rejected, whose rejected answers stand behind the student's prompt "
            "alone. Set contrastive_rejected=False."
        )


def _answer_at(messages: Sequence[Mapping[str, Any]]) -> int:
    return next((place for place, one in enumerate(messages) if one["role"] == "assistant"), len(messages))


def _with_system_message(messages: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """Messages with a system message in place of theirs, or before them."""
    rest = [dict(one) for one in messages if one["role"] not in ("system", "developer")]
    in_parts = any(isinstance(one["content"], list) for one in rest)
    return [{"role": "system", "content": [{"type": "text", "text": text}] if in_parts else text}, *rest]


def aligned(
    own_labels: Sequence[int], ids: Sequence[int], labels: Sequence[int], args: Any, where: str
) -> tuple[list[int], list[int]]:
    """
    Returns the teacher's text of a row, cut and labelled so that the answer tokens that count are those of the student's.

    Args:
        own_labels (`Sequence[int]`):
            The student's, truncated, with marks.
        ids (`Sequence[int]`), labels (`Sequence[int]`):
            The teacher's, neither.
        args ([`~trl.SFTConfig`]):
            Its `max_length` and `truncation_mode` say what was cut.
        where (`str`):
            What the row is called in messages.

    Raises:
        ValueError: If the answers differ, or the text is longer than `max_length`.
    """
    # The first token of a text is predicted by none.
    own = [label for label in own_labels[1:] if label != -100]
    places = [place for place, label in enumerate(labels) if label != -100 and place > 0]
    skipped = max(0, len(places) - len(own)) if args.truncation_mode == "keep_end" else 0
    kept = places[skipped : skipped + len(own)]
    if [labels[place] for place in kept] != unmarked_list(own):
        raise ValueError(
            f"{where}: its answer has {len(own)} tokens behind the student's prompt and {len(places)} behind the teacher's, or "
            "other ones, so the two would be compared at other words. Let both prompts end alike, in whole tokens."
        )
    length = kept[-1] + 1 if kept else 1
    if args.max_length is not None and length > args.max_length:
        raise ValueError(
            f"{where}: with the teacher's prompt it has {length} tokens, and max_length={args.max_length} would cut off a part of "
            "the answer that the student is to learn. Raise max_length, shorten the prompt, or drop the row."
        )
    new = [-100] * length
    for place, label in zip(kept, own, strict=True):
        new[place] = label
    return list(ids[:length]), new
