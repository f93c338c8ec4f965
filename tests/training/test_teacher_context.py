# SPDX-License-Identifier: Apache-2.0
"""What the teacher alone reads is made with the dataset, and compared with the student at the same answer tokens."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer

from hf_ckt.teachers.privileged_context import PrivilegedContextTeacher
from hf_ckt.teachers.self import SelfTeacher
from hf_ckt.training.collator import CONTEXT_PREFIX, read_batch
from hf_ckt.training.teacher_cache import cache_teachers
from hf_ckt.training.teacher_context import CONTEXT_COLUMNS
from tests.runs import OFF
from tests.trainers import ON, Stop, build, first_batch, gradients, load, lora, run, same_resumed, steps

DISTIL = {**OFF, "task_weight": 0.0, "distillation_weight": 1.0}
RULE = "Rule: refuse what could hurt someone."
# Answers of unequal length behind prompts of unequal length; the teacher's end as the student's do.
TEXT = [
    {
        "prompt": f"How {n}?" * (1 + n % 2),
        "completion": f" Find its number {7 * n}." * (1 + n % 3),
        "teacher_prompt": f"{RULE} " * (1 + n % 2) + f"How {n}?",
    }
    for n in range(8)
]


def chat(n, system=None, **more):
    before = [] if system is None else [{"role": "system", "content": system}]
    return {
        "prompt": [*before, {"role": "user", "content": f"How do I kill {n}?"}],
        "completion": [{"role": "assistant", "content": f"Find its number {n}."}],
        **more,
    }


CHAT = [chat(n, "You are kind." if n % 2 else None) for n in range(8)]


def make(folder, model, data, *, teacher=None, given=None, **changes):
    data = Dataset.from_list(data) if isinstance(data, list) else data
    all_given = {"peft_config": lora(), "teacher_model": teacher, **(given or {})}
    return build(folder, model, data, given=all_given, **{**DISTIL, **changes})


def loss_by_hand(trainer, base, pairs):
    """Sum of KL(teacher || student) over all answer tokens in float64, each text read alone, and how many there are."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    student = trainer.model.eval()
    for own, read, answer in pairs:
        with torch.no_grad():
            logits = [
                model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
                for model, prompt in ((student, own), (base, read))
            ]
        mine, theirs = (one.log_softmax(-1) for one in logits)
        total, count = total + (theirs.exp() * (theirs - mine)).sum(), count + len(answer)
    student.train()
    return float(total / count)


def text_pairs(tokenizer, rows=TEXT):
    def ids(text):
        return tokenizer(text)["input_ids"]

    pairs = []
    for row in rows:
        own, read = ids(row["prompt"]), ids(row["teacher_prompt"])
        answer = ids(row["prompt"] + row["completion"] + tokenizer.eos_token)[len(own) :]
        assert ids(row["teacher_prompt"] + row["completion"] + tokenizer.eos_token) == read + answer
        pairs.append((own, read, answer))
    return pairs


@pytest.mark.parametrize("layout", ["padded", "padding_free", "accumulated", "shuffled"])
def test_loss_is_that_of_each_text_read_alone(layout, tiny_model_dir, tmp_path):
    """Behind another prompt every answer stands elsewhere: one position off, and the teacher teaches other words."""
    changes = {"per_device_train_batch_size": 8, "max_steps": 1}
    if layout == "padding_free":
        changes |= {"padding_free": True, "max_length": None}
    if layout == "accumulated":
        changes |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    if layout == "shuffled":
        changes |= {"shuffle_dataset": True}
    trainer = make(tmp_path, tiny_model_dir, TEXT, **changes)
    assert isinstance(trainer._extra_passes.teacher, PrivilegedContextTeacher)
    tokenizer, base = AutoTokenizer.from_pretrained(tiny_model_dir), load(tiny_model_dir).eval()
    expected = loss_by_hand(trainer, base, text_pairs(tokenizer))
    without = loss_by_hand(trainer, base, [(own, own, answer) for own, _, answer in text_pairs(tokenizer)])
    run(trainer)
    assert steps(trainer)[0]["loss"] == pytest.approx(expected, rel=2e-4)
    assert abs(expected - without) > 0.02 * expected  # so that a forgotten context would show


