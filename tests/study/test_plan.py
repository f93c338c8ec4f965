# SPDX-License-Identifier: Apache-2.0
"""What a study's file asks for."""

import re
from pathlib import Path

import pytest
import yaml

from hf_ckt.cli.study import read_study
from hf_ckt.study.plan import Study, with_folders

FILE = {
    "model": "org/model",
    "train": {"max_steps": 2, "dataset_name": "rows.jsonl"},
    "prepare": {"safe": {"distillation_weight": 0.0}, "second": {"teacher_model_name_or_path": "@safe"}},
    "methods": {"sft": {"distillation_weight": 0.0}, "kd": {"teacher_model_name_or_path": {"adapter": "@second"}}},
    "grid": {"learning_rate": [1e-4, 1e-3]},
    "seeds": [0, 1],
    "evaluate": {"teacher": ["harmful=@safe", "benign=base"], "system_prompt": "You are kind. write to me@home"},
}


def test_cells_are_all_combinations_in_a_fixed_order():
    """In the file's order, half a study would be the first methods with all seeds, and nothing to compare them with."""
    cells = Study.of(FILE).cells()
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * 2
    assert [cell.name for cell in cells] == [cell.name for cell in Study.of(FILE).cells()]
    assert [cell.method for cell in cells] != sorted(cell.method for cell in cells)
    assert {cell.group for cell in cells} == {f"{m}-learning_rate={r}" for m in ("sft", "kd") for r in (1e-4, 1e-3)}
    one = next(cell for cell in cells if cell.method == "sft" and cell.seed == 1)
    assert {"max_steps": 2, "distillation_weight": 0.0, **one.settings}.items() <= one.fields.items()


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ({"train": {**FILE["train"], "max_steps": 3}}, False),
        # What is built on a run that changed is another cell too.
        ({"prepare": {**FILE["prepare"], "safe": {"distillation_weight": 0.5}}}, True),
        ({"evaluate": {}, "seeds": [1, 2]}, True),
        ({"model": "org/other"}, False),
    ],
)
def test_cell_of_other_fields_has_another_name(changed, others):
    """A finished cell of the old fields would be taken for one of the new."""
    before, after = ({cell.name for cell in Study.of(given).cells()} for given in (FILE, FILE | changed))
    sft = {name for name in before & after if name.startswith("sft") and "-1-" in name}
    assert bool(sft) is others
    kd = {name for name in before & after if name.startswith("kd")}
    assert bool(kd) is ("seeds" in changed)


def test_names_are_those_of_folders():
    """A path as a value of the grid made folders within folders, and no model of that name was found in the end."""
    values = ["data/a.jsonl", "../b", {"x": ["y"]}, "c" * 300]
    cells = Study.of(FILE | {"grid": {"dataset_name": values}, "seeds": [0]}).cells()
    assert len({cell.name for cell in cells}) == len({cell.group for cell in cells}) == 2 * len(values)
    assert all(re.fullmatch(r"[\w.=+-]{1,120}", cell.name) for cell in cells)


def test_field_of_either_spelling_is_one():
    """Written with a hyphen for all and with an underscore in a method, it would stand in a cell twice."""
    study = Study.of(
        FILE | {"train": {"learning-rate": 1.0}, "grid": None, "methods": {"sft": {"learning_rate": 2.0}}}
    )
    assert {cell.fields["learning_rate"] for cell in study.cells()} == {2.0}


def test_prepared_runs_stand_for_their_folders():
    """A teacher that is named by what the file calls it is asked of the Hub."""
    study = Study.of(FILE)
    safe, second = study.prepared().values()
    assert second.fields["teacher_model_name_or_path"] == f"@{safe.name}"
    found = with_folders(study.evaluation(), Path("runs"))
    assert found["teacher"] == [f"harmful=runs/{safe.name}", "benign=base"]
    assert found["system_prompt"] == FILE["evaluate"]["system_prompt"]
    kd = next(cell for cell in study.cells() if cell.method == "kd")
    assert with_folders(kd.fields, Path("runs"))["teacher_model_name_or_path"] == {"adapter": f"runs/{second.name}"}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"method": {}}, "Did you mean 'methods'"),
        ({"methods": {}}, "has no methods"),
        ({"methods": {"a b": {}}}, "methods: 'a b' is no name for a run"),
        ({"methods": {"base": {}}}, "base is the base's"),
        ({"methods": {"sft": None}}, "methods, sft: must hold fields of `hf-ckt train`"),
        ({"methods": ["sft"]}, "methods: must hold entries by name"),
        ({"train": {"output-dir": "x"}}, "train: sets output_dir, which the study decides"),
        ({"evaluate": {"compare": ["x"]}}, "evaluate: sets compare"),
        ({"minutes": "3"}, "minutes: must be a number"),
        ({"seeds": 3}, "seeds: must be a list"),
        ({"grid": {"learning_rate": [1e-3, 0.001]}}, "has a value twice"),
        ({"train": {"teacher_model_init_kwargs": '{"adapter": "@safe"}'}}, "names the run @safe within other text"),
        ({"grid": {"seed": [1]}}, "grid: sets seed"),
        ({"grid": {"learning_rate": 1e-3}}, "must be a list of values"),
        ({"seeds": [0, 0]}, "has a value twice"),
        ({"seeds": []}, "Give at least one"),
        ({"seeds": ["a"]}, "must be whole numbers"),
        ({"methods": {"kd": {"teacher_model_name_or_path": "@saef"}}}, "@saef .* Did you mean 'safe'"),
        ({"prepare": {"safe": {"teacher_model_name_or_path": "@second"}, "second": {}}}, "none before it"),
        ({"methods": {"kd": {"like": "sft"}, "sft": {}}}, "methods, kd: is like 'sft', which must stand above it"),
        ({"methods": {"sft": {}, "kd": {"like": "sfd"}}}, "methods, kd, like: unknown name 'sfd'"),
        ({"train": {"like": "sft"}}, "train: like stands in a method alone"),
        ({"methods": {"kd": {"program": 5}}}, "methods, kd: program must be the path of a Python script"),
        ({"grid": {"program": ["a.py"]}}, "grid: sets program"),
        ({"only": "sft"}, "only: must be a list of values"),
        ({"compare": ["saef"]}, "compare: unknown name 'saef'"),
        ({"compare": ["safe", "safe"]}, "compare: has a value twice"),
        ({"methods": {"safe": {}}, "compare": ["safe"]}, "compare: 'safe' is a method's name too"),
        ({"only": 5}, "only: must be a list of values"),
        ({"train": {"teacher_model_name_or_path": "@safe"}}, "prepare, safe: @safe stands for a run"),
        ({"only": ["kdd"]}, "only: unknown name 'kdd'.* Did you mean 'kd'"),
        ({"tiers": {"smoke": ["a"]}}, "tiers, smoke: must hold entries of a study by name"),
        ({"tiers": {"smoke": {"methodes": {}}}}, "tiers, smoke: unknown name 'methodes'"),
        ({"tiers": ["smoke"]}, "tiers: must hold entries by name"),
    ],
)
def test_wrong_entries_say_what_and_what_to_do(changed, match):
    """Found by the run that reads it, a slip costs the hours of the runs before."""
    with pytest.raises(ValueError, match=match):
        Study.of(FILE | changed)


