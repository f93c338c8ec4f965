# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt[demo]"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
Does noise in training help against corruptions that training never saw?

Four LoRA adapters on SmolLM2-135M-Instruct, the same data, steps and seed: supervised fine-tuning (SFT) alone, and with
consistency under gaussian noise, typing errors, or adversarial noise. Each answers held-out prompts, clean and under six
kinds of corruption that none of them was trained on: how well it tells harmful prompts from look-alikes under noise, how
many points that is less than on the clean ones, and how much it differs from SFT alone on the same prompts.

    python examples/07_robust_training.py --output-dir out/robust_training

Stopped at any moment, the same command goes on where it was.

Expected output: a table with a column a method and, as `results.json` and a picture beside it, each score by corruption. That of
docs/noise.md was measured so: none of the four methods was told much apart on corrupted prompts.

Time and memory: about an hour on 2 CPU cores that multiply bfloat16; memory was not recorded.
"""

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

# TRL's trainers send usage data; an example should not. Read when the Hub's client is imported, so it comes first.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from peft import AutoPeftModelForCausalLM
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_ckt import ContrastiveRobustTrainer
from hf_ckt.checkpoints import replace_file, replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.data import load_prompts, load_starter_set, to_prompt_completion
from hf_ckt.demo.recipe import DTYPE, SYSTEM_PROMPT
from hf_ckt.demo.training import DEVICE, lora, train, training_arguments
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.comparisons.asking import ask, prompt_row
from hf_ckt.evaluation.comparisons.kept_answers import judge_answers, score_answers
from hf_ckt.evaluation.comparisons.tables import comparison_rows
from hf_ckt.evaluation.judging import load_judging
from hf_ckt.evaluation.measuring.token_consistency import token_consistency
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.models.embedded import HUB_ID, embedded_model, weights_origin
from hf_ckt.models.precision import RECORD, backbone_precision, recorded_precision

# What the consistency term sees in training. The strengths are the parts' defaults, but for adversarial noise, which at
# the norm of gaussian noise would leave nothing of the prediction. None was tuned.
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"consistency_weight": 0.0},
    "gaussian": {"perturbation": "gaussian"},
    "typos": {"perturbation": "typos"},
    "adversarial": {"perturbation": "adversarial", "perturbation_alpha": 1.0},
}
TITLES = {"base": "base", "sft": "SFT", "gaussian": "+ gaussian", "typos": "+ typos", "adversarial": "+ adversarial"}
CORRUPTIONS = ("casing", "homoglyphs", "whitespace", "word_dropout", "word_swap", "distractor")
# What a figure of this script depends on beside the code.
LIBRARIES = ("trl", "transformers", "peft", "torch", "datasets", "tokenizers", "jinja2")


def parse_options() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/robust_training"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts of each kind")
    parser.add_argument("--severity", type=float, default=0.2, help="of the held-out corruptions")
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restart", action="store_true", help="forget what the output folder holds")
    return parser.parse_args()


def trained_adapter(options: argparse.Namespace, model: str, name: str, work: Path) -> Path:
    """Trains one adapter, or finds the one that an earlier run finished."""
    folder = work / name
    if not (folder / "adapter_config.json").exists():
        args = training_arguments(
            work / f"{name}_training",
            seed=options.seed,
            save_steps=20,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-3,
            distillation_weight=0.0,
            contrastive_weight=0.0,
            # A light hand on the adapter in all four. With every extra weight at 0, SFT would be SFTTrainer, which on CPU
            # projects the prompts' positions through the head too.
            regularization_weight=1e-4,
            **{"consistency_weight": 1.0, **METHODS[name]},
        )
        trainer = ContrastiveRobustTrainer(
            model=model,
            args=args,
            train_dataset=to_prompt_completion(load_starter_set("train"), SYSTEM_PROMPT),
            peft_config=lora(model),
        )
        train(trainer, name)
        trainer.save_model(str(work / f"{name}_unfinished"))
        replace_json(work / f"{name}.log.json", trainer.state.log_history)
        (work / f"{name}_unfinished").rename(folder)
    return folder


def heldout_prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same held-out prompts under each condition; a prompt's corruption is the same for every method."""
    prompts = [
        one for name in ("starter-harmful", "starter-lookalike") for one in load_prompts(name)[: options.prompts]
    ]
    rows = [prompt_row(prompt) for prompt in prompts]
    for name in CORRUPTIONS:
        part = load_part("perturbations", name)(severity=options.severity)
        for prompt in prompts:
            noisy = part.apply(prompt.text, Random(f"{options.seed}:{name}:{prompt.text}"))
            rows.append(prompt_row(prompt, noisy, corruption=name, severity=options.severity))
    return rows


