# SPDX-License-Identifier: Apache-2.0
"""What teachers said, read from files; `make` is what the contracts compare it by."""

import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from datasets import Dataset

from hf_ckt.models.signal_store.documents import documents_of
from hf_ckt.models.signal_store.facts import store_facts, teacher_fingerprint
from hf_ckt.models.signal_store.measured import measured_errors
from hf_ckt.models.signal_store.records import bytes_per_position, decode, encode
from hf_ckt.models.signal_store.writer import StoreWriter
from hf_ckt.teachers.base import TeacherSetup
from hf_ckt.teachers.cache import CacheTeacher
from hf_ckt.training.teacher_cache import cache_teachers
from tests import tiny_models
from tests.runs import OFF, rows
from tests.teachers.signals import DISTIL, batch_of, dense, from_cache, logits_of
from tests.trainers import build, first_batch, history, load, lora, run, same_run, steps, trained

SETUP = TeacherSetup(tiny_models.build_tokenizer())


def write_cache(folder, student, teacher, data=None, dtype="float32", given=None, **changes):
    """Writes what a model says of the data of a run."""
    given = {"peft_config": lora(), "teacher_model": None if teacher is None else str(teacher), **(given or {})}
    trainer = build(folder.parent / "writer", student, data, given=given, **{**DISTIL, **changes})
    return cache_teachers(trainer, folder, dtype=dtype, say=lambda line: None)


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    write_cache(tmp_path / "cache", student_folder, folder)
    return CacheTeacher.load(tmp_path / "cache", SETUP), lambda batch: dense(load(folder), batch)


@pytest.fixture
def teacher_folder(tmp_path):
    return tiny_models.save_tiny_llama(tmp_path / "other", seed=7)


def both(tmp_path, student, teacher, cache, data=None, given=None, **changes):
    """A run with the live teacher and one with its cache, both finished."""
    changes = {**DISTIL, "contrastive_weight": 0.3, "max_steps": 4, **changes}
    live = build(tmp_path / "live", student, data, given={"teacher_model": teacher, "peft_config": lora()}, **changes)
    run(live)
    cached = from_cache(tmp_path / "cached", student, data, cache, **changes)
    run(cached)
    return live, cached


