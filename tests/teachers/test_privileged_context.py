# SPDX-License-Identifier: Apache-2.0
"""A teacher behind a prompt of its own; `make` is what the contracts compare it by."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from hf_ckt.models.batch import Batch
from hf_ckt.teachers.privileged_context import PrivilegedContextTeacher
from hf_ckt.teachers.routed import RoutedTeacher
from hf_ckt.teachers.self import SelfTeacher
from tests.trainers import load

# What the teacher reads before each text, in tokens.
CONTEXT = [7, 9, 11, 40]


def as_read(batch):
    """The batch with CONTEXT before each row, and its labels as they were."""
    ids, labels = [], []
    for row, label, mask in zip(batch.inputs["input_ids"], batch.labels, batch.inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        ids.append(torch.cat([torch.tensor(CONTEXT), row[:length]]))
        labels.append(torch.cat([torch.full((len(CONTEXT),), -100), label[:length]]))
    inputs = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
    batch.context = Batch(inputs, pad_sequence(labels, batch_first=True, padding_value=-100))
    return batch


def behind(model, batch, context=CONTEXT):
    """Logits at the answers of each row alone, behind a context: a loop over rows without padding."""
    found = []
    for row, label, mask in zip(batch.inputs["input_ids"], batch.labels, batch.inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        text = torch.cat([torch.tensor(context, dtype=row.dtype), row[:length]])[None]
        with torch.no_grad():
            logits = model.eval()(input_ids=text).logits[0, len(context) :]
        found.append(logits[: length - 1][label[1:length] != -100])
    return torch.cat(found)


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    return PrivilegedContextTeacher(SelfTeacher()), lambda batch: behind(load(student_folder), batch)


def test_context_changes_what_is_expected(tiny_model_dir, tmp_path):
    """The contract's expected value would hold of a teacher without its context too, if that changed nothing."""
    ids = torch.randint(3, 100, (2, 9))
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    model = load(tiny_model_dir)
    assert not torch.allclose(behind(model, batch), behind(model, batch, context=[]), atol=1e-2)


def test_batch_without_context_or_of_other_answers_is_refused():
    """Read without its context the teacher is the one that the student is, and every loss falls to nothing."""
    ids = torch.arange(12).view(2, 6)
    batch, teacher = Batch({"input_ids": ids}, ids), PrivilegedContextTeacher(SelfTeacher())
    with pytest.raises(ValueError, match="a batch holds no context"):
        teacher.signal(batch, None)
    batch.context = Batch({"input_ids": ids[:, :5]}, ids[:, :5])
    with pytest.raises(ValueError, match="8 answer tokens in its context and the student 10"):
        teacher.signal(batch, None)


def test_facts_tell_contexts_apart_and_keep_them_private():
    """A run resumed with another prompt has another teacher; a card must not publish a prompt that is nobody's business."""
    facts = [PrivilegedContextTeacher(SelfTeacher(), text).facts() for text in ("Refuse.", "Help.", None)]
    assert len({str(one) for one in facts}) == 3
    assert "Refuse" not in str(facts) and facts[0]["teacher"]["kind"] == "self"


@pytest.mark.parametrize("inner", [RoutedTeacher({"a": SelfTeacher()}), PrivilegedContextTeacher(SelfTeacher())])
def test_teacher_of_several_or_with_a_context_is_not_wrapped(inner):
    """Of two contexts one would be read and the other dropped."""
    with pytest.raises(ValueError, match="wraps one teacher"):
        PrivilegedContextTeacher(inner)


class CountingTeacher(SelfTeacher):
    """A teacher that gives less than all, looks something up, and counts."""

    lossy, gives, placed = True, "two tokens", None
    log_names = ("asked",)

    def take_counts(self, like):
        return {"asked": like}

    def collator(self, inner):
        return ("looked up", inner)

    def place(self, accelerator):
        self.placed = accelerator


@pytest.mark.parametrize("around", [PrivilegedContextTeacher, lambda inner: RoutedTeacher({"a": inner})])
def test_what_a_teacher_asks_of_the_run_is_asked_through_others(around):
    """A wrapper that forwards by hand forgets one: counts were not logged, and messages named another signal."""
    inner = CountingTeacher()
    outer = around(inner)
    outer.place("here")
    assert inner.placed == "here" and outer.collator("plain") == ("looked up", "plain")
    assert outer.lossy and outer.gives == "two tokens"
    name = "asked/a" if outer.parts else "asked"
    assert list(outer.log_names) == [name] and outer.take_counts(3) == {name: 3}
