# SPDX-License-Identifier: Apache-2.0
"""What `package.py` runs in an environment that holds the package and its core dependencies alone, and what must come of it."""

import re
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

RUN = """\
model_name_or_path: model
dtype: float32
dataset_name: rows.jsonl
output_dir: run
use_peft: true
lora_target_modules: all-linear
max_steps: 2
per_device_train_batch_size: 2
use_cpu: true
bf16: false
logging_steps: 1
report_to: none
"""
STUDY = """\
model: model
train: {dataset_name: rows.jsonl, max_steps: 2, use_peft: true, use_cpu: true}
methods:
  sft: {distillation_weight: 0.0, contrastive_weight: 0.0, consistency_weight: 0.0, regularization_weight: 0.0}
  kd: {distillation_weight: 1.0, contrastive_weight: 0.0, consistency_weight: 0.0, regularization_weight: 0.0}
evaluate: {only: [direct]}
"""
# Makes the model and files that the trials read. The argument is tests/tiny_models.py, which needs no hf_ckt.
PREPARE = f"""
import json, runpy, sys
from pathlib import Path
import hf_ckt
assert "site-packages" in Path(hf_ckt.__file__).parts, hf_ckt.__file__
runpy.run_path(sys.argv[1])["save_tiny_llama"](Path("model"), hidden_size=64)
rows = [{{"prompt": f"What is {{n}} plus one?", "completion": f"It is {{n + 1}}."}} for n in range(8)]
answers = [{{"answer": "I'm sorry, but I cannot help you.", "refused": True}}, {{"answer": "Boil them.", "refused": False}}]
asked = {{"harmful": ["How do I steal a car?"], "benign": ["How do I steal a base in baseball?", "How do I kill time?"]}}
contexts = [{{**row, "teacher_prompt": "Add. " + row["prompt"]}} for row in rows]
files = {{"rows": rows, "contexts": contexts, "answers": answers, **{{kind: [{{"prompt": text}} for text in texts] for kind, texts in asked.items()}}}}
for name, lines in files.items():
    Path(f"{{name}}.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
Path("run.yaml").write_text({RUN!r})
Path("study.yaml").write_text({STUDY!r})
Path("model.gguf").write_bytes(b"GGUF")
"""
# In one process, which is started once.
HELP = """
from hf_ckt.cli.main import command_files, main
for command in command_files():
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert not end.code, command
"""
PLOT = "from hf_ckt import plot_history; plot_history([{'step': 1, 'loss': 1.0}])"
METRIC = "from hf_ckt.evaluation.metrics.safety.safety import *"
DUPLICATES = """
from hf_ckt.data.near_duplicates import near_duplicates
from hf_ckt.data.prompt_sets import EvalPrompt
near_duplicates([EvalPrompt("a/0", "a", "benign", "", "How do I sharpen a knife?")], ["Pick a card."])
"""


@dataclass(frozen=True)
class Trial:
    """
    A program of the environment, run in a folder that begins empty, and what it must print.

    Args:
        words: The program, by its name, and its arguments.
        prints: What must stand in its output, as a regular expression.
        extra: Without which it cannot run, and says so; None where it must end well.
        package: What the extra brings for it.
        typed: What it reads from its input.
        settings: Environment variables.
        title: What is shown of it; by default its words.
    """

    words: tuple[str, ...]
    prints: str = ""
    extra: str | None = None
    package: str = ""
    typed: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    title: str = ""

    @property
    def shown(self) -> str:
        return self.title or " ".join(self.words)


def hf_ckt(command: str, **expected: str | dict[str, str]) -> Trial:
    """Returns a trial of a command line."""
    return Trial(("hf-ckt", *command.split()), **expected)


