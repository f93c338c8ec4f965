# SPDX-License-Identifier: Apache-2.0
"""The options of `hf-ckt train`: this package's first and in groups, TRL's behind `--help-all`."""

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser
from trl.scripts.utils import DatasetConfig

from ...checks import nearest, require_weight
from .parser import require_no_unknown, spelled
from .run_file import EXPONENT, read_run_file
from .teachers import TeacherArguments
from .train_help import FILE, short_help

# The first word of an option's name -> the heading that it stands under.
_GROUPS = {
    "task": "task: what the training answers teach",
    "label": "task: what the training answers teach",
    "teacher": "teacher",
    "teachers": "teacher",
    "distillation": "distillation: the teacher's distribution",
    "contrastive": "contrast: the teacher's reading, apart from that of others",
    "consistency": "consistency: the same answer to a disturbed prompt",
    "perturbation": "perturbation: what disturbs a prompt",
    "noisy": "perturbation: what disturbs a prompt",
    "regularization": "regularization: the pull towards the frozen base",
}
_OTHER = "all terms"
_FIRST = ("_weight", "_loss", "_model_name_or_path")
_INHERITED = "inherited from TRL and transformers"
_GENERAL = ("help", "help_all", "config", "dry_run")
# Of those that start several processes; they stand before the program.
_LAUNCHERS = {
    *(
        "nproc_per_node",
        "nnodes",
        "node_rank",
        "rdzv_backend",
        "rdzv_endpoint",
        "rdzv_id",
        "standalone",
        "master_addr",
    ),
    *("master_port", "num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"),
    *("multi_gpu", "gpu_ids", "config_file", "use_fsdp", "use_deepspeed", "num_gpus"),
}
# What other tools call it.
_OTHER_NAMES = {
    "model": "model_name_or_path",
    "base_model": "model_name_or_path",
    "teacher_model": "teacher_model_name_or_path",
    "teacher": "teacher_model_name_or_path",
    "dataset": "dataset_name",
    "train_data": "dataset_name",
    "train_file": "dataset_name",
    "output": "output_dir",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    "lora_rank": "lora_r",
    "adapter": "use_peft",
    "attention": "attn_implementation",
    "prompt_template": "chat_template_path",
}


