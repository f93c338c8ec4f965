# SPDX-License-Identifier: Apache-2.0
"""The example for several GPUs: two CPU processes log what one logs, and its run files say what accelerate understands."""

import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import yaml

from tests.examples.running import EXAMPLES, run_here

SCRIPT = "11_several_gpus.py"
RUN_FILES = {
    file.stem: file for file in (EXAMPLES / "configs").glob("*.yaml") if "compute_environment" in file.read_text()
}


def steps_of(printed):
    """How many processes there were, and by step what was logged."""
    lines = printed[printed.index(" processes (") - 1 :].splitlines()
    names = lines[1].split()
    return int(lines[0][0]), [dict(zip(names, map(float, line.split()), strict=True)) for line in lines[2:4]]


def test_two_processes_log_what_one_logs(tiny_model_dir, tmp_path, capsys):
    """A loss that depends on how many share a batch makes settings of one GPU wrong on eight."""
    options = ["--model", str(tiny_model_dir), "--steps", "2"]
    run_here(SCRIPT, *options, cwd=tmp_path)
    one, expected = steps_of(capsys.readouterr().out)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(EXAMPLES / SCRIPT), *options, "--output-dir", "adapter"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two, found = steps_of(done.stdout)
    assert (one, two) == (1, 2)
    for step, other in zip(found, expected, strict=True):
        assert step == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert expected[1]["distillation_loss"] > 1e-4  # of a student that has moved
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_batch_that_processes_cannot_share_is_refused(tiny_model_dir, tmp_path, capsys):
    """Rounded down, the batch would be another than that of one process, without a word."""
    with patch("accelerate.PartialState", lambda cpu: SimpleNamespace(num_processes=3)), pytest.raises(SystemExit):
        run_here(SCRIPT, "--model", str(tiny_model_dir), cwd=tmp_path)
    assert "8 rows cannot be shared alike by 3 processes" in capsys.readouterr().err


def launched(file):
    """What `accelerate launch --config_file` makes of a file, and which options it has."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    args = launch_command_parser().parse_args(["--config_file", str(file), str(EXAMPLES / SCRIPT)])
    known = {*vars(args)}
    return _validate_launch_command(args)[0], known


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_run_file_starts_two_processes_of_its_kind(name):
    """accelerate ignores what it does not know: a misspelt line would be a run of another kind."""
    file = RUN_FILES[name]
    args, known = launched(file)
    kinds = {"ddp": args.multi_gpu, "fsdp2": args.use_fsdp, "zero2": args.use_deepspeed, "zero3": args.use_deepspeed}
    assert kinds[name] and args.num_processes == 2 and args.mixed_precision == "bf16"
    written = yaml.safe_load(file.read_text())
    inner = {**written.get("fsdp_config", {}), **written.get("deepspeed_config", {})}
    assert inner.keys() <= known
    assert all(getattr(args, key) == value for key, value in inner.items())
    assert f"--config_file examples/configs/{file.name} examples/{SCRIPT}" in file.read_text()


def test_fsdp_file_is_of_the_second_version_and_saves_one_file():
    """The first version flattens parameters, which an adapter over a quantized backbone does not survive."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    with patch.dict(os.environ):
        os.environ.update(prepare_multi_gpu_env(launched(RUN_FILES["fsdp2"])[0]))
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT" and not plugin.activation_checkpointing


def test_every_run_file_is_tried():
    """A file that is added and not named above would be tried by nobody."""
    assert {*RUN_FILES} == {"ddp", "fsdp2", "zero2", "zero3"}
