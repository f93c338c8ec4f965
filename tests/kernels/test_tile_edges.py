# SPDX-License-Identifier: Apache-2.0
"""Corners of the tile runner: what requires a gradient, what is shared, and what a larger graph does with it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ckt.discovery import load_part, part_names
from hf_ckt.kernels import LinearHead, chunked_linear, chunked_token_losses, compilation, tile_program
from hf_ckt.kernels.tile_program import TileProgram, tile_sizes
from hf_ckt.losses.base import TokenLoss
from hf_ckt.losses.consistency_kl import ConsistencyKLLoss
from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.losses.jensen_shannon import JensenShannonLoss
from hf_ckt.losses.nll import NLLLoss
from hf_ckt.losses.reference_kl import ReferenceKLLoss
from tests import references
from tests.contracts.token_checks import TRAINED, close, dense_total, make_case, run

LOSSES = {
    NLLLoss(): 0.7,
    ForwardKLLoss(temperature=2.0): 1.3,
    ConsistencyKLLoss(): 0.5,
    JensenShannonLoss(beta=0.3): 0.4,
}


@pytest.mark.parametrize(
    ("trained", "bias"),
    [
        (("student",), True),
        (("noisy",), True),
        (("weight",), True),
        (("bias",), True),
        (("student", "weight"), True),
        (("student",), False),
        (("noisy",), False),
        (("weight",), False),
    ],
    ids=str,
)
def test_gradients_reach_exactly_what_requires_them(trained, bias):
    """A frozen head, frozen states or a missing bias each take another path; a part left out is never trained."""
    case = make_case(positions=17)
    case = (case if bias else case.replace(bias=None, teacher_bias=None)).requiring(*trained)
    leaves = [getattr(case, name) for name in trained]
    expected = torch.autograd.grad(dense_total(case, LOSSES), leaves)
    run(case, LOSSES).total.backward()
    for name, truth in zip(trained, expected, strict=True):
        close(getattr(case, name).grad, truth, 1e-12)
    assert all(getattr(case, name) is None or getattr(case, name).grad is None for name in set(TRAINED) - {*trained})


def test_heads_with_scale_and_cap_of_their_own_equal_dense_autograd():
    """The teacher's scale applied to the student, or the other way round, is right whenever the two are equal."""
    case = make_case(scale=0.6, softcap=3.0, teacher_scale=1.4, teacher_softcap=5.0).requiring(*TRAINED)
    leaves = [getattr(case, name) for name in TRAINED]
    total = run(case, LOSSES).total
    close(total, dense_total(case, LOSSES), 1e-12)
    expected = torch.autograd.grad(dense_total(case, LOSSES), leaves)
    for found, truth in zip(torch.autograd.grad(total, leaves), expected, strict=True):
        close(found, truth, 1e-12)


def test_total_takes_part_in_a_larger_graph():
    """The gradient is made in the forward pass: what comes before and after it must still be applied, at each backward."""
    case = make_case(positions=8, masked=()).requiring("student", "weight")
    layer = torch.eye(5, dtype=torch.float64).mul(1.5).requires_grad_()

    def outer(total, states):
        return total**2 + states.square().sum()

    states = case.student @ layer
    outer(dense_total(case.replace(student=states), LOSSES), states).backward()
    expected = [leaf.grad.clone() for leaf in (layer, case.student, case.weight)]
    for leaf in (layer, case.student, case.weight):
        leaf.grad = None
    states = case.student @ layer
    loss = outer(run(case.replace(student=states), LOSSES).total, states)
    loss.backward(retain_graph=True)
    loss.backward()
    for leaf, truth in zip((layer, case.student, case.weight), expected, strict=True):
        close(leaf.grad, 2 * truth, 1e-11)


def test_float64_stays_float64():
    """A silent float32 in the middle makes gradcheck, and with it every exact test, blind."""
    case = make_case().requiring(*TRAINED)
    output = run(case, LOSSES, metrics=["entropy"])
    assert output.total.dtype == torch.float64
    assert {value.dtype for value in (*output.terms.values(), *output.metrics.values())} == {torch.float64}
    output.total.backward()
    assert {getattr(case, name).grad.dtype for name in TRAINED} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_get_gradients_of_their_own_dtype(dtype):
    """The sums stay in float32: thousands of float16 tokens add up past 65,504."""
    case = make_case(positions=64, masked=(), dtype=dtype).requiring(*TRAINED)
    output = run(case.replace(labels=torch.zeros(64, dtype=torch.long)), {"nll": 3e4}, num_items=64.0)
    assert output.total.dtype == torch.float32 and output.total.isfinite()
    output.total.backward()
    assert {getattr(case, name).grad.dtype for name in TRAINED} == {dtype}