def test_gradient_leaves_the_context_alone(tiny_model_dir, tmp_path):
    """A context that reached the student's own pass would train it to read what it will not have."""
    trainer = make(tmp_path, tiny_model_dir, TEXT)
    batch = first_batch(trainer)
    plain = {name: value for name, value in batch.items() if not name.startswith(CONTEXT_PREFIX)}
    assert len(plain) < len(batch)
    inputs = dict(batch)
    read, _ = read_batch(inputs, trainer._marks)
    assert set(inputs) == set(plain) - {"labels"} and torch.equal(read.context.kept_labels, read.kept_labels)
    assert gradients(trainer, batch)


def rendered(tokenizer, row):
    return [tokenizer.decode(row[name]) for name in ("input_ids", CONTEXT_COLUMNS[0])]


def test_system_prompt_replaces_or_is_added(tiny_model_dir, tmp_path):
    """A second system message, or one in the student's prompt, is another prompt than was asked for."""
    trainer = make(tmp_path, tiny_model_dir, CHAT, teacher_system_prompt=RULE)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for n, row in enumerate(trainer.train_dataset):
        own, read = rendered(tokenizer, row)
        question = (
            f"<|im_start|>user\nHow do I kill {n}?<|im_end|>\n<|im_start|>assistant\nFind its number {n}.<|im_end|>"
        )
        system = "<|im_start|>system\nYou are kind.<|im_end|>\n" if n % 2 else ""
        assert own.strip() == system + question and RULE not in own
        assert read.strip() == f"<|im_start|>system\n{RULE}<|im_end|>\n{question}"
    run(trainer)
    assert steps(trainer)[0]["distillation_loss"] > 0


@pytest.mark.parametrize("given", ["text", "messages", "text and system prompt"])
def test_teacher_prompt_stands_in_the_place_of_the_prompt(given, tiny_model_dir, tmp_path):
    """A prompt behind the row's own, or a system message lost on the way, is not what the teacher was to read."""
    messages = [{"role": "system", "content": "Worked example: 1."}, {"role": "user", "content": "And this?"}]
    data = [
        chat(n, "You are kind.", teacher_prompt=messages if given == "messages" else "And this?") for n in range(4)
    ]
    data[3]["teacher_prompt"] = None
    changes = {"teacher_system_prompt": RULE} if given.endswith("system prompt") else {}
    trainer = make(tmp_path, tiny_model_dir, data, **changes)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    reads = [rendered(tokenizer, row) for row in trainer.train_dataset]
    system = {"text": "", "messages": "<|im_start|>system\nWorked example: 1.<|im_end|>\n"}.get(
        given, f"<|im_start|>system\n{RULE}<|im_end|>\n"
    )
    for n in range(3):
        answer = f"<|im_start|>assistant\nFind its number {n}.<|im_end|>"
        assert reads[n][1].strip() == f"{system}<|im_start|>user\nAnd this?<|im_end|>\n{answer}"
    # Without a prompt of its own a row is read as it is, or behind the system prompt.
    assert reads[3][1].strip() == (
        reads[3][0].strip().replace("You are kind.", RULE) if changes else reads[3][0].strip()
    )


