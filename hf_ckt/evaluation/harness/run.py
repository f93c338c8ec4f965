# SPDX-License-Identifier: Apache-2.0
"""
Scores a model and its adapters with EleutherAI's lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness):
any of its tasks, and this package's suites, which this folder holds as tasks.
"""

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints import replace_json
from ...checks import missing_package, require_count, require_known
from ...hub.provenance import library_versions
from ..measuring.backbones import Backbones
from ..measuring.chat_format import SYSTEM_FALLBACKS, ChatFormat, entry_tokenizer, require_tokens
from ..measuring.generation import GREEDY, OWN, adapter_generation, decoding, generating, generation_facts
from ..measuring.models import EvaluatedModel, Loading, entries, model_facts
from ..measuring.store import PieceStore, only_writer
from ..measuring.weights import loading_of, precision_warnings, weights_facts
from ..same_models import require_folder_of
from .catalogue import JUDGED_TASKS, OWN_TASKS, load_tasks, own_digest, without_notices
from .chats import formats_without_thoughts, send_as
from .scores import score_rows

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

logger = logging.getLogger(__name__)

# The harness's own, so that its command line draws the same few-shot examples.
_SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "few_shot": 1234}


@dataclass(frozen=True)
class HarnessRun:
    """
    What the harness scores, and how; every field is an option of `hf-ckt lm-eval`.

    Args:
        model (`str`), adapter (`str`, *optional*), compare (`Sequence[str]`, *optional*):
            See `models.entries`.
        tasks (`Sequence[str]`, *optional*, defaults to [`OWN_TASKS`]):
            Tasks, groups or tags of the harness, or of [`OWN_TASKS`], which need no download.
        limit (`int`, *optional*):
            Scores only the first documents of each task; of a group, of each of its subtasks.
        num_fewshot (`int`, *optional*):
            Worked examples before each question; the task's own number by default. Tasks that fix it at 0, like this
            package's, stay there.
        batch_size (`int`, *optional*, defaults to `8`):
            Sequences at a time.
        chat_template (`bool`, *optional*, defaults to `True`):
            Asks every question as a user's turn. Published scores of MMLU and GSM8K are often without.
        system_prompt (`str`, *optional*):
            Put before each question.
        system_fallback (`str`, *optional*, defaults to `"refuse"`):
            What is done with it where a chat template has no system role; see [`~evaluation.measuring.chat_format.ChatFormat`].
        allow_other_base (`bool`, *optional*, defaults to `False`):
            Whether an adapter is scored on another base than the one that it records.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Whether what a task leaves open is generated as the model's own generation configuration says (its penalties,
            beams, sampling), and not greedily.
        loading ([`Loading`], *optional*):
            How weights are loaded.

    Raises:
        ValueError: If there is no task, or a number is too low.
    """

    model: str
    adapter: str | None = None
    compare: Sequence[str] = ()
    tasks: Sequence[str] = OWN_TASKS
    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    chat_template: bool = True
    system_prompt: str | None = None
    system_fallback: str = "refuse"
    allow_other_base: bool = False
    keep_generation_config: bool = False
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"--tasks: names no task, so nothing is scored. Known here: {', '.join(OWN_TASKS)}.")
        require_known("--system-fallback", self.system_fallback, SYSTEM_FALLBACKS)
        require_count("--batch-size", self.batch_size, 1, "With none nothing is read.")
        if self.limit is not None:
            require_count("--limit", self.limit, 1, "With no document there is no rate.")
        if self.num_fewshot is not None:
            require_count("--num-fewshot", self.num_fewshot, 0, "Use 0 for none.")


def score_with_harness(options: HarnessRun, folder: Path, command: str = "") -> dict[str, Any]:
    """
    Scores models on tasks and writes `lm_eval.json`, which `hf-ckt report` shows beside the results of `hf-ckt evaluate`.

    Each model's result on each task is kept in `lm_eval/` with its answers when it is done; the same call after a kill
    reads those. One backbone is loaded once, and the adapters are switched on it.

    Args:
        options ([`HarnessRun`]):
            What is scored.
        folder (`Path`):
            Where the files go.
        command (`str`, *optional*):
            Stated in the results.

    Returns:
        `dict`: what `lm_eval.json` holds: by task, the shown metric of each model; see [`~evaluation.harness.scores.shown_score`].

    Raises:
        ValueError: If lm-eval is not installed, another process writes to the folder, a task is unknown or its data cannot
            be loaded, or the chat template is missing.
    """
    require_harness()
    with only_writer(folder, ".lm_eval.lock", "lm-eval"):
        return _score(options, folder, command)


