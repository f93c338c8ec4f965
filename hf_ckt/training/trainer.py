# SPDX-License-Identifier: Apache-2.0
"""[`ContrastiveRobustTrainer`]: TRL's SFTTrainer with a teacher and four further terms in the loss."""

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTConfig, SFTTrainer

from ..data.row_marks import MarkCollator, RowMarks, below_marks
from ..models._upstream import checkpoints_reentrantly, get_config_model_id, uncompiled
from ..models.token_map import embedding_rows
from ..noise.noisy_prompts import NoisyPrompts
from ..noise.noisy_view import NoisyView
from ..noise.sources import PromptSources
from ..objective.objective import ROLES, Objective, Scale, Term
from ..teachers.base import Teacher
from ..teachers.model import require_separate_models
from .collator import RejectedCollator, read_batch, split_rejected
from .config import ContrastiveRobustConfig
from .facts import find_facts, require_one_adapter
from .known_tokens import require_known_tokens
from .log_sums import LogSums, NonFiniteGuard
from .memory_advice import with_advice
from .passes import ExtraPasses, prepare_student, run_objective, step_seed
from .preferences import REJECTED_COLUMNS, chosen_as_completion, with_rejected
from .record import write_card
from .resolution import require_safe_noisy_view, resolve_schedules
from .state import TrainingState
from .stored_rows import cached_teachers, with_lookup
from .teacher_context import TeacherContexts
from .teachers import load_teacher, reference_beside, warn_unread
from .watching import WatchedTrainer

logger = logging.getLogger(__name__)


