# SPDX-License-Identifier: Apache-2.0
"""A part is one new file beside its own test file: five are written into a copy of the package, and nothing else is."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HELLINGER = '''# SPDX-License-Identifier: Apache-2.0
"""Squared Hellinger distance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence


@dataclass(eq=False)
class HellingerLoss(Divergence):
    r"""
    Half the squared Euclidean distance between the square roots of the two distributions.

        loss_i = 1/2 sum_v (sqrt p_t(v) - sqrt p_s(v))^2        in [0, 1]

    Source: Hellinger 1909, https://doi.org/10.1515/crll.1909.136.210.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[1.0, 0.0]]).log()
    >>> HellingerLoss().divergence(p, q)
    tensor([0.5000])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation", "consistency")
    squared_temperature: ClassVar[bool] = False

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return 0.5 * ((target / 2).exp() - (prediction / 2).exp()).square().sum(-1)
'''

TEST_HELLINGER = '''# SPDX-License-Identifier: Apache-2.0
"""Squared Hellinger distance. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest

from tests.losses.loops import softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return 1 - math.fsum(math.sqrt(a * b) for a, b in zip(p, q, strict=True))


def test_hellinger_of_a_half_and_a_certainty():
    """A lost half would let it reach 2."""
    assert reference([0.0, 0.0], [0.0, -1e9]) == pytest.approx(1 - math.sqrt(0.5))
'''

PEAK_PROBABILITY = '''# SPDX-License-Identifier: Apache-2.0
"""Probability of the student's first choice."""

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class PeakProbabilityMetric(TokenMetric):
    r"""
    How sure the student is of its most probable token.

        value_i = max_v p_s(v)        in (0, 1]

    Source: this test's own.
    """

    def per_token(self, views: TokenViews) -> Tensor:
        return views.student.probs().amax(-1)
'''

TEST_PEAK_PROBABILITY = '''# SPDX-License-Identifier: Apache-2.0
"""Peak probability. `reference` is the formula of its docstring; the contracts compare against it."""

import pytest

from tests.losses.loops import softmax


def reference(row: dict[str, list[float]], label: int) -> float:
    return max(softmax(row["student"]))


def test_peak_probability_of_equal_logits():
    """One of four equal tokens has a quarter."""
    assert reference({"student": [2.0] * 4}, 0) == pytest.approx(0.25)
'''

DOUBLED_LETTERS = '''# SPDX-License-Identifier: Apache-2.0
"""Letters written twice."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count


@dataclass(eq=False)
class DoubledLettersPerturbation(TextPerturbation):
    """
    Writes letters twice, as a key that bounces does.

    Source: this test's own.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the letters that are doubled, in [0, 1].

    Example:

    >>> DoubledLettersPerturbation(severity=1.0).apply("How?", Random(0))
    'HHooww?'
    """

    unit: ClassVar[str] = "letters"

    def apply(self, text: str, rng: Random) -> str:
        letters = [index for index, letter in enumerate(text) if letter.isalpha()]
        chosen = set(rng.sample(letters, draw_count(self.severity, len(letters), rng)))
        return "".join(2 * letter if index in chosen else letter for index, letter in enumerate(text))
'''

TEST_DOUBLED_LETTERS = '''# SPDX-License-Identifier: Apache-2.0
"""Letters written twice; the contracts count with `measure`."""

from tests.perturbations.counting import letters

UNIT = "letters"


def measure(before: str, after: str) -> tuple[int, int]:
    return len(after) - len(before), letters(before)


def test_doubled_letters_are_counted():
    """A count of all characters would take a space for a letter."""
    assert measure("a b", "aa b") == (1, 2)
'''

UNDECIDED = '''# SPDX-License-Identifier: Apache-2.0
"""A teacher to whom all tokens are equal."""

import torch
from transformers import PreTrainedModel

from ..kernels.signals import TeacherSignal
from ..models.batch import Batch
from ..views import LinearHead
from .base import Teacher, TeacherSetup


class UndecidedTeacher(Teacher):
    """
    Gives every token the same probability.

    Source: this test's own; label smoothing pulls towards the same distribution.
    """

    @classmethod
    def load(cls, source: None, setup: TeacherSetup) -> "UndecidedTeacher":
        """There is nothing to load."""
        return cls()

    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        hidden = torch.zeros(len(batch.kept_labels), 1, device=batch.labels.device)
        return TeacherSignal(hidden, LinearHead(torch.zeros(student.config.vocab_size, 1, device=hidden.device)))
'''

TEST_UNDECIDED = '''# SPDX-License-Identifier: Apache-2.0
"""A teacher to whom all tokens are equal; `make` is what the contracts compare it by."""

import torch

from hf_ckt.teachers.undecided import UndecidedTeacher
from tests.teachers.signals import dense
from tests.trainers import load


def make(student_folder, tmp_path):
    return UndecidedTeacher(), lambda batch: torch.zeros_like(dense(load(student_folder), batch))


def test_undecided_has_no_settings():
    """There is nothing to set."""
    assert vars(UndecidedTeacher()) == {}
'''

ALTERNATE = '''# SPDX-License-Identifier: Apache-2.0
"""Every second token."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenWeights


@dataclass(eq=False)
class AlternateTokenWeights(TokenWeights):
    """
    Counts every second token of an answer.

        weight_i = position_i mod 2

    Source: this test's own.

    Example:

    >>> import torch
    >>> AlternateTokenWeights().per_token(TokenViews(torch.zeros(3)), torch.arange(3))
    tensor([0., 1., 0.])
    """

    reads_positions: ClassVar[bool] = True

    def per_token(self, views: TokenViews, positions: Tensor | None) -> Tensor:
        assert positions is not None
        return (positions % 2).float()
'''

TEST_ALTERNATE = '''# SPDX-License-Identifier: Apache-2.0
"""Every second token. `reference` is the formula of its docstring; the contracts compare against it."""


def reference(row: dict[str, list[float]], label: int, position: int) -> float:
    return float(position % 2)


def test_alternate_begins_with_the_second():
    """Counted from one, the first token would count."""
    assert [reference({}, 0, n) for n in range(4)] == [0, 1, 0, 1]
'''

# family, part -> its file, its test file, and what the contracts look up in the latter
PARTS = {
    ("losses", "hellinger"): (HELLINGER, TEST_HELLINGER, "reference"),
    ("metrics", "peak_probability"): (PEAK_PROBABILITY, TEST_PEAK_PROBABILITY, "reference"),
    ("perturbations", "doubled_letters"): (DOUBLED_LETTERS, TEST_DOUBLED_LETTERS, "measure"),
    ("teachers", "undecided"): (UNDECIDED, TEST_UNDECIDED, "make"),
    ("token_weights", "alternate"): (ALTERNATE, TEST_ALTERNATE, "reference"),
}
# A part of the package that the contracts run as many tests over.
SIBLINGS = {
    "hellinger": "jensen_shannon",
    "peak_probability": "entropy",
    "doubled_letters": "casing",
    "undecided": "model",
    "alternate": "position_decay",
}
NAMES = [name for _, name in PARTS]


def copy_package(folder: Path) -> dict[str, bytes]:
    """Copies the package and its tests; returns what every file holds."""
    for name in ("hf_ckt", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python where the copy hides the installed package, and writes no bytecode beside its files."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    environment = {**inherited, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def run_tests(folder: Path, select: str, *files: str) -> tuple[dict[tuple[str, str], str], str]:
    """Returns (module, test) -> outcome of what was selected, and what pytest printed."""
    report = folder.parent / "report.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", select]
    printed = run_python(folder, "-m", "pytest", *options, *files).stdout
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ends = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcomes[case.get("classname", ""), case.get("name", "")] = ends.pop() if ends else "passed"
    return outcomes, printed


@pytest.mark.slow
def test_new_part_is_one_file_and_its_own_test_file(tmp_path):
    """Every list that a part has to be added to is one that it is forgotten in, and then it is held by nothing."""
    folder = tmp_path / "copy"
    before = copy_package(folder)
    written = {}
    for (family, name), (part, own_test, _) in PARTS.items():
        written |= {f"hf_ckt/{family}/{name}.py": part, f"tests/{family}/test_{name}.py": own_test}
    assert not written.keys() & before.keys()
    for path, text in written.items():
        (folder / path).write_text(text, encoding="utf-8")

    found = run_python(folder, "-c", "import hf_ckt; print(hf_ckt.__file__)").stdout.strip()
    assert Path(found) == folder / "hf_ckt" / "__init__.py", "the installed package was tested instead"
    listed = json.loads(run_python(folder, "-m", "hf_ckt.cli.main", "parts", "--json").stdout)
    assert PARTS.keys() <= {(part["family"], part["name"]) for part in listed}

    # The README and the time that an import takes have nothing to do with a part. Compiled are the package's own parts, in the
    # suite around this one: here, beside it, a library that was linked a moment ago could not be loaded in two runs.
    whole = " or ".join(("test_layout", "test_discovery", "test_parts", "metrics_are_those"))
    selected = f"({whole} or {' or '.join((*NAMES, *SIBLINGS.values()))}) and not readme_tree and not imports_fast and not compiled"
    own_tests = [path for path in written if path.startswith("tests/")]
    outcomes, printed = run_tests(
        folder,
        selected,
        *("tests/contracts", "tests/test_layout.py", "tests/test_discovery.py", "tests/cli/test_parts.py"),
        *("tests/objective/test_objective.py", "tests/kernels/test_seeded_faults.py", *own_tests),
    )
    assert set(outcomes.values()) == {"passed"}, printed

    contracts: dict[str, set[str]] = defaultdict(set)
    for module, test in outcomes:
        if module.startswith("tests.contracts.") and "[" in test:
            function, _, values = test.rstrip("]").partition("[")
            for value in values.split("-"):
                contracts[value].add(f"{module}.{function}")
    for (family, name), sibling in zip(PARTS, SIBLINGS.values(), strict=True):
        assert len(contracts[name]) >= 2 and contracts[name] == contracts[sibling], name
        assert ("tests.test_layout", f"test_part_file_holds_one_class_of_its_name[hf_ckt.{family}.{name}]") in outcomes
        assert (
            "tests.test_discovery",
            f"test_every_file_gives_a_part_that_knows_its_name[{family}-{name}]",
        ) in outcomes
        assert any(module == f"tests.{family}.test_{name}" for module, _ in outcomes)

    after = contents(folder)
    assert after == before | {path: text.encode() for path, text in written.items()}


@pytest.mark.slow
def test_new_part_without_a_formula_in_its_own_test_is_refused_by_name(tmp_path):
    """A part that the contracts pass over for want of a formula would look tested."""
    folder = tmp_path / "copy"
    copy_package(folder)
    for (family, name), (part, own_test, wanted) in PARTS.items():
        (folder / f"hf_ckt/{family}/{name}.py").write_text(part, encoding="utf-8")
        if family != "losses":  # which has no test file at all
            nameless = re.sub(rf"\b{wanted}\b", "unnamed", own_test)
            (folder / f"tests/{family}/test_{name}.py").write_text(nameless, encoding="utf-8")
    formulas = ("equals_its_formula", "equal_their_formula", "measured_severity", "gives_the_logits")
    outcomes, printed = run_tests(
        folder, f"({' or '.join(NAMES)}) and ({' or '.join(formulas)})", "tests/contracts", "tests/kernels"
    )
    assert len(outcomes) >= len(PARTS) and set(outcomes.values()) == {"failure"}, printed
    for (family, name), (_, _, wanted) in PARTS.items():
        assert re.search(
            rf"^The .*{name!r} is compared with nothing: write .*{wanted}.* into tests/{family}/test_{name}\.py, "
            r"from the docstring and without the part's code\.$",
            printed,
            re.M,
        ), printed
