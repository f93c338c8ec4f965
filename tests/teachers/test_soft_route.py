# SPDX-License-Identifier: Apache-2.0
"""Two teachers mixed by a probe of the prompt; `make` is what the contracts compare it by."""

import math

import pytest
import torch
from peft import get_peft_model

from hf_ckt.kernels.signals import TopKSignal
from hf_ckt.models.batch import Batch
from hf_ckt.models.boundary_probe import BoundaryProbe
from hf_ckt.models.fingerprint import base_fingerprint
from hf_ckt.teachers.base import Teacher
from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.privileged_context import PrivilegedContextTeacher
from hf_ckt.teachers.routed import RoutedTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.teachers.soft_route import REFUSED, SoftRouteTeacher, probe_digest
from tests import tiny_models
from tests.teachers.signals import DISTIL, dense, logits_of
from tests.teachers.test_routed import LENGTHS, packed
from tests.trainers import build, load, lora, run

LAYERS = [1, 2]
# The tiny model's width.
WIDTH = 32


def probe(layers=LAYERS, seed=4, scale=0.2, bias=0.3, **facts):
    """A probe whose odds differ from prompt to prompt, some for and some against."""
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(2 * len(layers) * WIDTH, generator=generator)
    return BoundaryProbe(layers, weight, bias, facts)


def odds_by_hand(base, ids, labels, one=None, sharpness=1.0):
    """The log-odds of one text's prompt: a loop over the layers of a pass over it alone, in float64."""
    one = one or probe()
    first = next(place for place, label in enumerate(labels.tolist()) if label != -100) - 1
    with torch.no_grad():
        states = base(input_ids=ids[None], output_hidden_states=True).hidden_states
    features = []
    for layer in one.layers:
        own = states[layer][0].double()
        features += [own[first], own[1 : first + 1].mean(0)]
    return sharpness * float(torch.cat(features) @ one.weight.double() + one.bias)


def rows_of(batch):
    """The texts of a padded batch, each with its labels, without its padding."""
    for ids, labels, mask in zip(batch.inputs["input_ids"], batch.labels, batch.inputs["attention_mask"], strict=True):
        yield ids[mask.bool()], labels[mask.bool()]


def mixed_by_hand(refuse, base, batch, one=None, sharpness=1.0):
    """Log-probabilities of the mixture at the kept positions, text by text."""
    found = []
    for ids, labels in rows_of(batch):
        p = torch.sigmoid(torch.tensor(odds_by_hand(base, ids, labels, one, sharpness), dtype=torch.float64))
        places = (labels[1:] != -100).nonzero()[:, 0]
        with torch.no_grad():
            two = [model(input_ids=ids[None]).logits[0, places].double().softmax(-1) for model in (refuse, base)]
        found.append((p * two[0] + (1 - p) * two[1]).log())
    return torch.cat(found).float()


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "refuse", seed=7)
    probe().save(tmp_path / "probe")
    given = {"soft_route": str(tmp_path / "probe"), "refuse": str(folder)}
    return given, lambda batch: mixed_by_hand(load(folder).eval(), load(student_folder).eval(), batch)


@pytest.fixture(scope="module")
def refuse(tmp_path_factory):
    return load(tiny_models.save_tiny_llama(tmp_path_factory.mktemp("soft") / "refuse", seed=7)).eval()


@pytest.fixture
def student(tiny_model_dir):
    torch.manual_seed(0)
    return get_peft_model(load(tiny_model_dir), lora()).eval()


def soft(refuse, one=None, **settings):
    return SoftRouteTeacher(one or probe(), ModelTeacher(refuse), SelfTeacher(), **settings)


def padded_batch(seed=0):
    """Four texts of different length, their prompts of different length too."""
    generator = torch.Generator().manual_seed(seed)
    lengths, prompts = [9, 14, 11, 6], [4, 8, 3, 2]
    ids = torch.zeros(4, 14, dtype=torch.long)
    labels, mask = torch.full((4, 14), -100), torch.zeros(4, 14, dtype=torch.long)
    for row, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        ids[row, :length] = torch.randint(5, 190, (length,), generator=generator)
        labels[row, prompt:length], mask[row, :length] = ids[row, prompt:length], 1
    return Batch({"input_ids": ids, "attention_mask": mask}, labels)


