# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt train`: wrong input is found before a model is loaded, local data is read, and a run leaves what it should."""

import json
import re

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from trl import DatasetMixtureConfig, ScriptArguments

from hf_ckt.cli import main as cli
from hf_ckt.cli import train
from hf_ckt.models.boundary_probe import BoundaryProbe
from tests.tiny_models import save_tiny_llama

ROWS = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(8)]


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _load(name, **options):
    return train.load_splits(ScriptArguments(dataset_name=str(name), **options), DatasetMixtureConfig())


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_train_reads_local_files(suffix, tmp_path):
    """A file's name that is taken for a Hub id asks the network for somebody's data set."""
    path = tmp_path / f"rows.{suffix}"
    data = Dataset.from_list(ROWS)
    {"json": data.to_json, "jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[suffix](path)
    assert _load(path)["train"].to_list() == ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_train_reads_saved_folders(streaming, tmp_path):
    """`load_dataset` reads such a folder as a heap of arrow files, bookkeeping included."""
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:2])).save_to_disk(tmp_path / "two")
    assert list(_load(tmp_path / "one", dataset_streaming=streaming)["train"]) == ROWS
    two = _load(tmp_path / "two", dataset_streaming=streaming)
    assert list(two["train"]) == ROWS and list(two["test"]) == ROWS[:2]


def test_train_missing_file_says_so(tmp_path):
    """The builder's own error speaks of patterns and data files."""
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl: there is no such file"):
        _load(tmp_path / "rows.jsonl")


def test_train_needs_exactly_one_source():
    """With both given, one of them would be dropped in silence."""
    mixture = DatasetMixtureConfig(datasets=[{"path": "json"}])
    with pytest.raises(ValueError, match="both are given"):
        train.load_splits(ScriptArguments(dataset_name="org/name"), mixture)
    with pytest.raises(ValueError, match="neither is given"):
        train.load_splits(ScriptArguments(), DatasetMixtureConfig())


def test_train_missing_split_names_the_nearest():
    """A KeyError with the split's name alone does not say what there is."""
    with pytest.raises(
        ValueError, match=r"dataset_test_split: .* 'tset'\. Did you mean 'test'\? It has 'train', 'test'"
    ):
        train.pick_split({"train": 1, "test": 2}, "tset", "dataset_test_split")


@pytest.mark.parametrize("word", ["auto", "true", "True", True])
def test_train_resume_auto_takes_the_last_checkpoint(word, tmp_path):
    """Sorting by name instead of by number would redo what checkpoint-10 had, and a cut-off one cannot be read."""
    assert train.resolve_checkpoint(word, str(tmp_path)) is None
    assert train.resolve_checkpoint(word, str(tmp_path / "not_there")) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 11:  # Trainer writes this file last: number 11 was cut off
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert train.resolve_checkpoint(word, str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_train_resume_from_nowhere_is_an_error(tmp_path):
    """A run that quietly starts anew overwrites the one that it should have continued."""
    with pytest.raises(ValueError, match="no such folder"):
        train.resolve_checkpoint(str(tmp_path / "checkpoint-5"), str(tmp_path))
    assert train.resolve_checkpoint("false", str(tmp_path)) is None
    assert train.resolve_checkpoint(str(tmp_path), "elsewhere") == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_load_in_4bit": True}, "teacher_load_in_4bit: there is no teacher to quantize"),
        (
            {"teacher_load_in_4bit": True, "teacher_load_in_8bit": True, "teacher_model_name_or_path": "org/name"},
            "one model has one precision",
        ),
    ],
)
def test_train_teacher_flags_that_do_nothing_raise(arguments, message):
    """A flag without effect is believed to have had one."""
    with pytest.raises(ValueError, match=message):
        train.TeacherArguments(**arguments)


