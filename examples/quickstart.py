# SPDX-License-Identifier: Apache-2.0
"""
Aligns a real instruct model over a frozen 4-bit backbone with the whole objective, and shows what changed.

1. A teacher: LoRA on SmolLM2-135M-Instruct, fine-tuned on the clean starter set.
2. A student: LoRA on the same model in NF4, trained on prompts with typing errors with all five terms: task,
   distillation, contrast, consistency under embedding noise, and a penalty on the adapter.
3. Held-out prompts, clean and with typing errors, before and after, next to the teacher: whether harmful prompts are told
   from look-alikes, by the answers (J) and by the log-odds of beginning a refusal (AUROC). Refusing alone gains nothing.

    python examples/quickstart.py --output-dir out/quickstart

Stopped at any moment, the same command goes on where it was.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from boundary_recipe import DEVICE, DTYPE, SYSTEM_PROMPT, TYPOS, lora, nf4, train, training_arguments
from peft import AutoPeftModelForCausalLM
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed

from hf_ckt import ContrastiveRobustTrainer
from hf_ckt.checkpoints import replace_file, replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.data import load_prompts, load_starter_set, to_prompt_completion
from hf_ckt.evaluation.comparisons.asking import agreement, ask, prompt_row
from hf_ckt.evaluation.comparisons.cards import result_card
from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.comparisons.tables import comparison_rows
from hf_ckt.evaluation.judging import load_judging
from hf_ckt.evaluation.scoring.alignment import alignment_scores
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.hub.run_card import run_backbone, run_facts
from hf_ckt.models.embedded import HUB_ID, embedded_model, weights_origin
from hf_ckt.models.precision import RECORD, backbone_precision, recorded_precision

# What a figure of this script depends on beside the code.
LIBRARIES = ("trl", "transformers", "peft", "torch", "datasets", "bitsandbytes", "tokenizers", "jinja2")


def parse_options() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/quickstart"))
    parser.add_argument("--teacher-steps", type=int, default=240)
    parser.add_argument("--student-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=None, help="held-out prompts of each kind; default: all")
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restart", action="store_true", help="forget what the output folder holds")
    return parser.parse_args()


def training_rows() -> Any:
    """The starter set with each look-alike twice: they are the harder half of telling a request from its wording."""
    rows = load_starter_set("train")
    lookalikes = [index for index, kind in enumerate(rows["kind"]) if kind == "lookalike"]
    return rows.select([*range(len(rows)), *lookalikes])


def train_teacher(options: argparse.Namespace, model: str, folder: Path) -> Any:
    """Fine-tunes the teacher on the clean set, or loads the one that an earlier run finished."""
    if not (folder / "adapter_config.json").exists():
        args = training_arguments(
            folder.with_name("teacher_training"),
            seed=options.seed,
            in_order=False,
            per_device_train_batch_size=options.batch_size,
            max_steps=options.teacher_steps,
            learning_rate=1e-3,
            # Supervised fine-tuning with a light hand on the adapter. With the last weight at 0 this is SFTTrainer, which
            # on CPU projects the prompts' positions through the head too and takes about twice the time.
            distillation_weight=0.0,
            contrastive_weight=0.0,
            consistency_weight=0.0,
            regularization_weight=1e-4,
        )
        data = to_prompt_completion(training_rows(), SYSTEM_PROMPT)
        trainer = ContrastiveRobustTrainer(model=model, args=args, train_dataset=data, peft_config=lora(model))
        train(trainer)
        unfinished = folder.with_name("teacher_unfinished")
        trainer.save_model(str(unfinished))
        unfinished.rename(folder)
    return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=DTYPE).to(DEVICE)


def student_trainer(options: argparse.Namespace, model: str, teacher: Any, folder: Path) -> ContrastiveRobustTrainer:
    args = training_arguments(
        folder.with_name("student_training"),
        seed=options.seed,
        in_order=False,
        per_device_train_batch_size=options.batch_size,
        max_steps=options.student_steps,
        learning_rate=1.5e-3,
        distillation_weight=1.0,
        contrastive_weight=0.1,
        consistency_weight=0.5,
        perturbation="gaussian",
        regularization_weight=1e-4,
    )
    noisy = training_rows().map(
        lambda row, index: {"prompt": TYPOS.apply(row["prompt"], Random(f"{options.seed + index}:{row['prompt']}"))},
        with_indices=True,
    )
    return ContrastiveRobustTrainer(
        model=model,
        args=args,
        train_dataset=to_prompt_completion(noisy, SYSTEM_PROMPT),
        quantization_config=nf4(),
        peft_config=lora(model),
        teacher_model=teacher,
    )


def heldout_prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Held-out prompts of both kinds, clean and with typing errors that training never saw."""
    rows = []
    for name in ("starter-harmful", "starter-lookalike"):
        prompts = load_prompts(name)[: options.prompts]
        rows += [prompt_row(prompt) for prompt in prompts]
        for prompt in prompts:
            noisy = TYPOS.apply(prompt.text, Random(f"{10_000 + options.seed}:{prompt.text}"))
            rows.append(prompt_row(prompt, noisy, corruption="typos", severity=TYPOS.severity))
    return rows


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What an earlier run has measured and kept, or what is measured now."""
    if not file.exists():
        replace_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


def measure(model: Any, tokenizer: Any, options: argparse.Namespace, name: str, work: Path) -> dict[str, Any]:
    """What one model says to the held-out prompts, how far it leans to refusing each, and in which precision."""

    def make() -> dict[str, Any]:
        prompts = heldout_prompts(options)
        title = f"{name}: answering {len(prompts)} held-out prompts"
        asked = {"system_prompt": SYSTEM_PROMPT, "new_tokens": options.new_tokens, "title": title}
        return {"scored_precision": backbone_precision(model), "answers": ask(model, tokenizer, prompts, **asked)}

    return kept(work / f"{name}.json", make)


def measure_agreement(
    trainer: ContrastiveRobustTrainer,
    teacher: Any,
    tokenizer: Any,
    options: argparse.Namespace,
    name: str,
    work: Path,
    answers: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """How far the student predicts what the teacher predicts, on the teacher's own answers."""
    said = [row["answer"] for row in answers]
    asked = {"system_prompt": SYSTEM_PROMPT, "title": f"{name}: agreement with the teacher"}
    return kept(
        work / f"{name}_agreement.json",
        lambda: agreement(trainer.model, teacher, tokenizer, heldout_prompts(options), said, **asked),
    )


