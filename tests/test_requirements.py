# SPDX-License-Identifier: Apache-2.0
"""What the package imports is what it asks for; what only an extra brings is named where it is missing."""

import ast
import importlib
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hf_ckt.checks import missing_package
from hf_ckt.data.near_duplicates import near_duplicates
from hf_ckt.data.prompt_sets import EvalPrompt
from hf_ckt.evaluation.report.plots import draw_plots
from hf_ckt.models.embedded import embedded_model

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Asked for by an option of its own, and too large and too tied to a GPU for an extra.
LEFT_TO_THE_USER = {"vllm"}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def with_what_they_bring(wanted: set[str]) -> set[str]:
    """Distributions, and all that are installed with them."""
    found: set[str] = set()
    waiting = {*wanted}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            asked = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        waiting |= {
            canonicalize_name(one.name) for one in asked if not one.marker or one.marker.evaluate({"extra": ""})
        } - found
    return found


def third_party_imports() -> dict[str, set[str]]:
    """Module of another project -> the files that import it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "hf_ckt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [str(node.module)]
            for module in modules:
                found.setdefault(module.split(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return {name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "hf_ckt"}}


def test_every_import_is_of_a_requirement():
    """A package that only happens to be installed here is missing elsewhere."""
    core = with_what_they_bring(names(PROJECT["dependencies"]))
    extras = with_what_they_bring(names([line for name in EXTRAS if name != "dev" for line in EXTRAS[name]]))
    distributions = {
        module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()
    }
    imports = third_party_imports()
    assert {"torch", "trl", "matplotlib"} <= imports.keys()
    unknown, of_extras = set(), set()
    for module in imports.keys() - LEFT_TO_THE_USER:
        brought_by = distributions.get(module, {canonicalize_name(module)})
        if not brought_by & core:
            (of_extras if brought_by & extras else unknown).add(module)
    assert not unknown, "no requirement brings these"
    # Whoever adds one to this list says in its file what is missing, with `missing_package`.
    assert of_extras == {"evaluate", "gguf", "gradio", "lm_eval", "matplotlib", "scipy", "sklearn"}


def test_every_sentence_names_an_extra_that_brings_the_package():
    """The reader would install it, and read the same sentence again."""
    named = set()
    for path in (ROOT / "hf_ckt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "missing_package":
                package, _, extra = node.args
                assert package.value in names(EXTRAS[extra.value]), f"{path}: {package.value}, {extra.value}"
                named.add(package.value)
    assert named == {"evaluate", "gguf", "gradio", "lm-eval", "matplotlib", "scikit-learn"}


def test_sentences_are_written_in_one_place():
    """Written by hand, `hf_ckt[eval]` stood beside `hf-ckt[eval]`, with and without the reason."""
    written = [path for path in (ROOT / "hf_ckt").rglob("*.py") if 'pip install "hf' in path.read_text("utf-8")]
    assert [path.name for path in written] == ["checks.py"]


CASES = {
    "metrics": (
        "evaluate",
        lambda: importlib.import_module("hf_ckt.evaluation.metrics.streaming"),
        ImportError,
        missing_package("evaluate", "these are its metrics", "eval"),
    ),
    "near-duplicates": (
        "sklearn",
        lambda: near_duplicates([EvalPrompt("a/0", "a", "benign", "", "How do I sharpen a knife?")], ["Pick a card."]),
        ImportError,
        missing_package("scikit-learn", "it compares the texts", "eval"),
    ),
    "plots": (
        "matplotlib",
        lambda: draw_plots({}, Path("nowhere")),
        ValueError,
        missing_package("matplotlib", "it draws the plots", "plot"),
    ),
    "embedded model": (
        "gguf",
        embedded_model,
        ImportError,
        missing_package("gguf", "it reads smollm2.gguf", "demo"),
    ),
}


@pytest.mark.parametrize(("module", "use", "error", "sentence"), CASES.values(), ids=CASES)
def test_what_needs_an_extra_says_which(module, use, error, sentence, monkeypatch, tmp_path):
    """A ModuleNotFoundError names a module, and not the extra that brings it. The others: beside the tests of each command."""
    file = tmp_path / "smollm2.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setenv("HF_CKT_SMOLLM2_GGUF", str(file))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "hf_ckt.evaluation.metrics.streaming", raising=False)
    with pytest.raises(error, match=re.escape(sentence)):
        use()