def _main(tmp_path, capsys, *extra, **config):
    file = tmp_path / "run.yaml"
    file.write_text(
        yaml.safe_dump({"output_dir": str(tmp_path / "out"), "report_to": "none", "use_cpu": True, **config})
    )
    code = cli.main(["train", f"--config={file}", *extra])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "extra", "message"),
    [
        (
            {"distilation_weight": 1.0},
            [],
            "unknown option '--distilation_weight'. Did you mean '--distillation_weight'?",
        ),
        ({}, ["--lerning_rate", "1"], "unknown option '--lerning_rate'. Did you mean '--learning_rate'?"),
        ({}, [], "model_name_or_path: is missing"),
        ({"model_name_or_path": "x"}, [], "dataset_name and datasets: exactly one"),
        ({"model_name_or_path": "./none"}, [], "model_name_or_path: there is no such file or folder, './none'"),
        (
            {"model_name_or_path": "x", "teacher_model_name_or_path": "/none"},
            [],
            "teacher_model_name_or_path: there is no such file or folder",
        ),
        ({"model_name_or_path": "x"}, ["--model-init-kwargs", "{a: 1}"], "--model-init-kwargs: is not JSON"),
        ({"distillation_weight": -1.0}, [], "distillation_weight"),
        # What a command without options meets on a machine without GPU: transformers names its Python argument.
        ({"use_cpu": False, "bf16": True}, [], "In a shell, use_cpu is --use-cpu true."),
        ({"distillation_loss": "forward_lk"}, [], "forward_kl"),
    ],
)
def test_train_wrong_input_is_one_sentence(config, extra, message, tmp_path, capsys):
    """What is wrong in a run file is said by name, in one line, before anything is loaded."""
    code, error = _main(tmp_path, capsys, *extra, **config)
    assert code == 2
    assert error.startswith("hf-ckt train: error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_train_config_errors_name_the_file(tmp_path, capsys):
    """A missing or broken run file is the commonest slip of all."""
    assert cli.main(["train", "--config"]) == 2
    assert "--config: needs the path" in capsys.readouterr().err
    assert cli.main(["train", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: }")
    assert cli.main(["train", "--config", str(tmp_path / "broken.yaml")]) == 2
    assert "is not YAML" in capsys.readouterr().err


RUN = {
    "max_steps": 2,
    "save_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": "1e-3",
    "use_peft": True,
    "lora_target_modules": "all-linear",
    "logging_steps": 1,
}


def test_data_are_named_by_their_hub_ids_alone(tmp_path):
    """The name of a file may be that of a customer; a set of the Hub that is not named is nobody's."""
    file = tmp_path / "customer.jsonl"
    file.touch()
    none = DatasetMixtureConfig()
    assert train.data_names(ScriptArguments(dataset_name="org/data"), none) == ["org/data"]
    assert train.data_names(ScriptArguments(dataset_name=str(file)), none) == [train.LOCAL_DATA]
    entries = [{"path": "org/data"}, {"path": str(file)}, {"path": "json", "data_files": str(file)}]
    mixture = DatasetMixtureConfig(datasets=entries)
    assert train.data_names(ScriptArguments(), mixture) == ["org/data", train.LOCAL_DATA]


def test_train_runs_and_resumes(tmp_path, capsys, data_file, tiny_model_dir):
    """The whole way from a YAML file to an adapter with its card, and on from its last checkpoint."""
    config = {**RUN, "model_name_or_path": str(tiny_model_dir), "dataset_name": str(data_file)}
    code, error = _main(tmp_path, capsys, **config)
    assert code == 0, error
    out = tmp_path / "out"
    assert (out / "adapter_model.safetensors").is_file()
    card = (out / "README.md").read_text()
    assert "hf_ckt" in card and str(tmp_path) not in card and str(tiny_model_dir) not in card
    rows = len(data_file.read_text().splitlines())
    assert re.search(
        rf"^\| Data \| files of this machine, {rows} rows, fingerprint [0-9a-f]{{16}} \|$", card, flags=re.M
    )

    code, error = _main(tmp_path, capsys, "--max_steps", "3", "--resume_from_checkpoint", "auto", **config)
    assert code == 0, error
    history = json.loads((out / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [
        1,
        2,
        3,
    ]  # steps 1 and 2 come from the checkpoint


def test_train_takes_a_quantized_teacher(tmp_path, capsys, data_file):
    """A teacher flag that never reaches the trainer leaves a run without its teacher, and nothing says so."""
    # bitsandbytes' packed CPU kernel needs rows of whole blocks of 64, which the shared tiny model has not.
    model_dir = save_tiny_llama(tmp_path / "model", hidden_size=64)
    config = {
        **RUN,
        "model_name_or_path": str(model_dir),
        "dataset_name": str(data_file),
        "teacher_model_name_or_path": str(model_dir),
        "teacher_load_in_4bit": True,
        "distillation_weight": 1.0,
    }
    code, error = _main(tmp_path, capsys, **config)
    assert code == 0, error
    history = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    # 4 bits differ from the student's float32, so the divergence of the first step is above 0: this teacher was read.
    assert history[0]["distillation_loss"] > 1e-6


def _save(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "b"}, "rows.jsonl: has the columns question, answer"),
        ({"instruction": "a", "input": "", "output": "b"}, "rows.jsonl: has the columns instruction, input, output"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "Set contrastive_rejected"),
        ({"prompt": "a", "completion": None}, "rows.jsonl, row 1 (line 1): has None as 'completion'"),
    ],
)
def test_train_rows_of_another_form_are_told_before_a_model_is_loaded(row, message, tmp_path, capsys):
    """Hours in the queue of a cluster end in a KeyError."""
    name = _save(tmp_path / "rows.jsonl", [row])
    code, error = _main(tmp_path, capsys, model_name_or_path="somebody/no-such-model", dataset_name=name, bf16=False)
    assert code == 2 and message in error.splitlines()[-1]


def test_train_checks_what_it_evaluates_on(tmp_path, capsys):
    """The first evaluation may come after a day of training."""
    rows = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list([{"prompt": "a", "completion": None}]))
    rows.save_to_disk(tmp_path / "saved")
    config = {
        "model_name_or_path": "x",
        "dataset_name": str(tmp_path / "saved"),
        "eval_strategy": "steps",
        "bf16": False,
    }
    code, error = _main(tmp_path, capsys, **config, eval_steps=1)
    assert code == 2 and "saved, split test, row 1: has None as 'completion'" in error


