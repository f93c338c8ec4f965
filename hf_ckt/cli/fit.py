# SPDX-License-Identifier: Apache-2.0
"""The longest sequence that a card trains with all terms, by calculation."""

from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..checks import require_count, require_positive
from ..fit.shapes import SHAPES
from .arguments.parser import CommandParser

_PRECISIONS = ("bf16", "int8", "nf4")
# A length at which training is of use, for the summary.
_USEFUL_TOKENS = 2048


def run(argv: list[str]) -> int:
    """Prints the table, the formula and the parts of one row; writes every row with `--json`."""
    parser = CommandParser(prog="hf-ckt fit", description=__doc__)
    parser.add_argument("--memory-gb", type=float, default=24.0, help="memory of the card, in 10^9 bytes")
    parser.add_argument("--rank", type=int, default=16, help="rank of the LoRA adapter on all linear layers")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options = parser.parse_args(argv)
    require_positive("--memory-gb", options.memory_gb, "Nothing fits into no memory.")
    require_count("--rank", options.rank, 1, "An adapter has at least one direction.")

    # After the parsing: these import torch, and a wrong option should not wait for it.
    from ..fit.memory_model import FORMULA, FitCase, longest, parts, peak_bytes
    from ..hub.provenance import machine_facts

    variants: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        for precision in _PRECISIONS:
            for recompute in (False, True):
                case = FitCase(shape, precision, options.rank, recompute)
                tokens = longest(case, options.memory_gb * 1e9)
                variants[f"{name}_{precision}{'_recomputed' if recompute else ''}"] = {
                    "model": shape.family,
                    "precision": precision,
                    "noisy_view_recompute": recompute,
                    "tokens": tokens,
                    "peak_bytes": peak_bytes(case, tokens),
                    "parts": parts(case, tokens),
                }
    print(as_text(variants, options.memory_gb, options.rank, FORMULA))
    if options.json is not None:
        case_facts = {"memory_gb": options.memory_gb, "rank": options.rank, "batch_size": 1, "formula": FORMULA}
        words = f"--memory-gb {options.memory_gb:g} --rank {options.rank} --json {options.json.name}"
        document = {
            "benchmark": "fit",
            "command": f"hf-ckt fit {words}",
            "case": case_facts,
            "facts": machine_facts(),
            "variants": variants,
            "ratios": [],
        }
        replace_json(options.json, document, indent=2)
    return 0


def as_text(variants: dict[str, Any], memory_gb: float, rank: int, formula: str) -> str:
    """Returns the table, what fits best, and one row taken apart."""
    head = f"{'':<14}" + "".join(f"{precision:>9}{'recomp.':>9}" for precision in _PRECISIONS)
    lines = [
        f"{memory_gb:g} GB, LoRA rank {rank}, gradient checkpointing, all terms, self-teacher: tokens of a row, by",
        "calculation of memory alone; 0 does not fit. recomp.: noisy_view_recompute=True.",
        "",
        head,
    ]
    for name, shape in SHAPES.items():
        cells = [
            variants[f"{name}_{precision}{suffix}"]["tokens"]
            for precision in _PRECISIONS
            for suffix in ("", "_recomputed")
        ]
        lines.append(f"{shape.family:<14}" + "".join(f"{cell:>9,}" for cell in cells))
    fitting = [one for one in variants.values() if one["tokens"] >= _USEFUL_TOKENS]
    if fitting:
        # Shapes ascend; of the largest that fits, the setting with most room.
        best = max((one for one in fitting if one["model"] == fitting[-1]["model"]), key=lambda one: one["tokens"])
        recomputed = ", noisy view recomputed" if best["noisy_view_recompute"] else ""
        lines += ["", f"Largest with {_USEFUL_TOKENS:,} tokens: {best['model']}, {best['precision']}{recomputed}."]
        lines += [f"Its {best['tokens']:,} tokens take, in GB (of the last two only the larger counts):", ""]
        lines += [f"  {part:<26}{size / 1e9:>7.2f}" for part, size in best["parts"].items()]
        lines += [f"  {'peak':<26}{best['peak_bytes'] / 1e9:>7.2f}"]
    others = "A teacher that is a model of its own adds its weights, and each further one its own; an adapter only its factors."
    return "\n".join([*lines, "", others, "", formula])
