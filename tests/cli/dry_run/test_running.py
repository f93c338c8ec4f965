# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt train --dry-run`: what it shows is what the run has, and nothing is left of it."""

import contextlib
import io
import json
import math
import re

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from hf_ckt.cli import main as cli
from tests.processes import run_on_two
from tests.tiny_models import CHAT_TEMPLATE, save_tiny_llama

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} plus one?"}],
        "completion": [{"role": "assistant", "content": f"It is {n + 1}."}],
        "teacher": "safety" if n % 2 else None,
    }
    for n in range(8)
]
RUN = {
    "use_peft": True,
    "lora_target_modules": "all-linear",
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 4,
}


def save(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dry_run(tmp_path, capsys, *words, **config):
    """Exit code, what was printed, and what was said of an error."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out" / "deep"), **RUN, **config}))
    code = cli.main(["train", "--dry-run", "--config", str(file), *words])
    said = capsys.readouterr()
    assert not (tmp_path / "out").exists()
    return code, said.out, said.err


def sections(text):
    """The lines of each section, by the first word of its heading."""
    found, lines = {}, []
    for line in text.splitlines():
        heading = re.match(r"(Settings|Objective|First|Model|Memory|Steps)\b", line)
        if heading:
            lines = found.setdefault(heading[1], [])
        else:
            lines.append(line.strip())
    return found


def plain(tokens):
    return tokens.replace("·", "")


@pytest.fixture(scope="module")
def two_teachers(tmp_path_factory):
    """What a dry run of two teachers with misspelt prompts prints, and the folder of the second teacher."""
    folder = tmp_path_factory.mktemp("two")
    other = save_tiny_llama(folder / "other", seed=7)
    config = {
        "model_name_or_path": str(save_tiny_llama(folder / "model")),
        "dataset_name": save(folder / "rows.jsonl", ROWS),
        "output_dir": str(folder / "out"),
        "learning_rate": 1e-3,
        "seed": 42,
        "hub_token": "hf_0123456789",
        "push_to_hub": True,
        "gradient_accumulation_steps": 2,
        "teachers": {"base": None, "safety": {"model": str(other), "init_kwargs": {"token": "hf_9876543210"}}},
        "perturbation": "typos",
        "consistency_schedule": "warmup",
        "regularization_weight": 0.25,
        "regularization_loss": "reference_kl",
        "role_rows": {"regularization": {"teacher": "base"}},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump({**RUN, **config}))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["train", "--dry-run", "--config", str(folder / "run.yaml")]) == 0
    assert not (folder / "out").exists()
    return printed.getvalue(), str(other)


def test_settings_show_what_differs_and_no_secret(two_teachers):
    """A list of all settings hides the one that was misread, and a token in a log is anybody's."""
    text, _ = two_teachers
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in sections(text)["Settings"][1:] if line}
    assert re.fullmatch(r"0\.001 +2e-05", lines["learning_rate"])
    assert lines["distillation_weight"].startswith("1.0 (chosen by this run)")
    assert lines["regularization_weight"].startswith("0.25 ")
    assert {"seed", "lr_scheduler_type", "logging_steps", "report_to"} & lines.keys() == set()
    assert "(set, not shown)" in lines["hub_token"] and "(set, not shown)" in lines["teachers"]
    assert "hf_" not in text.replace("hf_ckt", "")


def test_objective_shows_the_terms_with_weights_and_schedules(two_teachers):
    """A term that is off looks like one that is on where only the settings are shown."""
    rows = [line.split()[:4] for line in sections(two_teachers[0])["Objective"][1:] if line]
    assert rows == [
        ["task", "nll", "1", "constant"],
        ["distillation", "forward_kl", "1", "constant"],
        ["contrastive", "info_nce", "0.1", "constant"],
        ["consistency", "consistency_kl", "0.5", "warmup"],
        ["regularization", "reference_kl", "0.25", "constant"],
    ]