def test_train_says_what_no_longer_fits(tmp_path, capsys, data_file, tiny_model_dir):
    """With no row left, the sampler speaks of its number of samples; behind the last position, an index is out of range."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.tiny_models import build_tokenizer

    config = {**RUN, "dataset_name": str(data_file), "bf16": False}
    code, error = _main(tmp_path, capsys, **config, model_name_or_path=str(tiny_model_dir), max_length=2)
    assert code == 2 and "max_length=2: of no row is an answer left" in error
    tokenizer = build_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config["lora_target_modules"] = ".*c_attn"
    code, error = _main(tmp_path, capsys, **config, model_name_or_path=str(tmp_path / "gpt2"))
    assert code == 2 and "the model has learned 8 positions" in error and "Set max_length=8 or less" in error


def test_train_names_an_id_that_the_model_cannot_read(tmp_path, capsys, tiny_model_dir):
    """On a CPU it is an IndexError of torch, on a GPU an assertion of a kernel, of no row."""
    name = _save(tmp_path / "ids.jsonl", [{"input_ids": [1, 2, 3]}, {"input_ids": [1, 9_999, 3]}])
    code, error = _main(tmp_path, capsys, model_name_or_path=str(tiny_model_dir), dataset_name=name, bf16=False)
    assert code == 2 and "a row holds the token id 9999, and the model has embeddings for" in error


def test_train_names_the_row_that_a_template_refuses(tmp_path, capsys):
    """The error of a template speaks of roles, and not of which of thousands of chats."""
    from tests.tiny_models import CHAT_TEMPLATE

    folder = save_tiny_llama(tmp_path / "model")
    refusal = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{%- endif %}"
    (folder / "chat_template.jinja").write_text(refusal + CHAT_TEMPLATE)
    turns = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]
    name = _save(tmp_path / "chats.jsonl", [{"messages": turns[1:]}, {"messages": turns}])
    code, error = _main(tmp_path, capsys, model_name_or_path=str(folder), dataset_name=name, bf16=False)
    said = "hf-ckt train: error: chats.jsonl, row 2 (line 2): the model's chat template refuses it (no system role)"
    assert code == 2 and said in error


def test_train_tells_a_shells_options_for_the_trainers_arguments(tmp_path, capsys, data_file, tiny_model_dir):
    """`peft_config` can be passed nowhere in a shell."""
    config = {**RUN, "model_name_or_path": str(tiny_model_dir), "dataset_name": str(data_file), "bf16": False}
    config["distillation_weight"] = 1.0
    code, error = _main(tmp_path, capsys, **{**config, "use_peft": False})
    assert code == 2 and "--use-peft" in error and "--teacher-model-name-or-path" in error
    other = save_tiny_llama(tmp_path / "teacher")
    file = json.loads((other / "tokenizer.json").read_text())
    vocabulary = file["model"]["vocab"]
    file["model"]["vocab"] = dict(zip(vocabulary, reversed(list(vocabulary.values())), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(file))
    code, error = _main(tmp_path, capsys, **config, teacher_model_name_or_path=str(other))
    assert code == 2 and error.endswith(" In a shell, teacher_model is --teacher-model-name-or-path.\n")


def test_train_says_once_how_a_run_file_names_the_teacher(tmp_path, capsys, data_file):
    """Two names for one entry, neither of which can be written in the file, leave the reader guessing."""
    code, error = _main(
        tmp_path, capsys, model_name_or_path="x", dataset_name=str(data_file), teacher_model={"model": "y"}
    )
    assert code == 2
    assert error.endswith("unknown option '--teacher_model'. Here it is called --teacher_model_name_or_path.\n")


@pytest.mark.parametrize("teachers", [{"a": "org/none"}, {"a": {"soft_route": "probe", "refuse": "org/none"}}])
def test_train_does_not_take_a_teacher_for_the_student(teachers, tmp_path, capsys, tiny_model_dir):
    """Whoever is told that the student is not there looks for a fault where none is."""
    rows_of_one = [{**row, "teacher": "a"} for row in ROWS]
    BoundaryProbe([1], torch.zeros(64), 0.0).save(tmp_path / "probe")
    if isinstance(teachers["a"], dict):
        teachers = {"a": {**teachers["a"], "soft_route": str(tmp_path / "probe")}}
    code, error = _main(tmp_path, capsys, **_routed(tmp_path, tiny_model_dir, teachers, rows_of_one))
    assert code == 2 and "teachers, a" in error and "org/none" in error and "model_name_or_path," not in error


def test_train_names_the_model_that_is_not_there(tmp_path, capsys, data_file):
    """Without network the library's words name no model."""
    code, error = _main(tmp_path, capsys, model_name_or_path="org/nowhere", dataset_name=str(data_file), bf16=False)
    assert code == 2 and error.endswith("What was to be loaded is model_name_or_path, 'org/nowhere'.\n")