class TrainParser(TrlParser):
    """
    Reads a command line and the file that its `--config` names.

    Args:
        kinds (`Sequence[type]`):
            Dataclasses whose fields are the options.
        own (`set[str]`):
            Names of the fields that are this package's own.
    """

    dry_run = False
    """Whether the words that were read, or their file, ask for a run that trains nothing."""

    def __init__(self, kinds: Sequence[type], own: set[str]):
        super().__init__(
            list(kinds),  # type: ignore[arg-type]  # as TRL's own scripts call it
            prog="hf-ckt train",
            description="Train with a contrastive, robust objective.",
            formatter_class=_HyphensFormatter,
            allow_abbrev=False,  # a shortened option would stop working the day that a second one begins like it
        )
        self._own = own
        self.changed: dict[str, tuple[Any, Any]] = {}
        """By name, the value of each option that was set to another one than its default, and that default."""
        # These two are not parsed as the others: they are taken out of the words before.
        self._config = self.add_argument(
            "--config", default=argparse.SUPPRESS, metavar="FILE", help="YAML file with a value for any option"
        )
        self.add_argument(
            "--dry-run",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show what the run would train on and with, what it needs and how long it would take, and train nothing",
        )
        self._help_all = self.add_argument(
            "--help-all",
            action=_HelpAll,
            help=f"show all options with all that is known of them, also those {_INHERITED}, and exit",
        )

    def read(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """
        Returns the dataclasses, filled from the words and behind them from the file.

        Raises:
            ValueError: If an option is unknown, or a value of the file has another type than its option.
        """
        words = [_at_home(word) for word in spelled(argv, self._option_string_actions)]
        words, path = _without_config(words)
        entries = {} if path is None else read_run_file(path)
        self._check(entries)
        defaults = vars(self.parse_known_args([])[0])
        asked = entries.pop("dry_run", False)
        if not isinstance(asked, bool):
            raise ValueError(f"dry_run: must be true or false, got {asked!r} in the run file.")
        self.dry_run = asked or "--dry-run" in words
        words = [word for word in words if word != "--dry-run"]
        unknown = self.set_defaults_with_config(**entries)
        # Before the dataclasses are made: what they refuse may be owed to an option that was meant otherwise.
        found, further = self.parse_known_args(words)
        self._require_known([*unknown, *further])
        _require_json(found)
        # Before the dataclasses work out further values from these.
        changed = {name: (value, defaults.get(name)) for name, value in vars(found).items()}
        self.changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
        *parsed, _ = self.parse_args_and_config(words, return_remaining_strings=True)
        return tuple(parsed)

    def error(self, message: str) -> Any:
        """Raises ValueError; argparse would print hundreds of options before the message."""
        shown = re.sub(r"--\w+/(--[\w-]+)", r"\1", message)  # one spelling of an option is enough
        raise ValueError(f"{shown.rstrip('.')}. `{self.prog} --help` lists the options.")

    def format_help(self) -> str:
        """The own options in groups, a line each, and how to see more."""
        sections, _ = self._sections()
        options = {
            title: [(_option(action), action.help or "") for action in actions] for title, actions in sections.items()
        }
        return short_help(f"usage: {self.prog} [--config FILE] [--option VALUE] ...", self._intro(), options)

    def help_of_all(self) -> str:
        """Returns all that is known of all options, the inherited ones last."""
        sections, inherited = self._sections()
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {self.prog} [--config FILE] [--option VALUE] ...")
        formatter.add_text(self._intro())
        for title, actions in (sections | {_INHERITED: inherited}).items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()

    def _intro(self) -> str:
        return (
            f"{self.description} Besides the options below, those of `trl sft` are taken, among them --model-name-or-path, "
            "--dataset-name, --output-dir, --use-peft, --load-in-4bit, --learning-rate and --max-steps: --help-all shows "
            "them, and says more of each. Underscores may be written for hyphens."
        )

    def _sections(self) -> tuple[dict[str, list[argparse.Action]], list[argparse.Action]]:
        """The general and the own options under their headings, and the inherited ones."""
        sections: dict[str, list[argparse.Action]] = {title: [] for title in (*_GROUPS.values(), _OTHER)}
        inherited = []
        for action in self._actions:
            if action.dest in self._own:
                sections[_GROUPS.get(action.dest.split("_")[0], _OTHER)].append(action)
            elif action.dest not in _GENERAL:
                inherited.append(action)
        for actions in sections.values():  # first what a group needs, then what refines it
            actions.sort(key=lambda action: not action.dest.endswith(_FIRST))
        general = [action for action in self._actions if action.dest in _GENERAL]
        return {"general": general, **sections}, inherited

    def _check(self, entries: dict[str, Any]) -> None:
        if entries.get("datasets") is not None:
            if not isinstance(entries["datasets"], list):
                raise ValueError(
                    f"datasets: must be a list with `- path: NAME` for each data set, got {entries['datasets']!r:.80}. One alone "
                    "is dataset_name."
                )
            entries["datasets"] = [_mixed(one, number) for number, one in enumerate(entries["datasets"], start=1)]
        for action in self._actions:
            if action.dest in entries:
                kind = getattr(action.type, "__name__", "")
                entries[action.dest] = _of_kind(action.dest, kind, entries[action.dest])
                if entries[action.dest] is False and "no" in (action.choices or ()):
                    entries[action.dest] = "no"  # YAML 1.1 takes the word for false
                if action.nargs == "+" and isinstance(entries[action.dest], (str, int, float)):
                    # A text in place of a list of texts would be taken letter by letter.
                    entries[action.dest] = [entries[action.dest]]

    def _require_known(self, unknown: Sequence[str]) -> None:
        for word in unknown:
            option = word.partition("=")[0]
            name = option.removeprefix("--").replace("-", "_")
            if not option.startswith("--"):
                continue
            if name in _LAUNCHERS:
                raise ValueError(
                    f"unknown option {option!r}: it is one of the launcher that starts several processes, and stands before "
                    "the program, as in `accelerate launch --num_processes 2 -m hf_ckt.cli.main train --config FILE` or "
                    "`torchrun --nproc_per_node 2 -m hf_ckt.cli.main train --config FILE`."
                )
            if name in _OTHER_NAMES:
                raise ValueError(f"unknown option {option!r}. Here it is called --{_OTHER_NAMES[name]}.")
            break
        consequence = " Nothing was trained: an option that is ignored looks like one that has no effect."
        # With underscores, as fields are written in a run file.
        require_no_unknown(unknown, self._option_string_actions, consequence)


def train_parser() -> TrainParser:
    """Returns the parser of all that a run may be told."""
    from ...training.config import ContrastiveRobustConfig

    kinds: Any = (ScriptArguments, ContrastiveRobustConfig, ModelConfig, DatasetMixtureConfig, TeacherArguments)
    return TrainParser(kinds, own_fields(ContrastiveRobustConfig, TeacherArguments))


def check_mixture(mixture: DatasetMixtureConfig) -> None:
    """Raises ValueError where the shares of a mixture cannot be taken."""
    shares = [one.fraction for one in mixture.datasets if one.fraction is not None]
    for number, one in enumerate(mixture.datasets, start=1):
        if one.fraction is not None:
            require_weight(f"datasets, entry {number}, fraction", one.fraction)
    if shares and not any(shares):
        raise ValueError("datasets: every fraction is 0, so there is nothing to train on. Raise one.")


class _HyphensFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling of each option."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = argparse.Action([one for one in action.option_strings if "_" not in one], action.dest)
        shown.nargs, shown.choices, shown.metavar = action.nargs, action.choices, action.metavar
        return super()._format_action_invocation(shown)


def _option(action: argparse.Action) -> str:
    option = ", ".join(one for one in action.option_strings if "_" not in one)
    return option if action.metavar is None else f"{option} {action.metavar}"


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.help_of_all(), end="")
        parser.exit()