def test_rows_show_answers_in_brackets_teachers_and_noisy_prompts(two_teachers):
    """A mask that is off by one trains the end of each prompt or loses the end of each answer."""
    lines = [line for line in sections(two_teachers[0])["First"] if line]
    first, second, third = (index for index, line in enumerate(lines) if line.startswith("row "))
    for number, start in enumerate((first, second, third)):
        clean, noisy = (plain(line.partition(": ")[2]) for line in lines[start + 1 : start + 3])
        prompt = f"<|im_start|>user\\nWhat is {number} plus one?<|im_end|>\\n<|im_start|>assistant\\n"
        answer = f"[[It is {number + 1}.<|im_end|>\\n]]"
        assert clean == prompt + answer
        assert noisy != clean and noisy.endswith(f"<|im_end|>\\n<|im_start|>assistant\\n{answer}")
        assert lines[start + 2].startswith("noisy view (typos, severity 0.1): ")
        inside = lines[start + 1].partition("[[")[2].removesuffix("]]").split("·")
        assert f"{len(inside)} of them count" in lines[start]
    assert "teacher: base" in lines[first] and "left out" not in lines[first]
    assert "teacher: safety; left out of: regularization" in lines[second]


def test_model_shows_what_trains_and_who_teaches(two_teachers):
    """Target modules that match too little train next to nothing, without an error."""
    text, other = two_teachers
    lines = sections(text)["Model"]
    # By hand: rank 16 times inputs and outputs of q, k, v, o, gate, up and down, in two layers.
    expected = 2 * 16 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 64) + (64 + 32))
    assert any(line.startswith(f"trained: {expected:,} of ") for line in lines)
    assert any("r=16" in line and "q_proj" in line and "(14 modules)" in line for line in lines)
    assert "teacher base: the student's own base, adapters off (self)" in lines
    assert f"teacher safety: {other} (model)" in lines


def test_steps_show_how_long_the_run_is(two_teachers):
    """Whoever takes micro-batches for optimizer steps plans for half the run."""
    lines = "\n".join(sections(two_teachers[0])["Steps"])
    assert "8 rows; an optimizer step reads 4 rows x 2 micro-batches" in lines
    assert "optimizer steps: 3, 3 epochs of 1" in lines
    # The only two micro-batches that there are, of rows with 9 tokens of an answer each.
    assert re.search(r"tokens a step: about \d+, of which 72 count \(mean of 2 micro-batches\)", lines)
    step, whole = (
        float(n) for n in re.search(r"time a step: ([\d.]+) s; the whole run: about ([\d.]+) s", lines).groups()
    )
    assert 0 < step < whole
    assert re.search(r"loss of these micro-batches: [\d.]+ \(task_loss [\d.]+, distillation_loss ", lines)


def test_memory_is_said_to_be_calculated(two_teachers):
    """A number that nobody measured, taken for a measurement, is trusted on another card."""
    text, _ = two_teachers
    assert "Memory on a CUDA device, calculated as by `hf-ckt fit`, not measured" in text
    lines = sections(text)["Memory"]
    assert any(line.startswith("teachers that are models of their own") for line in lines)
    assert {line.split(":")[0] for line in lines if re.match(r"\d+ GB:", line)} == {"24 GB", "40 GB", "80 GB"}
    assert "The calculation is of a backbone in bfloat16, and this run's is held in float32." in lines


TRL_KINDS = {
    # As the documentation of TRL's command line has them, with names of this test.
    "qlora": (
        {},
        "--use-peft --load-in-4bit --lora-r 32 --lora-alpha 16 --lora-target-modules q_proj v_proj --learning-rate 2e-4 "
        "--gradient-accumulation-steps 2 --eval-strategy no",
    ),
    "mixture": (
        {
            "datasets": [
                {"path": "json", "data_files": "{rows}", "fraction": 0.5},
                {"path": "{rows}", "fraction": 0.5},
            ],
            "dataset_name": None,
        },
        "--max-steps 2",
    ),
    "packing": ({"packing": True, "max_length": 128}, "--packing-strategy bfd --attn-implementation eager"),
    "chat template": ({"chat_template_path": "{template}", "assistant_only_loss": True}, "--num-train-epochs 1"),
    "lora": (
        {"lora_task_type": "CAUSAL_LM"},
        "--use-peft --lora-r 8 --lora-dropout 0.1 --warmup-steps 2 --logging-steps 5",
    ),
}


