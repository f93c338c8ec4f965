# SPDX-License-Identifier: Apache-2.0
"""The configuration: every field explained, and the same from Python, YAML and the command line."""

import dataclasses

import pytest
from trl import SFTConfig, TrlParser

from hf_ckt import ContrastiveRobustConfig
from hf_ckt.discovery import names_for_role, part_names
from hf_ckt.training.config import EXTRA_ROLES, RECOMMENDED_WEIGHTS
from tests.trainers import fields

OWN = [
    one
    for one in dataclasses.fields(ContrastiveRobustConfig)
    if one.name not in {theirs.name for theirs in dataclasses.fields(SFTConfig)}
]


@pytest.mark.parametrize("one", OWN, ids=lambda one: one.name)
def test_every_field_says_what_it_does(one):
    """`--help` is where settings are looked up; what None means must not be guessed."""
    text = one.metadata["help"]
    assert len(text) > 30 and text.rstrip().endswith(".")
    assert "%" not in text.replace("%%", "")  # argparse would fail on it
    if one.default is None and one.name not in ("loss_settings", "teacher_model_init_kwargs"):
        assert "None" in text


@pytest.mark.parametrize("role", ["task", *EXTRA_ROLES])
def test_every_role_has_weight_schedule_and_end(role):
    """A role without its schedule could not be warmed up."""
    names = {one.name: one for one in OWN}
    assert names[f"{role}_weight"].default == (1.0 if role == "task" else None)
    assert names[f"{role}_schedule"].metadata["choices"] == ["constant", "linear", "cosine", "warmup"]
    assert names[f"{role}_weight_end"].default == 0.0
    if role != "task":
        loss = names[f"{role}_loss"]
        assert loss.default in names_for_role(role)
        assert all(name in loss.metadata["help"] for name in names_for_role(role))
        assert f"{RECOMMENDED_WEIGHTS[role]:g}" in names[f"{role}_weight"].metadata["help"]


@pytest.mark.parametrize("role", EXTRA_ROLES)
def test_every_loss_of_a_role_can_be_built(role, tmp_path):
    """A loss that needs an argument without a default could be named and not used."""
    for name in names_for_role(role):
        args = ContrastiveRobustConfig(str(tmp_path), **fields(**{f"{role}_loss": name}))
        assert type(args.build_loss(role)).__module__.endswith(f".{name}")
    for name in part_names("perturbations"):
        args = ContrastiveRobustConfig(str(tmp_path), **fields(perturbation=name, perturbation_severity=0.5))
        assert args.build_mixture().parts[args.perturbation].severity == 0.5


def test_settings_reach_the_loss_that_they_name(tmp_path):
    """A setting that stays in the config trains with the default."""
    args = ContrastiveRobustConfig(
        str(tmp_path),
        **fields(
            distillation_loss="skew_reverse_kl",
            distillation_temperature=2.0,
            distillation_alpha=0.25,
            contrastive_temperature=0.07,
            contrastive_false_negative_threshold=0.8,
            consistency_loss="jensen_shannon",
            consistency_beta=0.3,
            consistency_target="teacher",
            regularization_loss="reference_kl",
            regularization_temperature=3.0,
            perturbation="uniform",
            perturbation_alpha=9.0,
        ),
    )
    distillation, contrastive = args.build_loss("distillation"), args.build_loss("contrastive")
    consistency, regularization = args.build_loss("consistency"), args.build_loss("regularization")
    assert (distillation.temperature, distillation.alpha, distillation.role) == (2.0, 0.25, "distillation")
    assert (contrastive.temperature, contrastive.false_negative_threshold) == (0.07, 0.8)
    assert (consistency.beta, consistency.role) == (0.3, "robust_consistency")
    assert (regularization.temperature, regularization.role) == (3.0, "regularization")
    assert args.build_mixture().parts["uniform"].alpha == 9.0
    assert args.build_contrast(100, None).queue.size == 0


def test_settings_by_role_reach_losses_without_a_field(tmp_path):
    """Losses added later come without a field of their own."""
    changes = {"loss_settings": {"distillation": {"alpha": 0.4}}, "distillation_loss": "skew_forward_kl"}
    assert ContrastiveRobustConfig(str(tmp_path), **fields(**changes)).build_loss("distillation").alpha == 0.4


