# SPDX-License-Identifier: Apache-2.0
"""One evaluation from the choice of models to its results file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..checks import require_count, require_known
from ..data.prompt_sets import EvalPrompt
from ..hub.provenance import short_device_name
from .judging import Judging, load_judging
from .measuring.backbones import Backbones
from .measuring.chat_format import SYSTEM_FALLBACKS, THINKING_TOKENS, ChatFormat, chat_formats
from .measuring.generation import GREEDY, OWN
from .measuring.measure import Measured, Measurement
from .measuring.models import EvaluatedModel, Loading, entries, model_facts, public_name
from .measuring.probe_odds import kept_log_odds
from .measuring.store import PieceStore, file_digest, only_writer
from .measuring.suites import SUITES, Exchange, ask
from .measuring.tiers import TIERS
from .measuring.vllm_engine import vllm_engine, vllm_is_usable
from .measuring.weights import weights_facts
from .probe import NONE, FoundProbe, find_probe, probe_sentences, require_unseen_by
from .recorded import result_versions, run_warnings
from .results import completion_rows, scored, write_completions
from .same_models import require_folder_of
from .scoring.bound import probe_differences
from .scoring.pooled import require_methods
from .seen_prompts import training_facts

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """
    What is evaluated, and how; every field is an option of `hf-ckt evaluate`.

    Args:
        model, adapter, compare, teacher:
            See `models.entries`.
        tier (`str`, *optional*, defaults to `"smoke"`):
            `"smoke"`, `"cpu"` or `"gpu"`: which sets, and how many of each.
        only (`Sequence[str]`, *optional*):
            Suites; all by default.
        judge (`str`, *optional*, defaults to `"auto"`):
            See `judges.load_judge`.
        pools (`Mapping[str, Sequence[str]]`, *optional*):
            Methods, each with the names of the models that are its runs with other seeds: their scores are pooled.
        data_dir (`Path`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.
        harmful, benign (`Sequence[EvalPrompt]`, *optional*), responses (`Sequence[tuple[str, str]]`, *optional*):
            The user's own, in place of the tier's.
        training_texts (`Mapping[str, Sequence[str]]`, *optional*):
            What the models were trained on, by file: evaluation prompts found there raise, and reworded ones are said.
        system_prompt (`str`, *optional*):
            Put before each prompt.
        system_fallback (`str`, *optional*, defaults to `"refuse"`):
            What is done with it where a chat template has no system role; see [`ChatFormat`].
        thinking_tokens (`int`, *optional*, defaults to `1024`):
            Most tokens of a thought before an answer, of a model that thinks; 0: none. The judge reads no thoughts.
        new_tokens (`int`, *optional*), seeds (`int`, *optional*):
            In place of the tier's.
        loading ([`Loading`], *optional*):
            How weights are loaded.
        engine (`str`, *optional*, defaults to `"auto"`):
            `"transformers"` or `"vllm"`; `"auto"` takes vLLM where it is installed beside a GPU.
        token_consistency (`bool`, *optional*, defaults to `True`):
            Whether the suite `noise` measures it.
        allow_other_base (`bool`, *optional*, defaults to `False`):
            Whether an adapter is scored on another base than the one that it records.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Whether answers are generated as each model's own generation configuration says (its penalties, beams,
            sampling), or the one beside an adapter, and not greedily. The results state which settings were in force.
        probe (`str`, *optional*):
            Folder of the base's boundary probe; `"none"`: without one. By default the one that lies beside the adapter.
        pieces (`Path`, *optional*):
            Where finished pieces are kept, in place of `pieces/` in the evaluation's own folder; evaluations may share it.
    """

    model: str
    adapter: str | None = None
    compare: Sequence[str] = ()
    teacher: str | Mapping[str, str] | None = None
    tier: str = "smoke"
    only: Sequence[str] | None = None
    judge: str = "auto"
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)
    data_dir: Path | None = None
    harmful: Sequence[EvalPrompt] | None = None
    benign: Sequence[EvalPrompt] | None = None
    responses: Sequence[Exchange] | None = None
    training_texts: Mapping[str, Sequence[str]] | None = None
    system_prompt: str | None = None
    system_fallback: str = "refuse"
    thinking_tokens: int = THINKING_TOKENS
    new_tokens: int | None = None
    seeds: int | None = None
    loading: Loading = field(default_factory=Loading)
    engine: str = "auto"
    token_consistency: bool = True
    allow_other_base: bool = False
    keep_generation_config: bool = False
    probe: str | None = None
    pieces: Path | None = None

    def __post_init__(self) -> None:
        require_known("--suite", self.tier, TIERS)
        require_known("--system-fallback", self.system_fallback, SYSTEM_FALLBACKS)
        require_count("--thinking-tokens", self.thinking_tokens, 0, "Use 0 for no thought before an answer.")
        for suite in self.only or ():
            require_known("--only", suite, SUITES)


def evaluate(options: Evaluation, folder: Path, command: str = "") -> dict[str, Any]:
    """
    Evaluates models and writes `results.json` and `completions.parquet`.

    Stopped at any moment, the same call goes on where it was: answers and everything else that takes a model are kept in
    `pieces/` as they are made. With another judge only the judging is done anew.

    Args:
        options ([`Evaluation`]):
            What is evaluated.
        folder (`Path`):
            Where the files go.
        command (`str`, *optional*):
            Stated in the results.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError: If another process writes to the folder, a name is unknown, or evaluation prompts are training prompts.
    """
    with only_writer(folder, ".lock", "evaluation"):
        return _evaluate(options, folder, command)


def _evaluate(options: Evaluation, folder: Path, command: str) -> dict[str, Any]:
    tier = TIERS[options.tier]
    tier = replace(tier, new_tokens=options.new_tokens or tier.new_tokens, seeds=options.seeds or tier.seeds)
    listed, teachers = entries(
        options.model,
        options.adapter,
        options.compare,
        options.teacher,
        allow_other_base=options.allow_other_base,
    )
    if options.pools:
        require_methods([entry.name for entry in listed], options.pools)
    require_folder_of(folder, "lm_eval.json", {entry.name: model_facts(entry) for entry in listed})
    store = PieceStore(options.pieces or folder / "pieces")
    judging = load_judging(options.judge, trust_remote_code=options.loading.trust_remote_code, store=store)
    suites = [suite for suite in SUITES if suite in (options.only or SUITES)]
    left_out = {suite: "left out by --only" for suite in SUITES if suite not in suites}
    if not teachers and "kd" in suites:
        suites.remove("kd")
        left_out["kd"] = "there is no adapter and no --teacher, so nothing to agree with"
    teachers = teachers if "kd" in suites else {}
    asked = ask(
        tier,
        suites,
        options.data_dir,
        harmful=options.harmful,
        benign=options.benign,
        responses=options.responses,
    )
    training = training_facts(asked, options.training_texts)
    if options.probe not in (None, NONE) and not asked.rows:
        raise ValueError(
            "--probe: reads prompts that are to be refused or answered, and none of the suites asks any, so it would be ignored. "
            "Add direct, overrefusal, jailbreak or noise to --only, or leave the probe out."
        )
    probe = find_probe(options.probe, listed) if asked.rows else None
    unseen = probe is not None and require_unseen_by(probe.probe, asked)
    formats = _formats(options, [*listed, *teachers.values()])

    backbones, engine = Backbones(options.loading), _engine(options)
    everyone = dict.fromkeys((*listed, *teachers.values()))
    warnings = run_warnings(everyone, options.loading, (judging.harmful, judging.benign), tier.new_tokens)
    warnings += [] if probe is None else probe_sentences(probe.probe, formats[listed[0]])
    for said in warnings:
        logger.warning(said)
    measurement = Measurement(
        asked,
        tier,
        formats,
        backbones,
        store,
        teachers,
        vllm_engine(options.loading) if engine == "vllm" else None,
        options.token_consistency,
        options.keep_generation_config,
    )
    # Before all else: a probe that does not fit should not be found after hours of answers.
    odds = None if probe is None else kept_log_odds(probe.probe, probe.digest, listed[0], measurement)
    measured = measurement.run(listed)
    backbones.clear()  # a judge that is a model may need the room
    rows = {
        entry.name: completion_rows(
            entry.name, asked, measured[entry.name], judging, odds if entry is listed[0] else None
        )
        for entry in listed
    }
    results = {
        "format": 2,
        "command": command,
        "tier": options.tier,
        "suites": suites,
        "left_out": left_out,
        "settings": _settings(options, judging, tier, teachers) | training,
        "warnings": warnings,
        "judge": judging.described(),
        "generation": {
            "decoding": OWN if options.keep_generation_config else GREEDY,
            "new_tokens": tier.new_tokens,
            "system_prompt": options.system_prompt,
            "thinking_tokens": options.thinking_tokens,
            "engine": engine,
        },
        "sets": asked.sets,
        "seeds": list(range(tier.seeds)),
        "versions": result_versions(options.loading, engine),
        "device": short_device_name(),
        **_scored(listed, rows, measured, options, measurement, judging),
    }
    if probe is not None:
        results["probe"] = _probed(probe, listed, rows, options) | {"prompts_compared": unseen}
    write_completions(folder / "completions.parquet", [row for found in rows.values() for row in found])
    results["completions"] = file_digest(folder / "completions.parquet")
    replace_json(folder / "results.json", results)
    return results


def _scored(
    listed: Sequence[EvaluatedModel],
    rows: dict[str, list[dict[str, Any]]],
    measured: dict[str, Measured],
    options: Evaluation,
    measurement: Measurement,
    judging: Judging,
) -> dict[str, Any]:
    records = {name: one.alignment for name, one in measured.items()}
    found = scored(rows, judging, options.pools, records, named=options.teacher is not None)
    for entry in listed:
        found["models"][entry.name] |= {
            **model_facts(entry),
            **weights_facts(entry, options.loading),
            "generation": measurement.generation(entry),
            "chat": measurement.formats[entry].described(),
        }
        if measurement.teachers and not measurement.comparable(entry):
            why = "its tokenizer is not the teacher's, so their predictions cannot be compared"
            found["models"][entry.name]["left_out"] = {"kd": why}
    if options.teacher is not None:
        found["teachers"] = {
            kind: {**model_facts(one), **weights_facts(one, options.loading)}
            for kind, one in measurement.teachers.items()
        }
    return found


def _probed(
    probe: FoundProbe, listed: Sequence[EvaluatedModel], rows: dict[str, list[dict[str, Any]]], options: Evaluation
) -> dict[str, Any]:
    """What the results say of the probe, and how far each model on its base lies from it."""
    base = listed[0]
    own = {entry.name: rows[entry.name] for entry in listed if entry.model == base.model}
    methods = {method: runs for method, runs in options.pools.items() if {*runs} <= own.keys()}
    return {**probe.described(), "model": base.name, "differences": probe_differences(own, base.name, methods)}


def _formats(options: Evaluation, entries: Sequence[EvaluatedModel]) -> dict[EvaluatedModel, ChatFormat]:
    return chat_formats(
        entries,
        trust_remote_code=options.loading.trust_remote_code,
        allow_other_base=options.allow_other_base,
        system_prompt=options.system_prompt,
        system_fallback=options.system_fallback,
        thinking_tokens=options.thinking_tokens,
    )


def _engine(options: Evaluation) -> str:
    """Returns which engine answers."""
    usable = vllm_is_usable()
    if options.keep_generation_config and options.engine == "vllm":
        raise ValueError(
            "--keep-generation-config: vLLM does not know all that a generation configuration may ask for (beams, n-grams "
            "that must not come again), and would leave it out unsaid. Use --engine transformers."
        )
    if options.loading.as_trained and options.engine == "vllm":
        raise ValueError(
            "--as-trained: vLLM holds one backbone in one precision, and adapters of another one would be answered over it. "
            "Use --engine transformers, or --load-in-4bit for all."
        )
    # Left to itself, a run takes the engine that can do all of it.
    whole = options.keep_generation_config or options.loading.as_trained
    if options.engine == "transformers" or (options.engine == "auto" and (not usable or whole)):
        return "transformers"
    if not usable:
        raise ValueError(
            "--engine vllm: needs vLLM and a CUDA device, and one of them is missing. Install vllm, or leave it to auto."
        )
    return "vllm"


def _settings(
    options: Evaluation, judging: Judging, tier: Any, teachers: Mapping[str, EvaluatedModel]
) -> dict[str, Any]:
    # None: nobody was named, and models are compared with the base.
    named = {kind: public_name(one.adapter or one.model) for kind, one in teachers.items() if options.teacher}
    return {
        "judge": judging.harmful.name,
        "allow_other_base": options.allow_other_base,
        "teacher": named if len({*teachers.values()}) > 1 and named else next(iter(named.values()), None),
        **options.loading.facts(),
        "corruptions": list(tier.corruptions),
        "severities": list(tier.severities),
        "response_tokens": tier.responses[1],
    }