@pytest.mark.parametrize("kind", TRL_KINDS)
def test_dry_run_takes_the_run_files_and_flags_of_trl(kind, tmp_path, capsys):
    """A run file that has to be rewritten for a look at it is not looked at."""
    config, words = TRL_KINDS[kind]
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)
    chats = [{"messages": [*row["prompt"], *row["completion"]]} for row in ROWS]
    rows = save(tmp_path / "rows.jsonl", chats)
    text = json.dumps({"dataset_name": rows, **config}).replace("{rows}", rows).replace("{template}", str(template))
    # Of whole blocks of 64, which 4 bits need.
    model = save_tiny_llama(tmp_path / "model", hidden_size=64)
    code, out, error = dry_run(tmp_path, capsys, *words.split(), model_name_or_path=str(model), **json.loads(text))
    assert code == 0, error
    assert sections(out).keys() == {"Settings", "Objective", "First", "Model", "Memory", "Steps"}
    if kind == "qlora":
        assert any("nf4 weights" in line for line in sections(out)["Model"])
        assert not any("bfloat16" in line for line in sections(out)["Memory"])
    if kind == "packing":
        assert "row 1, document 2 of " in out
    if kind == "chat template":
        assert plain(out).count("<|im_start|>assistant\\n[[It is ") == 3


def test_dry_run_without_an_extra_term_says_that_it_is_sft(tmp_path, capsys, tiny_model_dir):
    """Weights of 0 that came out of a sweep train something else than was meant."""
    off = {f"{role}_weight": 0.0 for role in ("distillation", "contrastive", "consistency", "regularization")}
    rows = save(tmp_path / "rows.jsonl", [{name: row[name] for name in ("prompt", "completion")} for row in ROWS])
    code, out, error = dry_run(tmp_path, capsys, model_name_or_path=str(tiny_model_dir), dataset_name=rows, **off)
    assert code == 0, error
    assert "No extra term is on: this run is SFTTrainer's." in out and "teacher: none is read" in out
    assert "noisy view" not in out and re.search(r"loss of these micro-batches: [\d.]+$", out, flags=re.M)


def test_dry_run_of_rows_that_stream(tmp_path, capsys, tiny_model_dir):
    """A set without a length has neither rows to count nor epochs."""
    rows = save(tmp_path / "rows.jsonl", [{name: row[name] for name in ("prompt", "completion")} for row in ROWS])
    config = {"model_name_or_path": str(tiny_model_dir), "dataset_streaming": True, "dataset_name": rows}
    code, out, error = dry_run(tmp_path, capsys, max_steps=4, **config)
    assert code == 0, error
    assert "rows stream, their number is not known" in out and re.search(r"^optimizer steps: 4$", out, flags=re.M)
    assert "noisy view: the same tokens, with gaussian noise on their embeddings" in out
    # Two batches to an epoch: without an end of its own, the look would go round for ever.
    assert "mean of 3 micro-batches" in out
    code, out, error = dry_run(tmp_path, capsys, **config)
    assert code == 2 and "max_steps" in error and not out


