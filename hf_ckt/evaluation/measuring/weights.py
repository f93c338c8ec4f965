# SPDX-License-Identifier: Apache-2.0
"""Which weights a model is, and in what precision its backbone was when its adapter was trained and is when it is scored."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .models import EvaluatedModel, Loading, source_file

_BITSANDBYTES = ("nf4", "fp4", "int8")


def loading_of(entry: EvaluatedModel, loading: Loading) -> Loading:
    """Returns how an entry's backbone is loaded: as its adapter was trained, where that is asked for and recorded."""
    from ...models.precision import precision_name

    trained = trained_precision(entry) if loading.as_trained else None
    if trained is None:
        return loading
    name = precision_name(trained)
    return replace(loading, dtype=trained["compute"], quantization=name if name in _BITSANDBYTES else None)


def weights_facts(entry: EvaluatedModel, loading: Loading) -> dict[str, Any]:
    """
    Returns what results files state of an entry's weights. To be asked once they are loaded: of a model of the Hub that is
    not on this machine there is no digest yet.

    Args:
        entry ([`EvaluatedModel`]):
            The model.
        loading ([`Loading`]):
            How it is loaded.

    Returns:
        `dict`: `weights` with `base` and `adapter` (None without one), each with the `digest` of its weights and the
        `revision` on the Hub (None of a folder), and of the base `origin`, what they are where they are not those that
        its name stands for; `trained_precision`, None where the adapter does not record it, and `scored_precision`, each
        with `weights` and `compute` as [`~models.precision.backbone_precision`] has them.
    """
    from ...models.embedded import weights_origin

    base = {**digest_and_revision(entry.model), "origin": weights_origin(entry.model)}
    return {
        "weights": {"base": base, "adapter": entry.adapter and digest_and_revision(entry.adapter)},
        "trained_precision": trained_precision(entry),
        "scored_precision": scored_precision(entry, loading),
    }


def trained_precision(entry: EvaluatedModel) -> dict[str, str] | None:
    """Returns the precision of the backbone that an adapter was trained over; None where it is not recorded, or there is no
    adapter."""
    from ...models.precision import RECORD, recorded_precision

    return None if entry.adapter is None else recorded_precision(source_file(entry.adapter, RECORD))


def scored_precision(entry: EvaluatedModel, loading: Loading) -> dict[str, str]:
    """Returns the precision that an entry's backbone is loaded in; a base that was saved quantized stays so."""
    from ...models.precision import quantization_name

    own, loading = quantization_name(entry.saved_quantization), loading_of(entry, loading)
    dtype = loading.facts()["dtype"]
    if dtype == "auto":  # as it was saved, which not every configuration says
        dtype = entry.saved_dtype or dtype
    return {"weights": own or loading.quantization or dtype, "compute": dtype}


def precision_warnings(entries: Iterable[EvaluatedModel], loading: Loading) -> list[str]:
    """
    Returns a sentence for each adapter that is scored over its backbone in another precision than it was trained over.

    Args:
        entries (`Iterable[EvaluatedModel]`):
            What is scored.
        loading ([`Loading`]):
            How.
    """
    from ...models.precision import precision_name

    said = []
    for entry in entries:
        trained = trained_precision(entry)
        if trained is None:
            continue
        before, now = precision_name(trained), precision_name(scored_precision(entry, loading))
        if now not in (before, "auto"):
            said.append(
                f"{entry.name}: its adapter was trained over a backbone in {before} and is scored over one in {now}, so it is "
                f"not the model that was trained. {_remedy(before)}"
            )
    return said


def _remedy(precision: str) -> str:
    flags = {"nf4": "--load-in-4bit", "int8": "--load-in-8bit"}
    if precision in flags:
        return f"Score it with {flags[precision]}, or every adapter with --as-trained."
    if precision == "fp4":  # what bitsandbytes does where a configuration says 4 bits and no more
        return "Score every adapter with --as-trained."
    if re.fullmatch(r"b?float\d+", precision):
        return f"Score it with --dtype {precision} and without --load-in-4bit or --load-in-8bit."
    return f"Give as --model the base that was saved in {precision}."


def digest_and_revision(model: str) -> dict[str, str | None]:
    """Returns `digest`, of a model's or adapter's weights (None where they are not on this machine), and `revision` on the Hub."""
    from transformers.utils import cached_file

    from ...models.boundary_probe import WEIGHTS as PROBE

    folder: Path | None = Path(model)
    revision = None
    if not Path(model).is_dir():
        names = ("config.json", "adapter_config.json")
        quiet = {"_raise_exceptions_for_missing_entries": False, "local_files_only": True}
        found = next(filter(None, (cached_file(model, name, **quiet) for name in names)), None)
        # The file lies in a folder named by the commit.
        folder = None if found is None else Path(str(found)).parent
        revision = None if folder is None else folder.name
    files = [] if folder is None else sorted(file for file in folder.glob("*.safetensors") if file.name != PROBE)
    if not files:
        return {"digest": None, "revision": revision}
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_file_digest(file)}\n".encode())
    return {"digest": digest.hexdigest()[:32], "revision": revision}


def _file_digest(file: Path) -> str:
    # In the Hub's cache a file is a link to one that is named by its SHA-256.
    target = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    stat = target.stat()
    return _read_digest(target, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_digest(file: Path, size: int, written: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
