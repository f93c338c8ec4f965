# SPDX-License-Identifier: Apache-2.0
"""The options of `hf-ckt train`: what its help shows, and what is said of those that are not its own."""

import dataclasses
import subprocess
import sys

import pytest
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig

from hf_ckt import ContrastiveRobustConfig
from hf_ckt.cli import main as cli
from hf_ckt.cli.arguments.train_help import FILE
from hf_ckt.cli.arguments.train_parser import TrainParser, check_mixture, own_fields, train_parser
from hf_ckt.cli.train import TeacherArguments

KINDS = (ScriptArguments, ContrastiveRobustConfig, ModelConfig, DatasetMixtureConfig, TeacherArguments)
OWN = {one.name for one in dataclasses.fields(ContrastiveRobustConfig)} - {
    one.name for one in dataclasses.fields(SFTConfig)
}
OWN |= {one.name for one in dataclasses.fields(TeacherArguments)}
CPU = ["--use_cpu", "--bf16", "false", "--output-dir", "x"]


def read(*words):
    return TrainParser(KINDS, own_fields(ContrastiveRobustConfig, TeacherArguments)).read([*CPU, *words])


def shown(capsys, option):
    try:
        assert cli.main(["train", option]) == 0
    except SystemExit as stopped:
        assert stopped.code in (0, None)
    return capsys.readouterr().out


def options_of(text):
    return [line.split()[0].strip(",") for line in text.splitlines() if line.startswith("  --")]


def test_help_shows_the_own_options_in_groups_and_no_others(capsys):
    """What the package adds drowns in a thousand lines that it inherits."""
    text = shown(capsys, "--help")
    wanted = {f"--{name.replace('_', '-')}" for name in OWN}
    extra = {option for option in options_of(text) if option not in wanted}
    assert wanted <= set(options_of(text)) and extra == {"--config", "--dry-run", "--help-all"}
    titles = [line.split(":")[0] for line in text.splitlines() if line.endswith(":") and line[0].isalpha()]
    # The weight of a term before what refines it, the teacher's name before how it is loaded.
    assert text.index("--consistency-weight ") < text.index("--consistency-fraction ")
    assert text.index("--teacher-model-name-or-path ") < text.index("--teacher-model-init-kwargs ")
    assert titles[:3] == ["general", "task", "teacher"] and len(titles) >= 8
    assert "--dry-run" in text[text.index("general:") : text.index("task: ")]


def test_help_all_shows_the_inherited_options_behind_the_own(capsys):
    """An option that no help shows is found in the sources alone."""
    few, everything = shown(capsys, "--help"), shown(capsys, "--help-all")
    assert options_of(everything)[: len(options_of(few))] == options_of(few)
    inherited = set(options_of(everything)) - set(options_of(few))
    assert {"--learning-rate", "--load-in-4bit", "--dataset-name", "--max-length", "--lora-r"} <= inherited
    assert len(inherited) > 100


def test_kept_help_is_that_of_the_fields():
    """A flag that was added since, or means something else now, would be missing from the help or misdescribed."""
    said = "the fields have changed: run `python -m hf_ckt.cli.arguments.train_parser`"
    assert FILE.read_text(encoding="utf-8") == train_parser().format_help(), said


