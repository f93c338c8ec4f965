# SPDX-License-Identifier: Apache-2.0
"""Train an adapter or a model from a YAML file, with any field also as an option."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import files
from ..data.files import pick_split
from ..data.numbered_rows import BUILDERS, ending_of
from .arguments.checkpoints import resolve_checkpoint
from .arguments.models import require_model, require_there
from .arguments.teachers import TeacherArguments
from .arguments.train_help import FILE

if TYPE_CHECKING:
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from ..data.row_marks import RowMarks
    from ..training.config import ContrastiveRobustConfig

LOCAL_DATA = "files of this machine"
"""What data that are on no Hub are called on a card."""
# Arguments of the trainer that its errors name, and how they are given here.
_IN_A_SHELL = {
    "teacher_model": "--teacher-model-name-or-path",
    "peft_config": "--use-peft with the options of LoRA",
    "quantization_config": "--load-in-4bit or --load-in-8bit",
    "teacher_quantization_config": "--teacher-load-in-4bit or --teacher-load-in-8bit",
    "train_dataset": "--dataset-name",
    "use_cpu": "--use-cpu true",
}


def run(argv: list[str]) -> int:
    """Parses the options, trains, saves, and pushes if asked to; or shows what that would be."""
    if any(word in ("-h", "--help") for word in argv):
        print(FILE.read_text(encoding="utf-8"), end="")
        return 0
    from .dry_run.running import show_run

    with_run(argv, _train, partial(show_run, build_trainer))
    return 0


def with_run(argv: list[str], work: Callable[..., None], show: Callable[..., None] | None = None) -> None:
    """
    Calls what is to be done with the run that options and run file describe; of an error, it is said how a shell names what
    it names.

    Args:
        argv (`list[str]`):
            The options.
        work (`Callable`):
            Takes the arguments of [`build_trainer`].
        show (`Callable`, *optional*):
            What is called in place of `work` where a dry run is asked for. It takes the settings that differ from their
            defaults first, then the same arguments. None: asking for one raises.
    """
    from .arguments.train_parser import train_parser

    parser = train_parser()
    try:
        parsed = parser.read(argv)
        if not parser.dry_run:
            work(*parsed)
        elif show is not None:
            show(parser.changed, *parsed)
        else:
            raise ValueError("--dry-run: is an option of `hf-ckt train` alone, and would be ignored. Leave it out.")
    except Exception as error:
        text = str(error)
        said = [
            f"{name} is {option}"
            for name, option in _IN_A_SHELL.items()
            # Behind a comma it is one of a teacher's own settings, which a shell does not name.
            if re.search(rf"(?<!, )\b{name}\b", text) and option.split()[0] not in text.replace("_", "-")
        ]
        if said:
            error.add_note(f"In a shell, {', and '.join(said)}.")
        raise


def with_trainer(argv: list[str], work: Callable[[Any], None], change: Callable[..., Any] | None = None) -> None:
    """
    Calls what is to be done with the trainer of a run in place of training it; nothing is resumed or pushed.

    Args:
        argv (`list[str]`):
            Options of `hf-ckt train`.
        work (`Callable`):
            Takes the trainer.
        change (`Callable`, *optional*):
            Takes the run's configuration and its teachers before the trainer is built, and changes them in place.
    """

    def run_it(script: Any, args: Any, model: Any, mixture: Any, teacher: TeacherArguments) -> None:
        from ..models._upstream import end_training

        args.push_to_hub, args.resume_from_checkpoint = False, None
        if change is not None:
            change(args, teacher)
        trainer = build_trainer(script, args, model, mixture, teacher)
        work(trainer)
        end_training(trainer)

    with_run(argv, run_it)


def build_trainer(
    script: "ScriptArguments",
    args: "ContrastiveRobustConfig",
    model: "ModelConfig",
    mixture: "DatasetMixtureConfig",
    teacher: TeacherArguments,
) -> Any:
    """Returns the trainer of a run, its data looked through; raises where something is wrong with what was given."""
    from ..data.row_marks import RowMarks
    from ..objective.objective import ROLES

    # Whatever can be wrong with the input is found before a model is loaded.
    if model.model_name_or_path is None:
        raise ValueError("model_name_or_path: is missing, and there is nothing to train without it.")
    require_model("model_name_or_path", model.model_name_or_path)
    teacher.require_there()
    require_there("chat_template_path", args.chat_template_path)
    args.resume_from_checkpoint = resolve_checkpoint(args.resume_from_checkpoint, args.output_dir)
    dataset = load_splits(script, mixture)
    marks = RowMarks([*(teacher.teachers or {})], args.role_rows or {}, ROLES)  # type: ignore[arg-type]
    checked = partial(_checked, dataset, script=script, args=args, marks=marks)
    train_dataset = checked(script.dataset_train_split, "dataset_train_split")
    eval_dataset = None
    if args.eval_strategy != "no":
        eval_dataset = checked(script.dataset_test_split, "dataset_test_split")

    from jinja2 import TemplateError
    from trl import get_peft_config, get_quantization_config

    from ..training.known_tokens import require_readable_rows
    from ..training.trainer import ContrastiveRobustTrainer

    shared = {"attn_implementation": model.attn_implementation, "dtype": model.dtype}
    args.model_init_kwargs = {
        **shared,
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        **_as_dict(args.model_init_kwargs),
    }
    if teacher.given:
        # Two of the student's stay out: the revision names a state of its repository, and trust in the code that
        # comes with one model is no trust in another's.
        args.teacher_model_init_kwargs = {**shared, **_as_dict(args.teacher_model_init_kwargs)}

    build = partial(
        ContrastiveRobustTrainer,
        model=model.model_name_or_path,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        teacher_model=teacher.teacher_model_name_or_path,
        teachers=teacher.teachers,  # type: ignore[arg-type]  # a mapping by now
        teacher_quantization_config=get_quantization_config(
            replace(model, load_in_4bit=teacher.teacher_load_in_4bit, load_in_8bit=teacher.teacher_load_in_8bit)
        ),
    )
    try:
        trainer = build()
    except TemplateError:
        # Which row it was, the preparation does not say.
        _require_rendered(train_dataset, _source(script, dataset, script.dataset_train_split), model, args)
        _require_rendered(eval_dataset, _source(script, dataset, script.dataset_test_split), model, args)
        raise
    except OSError as error:
        # Without network the libraries' words name no model.
        if model.model_name_or_path not in str(error) and not re.search(r"\bteacher(_model|s)\b", str(error)):
            error.add_note(f"What was to be loaded is model_name_or_path, {model.model_name_or_path!r}.")
        raise
    require_readable_rows(trainer)
    return trainer


def _train(
    script: "ScriptArguments",
    args: "ContrastiveRobustConfig",
    model: "ModelConfig",
    mixture: "DatasetMixtureConfig",
    teacher: TeacherArguments,
) -> None:
    from ..models._upstream import end_training
    from ..models.library_messages import without_preparation_bars
    from ..training.progress import LineProgressCallback

    with without_preparation_bars(unless=sys.stderr.isatty()):
        trainer = build_trainer(script, args, model, mixture, teacher)
        trainer.dataset_name = data_names(script, mixture)
        trainer.add_callback(LineProgressCallback())
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

        trainer.save_model(args.output_dir)
        trainer.create_model_card()
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        _push(trainer)
        trainer.accelerator.print(f"Pushed to https://huggingface.co/{trainer.hub_model_id}")
    # Only after this may the processes part.
    end_training(trainer)


def _as_dict(init_kwargs: dict[str, Any] | str | None) -> dict[str, Any]:
    # The config has turned JSON text from the command line into a dict by now; its type keeps the text.
    return init_kwargs if isinstance(init_kwargs, dict) else {}


def is_local(name: str | None) -> bool:
    """Tells whether a data set's name is a file or folder of this machine rather than a Hub id."""
    return name is not None and (ending_of(name) in BUILDERS or Path(name).expanduser().exists())


