# SPDX-License-Identifier: Apache-2.0
"""Safety measured during training: a small suite is answered and judged at every evaluation."""

import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from ..checks import require_count, require_known, require_within
from ..data.contamination import training_texts
from ..data.prompt_sets import EvalPrompt
from ..discovery import load_part, part_names
from ..models.backbone import frozen
from .judges import Judge
from .judging import Judging, load_judging
from .measuring.answers import answer_batch, plan_batches
from .measuring.chat_format import SYSTEM_FALLBACKS, ChatFormat
from .measuring.measure import Measured
from .measuring.refusal_openings import refusal_leanings
from .measuring.suites import Questions, ask
from .measuring.tiers import TIERS, Tier
from .results import completion_rows
from .scoring.compared import score_models
from .seen_prompts import compare_with_training
from .suite_prompts import OF_BENIGN, OF_BOTH, OF_HARMFUL, require_scores, suite_prompts

logger = logging.getLogger(__name__)


class SafetyEvalCallback(TrainerCallback):
    """
    Answers a few harmful and a few benign prompts at every evaluation and scores the answers.

    The scores go into the evaluation's own metrics, so that Trainer picks the best checkpoint by them
    (`metric_for_best_model="refusal_auroc"` or `"youden_j"` with `load_best_model_at_end=True`), and into its log:
    `eval_youden_j` (safety + helpfulness - 1; 0 is what a policy blind to content has), `eval_refusal_auroc` (0.5 is
    chance), `eval_safety`, `eval_helpfulness`, `eval_overrefusal` (rates), `eval_refusal_log_odds_harmful`,
    `eval_refusal_log_odds_benign` (nats), and, where a teacher takes part in the objective, `eval_kd_alignment`. That last
    one is the evaluation's own `eval_acceptance` under the name that reports use: measured on the evaluation data, and not
    a second time. With several evaluation datasets the suite is answered once, with the first of them, and the names stay
    these.

    Nothing of the run is changed: not its random state, the model's mode or its settings; a run with this callback has
    the losses of one without. Every process answers the whole suite, and the main process's scores count.

    With 16 prompts of a kind a rate moves in steps of 0.06, and its 95 % interval is up to 0.44 wide: good for the
    course of a run, not for a result.

    Related: `hf-ckt evaluate` for the whole evaluation of a finished adapter.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer that the callback will be added to; before an `EarlyStoppingCallback` on these metrics.
        prompts (`str` or `Sequence[EvalPrompt | dict | str]`, *optional*):
            The suite: a prompt set by name, in full, or both sides of one (`"boundary-validation"`), or a list; of a dict
            `text` and `kind` (`"harmful"` or `"benign"`) are read, and `id`, `set` and `category` where it has them. None:
            16 harmful and 16 look-alike prompts of the starter set's held-out part.
        new_tokens (`int`, *optional*, defaults to `24`):
            Most tokens of an answer. A refusal shows itself early; time grows with this number. 0: no answers, and the
            log-odds and their AUROC alone, which cost little more than a pass over the prompts.
        system_prompt (`str`, *optional*):
            Put before each prompt: the one that was trained with, if any.
        system_fallback (`str`, *optional*, defaults to `"refuse"`):
            What is done with it where the chat template has no system role: `"user"` puts it in front of the user's text.
        thinking_tokens (`int`, *optional*, defaults to `0`):
            Most tokens of a thought before an answer, of a model that thinks. 0: none, as its template switches it off,
            or else closed where it would begin.
        max_overrefusal (`float`, *optional*):
            In [0, 1]. Training stops when a larger share of the benign prompts is refused. None never stops.
        judge (`str` or [`~evaluation.judges.Judge`], *optional*, defaults to `"rule"`):
            See [`~evaluation.judges.load_judge`]. A judge that is a model stays in memory beside the one that is trained.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with a judge that is a model.
        corruption (`str`, *optional*):
            A perturbation of text, e.g. `"typos"`: `eval_refusal_auroc_noise` is the AUROC of the same prompts under it,
            the same errors at every evaluation.
        severity (`float`, *optional*, defaults to `0.2`):
            Of the corruption, in [0, 1]; the default lies between those of the evaluation, 0.1 and 0.3.

    Raises:
        ValueError: If there are no prompts, or none that a limit or `metric_for_best_model` asks for; if a limit is
            outside [0, 1], the tokenizer has no chat template, weights are sharded over processes, or a prompt of the
            suite occurs in the training set.

    Example:

    ```python
    trainer = ContrastiveRobustTrainer(model, args, train_dataset=train, eval_dataset=heldout, peft_config=lora)
    trainer.add_callback(SafetyEvalCallback(trainer, max_overrefusal=0.5))
    trainer.train()
    ```
    """

    def __init__(
        self,
        trainer: Any,
        prompts: str | Sequence[str | EvalPrompt | Mapping[str, Any]] | None = None,
        *,
        new_tokens: int = 24,
        system_prompt: str | None = None,
        system_fallback: str = "refuse",
        thinking_tokens: int = 0,
        max_overrefusal: float | None = None,
        judge: str | Judge = "rule",
        trust_remote_code: bool = False,
        corruption: str | None = None,
        severity: float = 0.2,
    ):
        require_count("new_tokens", new_tokens, 0, "Use 0 for log-odds alone, without answers.")
        if not new_tokens and judge != "rule":
            raise ValueError(
                f"judge={judge!r}: new_tokens is 0, so there is no answer to judge. Raise new_tokens, or leave the judge out."
            )
        require_within("severity", severity, 0, 1, "It is a share of each prompt.")
        if max_overrefusal is not None:
            require_within("max_overrefusal", max_overrefusal, 0, 1, "It is a share of the benign prompts.")
        _require_whole_weights(trainer)
        require_known("system_fallback", system_fallback, SYSTEM_FALLBACKS)
        require_count("thinking_tokens", thinking_tokens, 0, "Use 0 for no thought before an answer.")
        self.trainer, self.new_tokens, self.max_overrefusal = trainer, new_tokens, max_overrefusal
        self.tokenizer = _tokenizer(trainer)
        self.asked = ChatFormat(self.tokenizer, system_prompt, system_fallback, thinking_tokens)
        self.prompts = suite_prompts(prompts)
        kinds = {prompt.kind for prompt in self.prompts}
        noise = corruption is not None
        require_scores(kinds, trainer.args, max_overrefusal=max_overrefusal, answered=new_tokens > 0, noise=noise)
        self.rows: list[dict[str, Any]] = []
        """The last answers with their verdicts; without answers the log-odds alone."""
        with _unchanged_randomness():
            if isinstance(judge, Judge):
                self._judging = Judging.by(judge)
            else:
                self._judging = load_judging(judge, trust_remote_code=trust_remote_code)
            self.judge = self._judging.harmful
            _require_unseen_by(trainer, self.tokenizer, self.prompts)
        by_kind = {kind: [prompt for prompt in self.prompts if prompt.kind == kind] for kind in kinds}
        suites = [suite for kind, suite in (("harmful", "direct"), ("benign", "overrefusal")) if kind in kinds]
        # A tier says how many prompts are drawn from sets, and these are given.
        own: dict[str, Any] = {"harmful": by_kind.get("harmful"), "benign": by_kind.get("benign")}
        self._asked = ask(TIERS["smoke"], suites, **own)
        self._noisy = Questions() if corruption is None else ask(_noise_tier(corruption, severity), ["noise"], **own)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Adds the scores to `metrics` and to the log, and stops the training when the limit is passed."""
        prefix = self._prefix(metrics)
        if prefix is None:
            return
        # One verdict for all: processes that pick different checkpoints, or stop alone, would wait for each other.
        scores = broadcast_object_list([self._scores()])[0]
        found = {f"{prefix}_{name}": score["value"] for name, score in scores.items() if score["value"] is not None}
        if f"{prefix}_acceptance" in metrics or "eval_acceptance" in metrics:
            found[f"{prefix}_kd_alignment"] = metrics.get(f"{prefix}_acceptance", metrics.get("eval_acceptance"))
        metrics.update(found)
        self._log(state, found)
        rate = found.get(f"{prefix}_overrefusal", 0.0)
        if self.max_overrefusal is None or rate <= self.max_overrefusal or not self.trainer.is_in_train:
            return
        control.should_training_stop = True
        if state.is_world_process_zero:
            logger.warning(
                "Training stops at step %d: %.3f of the %d benign prompts are refused, and max_overrefusal is %g.",
                state.global_step,
                rate,
                scores["overrefusal"]["n"],
                self.max_overrefusal,
            )

    def _prefix(self, metrics: Mapping[str, Any]) -> str | None:
        """
        What the evaluation's metrics are named by; None for the second and later ones of several datasets.

        Trainer evaluates those one after the other, each with its name behind the prefix, and joins their metrics.
        """
        timed = [name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")]
        prefix = min(timed, key=len, default="eval")
        datasets = self.trainer.eval_dataset
        names = list(datasets) if isinstance(datasets, dict) else []
        mine = max((name for name in names if prefix.endswith(f"_{name}")), key=len, default=None)
        if mine is None:
            return prefix
        return prefix.removesuffix(f"_{mine}") if mine == names[0] else None

    def _scores(self) -> dict[str, Any]:
        """Scores of the model as it is now, by name."""
        model, measured = self.trainer.model, Measured()
        asked = [row["prompt"] for row in self._asked.rows]
        noisy = [row for row in self._noisy.rows if row["corruption"]]
        read = [*asked, *(row["prompt"] for row in noisy)]
        # In the precision that is trained in: without autocast, float32 weights would be run as such.
        with _unchanged_randomness(), frozen(model), self.trainer.accelerator.autocast():
            for batch, _ in plan_batches(self.asked, asked, new_tokens=self.new_tokens) if self.new_tokens else ():
                answers = answer_batch(model, self.asked, batch, new_tokens=self.new_tokens)
                measured.answers.update(zip(batch, answers, strict=True))
            measured.leanings.update(zip(read, refusal_leanings(model, self.asked, read, title=None), strict=True))
        with _unchanged_randomness():
            if self.new_tokens:
                self.rows = completion_rows("run", self._asked, measured, self._judging)
            else:
                self.rows = _leaning_rows(self._asked.rows, measured)
            scores = score_models({"run": [*self.rows, *_leaning_rows(noisy, measured)]})["run"].scores
        return {name: scores[name] for name in (*OF_BOTH, *OF_HARMFUL, *OF_BENIGN) if name in scores}

    def _log(self, state: Any, found: dict[str, float]) -> None:
        """Tells the trackers, and joins the log's entry with that of the evaluation: readers take it for one."""
        self.trainer.log(dict(found))
        entry = state.log_history.pop()
        if state.log_history and _is_evaluation(state.log_history[-1], entry["step"]):
            state.log_history[-1].update(entry)
        else:
            state.log_history.append(entry)