def own_fields(config: type, *others: type) -> set[str]:
    """Returns the names of the fields that a config adds to SFTConfig, and of all fields of other dataclasses."""
    named: Any = [kind.__dataclass_fields__ for kind in (config, *others)]  # type: ignore[attr-defined]
    return {name for fields in named for name in fields} - set(SFTConfig.__dataclass_fields__)


def _at_home(word: str) -> str:
    """The shell leaves `--option=~/folder` as it is, and a folder called ~ would be made."""
    option, equals, value = word.partition("=")
    return f"{option}={os.path.expanduser(value)}" if equals and value.startswith("~/") else word


def _without_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    rest: list[str] = []
    found: list[str] = []
    following = iter(words)
    for word in following:
        if word == "--config" or word.startswith("--config="):
            found.append(word.partition("=")[2] or next(following, ""))
        else:
            rest.append(word)
    if len(found) > 1:
        raise ValueError("--config: is given twice, and one of the files would be ignored. Give one file.")
    if found and (not found[0] or found[0].startswith("--")):
        raise ValueError("--config: needs the path of a YAML file.")
    return rest, Path(found[0]).expanduser() if found else None


def _mixed(entry: Any, number: int) -> Any:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"datasets, entry {number}: must have keys such as path and split, got {entry!r:.80}. Write `- path: NAME`."
        )
    known = list(DatasetConfig.__dataclass_fields__)
    for key in entry:
        if key not in known:
            raise ValueError(
                f"datasets, entry {number}: unknown key {str(key)!r}, which may be another tool's, so it would be ignored."
                f"{nearest(str(key), known)} Known: {', '.join(known)}. Leave it out."
            )
    if not isinstance(entry.get("path"), str):
        raise ValueError(f"datasets, entry {number}: path is missing. It is a Hub id or a file.")
    return dict(entry)


def _require_json(found: argparse.Namespace) -> None:
    """Raises ValueError at an option of keys and values that is not JSON: the error of the parser names none."""
    for name, value in vars(found).items():
        if isinstance(value, str) and value.startswith("{"):
            try:
                json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"--{name.replace('_', '-')}: is not JSON ({error.msg}, column {error.colno}): {value!r:.80}. Write "
                    "'{\"key\": value}', in single quotation marks for the shell."
                ) from error


def _of_kind(name: str, kind: str, value: Any) -> Any:
    """A value of the file as its option takes it; texts are left to the option's own type, but for 1e3, a whole number."""
    if kind == "str" and isinstance(value, (int, float, date)) and not isinstance(value, bool):
        raise ValueError(f"{name}: must be a text, got {value!r} in the run file. Put it into quotation marks.")
    if kind == "string_to_bool" and not isinstance(value, (bool, str, type(None))):
        raise ValueError(f"{name}: must be true or false, got {value!r} in the run file.")
    if kind == "int" and isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    if kind not in ("int", "float") or value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}: must be a number, got {value!r} in the run file.")
    if kind == "int" and not float(value).is_integer():
        raise ValueError(f"{name}: must be a whole number, got {value!r} in the run file.")
    return int(value) if kind == "int" else value


if __name__ == "__main__":
    FILE.write_text(train_parser().format_help(), encoding="utf-8")