def parts_of(signal):
    (part,) = signal.parts
    return part


def odds_of(teacher, batch, student):
    """The log-odds at each position that the teacher speaks at."""
    return parts_of(teacher.signal(batch, student.get_base_model())).signal.mixture.log_odds


@pytest.mark.parametrize("settings", [{}, {"sharpness": 2.5}, {"threshold": 0.5}, {"threshold": 0.4}])
def test_mixture_is_that_of_two_models_read_text_by_text(settings, refuse, student, tiny_model_dir):
    """A weight of another document, or of the other teacher, gives a distribution all the same."""
    batch, base, one = padded_batch(), load(tiny_model_dir).eval(), probe(bias=2.0)
    found = logits_of(soft(refuse, one, **settings).signal(batch, student.get_base_model()))
    if "threshold" not in settings:
        expected = mixed_by_hand(refuse, base, batch, one, **settings)
    else:
        odds = [odds_by_hand(base, *row, one) for row in rows_of(batch)]
        refused = [one >= math.log(settings["threshold"] / (1 - settings["threshold"])) for one in odds]
        assert sum(refused) == (1 if settings["threshold"] == 0.5 else 2)
        two = [dense(model, batch).log_softmax(-1) for model in (refuse, base)]
        whose = torch.tensor(refused)[batch.kept_documents]
        expected = torch.where(whose[:, None], *two)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [1e4, -1e4])
def test_certain_probe_leaves_one_teacher_alone(bias, refuse, student, tiny_model_dir):
    """At p = 1 and at p = 0 a mixture must be what the one teacher says, and no more than rounding of the other."""
    batch, base = padded_batch(), load(tiny_model_dir).eval()
    signal = parts_of(soft(refuse, probe(bias=bias)).signal(batch, student.get_base_model())).signal
    assert ((signal.mixture.log_odds > 0) == (bias > 0)).all()
    torch.testing.assert_close(
        logits_of(signal), dense(refuse if bias > 0 else base, batch).log_softmax(-1), rtol=1e-5, atol=1e-5
    )


def test_student_with_an_adapter_that_does_something_is_not_what_the_probe_reads(refuse, student, tiny_model_dir):
    """Fitted on the base, the probe would drift with the student, and the student with it."""
    batch, base = padded_batch(), load(tiny_model_dir).eval()
    read = odds_of(soft(refuse), batch, student)
    expected = torch.tensor([odds_by_hand(base, *row) for row in rows_of(batch)])[batch.kept_documents]
    torch.testing.assert_close(read, expected.float(), rtol=1e-4, atol=1e-5)
    trained = torch.tensor([odds_by_hand(student, *row) for row in rows_of(batch)])[batch.kept_documents]
    assert (trained.float() - read).abs().max() > 0.05  # else the test would tell nothing