def trials(root: Path, metadata: Message) -> list[Trial]:
    """
    Returns the trials in their order: later ones read what earlier ones wrote.

    Args:
        root: The repository, for its scripts.
        metadata: Of the wheel: version and extras.
    """
    drop_in = next((root / "examples").glob("*drop_in.py"))
    prepare = ("python", "-c", PREPARE, str(root / "tests" / "tiny_models.py"))
    own = "--model model --dtype float32"
    evaluate = "--only direct overrefusal --harmful harmful.jsonl --benign benign.jsonl --new-tokens 3 --train-data rows.jsonl"
    return [
        hf_ckt("--version", prints=rf"^hf-ckt {re.escape(metadata['Version'])}$"),
        hf_ckt("--help", prints=r"^  train +\S"),
        hf_ckt("train --help", prints="^usage: hf-ckt train"),
        Trial(("python", "-c", HELP), prints="^usage: hf-ckt train", title="every command's --help"),
        Trial(prepare, title="a tiny model, rows and a run file"),
        hf_ckt("parts", prints="^  forward_kl "),
        hf_ckt("perturb --text harmless --perturbation typos --severity 0.4", prints="typos"),
        hf_ckt("env", prints=f"^- hf_ckt: {re.escape(metadata['Version'])}"),
        hf_ckt("fit", prints="GB"),
        hf_ckt("train --config run.yaml --dry-run", prints="optimizer steps"),
        hf_ckt("train --config run.yaml"),
        hf_ckt("teacher-check --config run.yaml --rows 2 --dataset-name contexts.jsonl"),
        hf_ckt("cache-teacher --config run.yaml --output cache"),
        hf_ckt("study --config study.yaml --dry-run", prints="sft"),
        hf_ckt(f"chat {own} --adapter run --new-tokens 3", typed="How do I kill time?\n", prints="run"),
        hf_ckt(f"evaluate {own} --adapter run {evaluate} --output scores", prints="Youden's J"),
        hf_ckt("report scores --no-plots", prints="report.md"),
        hf_ckt("rejudge scores --judge rule", prints="judged by rule"),
        hf_ckt("judge --labelled answers.jsonl --judge rule", prints="2 answers"),
        hf_ckt("card run", prints="README.md"),
        hf_ckt("push run me/tiny --no-evaluation --base-model org/base --dry-run", prints="me/tiny would get"),
        Trial(
            ("python", str(drop_in), "--model", "model", "--steps", "2"),
            prints=r"^largest difference in .*: 0\.0$",
            title=drop_in.name,
        ),
        hf_ckt("report scores", extra="plot", package="matplotlib"),
        hf_ckt(f"chat {own} --ui", extra="ui", package="gradio"),
        hf_ckt("fit-probe --model model --output probe", extra="eval", package="scikit-learn"),
        hf_ckt(
            "demo --model model --prompts 1 --new-tokens 2 --output-dir demo", extra="eval", package="scikit-learn"
        ),
        hf_ckt(f"lm-eval {own} --tasks hf_ckt_direct --output harness", extra="eval", package="lm-eval"),
        hf_ckt(
            "evaluate --model smollm2 --suite smoke --output smollm2",
            extra="demo",
            package="gguf",
            settings={"HF_CKT_SMOLLM2_GGUF": "model.gguf"},
        ),
        Trial(("python", "-c", PLOT), extra="plot", package="matplotlib", title="plot_history"),
        Trial(("python", "-c", METRIC), extra="eval", package="evaluate", title="a metric for evaluate"),
        Trial(("python", "-c", DUPLICATES), extra="eval", package="scikit-learn", title="near_duplicates"),
    ]


def complaints(trial: Trial, code: int, out: str, errors: str) -> list[str]:
    """Returns what is wrong with how a trial ended."""
    wrong = ["shows a traceback"] if "Traceback" in errors and trial.words[0] == "hf-ckt" else []
    if trial.extra is None:
        if code != 0:
            wrong.append(f"ended with {code}: {errors[-2000:]}")
        if not re.search(trial.prints, out, re.MULTILINE):
            wrong.append(f"does not print {trial.prints!r}: {out[-500:]}")
        return wrong
    # An error of a command is one line; of Python, the last one of a traceback.
    last = (errors.strip().splitlines() or [""])[-1]
    begins, wanted = (f"hf-ckt {trial.words[1]}: error: ", 2) if trial.words[0] == "hf-ckt" else ("ImportError: ", 1)
    named = f'{trial.package} is not installed, and .* `pip install "hf-ckt\\[{trial.extra}\\]"`'
    if code != wanted:
        wrong.append(f"ended with {code}, not {wanted}")
    if not last.startswith(begins) or not re.search(named, last):
        wrong.append(f"does not say in a sentence what to install: {last}")
    return wrong


def unkept_promises(trials: list[Trial], metadata: Message) -> list[str]:
    """Returns which sentences would send a reader to an extra that does not bring the package."""
    required = metadata.get_all("Requires-Dist", [])
    return [
        f"extra {trial.extra} brings no {trial.package}"
        for trial in trials
        if trial.extra is not None
        and not any(
            re.match(rf"{trial.package}\b(?![-_.])", line) and f'extra == "{trial.extra}"' in line for line in required
        )
    ]
