# SPDX-License-Identifier: Apache-2.0
"""The shape of the package: layers, names, sizes, and a README that shows what is on disk."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_ckt
from hf_ckt.discovery import FAMILIES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_ckt"

LAYERS: list[set[str]] = [
    {"checks", "checkpoints", "discovery", "plotting", "progress", "views"},
    {"models", "kernels"},
    {"losses", "teachers", "perturbations", "metrics", "token_weights"},
    {"objective", "noise", "data"},
    {"training", "hub"},
    {"evaluation", "fit"},
    {"demo", "study"},
    {"cli"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
SUFFIXES = {
    "losses": "Loss",
    "teachers": "Teacher",
    "perturbations": "Perturbation",
    "metrics": "Metric",
    "token_weights": "TokenWeights",
}
MAX_LINES = 350


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("hf_ckt", *path.relative_to(PACKAGE).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()
# The package's own __init__ is a table of lazy names that point at every layer; what it may import at once is held by
# the test of its import time.
LAYERED = sorted(MODULES.keys() - {"hf_ckt"})


def _imports(module: str) -> set[str]:
    """The modules of the package that `module` imports, wherever the statement stands (function, TYPE_CHECKING)."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "hf_ckt"}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *([node.module] if node.module else [])])
            if base.split(".")[0] == "hf_ckt":
                # `from .losses import base` names a module, `from .losses.base import TokenLoss` one inside it.
                submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
                found |= submodules or {base}
                if {f"{base}.{alias.name}" for alias in node.names} - submodules:
                    found.add(base)
    return found - {"hf_ckt", module}


def _part(module: str) -> tuple[str, str] | None:
    """(family, file) of a module that lies in a family's folder, `__init__` left out."""
    pieces = module.split(".")
    return (pieces[1], pieces[2]) if len(pieces) == 3 and pieces[1] in FAMILIES else None


def test_every_module_has_a_layer():
    """A module outside the list of layers would be free to import anything, and the next one would import it."""
    unknown = sorted({module.split(".")[1] for module in LAYERED} - LAYER_OF.keys())
    assert not unknown, f"give these a layer in tests/test_layout.py and CONTRIBUTING.md: {unknown}"


@pytest.mark.parametrize("module", LAYERED)
def test_imports_only_go_down(module):
    """An import upwards makes a low layer unusable without the trainer, and sooner or later closes a circle."""
    own = module.split(".")[1]
    wrong = []
    for imported in _imports(module):
        other = imported.split(".")[1]
        if other != own and (
            LAYER_OF[other] > LAYER_OF[own] or (LAYER_OF[other] == LAYER_OF[own] and own in FAMILIES)
        ):
            wrong.append(imported)
    assert not wrong, f"{module} (layer {LAYER_OF[own]}) imports {wrong}"


@pytest.mark.parametrize("module", [module for module in LAYERED if _part(module)])
def test_parts_import_no_sibling_but_base(module):
    """A part that leans on its sibling breaks when that one is changed, and can no longer be read on its own."""
    family, _ = _part(module)
    siblings = {name for name in _imports(module) if name.startswith(f"hf_ckt.{family}")}
    assert siblings <= {f"hf_ckt.{family}.base"}, f"{module} imports {sorted(siblings)}"


def test_imports_close_no_circle():
    """A circle works or fails depending on which module happens to be imported first."""
    imports = {module: _imports(module) & MODULES.keys() for module in LAYERED}
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, "circle: " + " -> ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for imported in sorted(imports[module]):
                visit(imported, [*trail, module])
            finished.add(module)

    for module in LAYERED:
        visit(module, [])


def _folder(module: str, depth: int) -> str:
    """The folder of the package, `depth` levels down, that a module lies in; a module above that is its own."""
    pieces = module.split(".")
    is_package = MODULES[module].name == "__init__.py"
    folder = pieces if is_package else pieces[:-1]
    return ".".join(folder[: depth + 1]) if len(folder) > depth else module


@pytest.mark.parametrize("depth", [1, 2])
def test_folders_import_each_other_in_no_circle(depth):
    """Two folders that import each other are one folder with a wall in it: neither can be read without the other."""
    arrows: dict[str, set[str]] = {}
    for module in LAYERED:
        for imported in _imports(module) & MODULES.keys():
            start, end = _folder(module, depth), _folder(imported, depth)
            # A file beside folders may import from them; what counts is folder against folder.
            if start != end and not end.startswith(f"{start}.") and not start.startswith(f"{end}."):
                arrows.setdefault(start, set()).add(end)

    def reach(folder: str, seen: set[str]) -> set[str]:
        for other in arrows.get(folder, set()) - seen:
            seen |= {other} | reach(other, seen | {other})
        return seen

    circles = sorted(folder for folder in arrows if folder in reach(folder, set()))
    assert not circles, f"in a circle: {circles}"


def test_top_level_of_the_package_holds_what_everything_stands_on():
    """Loose files are where a newcomer gets lost: an idea belongs into the folder of its kind."""
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 6


