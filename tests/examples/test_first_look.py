# SPDX-License-Identifier: Apache-2.0
"""The notebook of `examples/`, run from its first cell to its last on a tiny model."""

import json

import pytest

from tests.examples.running import EXAMPLES, ROOT

NOTEBOOK = EXAMPLES / "first_look.ipynb"


@pytest.fixture
def ran(tiny_model_dir, tmp_path, monkeypatch):
    """Output of each code cell, by the cell's id, after two steps of training in an empty folder."""
    client = pytest.importorskip("nbclient", reason='needs nbclient: pip install "hf-ckt[dev]"')
    pytest.importorskip("ipykernel", reason='needs ipykernel: pip install "hf-ckt[dev]"')
    nbformat = pytest.importorskip("nbformat")
    (tmp_path / "work").mkdir()
    settings = {"FIRST_LOOK_MODEL": str(tiny_model_dir), "FIRST_LOOK_STEPS": "2", "PYTHONPATH": str(ROOT)}
    # Where Jupyter and IPython keep what they write.
    settings |= {name: str(tmp_path / name) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "work")}}
    ).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}, tmp_path / "work"


def shown(outputs: list, kind: str) -> str:
    return "".join(str(output["data"][kind]) for output in outputs if kind in output.get("data", {}))


def test_notebook_runs_and_shows_what_it_speaks_of(ran):
    """A reader's first cells would fail on a renamed argument, or show `<Figure size ...>` in place of the figure."""
    outputs, folder = ran
    assert all(output["output_type"] != "error" for cell in outputs.values() for output in cell)
    rows = shown(outputs["rows"], "text/html")
    assert "harmful" in rows and "lookalike" in rows and "plain" in rows
    assert shown(outputs["noisy"], "text/html").count("<tr") == 5  # the head, and four prompts
    assert shown(outputs["plot"], "image/png")
    table = shown(outputs["compare"], "text/plain")
    assert "typing errors" in table and "change" in table and "nan" not in table.lower()
    changes = [float(line.split()[-1]) for line in table.splitlines()[2:]]
    assert len(changes) == 6 and any(changes)  # two steps at this rate move the student, and the base is another model
    assert not any(folder.glob("first_look/*.safetensors"))


def test_notebook_is_kept_without_outputs():
    """Outputs would be figures that no results file holds, of one machine, and a diff at each run."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 5
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
