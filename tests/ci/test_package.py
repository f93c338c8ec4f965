# SPDX-License-Identifier: Apache-2.0
"""What is published: the files of wheel and source distribution, what an index shows, one version. The trial takes minutes."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import hf_ckt
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package():
    """The script as a module, and forgets the one that it imports."""
    before = list(sys.path)
    yield load_script(ROOT / ".ci" / "package.py")
    sys.path[:] = before
    sys.modules.pop("package_trials", None)


@pytest.fixture(scope="module")
def files(package):
    try:
        return package.repository_files(ROOT)
    except package.Failed:
        pytest.skip("not a git checkout")


@pytest.fixture(scope="module")
def made(package, files, tmp_path_factory):
    """A source distribution and a wheel, built by what is installed: no network is asked for a build's own environment."""
    for needed in ("build", "hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(needed, reason=f'needs {needed}: pip install "hf-ckt[dev]"')
    folder = tmp_path_factory.mktemp("package")
    sources = package.copy_sources(ROOT, files, folder / "sources")
    sdist, wheel = sorted(
        package.build(sources, folder / "dist", "--no-isolation", "--sdist", "--wheel"),
        key=lambda path: path.suffix == ".whl",
    )
    return sdist, wheel


def test_wheel_holds_the_files_of_the_package_and_no_others(package, files, made):
    """A file that is left out is missed where the package is installed, and never in a clone; tests would be imported there."""
    assert package.check_wheel(made[1], files) == []
    assert "hf_ckt/py.typed" in package.package_files(files) and "hf_ckt/hub/templates/model_card.md" in files


def test_source_distribution_holds_what_a_wheel_is_built_from(package, files, made):
    """Part of the tests does not run without the rest, and a wheel of a distribution that lacks a file lacks it too."""
    assert any(name.startswith("tests/test_") for name in files)
    assert package.check_sdist(made[0], files) == []


def test_a_file_that_is_missing_or_too_much_is_named(package, files, made, tmp_path):
    """A check that finds nothing wrong with anything would let everything through."""
    assert package.check_wheel(made[1], [*files, "hf_ckt/data/new.jsonl"]) == [
        f"{made[1].name} lacks hf_ckt/data/new.jsonl"
    ]
    without = [name for name in files if name != "hf_ckt/py.typed"]
    assert package.check_sdist(made[0], without) == [f"{made[0].name} also holds hf_ckt/py.typed"]


def test_metadata_say_the_packages_version_and_link_to_nothing_that_an_index_lacks(package, made):
    """A second place for the version goes stale; a relative link leads from an index to a page that is not there."""
    metadata = package.metadata_of(made[1])
    assert package.check_metadata(metadata, hf_ckt.__version__) == []
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert package.check_metadata(metadata, "9.9") == [
        f"the metadata say version {hf_ckt.__version__}, the package 9.9"
    ]
    metadata.set_payload("[costs](docs/cost.md)")
    assert "docs/cost.md" in package.check_metadata(metadata, hf_ckt.__version__)[0]


def test_the_index_shows_the_readme_without_its_links_into_the_repository(package, made):
    """What an index shows is this README, and not a second text that is kept beside it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = package.metadata_of(made[1]).get_payload(decode=True).decode("utf-8")
    words = [re.sub(r"\]\([^)]*\)", "", text).replace("[", "").replace("!", "") for text in (readme, shown)]
    for before, after in zip(words[0].splitlines(), words[1].splitlines(), strict=True):
        assert before == after or after == f"(Figure, in the repository: {before}.)"
    assert "](docs/" in readme and "](docs/" not in shown and "](https://arxiv.org" in shown
    code = [re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) for text in (readme, shown)]
    assert code[0] == code[1] and code[0]


def test_the_version_stands_in_one_place_and_the_citation_follows(package):
    """A release that is cited as another one cannot be found."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"] == {"path": "hf_ckt/__init__.py"}
    assert package.version_of(ROOT) == hf_ckt.__version__
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == hf_ckt.__version__ and cited["license"] == project["project"]["license"]


def test_the_citation_has_what_its_format_requires_and_names_the_paper():
    """A file that readers of the format refuse is no citation; the paper is the source of the method's parts."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["message"] and cited["title"]
    paper = cited["references"][0]
    assert all(author["name"] for entry in (cited, paper) for author in entry["authors"])
    assert paper["type"] == "article" and paper["year"] == 2025
    assert paper["identifiers"][0]["value"] == "arXiv:2510.27077" and paper["url"].endswith("/2510.27077")
    card = (ROOT / "hf_ckt" / "hub" / "model_card.py").read_text(encoding="utf-8")
    assert f"{{{paper['title']}}}" in card  # the cards cite it too


def test_trials_run_every_command_and_every_extra_that_readers_install(package):
    """A command that no trial starts may need a package that only developers have."""
    metadata = {"Version": hf_ckt.__version__}
    trials = package.trials(ROOT, metadata)
    commands = {path.stem.replace("_", "-") for path in (ROOT / "hf_ckt" / "cli").glob("[!_]*.py")} - {"main"}
    started = {trial.words[1] for trial in trials if trial.words[0] == "hf-ckt" and "--help" not in trial.words}
    # These read the network, or files that other programs write.
    assert commands - started == {"data", "import-logprobs"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {trial.extra for trial in trials} - {None} == extras.keys() - {"dev"}


def test_a_trial_fails_by_its_exit_its_words_or_a_traceback(package):
    """As above: a trial that cannot fail tries nothing."""
    trial = package.Trial(("hf-ckt", "report"), extra="plot", package="matplotlib")
    sentence = (
        'hf-ckt report: error: matplotlib is not installed, and it draws. Install it with `pip install "hf-ckt[{}]"`.'
    )
    assert package.complaints(trial, 2, "", f"a warning\n{sentence.format('plot')}\n") == []
    assert package.complaints(trial, 1, "", sentence.format("plot")) == ["ended with 1, not 2"]
    assert "does not say" in package.complaints(trial, 2, "", sentence.format("eval"))[0]
    assert package.complaints(trial, 2, "", f"Traceback\n{sentence.format('plot')}") == ["shows a traceback"]
    assert all(
        re.compile(trial.prints) for trial in package.trials(ROOT, {"Version": "1"})
    )  # or a trial ends the script
    plain = package.Trial(("hf-ckt", "parts"), prints="^forward")
    assert package.complaints(plain, 0, "losses\nforward_kl\n", "") == []
    assert len(package.complaints(plain, 1, "no forward", "")) == 2


def test_an_extra_that_does_not_bring_the_package_is_named(package):
    """The sentence would send its reader to install what changes nothing."""

    class Metadata:
        @staticmethod
        def get_all(*_):
            return ['matplotlib>=3.9; extra == "plot"', 'lm-eval>=0.4; extra == "eval"']

    trials = [
        package.Trial(("hf-ckt", "x"), extra=extra, package=name)
        for extra, name in (("plot", "matplotlib"), ("eval", "matplotlib"), ("eval", "lm"), (None, ""))
    ]
    assert package.unkept_promises(trials, Metadata) == ["extra eval brings no matplotlib", "extra eval brings no lm"]


def test_every_requirement_of_the_project_is_pinned():
    """`make package` and `make install` would install another version than the tests ran with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {line.partition("==")[0].replace("_", "-"): line.partition("==")[2] for line in pins.splitlines()}
    for line in [*project["dependencies"], *(line for name in extras if name != "ui" for line in extras[name])]:
        requirement = Requirement(line)
        name = requirement.name.replace("_", "-")
        assert requirement.specifier.contains(pinned[name]), line
