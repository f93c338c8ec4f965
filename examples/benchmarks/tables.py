# SPDX-License-Identifier: Apache-2.0
"""Results files as tables, for the terminal and for the page; every number comes from the file."""

from typing import Any

from cases import OBJECTIVE_VARIANTS
from hf_ckt.evaluation.comparisons.tables import comparison_rows

# Key of a results file -> the word for it.
QUANTITIES = {
    "seconds": "time",
    "peak_extra_bytes": "extra memory",
    "peak_bytes": "peak memory",
    "relative_seconds": "step time",
    "relative_peak": "peak memory",
}
_STEP_COLUMNS = {
    "tokens/s": ("tokens_per_second", "{:,.0f}"),
    "time / sft": ("relative_seconds", "{:.2f}"),
    "predicted": ("predicted_ratio", "{:.2f}"),
    "memory / sft": ("relative_peak", "{:.2f}"),
}
AXIS_NAMES = {"tokens": "tokens N", "hidden": "hidden width D", "vocab": "vocabulary V"}
Rows = list[list[str]]


def as_text(rows: Rows) -> str:
    """Returns rows, the first of them the header, in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_markdown(rows: Rows) -> str:
    """Returns rows, the first of them the header, as a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def variant_rows(document: dict[str, Any]) -> Rows:
    """Returns a row a variant: its time, its memory, and what else this kind of benchmark knows of it."""
    step = document["benchmark"] == "step"
    memory = "peak_bytes" if step else "peak_extra_bytes"
    more = _STEP_COLUMNS if step else {}
    rows = [["variant", "median s", "quartiles", f"{QUANTITIES[memory]}, MB", *more, *["what it is"] * (not step)]]
    for name, facts in document["variants"].items():
        seconds = facts.get("seconds")
        if seconds is None:
            cells = [f"not run: {facts.get('skipped', 'no reason recorded')}", "", "", *[""] * len(more)]
        else:
            cells = [_seconds(seconds["median"]), f"{_seconds(seconds['q1'])} - {_seconds(seconds['q3'])}"]
            cells += [f"{facts[memory] / 1e6:,.0f}"]
            cells += [form.format(facts[key]) if facts.get(key) is not None else "" for key, form in more.values()]
        rows.append([name, *cells, *[OBJECTIVE_VARIANTS.get(name, "")] * (not step)])
    return rows


def ratio_rows(document: dict[str, Any]) -> Rows:
    """Returns a row a ratio: of what to what, its value, the target, and whether it is met."""
    rows = [["ratio", "of", "is", "target", ""]]
    for row in document["ratios"]:
        target = f"at most {row['target']:.2f}" if row["target"] is not None else ""
        if row.get("stretch") is not None:
            target += f" (stretch {row['stretch']:.2f})"
        value = f"{row['value']:.3f}" if row["value"] is not None else "not measured"
        rows.append([f"{row['of']} / {row['to']}", QUANTITIES[row["quantity"]], value, target, verdict(row)])
    return rows


def floor_sentence(document: dict[str, Any]) -> str | None:
    """Returns what share of each peer's time the bare products alone take: what no method on such tiles gets below."""
    seconds = {name: facts["seconds"]["median"] for name, facts in document["variants"].items() if "seconds" in facts}
    peers = [name for name in ("dense", "trl", "liger") if name in seconds]
    if "floor" not in seconds or not peers:
        return None
    shares = ", ".join(f"{seconds['floor'] / seconds[name]:.2f} of {name}'s" for name in peers)
    return f"The bare products of `floor` alone take {shares} time."


def verdict(row: dict[str, Any]) -> str:
    """Returns `met`, `missed`, `met, stretch too`, or nothing where there is no target or no value."""
    if row["value"] is None or row["target"] is None:
        return ""
    if row["value"] > row["target"]:
        return "missed"
    stretch = row.get("stretch")
    return "met, stretch too" if stretch is not None and row["value"] <= stretch else "met"


def growth_rows(document: dict[str, Any]) -> Rows:
    """Returns a row for each of N, D and V and each variant: from where to where, and the fitted exponents."""
    rows = [["grows with", "from", "to", "variant", "time exponent", "extra memory exponent"]]
    for axis, measured in document["growth"].items():
        sizes = measured["sizes"]
        for variant in (name for name in measured if name != "sizes"):
            exponents = measured[variant]["exponents"]
            cells = [_exponent(exponents[quantity]) for quantity in ("seconds", "peak_extra_bytes")]
            rows.append([AXIS_NAMES[axis], f"{min(sizes):,}", f"{max(sizes):,}", variant, *cells])
    return rows


