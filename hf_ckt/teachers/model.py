# SPDX-License-Identifier: Apache-2.0
"""Another causal language model as the teacher."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import send_to_device
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file
from trl.models import prepare_deepspeed, prepare_fsdp

from ..checks import require_same_vocabulary
from ..kernels.signals import TeacherSignal
from ..models._upstream import (
    bound_to_outer_call,
    create_model_from_path,
    get_config_model_id,
    install_objective_forward,
)
from ..models.backbone import frozen, read_head, run_backbone
from ..models.batch import Batch
from ..models.cached import find_commit
from ..models.embedded import native_dtype
from ..models.fingerprint import fingerprint, scaling_of
from ..models.offload import OffloadedWeights, is_sharded, require_place
from ..models.own_tokenizer import load_tokenizer
from ..models.precision import quantization_name
from ..models.token_map import embedding_rows, resolve_token_map, unknown_tokens
from ..views import LinearHead
from .base import Teacher, TeacherSetup

logger = logging.getLogger(__name__)


class ModelTeacher(Teacher):
    """
    Any causal language model with the student's tokenizer, frozen and in eval mode.

    It may be held in 4 or 8 bits beside a student in any precision. Where one head has more rows than the other (vocabularies
    are padded to a multiple of 64 or 128, each model to its own), the two are compared over the ids that both have, each
    distribution normalised over those: what a padded row would be given is no token's.

    Of a run that shards its models with FSDP or DeepSpeed, the teacher is sharded too; of its head, each process then has a
    whole copy from a pass to the end of the losses, V * D numbers.

    Source: Hinton et al. 2015, https://huggingface.co/papers/1503.02531.
    Related: [`SelfTeacher`] needs no second model.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            The teacher; its parameters are frozen in place. It may be quantized, and wrapped for FSDP or DeepSpeed
            afterwards through the attribute `model`.
        replaced (`dict[int, int]`, *optional*):
            Ids of the data, each with the one that the teacher reads in its place.
        device (`torch.device`, *optional*):
            Where it stays; inputs are sent there and states come back. None: the training device.
        offload (`bool`, *optional*, defaults to `False`):
            Whether its weights are on the training device for the length of a pass only.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        replaced: dict[int, int] | None = None,
        *,
        device: torch.device | str | None = None,
        offload: bool = False,
    ):
        self.unknown: dict[int, str] = {}
        """Tokens of the student's tokenizer that the teacher cannot read, by id."""
        self._replacement: Tensor | None = None
        if replaced:
            self._replacement = torch.arange(max(*replaced, embedding_rows(model)) + 1)
            self._replacement[list(replaced)] = torch.tensor(list(replaced.values()))
        self.name = get_config_model_id(model.config) or type(model).__name__
        self.device = None if device is None else torch.device(device)
        self.offload = offload
        self._offloaded: Callable[[], AbstractContextManager] = nullcontext
        self._near_head: LinearHead | None = None
        self._sharded = False
        self._revision: str | None = None
        self._read_instead: str | None = None
        self.model: Any = model.requires_grad_(False).eval()
        self._adapter = model.active_peft_config if isinstance(model, PeftModel) else None
        causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._causal_lm = causal_lm
        install_objective_forward(causal_lm)
        self.weights = fingerprint(model)
        """Tells the teacher from another one by its weights, see [`~models.fingerprint.fingerprint`]."""
        self._unquantized = fingerprint(model, quantizable=False)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        source: str | PreTrainedModel | PeftModel,
        setup: TeacherSetup,
        *,
        init_kwargs: Any = None,
        quantization_config: Any = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        revision: str | None = None,
        device: str | None = None,
        offload: bool = False,
        tokenizer: PreTrainedTokenizerBase | None = None,
        token_map: Any = None,
    ) -> "ModelTeacher":
        """
        Loads a teacher by name (a loaded one is taken as it is) and checks its tokenizer against the student's.

        Args:
            source (`str`, `PreTrainedModel` or `PeftModel`):
                Hub id or folder of a model or of an adapter, or the model.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            init_kwargs (`dict`, *optional*):
                Passed to `from_pretrained`; `dtype` defaults to the checkpoint's own. Trust in the code of one model
                is no trust in another's, so `trust_remote_code` for the teacher is given here.
            quantization_config (`BitsAndBytesConfig` or `dict`, *optional*):
                As for `from_pretrained`.
            load_in_4bit, load_in_8bit (`bool`, *optional*, defaults to `False`):
                The same in short, where the defaults of bitsandbytes will do, in 4 bits those of QLoRA.
            revision (`str`, *optional*):
                Branch, tag or commit of the model or adapter and of its tokenizer. An adapter's base has the revision that
                the adapter's own configuration names.
            device (`str`, *optional*):
                Where it stays, `"cuda:1"` or `"cpu"` say: inputs are sent there, and the states of the kept positions come
                back. Its head is copied to the training device once and stays there, V * D numbers.
            offload (`bool`, *optional*, defaults to `False`):
                Whether its weights lie in the CPU's memory (pinned, so the machine needs that much of it) and are copied to
                the training device for each micro-batch. Between its passes the device holds nothing of it, but for the
                head until the losses are computed; within them, all of it. It costs the copy: 2 bytes a parameter in
                bfloat16 over the bus, each micro-batch, so it pays with large micro-batches and few of them. Not for 4 and
                8 bits, which belong to the device that they were quantized on, nor where the run shards its models.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                The teacher's; looked up under its name when not given.
            token_map (`dict`, *optional*):
                From tokens that the teacher does not have to those that it reads in their place; text or id.

        Raises:
            ValueError: If it is to stay on a device or be offloaded and cannot, an id means different tokens to the two tokenizers, a token is mapped to none, or the teacher uses
                prompt learning or an adapter that is bound to a call of the whole model (X-LoRA, Poly).
            OSError: If the teacher's files cannot be had; the option is named beside the library's own words.
        """
        model, student_tokenizer = source, setup.tokenizer
        if load_in_4bit or load_in_8bit:
            quantization_config = quantization_config or _short_config(load_in_4bit, load_in_8bit)
        if isinstance(quantization_config, Mapping) and "quant_method" not in quantization_config:
            quantization_config = BitsAndBytesConfig(**quantization_config)
        require_place(setup.accelerator, device, offload, quantization_config is not None or _is_quantized(model))
        if isinstance(model, str):
            kwargs = {"dtype": "auto", **(init_kwargs or {}), **({} if revision is None else {"revision": revision})}
            if quantization_config is not None:
                kwargs["quantization_config"] = quantization_config
            if device is not None and quantization_config is not None:
                kwargs.setdefault("device_map", {"": device})  # quantized there, and never moved
            elif PartialState().num_processes > 1 or device is not None or offload:
                # Left to its default, trl 1.16 spreads the model over all GPUs, in every process.
                kwargs.setdefault("device_map", None)
            try:
                model, tokenizer = _load(model, kwargs, student_tokenizer, tokenizer)
            except OSError as error:
                # The libraries' messages leave out which of a run's models it was, some of them its name too.
                raise OSError(f"teacher_model: {model!r} cannot be loaded ({error})") from error
        else:
            for name, value in (
                ("teacher_model_init_kwargs", init_kwargs),
                ("teacher_quantization_config", quantization_config),
                ("revision", revision),
            ):
                if value is not None:
                    logger.warning("%s: ignored, the teacher is loaded already.", name)
            name = get_config_model_id(model.config)
            tokenizer = tokenizer or _find_tokenizer(name, {})
            _check_tokenizer(student_tokenizer, tokenizer, name)
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            raise ValueError(
                "teacher_model: its prompt-learning adapter prepends virtual tokens, so its positions would not be the "
                "student's. Use a teacher with LoRA, or a plain model."
            )
        bound = bound_to_outer_call(model) if isinstance(model, PeftModel) else None
        if bound:
            raise ValueError(
                f"teacher_model: its {bound} adapter computes a part of its arithmetic once per call of the whole model, and "
                "the teacher is read below its head. Use a teacher with LoRA, or a plain model."
            )
        vocabulary, known = student_tokenizer.get_vocab(), None if tokenizer is None else tokenizer.get_vocab()
        unknown = unknown_tokens(vocabulary, embedding_rows(model), known)
        replaced = resolve_token_map("teacher_token_map", token_map or {}, vocabulary, unknown)
        if replaced:
            tokens = {index: token for token, index in vocabulary.items()}
            pairs = ", ".join(f"{tokens[two]!r} for {tokens[one]!r}" for one, two in replaced.items())
            logger.warning("teacher_token_map: the teacher reads %s.", pairs)
        padding = student_tokenizer.pad_token_id
        # Nothing attends to padding, yet its embedding is looked up.
        behind = {padding: 0} if padding in unknown and padding not in replaced else {}
        teacher = cls(model, {**replaced, **behind}, device=device, offload=offload)
        if isinstance(source, str):
            teacher.name, teacher._revision = source, find_commit(source, kwargs.get("revision"))
        teacher._read_instead = ", ".join(f"{two} for {one}" for one, two in sorted(replaced.items())) or None
        teacher.unknown = {index: token for index, token in unknown.items() if index not in replaced}
        return teacher

    def place(self, accelerator: Any) -> None:
        """Moves the teacher to the training device, or shards it as the run shards its models."""
        distributed = accelerator.distributed_type
        self._sharded = is_sharded(accelerator)
        if distributed == DistributedType.DEEPSPEED:
            self.model = prepare_deepspeed(self.model, accelerator)
        elif distributed == DistributedType.FSDP:
            self.model = prepare_fsdp(self.model, accelerator)
        elif self.offload:
            self._offloaded = OffloadedWeights(self.model.to("cpu"), accelerator.device).on_device
        elif not getattr(self.model, "hf_device_map", None) and not _is_quantized(self.model):
            self.model.to(self.device or accelerator.device)

    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        device, inputs = batch.labels.device, batch.inputs
        if self._replacement is not None:
            self._replacement = self._replacement.to(device)
            inputs = {**inputs, "input_ids": self._replacement[inputs["input_ids"]]}
        if self.device is not None:
            inputs = send_to_device(inputs, self.device)

        def read(model: PreTrainedModel, inputs: dict[str, Any]) -> TeacherSignal:
            hidden = batch.keep(run_backbone(model, inputs).last_hidden_state)
            with read_head(model) as head:
                return TeacherSignal(hidden, self._near(head, None if self.device is None else device))

        with self._offloaded(), frozen(self.model):
            hidden, head = self.model(**inputs, objective=read)
        return TeacherSignal(hidden.to(device), head)

    def head(self, student: PreTrainedModel) -> LinearHead:
        with read_head(self._causal_lm) as head:
            return self._near(head, student.device if self.offload or self.device is not None else None)

    def _near(self, head: LinearHead, device: torch.device | None) -> LinearHead:
        """The head where the student's is: of a teacher that is elsewhere it is copied once, since it never changes."""
        if self._near_head is not None:
            return self._near_head
        if device is None and not self._sharded:
            return head.detach()

        def copied(tensor: Tensor) -> Tensor:
            # Sharded, it is whole for the length of the pass only: FSDP then frees the memory of what it gathered.
            return tensor.detach().clone() if device is None else tensor.detach().to(device)

        near = head._replace(weight=copied(head.weight), bias=None if head.bias is None else copied(head.bias))
        if self.device is not None:
            self._near_head = near
        return near

    def facts(self) -> dict[str, Any]:
        config = self._causal_lm.config
        found: dict[str, Any] = {
            "name": self.name,
            "revision": self._revision,
            "weights": self.weights,
            "unquantized": self._unquantized,
        }
        quantization = quantization_name(getattr(config, "quantization_config", None))
        if quantization is not None:
            found["quantization"] = quantization
        if isinstance(self._adapter, PeftConfig):
            base, revision = self._adapter.base_model_name_or_path, self._adapter.revision
            found["adapter"] = str(getattr(self._adapter.peft_type, "value", self._adapter.peft_type))
            found["base"] = {"name": base, "revision": find_commit(base or "", revision)}
            scaling = scaling_of(self._adapter)
            found |= {} if scaling is None else {"scaling": scaling}
        if self._read_instead:
            found["token_map"] = self._read_instead
        return found