def close_runs(one, two, tolerance=1e-5):
    first, second = trained(one), trained(two)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)
    for before, after in zip(history(one), history(two), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_cache_in_the_teachers_dtype_is_the_teacher_to_the_last_bit(tiny_model_dir, teacher_folder, tmp_path):
    """A cache that is nearly the teacher hides an error of position or head among roundings."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    same_run(*both(tmp_path, tiny_model_dir, str(teacher_folder), tmp_path / "cache"))


@pytest.mark.parametrize(
    "changes",
    [
        {"train_sampling_strategy": "random"},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"packing": True, "max_length": 96},
        {"padding_free": True, "max_length": None},
        {"consistency_weight": 0.5, "consistency_target": "teacher", "perturbation": "typos"},
        {"dataloader_num_workers": 1},
    ],
    ids=["shuffled", "accumulated", "packed", "padding_free", "noisy", "workers"],
)
def test_cache_is_the_teacher_in_every_layout(changes, tiny_model_dir, teacher_folder, tmp_path):
    """States of another document or position make a loss that falls all the same."""
    write_cache(
        tmp_path / "cache", tiny_model_dir, teacher_folder, **{k: v for k, v in changes.items() if k == "max_length"}
    )
    close_runs(*both(tmp_path, tiny_model_dir, str(teacher_folder), tmp_path / "cache", **changes))


def test_cache_of_the_students_own_base_and_of_evaluation_data(tiny_model_dir, tmp_path):
    """The base is in the student: its cache must be of the model without the adapter."""
    given = {"eval_dataset": Dataset.from_list(rows(12)[8:])}
    write_cache(tmp_path / "cache", tiny_model_dir, None, given=given)
    results = []
    for cache in (None, str(tmp_path / "cache")):
        trainer = build(
            tmp_path / "run", tiny_model_dir, given={"peft_config": lora(), **given}, teacher_cache=cache, **DISTIL
        )
        results.append((trainer.evaluate(), trainer))
    for name, value in results[0][0].items():
        if name.endswith(("loss", "agreement")):
            assert results[1][0][name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("own", [True, False])
def test_a_cache_of_the_students_base_adds_no_head(own, tiny_model_dir, teacher_folder, tmp_path):
    """A second output embedding takes more memory than an adapter; that of another model may not be the student's."""
    write_cache(tmp_path / "cache", tiny_model_dir, None if own else teacher_folder)
    trainer = build(
        tmp_path / "run",
        tiny_model_dir,
        given={"peft_config": lora()},
        teacher_cache=str(tmp_path / "cache"),
        **DISTIL,
    )
    weight = trainer._extra_passes.teacher.head(trainer._causal_lm).weight
    student = trainer._causal_lm.get_output_embeddings().weight
    assert (weight.data_ptr() == student.data_ptr()) == own
    assert torch.equal(weight, load(tiny_model_dir if own else teacher_folder).get_output_embeddings().weight)


def test_cache_of_routed_teachers_hears_each_on_its_own_rows(tiny_model_dir, teacher_folder, tmp_path):
    """With the wrong teacher's record a harmful prompt is taught by the base."""
    wide = tiny_models.save_tiny_llama(tmp_path / "wide", seed=8, hidden_size=48)
    data = Dataset.from_list([{**row, "teacher": ("one", None, "two")[n % 3]} for n, row in enumerate(rows())])
    teachers = {"one": str(teacher_folder), "two": str(wide)}
    write_cache(tmp_path / "cache", tiny_model_dir, None, data, given={"teachers": teachers})
    for changes in ({}, {"packing": True, "max_length": 1024}):
        settings = {**DISTIL, **changes}
        live = build(
            tmp_path / "live", tiny_model_dir, data, given={"teachers": teachers, "peft_config": lora()}, **settings
        )
        cached = from_cache(
            tmp_path / "run",
            tiny_model_dir,
            data,
            tmp_path / "cache",
            **settings,
        )
        close_runs(run(live), run(cached))
        assert "distillation_loss/two" in steps(cached)[0]
    with pytest.raises(ValueError, match="teacher_cache: is of the teachers one, two, and teachers names two, one"):
        build(
            tmp_path / "run",
            tiny_model_dir,
            data,
            given={"peft_config": lora(), "teachers": {"two": None, "one": None}},
            teacher_cache=str(tmp_path / "cache"),
            **DISTIL,
        )


def test_cached_run_goes_on_where_it_was_cut_off(tiny_model_dir, teacher_folder, tmp_path, caplog):
    """A resumed run that hears another teacher, or is refused, loses what was trained."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    changes = {
        **DISTIL,
        "contrastive_weight": 0.3,
        "contrastive_queue_size": 8,
        "teacher_cache": str(tmp_path / "cache"),
    }
    changes |= {"max_steps": 4, "train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 2}
    whole = run(build(tmp_path / "whole", tiny_model_dir, given={"peft_config": lora()}, **changes))
    assert isinstance(whole._extra_passes.teacher, CacheTeacher)
    resumed = build(tmp_path / "resumed", tiny_model_dir, given={"peft_config": lora()}, **changes)
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert "checkpoint's teacher" not in caplog.text
    first, second = trained(whole), trained(resumed)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_rows_that_are_not_in_the_cache_are_named_before_training(tiny_model_dir, teacher_folder, tmp_path):
    """They would be taught by nobody, or stop the run in the middle of the night."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    more = [
        *rows(),
        {"prompt": "Who are you?", "completion": " Nobody."},
        {"prompt": "Why?", "completion": " For that."},
    ]
    with pytest.raises(
        ValueError,
        match=r"holds nothing on 2 of the 10 documents of train_dataset \(first: row 8, 'Who are you\? Nob.*'; row 9, "
        r"'Why\?.*Run `hf-ckt cache-teacher",
    ):
        build(
            tmp_path / "run",
            tiny_model_dir,
            Dataset.from_list(more),
            given={"peft_config": lora()},
            teacher_cache=str(tmp_path / "cache"),
            **DISTIL,
        )


