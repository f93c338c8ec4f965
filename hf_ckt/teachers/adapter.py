# SPDX-License-Identifier: Apache-2.0
"""A second adapter on the student's own backbone as the teacher."""

import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from ..kernels.signals import TeacherSignal
from ..models._upstream import adapters_switched, get_config_model_id, rewrites_base
from ..models.backbone import frozen, read_head, run_backbone
from ..models.batch import Batch
from ..models.fingerprint import fingerprint_of, scaling_of
from ..models.frozen_base import why_no_frozen_base
from ..models.precision import quantization_name
from ..views import LinearHead
from .base import Teacher, TeacherSetup

logger = logging.getLogger(__name__)

# Of the adapter in the student, and of further ones with a number behind it.
_NAME = "hf_ckt_teacher"
_REMEDY = "Give it as {'model': ...}, which loads a backbone of its own."


class AdapterTeacher(Teacher):
    """
    A frozen second adapter on the student's own backbone, in 16, 8 or 4 bits, read by switching adapters for the pass: no
    weights beyond the student's but the adapter's.

    It stands in the student under a name of its own, and is neither trained, nor saved with it, nor merged into it.

    Source: Hinton et al. 2015, https://huggingface.co/papers/1503.02531, with the backbone shared as between the policy and
    the reference adapter of TRL's DPOTrainer.
    Related: [`ModelTeacher`] loads an adapter together with a backbone of its own; [`SelfTeacher`] is the backbone without
    any.

    Args:
        student (`PeftModel`):
            That holds the adapter.
        adapter (`str`):
            Its name there.
        name (`str`, *optional*):
            What it was loaded from, for logs and cards.
        revision (`str`, *optional*):
            Of its repository.
    """

    def __init__(self, student: PeftModel, adapter: str, name: str | None = None, revision: str | None = None):
        self.unknown = {}
        self.adapter, self.revision = adapter, revision
        self.name = name or adapter
        own = list(_parameters_of(student, adapter))
        for _, parameter in own:
            parameter.requires_grad_(False)
        self.weights = fingerprint_of(own)
        """Tells the adapter from another one by its weights, see [`~models.fingerprint.fingerprint`]."""
        self._below = _facts_below(student, adapter)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        source: str,
        setup: TeacherSetup,
        *,
        revision: str | None = None,
        adapter_name: str | None = None,
        other_base: bool = False,
    ) -> "AdapterTeacher":
        """
        Loads the adapter into the student.

        Args:
            source (`str`):
                Hub id or folder of the adapter.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            revision (`str`, *optional*):
                Branch, tag or commit of its repository.
            adapter_name (`str`, *optional*):
                What it is called in the student; `hf_ckt_teacher` by default, numbered where there are several.
            other_base (`bool`, *optional*, defaults to `False`):
                Whether it may have been trained on a base of another name than the student's: another copy or quantization
                of the same weights.

        Raises:
            ValueError: If the student has no adapter, or one of this name; if its backbone is not frozen; or if the adapter
                is of another base, or of a kind that cannot be switched on and off.
            OSError: If its files cannot be had.
        """
        student = setup.student
        _require_shared_backbone(source, student, setup.causal_lm)
        try:
            config = PeftConfig.from_pretrained(source, revision=revision)
        except (OSError, ValueError) as error:
            raise OSError(f"teacher_model: the adapter {source!r} cannot be loaded ({error})") from error
        _require_switchable(source, config, student)
        if not other_base:
            _require_same_base(source, config.base_model_name_or_path, get_config_model_id(setup.causal_lm.config))
        name = _free_name(student, adapter_name)
        _load(source, student, name, revision)
        _leave_out_when_saving(student, name)
        return cls(student, name, source, revision)

    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        with frozen(student), adapters_switched(student, self.adapter):
            hidden = batch.keep(run_backbone(student, batch.inputs).last_hidden_state)
            with read_head(student) as head:
                return TeacherSignal(hidden, head.detach())

    def head(self, student: PreTrainedModel) -> LinearHead:
        with adapters_switched(student, self.adapter), read_head(student) as head:
            return head.detach()

    def facts(self) -> dict[str, Any]:
        revision = {} if self.revision is None else {"revision": self.revision}
        return {"name": self.name, **revision, "weights": self.weights, **self._below}


def _require_shared_backbone(source: str, student: Any, causal_lm: Any) -> None:
    if not isinstance(student, PeftModel):
        raise ValueError(
            f"teacher_model: {source!r} is to be an adapter beside the student's own, and the student has none, so its "
            f"backbone would move under the teacher. Pass peft_config=... (in a shell --use-peft). {_REMEDY}"
        )
    if student.active_peft_config.is_prompt_learning:
        raise ValueError(
            "teacher_model: the student's prompt-learning adapter stands before the text and not in the backbone, so no "
            f"second adapter can be switched on in its place. Train a LoRA adapter. {_REMEDY}"
        )
    missing = why_no_frozen_base(causal_lm)
    if missing:
        raise ValueError(
            f"teacher_model: the adapter {source!r} needs the backbone that it was trained on, but {missing}. {_REMEDY}"
        )


def _require_switchable(source: str, config: Any, student: Any) -> None:
    kind, own = (str(getattr(one.peft_type, "value", one.peft_type)) for one in (config, student.active_peft_config))
    rewriting = rewrites_base(config)
    why = None
    if config.is_prompt_learning or config.is_adaption_prompt:
        why = f"is a prompt-learning adapter ({kind}), which adds tokens of its own, so its positions would not be the student's"
    elif kind != own:
        why = f"is of type {kind} and the student's of type {own}, and peft holds adapters of one type in a model"
    elif getattr(config, "bias", "none") != "none":
        why = f"has trained biases (bias={config.bias!r}), which would replace those of the student's backbone"
    elif rewriting:
        why = f"was made with {rewriting}, which would change the student's backbone when it is loaded"
    elif getattr(config, "alora_invocation_tokens", None):
        why = "is an activated LoRA, which looks once per call for where it begins, and the teacher is read below that"
    if why:
        raise ValueError(f"teacher_model: the adapter {source!r} {why}. {_REMEDY}")