def fit_rows(document: dict[str, Any]) -> Rows:
    """Returns a row a model: the longest row of tokens that fits, for each precision."""
    variants = document["variants"].values()
    settings = list(dict.fromkeys((one["precision"], one["noisy_view_recompute"]) for one in variants))
    rows = [["model", *(f"{precision}{', recomputed' if recompute else ''}" for precision, recompute in settings)]]
    for model in dict.fromkeys(one["model"] for one in variants):
        tokens = {(v["precision"], v["noisy_view_recompute"]): v["tokens"] for v in variants if v["model"] == model}
        rows.append([model, *(f"{tokens[one]:,}" if tokens.get(one) else "does not fit" for one in settings)])
    return rows


def fit_check_rows(document: dict[str, Any]) -> Rows:
    """Returns a row a model: predicted and measured tokens, and the allocator's peak beside the formula's."""
    rows = [["model", "predicted", "measured", "ratio", "did not fit", "peak, GB", "by the formula, GB"]]
    for name, one in document["variants"].items():
        peaks = [f"{one[key] / 1e9:.2f}" if one[key] else "" for key in ("peak_bytes", "predicted_peak_bytes")]
        fails = f"{one['fails_tokens']:,}" if one["fails_tokens"] else "none tried"
        tokens = [f"{one[key]:,}" for key in ("predicted_tokens", "measured_tokens")]
        rows.append([name, *tokens, f"{one['ratio']:.3f}", fails, *peaks])
    return rows


def tests_rows(document: dict[str, Any]) -> Rows:
    """Returns one row: how many tests passed, failed and were skipped, those that failed, and whether some were left."""
    counts = document["variants"]["tests"]
    failed = ", ".join(counts["failing"]) or "none"
    failed += "" if counts["complete"] else "; stopped before its end"
    return [
        ["passed", "failed", "skipped", "seconds", "failing"],
        [*(f"{counts[key]}" for key in ("passed", "failed", "skipped")), f"{counts['seconds']:.0f}", failed],
    ]


def demo_rows(document: dict[str, Any]) -> Rows:
    """Returns the demo's own table: a row a score, a column a model."""
    rows = comparison_rows(document["quickstart"])
    return [[*rows[0]], *([*row.values()] for row in rows)]


def profile_tables(document: dict[str, Any], count: int = 10) -> list[Rows]:
    """Returns phases, the longest kernels, and where the host waits."""
    measured = next(iter(document["variants"].values()))
    phases = [["phase", "ms", "share"]]
    phases += [
        [name, f"{1e3 * seconds:.1f}", f"{seconds / measured['seconds']:.0%}"]
        for name, seconds in measured["phases"].items()
    ]
    kernels = [[f"longest {measured['kernel_kind']}s", "calls", "ms", "share"]]
    kernels += [
        [f"`{row['name'][:80].replace('|', ' ')}`", f"{row['calls']:,}", f"{1e3 * row['seconds']:.1f}"]
        + [f"{row['share']:.1%}"]
        for row in measured["kernels"][:count]
    ]
    waits = [["the host waits in", "times"]]
    waits += [[f"`{one['place']}`", f"{one['count']:,}"] for one in measured["wait_places"][:count]]
    return [phases, kernels, waits]


def losing_rows(documents: dict[str, dict[str, Any]]) -> Rows:
    """
    Returns a row for each ratio in which hf_ckt is the worse of two peers, or misses its target.

    The floor is no peer: it computes nothing of use.

    Args:
        documents (`dict[str, dict]`):
            Results by name.
    """
    rows = [["case", "ratio", "of", "is", "target"]]
    for name, document in documents.items():
        for row in document["ratios"]:
            if not row["of"].startswith("hf_ckt") or row["value"] is None:
                continue
            if (row["value"] > 1 and row["to"] != "floor") or verdict(row) == "missed":
                target = f"at most {row['target']:.2f}, {verdict(row)}" if row["target"] is not None else ""
                cells = [f"{row['of']} / {row['to']}", QUANTITIES[row["quantity"]], f"{row['value']:.3f}", target]
                rows.append([name, *cells])
    return rows


def facts_line(document: dict[str, Any], source: str) -> str:
    """Returns the sentence that says how a table was measured."""
    facts = document["facts"]
    case = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in document["case"].items() if value is not None
    )
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"`{document['command']}`: {case}. On {facts['device']}, {facts['date']}, commit {facts['commit']}; {versions}. "
        f"From `{source}`."
    )


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _exponent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