def test_train_mixtures_read_files_as_alone(tmp_path):
    """A path of this machine in a mixture would be looked up on the Hub."""
    one, two = _save(tmp_path / "one.JSONL", ROWS[:4]), tmp_path / "two.json"
    two.write_text(json.dumps(ROWS[4:]))
    entries = [{"path": one}, {"path": str(two), "split": "train"}]
    loaded = train.load_splits(ScriptArguments(), DatasetMixtureConfig(datasets=entries))
    assert loaded["train"].to_list() == ROWS
    half = train.load_splits(ScriptArguments(), DatasetMixtureConfig(datasets=[{"path": one, "split": "train[:50%]"}]))
    assert half["train"].to_list() == ROWS[:2]
    (tmp_path / "three.jsonl").write_text('{"prompt": "a"},\n')
    for entry in (
        {"path": str(tmp_path / "three.jsonl")},
        {"path": "json", "data_files": str(tmp_path / "three.jsonl")},
    ):
        with pytest.raises(ValueError, match=r"three\.jsonl, line 1: is not JSON"):
            train.load_splits(ScriptArguments(), DatasetMixtureConfig(datasets=[entry]))
    (tmp_path / "four.tsv").write_text("prompt\tcompletion\na\tb\n")
    with pytest.raises(ValueError, match=r"four\.tsv is separated by tabs"):
        train.load_splits(ScriptArguments(), DatasetMixtureConfig(datasets=[{"path": str(tmp_path / "four.tsv")}]))