def _require_same_base(source: str, trained_on: str | None, base: str | None) -> None:
    if not trained_on or not base or trained_on == base:
        return
    if all(os.path.isdir(one) for one in (trained_on, base)) and os.path.realpath(trained_on) == os.path.realpath(
        base
    ):
        return
    known = all(os.path.isdir(one) or (one.count("/") <= 1 and not os.path.isabs(one)) for one in (trained_on, base))
    if known:
        raise ValueError(
            f"teacher_model: the adapter {source!r} is of another base, {trained_on!r}, than the student, {base!r}, so it "
            "would add an update to weights that it was not made for. If they are the same weights under two names, pass "
            f"other_base=True; else use an adapter of this base. {_REMEDY}"
        )
    logger.warning(
        "teacher_model: the adapter %r was trained on %r, and the student's base is %r, of which one is a folder that is not "
        "there, so whether they are the same weights is not known. If they are not, it teaches noise.",
        source,
        trained_on,
        base,
    )


def _free_name(student: Any, wanted: str | None) -> str:
    taken = student.peft_config
    if wanted is not None or _NAME in taken:
        loaded: tuple[str, ...] = getattr(student, "_hf_ckt_teacher_adapters", ())
        name = wanted or _NAME
        if name in taken and (wanted is not None or name not in loaded):
            raise ValueError(
                f"adapter_name: the student has an adapter called {name!r} already, so the teacher would be read with it, or "
                "it would be overwritten. Choose another adapter_name for the teacher."
            )
    if wanted is not None:
        return wanted
    numbered = (_NAME if number == 1 else f"{_NAME}_{number}" for number in range(1, len(taken) + 2))
    return next(name for name in numbered if name not in taken)


def _load(source: str, student: Any, name: str, revision: str | None) -> None:
    needed = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    training = student.training
    try:
        missing, unexpected = _loaded(source, student, name, revision)
    except (RuntimeError, ValueError, KeyError) as error:
        if name in student.peft_config:
            student.delete_adapter(name)
        raise ValueError(
            f"teacher_model: the adapter {source!r} does not fit the student's layers, so it is of another base "
            f"({' '.join(str(error).split())[:200]}). Use an adapter of this base. {_REMEDY}"
        ) from error
    finally:
        student.train(training)
        for parameter, needs in needed:
            parameter.requires_grad_(needs)
    if missing or unexpected:
        student.delete_adapter(name)
        raise ValueError(
            f"teacher_model: the adapter {source!r} is of another base: {len(missing)} of the student's layers are missing in "
            f"it and {len(unexpected)} of its own are not in the student ({[*missing, *unexpected][0]}), so a part of it would "
            f"teach nothing. Use an adapter of this base. {_REMEDY}"
        )


def _loaded(source: str, student: Any, name: str, revision: str | None) -> tuple[list[str], list[str]]:
    """Loads the adapter; returns the tensors that it lacks, and those that the student has no place for."""
    # On the CPU first: peft would have every process copy it to the first accelerator.
    found = student.load_adapter(source, name, is_trainable=False, torch_device="cpu", revision=revision)
    return list(found.missing_keys), list(found.unexpected_keys)


def _parameters_of(model: torch.nn.Module, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Yields an adapter's own parameters, by names in which its own is left out."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if adapter in parts:
            yield ".".join(part for part in parts if part != adapter), parameter


def _facts_below(student: PeftModel, adapter: str) -> dict[str, Any]:
    """What an adapter says depends on, beside its weights: how they are scaled, and the backbone that they stand on."""
    # Wrappers are where the student's own adapter is, which need not be everywhere.
    added, wrappers = {*student.peft_config}, {"base_layer", "original_module"}
    base = [
        (".".join(part for part in name.split(".") if part not in wrappers), parameter)
        for name, parameter in student.named_parameters()
        if not added & {*name.split(".")} and not parameter.requires_grad
    ]
    tables = [(name, parameter) for name, parameter in base if parameter.ndim < 2 or "embed" in name]
    found: dict[str, Any] = {"backbone": fingerprint_of(base), "unquantized": fingerprint_of(tables)}
    quantization = quantization_name(getattr(student.config, "quantization_config", None))
    if quantization is not None:
        found["quantization"] = quantization
    scaling = scaling_of(student.peft_config[adapter])
    return found | ({} if scaling is None else {"scaling": scaling})


def _leave_out_when_saving(student: Any, adapter: str) -> None:
    """
    Lets the student save its own adapters only.

    peft saves all adapters unless it is told which, and Trainer does not tell it. Out of `peft_config` the teacher's would
    go into the student's own file: what belongs to no adapter that is known there is taken for the one that is saved.
    """
    student._hf_ckt_teacher_adapters = (*getattr(student, "_hf_ckt_teacher_adapters", ()), adapter)
    if "save_pretrained" not in vars(student):
        student.save_pretrained = functools.partial(_save_own, student)


def _save_own(student: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
    # Of `safe_serialization` and `selected_adapters`, which may come by place, the second says which.
    if len(args) < 2 and kwargs.get("selected_adapters") is None:
        own = [name for name in student.peft_config if name not in student._hf_ckt_teacher_adapters]
        kwargs["selected_adapters"] = own
    type(student).save_pretrained(student, save_directory, *args, **kwargs)
