# SPDX-License-Identifier: Apache-2.0
"""Train an adapter or a model from a YAML file, with any field also as an option."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import last_complete_checkpoint
from ..checks import nearest
from ..data.files import BUILDERS

if TYPE_CHECKING:
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from ..training.config import ContrastiveRobustConfig


@dataclass
class TeacherArguments:
    """The teacher's flags; its weights in the loss and its other settings are fields of `ContrastiveRobustConfig`."""

    teacher_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the teacher, a model or an adapter with the student's tokenizer. None: the "
            "student's own frozen base, which needs `--use_peft`."
        },
    )
    teacher_load_in_4bit: bool = field(
        default=False,
        metadata={
            "help": "Load the teacher in 4 bits; type, compute dtype and nesting are those of the student's bnb flags."
        },
    )
    teacher_load_in_8bit: bool = field(default=False, metadata={"help": "Load the teacher in 8 bits."})

    def __post_init__(self) -> None:
        if self.teacher_load_in_4bit and self.teacher_load_in_8bit:
            raise ValueError(
                "teacher_load_in_4bit and teacher_load_in_8bit: one model has one precision, and both are set. "
                "Leave one out."
            )
        for name in ("teacher_load_in_4bit", "teacher_load_in_8bit"):
            if getattr(self, name) and self.teacher_model_name_or_path is None:
                raise ValueError(
                    f"{name}: there is no teacher to quantize, so it would be ignored. Name one with "
                    "--teacher_model_name_or_path, or quantize the student, which then is its own teacher, with "
                    f"--{name.removeprefix('teacher_')}."
                )


def run(argv: list[str]) -> int:
    """Parses the options, trains, saves, and pushes if asked to."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

    from ..training.config import ContrastiveRobustConfig

    kinds: Any = (ScriptArguments, ContrastiveRobustConfig, ModelConfig, DatasetMixtureConfig, TeacherArguments)
    parser = TrlParser(
        kinds,
        prog="hf-ckt train",
        description="Train with a contrastive, robust objective. --config FILE.yaml gives defaults for every option.",
        allow_abbrev=False,  # a shortened option would stop working the day that a second one begins like it
    )
    *parsed, unknown = parser.parse_args_and_config(_with_config_path(argv), return_remaining_strings=True)
    _require_no_unknown(unknown, [option for action in parser._actions for option in action.option_strings])
    _train(*parsed)
    return 0


def _train(
    script: "ScriptArguments",
    args: "ContrastiveRobustConfig",
    model: "ModelConfig",
    mixture: "DatasetMixtureConfig",
    teacher: TeacherArguments,
) -> None:
    # Whatever can be wrong with the input is found before a model is loaded.
    if model.model_name_or_path is None:
        raise ValueError("model_name_or_path: is missing, and there is nothing to train without it.")
    args.resume_from_checkpoint = resolve_checkpoint(args.resume_from_checkpoint, args.output_dir)
    dataset = load_splits(script, mixture)
    train_dataset = pick_split(dataset, script.dataset_train_split, "dataset_train_split")
    eval_dataset = None
    if args.eval_strategy != "no":
        eval_dataset = pick_split(dataset, script.dataset_test_split, "dataset_test_split")

    from trl import get_peft_config, get_quantization_config

    from ..models._upstream import end_training
    from ..training.trainer import ContrastiveRobustTrainer

    shared = {"attn_implementation": model.attn_implementation, "dtype": model.dtype}
    args.model_init_kwargs = {
        **shared,
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        **_as_dict(args.model_init_kwargs),
    }
    if teacher.teacher_model_name_or_path is not None:
        # Two of the student's stay out: the revision names a state of its repository, and trust in the code that
        # comes with one model is no trust in another's.
        args.teacher_model_init_kwargs = {**shared, **_as_dict(args.teacher_model_init_kwargs)}

    trainer = ContrastiveRobustTrainer(
        model=model.model_name_or_path,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        teacher_model=teacher.teacher_model_name_or_path,
        teacher_quantization_config=get_quantization_config(
            replace(model, load_in_4bit=teacher.teacher_load_in_4bit, load_in_8bit=teacher.teacher_load_in_8bit)
        ),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # A folder of this machine says nothing to a reader of the card, and may say more than its owner wants.
    public_name = None if mixture.datasets or is_local(script.dataset_name) else script.dataset_name
    trainer.save_model(args.output_dir)
    trainer.create_model_card(dataset_name=public_name)
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=public_name)
        trainer.accelerator.print(f"Pushed to https://huggingface.co/{trainer.hub_model_id}")
    # Only after this may the processes part.
    end_training(trainer)


def _as_dict(init_kwargs: dict[str, Any] | str | None) -> dict[str, Any]:
    # The config has turned JSON text from the command line into a dict by now; its type keeps the text.
    return init_kwargs if isinstance(init_kwargs, dict) else {}


def resolve_checkpoint(value: str | None, output_dir: str | None) -> str | None:
    """
    Returns the checkpoint to resume from, or None to start anew.

    Args:
        value (`str`, *optional*):
            A checkpoint's folder; `"auto"` or `"true"` for the last one in `output_dir`, if there is one; None or
            `"false"` for a fresh start.
        output_dir (`str`, *optional*):
            Where the run saves.

    Raises:
        ValueError: If `value` is a folder that does not exist.
    """
    # YAML gives `true` as a bool, the shell as a string.
    word = str(value).lower()
    if value is None or word in ("false", "none", "no", ""):
        return None
    if word in ("auto", "true", "yes"):
        # None here starts anew; the trainer's own `True` insists on a checkpoint.
        return last_complete_checkpoint(output_dir, required=False) if output_dir else None
    if not os.path.isdir(value):
        raise ValueError(
            f"resume_from_checkpoint: no such folder, {value!r}. A run that starts anew instead would overwrite what "
            "is in output_dir. Name an existing checkpoint, or use 'auto' for the last one if there is one."
        )
    return value


def is_local(name: str | None) -> bool:
    """Tells whether a data set's name is a file or folder of this machine rather than a Hub id."""
    return name is not None and (Path(name).suffix in BUILDERS or Path(name).exists())