def _short_config(four: bool, eight: bool) -> BitsAndBytesConfig:
    if four and eight:
        raise ValueError(
            "load_in_4bit and load_in_8bit: one model has one precision, and both are set. Leave one out."
        )
    if eight:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=native_dtype())


def require_separate_models(student: Any, teacher: Any) -> None:
    """Raises ValueError when a loaded teacher, alone or in a mapping, and a loaded student share a weight."""
    if isinstance(teacher, Mapping):
        for one in teacher.values():
            require_separate_models(student, one)
    if not isinstance(student, nn.Module) or not isinstance(teacher, nn.Module):
        return
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "teacher_model: shares its weights with the student, so it would drift with it, or be frozen and freeze the "
            "student too. Pass teacher_model=None to learn from the frozen base, or load a second copy."
        )


def _is_quantized(model: Any) -> bool:
    return getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)


def _load(
    name: str,
    kwargs: dict[str, Any],
    student_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase | None]:
    """Returns a model or adapter by its name, and its tokenizer where there is one."""
    revision = kwargs.get("revision")
    is_adapter = find_adapter_config_file(name, revision=revision) is not None
    tokenizer = tokenizer or _find_tokenizer(name, kwargs)
    # Checked before the weights are loaded: they may take minutes.
    _check_tokenizer(student_tokenizer, tokenizer, name)
    if is_adapter:
        return AutoPeftModelForCausalLM.from_pretrained(name, **kwargs), tokenizer
    return create_model_from_path(name, **kwargs), tokenizer


def _find_tokenizer(name: str | None, kwargs: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(name, kwargs) if name else None
    except (OSError, ValueError):
        return None


def _check_tokenizer(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None, name: str | None
) -> None:
    if teacher is None:
        logger.warning(
            "teacher_model: no tokenizer found under %r, so it could not be compared with the student's. If they "
            "differ, distillation teaches noise; pass teacher_processing_class to have it checked.",
            name,
        )
    else:
        require_same_vocabulary(student.get_vocab(), teacher.get_vocab())
