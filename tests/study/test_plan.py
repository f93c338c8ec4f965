# SPDX-License-Identifier: Apache-2.0
"""What a study's file asks for."""

import re
from pathlib import Path

import pytest
import yaml

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
    ],
)
def test_cell_of_other_fields_has_another_name(changed, others):
    """A finished cell of the old fields would be taken for one of the new."""
    before, after = ({cell.name for cell in Study.of(given).cells()} for given in (FILE, FILE | changed))
    sft = {name for name in before & after if name.startswith("sft") and "-1-" in name}
    assert bool(sft) is others
    kd = {name for name in before & after if name.startswith("kd")}
    assert bool(kd) is ("seeds" in changed)


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
        ({"methods": {"a b": {}}}, "methods: must hold names of letters"),
        ({"methods": {"sft": None}}, "each with fields of `hf-ckt train`"),
        ({"train": {"output-dir": "x"}}, "train: sets output-dir, which the study decides"),
        ({"grid": {"seed": [1]}}, "grid: sets seed"),
        ({"grid": {"learning_rate": 1e-3}}, "must be a list of values"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": []}, "different whole numbers"),
        ({"methods": {"kd": {"teacher_model_name_or_path": "@saef"}}}, "@saef .* Did you mean 'safe'"),
        ({"prepare": {"safe": {"teacher_model_name_or_path": "@second"}, "second": {}}}, "none before it"),
    ],
)
def test_wrong_entries_say_what_and_what_to_do(changed, match):
    """Found by the run that reads it, a slip costs the hours of the runs before."""
    with pytest.raises(ValueError, match=match):
        Study.of(FILE | changed)


def test_example_of_the_page_is_a_study():
    """A reader who copies it would be the first to run it."""
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    study = Study.of(yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]))
    assert len(study.cells()) == 2 * 2 * 3 and [*study.prepared()] == ["refusals"]
    assert len({cell.group for cell in study.cells()}) == 4