@pytest.mark.parametrize("form", ["position_ids", "mask of pairs", "boundaries"])
def test_document_of_a_pack_has_the_p_that_it_has_alone(form, refuse, student, tiny_model_dir):
    """A prompt whose states have seen the document before it, or whose mean runs on into it, is another prompt."""
    batch, base = packed(form), load(tiny_model_dir).eval()
    part = parts_of(soft(refuse).signal(batch, student.get_base_model()))
    ids, expected, start = batch.inputs["input_ids"].flatten(), [], 0
    for length in [*LENGTHS[0], *LENGTHS[1]]:
        text = ids[start : start + length]
        labels = torch.cat([torch.full((2,), -100), text[2:]])
        expected += [odds_by_hand(base, text, labels)] * (length - 2)
        start += length
    assert part.positions.tolist() == list(range(len(batch.kept)))
    torch.testing.assert_close(part.signal.mixture.log_odds, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_p_of_a_document_does_not_change_with_its_neighbours(refuse, student):
    """A prompt would be refused in one batch and answered in the next."""
    batch, teacher = padded_batch(), soft(refuse)
    whole = odds_of(teacher, batch, student)
    for row in range(4):
        alone = odds_of(teacher, batch.rows(torch.tensor([row])), student)
        torch.testing.assert_close(alone, whole[batch.kept_documents == row], rtol=1e-4, atol=1e-5)
    # Neither with what stands in the padding, nor with the answer behind the prompt.
    other = padded_batch()
    other.inputs["input_ids"][other.inputs["attention_mask"] == 0] = 77
    answers = other.labels != -100
    other.inputs["input_ids"][answers] = 200 - other.inputs["input_ids"][answers]
    torch.testing.assert_close(odds_of(teacher, other, student), whole, rtol=1e-4, atol=1e-5)


def test_rows_without_an_answer_are_neither_mixed_nor_counted(refuse, student):
    """Their p is not known, and a mean over them would be drawn to one half."""
    batch, teacher = padded_batch(), soft(refuse)
    odds = odds_of(teacher, batch, student)
    expected = torch.stack([odds[batch.kept_documents == row][0] for row in (0, 2, 3)]).sigmoid()
    teacher.take_counts(odds)
    labels = batch.labels.clone()
    labels[1] = -100
    fewer = Batch(batch.inputs, labels)
    found = odds_of(teacher, fewer, student)
    torch.testing.assert_close(found, odds[batch.kept_documents != 1], rtol=1e-4, atol=1e-5)
    total, count = teacher.take_counts(odds)[REFUSED].tolist()
    assert count == 3 and total == pytest.approx(float(expected.sum()), rel=1e-5)
    assert teacher.take_counts(odds) == {}
    nothing = teacher.signal(Batch(batch.inputs, torch.full_like(labels, -100)), student.get_base_model())
    assert len(parts_of(nothing).positions) == 0 and teacher.take_counts(odds)[REFUSED].tolist() == [0, 0]


def test_log_odds_are_not_rounded_under_autocast(refuse, student):
    """In bfloat16 all odds between 2 and 2.015 are one."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        odds = odds_of(soft(refuse), padded_batch(), student)
    assert odds.dtype == torch.float32 and not torch.equal(odds, odds.bfloat16().float())


def test_text_without_a_prompt_is_refused(refuse, student):
    """Its p would be read from its first token, the same for all texts, and nothing would say so."""
    batch = padded_batch()
    labels = torch.where(batch.inputs["attention_mask"].bool(), batch.inputs["input_ids"], -100)
    with pytest.raises(ValueError, match=r"soft_route: .*has no prompt.*completions"):
        soft(refuse).signal(Batch(batch.inputs, labels), student.get_base_model())


class _Named(Teacher):
    """A teacher that names tokens, or gives what it is told."""

    name = "a server"

    def __init__(self, lossy=True, said=None):
        self.lossy, self.said = lossy, said

    @classmethod
    def load(cls, source, setup):
        raise NotImplementedError

    def signal(self, batch, student):
        return self.said


def test_teacher_that_cannot_be_mixed_is_refused(refuse, student):
    """Half of a mixture would be missing, or p would mean nothing."""
    members = [RoutedTeacher({"a": ModelTeacher(refuse)}), soft(refuse), _Named()]
    for one in members:
        with pytest.raises(ValueError, match=r"soft_route: refuse \(.*\) does not give hidden states"):
            SoftRouteTeacher(probe(), one, SelfTeacher())
    with pytest.raises(ValueError, match="soft_route: refuse and answer are both the student's own base"):
        SoftRouteTeacher(probe(), SelfTeacher(), SelfTeacher())
    named = TopKSignal(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1))
    teacher = SoftRouteTeacher(probe(), ModelTeacher(refuse), _Named(lossy=False, said=named))
    with pytest.raises(ValueError, match=r"soft_route: answer \(a server\) does not give hidden states at every"):
        teacher.signal(padded_batch(), student.get_base_model())
    with pytest.raises(ValueError, match="privileged_context wraps one teacher"):
        PrivilegedContextTeacher(soft(refuse))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sharpness": 0}, "soft_route: sharpness: must be greater than 0"),
        ({"sharpness": -1.0}, "soft_route: sharpness: must be greater than 0"),
        ({"threshold": 0.0}, r"soft_route: threshold: must lie in \(0, 1\)"),
        ({"threshold": 1}, r"soft_route: threshold: must lie in \(0, 1\)"),
        ({"threshold": 0.5, "sharpness": 2.0}, "sharpness=2 would be ignored"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, said, refuse):
    """A threshold of 1 is a teacher that never speaks."""
    with pytest.raises(ValueError, match=said):
        soft(refuse, **settings)


def test_student_without_a_frozen_base_is_refused(tiny_model_dir, tmp_path):
    """The probe would read a model that moves away from what it was fitted on."""
    given, _ = make(tiny_model_dir, tmp_path)
    with pytest.raises(
        ValueError, match=r"soft_route: the probe reads the student's own frozen base, but without a PEFT"
    ):
        build(tmp_path / "run", tiny_model_dir, given={"teacher_model": given}, **DISTIL)


@pytest.mark.parametrize("source", [None, 3, {"folder": "x"}])
def test_probe_that_is_none_is_refused(source, tiny_model_dir, tmp_path):
    """It is not known which prompts to refuse."""
    given = {"teacher_model": {"soft_route": source, "refuse": str(tiny_model_dir)}, "peft_config": lora()}
    with pytest.raises(ValueError, match=r"soft_route: must be the folder of a probe"):
        build(tmp_path / "run", tiny_model_dir, given=given, **DISTIL)
    given["teacher_model"]["soft_route"] = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"probe: .*nowhere' does not hold boundary_probe"):
        build(tmp_path / "run", tiny_model_dir, given=given, **DISTIL)


def test_probe_of_another_base_is_refused(tiny_model_dir, tmp_path):
    """Its log-odds would be a random number for each prompt, and the losses would fall."""
    other = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    for model, fits in ((tiny_model_dir, True), (other, False)):
        probe(fingerprint=base_fingerprint(load(model)), base=str(model)).save(tmp_path / "probe")
        given = {"teacher_model": {"soft_route": str(tmp_path / "probe"), "refuse": str(other)}, "peft_config": lora()}
        if fits:
            build(tmp_path / "run", tiny_model_dir, given=given, **DISTIL)
            continue
        with pytest.raises(ValueError, match=r"probe: was fitted on .*other \(fingerprint"):
            build(tmp_path / "run", tiny_model_dir, given=given, **DISTIL)


def test_packing_that_cuts_documents_is_refused(tiny_model_dir, tmp_path):
    """Behind a cut the prompt of one document would be that of another."""
    given, _ = make(tiny_model_dir, tmp_path)
    both = {"teacher_model": given, "peft_config": lora()}
    for strategy in ("wrapped", "bfd_split"):
        with pytest.raises(ValueError, match=rf"packing_strategy='{strategy}' cuts documents.*whose prompt"):
            build(tmp_path / "run", tiny_model_dir, given=both, packing=True, packing_strategy=strategy, **DISTIL)
    with pytest.raises(ValueError, match=r"eval_packing=True without packing"):
        build(tmp_path / "run", tiny_model_dir, given=both, eval_packing=True, **DISTIL)


def test_facts_tell_probes_settings_and_teachers_apart(refuse, tiny_model_dir):
    """A run resumed with another p has another teacher; one whose folder has moved has not."""
    made = [
        soft(refuse),
        soft(refuse, probe(seed=5)),
        soft(refuse, probe(bias=0.4)),
        soft(refuse, sharpness=2.0),
        soft(refuse, threshold=0.5),
        SoftRouteTeacher(probe(), ModelTeacher(load(tiny_model_dir)), SelfTeacher()),
    ]
    facts = [{key: value for key, value in one.manifest().items() if key != "name"} for one in made]
    assert all(one not in facts[:number] for number, one in enumerate(facts))
    assert facts[0] == {key: value for key, value in soft(refuse).manifest().items() if key != "name"}
    assert facts[0]["kind"] == "soft_route" and facts[0]["probe"] == probe_digest(probe())
    assert [one["kind"] for one in facts[0]["teachers"].values()] == ["model", "self"]


def test_card_names_both_teachers(tiny_model_dir, tmp_path):
    """A reader of the card must know who taught the refusals."""
    given, _ = make(tiny_model_dir, tmp_path)
    trainer = build(tmp_path / "run", tiny_model_dir, given={"teacher_model": given, "peft_config": lora()}, **DISTIL)
    run(trainer)
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    assert "refuse (kind soft_route, refuse: model" in text
    assert "adapters off (kind soft_route, answer: self" in text