def require_harness() -> None:
    """Raises ValueError unless lm-eval is installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(f"hf-ckt lm-eval: {missing_package('lm-eval', 'it runs the tasks', 'eval')}.")


def _score(options: HarnessRun, folder: Path, command: str) -> dict[str, Any]:
    listed, _ = entries(options.model, options.adapter, options.compare, allow_other_base=options.allow_other_base)
    require_folder_of(folder, "results.json", {entry.name: model_facts(entry) for entry in listed})
    for warning in precision_warnings(listed, options.loading):
        logger.warning(warning)
    names = list(dict.fromkeys(options.tasks))
    store, backbones = PieceStore(folder / "lm_eval"), Backbones(options.loading)
    formats = _formats(options, listed)
    keys = {
        (entry.name, name): key
        for entry in listed
        for name, key in _keys(options, entry, names, formats.get(entry)).items()
    }
    pending = [name for name in names if not all(store.has(keys[entry.name, name]) for entry in listed)]
    # Before any model is loaded: a misspelt task should not be found after the tasks before it have run.
    loaded = load_tasks(pending)
    # Nor that an adapter does not fit.
    for entry in listed:
        if entry.adapter is not None and not all(store.has(keys[entry.name, name]) for name in names):
            with backbones.active(entry) as model:
                tokenizer = _tokenizer(options, entry, formats.get(entry))
                require_tokens(model, entry, tokenizer, options.loading.trust_remote_code)
    found = {
        (entry.name, name): store.piece(
            keys[entry.name, name],
            partial(_run, options, backbones, entry, formats.get(entry), loaded.get(name)),
        )
        for entry in listed
        for name in names
    }
    results = {
        "format": 1,
        "command": command,
        "tasks": score_rows([entry.name for entry in listed], names, found),
        "models": {
            entry.name: {
                **model_facts(entry),
                **weights_facts(entry, options.loading),
                "generation": _generation(options, entry, formats.get(entry)),
                "chat": formats[entry].described() if formats else None,
            }
            for entry in listed
        },
        "settings": _settings(options),
        "seeds": _SEEDS,
        "versions": library_versions("lm_eval", *options.loading.libraries(), "datasets"),
    }
    if {*names} & {*JUDGED_TASKS}:
        from ..judges import load_judge

        judge = load_judge("rule")
        results["judge"] = {"name": judge.name, "measures": judge.measures, "error": list(judge.error)}
    replace_json(folder / "lm_eval.json", results)
    return results


def _run(
    options: HarnessRun, backbones: Backbones, entry: EvaluatedModel, asked: ChatFormat | None, tasks: "TaskDict"
) -> dict[str, Any]:
    """One model's result on one task, as JSON holds it."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = _tokenizer(options, entry, asked)
    with backbones.active(entry) as model:
        config = decoding(
            model.generation_config, tokenizer, _beside(options, entry), keep_own=options.keep_generation_config
        )
        config.stop_strings = None  # the harness stops at the task's own, and gives `generate` no tokenizer for others
        thought = {} if asked is None else {"think_end_token": asked.reasoning.closes}
        with without_notices():
            # `causal`: the harness guesses from a table of architectures, which a model with its own code is not in.
            lm = HFLM(
                pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=options.batch_size, **thought
            )
        if asked is not None:
            send_as(lm, asked)
        with generating(model, config):
            return run_tasks(lm, tasks, options)


