# SPDX-License-Identifier: Apache-2.0
"""
Runs the short numbered examples as their heads say, and keeps what each prints and takes in examples/results/examples.json.

    python .ci/measure_examples.py               # those that are not kept yet
    python .ci/measure_examples.py 05 06         # these anew

Each runs alone, on one thread and in an empty folder. Time is that of the processor, so that it says the same on a machine that
has more to do. A test compares the heads and the table of examples/README.md with the file.
"""

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_ckt.checkpoints import replace_json
from hf_ckt.hub.provenance import machine_facts, peak_memory

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KEPT = EXAMPLES / "results" / "examples.json"
# The others take longer or need a server; what they print and take stands in results of their own.
SHORT = ("02", "05", "06", "08", "09", "10", "11", "12")


def command_of(script: Path) -> str:
    """The first command of a script's head."""
    head = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return re.findall(rf"^ +(python examples/{re.escape(script.name)}[^#\n]*)", head, flags=re.M)[0].strip()


def measure(script: Path) -> dict[str, object]:
    """Runs a script; returns its command, what it printed, the seconds of the processor and the most memory, in bytes."""
    command = command_of(script)
    words = [sys.executable, str(script), *shlex.split(command)[2:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    with (
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "printed.txt").open("w+", encoding="utf-8") as printed,
    ):
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{command} ended with {process.returncode}")
        printed.seek(0)
        lines = printed.read().replace(folder, ".").splitlines()
    return {
        "command": command,
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory": peak_memory(used),
        "printed": lines[-60:],
        **machine_facts("cpu"),
        "threads": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "number", nargs="*", help=f"which anew: {', '.join(SHORT)}; default: those that are not kept yet"
    )
    numbers = parser.parse_args().number
    if unknown := sorted({*numbers} - {*SHORT}):
        parser.error(f"{unknown[0]} is not measured here. Known: {', '.join(SHORT)}.")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    for number in numbers or SHORT:
        (script,) = EXAMPLES.glob(f"{number}_*.py")
        if numbers or script.name not in kept:
            kept[script.name] = measure(script)
            replace_json(KEPT, dict(sorted(kept.items())))
            found = kept[script.name]
            print(
                f"{script.name}: {found['processor_seconds']:.0f} s, {found['peak_memory'] / 1e9:.1f} GB", flush=True
            )


if __name__ == "__main__":
    main()
