# SPDX-License-Identifier: Apache-2.0
"""The one place that weighs, counts and normalises: every number is put together again by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_ckt.discovery import load_part, part_names
from hf_ckt.kernels.chunked_linear import run_tiles
from hf_ckt.kernels.signals import TeacherSignal, signal_parts
from hf_ckt.losses.base import ParameterLoss
from hf_ckt.losses.consistency_kl import ConsistencyKLLoss
from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.losses.info_nce import InfoNCELoss
from hf_ckt.losses.nll import NLLLoss
from hf_ckt.models.batch import Batch
from hf_ckt.objective.candidates import Contrast, TeacherQueue
from hf_ckt.objective.objective import ROLES, Objective, ObjectiveOutput, Scale, Term
from hf_ckt.objective.partition import HiddenStates, Partition
from hf_ckt.objective.schedules import Schedule
from hf_ckt.views import LinearHead, NoisyStates


class SquareLoss(ParameterLoss):
    """A penalty whose value is known."""

    def penalty(self, model: nn.Module) -> Tensor:
        return model.weight.square().sum()


WEIGHTS = {"task": 0.7, "distillation": 1.5, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01}
LOSSES = {
    "task": NLLLoss(),
    "distillation": ForwardKLLoss(),
    "contrastive": InfoNCELoss(temperature=0.5, false_negative_threshold=1),
    "consistency": ConsistencyKLLoss(),
    "regularization": SquareLoss(),
}


def make_objective(*roles: str, queue: int = 0, **schedules: Schedule) -> Objective:
    terms = {role: Term(LOSSES[role], schedules.get(role, Schedule(WEIGHTS[role]))) for role in roles or ROLES}
    contrast = Contrast("token", 100, TeacherQueue(queue)) if "contrastive" in terms else None
    return Objective(terms, contrast=contrast, chunk_size=2)


class Setting:
    """A batch of two rows, five kept tokens, and the states of all views."""

    def __init__(self, *, masked: bool = False):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        ids = torch.randint(0, 9, (2, 4), generator=generator)
        labels = ids.clone()
        labels[0, :2] = -100
        if masked:
            labels[:] = -100
        self.batch = Batch({"input_ids": ids}, labels)
        count = len(self.batch.kept)
        self.student, self.noisy = draw(count, 6).requires_grad_(), draw(count, 6).requires_grad_()
        self.teacher, self.head, self.teacher_head = draw(count, 4), LinearHead(draw(9, 6)), LinearHead(draw(9, 4))
        self.model = nn.Linear(3, 2, bias=False).double()

    def __call__(self, objective: Objective, scale: Scale, training: bool = True) -> ObjectiveOutput:
        states = self.states(NoisyStates.everywhere(self.noisy))
        return objective(states, self.batch, self.model, scale, training=training)

    def states(self, noisy: NoisyStates, student: Tensor | None = None) -> HiddenStates:
        student = self.student if student is None else student
        heads = {"student": self.head, "noisy": self.head}
        teacher = signal_parts(TeacherSignal(self.teacher, self.teacher_head), len(self.teacher))
        return HiddenStates({"student": student}, heads, noisy, teacher)

    def terms(self) -> dict[str, Tensor]:
        """Sums over tokens, and the values of the terms that are means, in plain PyTorch."""
        clean, noisy = self.student @ self.head.weight.t(), self.noisy @ self.head.weight.t()
        teacher = self.teacher @ self.teacher_head.weight.t()
        cosines = F.cosine_similarity(self._centred(clean)[:, None], self._centred(teacher)[None], dim=-1)
        labels = self.batch.labels[:, 1:][self.batch.labels[:, 1:] != -100]
        return {
            "task": F.cross_entropy(clean, labels, reduction="sum"),
            "distillation": F.kl_div(clean.log_softmax(-1), teacher.softmax(-1), reduction="sum"),
            "consistency": F.kl_div(noisy.log_softmax(-1), clean.softmax(-1).detach(), reduction="sum"),
            "contrastive": F.cross_entropy(cosines / 0.5, torch.arange(len(labels))),
            "regularization": self.model.weight.square().sum(),
        }

    @staticmethod
    def _centred(logits: Tensor) -> Tensor:
        logits = logits - logits.mean(0)
        return logits - logits.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("scale", "divisor", "factor", "parts"),
    [
        (Scale(0.0), 5, 1, 1),
        (Scale(0.0, num_items=40), 40, 1, 1),
        (Scale(0.0, num_items=torch.tensor(40)), 40, 1, 1),
        (Scale(0.0, num_items=40, processes=4), 40, 4, 1),
        (Scale(0.0, num_items=40, processes=4, micro_batches=8), 40, 4, 8),
    ],
)
def test_loss_is_the_weighted_sum_of_its_terms(scale, divisor, factor, parts):
    """A factor that reaches one kind of term too many changes the balance with the number of GPUs."""
    setting = Setting()
    output, terms = setting(make_objective(), scale), setting.terms()
    assert len(setting.batch.kept) == 5
    sums = sum(WEIGHTS[role] * terms[role] for role in ("task", "distillation", "consistency"))
    means = sum(WEIGHTS[role] * terms[role] for role in ("contrastive", "regularization"))
    expected = sums / divisor * factor + means / parts
    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=1e-9)
    leaves = [setting.student, setting.noisy, setting.model.weight]
    for found, truth in zip(
        torch.autograd.grad(output.loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-9)


def test_terms_are_logged_unweighted_with_their_counts():
    """Logged with their weights, the terms of two runs with different weights could not be compared."""
    setting = Setting()
    scale = Scale(0.5, num_items=40, processes=4, micro_batches=8)
    objective = make_objective(task=Schedule(0.7, "linear", end=0.0))
    sums, terms = setting(objective, scale).sums, setting.terms()
    for role in ROLES:
        total, count = sums[f"{role}_loss"].tolist()
        assert total == pytest.approx(terms[role].item(), rel=1e-8)
        assert count == (1 if role in ("contrastive", "regularization") else 5)
    assert all(not value.requires_grad for value in sums.values())
    assert set(sums) == set(objective.log_names)
    accuracy, count = sums["mean_token_accuracy"].tolist()
    predicted = (setting.student @ setting.head.weight.t()).argmax(-1)
    assert (accuracy, count) == ((predicted == setting.batch.kept_labels).sum().item(), 5)


def test_weights_follow_their_schedules():
    """A schedule read once at the start is a constant that nobody asked for."""
    setting = Setting()
    schedules = {
        "task": Schedule(0.7, "warmup", warmup=0.5),
        "distillation": Schedule(1.5, "linear", end=0.5),
        "regularization": Schedule(0.0, "linear", end=0.04),
    }
    objective, terms = make_objective("task", "distillation", "regularization", **schedules), setting.terms()
    for progress, task, distillation, regularization in (
        (0, 0, 1.5, 0),
        (0.25, 0.35, 1.25, 0.01),
        (1, 0.7, 0.5, 0.04),
    ):
        expected = (task * terms["task"] + distillation * terms["distillation"]) / 5
        expected = expected + regularization * terms["regularization"]
        torch.testing.assert_close(setting(objective, Scale(float(progress))).loss, expected)


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0), 30])
def test_all_masked_batch_contributes_zero_and_stays_connected(num_items):
    """One such batch among thousands would turn the weights into NaN, or leave DDP waiting."""
    setting = Setting(masked=True)
    objective = make_objective("task", "distillation", "consistency", "contrastive")
    output = setting(objective, Scale(0.0, num_items=num_items))
    assert output.loss.item() == 0
    for gradient in torch.autograd.grad(output.loss, [setting.student, setting.noisy]):
        assert gradient.shape == (0, 6)
    assert output.sums["task_loss"].tolist() == [0, 0]
    assert "contrastive_loss" not in output.sums


def test_metrics_are_those_whose_views_are_there():
    """Without a teacher there is no agreement to report, and asking for it would demand a teacher's pass."""
    alone = make_objective("task")
    assert alone.views == {"student"}
    teachers = {"acceptance", "teacher_agreement", "teacher_entropy"}
    metrics = {name: load_part("metrics", name) for name in part_names("metrics")}
    later = metrics.keys() - {*teachers, "entropy", "mean_token_accuracy", "top_overlap"}
    assert set(alone.log_names) - later == {"task_loss", "entropy", "mean_token_accuracy"}
    assert all(metrics[name].needs == {"student"} for name in later & set(alone.log_names))
    assert teachers <= set(make_objective("task", "contrastive").log_names)  # it ran, though no token loss reads it
    assert make_objective("task", "consistency").views == {"student", "noisy"}


