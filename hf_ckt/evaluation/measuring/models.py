# SPDX-License-Identifier: Apache-2.0
"""The models of an evaluation: which they are, how they are loaded, and what they are called."""

import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...hub.provenance import library_versions
from .adapters import adapter_settings, is_same_base
from .store import fingerprint

SHORT_NAME = "smollm2"
KINDS = ("harmful", "benign")


@dataclass(frozen=True)
class Loading:
    """
    How weights are loaded: from safetensors only, and without the repository's code unless that is trusted.

    Args:
        dtype (`str`, *optional*):
            Of the weights that are not quantized; bfloat16 by default where the machine multiplies it natively, else
            float32.
        quantization (`str`, *optional*):
            `"nf4"`, `"fp4"` or `"int8"` by bitsandbytes.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with the model.
        as_trained (`bool`, *optional*, defaults to `False`):
            Whether an adapter's backbone is loaded in the precision that it was trained over, where its folder records it.
    """

    dtype: str | None = None
    quantization: str | None = None
    trust_remote_code: bool = False
    as_trained: bool = False

    @classmethod
    def of(cls, options: Namespace) -> "Loading":
        """Returns what [`add_model_options`] has read."""
        quantization = "nf4" if options.load_in_4bit else "int8" if options.load_in_8bit else None
        return cls(options.dtype, quantization, options.trust_remote_code, options.as_trained)

    def facts(self) -> dict[str, Any]:
        """Returns what results files state."""
        return {
            "dtype": self.kwargs()["dtype"],
            "quantization": self.quantization,
            "trust_remote_code": self.trust_remote_code,
            "as_trained": self.as_trained,
        }

    def libraries(self) -> tuple[str, ...]:
        """
        Returns the libraries of which another version may answer otherwise: what multiplies, what holds the model's code
        and decodes, what makes tokens and prompts. Not accelerate and safetensors, which place weights and read bytes: a
        version of theirs that changed a weight would change every user's.
        """
        quantizer = ("bitsandbytes",) if self.quantization is not None or self.as_trained else ()
        return ("torch", "transformers", "peft", "tokenizers", "jinja2", *quantizer)

    def kwargs(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained`."""
        from ...models.embedded import native_dtype

        dtype = self.dtype or native_dtype()
        kwargs = {"dtype": dtype, "trust_remote_code": self.trust_remote_code, "use_safetensors": True}
        if self.quantization is not None:
            from transformers import BitsAndBytesConfig

            four = {"load_in_4bit": True, "bnb_4bit_quant_type": self.quantization, "bnb_4bit_compute_dtype": dtype}
            kwargs["quantization_config"] = BitsAndBytesConfig(
                **({"load_in_8bit": True} if self.quantization == "int8" else four)
            )
        return kwargs


@dataclass(frozen=True)
class EvaluatedModel:
    """
    One model of the comparison.

    Args:
        name (`str`):
            Its name in results and tables.
        model (`str`):
            Hub id or folder of the backbone.
        adapter (`str`, *optional*):
            Hub id or folder of an adapter on it.
    """

    name: str
    model: str
    adapter: str | None = None

    def identity(self) -> list[str | None]:
        """Returns what tells this model from others: digests of folders, ids with their commit. Read once an entry."""
        return self._identity

    @cached_property
    def _identity(self) -> list[str | None]:
        return [identity_of(self.model), self.adapter and identity_of(self.adapter)]

    @cached_property
    def _saved(self) -> dict[str, Any]:
        file = source_file(self.model, "config.json")
        return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))

    @property
    def saved_quantization(self) -> dict[str, Any] | None:
        """The quantization that the backbone was saved with, which it keeps however it is loaded; None without."""
        return self._saved.get("quantization_config")

    @property
    def saved_dtype(self) -> str | None:
        """The dtype that the backbone was saved in, where its configuration says so."""
        return self._saved.get("dtype") or self._saved.get("torch_dtype")

    def conditions(self, loading: Loading, libraries: Sequence[str] = ()) -> dict[str, Any]:
        """
        Returns what every kept piece of this model depends on; the versions are those of [`Loading.libraries`] and of
        `libraries` besides.
        """
        import torch

        if (self.saved_quantization or {}).get("quant_method") == "bitsandbytes":
            libraries = (*libraries, "bitsandbytes")
        return {
            "model": self.identity(),
            "loading": list(loading.facts().values()),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "versions": library_versions(*loading.libraries(), *libraries),
        }


def entries(
    model: str,
    adapter: str | None = None,
    compare: Sequence[str] = (),
    teacher: str | Mapping[str, str] | None = None,
    *,
    allow_other_base: bool = False,
) -> tuple[list[EvaluatedModel], dict[str, EvaluatedModel]]:
    """
    Returns the models to score, the base first, and the teacher of each kind of prompt.

    Args:
        model (`str`):
            Hub id or folder of the base, or `"smollm2"` for SmolLM2-135M-Instruct, from its wheel where installed.
        adapter (`str`, *optional*):
            Hub id or folder; scored as `adapter`.
        compare (`Sequence[str]`, *optional*):
            More adapters on the same base, or whole models; scored under the last part of their names.
        teacher (`str` or `Mapping[str, str]`, *optional*):
            An adapter or a model, `"base"` being the base; or one for `"harmful"` and one for `"benign"` prompts. Without it
            all that are no base are compared with the base.
        allow_other_base (`bool`, *optional*, defaults to `False`):
            Whether an adapter may record another base than `model`.

    Raises:
        ValueError: If `model` is an adapter, one of the others is not there, an adapter was trained on another base, or a
            kind of prompt has no teacher.
    """
    backbone = resolve(model)
    if is_adapter(backbone):
        raise ValueError(
            f"--model: {public_name(model)!r} is an adapter, so its base would never be measured beside it. Give the base "
            "as --model and this as --adapter."
        )
    listed = [EvaluatedModel("base", backbone)]
    if adapter is not None:
        if not is_adapter(adapter):
            missing = (
                "" if Path(adapter).exists() else "is no folder of this machine, and under that name the Hub's copy "
            )
            raise ValueError(
                f"--adapter: {public_name(adapter)!r} {missing}holds no adapter_config.json. Give a PEFT adapter; a whole "
                "model goes to --compare."
            )
        listed.append(EvaluatedModel("adapter", backbone, adapter))
        _require_base("--adapter", adapter, backbone, allow_other_base)
    for other in compare:
        taken = {entry.name for entry in listed}
        name = public_name(other).rsplit("/", 1)[-1]
        unique = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        listed.append(_entry(unique, "--compare", other, backbone, allow_other_base))
    if teacher is None:
        return listed, dict.fromkeys(KINDS, listed[0]) if len(listed) > 1 else {}
    routed = dict.fromkeys(KINDS, teacher) if isinstance(teacher, str) else dict(teacher)
    if {*routed} != {*KINDS}:
        raise ValueError(
            f"--teacher: must name one teacher, or one for each of {' and '.join(KINDS)}, got {', '.join(routed)}. Prompts "
            "without a teacher would be left out unsaid. Write harmful=ID benign=ID, where ID may be base."
        )
    told = {
        path: listed[0] if path == "base" else _entry("teacher", "--teacher", path, backbone, allow_other_base)
        for path in routed.values()
    }
    return listed, {kind: told[routed[kind]] for kind in KINDS}


def _entry(name: str, option: str, path: str, backbone: str, allow_other_base: bool) -> EvaluatedModel:
    if not is_adapter(path):
        return EvaluatedModel(name, resolve(path))
    _require_base(option, path, backbone, allow_other_base)
    return EvaluatedModel(name, backbone, path)


def _require_base(option: str, adapter: str, backbone: str, allow_other_base: bool) -> None:
    recorded = recorded_base(adapter)
    if allow_other_base or not recorded or is_same_base(recorded, backbone):
        return
    trained_on, given = public_name(recorded), public_name(backbone)
    other = f"of other weights, {given!r} too" if trained_on == given else repr(given)
    raise ValueError(
        f"{option}: {public_name(adapter)!r} was trained on {trained_on!r}, and --model is {other}. On another base it is "
        "another model than the one that was trained. Give its own base as --model, or say --allow-other-base."
    )


def model_facts(entry: EvaluatedModel) -> dict[str, Any]:
    """Returns which model an entry is, as results files state it; `trained_on` is the base that its adapter records."""
    recorded = recorded_base(entry.adapter) if entry.adapter is not None else None
    return {
        "model": public_name(entry.model),
        "adapter": entry.adapter and public_name(entry.adapter),
        "trained_on": recorded and public_name(recorded),
        "identity": entry.identity(),
    }


def recorded_base(adapter: str) -> str | None:
    """Returns the Hub id or folder of the base that an adapter says it was trained on."""
    return adapter_settings(adapter).get("base_model_name_or_path") or None


def resolve(model: str) -> str:
    """Returns the Hub id or folder that a model's name on the command line means."""
    if model == SHORT_NAME:
        from ...models.embedded import embedded_model

        return embedded_model()
    return model


def public_name(model: str) -> str:
    """Returns a name for results files: a Hub id as it is, of a folder its own name alone."""
    if model == SHORT_NAME or _is_embedded(model):
        from ...models.embedded import HUB_ID

        return HUB_ID
    # A path of another machine too: an adapter records where its base was.
    is_path = Path(model).exists() or Path(model).is_absolute() or "\\" in model or model.count("/") > 1
    return re.split(r"[\\/]", str(Path(model).resolve()))[-1] if is_path else model


def add_model_options(parser: ArgumentParser, *, compare: bool = True) -> None:
    """Adds the options that say which models, and how they are loaded; [`entries`] and [`Loading.of`] take them."""
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="Hub id or folder of the base; smollm2: SmolLM2-135M-Instruct")
    add("--adapter", metavar="ID", help="a PEFT adapter on it; default: none, the base alone")
    if compare:
        add("--compare", nargs="+", default=[], metavar="ID", help="more adapters, or whole models; default: none")
    dtype = "of the weights; default: bfloat16 where the machine multiplies it, else float32"
    add("--dtype", metavar="NAME", help=dtype)
    quantized = parser.add_mutually_exclusive_group()
    quantized.add_argument("--load-in-4bit", action="store_true", help="the base in NF4, by bitsandbytes")
    quantized.add_argument("--load-in-8bit", action="store_true", help="the base in 8 bits, by bitsandbytes")
    trained = "each adapter over its backbone in the precision that it was trained over, where its folder records it"
    quantized.add_argument("--as-trained", action="store_true", help=trained)
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the models")
    other = "score an adapter on another base than the one that it records; default: refuse"
    add("--allow-other-base", action="store_true", help=other)
    kept = "generate as each model's generation_config.json says, an adapter's own where it has one; default: greedily, whatever it says"
    add("--keep-generation-config", action="store_true", help=kept)


def public_command(program: str, argv: Sequence[str]) -> str:
    """
    Returns a command as results files state it: of files and folders their names alone, and not where the results went.

    Example:

    >>> public_command("hf-ckt lm-eval", ["--model", "/a/b", "--output", "out", "--system-prompt", "Say yes/no/maybe."])
    "hf-ckt lm-eval --model b --system-prompt 'Say yes/no/maybe.'"
    """
    words = [word for word in argv if not word.startswith("--output=")]
    at = words.index("--output") if "--output" in words else len(words)
    del words[at : at + 2]
    return f"{program} {shlex.join(map(_public_word, ['', *words], words))}"


def _public_word(before: str, word: str) -> str:
    if re.match("--system[-_]prompt(=|$)", word) or re.fullmatch("--system[-_]prompt", before):
        return word  # no path, whatever strokes are in it
    named = word.startswith(("--", *(f"{kind}=" for kind in KINDS)))
    option, equals, value = word.partition("=") if named else ("", "", word)
    prefix = "hf:" if value.startswith("hf:") else ""
    name, mark, label = value.removeprefix("hf:").partition("#")
    shown = public_name(name) if name and name != SHORT_NAME else name
    return f"{option}{equals}{prefix}{shown}{mark}{label}"


def _is_embedded(model: str) -> bool:
    from ...models.embedded import HUB_ID

    return Path(model).is_dir() and Path(model).name.startswith(f"{HUB_ID.split('/')[1]}-transformers-")


def is_adapter(model: str) -> bool:
    """Tells whether a folder or Hub repository holds a PEFT adapter."""
    from transformers.utils.peft_utils import find_adapter_config_file

    return find_adapter_config_file(model) is not None


def source_file(source: str, name: str) -> str | None:
    """Returns the path of a file in a folder or Hub repository; None where it holds none, or cannot be asked."""
    from transformers.utils import cached_file

    return cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def identity_of(model: str, revision: str | None = None) -> str:
    """Returns a digest of a folder's files, or a Hub id with the commit of a revision; OSError names what cannot be had."""
    if Path(model).is_dir():
        return fingerprint(Path(model))
    from transformers.utils import cached_file
    from transformers.utils.peft_utils import find_adapter_config_file

    # The file lies in a folder named by the commit.
    try:
        at: dict[str, Any] = {"revision": revision}
        file = find_adapter_config_file(model, **at) or cached_file(model, "config.json", **at)
    except OSError as error:
        # Without network its words name no model.
        raise OSError(f"{model!r} is no folder of this machine, and cannot be had from the Hub ({error})") from error
    return f"{model}@{Path(str(file)).parent.name}"