def test_task_loss_follows_loss_type(tmp_path):
    """loss_type stays the one switch of the task."""
    for name in ("nll", "dft"):
        args = ContrastiveRobustConfig(str(tmp_path), **fields(loss_type=name))
        assert type(args.build_loss("task")).__module__.endswith(f".{name}")


YAML = """
output_dir: {folder}
use_cpu: true
bf16: false
distillation_weight: 0.7
distillation_loss: jensen_shannon
distillation_beta: 0.25
contrastive_level: sequence
contrastive_weight: 0
consistency_schedule: warmup
schedule_warmup_ratio: 0.2
loss_settings:
  distillation:
    temperature: 2.0
teacher_model_init_kwargs:
  dtype: bfloat16
"""


def test_yaml_and_command_line_give_the_same_config(tmp_path):
    """A run that is written down must be the run that was tried in the shell."""
    path = tmp_path / "run.yaml"
    path.write_text(YAML.format(folder=tmp_path))
    (from_yaml,) = TrlParser([ContrastiveRobustConfig]).parse_args_and_config(["--config", str(path)])
    words = f"""--output_dir {tmp_path} --use_cpu --bf16 false --distillation_weight 0.7
        --distillation_loss jensen_shannon --distillation_beta 0.25 --contrastive_level sequence
        --contrastive_weight 0 --consistency_schedule warmup --schedule_warmup_ratio 0.2""".split()
    words += ["--loss_settings", '{"distillation": {"temperature": 2.0}}']
    words += ["--teacher_model_init_kwargs", '{"dtype": "bfloat16"}']
    (from_words,) = TrlParser([ContrastiveRobustConfig]).parse_args_and_config(words)
    assert {one.name: getattr(from_words, one.name) for one in OWN} == {
        one.name: getattr(from_yaml, one.name) for one in OWN
    }
    loss = from_words.build_loss("distillation")
    assert (loss.beta, loss.temperature) == (0.25, 2.0)
    assert from_words.teacher_model_init_kwargs == {"dtype": "bfloat16"}
    assert from_words.contrastive_weight == 0.0 and from_words.consistency_weight is None


def test_command_line_wins_over_yaml(tmp_path):
    """A sweep sets one value beside the file."""
    path = tmp_path / "run.yaml"
    path.write_text(YAML.format(folder=tmp_path))
    words = ["--config", str(path), "--distillation_weight", "0.1"]
    (args,) = TrlParser([ContrastiveRobustConfig]).parse_args_and_config(words)
    assert args.distillation_weight == 0.1


@pytest.mark.parametrize(
    "words", [["--task_schedule", "linaer"], ["--distillation_loss", "forward_k"], ["--task_weight", "-1"]]
)
def test_command_line_refuses_wrong_values(words, tmp_path, capsys):
    """The shell is where names are mistyped."""
    with pytest.raises((SystemExit, ValueError)) as error:
        TrlParser([ContrastiveRobustConfig]).parse_args_and_config(
            ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", *words]
        )
    said = str(error.value) + capsys.readouterr().err
    assert words[0].lstrip("-") in said and words[1] in said


def test_help_lists_every_field(capsys):
    """A stray % in a help text breaks the whole of `--help`."""
    with pytest.raises(SystemExit):
        TrlParser([ContrastiveRobustConfig]).parse_args(["--help"])
    printed = capsys.readouterr().out
    assert all(f"--{one.name}" in printed for one in OWN)


def test_config_survives_a_round_trip_through_its_dict(tmp_path):
    """Checkpoints and cards keep the config as a dict; a field that cannot be read back is lost."""
    args = ContrastiveRobustConfig(
        str(tmp_path),
        **fields(distillation_weight=0.3, loss_settings={"distillation": {"temperature": 2.0}}, seed=5),
    )
    values = {name: value for name, value in args.to_dict().items() if not name.endswith("_token")}
    again = ContrastiveRobustConfig(**values)
    assert {one.name: getattr(again, one.name) for one in OWN} == {one.name: getattr(args, one.name) for one in OWN}
