# SPDX-License-Identifier: Apache-2.0
"""The studies of `examples/studies`: their data, two cells of each from end to end, and every method of the main one."""

import itertools
import json
import re
import runpy

import pytest
import yaml

from hf_ckt.cli.main import main as cli
from hf_ckt.cli.study import read_study
from hf_ckt.data.contamination import normalized
from hf_ckt.study.cells import Commands, train_cell
from hf_ckt.study.running import plan_lines, run_study
from tests.examples.running import EXAMPLES, run_here

STUDIES = sorted((EXAMPLES / "studies").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study_data")
    run_here("studies/data.py", "--output-dir", str(folder), cwd=folder)
    return folder


@pytest.fixture
def tiny(data, tiny_model_dir, monkeypatch):
    """Studies of a tiny model, all commands in this process: each would import torch anew."""
    monkeypatch.setenv("STUDY_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("STUDY_DATA", str(data))
    monkeypatch.setenv("STUDY_ADAPTED", "all-linear")  # it has no layers 10 to 29
    monkeypatch.chdir(EXAMPLES.parent)

    def here(self, words, log, program=None):
        if program is None:
            assert cli(words) == 0
        else:
            run_here(program.removeprefix("examples/"), *words[1:], cwd=EXAMPLES.parent)
        return 1.0, 2**27

    monkeypatch.setattr(Commands, "run", here)


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_two_cells_of_each_study_are_run_and_compared(file, tiny, tmp_path):
    """A study that fails at its first comparison does so after hours."""
    study = read_study(file, "smoke")
    results = run_study(study, tmp_path)
    assert len(results["cells"]) == 2
    scores = json.loads((tmp_path / results["evaluation"]).read_text())["models"]
    assert {*scores} == {"base", *results["compared"].values(), *results["cells"]}
    assert [*results["compared"]] == (["refusals", "tuned"] if file.stem == "main" else [])
    assert "2 cells, 0 open" in plan_lines(study, tmp_path)[-1]


def test_each_method_of_the_main_study_trains(tiny, tmp_path):
    """A field that two methods cannot share is found hours after the first of them."""
    smoke = yaml.safe_load((EXAMPLES / "studies" / "main.yaml").read_text())["tiers"]["smoke"]
    study = read_study(EXAMPLES / "studies" / "main.yaml")
    study = type(study).of(
        {
            **vars(study),
            "seeds": [0],
            "train": {**study.train, **smoke["train"], "max_length": 512},
            "prepare": prepared(study, smoke),
        }
    )
    commands = Commands()
    for cell in [*study.prepared().values(), *study.cells()]:
        assert train_cell(cell, study.model, tmp_path, commands)["method"] == cell.method
        assert (tmp_path / "adapters" / cell.name / "adapter_model.safetensors").exists()
    assert len(study.cells()) == len(study.only) >= 12


def prepared(study, smoke):
    return {name: {**fields, **smoke["train"]} for name, fields in study.prepare.items()}


def test_methods_of_the_main_study_differ_in_nothing_but_the_method():
    """More steps, another adapter or more dropout would win in a method's name."""
    study = read_study(EXAMPLES / "studies" / "main.yaml")
    own = ("task_", "distillation_", "contrastive_", "consistency_", "regularization_", "perturbation", "teacher")
    rows = {
        "sft_typos": "rows_typos.jsonl",
        "kd_typos": "rows_typos_clean.jsonl",
        "full_typos": "rows_typos_clean.jsonl",
        "kd_one_teacher": "rows_one_teacher.jsonl",
        "gkd": "rows_one_teacher.jsonl",
    }
    # Of GKDTrainer and of SFTTrainer's NEFTune; the dropout of R-Drop is its noise.
    others = {"program", "lmbda", "beta", "temperature", "neftune_noise_alpha"}
    for name in study.only:
        fields = dict(study.methods[name])
        assert fields.pop("dataset_name", "/rows.jsonl").endswith(f"/{rows.get(name, 'rows.jsonl')}")
        if name == "kd_rdrop":
            assert fields.pop("lora_dropout") > study.train["lora_dropout"] == 0
        assert not [field for field in fields if field not in others and not field.startswith(own)], name
    assert study.methods["gkd"]["beta"] == 0.0


def losses(output):
    state = json.loads((max(output.glob("checkpoint-*")) / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_gkd_and_distillation_from_one_teacher_are_one_method(tiny, tmp_path):
    """Other tokens, labels, rows or another divergence would stand in the table as TRL against ours."""
    study = read_study(EXAMPLES / "studies" / "main.yaml")
    exact = {
        "lora_dropout": 0.0,
        "dtype": "float32",
        "bf16": False,
        "max_length": 512,
        "max_steps": 3,
        "save_steps": 3,
        "logging_steps": 1,
    }
    methods = {name: {**study.methods[name], **exact} for name in ("kd_one_teacher", "gkd")}
    study = type(study).of(
        {
            **vars(study),
            "train": {**study.train, **exact},
            "prepare": {"tuned": {**study.prepare["tuned"], **exact}},
            "methods": methods,
            "only": None,
            "compare": None,
            "seeds": [0],
            "evaluate": {},
        }
    )
    for cell in [*study.prepared().values(), *study.cells()]:
        train_cell(cell, study.model, tmp_path, Commands())
    found = {cell.method: losses(tmp_path / "adapters" / cell.name) for cell in study.cells()}
    assert len(found["gkd"]) == 3 and found["gkd"] == pytest.approx(found["kd_one_teacher"], rel=1e-4)
    assert found["gkd"][2] < found["gkd"][0]
    # Killed between its last checkpoint and the end, it saves what it has and makes no step more.
    (gkd,) = (cell for cell in study.cells() if cell.method == "gkd")
    output = tmp_path / "adapters" / gkd.name
    before = (output / "adapter_model.safetensors").read_bytes()
    (output / "adapter_model.safetensors").unlink()
    (tmp_path / "cells" / f"{gkd.name}.json").unlink()
    train_cell(gkd, study.model, tmp_path, Commands())
    assert (output / "adapter_model.safetensors").read_bytes() == before and len(losses(output)) == 3


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"load_in_4bit": True}, "this script leaves out load_in_4bit"),
        ({"consistency_weight": 0.5}, "this script leaves out consistency_weight"),
        ({"temperature": 2.0}, "temperature must be 1"),
        ({"teacher_model_name_or_path": "org/teacher"}, r"must be \{adapter: FOLDER\}"),
    ],
)
def test_gkd_refuses_what_it_would_leave_out(changed, match, tmp_path):
    """The cell would be another method than its file says."""
    given = {"model_name_or_path": "m", "output_dir": "o", "teacher_model_name_or_path": {"adapter": "a"}, **changed}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(SystemExit, match=match):
        run_here("studies/gkd.py", "--config", str(tmp_path / "run.yaml"), cwd=tmp_path)