def test_train_push_that_is_refused_says_where_the_run_is(tmp_path):
    """After the last step, a traceback of the client looks as if the run were lost."""
    from types import SimpleNamespace

    def refuse(**kwargs):
        raise ConnectionError("refused")

    trainer = SimpleNamespace(push_to_hub=refuse, hub_model_id="a/b", args=SimpleNamespace(output_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"a/b was not pushed \(ConnectionError: refused\).* complete in {tmp_path}"):
        train._push(trainer)


def _routed(tmp_path, tiny_model_dir, teachers, rows=None, **changes):
    """A run of several teachers from files, of which every other row names the second."""
    named = [{**row, "teacher": "safety" if n % 2 else None} for n, row in enumerate(ROWS)] if rows is None else rows
    return {
        **RUN,
        "bf16": False,
        "model_name_or_path": str(tiny_model_dir),
        "dataset_name": _save(tmp_path / "rows.jsonl", named),
        "distillation_weight": 1.0,
        "teachers": teachers,
        **changes,
    }


def test_train_several_teachers_from_a_file_and_a_column(tmp_path, capsys, tiny_model_dir):
    """A mapping that reaches the trainer as a text, or not at all, teaches every row by one teacher."""
    other = save_tiny_llama(tmp_path / "wide", seed=7, hidden_size=64)
    teachers = {"base": None, "safety": {"model": str(other), "load_in_4bit": True}}
    code, error = _main(tmp_path, capsys, **_routed(tmp_path, tiny_model_dir, teachers))
    assert code == 0, error
    first = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"][0]
    # A fresh adapter is its own base; a random model of another seed is not.
    assert first["distillation_loss/base"] == pytest.approx(0, abs=1e-6)
    assert first["distillation_loss/safety"] > 0.1
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_train_rows_that_a_role_counts_on_from_a_file(tmp_path, capsys, tiny_model_dir):
    """A rule that is read and not followed looks like one that makes no difference."""
    other = save_tiny_llama(tmp_path / "other", seed=7)
    found = {}
    for name, rules in (("all", None), ("base", {"distillation": {"teacher": "base"}})):
        rows = [{**row, "teacher": "safety" if n % 2 else "base"} for n, row in enumerate(ROWS)]
        config = _routed(tmp_path, tiny_model_dir, {"base": None, "safety": str(other)}, rows, role_rows=rules)
        code, error = _main(tmp_path, capsys, **{**config, "output_dir": str(tmp_path / name)})
        assert code == 0, error
        state = json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text())
        found[name] = state["log_history"][0]["distillation_loss"]
    assert found["all"] > 0.1 and found["base"] == pytest.approx(0, abs=1e-6)