def data_names(script: "ScriptArguments", mixture: "DatasetMixtureConfig") -> list[str]:
    """Returns what the training data are called on a card: Hub ids, and of all files of this machine that they are files."""
    given = [one.path for one in mixture.datasets or ()] or [str(script.dataset_name)]
    # A file's name says nothing to a reader of the card, and may say more than its owner wants.
    local = {*BUILDERS.values()}
    return list(dict.fromkeys(LOCAL_DATA if name in local or is_local(name) else name for name in given))


def load_splits(script: "ScriptArguments", mixture: "DatasetMixtureConfig") -> Mapping[str, Any]:
    """
    Loads the training data as a mapping from a split's name to a data set.

    `dataset_name` is what [`~data.files.load_splits`] takes; `datasets` in the YAML file is a mixture as TRL defines it,
    whose paths may also be files of this machine.

    Raises:
        ValueError: If neither or both are given, or a file cannot be read.
        FileNotFoundError: If a file is missing.
    """
    name = script.dataset_name
    if bool(mixture.datasets) == (name is not None):
        given = "both are" if name is not None else "neither is"
        raise ValueError(
            f"dataset_name and datasets: exactly one of them says what to train on, and {given} given. "
            "dataset_name is a Hub id or a local file, datasets a list in the YAML file."
        )
    if name is not None:
        return files.load_splits(
            name, config=script.dataset_config, streaming=script.dataset_streaming, text_cells=True
        )

    from trl import get_dataset

    from .arguments.train_parser import check_mixture

    check_mixture(mixture)
    return get_dataset(replace(mixture, datasets=[_entry(one, mixture.streaming) for one in mixture.datasets]))