def test_tuning_gives_each_method_as_many_trials_on_other_prompts():
    """Who tries more often, or on the prompts of the report, wins by it."""
    main, tuning = (read_study(EXAMPLES / "studies" / "main.yaml", tier) for tier in (None, "tuning"))
    assert len(tuning.cells()) == 3 * len(main.only)
    assert "heldout" in main.evaluate["harmful"] and "validation" in tuning.evaluate["harmful"]
    assert "heldout" in main.evaluate["benign"] and "validation" in tuning.evaluate["benign"]


def test_files_of_a_study_hold_what_their_names_say(data):
    """Half of the wrong answers, or a held-out prompt among the rows, would make every comparison another one."""
    rows = lines_of(data / "rows.jsonl")
    wrong = lines_of(data / "rows_wrong20.jsonl")
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in wrong]
    changed = [row["completion"] != other["completion"] for row, other in zip(rows, wrong, strict=True)]
    assert sum(changed) / len(rows) == pytest.approx(0.2, abs=0.02)
    assert {row["teacher"] for row in rows} == {"refuse", "answer"} and "teacher" not in wrong[0]
    # What is wrong in a few is wrong in more, so that a curve over the share is one of the share alone.
    few = [
        row["completion"] != other["completion"]
        for row, other in zip(rows, lines_of(data / "rows_wrong10.jsonl"), strict=True)
    ]
    assert sum(few) / len(rows) == pytest.approx(0.1, abs=0.02) and all(
        b for a, b in zip(few, changed, strict=True) if a
    )
    refused = [row["completion"][0]["content"] for row in rows if row["teacher"] == "refuse"]
    assert all(text.startswith("Sorry") for text in refused)
    assert [row["completion"][0]["content"] for row in lines_of(data / "refusals.jsonl")] == refused
    noisy = lines_of(data / "rows_noise_wrong20.jsonl")
    assert [row["completion"] for row in noisy] == [row["completion"] for row in wrong]
    assert sum(row["prompt"] != other["prompt"] for row, other in zip(noisy, wrong, strict=True)) > 0.9 * len(rows)
    both, read = lines_of(data / "rows_typos.jsonl"), lines_of(data / "rows_typos_clean.jsonl")
    assert len(both) == 2 * len(rows) and [row["prompt"] for row in read] == [row["prompt"] for row in both]
    # Of a misspelt row a teacher reads the prompt of the row that it is a copy of, of the others what the student reads.
    assert [row["teacher_prompt"] for row in read] == [None] * len(rows) + [row["prompt"] for row in rows]
    trained = {normalized(row["prompt"][-1]["content"]) for row in rows}
    for split in ("validation", "heldout"):
        for kind in ("harmful", "benign"):
            asked = lines_of(data / f"{split}_{kind}.jsonl")
            assert len(asked) > 60 and not trained & {normalized(row["prompt"]) for row in asked}


