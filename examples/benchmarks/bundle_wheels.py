# SPDX-License-Identifier: Apache-2.0
"""Which wheels a machine lacks, where they come from, and how one is made smaller."""

import base64
import csv
import email
import fnmatch
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ckt.checkpoints import replace_file

REPOSITORY = Path(__file__).parents[2]
# What the GPU machines that run gpu.py hold (Python 3.12, CUDA 13.0). Carrying it over again would take a trip's room,
# and their torch is the one that fits their driver. As `pip freeze` writes it; a version that is not known is left out.
TARGET = """
accelerate==1.15.0 aiohttp click colorama execnet filelock fsspec httpx huggingface_hub==1.33.0 hypothesis jinja2 joblib
lxml matplotlib multipledispatch numpy==2.5.2 packaging pandas peft pillow pip portalocker psutil pyarrow pytest
pytest-xdist pyyaml regex requests rich sacrebleu safetensors==0.8.0 scikit-learn scipy sentencepiece setuptools tabulate
tokenizers==0.23.2 torch==2.11.0+cu130 tqdm transformers==5.17.0 triton==3.6.0 typer xxhash
"""
NEVER_BROUGHT = "torch"  # too large for a trip, and built for one CUDA version
# Most of bitsandbytes' wheel are libraries for other versions of CUDA and other makers. Those that --slim keeps:
LIBRARIES, KEPT = "bitsandbytes/libbitsandbytes_*.so", ("*_cpu.so", "*_cuda130.so")
# In the name of a rewritten wheel, so that it is never taken for the index's own.
SLIM_BUILD = "1slim"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


@dataclass
class Item:
    """A file of the bundle: where it lies now, and what the manifest says of it."""

    path: Path
    what: str

    def described(self, trip: int) -> dict[str, Any]:
        size, digest = self.path.stat().st_size, file_digest(self.path)
        return {"path": f"trip{trip}/{self.path.name}", "bytes": size, "sha256": digest, "what": self.what}


def read_versions(lines: Sequence[str]) -> dict[str, str]:
    """Returns the versions of `pip freeze`'s lines by normalised name; empty where a line states none."""
    from packaging.utils import canonicalize_name

    found = [
        re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:==\s*([^\s;]+)|@|$)", line.partition("#")[0].strip()) for line in lines
    ]
    return {canonicalize_name(match[1]): match[2] or "" for match in found if match}


def root_requirements() -> list[str]:
    """Returns what hf_ckt, its demo and its evaluation with `evaluate` ask for, from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["demo"], *(one for one in extras["eval"] if one.startswith("evaluate"))]


def needed_distributions(
    roots: Sequence[str],
    have: Mapping[str, str],
    pins: Mapping[str, str],
    requirements_of: Callable[[str, str], Sequence[str]],
    python: str,
) -> dict[str, str]:
    """
    Returns what has to be brought, by name with its version: what the machine lacks, and what that needs in turn.

    What the machine holds is taken to work, so its own requirements are not looked at; where a version is stated that
    does not satisfy a requirement, the pinned one is brought, which comes first on the path.

    Args:
        roots (`Sequence[str]`):
            Requirements to begin with.
        have (`Mapping[str, str]`):
            What the machine holds; an empty version satisfies any requirement.
        pins (`Mapping[str, str]`):
            The version to bring of each.
        requirements_of (`Callable`):
            The requirements of one name and version.
        python (`str`):
            The machine's version of Python, for requirements that depend on it.

    Raises:
        ValueError: If something is needed that has no fitting pin, or that is never brought.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    environment = {"python_version": python, "python_full_version": f"{python}.0", **linux, **cpython}
    waiting = [(Requirement(root), "hf_ckt", "") for root in roots]
    brought: dict[str, str] = {}
    looked_at = set()
    while waiting:
        requirement, asker, extra = waiting.pop(0)
        if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        stated = have.get(name)
        if stated == "" or (stated and requirement.specifier.contains(stated, prereleases=True)):
            continue
        pin = pins.get(name, "")
        if name == NEVER_BROUGHT:
            raise ValueError(
                f"{name}: {asker} needs {requirement}, the machine has {stated or 'none'}, and the bundle does not bring "
                "it. Install it there, or name what is there with --have FILE."
            )
        if not pin or not requirement.specifier.contains(pin, prereleases=True):
            raise ValueError(
                f"{name}: {asker} needs {requirement}, the machine has {stated or 'none'}, and constraints.txt states "
                f"{pin or 'no version'}. Put a version that fits there."
            )
        brought[name] = pin
        for one in ("", *sorted(requirement.extras)):
            if (name, one) not in looked_at:
                looked_at.add((name, one))
                waiting += [(Requirement(line), name, one) for line in requirements_of(name, pin)]
    return brought


