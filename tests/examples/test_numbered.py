# SPDX-License-Identifier: Apache-2.0
"""What every numbered example has: what it needs, what it shows and takes, a row in the table, and no usage data."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.examples.running import BOUNDARY, EXAMPLES, ROOT

NUMBERED = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
each = pytest.mark.parametrize("script", NUMBERED, ids=lambda script: script.stem)


def metadata_of(script):
    """The block at a script's head that installers read, as PEP 723 describes it."""
    text = script.read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script$\n((?:^#(?: .*)?$\n)+?)^# ///$", text, flags=re.M)
    return tomllib.loads("".join(line.removeprefix("#").removeprefix(" ") + "\n" for line in block.splitlines()))


def installed_for(dependencies):
    """The names of all that an installer brings for these, with what they need themselves."""
    waiting, found = [Requirement(one) for one in dependencies], set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in found:
            continue
        found.add((name, frozenset(one.extras)))
        if name == PROJECT["name"]:
            extras = PROJECT["optional-dependencies"]
            needs = [*PROJECT["dependencies"], *(need for extra in one.extras for need in extras[extra])]
        else:
            try:
                needs = requires(one.name) or []
            except PackageNotFoundError:
                continue  # of another platform
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(need)
    return {name for name, _ in found}


def imported_by(script):
    """The top-level modules that a script imports, wherever the statement stands, without Python's own."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a script lies in no package"
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names


def test_numbers_are_those_of_the_list():
    """Two scripts of one number, or a gap, make the order of reading a guess."""
    numbers = [script.name[:2] for script in NUMBERED]
    assert numbers == [f"{number:02}" for number in range(1, 14)]


@each
def test_example_lists_what_it_imports(script):
    """`uv run` makes an environment of the list: a package that is missing there fails at the import."""
    metadata = metadata_of(script)
    assert metadata["requires-python"] == PROJECT["requires-python"]
    brought = installed_for(metadata["dependencies"])
    homes = packages_distributions()
    for module in imported_by(script):
        names = {PROJECT["name"]} if module == "hf_ckt" else {canonicalize_name(name) for name in homes[module]}
        assert names & brought, f"{module} comes with none of {metadata['dependencies']}"
    # This checkout and no release, whose modules may be others.
    assert (script.parent / metadata["tool"]["uv"]["sources"]["hf-ckt"]["path"]).resolve() == ROOT


def test_a_package_that_nothing_brings_is_noticed():
    """The test above would pass on any list."""
    assert "matplotlib" not in installed_for(["hf-ckt"]) and "matplotlib" in installed_for(["hf-ckt[demo]"])
    assert "vllm" not in installed_for(["hf-ckt[eval]"])


@each
def test_example_says_how_it_is_run_and_what_it_takes(script):
    """Who starts a script wants to know first whether it ends in a minute, and what it will have shown."""
    doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert re.search(rf"^ +python examples/{script.name}", doc, flags=re.M)
    assert "Expected output" in doc and "Time and memory" in doc


@each
def test_example_is_in_the_table(script):
    """An example that the table leaves out is not found."""
    (row,) = re.findall(rf"^\| (\S+) \| `{script.name}` \| (.+) \| (.+) \| (.+) \|$", README, flags=re.M)
    assert row[0] == script.name[:2]


README = (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_table_has_no_other_examples():
    """A row of a script that has gone leads nowhere."""
    assert {*re.findall(r"`(\d\d_\w+\.py)`", README)} == {script.name for script in NUMBERED}


def has_trainer(script):
    """Whether a script imports a trainer of TRL's, or this package's."""
    nodes = [
        node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    return bool({"SFTTrainer", "ContrastiveRobustTrainer"} & {alias.name for node in nodes for alias in node.names})


@pytest.mark.parametrize("script", [*filter(has_trainer, NUMBERED)], ids=lambda script: script.stem)
def test_example_turns_usage_data_off_before_it_imports_a_library(script):
    """The Hub's client reads the variable once, at its import: set after that, TRL's trainers send all the same."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Expr)
            and "HF_HUB_DISABLE_TELEMETRY" in ast.unparse(node)
            and "setdefault" in ast.unparse(node)
        ):
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names, names
    pytest.fail("it leaves usage data on")


STOP_AT_THE_HUB = """
import os, sys, runpy

class Stop:
    def find_spec(self, name, *_):
        if name == "huggingface_hub":
            print(os.environ.get("HF_HUB_DISABLE_TELEMETRY"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("the Hub was not imported")
"""


@pytest.mark.parametrize(
    "script", [EXAMPLES / "01_quickstart.py", BOUNDARY / "boundary_ablation.py"], ids=lambda one: one.stem
)
def test_usage_data_are_off_where_the_hub_is_imported(script):
    """Set in a module that is imported late, it would be set in vain; here the whole way is run up to that import."""
    names = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = os.pathsep.join([str(script.parent), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", STOP_AT_THE_HUB, str(script)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.split() == ["1"], done.stderr


def test_head_of_the_quickstart_has_the_numbers_of_its_results():
    """Typed by hand, they would stay those of a run that has long been another."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / "01_quickstart.py").read_text(encoding="utf-8")))
    results = json.loads((EXAMPLES / "results" / "quickstart.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^ +(\w+) \(.+?\) +([-\d.]+) +([-\d.]+) +([-\d.]+)$", doc, flags=re.M)
    assert len(rows) == 3
    for score, *shown in rows:
        assert shown == [f"{model['scores'][score]['value']:.2f}" for model in results["models"].values()]
    assert f"{results['seconds']} s and at most {results['peak_memory'] / 1e9:.0f} GB" in doc


def test_head_of_the_teachers_has_rows_of_their_table():
    """As above."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / "04_teachers.py").read_text(encoding="utf-8")))
    page = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^ +(\| .+ \|)$", doc, flags=re.M)
    assert len(rows) == 2 and all(f"\n{row}\n" in page for row in rows)
    measured = json.loads((EXAMPLES / "results" / "teachers.json").read_text(encoding="utf-8"))["measured"]
    seconds = [one["seconds_per_step"] for one in measured]
    assert f"{measured[0]['steps']} steps of {min(seconds):.1f} to {max(seconds):.1f} s" in doc
    assert f"at most {max(one['peak_memory_bytes'] for one in measured) / 2**20:,.0f} MiB" in doc


MEASURED = json.loads((EXAMPLES / "results" / "examples.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_head_and_table_say_what_was_measured(name):
    """As above; `python .ci/measure_examples.py` writes the file."""
    found, doc = MEASURED[name], ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")))
    seconds, memory = f"{found['processor_seconds']:.0f} s", f"{found['peak_memory'] / 1e9:.1f} GB"
    (row,) = re.findall(rf"^.*`{name}`.*$", README, flags=re.M)
    assert f"{seconds} of processor time" in doc and memory in doc and row.endswith(f" {memory} |") and seconds in row
    assert re.search(rf"^ +{re.escape(found['command'])}", doc, flags=re.M)
    printed = [" ".join(line.split()) for line in found["printed"]]
    expected = re.findall(r"^    (.+)$", doc.partition("Expected output")[2], flags=re.M)
    assert expected and not [
        line for line in expected if line.strip() != "..." and " ".join(line.split()) not in printed
    ]


def test_every_short_example_is_measured():
    """An example of which nothing is kept would be shown with numbers that nobody can find."""
    shown = set(re.findall(r"`(\d\d_\w+\.py)`", README))
    elsewhere = {"01", "03", "04", "07", "13"}  # results of their own, hours, or a server
    assert {*MEASURED} == {name for name in shown if name[:2] not in elsewhere}
