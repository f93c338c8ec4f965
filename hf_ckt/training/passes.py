# SPDX-License-Identifier: Apache-2.0
"""The backbone passes of a micro-batch: clean, noisy, teacher, reference. Each view is computed once."""

from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor
from transformers import PreTrainedModel

from ..kernels.signals import signal_parts
from ..models._upstream import install_objective_forward, keep_4bit_differentiable, load_balancing_loss
from ..models.backbone import compile_backbone, read_head, run_backbone
from ..models.batch import Batch
from ..noise.noisy_view import NoisyView, StudentViews
from ..objective.objective import Objective, Scale
from ..objective.partition import HiddenStates
from ..teachers.base import Teacher
from ..views import LinearHead, NoisyStates


class ExtraPasses(NamedTuple):
    """
    What is run beside the clean pass, and by whom; a view that no term reads is None.

    Args:
        teacher ([`~teachers.base.Teacher`], *optional*):
            Supplies the `teacher` view.
        reference ([`~teachers.base.Teacher`], *optional*):
            Supplies the `reference` view; the same object as the teacher shares its pass.
        noisy ([`~noise.noisy_view.NoisyView`], *optional*):
            Makes the `noisy` view; None in a step that goes without.
    """

    teacher: Teacher | None = None
    reference: Teacher | None = None
    noisy: NoisyView | None = None

    @property
    def log_names(self) -> list[str]:
        """All names that the passes may add to `sums`."""
        return [name for one in (self.noisy, self.teacher) if one is not None for name in one.log_names]


def step_seed(seed: int, step: int) -> int:
    """Returns the seed of a step's noise: an example has the same in whichever micro-batch, and again after a resume."""
    return (seed << 32) + step


def prepare_student(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """
    Lets a causal language model run an objective within its own forward.

    With `torch_compile` its backbone is compiled, and the objective stays outside: it is called with other numbers in
    each step (seed, weights, what counts), for which a compiled frame around it would be traced anew.

    Args:
        model (`PreTrainedModel`):
            The student, changed in place.
        accelerator (`Accelerator`):
            Knows how the run compiles.
    """
    keep_4bit_differentiable(model)
    install_objective_forward(model)
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend != DynamoBackend.NO:
        compile_backbone(model, **plugin.to_kwargs())


def run_objective(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    objective: Objective,
    extra_passes: ExtraPasses,
    batch: Batch,
    scale: Scale,
    *,
    rejected: Batch | None,
    role_masks: dict[str, Tensor],
    seed: int,
    training: bool,
) -> dict[str, Any]:
    """
    Runs the passes that the objective needs, then the objective; called within the student's own forward.

    Args:
        model (`PreTrainedModel`):
            The student's causal language model.
        inputs (`dict`):
            Its inputs, without labels.
        objective ([`~objective.objective.Objective`]), extra_passes ([`ExtraPasses`]):
            What is computed, and from which passes.
        batch ([`~models.batch.Batch`]), rejected ([`~models.batch.Batch`], *optional*):
            Kept positions of the batch and of its rejected answers.
        scale ([`~objective.objective.Scale`]):
            Progress and normalisation.
        role_masks (`dict[str, torch.Tensor]`):
            Where roles count, see [`~objective.partition.HiddenStates`].
        seed (`int`):
            Seed of the step's noise.
        training (`bool`):
            Whether the batch is trained on.

    Returns:
        `dict`: `loss`, a scalar to differentiate; `sums`, see [`~objective.objective.ObjectiveOutput`]; and `aux_loss`,
        the unweighted auxiliary loss of a mixture of experts, if the model returned its router logits.
    """
    hidden: dict[str, Tensor] = {}
    heads: dict[str, LinearHead] = {}
    fixed: dict[str, Any] = {"role_masks": role_masks}  # what both the search for noise and the objective read
    if "reference" in objective.views and extra_passes.reference is not None:
        base: Any = extra_passes.reference.signal(batch, model)
        hidden["reference"], heads["reference"] = base
    if "teacher" in objective.views and extra_passes.teacher is not None:
        shared = extra_passes.reference is extra_passes.teacher and "reference" in hidden
        signal = base if shared else extra_passes.teacher.signal(batch, model)
        fixed["teacher"] = signal_parts(signal, len(batch.kept))
        if rejected is not None:
            answers = signal_parts(extra_passes.teacher.signal(rejected, model), len(rejected.kept))
            fixed["rejected"] = rejected, answers
    if objective.reads_layers:
        inputs = {**inputs, "output_hidden_states": True}
    if "noisy" in objective.views and extra_passes.noisy is not None:

        def divergence(noisy: NoisyStates, clean: Tensor) -> Tensor:
            with read_head(model) as head:
                both = {**heads, "student": head, "noisy": head}
                states = HiddenStates({**hidden, "student": clean}, both, noisy, **fixed)
                return objective.divergence(states, batch.kept_labels)

        views = extra_passes.noisy.run(
            model, inputs, batch, seed, progress=scale.progress, training=training, divergence=divergence
        )
    else:
        outputs = run_backbone(model, inputs)
        student = batch.keep(outputs.last_hidden_state)
        views = StudentViews(student, NoisyStates.nowhere(student), outputs)
    hidden["student"] = views.student

    with read_head(model) as head:
        heads["student"] = heads["noisy"] = head
        layers = views.outputs.hidden_states if objective.reads_layers else ()
        states = HiddenStates(hidden, heads, views.noisy, layers=layers, **fixed)
        result = objective(states, batch, model, scale, training=training)
    for counting in (extra_passes.noisy, extra_passes.teacher):
        if counting is not None:
            result.sums.update(counting.take_counts(result.loss))

    # A plain dict: the wrappers around the forward look for tensors in it.
    output: dict[str, Any] = {"loss": result.loss, "sums": result.sums}
    if inputs.get("output_router_logits"):
        config = model.config.get_text_config()
        output["aux_loss"] = load_balancing_loss(views.outputs.router_logits, config, inputs.get("attention_mask"))
    return output