def test_train_teachers_on_the_command_line(tmp_path, capsys, tiny_model_dir):
    """In a shell a mapping is JSON, and what is not JSON is said before anything is loaded."""
    config = _routed(tmp_path, tiny_model_dir, None)
    teachers = json.dumps(
        {"base": None, "safety": {"model": str(tiny_model_dir), "init_kwargs": {"dtype": "float32"}}}
    )
    code, error = _main(tmp_path, capsys, "--teachers", teachers, **config)
    assert code == 0, error
    code, error = _main(tmp_path, capsys, "--teachers", "{base: null}", **config)
    assert code == 2 and "--teachers: is not JSON" in error


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"base": None, "safety": "./none"}, "teachers, safety: there is no such file or folder, './none'"),
        ({"base": None, "safety": {"model": "./none"}}, "teachers, safety, model: there is no such file or folder"),
        ({"base": None, "safety": {"modle": "org/name"}}, "so it is not known who teaches. Did you mean 'model'?"),
        (
            {"base": None, "safety": {"model": "x", "load_in_4_bit": True}},
            "teachers, safety: model has no setting 'load_in_4_bit'",
        ),
        (
            {"base": None, "soft": {"soft_route": "./none", "refuse": "x"}},
            "teachers, soft, soft_route: there is no such file or folder, './none'. Write a probe",
        ),
        (
            {"base": None, "soft": {"soft_route": "x", "refuse": {"adapter": "./none"}}},
            "teachers, soft, refuse, adapter: there is no such file or folder, './none'",
        ),
        (["org/name"], "teachers: must map names to teachers, got ['org/name']"),
        ({"base": None, "guard": "x"}, "rows.jsonl, row 2 (line 2): its column 'teacher' names 'safety'"),
    ],
)
def test_train_teachers_that_cannot_be_are_one_sentence(teachers, message, tmp_path, capsys):
    """The second of several teachers is loaded minutes after the first."""
    code, error = _main(tmp_path, capsys, **_routed(tmp_path, "somebody/no-such-model", teachers))
    assert code == 2 and message in error.splitlines()[-1], error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"teachers": {"a": "x", "b": "y"}}, "teachers"),
        ({"teachers": None, "role_rows": {"distillation": {"teacher": "b"}}}, "role_rows['distillation']"),
    ],
)
def test_train_teachers_without_their_column(settings, option, tmp_path, capsys):
    """All rows would hear the first, and the loss would fall all the same."""
    config = _routed(tmp_path, "somebody/no-such-model", rows=ROWS, **settings)
    code, error = _main(tmp_path, capsys, **config)
    assert code == 2 and f"{option}: the data set rows.jsonl has no column 'teacher'" in error, error


def test_train_one_teacher_as_a_mapping(tmp_path, capsys, data_file):
    """With its own settings the one teacher is written as one of several is."""
    model_dir = save_tiny_llama(tmp_path / "model", hidden_size=64)
    config = {**RUN, "bf16": False, "model_name_or_path": str(model_dir), "dataset_name": str(data_file)}
    config |= {
        "teacher_model_name_or_path": {"model": str(model_dir), "load_in_4bit": True},
        "distillation_weight": 1.0,
    }
    code, error = _main(tmp_path, capsys, **config)
    assert code == 0, error
    history = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert history[0]["distillation_loss"] > 1e-6  # as in 4 bits


def test_train_a_flag_holds_for_each_teacher_that_does_not_say_otherwise(tmp_path, capsys):
    """A flag that reached only the one teacher left several in full, on a card that was chosen for 4 bits."""
    from safetensors import safe_open

    model_dir = save_tiny_llama(tmp_path / "model", hidden_size=64)
    teachers = {"safety": str(model_dir), "plain": {"model": str(model_dir), "load_in_4bit": False}}
    rows = [{**row, "teacher": "safety" if n % 2 else "plain"} for n, row in enumerate(ROWS)]
    config = _routed(tmp_path, model_dir, teachers, rows, teacher_load_in_4bit=True)
    code, error = _main(tmp_path, capsys, **config)
    assert code == 0, error
    with safe_open(tmp_path / "out" / "checkpoint-2" / "hf_ckt_state.safetensors", framework="pt") as file:
        known = json.loads(file.metadata()["teacher"])["teachers"]
    assert {name: one.get("quantization") for name, one in known.items()} == {"plain": None, "safety": "nf4"}
