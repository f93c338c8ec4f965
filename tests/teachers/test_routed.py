# SPDX-License-Identifier: Apache-2.0
"""Several teachers, each on its own rows; `make` is what the contracts compare it by."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_ckt.models.batch import Batch
from hf_ckt.teachers.base import TeacherSetup
from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.routed import RoutedTeacher
from tests import tiny_models
from tests.teachers.signals import dense, logits_of
from tests.trainers import load


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions: all rows hear the first."""
    one, two = (tiny_models.save_tiny_llama(tmp_path / name, seed=seed) for name, seed in (("one", 7), ("two", 8)))
    teacher = RoutedTeacher({"one": ModelTeacher(load(one)), "two": ModelTeacher(load(two))})
    return teacher, lambda batch: dense(load(one), batch)


# Two rows of a batch: the lengths of their documents, and the teacher of each.
LENGTHS = [[5, 4, 7], [6, 10]]
ROUTES = [[0, 1, 0], [1, 0]]
WIDTH = 16


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routed")
    return [load(tiny_models.save_tiny_llama(folder / str(seed), seed=seed)).eval() for seed in (7, 8)]


@pytest.fixture
def student(tiny_model_dir):
    return load(tiny_model_dir)


def packed(form: str, **changes: Any) -> Batch:
    """The two rows, each with its documents one behind the other, told apart in one of the ways that collators have."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 190, (2, WIDTH), generator=generator)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    number = (positions == 0).cumsum(1) - 1
    routes = torch.stack([torch.tensor(row)[index] for row, index in zip(ROUTES, number, strict=True)])
    labels = ids.masked_fill(positions < 2, -100)
    inputs: dict[str, Any] = {"input_ids": ids}
    if form == "position_ids":
        inputs["position_ids"] = positions
    if form == "seq_idx":
        inputs["seq_idx"] = number.int()
    if form == "mask of pairs":
        inputs["attention_mask"] = (number[:, :, None] == number[:, None, :]).tril()[:, None]
    if form == "boundaries":
        inputs = {"input_ids": ids.flatten()[None], "position_ids": positions.flatten()[None]}
        ends = torch.tensor([0, *(n for row in LENGTHS for n in row)]).cumsum(0).int()
        inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 10, "max_length_k": 10}
        labels, routes = labels.flatten()[None], routes.flatten()[None]
    if "labels" in changes:
        labels = changes["labels"](labels, ids, positions)
    return Batch(inputs, labels, routes.masked_fill(labels == -100, 0))


def by_document(models: list[Any], batch: Batch, *, least: int = 2) -> Tensor:
    """The logits before each token that counts, every document read alone by its teacher."""
    ids = batch.inputs["input_ids"].flatten().tolist()
    found, start = [], 0
    for length, route in zip([*LENGTHS[0], *LENGTHS[1]], [*ROUTES[0], *ROUTES[1]], strict=True):
        text = torch.tensor([ids[start : start + length]])
        with torch.no_grad():
            found.append(models[route](input_ids=text).logits[0, least - 1 : -1])
        start += length
    return torch.cat(found)


@pytest.mark.parametrize("form", ["position_ids", "seq_idx", "mask of pairs", "boundaries"])
def test_each_document_is_read_alone_by_its_own_teacher(form, models, student):
    """Documents of a pack that see each other, or are put back at another's place, are taught by noise."""
    batch = packed(form)
    teacher = RoutedTeacher({name: ModelTeacher(model) for name, model in zip(("one", "two"), models, strict=True)})
    signal = teacher.signal(batch, student)
    assert [part.teacher for part in signal.parts] == ["one", "two"]
    heard = batch.at_kept(batch.routes)
    assert [part.positions.tolist() for part in signal.parts] == [
        (heard == n).nonzero()[:, 0].tolist() for n in (0, 1)
    ]
    torch.testing.assert_close(logits_of(signal), by_document(models, batch), rtol=1e-5, atol=1e-5)


def test_first_token_of_a_document_that_counts_is_read_by_nobody(models, student):
    """It would be predicted from the end of a document that another teacher reads."""
    batch = packed("position_ids", labels=lambda labels, ids, positions: ids.masked_fill(positions == 1, -100))
    teacher = RoutedTeacher({name: ModelTeacher(model) for name, model in zip(("one", "two"), models, strict=True)})
    signal = teacher.signal(batch, student)
    read = torch.cat([part.positions for part in signal.parts]).sort().values
    first = batch.inputs["position_ids"].flatten()[batch.kept + 1] == 0
    assert first.sum() == 3 and read.tolist() == (~first).nonzero()[:, 0].tolist()
    torch.testing.assert_close(logits_of(signal), by_document(models, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("same_passes", [False, True])
@pytest.mark.parametrize("heard", ["one", "two", "nobody"])
def test_teacher_without_a_document_has_its_head_in_the_signal(heard, same_passes, models, student):
    """What is laid out by the heads of a batch would change its layout from batch to batch."""
    batch = packed("position_ids", **({"labels": lambda labels, *_: labels * 0 - 100} if heard == "nobody" else {}))
    batch.routes = torch.full_like(batch.labels, int(heard == "two"))
    parts = {name: ModelTeacher(model) for name, model in zip(("one", "two"), models, strict=True)}
    passes: list[str] = []
    hooks = [
        part.model.model.register_forward_hook(lambda *_, name=name: passes.append(name))
        for name, part in parts.items()
    ]
    signal = RoutedTeacher(parts, same_passes=same_passes).signal(batch, student)
    for hook in hooks:
        hook.remove()
    assert [part.teacher for part in signal.parts] == ["one", "two"]
    assert [len(part.positions) for part in signal.parts] == [
        len(batch.kept) if name == heard else 0 for name in ("one", "two")
    ]
    for part, model in zip(signal.parts, models, strict=True):
        assert part.signal.head.weight.data_ptr() == model.lm_head.weight.data_ptr()
        assert part.signal.hidden.shape == (len(part.positions), 32)
    # Ranks that share weights wait for each other's passes.
    assert passes == (["one", "two"] if same_passes else [heard] if heard != "nobody" else [])


def test_what_was_looked_up_goes_with_its_positions():
    """A cache's rows would be taken for those of the documents in front."""
    batch = packed("position_ids")
    batch.stored = {"states": torch.arange(len(batch.kept))[:, None].float()}
    wanted = torch.zeros(batch.documents.count, dtype=torch.bool)
    wanted[[1, 4]] = True
    part, positions = batch.of_documents(wanted)
    assert part.stored["states"][:, 0].tolist() == positions.tolist() and len(part.kept) == len(positions)
    assert part.kept_labels.tolist() == batch.kept_labels[positions].tolist()


@pytest.mark.parametrize("source", [None, {}, "org/a-model", ["a", "b"]])
def test_routed_needs_names(source):
    """Rows name a teacher, which needs one."""
    setup: Any = SimpleNamespace(build=lambda given: None, accelerator=None)
    with pytest.raises(ValueError, match="teachers: must map names to teachers"):
        RoutedTeacher.load(source, setup)


def test_routed_within_routed_is_refused(models):
    """A row names one teacher; which of several within it would not be told."""
    several = RoutedTeacher({"one": ModelTeacher(models[0])})
    setup = TeacherSetup(None, models[0], None, None, lambda given: several)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teachers: 'all' is itself several teachers"):
        RoutedTeacher.load({"all": None}, setup)