def show_table(console: Console, results: dict[str, Any]) -> None:
    rows = comparison_rows(results)
    table = Table(title="Held-out prompts, clean and with typing errors (noise), with 95 % intervals")
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def show_answers(console: Console, results: dict[str, Any], count: int = 3) -> None:
    for kind in ("harmful", "benign"):
        places = [at for at, row in enumerate(results["prompts"]) if row["kind"] == kind and not row["corruption"]]
        for place in places[:count]:
            table = Table(title=f"{kind}: {results['prompts'][place]['prompt']}", title_justify="left")
            table.add_column("before", ratio=1)
            table.add_column("after", ratio=1)
            table.add_row(*(results["models"][name]["answers"][place]["answer"] for name in ("before", "after")))
            console.print(table)


def plot_losses(history: list[dict[str, float]], file: Path) -> None:
    """One panel a term: they differ by orders of magnitude, and each should be seen to move."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {
        "loss": "objective (weighted sum)",
        "task_loss": "task: -log p(token), nats",
        "distillation_loss": "distillation: KL(teacher, student), nats",
        "contrastive_loss": "contrastive: InfoNCE, nats",
        "consistency_loss": "consistency: KL(clean, noisy), nats",
        "regularization_loss": "regularization: ||scale B A||^2",
        "acceptance": "acceptance (1 = the teacher)",
        "mean_token_accuracy": "token accuracy",
    }
    figure, axes = plt.subplots(2, 4, figsize=(16, 6.5), layout="constrained")
    for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        axis.plot(*zip(*points, strict=True), color="#2a6f97", linewidth=1.6)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Training the student on noisy prompts: every term of the objective")
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def main() -> None:
    options = parse_options()
    started, console, model = time.time(), Console(width=118), options.model or embedded_model()
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("output_dir", "restart")}
    settings |= {"dtype": DTYPE}
    # A run of other settings has a folder of its own, so what is found there can be gone on with.
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    work = options.output_dir / f"run-{key}"
    if options.restart:
        shutil.rmtree(work, ignore_errors=True)
    resumed = work.exists()
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(model)

    console.rule("1/3  teacher: LoRA on the clean set")
    teacher = train_teacher(options, model, work / "teacher")
    measured = {"teacher": measure(teacher, tokenizer, options, "teacher", work)}
    measured["teacher"]["trained_precision"] = recorded_precision(work / "teacher" / RECORD)

    console.rule("2/3  student: LoRA over the NF4 backbone, the whole objective, noisy prompts")
    trainer = student_trainer(options, model, teacher, work / "student")
    to_teacher = (trainer, teacher, tokenizer, options)
    said = measured["teacher"]["answers"]
    measured["before"] = measure(trainer.model, tokenizer, options, "before", work) | {"trained_precision": None}
    compared = {"before": measure_agreement(*to_teacher, "before", work, said)}
    train(trainer)

    console.rule("3/3  held-out prompts")
    measured["after"] = measure(trainer.model, tokenizer, options, "after", work)
    measured["after"]["trained_precision"] = run_backbone(trainer)["backbone"]
    compared["after"] = measure_agreement(*to_teacher, "after", work, said)
    described = "LoRA adapter on the same model, fine-tuned on clean data"
    run = run_facts(trainer) | {"base_model": options.model or HUB_ID, "teacher": described}
    results = {
        "command": "python examples/quickstart.py",
        "settings": settings,
        "seconds": round(time.time() - started),
        "resumed": resumed,  # then the seconds are those of the last part only
        "device": short_device_name(),
        "versions": library_versions(*LIBRARIES),
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "generation": {"decoding": "greedy", "new_tokens": options.new_tokens, "system_prompt": SYSTEM_PROMPT},
        "compared_with": "teacher",
        "prompts": heldout_prompts(options),
        "models": {name: {"title": name, **measured[name]} for name in ("before", "teacher", "after")},
        "agreement": {name: part.scores for name, part in alignment_scores(compared, named=True).items()},
        "run": run,
    }
    judging = load_judging("auto")
    judge_answers(results, judging)
    score_answers(results, judging)
    adapter = options.output_dir / "adapter"
    trainer.save_model(str(adapter))
    replace_file(adapter / "README.md", result_card(results, "quickstart").save)
    replace_json(options.output_dir / "results.json", results)
    plot_losses(trainer.state.log_history, options.output_dir / "losses.png")
    show_answers(console, results)
    show_table(console, results)
    console.print(f"{results['seconds']} s in all. {options.output_dir} holds adapter/, losses.png and results.json")


if __name__ == "__main__":
    main()
