# SPDX-License-Identifier: Apache-2.0
"""
How the terms of a training pull at its adapter: the norm of each term's weighted gradient, and the cosine between every two.

    python examples/studies/gradients.py --run out/studies/main/cells/NAME.yaml --adapter out/studies/main/adapters/NAME

Two terms with a cosine below 0 undo each other's work, and one whose norm is far above the others' decides alone. A batch's gradients
are compared with each other, and so are the means over all batches, in which what differs from batch to batch cancels out.
"""

import argparse
import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import load_peft_weights, set_peft_model_state_dict
from tqdm import tqdm

from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.train import with_trainer
from hf_ckt.evaluation.report.tables import table
from hf_ckt.hub.provenance import library_versions
from hf_ckt.objective.schedules import Schedule

Gradients = dict[str, torch.Tensor]


def gradients_of(trainer: Any, inputs: Mapping[str, Any]) -> Gradients:
    """By role, the gradient of its weighted term for a batch, `(P,)` in float32 over all trained parameters."""
    terms, contrast = trainer.objective.terms, trainer.objective.contrast
    trained = [one for one in trainer.model.parameters() if one.requires_grad]
    schedules = {role: term.schedule for role, term in terms.items()}
    queue = None if contrast is None else contrast.queue
    found = {}
    for role in terms:
        for other, term in terms.items():
            term.schedule = schedules[other] if other == role else Schedule(0.0)
        if contrast is not None:
            contrast.queue = copy.deepcopy(queue)  # each pass would put the batch into it once more
        loss = trainer.compute_loss(trainer.model, dict(inputs))
        each = torch.autograd.grad(loss, trained, allow_unused=True)
        flat = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(trained, each, strict=True)]
        found[role] = torch.cat([grad.float().flatten() for grad in flat])
    for role, term in terms.items():
        term.schedule = schedules[role]
    return found


def summary(batches: Sequence[Gradients]) -> dict[str, Any]:
    """Norms and cosines, each the mean over batches and that of the mean gradient."""
    roles = [*batches[0]]
    mean = {role: torch.stack([one[role] for one in batches]).mean(0) for role in roles}
    pairs = [*itertools.combinations(roles, 2)]
    return {
        "batches": len(batches),
        "norm": {role: fmean(float(one[role].norm()) for one in batches) for role in roles},
        "norm_of_mean": {role: float(mean[role].norm()) for role in roles},
        "cosine": {f"{a}, {b}": fmean(cosine(one[a], one[b]) for one in batches) for a, b in pairs},
        "cosine_of_mean": {f"{a}, {b}": cosine(mean[a], mean[b]) for a, b in pairs},
    }


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """0 where one of the two is 0."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def show(found: Mapping[str, Any]) -> str:
    """The summary as a table."""
    rows: list[Sequence[Any]] = [["", "mean over batches", "of the mean gradient"]]
    for kind in ("norm", "cosine"):
        for name, value in found[kind].items():
            rows.append([f"{kind}: {name}", f"{value:.3g}", f"{found[f'{kind}_of_mean'][name]:.3g}"])
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="YAML file of `hf-ckt train`")
    parser.add_argument(
        "--adapter", type=Path, help="whose weights are read; default: those that a training begins with"
    )
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--output", type=Path, help="a JSON file, in place of a table")
    options = parser.parse_args()

    def measure(trainer: Any) -> None:
        if trainer.objective is None:
            raise SystemExit(
                "--run: nothing but the task is on, so there are no terms to compare. Take a run with several."
            )
        if options.adapter is not None:
            set_peft_model_state_dict(trainer.model, load_peft_weights(str(options.adapter), device="cpu"))
        trainer.model.train()
        batches = itertools.islice(trainer.get_train_dataloader(), options.batches)
        found = summary(
            [
                gradients_of(trainer, trainer._prepare_inputs(inputs))
                for inputs in tqdm(batches, total=options.batches, unit="batch")
            ]
        )
        if options.output is None:
            print(show(found))
        else:
            replace_json(
                options.output, {**found, "versions": library_versions("torch", "transformers", "trl", "peft")}
            )

    with_trainer(["--config", str(options.run)], measure)


if __name__ == "__main__":
    main()
