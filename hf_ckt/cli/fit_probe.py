# SPDX-License-Identifier: Apache-2.0
"""Fit a probe on a frozen model that tells prompts to refuse from prompts to answer."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .arguments.models import require_model
from .arguments.parser import CommandParser

_DTYPES = ("auto", "bfloat16", "float16", "float32")
_VIEWS = {"clean": "clean", "typos": "typing errors"}


def run(argv: list[str]) -> int:
    """Fits the probe, writes it, and prints how well it does on the validation rows."""
    options = _parse(argv)

    from ..evaluation.measuring.backbones import Backbones
    from ..evaluation.measuring.chat_format import ChatFormat, entry_tokenizer
    from ..evaluation.measuring.models import Loading, entries, public_command, public_name
    from ..evaluation.probing.fitting import fit_probe, require_sklearn

    require_sklearn()
    entry = entries(options.model)[0][0]
    _require_own_adapter(options.output, entry.model)
    train, validation = _rows(options)
    tokenizer, source = entry_tokenizer(entry, options.trust_remote_code)
    chat = ChatFormat(tokenizer, options.system_prompt, options.system_fallback, source=public_name(source))
    quantization = "nf4" if options.load_in_4bit else "int8" if options.load_in_8bit else None
    loading = Loading(options.dtype, quantization, options.trust_remote_code)
    with Backbones(loading).active(entry) as model:
        if not options.overwrite:
            _require_no_other(options.output, model)
        probe = fit_probe(
            model,
            chat,
            train,
            validation,
            layers=options.layers,
            typos=not options.no_typos,
            batch_size=options.batch_size,
        )
    command = public_command("hf-ckt fit-probe", argv)
    probe.facts |= {"base": public_name(entry.model), "loading": loading.facts(), "command": command}
    probe.save(options.output)
    if options.json:
        print(json.dumps({"layers": probe.layers, **probe.facts}, indent=2))
        return 0
    print("\n".join(as_lines(probe.layers, probe.facts)))
    print(f"\nWritten to {options.output}: boundary_probe.safetensors, boundary_probe.json.")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="hf-ckt fit-probe",
        description=f"{__doc__} A logistic regression on the states of some of its middle layers, at the prompt's last token "
        "and in its mean; written as boundary_probe.safetensors and boundary_probe.json.",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="Hub id or folder of the base; smollm2: SmolLM2-135M-Instruct")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the probe goes; may be that of an adapter")
    add(
        "--data",
        metavar="FILE",
        help="your own rows: JSONL, CSV, TSV, Parquet or Hub id, with the columns prompt, and kind (harmful or anything else) "
        "or harmful (true or false); id, category and twin (id of a harmful row) may be missing. Default: the boundary set",
    )
    add("--validation", metavar="FILE", help="rows by which layers are chosen and odds calibrated; needed with --data")
    add(
        "--layers",
        nargs="+",
        type=int,
        metavar="N",
        help="whose states are read, counted from 1; 0 is the embeddings. Default: of four sets the best on validation",
    )
    add(
        "--no-typos",
        action="store_true",
        help="fit on the prompts as they are alone, without copies with typing errors",
    )
    add("--batch-size", type=int, default=32, metavar="N", help="prompts a pass; default: 32")
    add(
        "--dtype",
        metavar="NAME",
        help="of the weights; default: bfloat16 where the machine multiplies it, else float32",
    )
    quantized = parser.add_mutually_exclusive_group()
    quantized.add_argument("--load-in-4bit", action="store_true", help="the model in NF4, by bitsandbytes")
    quantized.add_argument("--load-in-8bit", action="store_true", help="the model in 8 bits, by bitsandbytes")
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add("--overwrite", action="store_true", help="replace a probe of another model; default: refuse")
    add("--json", action="store_true", help="print all figures as JSON in place of the table")

    from ..evaluation.measuring.chat_format import add_chat_options

    add_chat_options(parser, thinking=False)
    options = parser.parse_args(argv)

    from ..checks import require_count, require_known

    require_model("--model", options.model)
    require_count("--batch-size", options.batch_size, 1, "Of no prompt there is no state.")
    if options.dtype is not None:
        require_known("--dtype", options.dtype, _DTYPES)
    if options.data is not None and options.validation is None:
        raise ValueError(
            "--validation: is missing beside --data, so layers would be chosen, and odds calibrated, by rows that were fitted "
            "on. Give rows of your own that are not in --data."
        )
    if options.validation is not None and options.data is None:
        raise ValueError(
            "--validation: belongs to --data, which is missing, and would be ignored. Give both, or neither."
        )
    return options


def _rows(options: argparse.Namespace) -> tuple[Any, Any]:
    from ..data.boundary import load_boundary_set
    from ..data.files import load_rows
    from ..evaluation.probing.rows import probe_rows

    if options.data is None:
        train, validation = load_boundary_set("train"), load_boundary_set("validation")
        return probe_rows(train, "boundary set", "--data"), probe_rows(validation, "boundary set", "--validation")
    return (
        probe_rows(load_rows(options.data), options.data, "--data"),
        probe_rows(load_rows(options.validation), options.validation, "--validation"),
    )


def _require_own_adapter(output: Path, base: str) -> None:
    from ..evaluation.measuring.adapters import is_same_base
    from ..evaluation.measuring.models import public_name, recorded_base

    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {str(output)!r} is a file, and a probe is two files in a folder. Name a folder.")
    if not (output / "adapter_config.json").is_file():
        return
    recorded = recorded_base(str(output))
    if recorded and not is_same_base(recorded, base):
        raise ValueError(
            f"--output: the adapter in {output.name!r} was trained on {public_name(recorded)!r}, and --model is "
            f"{public_name(base)!r}: beside it a probe of that model would be read on the wrong one. Give the adapter's base as "
            "--model, or another folder."
        )


def _require_no_other(output: Path, model: Any) -> None:
    from ..models.boundary_probe import FACTS, WEIGHTS, BoundaryProbe

    if not (output / WEIGHTS).exists() and not (output / FACTS).exists():
        return
    held = "half a probe, or a damaged one"
    try:
        probe = BoundaryProbe.load(output)
        held = "a probe that is not one of --model"
        probe.require_model(model)
    except ValueError as error:
        raise ValueError(
            f"--output: {output.name!r} holds {held}, and it would be lost. Name another folder, or say --overwrite."
        ) from error


def as_lines(layers: Any, facts: dict[str, Any]) -> Iterator[str]:
    """Yields the table: how well the probe tells both sides apart on validation rows, and where it errs."""
    found = facts["validation"]
    views = {view: found[view] for view in _VIEWS}
    temperature, shift = facts["calibration"]["temperature"], facts["calibration"]["shift"]
    rows = ", ".join(f"{count} {kind}" for kind, count in found["rows"].items())
    yield f"{facts['base']}: layers {', '.join(map(str, layers))}; C {facts['C']:g}"
    yield f"the best of {len(facts['tried'])} settings on these validation rows ({rows}), so a little too good"
    yield ""
    other = "twins" if found["against"] == "twin" else "benign prompts"
    yield _line("", *_VIEWS.values())
    yield _line(f"AUROC, harmful against {other}", *(_area(one) for one in views.values()))
    if other == "twins":
        yield _line("AUROC, harmful against all benign", *(f"{one['auroc_all_benign']:.3f}" for one in views.values()))
    for kind in found["rows"]:
        counts = [one["accuracy"][kind] for one in views.values()]
        yield _line(f"right at p 0.5, {kind}", *(f"{one['right']} of {one['n']}" for one in counts))
    for name, title in (("nll", "log loss, nats"), ("calibration_error", "calibration error")):
        yield _line(title, *(f"{one[name]:.3f} (before {one[f'{name}_uncalibrated']:.3f})" for one in views.values()))
    yield f"Calibrated by temperature {temperature:.2f} and shift {shift:+.2f}."
    for view, title in _VIEWS.items():
        wrong = facts["mistakes"][view]
        yield ""
        if not wrong["by_category"]:
            yield f"No mistakes, {title}."
            continue
        yield f"Mistakes, {title}"
        for one in wrong["by_category"]:
            yield f"  {one['kind']:<9} {one['category']:<27} {one['wrong']} of {one['n']}"
        worst = [f"{one['id']} ({one['log_odds']:+.1f})" for one in wrong["worst"][:5]]
        yield f"  furthest off, by log-odds: {', '.join(worst)}"


def _line(title: str, *cells: str) -> str:
    return f"{title:<37} " + "".join(f"{cell:<26}" for cell in cells).rstrip()


def _area(view: dict[str, Any]) -> str:
    low, high = view["auroc_interval"]
    return f"{view['auroc']:.3f} [{low:.3f}, {high:.3f}]"