def test_autocast_errs_at_most_twice_as_much_as_dense_autocast():
    """Mixed precision must cost what it costs everywhere, and leave float32 gradients."""
    plain_errors, tiled_errors = torch.zeros(4), torch.zeros(4)
    for seed in range(6):
        exact = make_case(positions=40, width=24, teacher_width=16, vocab=50, seed=seed).requiring(*TRAINED)
        truth = torch.autograd.grad(dense_total(exact, LOSSES), [getattr(exact, name) for name in TRAINED])
        rough = exact.mapped(lambda tensor: tensor.detach().float()).requiring(*TRAINED)
        leaves = [getattr(rough, name) for name in TRAINED]
        for errors, total in (
            (plain_errors, dense_total),
            (tiled_errors, lambda case, losses: run(case, losses).total),
        ):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = total(rough, LOSSES)
            found = torch.autograd.grad(value, leaves)
            assert {gradient.dtype for gradient in found} == {torch.float32}
            errors += torch.tensor([((f - t).norm() / t.norm()).square() for f, t in zip(found, truth, strict=True)])
    assert (tiled_errors.sqrt() <= 2 * plain_errors.sqrt()).all(), (tiled_errors.sqrt(), plain_errors.sqrt())
    assert (tiled_errors.sqrt() > 1e-4).all()  # it did run in bfloat16


def test_two_losses_of_one_name_are_both_reported():
    """Under one key the second would overwrite the first, and the log would show half of what is trained."""
    case = make_case()
    first, second = JensenShannonLoss(beta=0.1), JensenShannonLoss(beta=0.8)
    terms = run(case, {first: 1.0, "nll": 1.0, second: 1.0}).terms
    assert list(terms) == ["jensen_shannon@0", "nll", "jensen_shannon@2"]
    close(terms["jensen_shannon@0"], run(case, {first: 1.0}).terms["jensen_shannon"], 0)
    close(terms["jensen_shannon@2"], run(case, {second: 1.0}).terms["jensen_shannon"], 0)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_weight_that_cannot_be_is_refused_by_name(weight):
    """A negative weight trains away from the target, and the loss goes down all the same."""
    with pytest.raises(ValueError, match=r"losses\['nll'\]: must be"):
        run(make_case(), {"nll": weight})


@pytest.mark.parametrize("view", ["student", "noisy", "teacher", "reference"])
@pytest.mark.parametrize("more", [-1, 1])
def test_view_of_another_length_is_refused(view, more):
    """A longer tensor could be read at the labels' positions without an error, each state beside a wrong label."""
    case = make_case()
    states = torch.zeros(9 + more, getattr(case, view).shape[1], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"{view}_hidden: has {9 + more} positions, labels have 9"):
        run(case.replace(**{view: states}), LOSSES)


@pytest.mark.parametrize("shared", ["reference", "teacher"])
def test_student_that_is_its_own_target_still_gets_its_gradient(shared):
    """Folded into the target's projection, which has no gradient, the student would silently stop training."""
    hidden = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    head, labels = LinearHead(torch.randn(7, 5, dtype=torch.float64)), torch.arange(6)
    loss = ReferenceKLLoss() if shared == "reference" else ForwardKLLoss()
    output = chunked_linear.run_tiles(
        TileProgram([("task", NLLLoss()), ("same", loss)]),
        torch.tensor([1.0, 1.0]),
        {"student": hidden, shared: hidden},
        {"student": head, shared: head},
        labels,
        num_items=None,
    )
    (found,) = torch.autograd.grad(output.total, hidden)
    (expected,) = torch.autograd.grad(F.cross_entropy(hidden @ head.weight.t(), labels), hidden)
    close(found, expected, 1e-12)


@pytest.mark.parametrize(
    "change", [{"bias": torch.linspace(-3, 3, 7)}, {"logit_scale": 3.0}, {"softcap": 0.5}], ids=str
)
def test_heads_that_share_a_weight_and_nothing_else_are_kept_apart(change):
    """A teacher tied to the student's weight would be read through the student's bias, scale or cap: always agreed with."""
    weight, hidden = torch.randn(7, 5), torch.randn(6, 5)
    teacher = LinearHead(weight)._replace(**change)
    logits = (F.linear(hidden, weight, teacher.bias) * teacher.logit_scale).double()
    logits = logits if teacher.softcap is None else teacher.softcap * torch.tanh(logits / teacher.softcap)
    student = F.linear(hidden, weight).double()
    expected = F.kl_div(student.log_softmax(-1), logits.softmax(-1), reduction="sum")
    for heads in ((LinearHead(weight), teacher), (teacher, LinearHead(weight))):
        output = chunked_token_losses(
            {"forward_kl": 1.0, "reverse_kl": 1.0},
            hidden,
            heads[0],
            torch.zeros(6, dtype=torch.long),
            teacher_hidden=hidden,
            teacher_head=heads[1],
        )
        key = "forward_kl" if heads[1] is teacher else "reverse_kl"
        close(output.terms[key].double(), expected, 1e-5)


