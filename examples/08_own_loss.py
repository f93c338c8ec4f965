# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
A loss of your own in the trainer: the alpha-divergence from the teacher, which is the forward KL divergence where alpha goes to 1 and
the reverse one where it goes to 0.

First what every loss of the package is held to: 0 where both sides are equal, gradients that agree with finite differences.
Then two students of one teacher, a base that is told what to refuse: by `forward_kl`, and by this loss. To have it by name in
run files and on the command line too, put the class into `hf_ckt/losses/` (CONTRIBUTING.md).

    python examples/08_own_loss.py

Expected output: the two checks, and a line a step. The two losses cannot be compared; acceptance, 1 less the total variation
between student and teacher, can:

    where both sides are equal: 0e+00
    gradients agree with finite differences: yes
    step              forward_kl, loss        forward_kl, acceptance        alpha_divergence, loss  alpha_divergence, acceptance
       1                        0.1185                        0.8572                        0.1039                        0.8572
       8                        0.0382                        0.9100                        0.0378                        0.9101

Time and memory: 33 s of processor time on one core, 1.9 GB.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

import torch
from peft import LoraConfig
from torch import Tensor

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer, LineProgressCallback
from hf_ckt.checks import require_within
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_starter_set, to_prompt_completion
from hf_ckt.losses.base import Divergence
from hf_ckt.models.embedded import embedded_model, native_dtype

CONTEXT = "You are a helpful assistant. Refuse, in one sentence, whatever could hurt someone, and answer all else."


@dataclass(eq=False)
class AlphaDivergenceLoss(Divergence):
    r"""
    Pulls the student onto the teacher, between covering its mass and seeking its modes.

        loss_i = (1 - sum_v p_t(v)^alpha p_s(v)^(1 - alpha)) / (alpha (1 - alpha))        nats

    Source: Amari 1985, Differential-Geometrical Methods in Statistics.
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("alpha", self.alpha, 0, 1, "The formula divides by 0 at both.", open_low=True, open_high=True)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        """`(N, V)`, `(N, V)` log-probabilities -> `(N,)`."""
        overlap = (self.alpha * target + (1 - self.alpha) * prediction).exp().sum(-1)
        return (1 - overlap) / (self.alpha * (1 - self.alpha))


class OwnLossConfig(ContrastiveRobustConfig):
    """The package's config, but for the loss of the distillation role."""

    def build_loss(self, role: str) -> Any:
        return AlphaDivergenceLoss() if role == "distillation" else super().build_loss(role)


def check(loss: Divergence) -> None:
    """Prints whether a divergence keeps the contract."""
    torch.manual_seed(0)
    one, other = (torch.randn(3, 7, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    print(f"where both sides are equal: {loss.divergence(one, one).abs().max().item():.0e}")
    agrees = torch.autograd.gradcheck(lambda x: loss.divergence(one, x.log_softmax(-1)), other.requires_grad_())
    print(f"gradients agree with finite differences: {'yes' if agrees else 'no'}")


def train(options: argparse.Namespace, title: str, kind: type[ContrastiveRobustConfig]) -> list[dict[str, Any]]:
    """The log of a short run that learns from its teacher alone."""
    off = dict.fromkeys(("task_weight", "contrastive_weight", "consistency_weight", "regularization_weight"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        args = kind(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            distillation_weight=1.0,
            teacher_system_prompt=CONTEXT,
            gradient_checkpointing=False,
            bf16=native_dtype() == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            model_init_kwargs={"dtype": native_dtype()},
            **off,
        )
        rows = to_prompt_completion(load_starter_set("train"))
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        model = options.model or embedded_model()
        trainer = ContrastiveRobustTrainer(model, args, train_dataset=rows, peft_config=lora)
        trainer.add_callback(LineProgressCallback(title))
        trainer.train()
    return [one for one in trainer.state.log_history if "distillation_loss" in one]


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    check(AlphaDivergenceLoss())
    kinds = {"forward_kl": ContrastiveRobustConfig, "alpha_divergence": OwnLossConfig}
    logs = {name: train(options, name, kind) for name, kind in kinds.items()}
    print(
        "\n"
        + f"{'step':>4}"
        + "".join(f"{name + ', ' + what:>30}" for name in logs for what in ("loss", "acceptance"))
    )
    for steps in zip(*logs.values(), strict=True):
        cells = (f"{one[what]:>30.4f}" for one in steps for what in ("distillation_loss", "acceptance"))
        print(f"{steps[0]['step']:>4}" + "".join(cells))


if __name__ == "__main__":
    sys.exit(run_guarded("08_own_loss.py", main))