def _noise_tier(corruption: str, severity: float) -> Tier:
    """A tier in which every prompt is corrupted once, and in one way."""
    require_known("corruption", corruption, [one for one in part_names("perturbations") if _stage(one) == "text"])
    return replace(TIERS["smoke"], noise=sys.maxsize, corruptions=(corruption,), severities=(severity,), seeds=1)


def _stage(name: str) -> str:
    cls: Any = load_part("perturbations", name)
    return cls.stage


def _leaning_rows(rows: Sequence[Mapping[str, Any]], measured: Measured) -> list[dict[str, Any]]:
    """Rows without answers: nothing but how far each prompt is leant to be refused."""
    return [{**row, **measured.leanings[row["prompt"]]._asdict()} for row in rows]


def _is_evaluation(entry: Mapping[str, Any], step: int) -> bool:
    return entry.get("step") == step and any(name.endswith("_runtime") for name in entry)


def _require_whole_weights(trainer: Any) -> None:
    sharded = "FSDP" if trainer.is_fsdp_enabled else "DeepSpeed ZeRO-3" if is_deepspeed_zero3_enabled() else None
    if sharded is not None:
        raise ValueError(
            f"SafetyEvalCallback: under {sharded} each process holds a part of the weights, and prompts are read outside the "
            "hooks that gather them. Use DDP or ZeRO-2, or evaluate checkpoints with `hf-ckt evaluate`."
        )


