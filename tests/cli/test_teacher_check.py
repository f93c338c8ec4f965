# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt teacher-check`: reads the run file of `hf-ckt train`, and says whether the context does anything."""

import json

import pytest
import yaml

from hf_ckt.cli import main as cli

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} plus one?"}],
        "completion": [{"role": "assistant", "content": f"It is {n + 1}."}],
    }
    for n in range(8)
]
RUN = {
    "use_peft": True,
    "lora_target_modules": "all-linear",
    "report_to": "none",
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "distillation_weight": 1.0,
}


def check(tmp_path, model, capsys, *extra, **config):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    where = {"output_dir": str(tmp_path / "out"), "dataset_name": str(data), "model_name_or_path": str(model)}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**RUN, **where, **config}))
    code = cli.main(["teacher-check", f"--config={file}", *extra])
    return code, capsys.readouterr()


@pytest.mark.parametrize("given", ["field", "kind"])
def test_teacher_check_reads_a_run_file(given, tmp_path, capsys, tiny_model_dir):
    """What is checked must be what is trained: another data set, prompt or teacher says nothing of the run."""
    rule = "Answer in German only."
    kind = {"teacher_model_name_or_path": {"privileged_context": str(tiny_model_dir), "system_prompt": rule}}
    config = {"teacher_system_prompt": rule} if given == "field" else kind
    file = tmp_path / "effect.json"
    code, said = check(tmp_path, tiny_model_dir, capsys, "--rows", "5", f"--json={file}", **config)
    assert code == 0, said.err
    assert "5 rows" in said.out and "tokens with another first choice" in said.out
    (found,) = json.loads(file.read_text()).values()
    assert found["rows"] == 5 and 0 < found["acceptance"] < 1
    assert f"{found['acceptance']:.3f}" in said.out
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_teacher_check_says_what_is_missing(tmp_path, capsys, tiny_model_dir):
    """A run without a context is one where the check cannot fail."""
    code, said = check(tmp_path, tiny_model_dir, capsys)
    assert code == 2 and "hf-ckt teacher-check: error: teacher_system_prompt: no teacher" in said.err
    code, said = check(tmp_path, tiny_model_dir, capsys, "--rows", "0")
    assert code == 2 and "--rows: must be 1 or more" in said.err
    code, said = check(tmp_path, tiny_model_dir, capsys, "--lerning-rate", "1")
    assert code == 2 and "Did you mean" in said.err