def test_dry_run_shows_rejected_answers_and_what_the_teacher_reads(tmp_path, capsys, tiny_model_dir):
    """A second text that is laid out wrongly teaches, and nobody sees it."""
    pairs = [{"prompt": f"What is {n}?", "chosen": f" It is {n}, as ever.", "rejected": " No."} for n in range(8)]
    config = {"model_name_or_path": str(tiny_model_dir), "contrastive_rejected": True}
    config["dataset_name"] = save(tmp_path / "pairs.jsonl", pairs)
    code, out, error = dry_run(tmp_path, capsys, **config)
    assert code == 0, error
    assert "student: What is 0?[[ It is 0, as ever.<|im_end|>]]" in plain(out)
    assert "rejected: What is 0?[[ No.<|im_end|>]]" in plain(out)
    rows = save(tmp_path / "rows.jsonl", [{name: row[name] for name in ("prompt", "completion")} for row in ROWS])
    config = {"model_name_or_path": str(tiny_model_dir), "dataset_name": rows, "teacher_system_prompt": "Be kind."}
    code, out, error = dry_run(tmp_path, capsys, **config)
    assert code == 0, error
    read = [line for line in plain(out).splitlines() if line.startswith("  what the teacher reads: ")]
    assert len(read) == 3 and all("system\\nBe kind." in line for line in read)
    assert read[0].endswith("[[It is 1.<|im_end|>\\n]]")


def test_dry_run_ends_with_what_the_run_would_end_with(tmp_path, capsys, tiny_model_dir):
    """A look that passes where the run fails is worse than none."""
    rows = save(tmp_path / "rows.jsonl", ROWS)
    teachers = {"base": None, "guard": str(tiny_model_dir)}
    code, _, error = dry_run(
        tmp_path, capsys, model_name_or_path=str(tiny_model_dir), dataset_name=rows, teachers=teachers
    )
    assert code == 2 and "its column 'teacher' names 'safety'" in error
    code, _, error = dry_run(tmp_path, capsys, "--resume-from-checkpoint", str(tmp_path / "none"), dataset_name=rows)
    assert code == 2 and "resume_from_checkpoint: no such folder" in error


@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_dry_run_refuses_a_loss_that_is_not_finite(extra, tmp_path, capsys):
    """The first step of such a run makes every weight NaN, and SFTTrainer's own loss says nothing."""
    folder = save_tiny_llama(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.constant_(broken.lm_head.weight, math.nan)
    broken.save_pretrained(folder)
    rows = save(tmp_path / "rows.jsonl", [{name: row[name] for name in ("prompt", "completion")} for row in ROWS])
    weights = {"contrastive_weight": 0.0, "consistency_weight": 0.0, "regularization_weight": 0.0}
    code, out, error = dry_run(
        tmp_path, capsys, model_name_or_path=str(folder), dataset_name=rows, distillation_weight=extra, **weights
    )
    assert code != 0 and "Model" in sections(out)
    assert ("not finite at step 1" if extra else "loss: is nan on the first micro-batches") in error


def test_dry_run_of_two_processes_prints_once_and_ends(tmp_path, tiny_model_dir):
    """A process that waits for passes that another leaves out hangs until somebody looks."""
    config = {"model_name_or_path": str(tiny_model_dir), "dataset_name": save(tmp_path / "rows.jsonl", ROWS)}
    config |= {"teachers": {"base": None, "safety": str(tiny_model_dir)}, "ddp_backend": "gloo"}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), **RUN, **config}))
    out = run_on_two("hf_ckt.cli.main", "train", "--dry-run", "--config", file).stdout
    assert out.count("Steps and time") == 1 and not (tmp_path / "out").exists()
    assert "8 rows; an optimizer step reads 4 rows x 1 micro-batches x 2 processes" in out
    # The only micro-batch that there is of each: all rows, with 9 tokens of an answer each.
    assert "of which 72 count (of the only micro-batch)" in out


def test_dry_run_is_no_option_of_other_commands(tmp_path, capsys):
    """`teacher-check --dry-run` would run whole passes over the data."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"output_dir": "x", **RUN}))
    assert cli.main(["teacher-check", "--config", str(file), "--dry-run"]) == 2
    assert "--dry-run: is an option of `hf-ckt train` alone" in capsys.readouterr().err