def test_a_cache_of_another_template_length_or_tokenizer_is_named(tiny_model_dir, teacher_folder, tmp_path):
    """Each changes the ids of a text, and what was kept would be of other texts."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    given = {"peft_config": lora()}
    settings = {"teacher_cache": str(tmp_path / "cache"), **DISTIL}
    with pytest.raises(ValueError, match=r"another max_length \(1024, this run's is 64\)"):
        build(tmp_path / "run", tiny_model_dir, given=given, max_length=64, **settings)
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    with pytest.raises(ValueError, match="another chat_template"):
        build(tmp_path / "run", tiny_model_dir, given=given, chat_template_path=str(template), **settings)
    other = load(tiny_model_dir)
    with pytest.raises(ValueError, match="another tokenizer than the student's"):
        tokenizer = tiny_models.build_tokenizer(text=["Other words than those, zebra zebra quartz."])
        build(tmp_path / "run", other, given={**given, "processing_class": tokenizer}, **settings)


def test_a_damaged_shard_is_named_before_training(tiny_model_dir, teacher_folder, tmp_path):
    """A flipped bit in a state moves one token's loss, which nobody sees."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    shard = tmp_path / "cache" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors in 'cache' is missing or not what was written"):
        build(
            tmp_path / "run",
            tiny_model_dir,
            given={"peft_config": lora()},
            teacher_cache=str(tmp_path / "cache"),
            **DISTIL,
        )


def test_a_full_disk_is_known_before_the_teacher_runs(tiny_model_dir, teacher_folder, tmp_path, monkeypatch):
    """Hours of a teacher's passes would end with half a cache."""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("hf_ckt.training.teacher_cache.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"still to be written to 'cache', and 0\.00 MB are free"):
        write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)


def test_a_run_without_a_teacher_has_nothing_to_cache(tiny_model_dir, tmp_path):
    """An empty cache would be found out in training."""
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **OFF)
    with pytest.raises(ValueError, match="no term of this run reads a teacher"):
        cache_teachers(trainer, tmp_path / "cache")


# Half of a dtype's spacing at 1, as a share: the most that rounding moves a number.
@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11), ("int8", 1 / 254)]
)
def test_records_are_off_by_no_more_than_their_rounding(dtype, most):
    """A dtype that loses more than it says would be chosen for its size."""
    torch.manual_seed(0)
    states = torch.randn(50, 576) * torch.logspace(-3, 1, 50)[:, None]
    record = encode(states, dtype)
    error = (decode(record, torch.float32) - states).abs()
    # Of int8 the spacing is that of the row's largest; else of each number, down to the smallest that float16 has.
    largest = states.abs().amax(-1, keepdim=True) if dtype == "int8" else states.abs()
    assert (error <= 1.0001 * most * largest + (2**-25 if dtype == "float16" else 0)).all()
    assert sum(values.nbytes for values in record.values()) == 50 * bytes_per_position(576, dtype)


def test_a_position_takes_an_eightieth_of_its_logits():
    """What is kept of SmolLM2-135M (D = 576, V = 49152) against the logits in the same dtype."""
    assert 80 * bytes_per_position(576, "bfloat16") <= 49152 * 2


def test_errors_are_measured_as_they_are(tiny_model_dir, teacher_folder, tmp_path):
    """The error that is printed must be that of the kept states against the live ones, by the whole distribution."""
    found = {}
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        index = write_cache(tmp_path / dtype, tiny_model_dir, teacher_folder, dtype=dtype)
        found[dtype] = measured_errors(index)
        batch = batch_of(build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL))
        kept = logits_of(CacheTeacher.load(tmp_path / dtype, SETUP).signal(batch, None)).double().log_softmax(-1)
        exact = dense(load(teacher_folder), batch).double().log_softmax(-1)
        measured = torch.nn.functional.kl_div(kept, exact, log_target=True, reduction="none").sum(-1).mean().item()
        assert measured <= 10 * found[dtype]["kl"] + 1e-9 and found[dtype]["kl"] <= 10 * measured + 1e-9
    assert found["float32"] == {"states": 0, "kl": 0}
    assert 0 < found["float16"]["states"] < found["bfloat16"]["states"] < found["int8"]["states"] < 0.02


