# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of whole training steps, against SFTTrainer and GKDTrainer."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import (
    BASELINE,
    PRECISIONS,
    STEP_DATA,
    STEP_TEACHERS,
    STEP_VARIANTS,
    StepCase,
    default_variants,
    predicted_ratio,
    step_targets,
)
from hf_ckt.checks import require_count, require_known
from hf_ckt.cli.main import run_guarded
from hf_ckt.fit.shapes import SHAPES


def run(argv: list[str]) -> int:
    """Measures, writes the results file after each group, and prints a table; 1 when a variant failed."""
    options = _parser().parse_args(argv)
    case = case_of(options)
    names = _names(options.variants or default_variants(case.data))
    for option in ("warmup", "repeats", "group"):
        require_count(f"--{option}", getattr(options, option), 1, "Nothing would be measured.")

    # After the parsing: these import torch, and a wrong option should not wait for it.
    import torch

    from harness import machine_facts
    from step_group import measure_group
    from tables import as_text, ratio_rows, variant_rows

    settings = {"warmup": options.warmup, "repeats": options.repeats, "compile": options.compile}
    described = {**asdict(case), **settings}
    path = model_path(case)
    backbone, head = _parameter_counts(case, path)
    described |= {"backbone_parameters": backbone, "head_parameters": head}
    variants = _previous(options.json, described, machine_facts(), options.resume)
    missing = [name for name in names if name not in variants]
    groups = [missing[i : i + options.group] for i in range(0, len(missing), options.group)]
    if not groups and BASELINE not in variants:
        groups = [[]]
    document = _document(argv, case, described, variants)
    with tempfile.TemporaryDirectory(prefix="hf_ckt_bench_") as folder:
        for number, group in enumerate(groups):
            _say(f"group {number + 1} of {len(groups)}: {', '.join([BASELINE, *group])}")
            jobs = {
                name: {
                    "variant": name,
                    "case": asdict(case),
                    "path": path,
                    "steps": options.warmup + options.repeats,
                    "warmup": options.warmup,
                    "folder": str(Path(folder) / name),
                    "compile": options.compile,
                }
                for name in (BASELINE, *group)
            }
            measured, failed = measure_group(
                jobs,
                warmup=options.warmup,
                repeats=options.repeats,
                precision=case.precision,
                folder=Path(folder),
                say=_say,
                load_together=torch.cuda.is_available(),
            )
            _merge(variants, measured)
            variants.update({name: {"skipped": message} for name, message in failed.items()})
            for name in measured:
                variants[name]["predicted_ratio"] = predicted_ratio(
                    name, backbone, head, case.gradient_checkpointing, case.data
                )
            document = _document(argv, case, described, variants)
            _write(options.json, document)
    print(as_text(variant_rows(document)), as_text(ratio_rows(document)), sep="\n\n")
    return 1 if any("skipped" in one for one in variants.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_case_options(parser)
    parser.add_argument(
        "--variants",
        nargs="+",
        default=None,
        metavar="NAME",
        help=f"of {', '.join(STEP_VARIANTS)}; by default those hf_ckt_noise_* on prompts, and the others on tokens",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="objective_compile of the hf_ckt variants; left out, the configuration decides",
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are")
    parser.add_argument(
        "--group", type=int, default=4, help=f"variants loaded at a time beside {BASELINE}: less memory, more loading"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="measure only what FILE lacks, also when the working tree had changes; without changes that is the rule",
    )
    return parser


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is trained; [`case_of`] reads them."""
    default = StepCase()
    parser.add_argument(
        "--model",
        default=default.model,
        help=f"smollm2, a folder, a Hub id, or random weights of a shape: {', '.join(f'random-{n}' for n in SHAPES)}",
    )
    parser.add_argument("--layers", type=int, default=None, help="of random-*: as many layers instead of its own")
    parser.add_argument("--shrink", type=int, default=1, help="of random-*: its widths and vocabulary divided by this")
    parser.add_argument("--batch-size", type=int, default=default.batch_size, help="rows of a batch")
    parser.add_argument("--length", type=int, default=default.length, help="tokens of a row")
    parser.add_argument("--precision", default=default.precision, help=f"one of {', '.join(PRECISIONS)}")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="keep only the layers' inputs")
    parser.add_argument(
        "--teacher", default=default.teacher, help="of the hf_ckt variants: self, or model for a second copy"
    )
    parser.add_argument(
        "--data", default=default.data, help="tokens: all count; prompts: words, for perturbations of text and ids"
    )


def case_of(options: argparse.Namespace) -> StepCase:
    """Returns the case that the options name; raises ValueError where there is none."""
    require_known("--precision", options.precision, PRECISIONS)
    require_known("--teacher", options.teacher, STEP_TEACHERS)
    require_known("--data", options.data, STEP_DATA)
    for option in ("batch_size", "length", "shrink"):
        require_count(f"--{option.replace('_', '-')}", getattr(options, option), 1, "A step would have no tokens.")
    is_random = options.model.startswith("random-")
    if is_random and options.data == "prompts":
        raise ValueError("--data prompts: needs a real tokenizer, and random-* models have none. Name another model.")
    if is_random:
        require_known("--model", options.model, [f"random-{name}" for name in SHAPES])
    elif options.layers is not None or options.shrink != 1:
        raise ValueError("--layers, --shrink: only of random-* models; others have the sizes they were trained with.")
    return StepCase(
        options.model,
        options.batch_size,
        options.length,
        options.precision,
        options.gradient_checkpointing,
        options.teacher,
        options.layers,
        options.shrink,
        options.data,
    )


def _names(asked: list[str]) -> list[str]:
    for name in asked:
        require_known("--variants", name, STEP_VARIANTS)
    # The order of the table, in which those that are compared with each other stand together.
    return [name for name in STEP_VARIANTS if name in asked and name != BASELINE]


def model_path(case: StepCase) -> str | None:
    """Returns folder or Hub id of the case's model; None for random weights."""
    if case.model.startswith("random-"):
        return None
    if case.model == "smollm2":
        from hf_ckt.models.embedded import embedded_model

        return embedded_model()
    return case.model


def _parameter_counts(case: StepCase, path: str | None) -> tuple[int, int]:
    """Parameters of the linear layers below the head, and of the head, counted without loading a weight."""
    if path is None:
        shape = SHAPES[case.model.removeprefix("random-")].reduced(case.layers, case.shrink)
        return shape.linear_parameters, shape.head_parameters
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return sum(module.weight.numel() for module in linear), head.weight.numel()


def _previous(path: Path | None, case: dict[str, Any], facts: dict[str, Any], resume: bool) -> dict[str, Any]:
    """What a results file already holds of this case at this commit, on this machine with these versions."""
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    before = document.get("facts", {})
    same = document.get("case") == case and {**before, "date": None} == {**facts, "date": None}
    if resume and not same:
        raise ValueError(
            f"--resume: {path} holds another case, commit or machine, and ratios across them would mean nothing. Name "
            "another file, or leave --resume out to measure anew."
        )
    clean = facts["commit"] is not None and not facts["commit"].endswith("-dirty")
    if not same or not (resume or clean):
        return {}
    measured = {name: one for name, one in document["variants"].items() if "skipped" not in one}
    _say(f"{path} holds {', '.join(measured)} already")
    return measured


def _merge(variants: dict[str, Any], measured: dict[str, Any]) -> None:
    """Adds a group's measures. The baseline runs in every group: its timings are pooled, its highest peak kept."""
    from harness import summary

    old = variants.get(BASELINE)
    variants.update(measured)
    if old is not None:
        new = variants[BASELINE]
        new["seconds"] = summary(old["seconds"]["all"] + new["seconds"]["all"])
        new["tokens_per_second"] = new["kept_tokens"] / new["seconds"]["median"]
        new["baseline_seconds"] = new["seconds"]["median"]
        new["peak_bytes"] = max(old["peak_bytes"], new["peak_bytes"])


def _document(argv: list[str], case: StepCase, described: dict[str, Any], variants: dict[str, Any]) -> dict[str, Any]:
    from harness import command_line, ratio, results_document

    # Compared through the baseline of each one's own group: a machine drifts between groups.
    aimed = step_targets(case)
    others = [
        name for name in STEP_VARIANTS if name in variants and name not in {BASELINE, *(row[0] for row in aimed)}
    ]
    ratios = [
        ratio(variants, of, to, quantity, target)
        for of, to, time, memory in [*aimed, *((name, BASELINE, None, None) for name in others)]
        for quantity, target in (("relative_seconds", time), ("relative_peak", memory))
    ]
    ordered = {name: variants[name] for name in STEP_VARIANTS if name in variants}
    return results_document("step", command_line("step.py", argv), described, ordered, ratios)


def _write(path: Path | None, document: dict[str, Any]) -> None:
    from harness import write_results

    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_results(path, document)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_guarded("step.py", lambda: run(sys.argv[1:])))