# Each folder below evaluation/metrics/ is one metric in the form of the evaluate library.
FOLDERS = [
    folder
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE})
    if folder.parent != PACKAGE / "evaluation" / "metrics"
]


@pytest.mark.parametrize("folder", FOLDERS, ids=_relative)
def test_folder_says_what_may_enter(folder):
    """A folder without a rule takes in whatever is written next."""
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    assert "\nMay enter: " in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("module", [module for module in LAYERED if _part(module) and _part(module)[1] != "base"])
def test_part_file_holds_one_class_of_its_name(module):
    """The file's name is the part's name in configs, logs and cards: another class in it would be found under it."""
    family, file_name = _part(module)
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    parts = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name.endswith(SUFFIXES[family])
    ]
    # Acronyms keep their capitals (ForwardKLLoss, NLLLoss), so the case is not compared.
    wanted = file_name.replace("_", "") + SUFFIXES[family]
    assert [name.lower() for name in parts] == [wanted.lower()]
    assert parts[0][0].isupper() and "_" not in parts[0]


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("examples/**/*.py")]), ids=_relative)
def test_file_is_short_enough_to_read(path):
    """A file that grows past a few screens is where the next unrelated thing gets put."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("tests/**/*.py")]), ids=_relative)
def test_file_names_its_licence_and_its_subject(path):
    """A file copied out of the repository keeps its licence; a `utils` collects what nobody finds again."""
    assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert path.stem not in ("utils", "helpers", "misc", "common")


def _run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)


def test_package_imports_fast_and_without_torch():
    """A command line that imports a deep learning framework to print its help feels broken."""
    code = (
        "import sys, time; start = time.perf_counter(); import hf_ckt; seconds = time.perf_counter() - start; "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & sys.modules.keys(); "
        "print(seconds, *sorted(heavy))"
    )
    runs = [_run_python(code) for _ in range(3)]
    fields = [run.stdout.split() for run in runs]
    assert all(len(field) == 1 for field in fields), f"imports {fields[0][1:]}"
    assert min(float(field[0]) for field in fields) < 0.2  # the least of three: other processes only ever add


def test_public_names_are_all_there():
    """A lazy name whose home has moved fails at a user's first use and in no import of the package."""
    for name in hf_ckt.__all__:
        assert getattr(hf_ckt, name) is not None
        assert name in dir(hf_ckt)
    with pytest.raises(AttributeError, match="no_such_name"):
        hf_ckt.no_such_name  # noqa: B018


def _defined_at_top(module: str) -> set[str]:
    """Names that a module defines or imports at its top level."""
    found = set()
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _resolves(reference: str) -> bool:
    """Whether `module.Name` or `module.Name.method`, counted from the package, is there."""
    pieces = reference.split(".")
    homes = [".".join(("hf_ckt", *pieces[:end])) for end in range(len(pieces) - 1, 0, -1)]
    home = next((name for name in homes if name in MODULES), None)
    return home is not None and pieces[home.count(".")] in _defined_at_top(home)


@pytest.mark.parametrize("module", LAYERED)
def test_cross_references_of_docstrings_resolve(module):
    """A reference to a module that has moved sends the reader to nothing."""
    text = MODULES[module].read_text(encoding="utf-8")
    others = ("datasets.", "huggingface_hub.", "torch.", "transformers.", "trl.")
    references = set(re.findall(r"\[`~([\w.]+)`\]", text))
    assert not sorted(name for name in references if not name.startswith(others) and not _resolves(name))


def _readme_tree() -> list[str]:
    """Paths of the README's tree: the fenced block that begins with `hf_ckt/`, nested by indentation."""
    blocks = re.findall(r"^```[^\n]*\n(hf_ckt/.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1, "README.md needs one fenced block that begins with the line `hf_ckt/`"
    paths: list[str] = []
    folders: list[tuple[int, str]] = []  # the folders around the current line, each with its indentation
    for line in blocks[0].splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        around = folders[-1][1] if folders else ""
        for name in re.split(r"\s{2,}", line.strip())[0].split(", "):
            paths.append(around + name)
            if name.endswith("/"):
                folders.append((indent, around + name))
    return paths


def _files_of_the_repository() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_readme_tree_shows_every_folder_and_nothing_else_than_is_there():
    """A tree that lags behind sends the reader to files that are gone and hides the new folders."""
    tree = _readme_tree()
    files = _files_of_the_repository()
    assert not [path for path in tree if not (ROOT / path).exists()], "in the README, not on disk"

    # Files need not be shown: a new part is one file, and writes nothing here.
    folders = {"/".join(name.split("/")[:2]) + "/" for name in files if re.match("hf_ckt/[^/]+/", name)}
    assert not folders - set(tree), "folder of the package, not in the README"

    top_level = {name.split("/")[0] + ("/" if "/" in name else "") for name in files}
    shown = {path.split("/")[0] + ("/" if "/" in path else "") for path in tree}
    # Dot files are the tools' own.
    assert not {name for name in top_level if not name.startswith(".")} - shown, "top level, not in the README"