def test_roles_are_reported_in_one_order_on_every_rank():
    """The ranks' sums are added by place: in another order, losses would be added to accuracies."""
    terms = {role: Term(LOSSES[role], Schedule(1.0)) for role in reversed(ROLES)}
    shuffled = Objective(terms, contrast=Contrast("token", 10, TeacherQueue(0)))
    assert shuffled.log_names == make_objective().log_names


def test_evaluation_leaves_the_queue_alone_and_training_fills_it():
    """Evaluation data among the negatives would be trained on."""
    setting, objective = Setting(), make_objective(queue=16)
    queue = objective.contrast.queue
    with torch.no_grad():
        setting(objective, Scale(0.0), training=False)
    assert queue.states is None
    setting(objective, Scale(0.0), training=True)
    assert torch.equal(queue.states, setting.teacher)


def test_contrastive_term_alone_works_without_a_token_loss():
    """The task's weight may be 0: no token loss is left, and the metrics still need their tiles."""
    setting = Setting()
    output = setting(make_objective("contrastive"), Scale(0.0, num_items=40))
    torch.testing.assert_close(output.loss, 0.3 * setting.terms()["contrastive"], rtol=1e-9, atol=1e-9)
    assert output.sums["entropy"][0] > 0


def test_means_keep_float32_under_autocast():
    """Under bf16 training, cosines and adapter norms rounded to three digits would hide what the terms do."""

    class ProductLoss(ParameterLoss):
        def penalty(self, model: nn.Module) -> Tensor:
            return (model.weight @ model.weight.t()).sum()

    terms = {
        "contrastive": Term(LOSSES["contrastive"], Schedule(1.0)),
        "regularization": Term(ProductLoss(), Schedule(1.0)),
    }
    setting = Setting()
    setting.student = setting.student.detach().float().requires_grad_()
    setting.teacher, setting.model = setting.teacher.float(), setting.model.float()
    setting.head, setting.teacher_head = (
        LinearHead(head.weight.float()) for head in (setting.head, setting.teacher_head)
    )

    def values() -> dict[str, Tensor]:
        return setting(Objective(terms, contrast=Contrast("token", 100, TeacherQueue(0))), Scale(0.0)).sums

    exact = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values()
    for name in ("contrastive_loss", "regularization_loss"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chosen", [[1, 3], [], None], ids=str)
def test_terms_of_a_perturbed_part_estimate_those_of_the_whole(chosen):
    """Left undivided, the consistency term would shrink with the share of sequences that is perturbed."""
    setting = Setting()
    objective = make_objective("task", "distillation", "consistency")
    rows = torch.tensor(chosen or [], dtype=torch.long)
    noisy_states = NoisyStates(setting.noisy[rows], rows, probability=0.25)
    if chosen is None:  # no pass was made at all
        noisy_states = NoisyStates.nowhere(setting.student)
    states = setting.states(noisy_states)
    output = objective(states, setting.batch, setting.model, Scale(0.0, num_items=40), training=True)

    clean, noisy = setting.student @ setting.head.weight.t(), setting.noisy @ setting.head.weight.t()
    part = F.kl_div(noisy.log_softmax(-1)[rows], clean.softmax(-1).detach()[rows], reduction="sum")
    terms = setting.terms()
    expected = (0.7 * terms["task"] + 1.5 * terms["distillation"] + 0.5 * part / 0.25) / 40
    torch.testing.assert_close(output.loss, expected)
    for leaf in (setting.student, setting.noisy):
        found, truth = (
            torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)[0]
            for loss in (output.loss, expected)
        )
        torch.testing.assert_close(torch.zeros_like(leaf) if found is None else found, truth)
    torch.testing.assert_close(output.sums["task_loss"], torch.stack([terms["task"], torch.tensor(5.0).double()]))
    if chosen:
        torch.testing.assert_close(output.sums["consistency_loss"], torch.stack([part, torch.tensor(2.0).double()]))
    assert output.sums["entropy"][1] == 5


