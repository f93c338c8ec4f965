# SPDX-License-Identifier: Apache-2.0
"""The pages that people read: their code runs, their commands parse, their links lead somewhere."""

import argparse
import ast
import dataclasses
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.docs.reader import DEMO_ADAPTER, EXAMPLE_MODELS, README, blocks, drop_in, drop_in_trainer, read, reading
from tests.scripts import load_script
from tests.tiny_models import save_tiny_llama

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS, *(ROOT / name for name in ("CONTRIBUTING.md", "examples/README.md"))]
PAGES.append(ROOT / "examples" / "benchmarks" / "README.md")
# What each command of a page is, and what is run in its place.
page_commands = load_script(ROOT / ".ci" / "page_commands.py")
# Words of a shell that no parser of this project reads.
OTHER_COMMANDS = ("pip install", "accelerate launch", "git ", "vllm serve", "python llama.cpp/")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def of_a_parser(commands: list) -> list[tuple[str, str]]:
    """Page and text of each command, once, but for the pages' Python."""
    return sorted({(one.page, one.text) for one in commands if "tests.docs.reader" not in one.text})


COMMANDS = of_a_parser(page_commands.all_commands())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny Llama that is wide enough for 4-bit blocks."""
    return save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


@pytest.fixture
def reader(model_dir, tmp_path, monkeypatch):
    """Runs a page's code as a reader would; returns the names it leaves."""
    from hf_ckt.models.boundary_probe import BoundaryProbe

    teacher_dir = save_tiny_llama(tmp_path / "teacher", seed=5)
    monkeypatch.chdir(tmp_path)
    # What `hf-ckt fit-probe` writes for the reader's base: two layers of 64.
    BoundaryProbe([1, 2], torch.linspace(-0.1, 0.1, 256), 0.0).save(tmp_path / "probe")
    with reading(model_dir, teacher_dir) as run:
        yield run


def test_drop_in_of_the_readme_trains_and_pushes(reader):
    """The first thing that a user copies would be the first that fails."""
    names = reader(drop_in())
    trainer = names["trainer"]
    assert trainer.state.global_step == 2 and names["pushed"] == [trainer]
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"distillation_loss", "consistency_loss", "loss"} <= logged
    assert type(trainer).__name__ == "ContrastiveRobustTrainer"


# That of the boundary's page is a whole run, and has a test of its own.
PYTHON_PAGES = [page for page in DOCS if blocks(page, "python") and page.stem != "boundary"]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, reader):
    """A field that was renamed since lives on in the pages."""
    read(page, reader)


def test_python_of_a_card_loads_its_adapter(reader):
    """Who downloads an adapter copies these lines; they are written from a template, of which no other test runs them."""
    cards = sorted((ROOT / "model_cards").glob("*.md"))
    assert cards
    reader(drop_in_trainer())["trainer"].save_model(DEMO_ADAPTER)
    for card in cards:
        assert isinstance(read(card, reader)["output"], torch.Tensor)


def test_run_of_the_boundary_page_learns_in_python_and_from_its_file(reader, model_dir, tmp_path, capsys):
    """A whole run of which one setting is refused helps nobody, in whichever of the two forms."""
    from hf_ckt.cli.main import main

    page = ROOT / "docs" / "boundary.md"
    (code, operating_point), (file,) = blocks(page, "python"), blocks(page, "yaml")
    names = reader(code)
    student = names["student"]
    reader(operating_point)
    written = json.loads(Path("student/generation_config.json").read_text())["sequence_bias"]
    assert written == [[[names["token"]], names["point"].bias]]
    logged = {name for entry in student.state.log_history for name in entry}
    assert {"soft_route_refuse", "contrastive_loss", "eval_refusal_auroc", "eval_refusal_auroc_noise"} <= logged
    config = yaml.safe_load(file.replace(EXAMPLE_MODELS[0], str(model_dir)))
    in_python = student.args
    own = {name for name in config if hasattr(in_python, name)} - {"output_dir"}
    assert {"contrastive_level", "group_column", "perturbation"} <= own
    assert all(getattr(in_python, name) == config[name] for name in own)
    config |= {"output_dir": "from-file", "max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", "run.yaml"]) == 0, capsys.readouterr().err
    assert (tmp_path / "from-file" / "adapter_model.safetensors").is_file()


class ParsedError(BaseException):
    """The command line was understood. No `Exception`, which a program turns into one line."""


@pytest.fixture
def parse_only(monkeypatch):
    """Lets the real parsers read a command line and ends the program there."""
    from trl import TrlParser

    from hf_ckt.cli.arguments.parser import CommandParser

    parse_config = TrlParser.parse_args_and_config

    def read_and_leave(parse_args):
        def plain(parser, args=None, namespace=None):
            parse_args(parser, args, namespace)
            raise ParsedError

        return plain

    def with_config(parser, *args, **kwargs):
        *_, unknown = parse_config(parser, *args, **kwargs)
        assert not unknown, f"not understood: {unknown}"
        raise ParsedError

    for kind in (CommandParser, argparse.ArgumentParser):
        monkeypatch.setattr(kind, "parse_args", read_and_leave(kind.parse_args))
    monkeypatch.setattr(TrlParser, "parse_args_and_config", with_config)