def test_page_has_the_scores_of_every_method_and_says_what_is_missing(tiny, tmp_path, monkeypatch):
    """A table that keeps the winners alone is none of the study."""
    smoke = read_study(EXAMPLES / "studies" / "weight.yaml", "smoke")
    study = type(smoke).of({**vars(smoke), "seeds": [0, 1]})
    run_study(study, tmp_path / "weight")
    page = runpy.run_path(str(EXAMPLES / "studies" / "page.py"))
    results, text = tmp_path / "results", tmp_path / "RESULTS.md"
    page["keep"](tmp_path / "weight", results / "weight.json")
    names = ("weight", "weight costs", "weight kd-distillation_weight=1.0 minus")
    text.write_text("\n\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in names))
    assert {*page["write_page"](text, results)} == {*names}
    written = text.read_text()
    scores = json.loads((tmp_path / "weight" / "evaluation" / "results.json").read_text())["pooled"]
    for group in {cell.group for cell in study.cells()}:
        (line,) = re.findall(rf"^\| {re.escape(group)} \| (.*)$", written.split("<!-- /weight -->")[0], re.MULTILINE)
        auroc = scores[group]["scores"]["refusal_auroc"]
        assert f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]" in line and line.endswith("| 2 |")
    assert (results / "weight.png").stat().st_size > 1000
    text.write_text(written + "\n<!-- main -->\n<!-- /main -->\n")
    with pytest.raises(ValueError, match=r"nothing is kept for main\. Run that study first"):
        page["write_page"](text, results)
    with pytest.raises(ValueError, match=r"none\.md: is missing"):
        page["write_page"](tmp_path / "none.md", results)


def test_difference_has_the_sign_of_its_heading():
    """Each pair is kept once; read from the other side, the loser wins."""
    page = runpy.run_path(str(EXAMPLES / "studies" / "study_tables.py"))
    found = {"youden_j": {"difference": 0.25, "low": 0.125, "high": 0.5}}
    methods = {"a": {"scores": found, "against": {}}, "b": {"scores": found, "against": {"a": found}}}
    assert "| a | +0.25 [0.12, 0.50] |" in page["difference_table"]({"methods": methods}, "b")
    assert "| b | -0.25 [-0.50, -0.12] |" in page["difference_table"]({"methods": methods}, "a")