def test_views_that_are_one_stay_one_when_a_part_is_perturbed():
    """The self-teacher is the reference too; projected twice, a part would cost more than the whole."""
    states = torch.randn(5, 3)
    noisy = NoisyStates(torch.randn(2, 3), torch.tensor([0, 4]))
    head = LinearHead(torch.randn(7, 3))
    partition = Partition([("distillation_loss", load_part("losses", "forward_kl")())])
    heads = {"student": head, "noisy": head, "reference": head}
    teacher = signal_parts(TeacherSignal(states, head), 5)
    hidden = {"student": torch.randn(5, 3), "reference": states}
    some, others = partition.parts(HiddenStates(hidden, heads, noisy, teacher), torch.arange(5))
    assert torch.equal(some.hidden["teacher"], states[[0, 4]]) and some.labels.tolist() == [0, 4]
    assert some.hidden["noisy"] is noisy.states and others.labels.tolist() == [1, 2, 3]
    everywhere = HiddenStates(hidden, heads, NoisyStates.everywhere(states), teacher)
    (whole,) = partition.parts(everywhere, torch.arange(5))
    # Nothing is copied where all positions are perturbed.
    assert whole.hidden["teacher"] is states and whole.hidden["reference"] is states


@pytest.mark.parametrize(
    ("horizon", "training", "compiled"),
    [(10**12, True, True), (1, True, False), (None, True, False), (10**12, False, False)],
)
def test_compiling_is_decided_once_by_the_length_of_the_run(horizon, training, compiled, monkeypatch):
    """A cold compile takes longer than a short run; a choice that changes on the way would make a resumed run differ."""
    asked = []
    monkeypatch.setattr(
        "hf_ckt.objective.objective.run_tiles",
        lambda *a, **kw: asked.append(kw["compile"]) or run_tiles(*a, **{**kw, "compile": False}),
    )
    setting, objective = Setting(), make_objective("task", "distillation", "consistency")
    setting(objective, Scale(0.0, horizon=horizon), training=training)
    setting(objective, Scale(0.5, horizon=1), training=True)
    assert asked == [compiled, compiled]
