# SPDX-License-Identifier: Apache-2.0
"""`python examples/benchmarks/step.py`: its arithmetic, its processes, and one small run of it. No test looks at the clock."""

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import step
import step_group
from cases import (
    BASELINE,
    STEP_VARIANTS,
    TEACHER_VARIANTS,
    StepCase,
    default_variants,
    predicted_ratio,
    step_passes,
    step_targets,
    step_units,
)
from step_group import Worker, WorkerError, measure_group
from step_worker import Memory, Steps, build_trainer, load_model, load_tokenizer
from tables import variant_rows

# A process that speaks as a worker does, without a model: its variant's name decides how it fares.
STAND_IN = """
import json, sys, time
job = json.loads(sys.stdin.readline())
name, steps = job["variant"], job["steps"]
say = lambda event, **facts: print(json.dumps({"event": event, **facts}), flush=True)
seconds = {"sft": 1.0, "twice": 2.0}.get(name, 3.0)
if name == "dies":
    print("first line of a long story", file=sys.stderr)
    sys.exit("the last line says why")
log = {}
for number in range(steps):
    say("ready", first_log=log)
    if not sys.stdin.readline():
        sys.exit(1)
    if name == "dies_later" and number == 1:
        sys.exit("out of something")
    with open(job["turns"], "a") as turns:
        print(name, file=turns)
    say("step", seconds=seconds + 100 * (number == 0))
    log = {"loss": 5.0, "task_loss": 4.0 if name == "other_task" else 5.0}
peaks = {"peak_bytes": int(seconds * 1000), "host_peak_bytes": 1, "cold_peak_bytes": 1, "peak_source": "none"}
peaks |= {"before_bytes": 1, "compiled": None}
say("done", losses=[5.0] * steps, kept_tokens=[30] * steps, **peaks)
"""


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(step_group, "_WORKER", (sys.executable, "-c", STAND_IN))


def group(folder, *names, **changes):
    jobs = {name: {"variant": name, "steps": 4, "turns": str(folder / "turns")} for name in names}
    settings = {"warmup": 1, "repeats": 3, "precision": "fp32", "say": lambda line: None}
    return measure_group(jobs, folder=folder, **{**settings, **changes})


@pytest.mark.parametrize(
    "name, plain, checkpointed",
    [
        ("sft", 296, 402),
        ("sft_neftune", 296, 402),
        ("hf_ckt_distillation", 402, 508),
        ("hf_ckt_model_teacher", 402, 508),
        ("gkd", 402, 508),
        ("hf_ckt_all", 670, 882),
        ("hf_ckt_all_recomputed", 776, 988),
        ("hf_ckt_regularization", 268, 374),
        # Clean and noisy, and a search between them: three passes, two projections each of search and training.
        ("hf_ckt_noise_typos", 2 * 2 * 106 + 4 * 28, 2 * 3 * 106 + 4 * 28),
        ("hf_ckt_noise_adversarial", 3 * 2 * 106 + 7 * 28, 3 * 3 * 106 + 7 * 28),
        # A quarter of the second view: two passes (three checkpointed) and two products with the head.
        ("hf_ckt_fraction", 2.5 * 106 + 106 + 3.5 * 28, 3.75 * 106 + 106 + 3.5 * 28),
    ],
)
def test_prediction_of_smollm2_is_the_counted_passes(name, plain, checkpointed):
    """A prediction that forgets a pass makes a slow step look as expected."""
    passes = step_passes(STEP_VARIANTS[name])
    assert step_units(passes, 106, 28, False) == pytest.approx(plain)
    assert step_units(passes, 106, 28, True) == pytest.approx(checkpointed)


def test_predicted_ratios_of_smollm2_are_those_of_the_targets():
    """The targets were set above these figures; others would make them look easier or harder than they are."""
    names = ("hf_ckt_distillation", "hf_ckt_all", "hf_ckt_all_recomputed")
    assert [round(predicted_ratio(name, 106, 28, False), 2) for name in names] == [1.36, 2.26, 2.62]
    assert [round(predicted_ratio(name, 106, 28, True), 2) for name in names[:2]] == [1.26, 2.19]