class ContrastiveRobustTrainer(WatchedTrainer):
    """
    Drop-in for [`~trl.SFTTrainer`] that aligns a model with a teacher and against noise over a frozen backbone.

    Datasets, arguments and behaviour are SFTTrainer's; with every extra weight at 0 so are the losses, to the last bit.

    Source: arXiv 2510.27077 for the method's parts; [`~objective.objective.Objective`] has the formula.

    Args:
        model, args, ...:
            As for [`~trl.SFTTrainer`], in its order. `args` may be a [`ContrastiveRobustConfig`]; with an `SFTConfig` or
            `TrainingArguments` every extra weight is 0.
        teacher_model (`str`, `PreTrainedModel` or `PeftModel`, *optional*):
            The teacher: Hub id or folder of a model or adapter, or a loaded one, with the student's tokenizer. It is
            frozen in place. `None`: the student's own base, its adapters switched off, if it is a PEFT model.
            Or any kind of teacher, see [`~training.teachers.build_teacher`].
        teachers (`Mapping[str, Any]`, *optional*):
            In place of `teacher_model`: several, each what `teacher_model` may be, by the name that a column `teacher` of
            the dataset gives to each row. Rows without one hear the first.
        teacher_quantization_config (`BitsAndBytesConfig`, *optional*):
            Quantization of a teacher given by name.
        teacher_processing_class (`PreTrainedTokenizerBase`, *optional*):
            The teacher's tokenizer, compared with the student's. `None`: looked up under the teacher's name.

    Raises:
        ValueError: If a weight was set whose need is missing, the teacher has another tokenizer, or a column that an
            option needs is missing.
        FloatingPointError: In training, if a loss is not finite (unless `nonfinite_loss="skip"`).

    Example:

    ```python
    trainer = ContrastiveRobustTrainer(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        args=ContrastiveRobustConfig("out", distillation_weight=1.0, consistency_weight=0.5),
        train_dataset=dataset,
        peft_config=LoraConfig(target_modules="all-linear"),
    )
    trainer.train()
    ```
    """

    args: ContrastiveRobustConfig
    model: Any

    _tag_names = ["trl", "sft", "hf_ckt"]  # noqa: RUF012 - as in TRL
    _name = "contrastive robust distillation"

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SFTConfig | None = None,
        *sft_args: Any,
        teacher_model: str | PreTrainedModel | PeftModel | Mapping[str, Any] | Teacher | None = None,
        teachers: Mapping[str, Any] | None = None,
        teacher_quantization_config: BitsAndBytesConfig | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        **sft_kwargs: Any,
    ):
        # SFTTrainer's own signature stays the one truth of its arguments and their order.
        given = inspect.signature(SFTTrainer.__init__).bind(self, model, args, *sft_args, **sft_kwargs).arguments
        given.pop("self")
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = ContrastiveRobustConfig(f"{name.split('/')[-1]}-CKT")
        teacher_given = teacher_model is not None or teachers is not None
        given["args"] = args = ContrastiveRobustConfig.from_arguments(args, teacher_given=teacher_given)
        teacher_given = teacher_given or args.teacher_cache is not None
        teacher_model, teachers, names = cached_teachers(args.teacher_cache, teacher_model, teachers)
        for one in (teacher_model, *(teachers or {}).values()):
            require_separate_models(model, one)
        if args.contrastive_rejected:
            for dataset_name in ("train_dataset", "eval_dataset"):
                given[dataset_name] = chosen_as_completion(given.get(dataset_name), dataset_name)
        self._contexts = TeacherContexts.of_run(args, teacher_model, teachers, given.get("train_dataset"))
        self._sources = PromptSources()
        self._marks = RowMarks(names, args.role_rows or {}, ROLES)  # type: ignore[arg-type]
        self._marks.require_markable(args)
        self.given_rows = given.get("train_dataset")
        self.objective: Objective | None = None
        self.teacher_name: str | None = None
        super().__init__(**given)

        self._causal_lm = self.model.get_base_model() if is_peft_model(self.model) else self.model
        schedules = resolve_schedules(args, find_facts(self, teacher_given=teacher_given))
        task_alone = set(schedules) == {"task"} and args.task_weight == 1 and args.task_schedule == "constant"
        learns = not task_alone or args.changes_task  # else it is SFTTrainer, to the last bit
        if self._marks:
            self.data_collator = MarkCollator(self.data_collator, keep=learns)
        if learns:
            settings = {
                "init_kwargs": args.teacher_model_init_kwargs,
                "quantization_config": teacher_quantization_config,
                "tokenizer": teacher_processing_class,
                "token_map": args.teacher_token_map,
            }
            self._set_objective(schedules, teacher_model if teachers is None else {"routed": teachers}, settings)
        warn_unread(teacher_given, self.teacher_name)

    def _set_objective(self, schedules: dict[str, Any], teacher_model: Any, model_settings: dict[str, Any]) -> None:
        args = self.args
        if "contrastive" in schedules and args.contrastive_level != "token" and not self.padding_free:
            args.require_sequences()
        self._budget = None
        if args.consistency_budget is not None and "consistency" in schedules:
            self._budget = args.build_budget(self.accelerator, schedules["consistency"].weight)
            schedules["consistency"] = self._budget
        weights = args.token_weights
        terms = {role: Term(args.build_loss(role), one, weights.get(role)) for role, one in schedules.items()}
        contrast = args.build_contrast(len(self._tokenizer), self._causal_lm) if "contrastive" in terms else None
        self.objective = Objective(
            terms,
            contrast=contrast,
            teacher_names=self._marks.teachers,
            chunk_size=args.objective_chunk_size,
            compile=args.objective_compile,
        )
        self.objective.begin(self._causal_lm)
        views = self.objective.views
        noisy = self._build_noisy_view() if "noisy" in views else None
        teacher, known = load_teacher(self, teacher_model, model_settings) if "teacher" in views else (None, None)
        reference = reference_beside(teacher) if "reference" in views else None
        self._extra_passes = ExtraPasses(teacher, reference, noisy)
        self.data_collator = require_known_tokens(self, {} if teacher is None else teacher.unknown)
        if teacher is not None:
            self.data_collator = self._contexts.collator(with_lookup(self, teacher))
            self.teacher_name = teacher.name
        if args.contrastive_rejected and "contrastive" in terms:
            self.data_collator = RejectedCollator(self.data_collator)

        prepare_student(self._causal_lm, self.accelerator)
        self._sums = {"train": LogSums(args.nonfinite_loss == "skip"), "eval": LogSums()}
        self._state_to_save = TrainingState(contrast, noisy, self._budget, known)
        self._log_names = [*self.objective.log_names, *(["aux_loss"] if self.aux_loss_enabled else [])]
        self._log_names += [
            *self._extra_passes.log_names,
            *(["consistency_multiplier"] if self._budget is not None else []),
        ]
        term_names = [name for name in self._log_names if name.endswith("_loss")]
        self._guard = NonFiniteGuard(
            self.accelerator, [*term_names, "loss"], args.nonfinite_loss, on_skip=self._state_to_save.forget_step
        )
        if self.is_deepspeed_enabled and args.nonfinite_loss == "skip":
            raise ValueError(
                "nonfinite_loss='skip': DeepSpeed takes its optimizer step inside the backward pass, so a step cannot "
                "be skipped from outside. Use nonfinite_loss='raise'."
            )
        self.add_callback(self._guard)
        if self._budget is not None:
            self.add_callback(self._budget)

    def _build_noisy_view(self) -> NoisyView:
        args = self.args
        spread = len(set((getattr(self._causal_lm, "hf_device_map", None) or {}).values())) > 1
        several = self.accelerator.num_processes > 1
        self._noisy_view_facts = {
            "one_row": self.padding_free,
            "mixture": self.aux_loss_enabled,
            "reentrant": checkpoints_reentrantly(args, self._causal_lm),
            "several_processes": several,
            "spread": spread or is_deepspeed_zero3_enabled(),
            "sharded": self.is_fsdp_enabled or self.is_deepspeed_enabled,
            "texts_known": len(self._sources) > 0,
        }
        require_safe_noisy_view(args, **self._noisy_view_facts)
        rewrites = args.perturbs("text", "ids")
        prompts = None
        if rewrites:
            rows = embedding_rows(self._causal_lm)
            prompts = NoisyPrompts(self.processing_class, self._sources, self.chat_template, args.max_length, rows)
        return NoisyView(
            args.build_mixture(),
            prompts,
            below_marks(self.data_collator) if rewrites else None,
            fraction=args.consistency_fraction,
            every=args.consistency_every,
            batched=args.noisy_view_batched,
            recompute=args.noisy_view_recompute,
            never_empty=several,
            warm_start=args.perturbation_warm_start,
        )

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *rest: Any, **kwargs: Any) -> Any:
        tokenize = prepare = partial(super()._prepare_dataset, processing_class=processing_class)
        names = list(inspect.signature(SFTTrainer._prepare_dataset).parameters)[4:]
        kwargs = self._named_apart(kwargs | dict(zip(names, rest, strict=False)))
        prepare = partial(self._marks.prepare, prepare)
        if args.perturbs("text", "ids") and args.may_be_on("consistency"):
            facts = {"required": args.perturbs("text"), "completion_only": bool(self.completion_only_loss)}
            prepare = partial(self._sources.prepare, prepare, **facts)
        if self._contexts:
            prepare = partial(self._contexts.prepare, prepare, tokenize)
        if args.contrastive_rejected:
            return with_rejected(dataset, partial(prepare, args=args, **kwargs), kwargs["dataset_name"])
        return prepare(dataset, args=args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        beside = [*(REJECTED_COLUMNS if self.args.contrastive_rejected else ()), *self._contexts.columns]
        self._signature_columns = list(dict.fromkeys([*columns, *beside]))  # type: ignore[assignment]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's loss; SFTTrainer's own when no extra term is on."""
        if self.objective is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if self.model.training else "eval"
        require_one_adapter(inputs)
        inputs, rejected = split_rejected(inputs)
        batch, role_masks = read_batch(inputs, self._marks)
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        whole_batch = num_items_in_batch is not None
        count_ranks = self.args.average_tokens_across_devices and whole_batch
        scale = Scale(
            # An evaluation is held at the end of the schedules: its loss moves with the model and with nothing else.
            progress=self.state.global_step / max(self.state.max_steps, 1) if mode == "train" else 1.0,
            num_items=num_items_in_batch,
            processes=self.accelerator.num_processes // self.get_tp_size() if count_ranks else 1,
            micro_batches=self.current_gradient_accumulation_steps if whole_batch else 1,
            horizon=self.state.max_steps * self.args.gradient_accumulation_steps if self.state.max_steps > 0 else None,
        )
        extra_passes = self._extra_passes
        if mode == "train" and self.state.global_step % self.args.consistency_every:
            extra_passes = extra_passes._replace(noisy=None)
        run = partial(
            run_objective,
            objective=self.objective,
            extra_passes=extra_passes,
            batch=batch,
            scale=scale,
            rejected=None if rejected is None else read_batch(rejected, self._marks, "contrastive")[0],
            role_masks=role_masks,
            seed=step_seed(self.args.seed, self.state.global_step if mode == "train" else 0),
            training=mode == "train",
        )
        # A second pass over the same inputs inside the forward, so that the wrapper's hooks fire once around all.
        outputs = uncompiled(model)(**inputs, objective=run)
        loss, sums = outputs["loss"], outputs["sums"]
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs["aux_loss"] / scale.micro_batches
            sums["aux_loss"] = torch.stack([outputs["aux_loss"].detach(), torch.ones_like(outputs["aux_loss"])])
        if mode == "train" and self._budget is not None:
            self._budget.watch(sums)
            # Filled, not copied from the host, which would wait for the device.
            multiplier = loss.detach().new_full((), self._budget.multiplier)
            sums["consistency_multiplier"] = torch.stack([multiplier, loss.new_ones(())])
        self._sums[mode].add(sums)
        if mode == "train":
            self._count_tokens(inputs)
            self._guard.watch({"loss": loss, **sums})
            if self.is_deepspeed_enabled:
                self._guard.on_pre_optimizer_step(self.args, self.state, self.control)
        if return_outputs:
            with torch.no_grad():
                return loss, model(**inputs, use_cache=False)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As SFTTrainer's; if memory runs out, the error also says which settings of this run would need less."""
        try:
            return super().training_step(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise with_advice(error, self) from error

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; what a loop that was broken off has summed is none of this one's."""
        if self.objective is not None:
            self._sums["eval"].clear()
        return super().evaluation_loop(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; its terms are not logged, neither by itself nor by what logs next."""
        predicted = super().predict(*args, **kwargs)
        if self.objective is not None:
            self._sums["eval"].clear()
        return predicted

    def _count_tokens(self, inputs: dict[str, Any]) -> None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")  # one of pairs counts no tokens
        count = mask.sum() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else ids.new_full((), ids.numel())
        self._sums["train"].add({"num_tokens": torch.stack([count, torch.ones_like(count)])})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms and metrics of the window since the last log."""
        if self.objective is not None:
            mode = "train" if self.model.training else "eval"
            self._total_train_tokens += self._sums["train"].total(self.accelerator, "num_tokens") // self._tp_size
            means = self._sums[mode].means(self.accelerator, self._log_names)
            self._metrics[mode].update({name: [value] for name, value in means.items()})
            if means:
                self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)

    def create_model_card(  # type: ignore[override]  # as TRL's
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes the card with base model, teacher, data, objective and settings into the output folder."""
        if self.is_world_process_zero():
            write_card(self, model_name, dataset_name, tags)
