# SPDX-License-Identifier: Apache-2.0
"""Backbones in memory, and the adapters that are switched on them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ...models._upstream import keep_4bit_differentiable
from .adapters import adapter_settings, require_every_key, resize_as_trained
from .models import EvaluatedModel, Loading, public_name
from .weights import loading_of

_BACKBONES = 2
# Path, and the adapter that has this copy for itself; None: shared.
_Key: TypeAlias = tuple[str, str | None]


@dataclass
class _Loaded:
    model: Any
    adapters: dict[str, str] = field(default_factory=dict)  # folder or id -> name on the model
    kind: str | None = None  # of its adapters, as peft calls it: it takes one kind at a time


@dataclass
class Backbones:
    """
    Gives each entry's model when it is asked for. Adapters on a backbone share it, but for those that change its own
    weights as they are loaded (more tokens, trained biases, initialisations that rewrite it, layers put in twice): on what
    they leave behind, base and other adapters would be other models, so each of them has a copy of its own. At most two backbones are in
    memory in one precision, a student's and another teacher's, and a third one takes the place of the one that was used
    longest ago.

    Args:
        loading ([`Loading`]):
            How the weights are loaded.
    """

    loading: Loading = field(default_factory=Loading)
    _loaded: dict[_Key, _Loaded] = field(default_factory=dict)  # the last used last
    _otherwise: dict[Loading, "Backbones"] = field(default_factory=dict)  # for adapters that were trained over others
    _alone: set[_Key] = field(default_factory=set)

    @contextmanager
    def active(self, entry: EvaluatedModel) -> Iterator[Any]:
        """
        Yields the entry's model in eval mode, its adapter on and all others off.

        Raises:
            ValueError: If the adapter does not fit the backbone with every one of its weights.
        """
        loading = loading_of(entry, self.loading)
        if loading.facts() != self.loading.facts():
            with self._otherwise.setdefault(loading, Backbones(loading)).active(entry) as model:
                yield model
            return
        if entry.adapter is not None:
            backbone = self._with_adapter(entry.model, entry.adapter)
            backbone.model.set_adapter(backbone.adapters[entry.adapter])
            yield backbone.model
            return
        backbone = self._load((entry.model, None))
        if backbone.adapters:
            with backbone.model.disable_adapter():
                yield backbone.model
        else:
            yield backbone.model

    def clear(self) -> None:
        """Lets go of all models."""
        self._loaded.clear()
        self._otherwise.clear()
        gc.collect()

    def _load(self, key: _Key) -> _Loaded:
        if key not in self._loaded:
            import torch
            from transformers import AutoModelForCausalLM

            while len(self._loaded) >= _BACKBONES:
                del self._loaded[next(iter(self._loaded))]
                gc.collect()
            model: Any = AutoModelForCausalLM.from_pretrained(key[0], **self.loading.kwargs())
            if torch.cuda.is_available() and self.loading.quantization is None:
                model = model.to("cuda")
            # Repacked at a first pass, 4-bit weights would be broken by the adapter that peft puts on them after it.
            keep_4bit_differentiable(model)
            self._loaded[key] = _Loaded(model.eval())
        self._loaded[key] = self._loaded.pop(key)
        return self._loaded[key]

    def _with_adapter(self, path: str, adapter: str) -> _Loaded:
        shared, own = (path, None), (path, adapter)
        if own in self._alone:
            backbone = self._load(own)
            if adapter not in backbone.adapters:
                self._put_on(own, adapter)
            return backbone
        if shared in self._loaded and adapter in self._loaded[shared].adapters:
            return self._load(shared)
        settings = adapter_settings(adapter)
        # Virtual tokens are not switched off in layers but around the model, and `generate` is put in front of both. Layers
        # that stand there twice stay where the adapter is switched off.
        apart = bool(settings.get("num_virtual_tokens") or settings.get("layer_replication"))
        if apart or self._load(shared).kind not in (None, settings["peft_type"]):
            self._alone.add(own)
            return self._with_adapter(path, adapter)
        backbone = self._load(shared)
        if self._put_on(shared, adapter):
            self._alone.add(own)
            self._loaded[own] = self._loaded.pop(shared)
            # Those that were on it before go back to a clean one.
            backbone.adapters = {adapter: backbone.adapters[adapter]}
        return backbone

    def _put_on(self, key: _Key, adapter: str) -> bool:
        """Loads an adapter onto a backbone; returns whether the backbone's own weights are no longer what they were."""
        import torch
        from peft import PeftModel
        from safetensors import SafetensorError

        backbone, title = self._loaded[key], public_name(adapter)
        file, settings = _safetensors(adapter), adapter_settings(adapter)
        name = f"adapter_{len(backbone.adapters)}"
        before = [(weight, weight.data_ptr(), weight._version) for weight in backbone.model.parameters()]
        try:
            inner = backbone.model.get_base_model() if backbone.adapters else backbone.model
            resize_as_trained(inner, file, title)
            if not backbone.adapters:
                backbone.model = PeftModel.from_pretrained(backbone.model, adapter, adapter_name=name)
            # Of an adapter that is there already it reads the weights alone, and says which ones found their place.
            told = backbone.model.load_adapter(adapter, adapter_name=name)
            prompt_learning = backbone.model.peft_config[name].is_prompt_learning
            require_every_key(told, file, title, prompt_learning)
        except Exception as error:
            del self._loaded[key]  # half an adapter is on it
            if isinstance(error, torch.OutOfMemoryError) or not isinstance(
                error, (RuntimeError, KeyError, ValueError, SafetensorError)
            ):
                raise
            if isinstance(error, SafetensorError):
                raise ValueError(
                    f"{title}: its {file.name} cannot be read ({error}), so it may be half a download. Fetch or save it again."
                ) from error
            if str(error).startswith(f"{title}: "):
                raise
            reason = str(error).strip().splitlines()[0].strip()
            raise ValueError(
                f"{title}: does not fit {public_name(key[0])} ({reason}), so it was trained on another base. Give that base "
                "as --model."
            ) from error
        backbone.model.eval()
        backbone.adapters[adapter], backbone.kind = name, settings["peft_type"]
        left = {id(weight) for weight in backbone.model.parameters()}
        return any(
            id(weight) not in left or (weight.data_ptr(), weight._version) != (place, written)
            for weight, place, written in before
        )


def _safetensors(adapter: str) -> Path:
    from transformers.utils import cached_file

    # peft 0.21 falls back to a pickle, which may run code while it is read.
    found = cached_file(adapter, "adapter_model.safetensors", _raise_exceptions_for_missing_entries=False)
    if found is None:
        raise ValueError(
            f"{public_name(adapter)}: has no adapter_model.safetensors. Other formats may run code when they are loaded, "
            "so they are not; save the adapter again with a current peft."
        )
    return Path(str(found))