def load_splits(script: "ScriptArguments", mixture: "DatasetMixtureConfig") -> dict[str, Any]:
    """
    Loads the training data as a mapping from a split's name to a data set.

    `dataset_name` is a Hub id, a `.json`, `.jsonl`, `.csv` or `.parquet` file (its one split is `"train"`), a folder
    written by `save_to_disk`, or a folder of data files; `datasets` in the YAML file is a mixture as TRL defines it.

    Raises:
        ValueError: If neither or both are given.
        FileNotFoundError: If the file is missing.
    """
    name, streaming = script.dataset_name, script.dataset_streaming
    if bool(mixture.datasets) == (name is not None):
        given = "both are" if name is not None else "neither is"
        raise ValueError(
            f"dataset_name and datasets: exactly one of them says what to train on, and {given} given. "
            "dataset_name is a Hub id or a local file, datasets a list in the YAML file."
        )
    if name is None:
        from trl import get_dataset

        return get_dataset(mixture)

    from datasets import load_dataset

    path = Path(name)
    if path.suffix in BUILDERS and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"dataset_name: no such file, {name!r}.")
        return load_dataset(BUILDERS[path.suffix], data_files={"train": str(path)}, streaming=streaming)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _from_disk(path, streaming)
    return load_dataset(name, name=script.dataset_config, streaming=streaming)


def _from_disk(path: Path, streaming: bool) -> dict[str, Any]:
    from datasets import Dataset, load_from_disk

    saved = load_from_disk(str(path))
    splits = {"train": saved} if isinstance(saved, Dataset) else saved
    return {name: split.to_iterable_dataset() for name, split in splits.items()} if streaming else splits


def pick_split(dataset: dict[str, Any], split: str, option: str) -> Any:
    """Returns one split, or raises ValueError naming the option, the splits there are, and the nearest of them."""
    if split not in dataset:
        known = ", ".join(map(repr, dataset))
        raise ValueError(f"{option}: the data set has no split {split!r}.{nearest(split, dataset)} It has {known}.")
    return dataset[split]


def _with_config_path(argv: list[str]) -> list[str]:
    """Checks `--config`, and splits `--config=FILE`, which TrlParser would not recognise, in two."""
    arguments: list[str] = []
    for argument in argv:
        arguments += argument.split("=", 1) if argument.startswith("--config=") else [argument]
    if "--config" in arguments:
        import yaml

        following = arguments[arguments.index("--config") + 1 :]
        if not following:
            raise ValueError("--config: needs the path of a YAML file.")
        try:
            yaml.safe_load(Path(following[0]).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"--config: {following[0]} is not YAML: {error}") from error
    return arguments


def _require_no_unknown(unknown: list[str], known: list[str]) -> None:
    for option in unknown:
        if option.startswith("--"):
            name = option.split("=", 1)[0]
            raise ValueError(
                f"unknown option {name!r}.{nearest(name, known)} Nothing was trained: an option that is ignored "
                "looks like one that has no effect."
            )
    if unknown:
        raise ValueError(f"unexpected argument {unknown[0]!r}. Options begin with --, lists are separated by spaces.")