@pytest.mark.parametrize("cast", [None, torch.bfloat16])
def test_a_detached_head_is_projected_and_cast_with_the_student(cast):
    """The self-teacher's head is the student's without a gradient; taken for another, all is projected and cast twice."""
    weight = torch.randn(40, 8)
    head, hidden = LinearHead(weight), torch.randn(8, 8, requires_grad=True)
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and result.shape == weight.shape:
                casts.append(result.dtype)
            return result

    with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
        with Casts(), references.Recorder(40) as recorder:
            chunked_token_losses(
                {"nll": 1.0, "forward_kl": 1.0},
                hidden,
                head,
                torch.arange(8),
                teacher_hidden=torch.randn(8, 8),
                teacher_head=head.detach(),
                chunk_size=4,
            )
    assert recorder.products == 2 * 2  # one product and one of its gradient, a tile
    assert casts == ([] if cast is None else [cast])


def test_every_token_loss_compiles_whole():
    """A graph break halves what the compiler gains, and shows in no result."""
    torch._dynamo.reset()
    for name in part_names("losses"):
        cls = load_part("losses", name)
        if issubclass(cls, TokenLoss):
            program = TileProgram([(name, cls())], [(m, load_part("metrics", m)()) for m in part_names("metrics")])
            plain = {view: torch.randn(4, 7) for view in ("student", "noisy", "teacher", "reference")}
            traced = {view: logits.clone() for view, logits in plain.items()}
            rest = ({view: view for view in plain}, dict.fromkeys(plain, (0.5, 3.0)), torch.arange(4))
            rest = (*rest, torch.tensor([True, True, False, True]), torch.ones(1), ("student", "noisy"))
            whole = torch.compile(program.differentiate, backend="eager", fullgraph=True, dynamic=False)
            close(whole(traced, *rest), program.differentiate(plain, *rest), 1e-6)
            for view, logits in plain.items():
                close(traced[view], logits, 1e-6)
            torch._dynamo.reset()


@pytest.mark.slow
def test_compiler_of_this_machine_gives_the_plain_result_and_compiles_once(monkeypatch, caplog):
    """What generates the code may differ from what traces it; without a C++ compiler the plain tiles must step in."""
    monkeypatch.setattr(compilation, "_programs", {})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    for positions in (9, 22, 3):  # a padded last tile, several tiles, one tile that is not full
        case = make_case(positions=positions, masked=(2,), dtype=torch.float32).requiring(*TRAINED)
        leaves = [getattr(case, name) for name in TRAINED]
        plain, compiled = (run(case, LOSSES, metrics=["acceptance"], compile=choice) for choice in (False, True))
        close(compiled.total, plain.total, 1e-5)
        close(compiled.metrics["acceptance"], plain.metrics["acceptance"], 1e-5)
        expected = torch.autograd.grad(plain.total, leaves)
        for found, truth in zip(torch.autograd.grad(compiled.total, leaves), expected, strict=True):
            close(found, truth, 1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # Each run brings a program of its own, equal to the others: one graph serves them all, or one failure does.
    assert len(compilation._programs) == 1
    failures = [record for record in caplog.records if "torch.compile of the objective failed" in record.message]
    assert graphs == [1, 1, 1] if not failures else len(failures) == 1
    torch._dynamo.reset()


def test_default_sizes_fit_their_budgets():
    """A tile sized by anything but the vocabulary is either tiny or the whole of the logits."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for vocab in (1_000, 49_152, 151_936, 262_144):
        sizes = tile_sizes(10_000, vocab, cpu)
        assert sizes.tile == 128 or sizes.tile * vocab * 4 <= 80 * 2**20 < (sizes.tile + 16) * vocab * 4
        assert sizes.block <= 8 or sizes.block * vocab * 4 <= 6 * 2**20
        large = tile_sizes(10_000, vocab, gpu)
        assert large.tile * vocab * 4 <= 256 * 2**20 < (large.tile + 16) * vocab * 4 or large.tile == 8192
        assert large.block * vocab * 4 <= 64 * 2**20 < 5 * large.block * vocab * 4  # its temporaries, and few launches
    assert tile_sizes(10_000, 10**9, cpu).tile == 16


@pytest.fixture
def small_blocks(monkeypatch):
    """Tiles of several blocks at the vocabularies of tests: of 7, 7 and 6 rows where a tile has 20."""
    monkeypatch.setitem(tile_program._BLOCK_BYTES, "cpu", 1)
    assert tile_sizes(100, 13, torch.device("cpu"), 20, static=True) == (20, 7, 21)


@pytest.mark.parametrize("positions", [1, 7, 8, 20, 33, 47])
@pytest.mark.parametrize("compile", [False, True])
def test_tiles_of_several_blocks_equal_dense_autograd(positions, compile, small_blocks, monkeypatch):
    """Each block overwrites its own rows of the logits; a row too far, and another position's gradient is lost."""
    monkeypatch.setattr(compilation, "_programs", {})
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: original(f, backend="aot_eager", **kw))
    case = make_case(positions=positions, masked=(), scale=0.6, softcap=3.0).requiring(*TRAINED)
    leaves = [getattr(case, name) for name in TRAINED]
    output = run(case, LOSSES, chunk_size=20, compile=compile, metrics=["acceptance", "entropy"])
    assert None not in compilation._programs.values()
    close(output.total, dense_total(case, LOSSES), 1e-11)
    for metric, value in run(case, LOSSES, chunk_size=1, metrics=["acceptance", "entropy"]).metrics.items():
        close(output.metrics[metric], value, 1e-11)
    expected = torch.autograd.grad(dense_total(case, LOSSES), leaves)
    for found, truth in zip(torch.autograd.grad(output.total, leaves), expected, strict=True):
        close(found, truth, 1e-11)