def _entry(entry: Any, streaming: bool) -> Any:
    """An entry of a mixture as TRL loads it: a file under the name of its builder, after a look at what is in it."""
    given = entry.data_files if isinstance(entry.data_files, list) else [entry.data_files]
    for file in given:
        if (
            entry.path in BUILDERS.values()
            and isinstance(file, str)
            and ending_of(file) in BUILDERS
            and "*" not in file
        ):
            files.load_splits(file, streaming=streaming)
    path = Path(entry.path).expanduser()
    if not path.is_file() and (path.exists() or ending_of(path) not in BUILDERS):
        return entry
    files.load_splits(entry.path, streaming=streaming)
    options = files.data_file_options(path)
    if "sep" in options:
        raise ValueError(
            f"datasets: {path.name} is separated by tabs, which a mixture cannot be told, so its columns would be one. Write "
            "it as JSON lines or CSV, or give it alone as dataset_name."
        )
    # Of `train[:10%]` the name alone: the slice is taken of it.
    return replace(entry, path=options["path"], data_files={re.split(r"[\[+]", entry.split)[0]: str(path)})


def _checked(
    dataset: Mapping[str, Any],
    split: str,
    option: str,
    *,
    script: "ScriptArguments",
    args: "ContrastiveRobustConfig",
    marks: "RowMarks",
) -> Any:
    from ..data.training_rows import require_marks, require_trainable

    rows = pick_split(dataset, split, option)
    source = _source(script, dataset, split)
    require_trainable(rows, source, text_field=args.dataset_text_field, rejected=args.contrastive_rejected)
    require_marks(rows, source, marks, training=option == "dataset_train_split")
    return rows


def _source(script: "ScriptArguments", dataset: Mapping[str, Any], split: str) -> str:
    """What the rows of a split are called in messages."""
    name = script.dataset_name or "datasets"
    return name if is_local(name) and list(dataset) == ["train"] else f"{name}, split {split}"


def _require_rendered(rows: Any, source: str, model: "ModelConfig", args: "ContrastiveRobustConfig") -> None:
    """Raises ValueError at the row that the model's own template refuses."""
    from transformers import AutoTokenizer

    from ..data.training_rows import require_renderable

    if args.chat_template_path is None and rows is not None:
        name: Any = model.model_name_or_path
        loading = {"revision": model.model_revision, "trust_remote_code": args.trust_remote_code}
        require_renderable(rows, source, AutoTokenizer.from_pretrained(name, **loading))


def _push(trainer: Any) -> None:
    try:
        trainer.push_to_hub()
    except Exception as error:  # the client's own kinds differ between its versions
        raise ValueError(
            f"push_to_hub: {trainer.hub_model_id} was not pushed ({type(error).__name__}: {error}). The run is finished and "
            f"complete in {trainer.args.output_dir}: `hf-ckt push` can push that folder."
        ) from error
