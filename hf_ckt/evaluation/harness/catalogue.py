# SPDX-License-Identifier: Apache-2.0
"""Finds tasks, among the harness's own and this package's, and loads them with their data."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checks import nearest

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

TASKS_DIR = Path(__file__).parent
JUDGED_TASKS = ("hf_ckt_direct", "hf_ckt_jailbreak", "hf_ckt_overrefusal")
OWN_TASKS = (*JUDGED_TASKS, "hf_ckt_choices")
# Folders of the harness that are read first: going through all of its 14,000 tasks takes most of a minute on a small
# machine.
_USUAL_FOLDERS = ("gsm8k", "mmlu")


def load_tasks(names: Sequence[str]) -> "dict[str, TaskDict]":
    """
    Loads tasks of the harness and of this package with their data.

    Args:
        names (`Sequence[str]`):
            Tasks, groups or tags.

    Returns:
        `dict[str, TaskDict]`: by name, what `lm_eval.evaluate` takes as `task_dict`.

    Raises:
        ValueError: If there is no such task, or its data are neither in the cache nor reachable.
    """
    if not names:
        return {}
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    _require_own(names)
    root = Path(lm_eval.tasks.__file__).parent
    with without_notices():
        usual = [*(root / folder for folder in _USUAL_FOLDERS), TASKS_DIR]
        manager = TaskManager(include_path=[*usual], include_defaults=False)
        # A tag is also on tasks of other folders, which would be left out.
        if not {*names} <= {*manager.all_subtasks, *manager.all_groups}:
            manager = TaskManager(include_path=[TASKS_DIR])
        for name in names:
            if name not in manager.task_index:
                raise ValueError(f"--tasks: lm-eval has no task {name!r}.{nearest(name, manager.all_tasks)}")
        return {name: _load(manager, name) for name in names}


def _require_own(names: Sequence[str]) -> None:
    """Finds a misspelt task of this package without going through all of the harness's."""
    for name in names:
        if name.startswith("hf_ckt") and name not in OWN_TASKS:
            known = f"Known: {', '.join(OWN_TASKS)}."
            raise ValueError(f"--tasks: there is no task {name!r}.{nearest(name, OWN_TASKS)} {known}")


def _load(manager: Any, name: str) -> "TaskDict":
    if name in OWN_TASKS:
        return manager.load([name])
    try:
        return manager.load([name])
    except (OSError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"--tasks: the data of {name!r} could not be loaded ({reason}). Run it once while online, which keeps them in "
            "the cache, or leave the task out; hf_ckt_choices needs no download."
        ) from error


def own_digest() -> str:
    """Returns a digest of this package's tasks, prompts and judge: under another judge it is another result."""
    evaluation = TASKS_DIR.parent
    files = [*TASKS_DIR.glob("*.yaml"), TASKS_DIR / "catalogue.py", TASKS_DIR / "packaged_suites.py"]
    files += [*(evaluation.parent / "data").glob("*.jsonl"), evaluation / "measuring" / "utility.py"]
    files += [file for file in (evaluation / "judges").glob("*.py") if file.stem != "error"]  # which judges no answer
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


@contextmanager
def without_notices() -> Iterator[None]:
    """Holds back what the harness says about being given a loaded model and tasks of one's own: both are meant."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