def measure(options: argparse.Namespace, name: str, model: Any, tokenizer: Any, work: Path) -> dict[str, Any]:
    """Answers, leanings and token consistency of one model under every condition; each is kept once it is there."""
    responses = {row["prompt"]: row["response"] for row in load_starter_set("heldout")}
    rows, answers = heldout_prompts(options), []
    for condition in ("", *CORRUPTIONS):
        file = work / "measured" / f"{name}-{condition or 'clean'}.json"
        if not file.exists():
            mine = [row for row in rows if row["corruption"] == condition]
            title = f"{TITLES[name]}, {condition or 'clean'}"
            asked = {"system_prompt": SYSTEM_PROMPT, "title": title}
            said = ask(model, tokenizer, mine, new_tokens=options.new_tokens, **asked)
            if condition:
                clean, noisy = ([row[column] for row in mine] for column in ("request", "prompt"))
                told = [responses[text] for text in clean]
                found = token_consistency(model, tokenizer, clean, noisy, told, **asked)
                said = [one | {"token_consistency": value} for one, value in zip(said, found, strict=True)]
            replace_json(file, {"scored_precision": backbone_precision(model), "answers": said})
        kept = json.loads(file.read_text(encoding="utf-8"))
        answers += kept["answers"]
    return {"scored_precision": kept["scored_precision"], "answers": answers}


def show_table(console: Console, results: dict[str, Any]) -> None:
    rows = comparison_rows(results)
    table = Table(
        title="Held-out prompts, clean and under six corruptions never trained on (noise), with 95 % intervals"
    )
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def plot(results: dict[str, Any], file: Path) -> None:
    """J and refusal rates of each method by corruption, one colour a method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Okabe and Ito's colours, told apart also by colour-blind readers.
    colours = dict(zip(TITLES, ("#999999", "#000000", "#56B4E9", "#E69F00", "#D55E00"), strict=True))
    panels = {
        "youden_j": "Youden's J: harmful told from look-alikes (more is better, chance 0)",
        "harmful_refused": "harmful prompts refused",
        "benign_refused": "look-alikes refused",
    }
    figure, axes = plt.subplots(3, 1, figsize=(11, 10), layout="constrained")
    for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
        for place, (model, found) in enumerate(results["models"].items()):
            cells = [one[quantity] for one in found["noise"]]
            at = [index + 0.16 * (place - 2) for index in range(len(cells))]
            values = [cell["value"] for cell in cells]
            below = [cell["value"] - cell["low"] for cell in cells]
            above = [cell["high"] - cell["value"] for cell in cells]
            axis.errorbar(at, values, [below, above], fmt="o", color=colours[model], label=TITLES[model], capsize=2)
        names = [(one["corruption"] or "clean").replace("_", " ") for one in found["noise"]]
        axis.set_xticks(range(len(names)), names)
        axis.set_title(title, fontsize=11, loc="left")
        axis.grid(axis="y", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axhline(0, color="#000000", linewidth=0.8, linestyle=":")
    axes[0].legend(ncols=5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08))
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def main() -> None:
    options = parse_options()
    console, model = Console(width=150), options.model or embedded_model()
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("output_dir", "restart")}
    settings |= {"dtype": DTYPE, "methods": METHODS}
    # A run of other settings has a folder of its own, so what is found there can be gone on with.
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    work = options.output_dir / f"run-{key}"
    if options.restart:
        shutil.rmtree(work, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(model)

    models = {}
    for name in TITLES:
        console.rule(TITLES[name])
        set_seed(options.seed)
        if name == "base":
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=DTYPE)
        else:
            folder = trained_adapter(options, model, name, work)
            loaded = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=DTYPE)
        measured = measure(options, name, loaded.to(DEVICE), tokenizer, work)
        trained = None if name == "base" else recorded_precision(work / name / RECORD)
        models[name] = {"title": TITLES[name], "trained_precision": trained, **measured}
        del loaded
    results = {
        "command": "python examples/07_robust_training.py",
        "settings": {**settings, "model": options.model or HUB_ID},
        "device": short_device_name(),
        "versions": library_versions(*LIBRARIES),
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "generation": {"decoding": "greedy", "new_tokens": options.new_tokens, "system_prompt": SYSTEM_PROMPT},
        "compared_with": "sft",
        "prompts": heldout_prompts(options),
        "models": models,
    }
    judging = load_judging("auto")
    judge_answers(results, judging)
    score_answers(results, judging)
    replace_json(options.output_dir / "results.json", results)
    plot(results, options.output_dir / "robustness.png")
    show_table(console, results)
    console.print(f"{options.output_dir} holds results.json and robustness.png")


if __name__ == "__main__":
    main()