def test_power_is_half_of_the_intervals_between_methods():
    """A difference to the base or to a teacher is another question, and its interval another width."""
    tables = runpy.run_path(str(EXAMPLES / "studies" / "study_tables.py"))
    found = {
        name: {"youden_j": {"difference": 0.0, "low": -half, "high": half}}
        for name, half in {"base": 0.9, "a": 0.1, "b": 0.2}.items()
    }
    methods = {
        "base": {"scores": {}, "against": {}},
        "a": {"scores": {}, "against": {"base": found["base"]}},
        "b": {"scores": {}, "against": {"base": found["base"], "a": found["a"]}},
        "c": {"scores": {}, "against": {"a": found["b"], "b": found["b"], "teacher": found["base"]}},
        "teacher": {"scores": {}, "against": {"base": found["base"]}},
    }
    kept = {"methods": methods, "groups": {name: [name] for name in "abc"}}
    assert tables["power_table"](kept).splitlines()[2:] == ["| J | 3 | 0.20 | 0.20 |"]


@pytest.mark.parametrize(
    "grid", [{}, {"steps": [1, 2]}, {"rows": ["data/a.jsonl", "data/b.jsonl"]}, {"x": [0, 1], "y": [0.0, 0.5]}]
)
def test_picture_of_a_study_shows_every_one_of_its_cells(grid, tmp_path, monkeypatch):
    """A method without a marker, or a field of the map without its number, is one that was not kept."""
    from matplotlib.figure import Figure

    monkeypatch.syspath_prepend(str(EXAMPLES / "studies"))
    shown = {}
    monkeypatch.setattr(
        Figure, "savefig", lambda self, file, **_: shown.update(figure=self) or open(file, "wb").close()
    )
    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    places = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    methods, cells, groups = {}, {}, {}
    for method in "abcdefgh" if len(grid) < 2 else "a":
        for place in places:
            name = f"{method}-{place}"
            cells[name], groups[name] = {"method": method, "settings": place}, [name]
            methods[name] = {"scores": dict.fromkeys(("youden_j", "youden_j_noise", "refusal_auroc"), score)}
    kept = {"study": {"grid": grid}, "cells": cells, "groups": groups, "methods": methods}
    runpy.run_path(str(EXAMPLES / "studies" / "study_pictures.py"))["draw"](kept, tmp_path / "drawn.png")
    axes = shown["figure"].axes
    if len(grid) == 2:
        assert [text.get_text() for text in axes[0].texts] == ["0.50"] * 4
    elif grid:
        assert [len(axis.lines) for axis in axes] == [8, 8]
        assert all(len(line.get_xdata()) == 2 for axis in axes for line in axis.lines)
    else:
        assert [text.get_text() for text in axes[0].get_yticklabels()] == [*methods]


def test_value_that_is_chosen_is_the_best_by_both_scores():
    """One score alone chooses whoever refuses more."""
    tables = runpy.run_path(str(EXAMPLES / "studies" / "study_tables.py"))
    reached = {("a", 1): (0.2, 0.9), ("a", 2): (0.4, 0.8), ("b", 1): (0.5, 0.5), ("b", 2): (0.5, 0.4)}
    kept = {"study": {"grid": {"rate": [1, 2]}}, "groups": {}, "cells": {}, "methods": {}}
    for (method, rate), (j, auroc) in reached.items():
        name = f"{method}-{rate}"
        kept["groups"][name] = [name]
        kept["cells"][name] = {"method": method, "settings": {"rate": rate}}
        kept["methods"][name] = {"scores": {"youden_j": {"value": j}, "refusal_auroc": {"value": auroc}}}
    assert tables["chosen"](kept, "rate") == {"a": 2, "b": 1}
    assert tables["choice_table"](kept).splitlines()[2:] == [
        "| a | 0.550 | 0.600, chosen |",
        "| b | 0.500, chosen | 0.450 |",
    ]


def test_learning_rates_of_the_main_study_are_those_that_were_chosen():
    """A rate that was set by hand for one method is a trial more than the others had."""
    file = EXAMPLES / "studies" / "results" / "main-tuning.json"
    study = read_study(EXAMPLES / "studies" / "main.yaml")
    rates = {name: {**study.train, **study.methods[name]}["learning_rate"] for name in study.only}
    if not file.exists():
        assert len({*rates.values()}) == 1  # nothing was tuned
        return
    tables = runpy.run_path(str(EXAMPLES / "studies" / "study_tables.py"))
    assert rates == tables["chosen"](json.loads(file.read_text()), "learning_rate")
