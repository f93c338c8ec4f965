# SPDX-License-Identifier: Apache-2.0
"""
How much of the boundary does a frozen base know, by how many labelled prompts it is asked with?

A logistic regression on the states of a few middle layers, as `hf-ckt fit-probe` fits it, on parts of the boundary set (groups
of twins whole) and on none, one or more copies of each prompt with typing errors. Scored by the area under the ROC curve,
harmful validation prompts against their twins, clean and with several draws of typing errors. What stops growing with both
is what the base does not know; the rest is what its rows did not say. The held-out prompts are not read.

    python examples/boundary/boundary_probe_curve.py --output-dir out/boundary_probe_curve

States are read once and kept; a fit that is done is not made again.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer

from hf_ckt.checkpoints import replace_file, replace_json
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.data import load_boundary_set
from hf_ckt.data.corrupt import prompt_noise
from hf_ckt.demo.recipe import DTYPE, LIBRARIES, SYSTEM_PROMPT, TYPOS, Recipe, digest, kept
from hf_ckt.demo.rows import labelled_rows
from hf_ckt.demo.training import PROBE_STRENGTH, frozen_base
from hf_ckt.evaluation.measuring.chat_format import chat_format
from hf_ckt.evaluation.probing.fitting import candidate_layers, fit_logistic
from hf_ckt.evaluation.probing.quality import compared
from hf_ckt.evaluation.probing.rows import ProbeRow, probe_rows
from hf_ckt.evaluation.probing.states import prompt_ids, read_states
from hf_ckt.evaluation.report.numbers import with_interval
from hf_ckt.evaluation.scoring.answers import Answers, Separation
from hf_ckt.evaluation.scoring.rates import Rates
from hf_ckt.hub.provenance import library_versions, short_device_name
from hf_ckt.models.embedded import HUB_ID, embedded_model, weights_origin

VALIDATION_DRAWS = 4  # of the typing errors of each validation prompt
UNSEEN = 10_000  # first seed of theirs: training copies have those below


def parse_options() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/boundary_probe_curve"))
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[250, 500, 1000, 2000, 4048], help="of the boundary set"
    )
    parser.add_argument("--copies", nargs="+", type=int, default=[0, 1, 2], help="with typing errors, of each row")
    parser.add_argument("--layers", nargs="+", type=int, default=None, help="default: the lowest that fit-probe tries")
    return parser.parse_args()


def with_errors(rows: Sequence[ProbeRow], seed: int) -> list[str]:
    return [TYPOS.apply(row.prompt, prompt_noise(row.prompt, seed)) for row in rows]


def states_of(
    options: argparse.Namespace,
    model: str,
    layers: Sequence[int],
    train: Sequence[ProbeRow],
    validation: Sequence[ProbeRow],
) -> dict[str, np.ndarray]:
    """Features of each view of the rows, `(n, L * 2 D)`: `train/0` and `validation/0` clean, then a draw of typing errors each."""
    known = digest(options.model or HUB_ID, DTYPE, layers, max(options.copies), len(train), VALIDATION_DRAWS)
    file = options.output_dir / f"states-{known}.npz"
    if not file.exists():
        views = {"train/0": [row.prompt for row in train], "validation/0": [row.prompt for row in validation]}
        views |= {f"train/{draw + 1}": with_errors(train, draw) for draw in range(max(options.copies))}
        for draw in range(VALIDATION_DRAWS):
            views[f"validation/{draw + 1}"] = with_errors(validation, UNSEEN + draw)
        chat = chat_format(AutoTokenizer.from_pretrained(model), SYSTEM_PROMPT)
        prompts = [prompt for view in views.values() for prompt in view]
        states = read_states(frozen_base(model), prompt_ids(chat, prompts), layers)
        parts = np.split(states.reshape(len(states), -1), np.cumsum([len(view) for view in views.values()])[:-1])
        arrays: dict[str, Any] = dict(zip(views, parts, strict=True))
        replace_file(file, lambda aside: write_arrays(aside, arrays))
    with np.load(file) as found:
        return {name: found[name] for name in found.files}


def write_arrays(file: str, arrays: dict[str, Any]) -> None:
    with Path(file).open("wb") as stream:  # to a name of another ending numpy would add its own
        np.savez(stream, **arrays)


def areas(scores: dict[str, np.ndarray], rows: Sequence[ProbeRow]) -> dict[str, dict[str, float]]:
    """The area of clean prompts and of misspelt ones, of which each draw is told apart alone, with 95 % intervals."""
    harmful, used = np.array([row.harmful for row in rows]), compared(rows)
    groups = np.array([row.cluster for row in rows], dtype=object)
    sides = (used & harmful, used & ~harmful)
    found = {}
    for view, draws in (("clean", [0]), ("typos", range(1, VALIDATION_DRAWS + 1))):
        several = [
            Answers(
                [float(value) for draw in draws for value in scores[f"validation/{draw}"][side]],
                [group for _ in draws for group in groups[side]],
            )
            for side in sides
        ]
        runs = [[draw for draw in draws for _ in range(int(side.sum()))] for side in sides]
        rates = Rates({"auroc": Separation(*several, *runs)})
        low, high = rates.interval(rates.draws()["auroc"])
        found[view] = {"value": rates.values["auroc"], "low": float(low), "high": float(high)}
    return found


def fitted(
    count: int, copies: int, states: dict[str, np.ndarray], train: Sequence[ProbeRow], validation: Sequence[ProbeRow]
) -> dict[str, Any]:
    """What a probe of so many rows with so many misspelt copies of each does."""
    chosen = {row["id"] for row in labelled_rows(Recipe(rows=count))}
    at = np.array([number for number, row in enumerate(train) if row.id in chosen])
    features = np.concatenate([states[f"train/{draw}"][at] for draw in range(copies + 1)])
    sides = np.array([train[number].harmful for number in at] * (copies + 1))
    fit = fit_logistic(features.astype(np.float32), sides, PROBE_STRENGTH)
    scores = {name: fit.scores(view) for name, view in states.items() if name.startswith("validation/")}
    return {"rows": len(at), "copies": copies, **areas(scores, validation)}


def show(console: Console, results: dict[str, Any]) -> None:
    table = Table(title="A probe of the base on validation prompts: AUROC, harmful against twins")
    for column in ("labelled rows", "misspelt copies", "clean", "typing errors"):
        table.add_column(column, justify="right")
    for one in results["fits"]:
        cells = (with_interval(area, 3) for area in (one["clean"], one["typos"]))
        table.add_row(str(one["rows"]), str(one["copies"]), *cells)
    console.print(table)


def plot(results: dict[str, Any], file: Path) -> None:
    """The area over the number of rows, a line for each number of misspelt copies, clean and with typing errors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, (view, title) in zip(axes, (("clean", "as they are"), ("typos", "with typing errors")), strict=True):
        for copies in sorted({one["copies"] for one in results["fits"]}):
            mine = [one for one in results["fits"] if one["copies"] == copies]
            rows, found = [one["rows"] for one in mine], [one[view] for one in mine]
            (line,) = axis.plot(rows, [one["value"] for one in found], "o-", ms=4, label=str(copies))
            low, high = ([one[end] for one in found] for end in ("low", "high"))
            axis.fill_between(rows, low, high, color=line.get_color(), alpha=0.08)
        axis.set_xscale("log")
        axis.set_xticks(rows, list(map(str, rows)))
        axis.minorticks_off()
        axis.set_title(f"validation prompts {title}", fontsize=10)
        axis.set_xlabel("labelled rows")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("AUROC of the base's probe")
    axes[1].legend(title="misspelt copies of each", fontsize=8, title_fontsize=8)
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def main() -> None:
    options = parse_options()
    console, model = Console(width=118), options.model or embedded_model()
    labelled = Dataset.from_list(labelled_rows(Recipe(rows=max(options.rows))))
    train, validation = (
        probe_rows(part, "boundary set", "data") for part in (labelled, load_boundary_set("validation"))
    )
    depth = AutoConfig.from_pretrained(model).get_text_config().num_hidden_layers
    layers = options.layers or [*candidate_layers(depth)[0]]
    known = digest(options.model or HUB_ID, DTYPE, layers, VALIDATION_DRAWS, PROBE_STRENGTH)
    files = {
        (count, copies): options.output_dir / "fits" / f"{count}-{copies}-{known}.json"
        for count in options.rows
        for copies in options.copies
    }
    done = all(file.exists() for file in files.values())
    states = {} if done else states_of(options, model, layers, train, validation)
    fits = []
    for (count, copies), file in files.items():
        fits.append(kept(file, partial(fitted, count, copies, states, train, validation)))
        console.print(f"{count} rows, {copies} misspelt copies of each: AUROC {fits[-1]['clean']['value']:.3f}")
    results = {
        "command": "python examples/boundary/boundary_probe_curve.py",
        "base_model": options.model or HUB_ID,
        "base_weights": weights_origin(model),
        "device": short_device_name(),
        "dtype": DTYPE,
        "versions": library_versions(*LIBRARIES),
        "layers": layers,
        "strength": PROBE_STRENGTH,
        "validation_draws": VALIDATION_DRAWS,
        "fits": fits,
    }
    replace_json(options.output_dir / "results.json", results)
    plot(results, options.output_dir / "curve.png")
    show(console, results)


if __name__ == "__main__":
    main()
