# SPDX-License-Identifier: Apache-2.0
"""
Builds what is published, checks it, and tries it in an environment that holds nothing else.

    python .ci/package.py             # wheel and sdist in dist/, then the trial
    python .ci/package.py --build     # without the trial

Built is a copy of what git knows, so that nothing that lies around gets in. The trial installs the wheel with its core
dependencies alone, through constraints.txt, and runs from an empty folder, without network and with a tiny model: every
command's help, the commands that need no extra, the drop-in script, and each that needs one, which must say in one sentence
what to install. Needs `build` and `twine`, and the network for both installations.
"""

import argparse
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email.message import Message
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from package_trials import Trial, complaints, trials, unkept_promises

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hf_ckt"
# What a source distribution holds beside the package.
SOURCES = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"}
# Made by the build.
BUILT = {".gitignore", "PKG-INFO"}


class Failed(Exception):
    """What is wrong, in words."""


def repository_files(root: Path) -> list[str]:
    """Returns what git knows or would add, as paths below the root."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        raise Failed(f"{root} is no git checkout, so what belongs to the package is unknown: {listed.stderr.strip()}")
    return sorted(name for name in set(listed.stdout.splitlines()) if (root / name).is_file())


def package_files(files: list[str]) -> set[str]:
    """Returns those of the package: all of them are needed where it is installed."""
    return {name for name in files if name.startswith(f"{PACKAGE}/")}


def copy_sources(root: Path, files: list[str], to: Path) -> Path:
    """Copies what a build reads, the tests too, which a build must leave out; returns the copy's folder."""
    for name in files:
        if name.startswith((f"{PACKAGE}/", "tests/test_")) or "/" not in name:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to / name)
    return to


def build(sources: Path, to: Path, *options: str) -> list[Path]:
    """Returns the files that `python -m build` makes of the sources, for instance a source distribution and a wheel of it."""
    command = [sys.executable, "-m", "build", "--outdir", str(to), *options, str(sources)]
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Failed(f"the build failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return sorted(to.iterdir())


def differences(what: str, found: set[str], wanted: set[str]) -> list[str]:
    """Returns a sentence for what is missing and one for what is too much."""
    compared = {"lacks": sorted(wanted - found), "also holds": sorted(found - wanted)}
    return [f"{what} {verb} {', '.join(names)}" for verb, names in compared.items() if names]


def check_wheel(wheel: Path, files: list[str]) -> list[str]:
    """Returns what is wrong with the files of a wheel: it holds those of the package, its metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in names if re.match(rf"{PACKAGE}-[^/]+\.dist-info/", name)}
    wrong = differences(wheel.name, names - metadata, package_files(files))
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        wrong.append(f"{wheel.name} lacks the licence")
    return wrong


def check_sdist(sdist: Path, files: list[str]) -> list[str]:
    """Returns what is wrong with the files of a source distribution."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    return differences(sdist.name, names - BUILT, package_files(files) | SOURCES)


def metadata_of(wheel: Path) -> Message:
    """Returns the metadata that an index shows."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def version_of(root: Path) -> str:
    """Returns the version, which stands in the package and nowhere else."""
    text = (root / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


def check_metadata(metadata: Message, version: str) -> list[str]:
    """Returns what is wrong with what an index shows: another version, or links that lead nowhere there."""
    text = metadata.get_payload(decode=True).decode("utf-8")
    relative = re.findall(r"\]\((?!https?:)([^)]*)\)", text)
    wrong = []
    if metadata["Version"] != version:
        wrong.append(f"the metadata say version {metadata['Version']}, the package {version}")
    if relative:
        wrong.append(f"the description links to {', '.join(relative)}, which an index does not have")
    return wrong


def make_distributions(to: Path) -> tuple[Path, Path]:
    """Builds, checks and keeps a source distribution and a wheel; returns both."""
    files = repository_files(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        made = build(copy_sources(ROOT, files, Path(folder) / "sources"), Path(folder) / "dist")
        sdist, wheel = sorted(made, key=lambda path: path.suffix == ".whl")
        twine = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
        done = subprocess.run(twine, capture_output=True, text=True)
        print(done.stdout, end="")
        wrong = [f"twine: {done.stdout}{done.stderr}"] if done.returncode else []
        wrong += check_wheel(wheel, files) + check_sdist(sdist, files)
        wrong += check_metadata(metadata_of(wheel), version_of(ROOT))
        if wrong:
            raise Failed("\n".join(wrong))
        to.mkdir(exist_ok=True)
        for old in to.glob(f"{PACKAGE}-*"):
            old.unlink()
        return Path(shutil.copy(sdist, to)), Path(shutil.copy(wheel, to))


def install(wheel: Path, environment: Path) -> None:
    """Makes an environment that holds the wheel and its core dependencies."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel)], capture_output=True, text=True
    )
    if done.returncode:
        raise Failed(f"pip could not install the wheel:\n{done.stderr[-3000:]}")


def run(trial: Trial, environment: Path, folder: Path, settings: dict[str, str]) -> list[str]:
    """Runs one trial in `folder` and returns what is wrong with how it went."""
    words = [str(environment / "bin" / trial.words[0]), *trial.words[1:]]
    done = subprocess.run(
        words, cwd=folder, input=trial.typed, capture_output=True, text=True, env={**settings, **trial.settings}
    )
    return complaints(trial, done.returncode, done.stdout, done.stderr)


def try_out(wheel: Path) -> None:
    """Installs the wheel where nothing else is, and runs what needs no more."""
    kept = ("HOME", "LANG", "OMP_NUM_THREADS", "TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        environment, empty = Path(folder) / "environment", Path(folder) / "empty"
        empty.mkdir()
        start = time.monotonic()
        install(wheel, environment)
        print(f"installed with the core dependencies alone in {time.monotonic() - start:.0f} s")
        settings = {name: os.environ[name] for name in kept if name in os.environ}
        settings |= {"PATH": f"{environment / 'bin'}{os.pathsep}{os.defpath}", "HF_HOME": f"{folder}/hf"}
        settings |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "118"}
        planned = trials(ROOT, metadata_of(wheel))
        wrong = unkept_promises(planned, metadata_of(wheel))
        for trial in planned:
            start = time.monotonic()
            found = run(trial, environment, empty, settings)
            print(f"{'failed' if found else 'ok':<7}{time.monotonic() - start:4.0f} s  {trial.shown}", flush=True)
            wrong += [f"{trial.shown}: {one}" for one in found]
        if wrong:
            raise Failed("\n\n".join(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", action="store_true", help="build and check, and leave out the trial")
    options = parser.parse_args()
    try:
        made = make_distributions(ROOT / "dist")
        for path in made:
            print(f"{path.relative_to(ROOT)}, {path.stat().st_size / 1e6:.1f} MB")
        if not options.build:
            try_out(made[1])
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