def test_method_has_the_fields_of_what_it_is_like():
    """Copied by hand, a method of the ablation keeps what the full one has dropped."""
    methods = {"a": {"x": 1, "y": 1}, "b": {"like": "a", "y": 2}, "c": {"like": "b", "z": 3}}
    study = Study.of(FILE | {"methods": methods, "only": ["c"], "grid": None})
    assert study.methods["c"] == {"x": 1, "y": 2, "z": 3} and study.methods["a"] == {"x": 1, "y": 1}
    assert {cell.method for cell in study.cells()} == {"c"}


def test_tier_is_put_over_the_file():
    """A smoke run of a copy of the file would show that the copy works."""
    tiers = {"smoke": {"seeds": [5], "train": {"max_steps": 1}, "prepare": {"safe": {"max_steps": 3}}}}
    study = Study.of(FILE | {"tiers": tiers}, "smoke")
    assert study.seeds == [5] and study.train == {"max_steps": 1, "dataset_name": "rows.jsonl"}
    assert study.prepare["safe"] == {"distillation_weight": 0.0, "max_steps": 3}
    assert Study.of(FILE | {"tiers": tiers}) == Study.of(FILE)


def test_file_has_what_it_extends_and_its_own(tmp_path, monkeypatch):
    """Five studies with a copy of the same settings would soon be five settings."""
    monkeypatch.setenv("X_OF_STUDY", "b")
    main, other = tmp_path / "main.yaml", tmp_path / "more" / "other.yaml"
    other.parent.mkdir()
    main.write_text(yaml.safe_dump(FILE | {"tiers": {"smoke": {"seeds": [0]}}}))
    other.write_text(
        yaml.safe_dump({"extends": "../main.yaml", "only": ["kd"], "tiers": {"smoke": {"only": ["sft"]}}})
    )
    assert {cell.method for cell in read_study(other).cells()} == {"kd"}
    smoke = read_study(other, "smoke")
    assert smoke.seeds == [0] and {cell.method for cell in smoke.cells()} == {"sft"}
    main.write_text("env: {X_OF_STUDY: a}\n")
    with pytest.raises(ValueError, match=r"extends: main\.yaml sets variables by `env`, after other\.yaml has read"):
        read_study(other)
    main.write_text("extends: missing.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"extends: main\.yaml names 'missing\.yaml'"):
        read_study(main)
    main.write_text("extends: more/other.yaml\n")
    with pytest.raises(ValueError, match=r"main\.yaml and other\.yaml extend each other|other\.yaml and main\.yaml"):
        read_study(main)


def test_example_of_the_page_is_a_study():
    """A reader who copies it would be the first to run it."""
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    study = Study.of(yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]))
    assert len(study.cells()) == 2 * 2 * 3 and [*study.prepared()] == ["refusals"]
    assert len({cell.group for cell in study.cells()}) == 4


def test_field_of_either_spelling_is_one_in_a_tier_too():
    """The tier's value would be dropped, or stand beside the other."""
    tiers = {1: {"train": {"max-steps": 7}, "only": None}, "empty": None}
    given = FILE | {"train": {"max_steps": 2}, "tiers": tiers}
    assert Study.of(given, "1").train == {"max_steps": 7} and Study.of(given, "empty").train == {"max_steps": 2}


def test_runs_that_nothing_names_are_not_made():
    """A teacher of one method alone would be trained for a study of another."""
    study = Study.of(FILE | {"only": ["sft"], "evaluate": {}})
    assert not study.prepared()
    assert [*Study.of(FILE | {"only": ["sft"]}).prepared()] == ["safe"]
    assert [*Study.of(FILE | {"only": ["kd"], "evaluate": {}}).prepared()] == ["safe", "second"]


def test_unknown_tier_says_which_there_are():
    """Without, the whole study would be run in its place."""
    with pytest.raises(ValueError, match=r"tier: unknown name 'smok'.* Did you mean 'smoke'"):
        Study.of(FILE | {"tiers": {"smoke": {}}}, "smok")
