# SPDX-License-Identifier: Apache-2.0
"""The bundle for a GPU machine without network: what goes into its trips, and what the machine makes of them."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import bundle
import bundle_wheels
from bundle import fill_trips, pack, prepare, split_model
from bundle_wheels import Item, file_digest, find_wheel, is_whole, needed_distributions, read_versions, slim_wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARIES = ["libbitsandbytes_cpu.so", "libbitsandbytes_cuda124.so", "libbitsandbytes_cuda130.so"]


def make_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], requirements: tuple[str, ...] = ()
) -> Path:
    """A pure wheel whose RECORD is right."""
    information = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requirements)
    contents = {
        **{path: text.encode() for path, text in files.items()},
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/licenses/LICENSE": b"Do as you like.\n",
    }
    rows = [f"{path},{bundle_wheels._recorded(content)},{len(content)}" for path, content in contents.items()]
    contents[f"{information}/RECORD"] = "\n".join([*rows, f"{information}/RECORD,,"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_in_archive, content in contents.items():
            archive.writestr(name_in_archive, content)
    return path


def make_bundle(out: Path, limit: int = 4000, part_bytes: int = 2500, python: str = PYTHON) -> dict:
    """One small wheel and a model of 6000 bytes, in as many trips as the limit asks for."""
    wheel = make_wheel(out / "unfinished", "carried", "1.0", {"carried.py": "answer = 42\n"})
    model = out.with_name("tiny.gguf")
    model.write_bytes(bytes(range(250)) * 24)
    parts = split_model(model, part_bytes, out)
    return fill_trips(out, [Item(wheel, "carried 1.0")], parts, limit, python, model)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """What would show that a file was written again."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_prepare_gives_back_the_model_and_the_wheels(tmp_path, monkeypatch):
    """A model joined in the wrong order loads as noise, and a path that replaces the caller's loses hf_ckt."""
    make_bundle(tmp_path / "out")
    monkeypatch.setenv("PYTHONPATH", "of_the_caller")
    variables = prepare(tmp_path / "out", tmp_path / "work")
    assert Path(variables["HF_CKT_SMOLLM2_GGUF"]).read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    assert variables["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "work" / "site"), "of_the_caller"])
    done = subprocess.run(
        [sys.executable, "-c", "import carried; print(carried.answer)"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42\n", done.stderr


def test_manifest_states_every_file_with_its_hash(tmp_path):
    """A file that the manifest does not know is carried over unchecked."""
    manifest = make_bundle(tmp_path / "out")
    stated = {one["path"]: (one["bytes"], one["sha256"]) for one in manifest["files"]}
    lying = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != bundle.MANIFEST]
    assert stated == {
        path.relative_to(tmp_path / "out").as_posix(): (path.stat().st_size, file_digest(path)) for path in lying
    }
    assert json.loads((tmp_path / "out" / "trip1" / bundle.MANIFEST).read_text()) == manifest
    assert manifest["model"]["sha256"] == file_digest(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(("limit", "part_bytes"), [(2600, 1000), (4000, 2500), (9000, 400)])
def test_no_trip_is_larger_than_the_limit(tmp_path, limit, part_bytes):
    """A trip that is too large is refused when it is carried over, and the time of the machine is lost."""
    out = tmp_path / "out"
    make_bundle(out, limit, part_bytes)
    sizes = [bundle.folder_bytes(folder) for folder in out.glob("trip*")]
    assert max(sizes) <= limit and not (out / "unfinished").exists()
    assert all(path.stat().st_size <= part_bytes for path in out.rglob("*.gguf.part*"))


def test_pack_uses_the_room_that_is_left_and_names_what_does_not_fit():
    """One trip for each file would take as many starts of the machine."""
    assert pack({"a": 60, "b": 70, "c": 20, "d": 30}, 100, 10) == {"a": 1, "b": 2, "c": 1, "d": 2}
    assert pack({"a": 100}, 100, 1) == {"a": 2}  # the first has no room for it beside the manifest
    with pytest.raises(ValueError, match=r"bitsandbytes-1-x\.whl: has 101 bytes, a trip at most 100\..*--slim"):
        pack({"bitsandbytes-1-x.whl": 101}, 100, 0)


@pytest.mark.parametrize("fault", ["changed", "missing", "truncated"])
def test_prepare_names_the_file_that_is_wrong(tmp_path, fault):
    """Weights with one wrong byte train as well as right ones, to other numbers."""
    manifest = make_bundle(tmp_path / "out")
    path = manifest["model"]["parts"][1]
    content = bytearray((tmp_path / "out" / path).read_bytes())
    content[7] ^= 1
    if fault == "missing":
        (tmp_path / "out" / path).unlink()
    else:
        (tmp_path / "out" / path).write_bytes(content if fault == "changed" else content[:-1])
    with pytest.raises(ValueError, match=rf"{re.escape(path)}: .*Carry {path.split('/')[0]} over again"):
        prepare(tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_missing_trip_means_no_model_until_it_comes(tmp_path, capsys):
    """Half a model that is named to the jobs fails in each of them; a trip that comes later must be taken up."""
    manifest = make_bundle(tmp_path / "out")
    last = tmp_path / "out" / manifest["model"]["parts"][0].split("/")[0]
    assert last.name == "trip2"
    last.rename(tmp_path / "later")
    variables = prepare(tmp_path / "out", tmp_path / "work")
    assert variables.keys() == {"PYTHONPATH"} and (tmp_path / "work" / "site" / "carried.py").exists()
    said = capsys.readouterr().out
    assert f"{last.name} not carried over" in said and "no model without" in said
    (tmp_path / "later").rename(last)
    assert "HF_CKT_SMOLLM2_GGUF" in prepare(tmp_path / "out", tmp_path / "work")


def test_bundle_without_a_model_says_so(tmp_path, capsys):
    """Jobs that are skipped without a word look as if they had passed."""
    wheel = make_wheel(tmp_path / "out", "carried", "1.0", {})
    fill_trips(tmp_path / "out", [Item(wheel, "carried 1.0")], [], 4000, PYTHON, None)
    assert prepare(tmp_path / "out", tmp_path / "work").keys() == {"PYTHONPATH"}
    assert "made without the model" in capsys.readouterr().out


def test_prepare_a_second_time_does_nothing(tmp_path, monkeypatch):
    """Installing and joining again would take the machine's time in each command."""
    make_bundle(tmp_path / "out")
    first = prepare(tmp_path / "out", tmp_path / "work")
    before = contents(tmp_path / "work")
    monkeypatch.setattr(bundle, "run_pip", lambda *arguments: pytest.fail("pip ran again"))
    assert prepare(tmp_path / "out", tmp_path / "work") == first
    assert contents(tmp_path / "work") == before


def test_prepare_says_which_python_and_which_trip_it_needs(tmp_path):
    """pip's own message about an unsupported wheel says nothing of the bundle."""
    with pytest.raises(ValueError, match="Carry trip1 over again"):
        prepare(tmp_path, tmp_path / "work")
    make_bundle(tmp_path / "out", python="3.99")
    with pytest.raises(ValueError, match=rf"the bundle is for Python 3\.99, this is {PYTHON}.*--python {PYTHON}"):
        prepare(tmp_path / "out", tmp_path / "work")


def test_gathering_again_writes_only_what_is_wrong(tmp_path, monkeypatch):
    """A download that was cut off would begin anew each time; a damaged file that stays would be found only there."""
    downloaded = []

    def download(out, name, version, python):
        downloaded.append(name)
        needs = ("inner>=1",) if name == "outer" else ()
        return make_wheel(bundle_wheels.unfinished(out), name, version, {f"{name}.py": "1\n"}, needs)

    model = tmp_path / "tiny.gguf"
    model.write_bytes(bytes(5000))
    monkeypatch.setattr(bundle_wheels, "download_wheel", download)
    monkeypatch.setattr(bundle_wheels, "root_requirements", lambda: ["outer", "present>=2"])
    monkeypatch.setattr(bundle_wheels, "read_versions", lambda lines: {"outer": "1.0", "inner": "2.0"})
    out = tmp_path / "out"

    def gather():
        wheels = bundle_wheels.gather_wheels(out, PYTHON, {"present": "2.1"}, slim=False)
        return fill_trips(out, wheels, split_model(model, 2000, out), 4500, PYTHON, model)

    manifest = gather()
    assert downloaded == ["outer", "inner"]
    before = contents(out)
    assert gather() == manifest and downloaded == ["outer", "inner"]
    written = {path for path, facts in contents(out).items() if before[path] != facts}
    assert written == {f"trip1/{bundle.MANIFEST}"}

    [wheel] = out.glob("trip*/inner-*.whl")
    part = out / manifest["model"]["parts"][0]
    wheel.write_bytes(wheel.read_bytes()[:-30])
    part.write_bytes(bytes(1999) + b"x")
    assert gather() == manifest and downloaded == ["outer", "inner", "inner"]
    assert file_digest(part) == next(one["sha256"] for one in manifest["files"] if one["path"].endswith(part.name))


def test_trips_of_an_earlier_bundle_do_not_stay(tmp_path):
    """Two versions of one wheel side by side stop the whole installation."""
    out = tmp_path / "out"
    make_bundle(out, 4000, 1000)
    old = make_wheel(out / "trip9", "carried", "0.9", {})
    (out / "trip9" / "of_someone_else.txt").write_text("kept")
    manifest = make_bundle(out, 20_000, 6000)
    assert not old.exists() and (out / "trip9" / "of_someone_else.txt").exists()
    assert sorted(path.name for path in out.glob("trip1/*")) == sorted(
        [bundle.MANIFEST, *(Path(one["path"]).name for one in manifest["files"])]
    )
    assert not (out / "trip2").exists()


def test_needed_distributions_follow_what_is_brought_and_not_what_is_there():
    """One missing requirement of a requirement shows only as an ImportError on the machine."""
    needs = {
        "trainer": [
            "datasets_of-it>=5",
            "torch>=2",
            "windows-only; sys_platform == 'win32'",
            "vision; extra == 'image'",
        ],
        "datasets-of-it": ["multi[fast]", "old-python; python_version < '3.12'", "numpy>=1.17"],
        "multi": ["dill>=0.4", "speedup; extra == 'fast'"],
        "dill": [],
        "speedup": ["trainer"],
    }
    pins = {
        "trainer": "1.16.0",
        "datasets-of-it": "5.2",
        "multi": "1",
        "dill": "0.4.1",
        "speedup": "3",
        "numpy": "2.4",
    }
    found = needed_distributions(
        ["trainer>=1.16,<2", "numpy"],
        {"torch": "2.11.0+cu130", "numpy": "", "dill": "0.3.8"},
        pins,
        lambda name, version: needs[name],
        "3.12",
    )
    assert found == {name: version for name, version in pins.items() if name != "numpy"}


@pytest.mark.parametrize(
    ("root", "have", "said"),
    [
        ("trl>=1", {}, "trl: hf_ckt needs trl>=1, the machine has none, and constraints.txt states no version"),
        ("dill>=0.5", {"dill": "0.3"}, "dill: hf_ckt needs dill>=0.5, the machine has 0.3, and .* states 0.4.1"),
        (
            "torch>=2.12",
            {"torch": "2.11.0"},
            "torch: hf_ckt needs torch>=2.12, the machine has 2.11.0, and the bundle",
        ),
    ],
)
def test_needs_that_cannot_be_met_are_named(root, have, said):
    """A second torch of 900 MB would be fetched, or something that does not fit be carried over."""
    with pytest.raises(ValueError, match=said):
        needed_distributions([root], have, {"dill": "0.4.1", "torch": "2.13.0"}, lambda name, version: [], "3.12")


def test_versions_are_read_as_pip_freeze_writes_them():
    """A name in another spelling than the requirement's would be carried over although it is there."""
    lines = ["# comment", "Jinja2==3.1.6", "hf_xet @ file:///a.whl", "-e /src", "torch==2.11.0+cu130", "", "pandas"]
    assert read_versions(lines) == {"jinja2": "3.1.6", "hf-xet": "", "torch": "2.11.0+cu130", "pandas": ""}


def test_target_and_constraints_name_each_distribution_of_the_roots():
    """A root that neither holds stops `make gpu-bundle` only where it has a network."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    have = read_versions(bundle_wheels.TARGET.split())
    pins = read_versions((bundle_wheels.REPOSITORY / "constraints.txt").read_text().splitlines())
    roots = bundle_wheels.root_requirements()
    needed = needed_distributions(roots, have, pins, lambda name, version: [], "3.12")
    assert needed.keys() >= {"trl", "datasets", "bitsandbytes", "evaluate", "gguf"}
    assert {canonicalize_name(Requirement(root).name) for root in roots} <= needed.keys() | have.keys()


def test_slim_wheel_installs_and_keeps_record_and_licence(tmp_path):
    """pip takes a RECORD that lies and leaves files behind or unchecked; without the licence it must not be passed on."""
    files = {f"bitsandbytes/{name}": name for name in LIBRARIES} | {"bitsandbytes/__init__.py": "", "other.so": "x"}
    wheel = make_wheel(tmp_path / "full", "bitsandbytes", "1.0", files)
    assert is_whole(wheel)
    slim = slim_wheel(wheel, tmp_path)
    assert slim.name == "bitsandbytes-1.0-1slim-py3-none-any.whl" and is_whole(slim)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(slim)], check=True)
    installed = Distribution.at(tmp_path / "site" / "bitsandbytes-1.0.dist-info")
    listed = {str(path) for path in installed.files or []}
    assert {path for path in listed if path.endswith(".so")} == {
        "bitsandbytes/libbitsandbytes_cpu.so",
        "bitsandbytes/libbitsandbytes_cuda130.so",
        "other.so",
    }
    assert all((tmp_path / "site" / path).exists() for path in listed)
    assert "bitsandbytes-1.0.dist-info/licenses/LICENSE" in listed
    assert "Build: 1slim" in (tmp_path / "site" / "bitsandbytes-1.0.dist-info" / "WHEEL").read_text().splitlines()


def test_slim_wheel_is_not_taken_for_the_whole_one(tmp_path):
    """Gathered once with --slim, every later bundle would be slim too and say that it is the index's own."""
    wheel = make_wheel(tmp_path / "trip1", "bitsandbytes", "1.0", {"bitsandbytes/libbitsandbytes_cpu.so": "1"})
    slim = slim_wheel(wheel, tmp_path / "trip1")
    assert find_wheel(tmp_path, "bitsandbytes", "1.0", "1slim", "3.12") == slim
    assert find_wheel(tmp_path, "bitsandbytes", "1.0", "", "3.12") == wheel
    wheel.unlink()
    assert find_wheel(tmp_path, "bitsandbytes", "1.0", "", "3.12") is None


def test_wheel_for_another_python_is_not_taken(tmp_path):
    """A bundle made for 3.11 before would stay in the one for 3.12, where pip refuses it."""
    wheel = make_wheel(tmp_path / "trip1", "multi", "1.0", {})
    wheel = wheel.rename(wheel.with_name("multi-1.0-py311-none-any.whl"))
    assert find_wheel(tmp_path, "multi", "1.0", "", "3.11") == wheel
    assert find_wheel(tmp_path, "multi", "1.0", "", "3.12") is None


@pytest.mark.parametrize("damage", ["cut", "changed", "added"])
def test_damaged_wheel_is_not_whole(tmp_path, damage):
    """What an interrupted copy left would be carried over as if it were a wheel."""
    wheel = make_wheel(tmp_path, "carried", "1.0", {"carried.py": "answer = 42\n"})
    if damage == "added":
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("more.py", "")
    else:
        content = wheel.read_bytes()
        wheel.write_bytes(content[:-40] if damage == "cut" else content.replace(b"42", b"43"))
    assert not is_whole(wheel)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trip-mb", "0"], "--trip-mb: must be 1 or more"),
        (["--python", "three"], "--python: must be a version such as 3.12"),
        (["--have", "missing.txt"], "missing.txt"),
    ],
)
def test_wrong_input_of_the_bundle_is_one_line_and_waits_for_no_torch(tmp_path, arguments, said):
    """A traceback hides the sentence that says what to change; on the machine torch takes its time to import."""
    code = (
        f"import sys\nsys.path.insert(0, {str(Path(bundle.__file__).parent)!r})\nimport bundle\n"
        f"code = bundle.run_guarded('bundle.py', lambda: bundle.run({['--out', str(tmp_path), *arguments]!r}))\n"
        "assert not {'torch', 'transformers', 'trl'} & sys.modules.keys()\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("bundle.py: error: ") and said in done.stderr, done.stderr