def write_run(folder, student, teacher, count=48):
    """A run file and its data."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    entries = {
        "model_name_or_path": str(student),
        "teacher_model_name_or_path": str(teacher),
        "dataset_name": str(data),
        "output_dir": str(folder / "out"),
        "distillation_weight": 1.0,
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "dtype": "float32",
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
    }
    (folder / "run.yaml").write_text(json.dumps(entries))
    return folder / "run.yaml"


def command(config, output, processes=1):
    words = ["hf_ckt.cli.main", "cache-teacher", "--config", str(config), "--output", str(output)]
    words += ["--shard-mb", "0.01", "--dtype", "float32"]
    launch = ["-m"] if processes == 1 else ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "-m"]
    return subprocess.Popen(
        [sys.executable, *launch, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "29611"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_three_kills_leave_the_files_of_an_unbroken_run(tiny_model_dir, teacher_folder, tmp_path):
    """A shard that is half written, or written twice otherwise, would be read as if it were whole."""
    config = write_run(tmp_path, tiny_model_dir, teacher_folder)
    whole = command(config, tmp_path / "whole")
    said = whole.communicate()[0].decode()
    assert whole.returncode == 0 and "48 documents" in said and "are free" in said, said
    assert "off by 0.00%" in said and "--teacher-cache" in said
    shards = len([*(tmp_path / "whole").glob("shard-*.json")])
    assert shards > 8
    random.seed(time.time_ns())
    moments = sorted(random.sample(range(shards), 3))
    for moment in moments:
        process = command(config, tmp_path / "killed")
        while len([*(tmp_path / "killed").glob("shard-*.json")]) < moment and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = command(config, tmp_path / "killed")
    said = last.communicate()[0].decode()
    assert last.returncode == 0, said
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "killed")]
    assert files[0] == files[1], moments


def test_the_most_probable_tokens_are_kept_and_what_that_loses_is_measured(tiny_model_dir, teacher_folder, tmp_path):
    """A lossy cache whose loss is not known is taken for the teacher."""
    given = {"peft_config": lora(), "teacher_model": str(teacher_folder)}
    trainer = build(tmp_path / "writer", tiny_model_dir, given=given, **DISTIL)
    batch = batch_of(trainer)
    exact = dense(load(teacher_folder), batch).double().log_softmax(-1)
    losses = []
    for count in (2, 8, exact.shape[1] - 1):
        index = cache_teachers(trainer, tmp_path / str(count), top_k=count, say=lambda line: None)
        found = CacheTeacher.load(tmp_path / str(count), SETUP).signal(batch, None)
        assert torch.equal(found.ids, exact.topk(count).indices)
        torch.testing.assert_close(found.log_probs.double(), exact.topk(count).values, rtol=1e-5, atol=1e-5)
        # By hand: inside the tail, its mean log-probability against that of an even spread.
        tail = exact.scatter(1, found.ids, -torch.inf)
        mass = tail.exp().sum(-1)
        even = (mass / (exact.shape[1] - count)).log()
        lost = (tail.exp() * (tail.clamp(min=-700) - even[:, None])).sum(-1).mean().item()
        losses.append(measured_errors(index)["kl"])
        assert losses[-1] == pytest.approx(lost, rel=0.3, abs=1e-6)
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-6


def test_a_cache_of_a_teacher_with_a_context_is_found_by_the_students_text(tiny_model_dir, teacher_folder, tmp_path):
    """Read without its context, the teacher would teach what it says without."""
    data = Dataset.from_list(
        [
            {
                name: [{"role": role, "content": row[name]}]
                for name, role in (("prompt", "user"), ("completion", "assistant"))
            }
            for row in rows()
        ]
    )
    changes = {"teacher_system_prompt": "Be rude.", "train_sampling_strategy": "random"}
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder, data, **changes)
    close_runs(*both(tmp_path, tiny_model_dir, str(teacher_folder), tmp_path / "cache", data, **changes))
    plain = build(
        tmp_path / "plain",
        tiny_model_dir,
        data,
        given={"teacher_model": str(teacher_folder), "peft_config": lora()},
        **DISTIL,
    )
    cached = from_cache(
        tmp_path / "run",
        tiny_model_dir,
        data,
        tmp_path / "cache",
        **DISTIL,
    )
    assert steps(run(plain))[0]["distillation_loss"] != pytest.approx(
        steps(run(cached))[0]["distillation_loss"], rel=1e-3
    )


def test_a_cache_is_one_of_several_teachers(tiny_model_dir, teacher_folder, tmp_path):
    """Rows of the others are not in it, and must not be asked for."""
    data = Dataset.from_list([{**row, "teacher": ("cached", "base")[n % 2]} for n, row in enumerate(rows())])
    own = Dataset.from_list([row for n, row in enumerate(rows()) if n % 2 == 0])
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder, own)
    runs = []
    for one in (str(teacher_folder), {"cache": str(tmp_path / "cache")}):
        given = {"teachers": {"cached": one, "base": None}, "peft_config": lora()}
        runs.append(run(build(tmp_path / "run", tiny_model_dir, data, given=given, **DISTIL)))
    close_runs(*runs)


def test_a_collator_with_a_cache_reaches_a_worker_that_is_not_forked(tiny_model_dir, teacher_folder, tmp_path):
    """What is mapped into memory cannot be pickled, and a spawned worker would die."""
    write_cache(tmp_path / "cache", tiny_model_dir, teacher_folder)
    trainer = build(
        tmp_path / "run",
        tiny_model_dir,
        given={"peft_config": lora()},
        teacher_cache=str(tmp_path / "cache"),
        **DISTIL,
    )
    batch = first_batch(trainer)
    copy = pickle.loads(pickle.dumps(trainer.data_collator))
    again = copy([trainer.train_dataset[number] for number in range(4)])
    stored = [name for name in batch if name.startswith("hf_ckt_stored_")]
    assert stored and all(torch.equal(batch[name], again[name]) for name in stored)


def test_top_k_records_are_a_lossy_teacher(tiny_model_dir, tmp_path):
    """Log-probabilities taken for states would be multiplied with a head."""
    batch = batch_of(build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL))
    documents = documents_of(batch)
    count = sum(one.kept_count for one in documents)
    ids = torch.arange(2 * count).view(count, 2) % 90
    log_probs = torch.tensor([[0.5, 0.25]]).log().expand(count, 2).contiguous()
    teacher = {"kind": "top_k", "name": "served"}
    known = {**teacher, "fingerprint": teacher_fingerprint(teacher), "vocab_size": 200, "k": 2}
    keys = [one.key(known["fingerprint"]) for one in documents]
    facts = store_facts(
        kind="top_k",
        dtype="float32",
        teachers={"": known},
        tokenizer=None,
        chat_template=None,
        max_length=None,
        shards=1,
        rows="0123456789",
    )
    writer = StoreWriter(tmp_path / "cache", facts)
    writer.write(0, "", keys, [one.kept_count for one in documents], {"ids": ids.int(), "log_probs": log_probs})
    writer.finish()
    teacher = CacheTeacher.load(tmp_path / "cache", SETUP)
    found = teacher.signal(batch, None)
    assert teacher.lossy and torch.equal(found.ids, ids) and torch.equal(found.log_probs, log_probs)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tiny_model_dir, teacher_folder, tmp_path):
    """Each with its own shards: a shard that both wrote, or none, would be found missing at the end of hours."""
    config = write_run(tmp_path, tiny_model_dir, teacher_folder, count=16)
    files = []
    for processes in (1, 2):
        process = command(config, tmp_path / str(processes), processes)
        said = process.communicate()[0].decode()
        assert process.returncode == 0, said
        files.append({path.name: path.read_bytes() for path in (tmp_path / str(processes)).iterdir()})
    assert files[0] == files[1] and len(files[0]) > 6