def run_tasks(lm: Any, tasks: "TaskDict", options: HarnessRun) -> dict[str, Any]:
    """
    Runs loaded tasks with one of the harness's models.

    Args:
        lm (`lm_eval.api.model.LM`):
            Answers the requests.
        tasks (`TaskDict`):
            Of [`load_tasks`]. Used again for another model, they ask the same questions with the same examples.
        options ([`HarnessRun`]):
            Of which `limit`, `num_fewshot`, `chat_template` and `system_prompt` are read.

    Returns:
        `dict`: the harness's results that JSON can hold, `rows`, the names among them that a table shows, and under
        `samples` every document with its answer and what that counted.
    """
    import lm_eval
    from lm_eval.utils import handle_non_serializable

    _set_seeds()
    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        if options.num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=options.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        # For each model anew: the draws go on where they were, and the next model would get other examples.
        task.set_fewshot_seed(seed=_SEEDS["few_shot"])
    # Not `simple_evaluate`, which would describe the machine in the results, and ask the Hub about the model.
    found = lm_eval.evaluate(
        lm=lm,
        task_dict=tasks,
        limit=options.limit,
        system_instruction=options.system_prompt,
        apply_chat_template=options.chat_template,
        fewshot_as_multiturn=options.chat_template,
        log_samples=True,
    )
    groups = tasks.get("groups") or {}
    inner = {child for group in groups.values() for child in group.child_names}
    roots = [name for name, group in groups.items() if name not in inner and group.has_aggregation]
    names = ("results", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")
    kept = {
        **{name: found[name] for name in names},
        "rows": roots or list(tasks["tasks"]),
        "samples": {task: [_kept(sample) for sample in samples] for task, samples in found["samples"].items()},
    }
    return json.loads(json.dumps(kept, default=handle_non_serializable))


def _kept(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its answers, without what repeats it: the requests hold few-shot examples many times over."""
    left_out = {"arguments", "doc_hash", "target_hash"}
    if sample["resps"] == [[answer] for answer in sample["filtered_resps"]]:
        left_out.add("resps")
    return {name: value for name, value in sample.items() if name not in left_out}


def _set_seeds() -> None:
    import random

    import numpy as np
    import torch

    random.seed(_SEEDS["random"])
    np.random.seed(_SEEDS["numpy"])
    torch.manual_seed(_SEEDS["torch"])


def _keys(
    options: HarnessRun, entry: EvaluatedModel, names: Sequence[str], asked: ChatFormat | None
) -> dict[str, dict[str, Any]]:
    """By task, what its result depends on; not the batch size, which a run that ran out of memory goes on with smaller."""
    shared = {
        "what": "lm-eval",
        **entry.conditions(loading_of(entry, options.loading), ("lm_eval",)),
        "limit": options.limit,
        "num_fewshot": options.num_fewshot,
        "chat_template": options.chat_template,
        "system_prompt": options.system_prompt,
        "chat": None if asked is None else asked.facts(),
        "generation": _generation(options, entry, asked),
        "seeds": _SEEDS,
    }
    return {name: {**shared, "task": name, "own": own_digest() if name in OWN_TASKS else None} for name in names}


def _generation(options: HarnessRun, entry: EvaluatedModel, asked: ChatFormat | None) -> dict[str, Any]:
    """What holds where a task does not say itself how its answers are generated."""
    return generation_facts(
        entry.model,
        _tokenizer(options, entry, asked),
        _beside(options, entry),
        keep_own=options.keep_generation_config,
        trust_remote_code=options.loading.trust_remote_code,
    )


def _beside(options: HarnessRun, entry: EvaluatedModel) -> Any:
    return adapter_generation(entry.adapter, options.keep_generation_config)


def _formats(options: HarnessRun, entries: Sequence[EvaluatedModel]) -> dict[EvaluatedModel, ChatFormat]:
    """How each entry is asked; empty where questions are sent as plain text."""
    if not options.chat_template:
        return {}
    return formats_without_thoughts(
        entries,
        trust_remote_code=options.loading.trust_remote_code,
        allow_other_base=options.allow_other_base,
        system_prompt=options.system_prompt,
        system_fallback=options.system_fallback,
    )


def _tokenizer(options: HarnessRun, entry: EvaluatedModel, asked: ChatFormat | None) -> Any:
    return asked.tokenizer if asked is not None else entry_tokenizer(entry, options.loading.trust_remote_code)[0]


def _settings(options: HarnessRun) -> dict[str, Any]:
    return {
        "limit": options.limit,
        "num_fewshot": options.num_fewshot,
        "batch_size": options.batch_size,
        "allow_other_base": options.allow_other_base,
        "decoding": OWN if options.keep_generation_config else GREEDY,
        "chat_template": options.chat_template,
        "system_prompt": options.system_prompt,
        **options.loading.facts(),
    }
