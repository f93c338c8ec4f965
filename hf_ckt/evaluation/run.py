# SPDX-License-Identifier: Apache-2.0
"""One evaluation from the choice of models to its results file."""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..checks import require_count, require_known
from ..data.contamination import require_unseen
from ..data.prompt_sets import EvalPrompt
from ..hub.provenance import library_versions
from .judges import Judge, Verdict, load_judge
from .measuring.backbones import Backbones
from .measuring.chat_format import SYSTEM_FALLBACKS, THINKING_TOKENS, ChatFormat, chat_formats
from .measuring.generation import GREEDY, OWN
from .measuring.measure import Measured, Measurement
from .measuring.models import EvaluatedModel, Loading, entries, identity_of, model_facts, public_name
from .measuring.store import PieceStore, file_digest, only_writer
from .measuring.suites import SUITES, Questions, ask
from .measuring.tiers import TIERS
from .measuring.vllm_engine import vllm_engine, vllm_is_usable
from .results import completion_rows, model_results, write_completions
from .same_models import require_folder_of

_LIBRARIES = ("torch", "transformers", "peft", "datasets", "evaluate")
_VERDICTS = 64  # of a judge that is a model, kept at a time


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
        judge (`str`, *optional*, defaults to `"rule"`):
            See `judges.load_judge`.
        baseline (`str`, *optional*):
            Name of the model that the mean corruption error is relative to.
        data_dir (`Path`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.
        harmful, benign (`Sequence[EvalPrompt]`, *optional*), responses (`Sequence[tuple[str, str]]`, *optional*):
            The user's own, in place of the tier's.
        training_texts (`Sequence[str]`, *optional*):
            What the models were trained on: evaluation prompts found there raise.
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
            sampling), and not greedily. The results state which settings were in force.
    """

    model: str
    adapter: str | None = None
    compare: Sequence[str] = ()
    teacher: str | None = None
    tier: str = "smoke"
    only: Sequence[str] | None = None
    judge: str = "rule"
    baseline: str | None = None
    data_dir: Path | None = None
    harmful: Sequence[EvalPrompt] | None = None
    benign: Sequence[EvalPrompt] | None = None
    responses: Sequence[tuple[str, str]] | None = None
    training_texts: Sequence[str] | None = None
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
    listed, teacher = entries(
        options.model,
        options.adapter,
        options.compare,
        options.teacher,
        allow_other_base=options.allow_other_base,
    )
    if options.baseline is not None:
        require_known("--baseline", options.baseline, [entry.name for entry in listed])
    require_folder_of(folder, "lm_eval.json", {entry.name: model_facts(entry) for entry in listed})
    judge = load_judge(options.judge, trust_remote_code=options.loading.trust_remote_code)
    benign_judge = judge if judge.scores_refusals else load_judge("rule")
    suites = [suite for suite in SUITES if suite in (options.only or SUITES)]
    left_out = {suite: "left out by --only" for suite in SUITES if suite not in suites}
    if teacher is None and "kd" in suites:
        suites.remove("kd")
        left_out["kd"] = "there is no adapter and no --teacher, so nothing to agree with"
    asked = ask(
        tier,
        suites,
        options.data_dir,
        harmful=options.harmful,
        benign=options.benign,
        responses=options.responses,
    )
    if options.training_texts is not None:
        require_unseen(_prompts(asked), options.training_texts)
    formats = _formats(options, [*listed, *([teacher] if teacher is not None else [])])

    backbones, store = Backbones(options.loading), PieceStore(folder / "pieces")
    engine = _engine(options)
    measurement = Measurement(
        asked,
        tier,
        formats,
        backbones,
        store,
        teacher if "kd" in suites else None,
        vllm_engine(options.loading) if engine == "vllm" else None,
        options.token_consistency,
        options.keep_generation_config,
    )
    measured = measurement.run(listed)
    backbones.clear()  # a judge that is a model may need the room
    judged = _kept_verdicts(store, options.judge)
    rows = {
        entry.name: completion_rows(entry.name, asked, measured[entry.name], judge, benign_judge, judged)
        for entry in listed
    }
    results = {
        "format": 1,
        "command": command,
        "tier": options.tier,
        "suites": suites,
        "left_out": left_out,
        "settings": _settings(options, judge, tier, teacher),
        "judge": _described(judge, benign_judge),
        "generation": {
            "decoding": OWN if options.keep_generation_config else GREEDY,
            "new_tokens": tier.new_tokens,
            "system_prompt": options.system_prompt,
            "thinking_tokens": options.thinking_tokens,
            "engine": engine,
        },
        "sets": asked.sets,
        "seeds": list(range(tier.seeds)),
        "versions": library_versions(*_LIBRARIES),
        "device": _device(),
        "models": _models(listed, rows, measured, options.baseline, measurement),
    }
    write_completions(folder / "completions.parquet", [row for found in rows.values() for row in found])
    results["completions"] = file_digest(folder / "completions.parquet")
    replace_json(folder / "results.json", results)
    return results


def _models(
    listed: Sequence[EvaluatedModel],
    rows: dict[str, list],
    measured: dict[str, Measured],
    baseline: str | None,
    measurement: Measurement,
) -> dict[str, Any]:
    base = rows[listed[0].name]
    found = {}
    for entry in listed:
        relative_to = rows[baseline] if baseline is not None else None
        results = model_results(entry, rows[entry.name], base, measured[entry.name], relative_to)
        asked = measurement.formats[entry]
        results |= {
            **model_facts(entry),
            "generation": measurement.generation(entry),
            "chat": {**asked.facts(), "sent": asked.example()},
        }
        if measurement.teacher is not None and not measurement.comparable(entry):
            results["left_out"] = {"kd": "its tokenizer is not the teacher's, so their predictions cannot be compared"}
        found[entry.name] = results
    return found


def _prompts(asked: Questions) -> list[EvalPrompt]:
    """What must not have been trained on: the requests as they are, and the questions."""
    found = {
        row["prompt_id"]: EvalPrompt(row["prompt_id"], row["set"], row["kind"], row["category"], row["request"])
        for row in asked.rows
    }
    questions = [EvalPrompt(one.id, "utility", "benign", "", one.question) for one in asked.choices]
    questions += [EvalPrompt(one.id, "utility", "benign", "", one.question) for one in asked.problems]
    return [*found.values(), *questions]


def _kept_verdicts(store: PieceStore, spec: str) -> Any:
    """Keeps the verdicts of judges that are models; a rule is quicker than reading a file."""
    # A folder's weights may change under its name.
    identity = identity_of(re.split("[@#]", spec.removeprefix("hf:"))[0]) if spec.startswith("hf:") else None

    def judged(judge: Judge, pairs: list[tuple[str, str]]) -> list[Verdict]:
        if identity is None or not judge.name.startswith("hf:"):
            return judge.verdicts(*zip(*pairs, strict=True))
        verdicts = []
        for start in range(0, len(pairs), _VERDICTS):
            batch = pairs[start : start + _VERDICTS]
            key = {"what": "verdicts", "judge": spec, "model": identity, "pairs": batch}
            verdicts += [Verdict(**one) for one in store.piece(key, partial(_as_dicts, judge, batch))]
        return verdicts

    return judged


def _described(judge: Judge, benign_judge: Judge) -> dict[str, Any]:
    found = {"name": judge.name, "measures": judge.measures, "error": list(judge.error)}
    if benign_judge is judge:
        return found
    return {**found, "benign": benign_judge.name, "benign_error": list(benign_judge.error)}


def _as_dicts(judge: Judge, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    prompts, answers = zip(*pairs, strict=True)
    return [asdict(verdict) for verdict in judge.verdicts(prompts, answers)]


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
    # Left to itself, a run that keeps the configuration takes the engine that follows all of it.
    if options.engine == "transformers" or (
        options.engine == "auto" and (not usable or options.keep_generation_config)
    ):
        return "transformers"
    if not usable:
        raise ValueError(
            "--engine vllm: needs vLLM and a CUDA device, and one of them is missing. Install vllm, or leave it to auto."
        )
    return "vllm"


def _settings(options: Evaluation, judge: Judge, tier: Any, teacher: EvaluatedModel | None) -> dict[str, Any]:
    named = None if teacher is None else public_name(teacher.adapter or teacher.model)
    return {
        "judge": judge.name,
        "baseline": options.baseline,
        "allow_other_base": options.allow_other_base,
        "teacher": named,
        **options.loading.facts(),
        "corruptions": list(tier.corruptions),
        "severities": list(tier.severities),
        "response_tokens": tier.responses[1],
        "training_set_checked": options.training_texts is not None,
    }


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