def gather_wheels(out: Path, python: str, have: Mapping[str, str], slim: bool) -> list[Item]:
    """Returns the wheels that the machine lacks, downloaded unless they lie in the bundle already."""
    pins = read_versions((REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines())
    wheels: dict[str, Path] = {}

    def requirements_of(name: str, version: str) -> Sequence[str]:
        if name not in wheels:
            build = SLIM_BUILD if slim and name == "bitsandbytes" else ""
            found = find_wheel(out, name, version, build, python)
            if found is None:
                found = find_wheel(out, name, version, "", python) or download_wheel(out, name, version, python)
                found = slim_wheel(found, unfinished(out)) if build else found
            wheels[name] = found
        with zipfile.ZipFile(wheels[name]) as archive:
            return email.message_from_bytes(archive.read(_information(archive, "METADATA"))).get_all(
                "Requires-Dist", []
            )

    versions = needed_distributions(root_requirements(), have, pins, requirements_of, python)
    rewritten = f"rewritten: of {LIBRARIES} only {' and '.join(KEPT)}"
    return [
        Item(
            wheels[name],
            f"{name} {version}, {rewritten if SLIM_BUILD in wheels[name].name else 'as the index has it'}",
        )
        for name, version in sorted(versions.items())
    ]


def find_wheel(out: Path, name: str, version: str, build: str, python: str) -> Path | None:
    """Returns the wheel of that name, version and build tag in the bundle, if it is whole and for that Python."""
    from packaging.utils import parse_wheel_filename

    digits = python.replace(".", "")
    for path in lying_files(out, "*.whl"):
        found, its_version, its_build, tags = parse_wheel_filename(path.name)
        fits = any(tag.interpreter in ("py3", f"py{digits}", f"cp{digits}") or tag.abi == "abi3" for tag in tags)
        if (
            (found, str(its_version), "".join(map(str, its_build))) == (name, version, build)
            and fits
            and is_whole(path)
        ):
            return path
    return None


def download_wheel(out: Path, name: str, version: str, python: str) -> Path:
    """Downloads one wheel for the machine, aside first."""
    print(f"downloading {name} {version}", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    machine = ["--python-version", python, "--implementation", "cp", *(f"--platform={one}" for one in PLATFORMS)]
    with tempfile.TemporaryDirectory(dir=unfinished(out)) as folder:
        options = ["--no-deps", "--only-binary=:all:", *machine, "--dest", folder]
        run_pip([*pip, *options, f"{name}=={version}"], f"{name}=={version}: pip could not download it", "Try again.")
        wheel = next(Path(folder).glob("*.whl"))
        return wheel.replace(unfinished(out) / wheel.name)


def run_pip(command: list[str], failure: str, remedy: str) -> None:
    """Runs pip; what it says last becomes the message of a ValueError."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        raise ValueError(
            f"{failure} ({([line for line in lines if line.startswith('ERROR')] or lines)[-1]}). {remedy}"
        )


def _information(archive: zipfile.ZipFile, name: str) -> str:
    return next(path for path in archive.namelist() if re.fullmatch(rf"[^/]+\.dist-info/{name}", path))


def _recorded(content: bytes, algorithm: str = "sha256") -> str:
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest())
    return f"{algorithm}={digest.decode().rstrip('=')}"


def is_whole(wheel: Path) -> bool:
    """Whether every file of a wheel is the one that its RECORD states, and none is missing."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            record = _information(archive, "RECORD")
            rows = {row[0]: row[1] for row in csv.reader(io.StringIO(archive.read(record).decode())) if row}
            del rows[record]
            names = {name for name in archive.namelist() if not name.endswith("/")} - {record}
            return names == rows.keys() and all(
                _recorded(archive.read(name), rows[name].partition("=")[0]) == rows[name] for name in names
            )
    except (zipfile.BadZipFile, zlib.error, StopIteration, KeyError, IndexError, ValueError):
        return False


def slim_wheel(wheel: Path, folder: Path) -> Path:
    """Writes a wheel of bitsandbytes anew without the libraries that the machine cannot use; licences stay in."""
    name, version, *tags = wheel.stem.split("-")
    slim = folder / "-".join([name, version, SLIM_BUILD, *tags[-3:]])
    slim = slim.with_name(f"{slim.name}.whl")

    def write(path: str) -> None:
        rows = []
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            record = _information(source, "RECORD")
            for entry in source.infolist():
                is_kept = any(fnmatch.fnmatch(entry.filename, one) for one in KEPT)
                if entry.filename == record or (fnmatch.fnmatch(entry.filename, LIBRARIES) and not is_kept):
                    continue
                content = source.read(entry)
                if entry.filename == record.replace("RECORD", "WHEEL"):
                    content = content.rstrip() + f"\nBuild: {SLIM_BUILD}\n".encode()
                target.writestr(entry, content, zipfile.ZIP_DEFLATED)
                rows.append([entry.filename, _recorded(content), len(content)])
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([*rows, [record, "", ""]])
            target.writestr(record, table.getvalue())

    replace_file(slim, write)
    return slim


def unfinished(out: Path) -> Path:
    """Returns the folder for what is not in its trip yet, made when missing."""
    (out / "unfinished").mkdir(parents=True, exist_ok=True)
    return out / "unfinished"


def lying_files(out: Path, pattern: str) -> list[Path]:
    """Returns the files of that name in the bundle's trips, and of those that an interrupted run left."""
    folders = [*sorted(out.glob("trip[0-9]*")), out / "unfinished"]
    return [path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file()]


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