def test_targets_hold_for_their_own_case_only():
    """A target set for one case, printed beside another, is met or missed without meaning."""
    assert ("hf_ckt_all", "sft", 2.35, 1.75) in step_targets(StepCase())
    assert ("hf_ckt_all", "sft", 2.5, 1.25) in step_targets(
        StepCase("random-8b", 4, 2048, "nf4", gradient_checkpointing=True)
    )
    assert all(time is memory is None for _, _, time, memory in step_targets(StepCase(length=64)))


def _model_of_teacher(trainer):
    extra_passes = getattr(trainer, "_extra_passes", None)
    return getattr(extra_passes and extra_passes.teacher, "model", None)


ON_PROMPTS = f"{BASELINE}, prompts"
DATA_OF = dict.fromkeys(default_variants("tokens"), "tokens") | {
    ON_PROMPTS if name == BASELINE else name: "prompts" for name in default_variants("prompts")
}
# 4-bit blocks are wider than the tiny model.
DATA_OF |= {name: "tokens" for name in TEACHER_VARIANTS if not name.endswith("4bit")}


@pytest.fixture(scope="module")
def first_steps(tiny_model_dir, tmp_path_factory):
    """Every variant's first two steps on the tiny model, in this process: reports, and the batches it trained on."""
    found = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small to share
    for name, data in DATA_OF.items():
        case = StepCase(str(tiny_model_dir), batch_size=2, length=16, data=data)
        variant = BASELINE if name == ON_PROMPTS else name
        job = {"variant": variant, "case": asdict(case), "path": case.model, "steps": 2, "compile": False}
        trainer = build_trainer({**job, "folder": str(tmp_path_factory.mktemp(name))})
        batches, events = [], io.StringIO()
        compute_loss = trainer.compute_loss

        def compute(model, inputs, *args, compute_loss=compute_loss, batches=batches, **kwargs):
            batches.append(inputs["input_ids"].clone())
            return compute_loss(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute
        rows = []
        for model in (trainer.model, getattr(trainer, "teacher_model", None), _model_of_teacher(trainer)):
            if model is not None:
                (layer,) = [module for name, module in model.named_modules() if name.endswith("layers.0")]

                def note(layer, args, kwargs, rows=rows):
                    count = len(args[0] if args else kwargs["hidden_states"])
                    # Not the one short text at which heads are compared with the model's own logits, before all steps.
                    rows.append(count if layer.training or count > 1 else 0)

                layer.register_forward_pre_hook(note, with_kwargs=True)
        steps = Steps(io.StringIO("step\n" * 2), events, warmup=1)
        steps.attach(trainer)
        trainer.train()
        steps.finish()
        reports = [json.loads(line) for line in events.getvalue().splitlines()]
        found[name] = (trainer, batches, reports, sum(rows))
    torch.set_num_threads(threads)
    return found


def test_default_variants_are_those_that_run_on_the_data():
    """A perturbation of text fails on rows of ids, and would be listed as skipped in every table."""
    assert {*default_variants("tokens"), *default_variants("prompts"), *TEACHER_VARIANTS} == {*STEP_VARIANTS}
    assert {*default_variants("tokens")} & {*default_variants("prompts")} == {BASELINE}


@pytest.mark.parametrize(
    "name, searches", [("adversarial", 1), ("virtual_adversarial", 1), ("gaussian", 0), ("typos", 0)]
)
def test_search_is_counted_as_a_pass_of_its_own(name, searches):
    """A prediction without it would call every adversarial step slower than it should be."""
    assert step_passes(STEP_VARIANTS[f"hf_ckt_noise_{name}"]).trained == 2 + searches


@pytest.mark.parametrize("name", list(DATA_OF))
def test_variant_trains_on_the_baselines_batches(name, first_steps):
    """A peer that is fed padding, fewer tokens or other rows is compared on other work."""
    _, batches, events, _ = first_steps[name]
    assert [event["event"] for event in events] == ["ready", "step", "ready", "step", "done"]
    assert len(batches) == 2 and not torch.equal(*batches)
    prompts = DATA_OF[name] == "prompts"
    for mine, baseline in zip(batches, first_steps[ON_PROMPTS if prompts else BASELINE][1], strict=True):
        assert torch.equal(mine, baseline)
    # Of prompts, the answers' seven words and the end of the text.
    assert events[-1]["kept_tokens"] == [2 * (8 if prompts else 15)] * 2
    assert all(torch.isfinite(torch.tensor(events[-1]["losses"])))


@pytest.mark.parametrize("name", [name for name in DATA_OF if name.startswith("hf_ckt")])
def test_variant_starts_from_the_baselines_task_loss(name, first_steps):
    """Another model, adapter or batch would show here first: before any update all variants are the same model."""
    baseline = ON_PROMPTS if DATA_OF[name] == "prompts" else BASELINE
    expected = first_steps[baseline][2][2]["first_log"]["loss"]
    assert first_steps[name][2][2]["first_log"]["task_loss"] == pytest.approx(expected, rel=1e-5)


def test_gkd_learns_from_a_copy_and_not_from_samples(first_steps):
    """GKD that generates would be measured on other work; a teacher that is the student itself would move with it."""
    trainer, _, events, _ = first_steps["gkd"]
    assert (trainer.lmbda, trainer.beta) == (0.0, 0.0)
    own = {parameter.data_ptr() for parameter in trainer.model.parameters()}
    assert not any(parameter.data_ptr() in own for parameter in trainer.teacher_model.parameters())
    assert events[2]["first_log"]["loss"] == pytest.approx(0, abs=1e-6)


def test_variants_run_the_passes_that_are_counted(first_steps):
    """A variant whose term is off, or whose teacher is missing, is fast for a reason that no table shows."""
    for name, (_, _, _, rows) in first_steps.items():
        passes = step_passes(STEP_VARIANTS[BASELINE if name == ON_PROMPTS else name])
        if name == "hf_ckt_fraction":
            # Drawn by row: each step perturbs none, one or both of the two rows.
            assert rows - 2 * 2 * (passes.trained - 0.25 + passes.frozen) in range(5), name
        elif name == "hf_ckt_teacher_routed":
            assert rows == 2 * 2 * passes.trained  # each of its teachers reads one row, which is not noted
        else:
            assert rows == 2 * 2 * (passes.trained + passes.recomputed + passes.frozen), name


def test_random_weights_of_a_quantized_model_are_each_layers_own():
    """Layers that shared their 4-bit weights would take one layer's memory, and 8B would seem to fit anywhere."""
    case = StepCase("random-8b", precision="nf4", layers=2, shrink=16)
    model = load_model(case, None)
    first, second = ([p for p in layer.parameters() if p.dim() > 1] for layer in model.model.layers)
    assert [type(p).__name__ for p in first] == ["Params4bit"] * 7
    assert not {p.data_ptr() for p in first} & {p.data_ptr() for p in second}
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert len(load_tokenizer(case, None)) == model.config.vocab_size


def test_parameters_are_counted_without_the_embedding(tiny_model_dir):
    """An embedding is looked up, not multiplied by; counted as work it would flatter every ratio."""
    backbone, head = step._parameter_counts(StepCase(str(tiny_model_dir)), str(tiny_model_dir))
    # Two layers of: queries and outputs 32 x 32, keys and values 32 x 16, three maps 32 x 64.
    assert backbone == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert head == len(load_tokenizer(StepCase(), str(tiny_model_dir))) * 32


def test_high_water_mark_forgets_what_was_before_the_steps():
    """The peak of loading a model would hide that of its steps."""
    memory = Memory()
    if torch.cuda.is_available() or not Path("/proc/self/clear_refs").exists():
        pytest.skip("the mark of a process is Linux's")
    block = bytearray(b"x") * (64 * 2**20)
    before = memory.host_peak_bytes()
    del block
    memory.reset()
    if memory.source != "VmHWM":
        pytest.skip("this system does not let a process set its mark back")
    assert memory.host_peak_bytes() < before - 32 * 2**20


def test_worker_ends_when_nobody_asks_any_more():
    """A worker that outlives its parent keeps gigabytes, and slows the next measurement."""
    steps = Steps(io.StringIO(""), io.StringIO(), warmup=1)
    with pytest.raises(SystemExit):
        steps.on_step_begin(None, type("State", (), {"global_step": 0}), None)


def test_dying_worker_is_one_line_with_its_last_words(stand_in, tmp_path):
    """A worker that dies while its parent waits for it is a benchmark that hangs overnight."""
    with pytest.raises(WorkerError, match=r"dies: its process ended \(exit code 1\): .*the last line says why$"):
        with Worker("dies", {"variant": "dies", "steps": 1}, tmp_path):
            pass


def test_interrupt_leaves_no_worker_behind(stand_in, tmp_path):
    """Workers that survive Ctrl-C hold the memory and the cores of whatever is measured next."""
    with pytest.raises(KeyboardInterrupt):
        with Worker("sft", {"variant": "sft", "steps": 3, "turns": str(tmp_path / "turns")}, tmp_path) as worker:
            process = worker._process.pid
            raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_variants_take_their_steps_in_turn(stand_in, tmp_path):
    """Variants measured one after the other are compared across whatever the machine did in between."""
    found, errors = group(tmp_path, "twice", "sft", "thrice")
    assert not errors
    turns = (tmp_path / "turns").read_text().split()
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert len(rounds) == 4 and all(set(one) == {"sft", "twice", "thrice"} for one in rounds)
    assert rounds[0][0] == "sft" and len({one[0] for one in rounds[1:]}) == 3
    # The first step, of a hundred seconds more, is not counted.
    assert found["twice"]["seconds"]["all"] == [2.0] * 3
    assert found["twice"]["cold"]["seconds"] == [102.0]
    assert found["twice"]["relative_seconds"] == found["twice"]["relative_peak"] == 2.0
    assert found["thrice"]["tokens_per_second"] == pytest.approx(30 / 3)


@pytest.mark.parametrize("load_together", [False, True])
def test_failing_variant_leaves_the_others_measured(load_together, stand_in, tmp_path):
    """One peer that cannot run must not cost the measurements of all others, nor pass unnoticed."""
    names = ("sft", "dies", "dies_later", "other_task", "twice")
    found, errors = group(tmp_path, *names, load_together=load_together)
    assert found.keys() == {"sft", "twice"}
    assert errors.keys() == {"dies", "dies_later", "other_task"}
    assert "out of something" in errors["dies_later"]
    assert "not the same work" in errors["other_task"]


def test_run_measures_writes_and_resumes(tiny_model_dir, tmp_path, capfd, monkeypatch):
    """The whole command, with the real trainers in their processes: what it prints and writes must be of one run."""
    monkeypatch.setattr("hf_ckt.hub.provenance._commit", lambda: "0123456789ab")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the model is too small to share
    file = tmp_path / "step.json"
    sizes = ["--model", str(tiny_model_dir), "--batch-size", "2", "--length", "16"]
    arguments = [*sizes, "--warmup", "1", "--repeats", "2", "--no-compile", "--json", str(file)]
    assert step.run([*arguments, "--variants", "sft", "hf_ckt_distillation"]) == 0
    document = json.loads(file.read_text())
    assert list(document["variants"]) == ["sft", "hf_ckt_distillation"]
    mine, baseline = document["variants"]["hf_ckt_distillation"], document["variants"]["sft"]
    for one in (mine, baseline):
        assert one["seconds"]["n"] == 2 and len(one["losses"]) == 3
        assert one["peak_bytes"] > 10**7
        assert 0 < one["peak_extra_bytes"] < one["peak_bytes"]
        assert one["compiled"] is (False if one is mine else None)
        assert one["kept_tokens"] == 2 * 15
    assert mine["losses"][0] == pytest.approx(baseline["losses"][0], rel=1e-5)
    counts = document["case"]["backbone_parameters"], document["case"]["head_parameters"]
    assert mine["predicted_ratio"] == predicted_ratio("hf_ckt_distillation", *counts, False)
    ratios = {(one["of"], one["quantity"]): one["value"] for one in document["ratios"]}
    assert ratios["hf_ckt_distillation", "relative_seconds"] == mine["relative_seconds"]
    assert ratios["hf_ckt_all", "relative_seconds"] is None
    table = capfd.readouterr().out
    assert "hf_ckt_distillation / sft" in table and "predicted" in table

    # All is there: nothing is measured again, and the same table comes out.
    monkeypatch.setattr(step_group, "measure_group", lambda *_, **__: pytest.fail("measured again"))
    assert step.run([*arguments, "--variants", "sft", "hf_ckt_distillation"]) == 0
    assert capfd.readouterr().out == table


def test_measures_of_another_commit_are_not_taken_up(tmp_path):
    """A ratio of two versions of the code would be reported as one run's."""
    file = tmp_path / "step.json"
    case = {"model": "smollm2"}
    facts = {"commit": "aaa", "device": "this one", "date": "today"}
    file.write_text(json.dumps({"case": case, "facts": {**facts, "date": "then"}, "variants": {"sft": {}}}))
    assert step._previous(file, case, facts, False) == {"sft": {}}
    for change in ({"commit": "bbb"}, {"device": "another"}):
        assert step._previous(file, case, {**facts, **change}, False) == {}
        with pytest.raises(ValueError, match="another case, commit or machine"):
            step._previous(file, case, {**facts, **change}, True)
    assert step._previous(file, {"model": "other"}, facts, False) == {}
    dirty = {**facts, "commit": "aaa-dirty"}
    file.write_text(json.dumps({"case": case, "facts": dirty, "variants": {"sft": {}}}))
    assert step._previous(file, case, dirty, False) == {}
    assert step._previous(file, case, dirty, True) == {"sft": {}}


def test_baseline_of_several_groups_is_pooled():
    """A baseline that keeps only its last group's timings would not be the one its ratios were taken against."""
    measured = {"seconds": {"all": [1.0, 3.0]}, "kept_tokens": 30, "peak_bytes": 5}
    variants = {BASELINE: measured}
    step._merge(variants, {BASELINE: {"seconds": {"all": [2.0, 2.0, 9.0]}, "kept_tokens": 30, "peak_bytes": 4}})
    assert variants[BASELINE]["seconds"]["n"] == 5
    assert variants[BASELINE]["seconds"]["median"] == 2.0
    assert variants[BASELINE]["tokens_per_second"] == 15.0
    assert variants[BASELINE]["peak_bytes"] == 5


def test_failed_variant_is_in_the_table_and_measured_anew(tmp_path):
    """A variant that failed and is then left out of table and file looks as if it had never been asked for."""
    variants = {"gkd": {"skipped": "gkd: its process ended"}}
    document = step._document([], StepCase(), {}, variants)
    assert variant_rows(document)[1][:2] == ["gkd", "not run: gkd: its process ended"]
    file = tmp_path / "step.json"
    file.write_text(json.dumps({"case": {}, "facts": {"commit": "aaa"}, "variants": variants}))
    assert step._previous(file, {}, {"commit": "aaa"}, False) == {}


def test_ratios_go_through_the_baseline_of_each_group():
    """A machine that slowed down between two groups would show as a difference of the variants."""
    seconds = {"sft": (1.0, 1.0), "gkd": (2.0, 2.0), "hf_ckt_model_teacher": (6.0, 1.5), "hf_ckt_all": (3.0, 2.5)}
    variants = {
        name: {"seconds": {"median": median}, "relative_seconds": relative, "peak_bytes": 8, "relative_peak": 1.0}
        for name, (median, relative) in seconds.items()
    }
    document = step._document(["--json", "/somewhere/step.json"], StepCase(), {}, variants)
    rows = {(row["of"], row["quantity"]): row for row in document["ratios"]}
    assert rows["hf_ckt_model_teacher", "relative_seconds"]["value"] == 0.75
    assert rows["hf_ckt_model_teacher", "relative_seconds"]["target"] == 0.80
    assert rows["hf_ckt_all_recomputed", "relative_peak"]["value"] is None
    assert document["command"] == "python examples/benchmarks/step.py --json step.json"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--variants", "gkdd"], "Did you mean 'gkd'"),
        (["--precision", "fp16"], "--precision"),
        (["--model", "random-9b"], "--model"),
        (["--layers", "2"], "only of random"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_wrong_option_is_refused_before_anything_is_loaded(arguments, message):
    """A misspelt option that is found after minutes of loading, or never, wastes the machine."""
    with pytest.raises(ValueError, match=message):
        step.run(arguments)