def test_help_is_short_and_waits_for_no_torch():
    """The help is asked for while a command is written; ten seconds each time, and it is not asked for again."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\nassert main(['train', '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & sys.modules.keys()\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) < 200 and max(map(len, lines)) <= 110


def test_help_all_says_more_of_each_option(capsys):
    """The short help names no choices, so they must be found somewhere."""
    assert "'warmup' from 0 to it" not in shown(capsys, "--help")
    assert "'warmup' from 0 to it" in " ".join(shown(capsys, "--help-all").split())


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_help_writes_options_with_hyphens(option, capsys):
    """Each option twice makes the list twice as long."""
    assert not [one for one in options_of(shown(capsys, option)) if "_" in one]


@pytest.mark.parametrize("words", [["--learning-rate", "0.5"], ["--learning_rate=0.5"]])
def test_options_and_files_take_either_spelling(words, tmp_path):
    """A flag copied from a page must work wherever it is written."""
    assert read(*words)[1].learning_rate == 0.5
    (tmp_path / "a.yaml").write_text("learning-rate: 0.5\nlora_modules_to_save: lm_head\nmax_steps: 1e3\n")
    _, args, model, *_ = read("--config", str(tmp_path / "a.yaml"))
    assert (args.learning_rate, model.lora_modules_to_save, args.max_steps) == (0.5, ["lm_head"], 1000)
    # The command line wins.
    assert read(f"--config={tmp_path / 'a.yaml'}", "--learning_rate", "0.25")[1].learning_rate == 0.25


def parser_of(*words):
    parser = TrainParser(KINDS, own_fields(ContrastiveRobustConfig, TeacherArguments))
    parser.read([*CPU, *words])
    return parser


def test_changed_settings_are_those_that_somebody_changed(tmp_path):
    """What a dataclass works out for itself, listed with what was set, hides that one word was misread."""
    (tmp_path / "a.yaml").write_text("learning-rate: 1e-3\nseed: 42\ngradient_accumulation_steps: 4\n")
    changed = parser_of("--config", str(tmp_path / "a.yaml"), "--use-peft", "--consistency-weight", "0.5").changed
    cpu = {"use_cpu": (True, False), "bf16": (False, None), "output_dir": ("x", None)}
    set_here = {"learning_rate": (1e-3, 2e-5), "gradient_accumulation_steps": (4, 1), "use_peft": (True, False)}
    assert changed == cpu | set_here | {"consistency_weight": (0.5, None)}  # 42 is the seed's default


@pytest.mark.parametrize("words", [["--dry-run"], ["--dry_run"], ["--config"]])
def test_dry_run_is_asked_for_in_either_spelling_or_in_the_file(words, tmp_path):
    """A wish to train nothing that is not heard trains for a day."""
    (tmp_path / "a.yaml").write_text("dry-run: true\n")
    words = [*words, str(tmp_path / "a.yaml")] if words == ["--config"] else words
    assert parser_of(*words).dry_run and not parser_of().dry_run
    (tmp_path / "b.yaml").write_text("dry_run: 'later'\n")
    with pytest.raises(ValueError, match=r"dry_run: must be true or false, got 'later'"):
        parser_of("--config", str(tmp_path / "b.yaml"))


def test_a_folder_in_the_home_is_found(monkeypatch):
    """The shell leaves --option=~/x as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    assert read("--output_dir=~/x")[1].output_dir == "/home/me/x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nproc_per_node", "2"], "'--nproc_per_node': it is one of the launcher"),
        (["--num-processes", "2"], "accelerate launch --num_processes 2 -m hf_ckt.cli.main train"),
        (["--max_seq_length", "2"], "'--max_seq_length'. Here it is called --max_length."),
        (["--lora-rank", "2"], "'--lora-rank'. Here it is called --lora_r."),
        (["--frobnicate", "2"], "unknown option '--frobnicate'. Nothing was trained"),
        (["--distilation-weight", "2"], "Did you mean '--distillation-weight'?"),
        (["--max_steps", "abc"], "argument --max-steps: invalid int value: 'abc'. `hf-ckt train --help`"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config", "a", "--config", "b"], "--config: is given twice"),
        (["--config", "--use_cpu"], "--config: needs the path"),
    ],
)
def test_wrong_options_are_told_what_to_write(words, message):
    """`nproc_per_node` was answered with an option of the data loader."""
    with pytest.raises(ValueError) as error:
        read(*words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_steps: 2.5", "max_steps: must be a whole number, got 2.5"),
        ("learning_rate: true", "learning_rate: must be a number, got True"),
        ("learning_rate: [1]", r"learning_rate: must be a number, got \[1\]"),
        ("run_name: 2026-01-31", r"run_name: must be a text, got datetime.date\(2026, 1, 31\) .* quotation marks"),
        ("model_revision: 1234567", "model_revision: must be a text, got 1234567 .* quotation marks"),
        ("use_peft: 2", "use_peft: must be true or false, got 2"),
        ("gradient_checkpointing: [true]", r"must be true or false, got \[True\]"),
        ("max_steps: .inf", "max_steps: must be a whole number, got inf"),
        ("datasets: [{path: a, type: chat}]", "datasets, entry 1: unknown key 'type'.* Known: path, name"),
        ("datasets: [{path: a, fractoin: 1}]", "Did you mean 'fraction'"),
        ("datasets: [{name: a}]", "datasets, entry 1: path is missing"),
        ("datasets: rows.jsonl", "datasets: must be a list .* got 'rows.jsonl'. One alone is dataset_name"),
        ("datasets: {path: a}", "datasets: must be a list"),
        ("datasets: [a]", "datasets, entry 1: must have keys such as path"),
    ],
)
def test_values_of_a_file_are_checked_by_type(content, message, tmp_path):
    """A float for a number of steps fails in the middle of a run, another tool's key in the words of Python."""
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read("--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, -1.0], "entry 2, fraction: must be 0 or more"),
        ([0.0, 0], "every fraction is 0"),
        (["a", 1], "entry 1.*number"),
    ],
)
def test_shares_of_a_mixture_are_numbers(shares, message):
    """They are divided by their sum."""
    entries = [{"path": "a", "fraction": share} for share in shares]
    with pytest.raises((ValueError, TypeError), match=message):
        check_mixture(DatasetMixtureConfig(datasets=entries))


def test_a_share_without_a_dot_is_a_number(tmp_path):
    """YAML takes 5e-1 for a text."""
    (tmp_path / "a.yaml").write_text("datasets: [{path: a, fraction: 5e-1}, {path: b, fraction: 1}]")
    mixture = read("--config", str(tmp_path / "a.yaml"))[3]
    check_mixture(mixture)
    assert [one.fraction for one in mixture.datasets] == [0.5, 1]


def test_the_word_no_switches_evaluation_off(tmp_path):
    """YAML takes it for false, which is no strategy."""
    (tmp_path / "a.yaml").write_text("eval_strategy: no\nsave_strategy: no\n")
    args = read("--config", str(tmp_path / "a.yaml"))[1]
    assert (args.eval_strategy.value, args.save_strategy.value) == ("no", "no")