def parses(words: list[str], monkeypatch) -> None:
    """Has a command read by its own parser and by nothing else of it."""
    monkeypatch.chdir(ROOT)
    if shlex.join(words).startswith(OTHER_COMMANDS):
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)
    elif words[0] == "hf-ckt":
        from hf_ckt.cli.main import command_files

        assert words[1] in command_files()
        # SFTConfig's default of bf16 is refused where there is neither a GPU nor this.
        words += ["--use_cpu", "true"] if words[1] in ("train", "cache-teacher", "teacher-check") else []
        run = runpy.run_path(str(command_files()[words[1]]), run_name=f"hf_ckt.cli.{words[1].replace('-', '_')}")
        with pytest.raises(ParsedError):
            run["run"](words[2:])
    elif words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
        with pytest.raises(ParsedError):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    else:
        raise AssertionError(f"who reads `{shlex.join(words)}`?")


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_of_a_page_parses(page, command, parse_only, monkeypatch):
    """A command whose option was renamed since fails in the reader's hands."""
    parses(shlex.split(command), monkeypatch)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_of_a_page_is_run_or_it_is_said_why_not(page, command, parse_only, monkeypatch):
    """A command that is neither is in a page untried, and a short form that no program takes runs nothing."""
    for text, how in page_commands.expanded(command):
        assert how is not None, f"{page} has `{text}`: add it to HOW in .ci/page_commands.py"
        if not how.why_not:
            parses(shlex.split(page_commands.shortened(text, how)), monkeypatch)


# Of those that are shortened in the same way, one.
QUICK = sorted({how: text for _, text in COMMANDS if (how := page_commands.how(text)) and how.quick}.values())


@pytest.mark.parametrize("command", QUICK)
def test_quick_command_of_a_page_runs(command, tmp_path):
    """A command that parses may still fail; `make page-commands` runs the others, which take minutes."""
    page_commands.write_stand_ins(tmp_path)
    status, _, said = page_commands.run(command, page_commands.how(command), tmp_path, code=ROOT)
    assert status == 0 and said.strip(), said


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_programs_that_a_sentence_names_exist(page):
    """A sentence that sends the reader to a script or a target that is gone is found by its reader alone."""
    from hf_ckt.cli.main import command_files

    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = {
        # What `hf-ckt bench` was is said where results of that time are shown.
        "hf-ckt": lambda name: name in {*command_files(), "bench"},
        "make": lambda name: re.search(rf"^{name}:", makefile, flags=re.M),
        "python": lambda name: not name.endswith(".py") or (ROOT / name).is_file(),
    }
    named = re.findall(r"`(?:\.venv/bin/)?(hf-ckt|make|python)\s+([\w./-]+)", text)
    assert not [f"{program} {name}" for program, name in named if not known[program](name)]


def test_parse_only_refuses_an_option_that_does_not_exist(parse_only):
    """The tests above would pass on any words."""
    from hf_ckt.cli.fit import run

    with pytest.raises(SystemExit):
        run(["--memory-bg", "24"])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_of_a_page_lead_to_files(page):
    """A file that moved leaves a dead link behind, and a picture that is gone shows nothing."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#") for link in links if not re.match(r"https?://", link)]
    assert not [link for link, _, _ in local if not (page.parent / link).exists()]
    for link, _, anchor in local:
        target = page.parent / link if link else page
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.M) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{link} has no heading #{anchor}"


def _definitions(path: Path) -> set[str]:
    """Functions, classes and methods of a file, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


NAMED = [
    (relative(page), name, (page.parent / link).resolve())
    for page in DOCS
    for name, link in re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "name", "file"), NAMED, ids=lambda value: value if isinstance(value, str) else "")
def test_named_function_stands_in_the_file_that_is_linked(page, name, file):
    """A walk through the code that names what is gone leads nowhere."""
    assert name in _definitions(file), f"{page} names {name}"


def test_walk_through_the_code_names_functions():
    """The test above passes where there is nothing to check."""
    assert len([page for page, _, _ in NAMED if page == "docs/follow_a_batch.md"]) > 30


@pytest.mark.parametrize("page", [README, *DOCS], ids=relative)
def test_settings_that_a_page_names_exist(page):
    """A setting that was renamed since raises only when somebody writes it."""
    from hf_ckt import ContrastiveRobustConfig

    known = {field.name for field in dataclasses.fields(ContrastiveRobustConfig)}
    others = {"teacher_model", "teachers", "max_overrefusal", "compute_loss_func"}
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    named = set(re.findall(r"`([a-z_]+)=[^`]*`", text))
    assert named <= known | others, f"{page.name}: {sorted(named - known - others)}"


def test_readme_is_short_enough_for_three_minutes():
    """A front page that grows is where the next table gets put."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", ["objective", "budget"])
def test_pictures_are_drawn_from_their_source(name):
    """A picture that was edited by hand is overwritten with the next one."""
    source = runpy.run_path(str(ROOT / "docs" / f"draw_{name}.py"))
    assert (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8") == source["draw"]()


def test_picture_names_every_role():
    """A role that is added to the objective and not to its picture is one that readers do not learn of."""
    from hf_ckt.objective.objective import ROLES

    source = runpy.run_path(str(ROOT / "docs" / "draw_objective.py"))
    assert set(source["TERMS"]) == set(ROLES)