def test_rows_that_fill_up_a_block_may_hold_anything(small_blocks, monkeypatch):
    """They are computed with and not counted: what stood in the memory before must not reach a sum."""
    monkeypatch.setattr(compilation, "_programs", {})
    original, empty = torch.compile, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "compile", lambda f, **kw: original(f, backend="aot_eager", **kw))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: empty(self, *size).fill_(torch.nan))
    case = make_case(positions=9, masked=()).requiring(*TRAINED)
    output = run(case, LOSSES, chunk_size=20, compile=True, metrics=["entropy"])
    assert len(compilation._programs) == 1 and output.metrics["entropy"].isfinite()
    expected = torch.autograd.grad(dense_total(case, LOSSES), [getattr(case, name) for name in TRAINED])
    for found, truth in zip(
        torch.autograd.grad(output.total, [getattr(case, name) for name in TRAINED]), expected, strict=True
    ):
        close(found, truth, 1e-11)


@pytest.mark.parametrize("compile", [False, True])
def test_hooks_on_saved_tensors_neither_fail_nor_see_the_tiles(compile, monkeypatch):
    """Activation offloading copies what is saved for the backward: tiles are not, and torch.func refuses to run in it."""
    monkeypatch.setattr(compilation, "_programs", {})
    case = make_case().requiring(*TRAINED)
    leaves, seen = [getattr(case, name) for name in TRAINED], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        output = run(case, LOSSES, compile=compile)
    close(output.total, dense_total(case, LOSSES), 1e-12)
    expected = torch.autograd.grad(dense_total(case, LOSSES), leaves)
    for found, truth in zip(torch.autograd.grad(output.total, leaves), expected, strict=True):
        close(found, truth, 1e-12)
    vocab = case.weight.shape[0]
    assert not [shape for shape in seen if len(shape) == 2 and shape[-1] == vocab]


@pytest.mark.parametrize(("positions", "chunk_size"), [(1, 100), (99, 100), (1_000, 100), (7, 1), (50, 97), (0, 5)])
def test_blocks_cover_a_tile_and_hardly_more(positions, chunk_size):
    """Too small a buffer loses rows; one sized for the longest tile wastes memory on every short batch."""
    tile, block, capacity = tile_sizes(positions, 49_152, torch.device("cpu"), chunk_size, static=True)
    assert tile == min(chunk_size, max(positions, 1))
    assert tile <= capacity < tile + block and capacity % block == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_on_a_gpu_equal_those_on_the_cpu(dtype):
    """There the tiles are compiled, which no test on a CPU runs for real."""
    exact = make_case(positions=70, width=24, teacher_width=16, vocab=50).requiring(*TRAINED)
    truth = torch.autograd.grad(dense_total(exact, LOSSES), [getattr(exact, name) for name in TRAINED])
    rough = exact.mapped(lambda tensor: tensor.detach().to("cuda", dtype))
    rough = rough.replace(labels=exact.labels.cuda()).requiring(*TRAINED)
    compilation._programs.clear()
    found = torch.autograd.grad(
        run(rough, LOSSES, chunk_size=16, compile=True).total, [getattr(rough, name) for name in TRAINED]
    )
    plain = torch.autograd.grad(dense_total(rough, LOSSES), [getattr(rough, name) for name in TRAINED])
    assert None not in compilation._programs.values(), "the compiler failed and the plain program ran instead"
    for tiled, dense, exactly in zip(found, plain, truth, strict=True):
        floor = torch.finfo(dtype).eps * exactly.norm()
        assert (tiled.cpu().double() - exactly).norm() <= 2 * (dense.cpu().double() - exactly).norm() + floor