def test_conversations_are_compared_at_every_answer(tiny_model_dir, tmp_path):
    """Of two turns the first answer alone, or the user's words too, would be compared."""
    data = [
        {
            "messages": [
                {"role": "user", "content": f"One {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
                {"role": "user", "content": "Two?"},
                {"role": "assistant", "content": "No."},
            ]
        }
        for n in range(4)
    ]
    trainer = make(tmp_path, tiny_model_dir, data, teacher_system_prompt=RULE, assistant_only_loss=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for n, row in enumerate(trainer.train_dataset):
        for ids, labels in (("input_ids", "labels"), CONTEXT_COLUMNS):
            assert (
                tokenizer.decode([one for one in row[labels] if one != -100]) == f"It is {n}.<|im_end|>No.<|im_end|>"
            )
            assert (RULE in tokenizer.decode(row[ids])) == (ids != "input_ids")
    run(trainer)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_truncated_answers_stay_aligned(mode, tiny_model_dir, tmp_path):
    """The student's text is cut and the teacher's is not: one end of the answer would be compared with the other."""
    data = [{"prompt": "Q " * 12, "completion": " " + "x1 y2 z3 " * (n + 1), "teacher_prompt": "P "} for n in range(4)]
    trainer = make(tmp_path, tiny_model_dir, data, max_length=40, truncation_mode=mode)
    whole = make(tmp_path, tiny_model_dir, data, max_length=None)
    cut = 0
    for row, full in zip(trainer.train_dataset, whole.train_dataset, strict=True):
        own = [one for one in row["labels"][1:] if one != -100]
        read = [one for one in row[CONTEXT_COLUMNS[1]] if one != -100]
        every = [one for one in full["labels"] if one != -100]
        cut += len(row["input_ids"]) < len(full["input_ids"])
        # From the other end it is the prompt that is cut.
        assert own == read == (every[: len(own)] if mode == "keep_start" else every)
        ids, labels = (row[name] for name in CONTEXT_COLUMNS)
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert cut
    run(trainer)


def test_routed_member_reads_its_context_and_the_other_does_not(tiny_model_dir, tmp_path):
    """Two contexts over one batch: each row must be read behind its own teacher's prompt, or behind none."""
    data = [{**row, "teacher": ("safety", "base")[n % 2]} for n, row in enumerate(TEXT)]
    other = load(tiny_model_dir)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    teachers = {"safety": {"privileged_context": {"model": other}}, "base": None}
    given = {"peft_config": lora(), "teachers": teachers}
    changes = {"per_device_train_batch_size": 8, "max_steps": 1, **DISTIL}
    trainers = [
        build(tmp_path / name, tiny_model_dir, Dataset.from_list(data), given=given, **changes, **more)
        for name, more in (("padded", {}), ("free", {"padding_free": True, "max_length": None}))
    ]
    tokenizer, base = AutoTokenizer.from_pretrained(tiny_model_dir), load(tiny_model_dir).eval()
    pairs = text_pairs(tokenizer)
    sums, counts = {}, {}
    for name, model, chosen in (
        ("safety", other, pairs[::2]),
        ("base", base, [(own, own, answer) for own, _, answer in pairs[1::2]]),
    ):
        counts[name] = sum(len(answer) for _, _, answer in chosen)
        sums[name] = loss_by_hand(trainers[0], model.eval(), chosen) * counts[name]
    expected = sum(sums.values()) / sum(counts.values())
    for trainer in trainers:
        run(trainer)
        assert steps(trainer)[0]["loss"] == pytest.approx(expected, rel=2e-4)


def test_resumed_run_goes_on_with_each_rows_context(tiny_model_dir, tmp_path):
    """Contexts that were shifted to other rows, or read from the first row again, would be learnt without a word."""
    data = [{**row, "teacher": ("safety", "base")[n % 2]} for n, row in enumerate(TEXT)]
    data[3]["teacher_prompt"] = None  # a row that is read as it is, among those that are not
    changes = {
        **DISTIL,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
    }
    changes |= {"train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 3}

    def made(folder):
        teachers = {
            "safety": {"privileged_context": {"model": load(tiny_model_dir)}},
            "base": {"privileged_context": None},
        }
        given = {"peft_config": lora(), "teachers": teachers}
        return build(tmp_path / folder, tiny_model_dir, Dataset.from_list(data), given=given, **changes)

    whole = run(made("whole"))
    cut = made("cut")
    cut.add_callback(Stop(3))
    run(cut)
    resumed = made("cut")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    same_resumed(resumed, whole)


def test_system_prompts_differ_by_member(tiny_model_dir, tmp_path):
    """One prompt for all would be the last, or the first."""
    data = [{**row, "teacher": name} for row, name in zip(CHAT, ["a", "b", "c", None] * 2, strict=True)]
    teachers = {
        "a": {"privileged_context": None, "system_prompt": "Rule A."},
        "b": {"privileged_context": None, "system_prompt": "Rule B."},
        "c": None,
    }
    given = {"peft_config": lora(), "teachers": teachers}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(data), given=given, **DISTIL)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for n, row in enumerate(trainer.train_dataset):
        own, read = rendered(tokenizer, row)
        wanted = ["Rule A.", "Rule B.", None, "Rule A."][n % 4]
        assert read == own if wanted is None else wanted in read and read.count("Rule") == 1
    run(trainer)


def test_model_settings_reach_the_wrapped_teacher(tiny_model_dir, tmp_path):
    """A teacher that was asked for in bfloat16 would be loaded in another precision once it has a context."""
    trainer = make(
        tmp_path,
        tiny_model_dir,
        CHAT,
        teacher=str(tiny_model_dir),
        teacher_system_prompt=RULE,
        teacher_model_init_kwargs={"dtype": "bfloat16"},
    )
    teacher = trainer._extra_passes.teacher
    assert teacher.inner.model.dtype == torch.bfloat16 and "context" in teacher.facts()


def test_run_that_reads_no_teacher_ignores_the_column(tiny_model_dir, tmp_path):
    """SFTTrainer's own run must stay one, whatever columns the data has."""
    trainer = build(
        tmp_path, tiny_model_dir, Dataset.from_list(TEXT), given={"peft_config": lora()}, packing=True, **OFF
    )
    assert trainer.objective is None and CONTEXT_COLUMNS[0] not in trainer.train_dataset.column_names


def test_evaluation_reads_the_context_too(tiny_model_dir, tmp_path):
    """An evaluation behind the student's prompt measures another teacher."""
    given = {"eval_dataset": Dataset.from_list(TEXT[:3])}
    trainer = make(tmp_path, tiny_model_dir, TEXT, given=given)
    tokenizer, base = AutoTokenizer.from_pretrained(tiny_model_dir), load(tiny_model_dir).eval()
    expected = loss_by_hand(trainer, base, text_pairs(tokenizer, TEXT[:3]))
    assert trainer.evaluate()["eval_distillation_loss"] == pytest.approx(expected, rel=2e-4)
    bare = [{name: row[name] for name in ("prompt", "completion")} for row in TEXT]
    with pytest.raises(ValueError, match="the eval dataset has no column 'teacher_prompt'"):
        make(tmp_path, tiny_model_dir, TEXT, given={"eval_dataset": Dataset.from_list(bare)})


@pytest.mark.parametrize("layout", [{}, {"padding_free": True, "max_length": None}])
@pytest.mark.parametrize("perturbation", ["gaussian", "word_dropout"])
def test_all_terms_run_beside_a_context(perturbation, layout, tiny_model_dir, tmp_path):
    """The noisy view perturbs the student's prompt and not the teacher's, and is compared with what that said clean."""
    changes = {
        **ON,
        "regularization_loss": "reference_kl",
        "perturbation": perturbation,
        "consistency_target": "teacher",
        "consistency_fraction": 0.5,
        "role_rows": {"distillation": {"source": "good"}},
        "max_steps": 3,
        **layout,
    }
    data = [{**row, "source": ("good", "other")[n % 2]} for n, row in enumerate(CHAT)]
    trainer = run(make(tmp_path, tiny_model_dir, data, teacher_system_prompt=RULE, **changes))
    for step in steps(trainer):
        assert all(torch.isfinite(torch.tensor(value)) for value in step.values())
        assert step["distillation_loss"] > 0 and step["regularization_loss"] > 0
    # A step of few documents may have perturbed none.
    assert any(step.get("consistency_loss", 0) > 0 for step in steps(trainer))


@pytest.mark.parametrize("given", ["column", "field", "member"])
def test_cached_context_is_the_live_one(given, tiny_model_dir, tmp_path):
    """A cache that is asked for the texts behind the context, and not for the student's, holds none of them."""
    named = [{**row, "teacher": ("rule", "base")[n % 2]} for n, row in enumerate(TEXT)]
    data = {"column": TEXT, "field": CHAT, "member": named}[given]
    changes = {"teacher_system_prompt": RULE} if given == "field" else {}
    teachers = {"rule": {"privileged_context": None}, "base": None} if given == "member" else None
    runs = [
        make(tmp_path / name, tiny_model_dir, data, given={"teachers": teachers}, **changes)
        for name in ("written", "live")
    ]
    cache = tmp_path / "cache"
    cache_teachers(runs[0], cache, dtype="float32")
    cached = make(tmp_path / "cached", tiny_model_dir, data, teacher_cache=str(cache), **changes)
    assert CONTEXT_COLUMNS[0] not in cached.train_dataset.column_names
    for live, found in zip(steps(run(runs[1])), steps(run(cached)), strict=True):
        assert found["distillation_loss"] == pytest.approx(live["distillation_loss"], rel=1e-5)


def without(rows, *columns):
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


LONG = [dict(row) for row in TEXT]
LONG[5] = {**LONG[5], "teacher_prompt": "word " * 40 + LONG[5]["teacher_prompt"]}
REFUSED = {
    "too long": (
        LONG,
        {"max_length": 100},
        r"train dataset, row 5: with the teacher's prompt it has \d+ tokens, and max_length=100",
    ),
    "packing": (TEXT, {"packing": True}, "cannot be combined with packing"),
    "rejected": (
        [{**row, "rejected": " No."} for row in TEXT],
        {"contrastive_rejected": True, "contrastive_weight": 1.0},
        "cannot be combined with contrastive_rejected",
    ),
    "plain text": (
        without(TEXT, "teacher_prompt"),
        {"teacher_system_prompt": RULE},
        "row 0: its prompt is plain text",
    ),
    "no prompt": (
        [{"text": "a b c", "teacher_prompt": "d"}],
        {},
        "has no prompts that another could stand in the place of",
    ),
    "empty column": (
        [{**row, "teacher_prompt": None} for row in TEXT],
        {},
        "no row of the train dataset has another prompt",
    ),
    "trained prompts": (
        CHAT,
        {"teacher_system_prompt": RULE, "completion_only_loss": False},
        "are trained on like answers",
    ),
    "blank": (CHAT, {"teacher_system_prompt": " "}, "in which there is nothing to learn from"),
    "messages for text": (
        [{**row, "teacher_prompt": [{"role": "user", "content": "x"}]} for row in TEXT],
        {},
        "its prompt is plain text and its 'teacher_prompt' is list",
    ),
    "stream": (
        IterableDataset.from_generator(lambda: iter(TEXT)),
        {"teacher_system_prompt": RULE},
        "is a streaming dataset",
    ),
    "tokenized": (
        [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}],
        {"teacher_system_prompt": RULE},
        "the train dataset has no column 'hf_ckt_context_input_ids'",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_aligned_is_refused_before_training(case, tiny_model_dir, tmp_path):
    """Each of these would cut, drop or shift an answer, and the loss would fall all the same."""
    data, changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make(tmp_path, tiny_model_dir, data, **changes)


def test_answer_that_is_tokenized_otherwise_names_its_row(tiny_model_dir, tmp_path):
    """A token that merges with the end of one prompt only shifts every label behind it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    merged = next(
        (token[:1], token[1:])
        for token in sorted(tokenizer.get_vocab())
        if len(token) == 2 and token.isalpha() and token.isascii() and len(tokenizer(token)["input_ids"]) == 1
    )
    data = [dict(row) for row in TEXT]
    data[2] = {"prompt": f"Q{merged[0]}", "completion": f"{merged[1]} then.", "teacher_prompt": "Q 5"}
    with pytest.raises(ValueError, match="train dataset, row 2: its answer has"):
        make(tmp_path, tiny_model_dir, data)


@pytest.mark.parametrize(
    ("teacher", "teachers", "changes", "message"),
    [
        (
            {"privileged_context": None, "system_prompt": "A."},
            None,
            {"teacher_system_prompt": "B."},
            "the teacher has a system_prompt of its own",
        ),
        (None, {"a": None}, {"teacher_system_prompt": "B."}, "does not say which of the teachers"),
        (
            None,
            {"a": None, "b": None},
            {},
            r"the column 'teacher_prompt': does not say which of the teachers \(a, b\)",
        ),
    ],
)
def test_context_of_nobody_in_particular_is_refused(teacher, teachers, changes, message, tiny_model_dir, tmp_path):
    """One of two prompts would be dropped, or read by a teacher that was to go without."""
    data = CHAT if changes else [{**row, "teacher": "a"} for row in TEXT]
    with pytest.raises(ValueError, match=message):
        make(tmp_path, tiny_model_dir, data, teacher=teacher, given={"teachers": teachers}, **changes)


def test_other_answers_in_tokenized_data_are_found_by_the_collator(tiny_model_dir, tmp_path):
    """Data that was tokenized elsewhere is aligned by whoever did it; a slip there is one batch late, not never."""
    rows = [
        {
            "input_ids": [5, 6, 7, 8],
            "labels": [-100, -100, 7, 8],
            "hf_ckt_context_input_ids": [9, 7, 8],
            "hf_ckt_context_labels": [-100, 7, last],
        }
        for last in (8, 6)
    ]
    good = make(tmp_path, tiny_model_dir, [rows[0]] * 4, teacher=PrivilegedContextTeacher(SelfTeacher()))
    run(good)
    bad = make(tmp_path, tiny_model_dir, rows * 2, teacher=PrivilegedContextTeacher(SelfTeacher()))
    with pytest.raises(ValueError, match="the teacher 8, or other ones"):
        first_batch(bad)