def _tokenizer(trainer: Any) -> Any:
    processing = trainer.processing_class
    tokenizer = getattr(processing, "tokenizer", processing)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "SafetyEvalCallback: the tokenizer has no chat template, so it is unknown how a user speaks to the model. Set "
            "chat_template_path in the configuration, or tokenizer.chat_template."
        )
    return tokenizer


def _require_unseen_by(trainer: Any, tokenizer: Any, prompts: Sequence[EvalPrompt]) -> None:
    """Raises if a prompt occurs in the training set, warns of reworded ones, and says so where neither can be known."""
    dataset = trainer.train_dataset
    if dataset is None:
        return
    columns = dataset.column_names if isinstance(dataset, Dataset) else []
    fields = [
        name for name in ("prompt", "messages", getattr(trainer.args, "dataset_text_field", "text")) if name in columns
    ]
    if fields:
        texts = training_texts(dataset.with_format(None).select_columns(fields), fields)
        compare_with_training(prompts, {"training set": list(texts)})
    elif "input_ids" in columns:
        compare_with_training(prompts, {"training set": list(_decoded(dataset, tokenizer))})
    elif trainer.args.process_index == 0:
        logger.warning(
            "SafetyEvalCallback: the training set %s, so it was not checked for the %d prompts of the suite. Scores on "
            "prompts that are trained on say nothing.",
            "has no column of text or tokens" if columns else "streams",
            len(prompts),
        )


def _decoded(dataset: Dataset, tokenizer: Any) -> Iterator[str]:
    """
    The texts within documents of which only tokens are left (packed ones, say): parted where a special token stands, or
    where the tokens that are learnt begin or end, each as it is and without its first line, where templates put the role.
    """
    special = {*tokenizer.all_special_ids, *(n for n, one in tokenizer.added_tokens_decoder.items() if one.special)}
    kept = [name for name in ("input_ids", "labels") if name in dataset.column_names]
    for row in dataset.with_format(None).select_columns(kept):
        ids = row["input_ids"]
        kinds = [
            None if token in special else label == -100
            for token, label in zip(ids, row.get("labels", ids), strict=True)
        ]
        for kind, part in groupby(zip(kinds, ids, strict=True), key=itemgetter(0)):
            if kind is not None:
                text = tokenizer.decode([token for _, token in part])
                yield from (text, text.partition("\n")[2])


@contextmanager
def _unchanged_randomness() -> Iterator[None]:
    """Gives every generator its state back: the next step's dropout and noise are those of a run without an evaluation."""
    import numpy as np

    python, arrays = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
