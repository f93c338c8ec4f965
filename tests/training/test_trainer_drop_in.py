# SPDX-License-Identifier: Apache-2.0
"""With every extra weight at 0 the trainer is SFTTrainer, to the last bit; with the task term alone, to rounding."""

import inspect
import json
from dataclasses import dataclass

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.models.precision import RECORD
from hf_ckt.training.config import RECOMMENDED_WEIGHTS
from tests.runs import OFF, rows
from tests.trainers import (
    TASK_ONLY,
    build,
    build_sft,
    fields,
    first_batch,
    gradients,
    load,
    lora,
    run,
    same_run,
    steps,
    trained,
)

SETTINGS = {
    "full": {},
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
    "packing": {"packing": True, "max_length": 48},
    "wrapped": {"packing": True, "packing_strategy": "wrapped", "max_length": 48},
    "padding_free": {"padding_free": True, "max_length": None},
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "dft": {"loss_type": "dft"},
    "neftune": {"neftune_noise_alpha": 5.0},
    "adapters": {},
}


def settings_of(name):
    given = {"peft_config": lora(lora_dropout=0.1)} if name == "adapters" else {}
    return {"given": given, **SETTINGS[name]}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_zero_weights_train_as_sft_trainer_to_the_last_bit(name, tiny_model_dir, tmp_path):
    """A random number drawn, or a division made in another order, would make the package's baseline its own."""
    expected = run(build_sft(tmp_path, tiny_model_dir, **settings_of(name)))
    trainer = run(build(tmp_path, tiny_model_dir, **settings_of(name), **OFF))
    same_run(trainer, expected)
    assert steps(trainer)[0]["grad_norm"] > 0


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("case", ["label_smoothing", "compute_loss_func", "prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("weights", [OFF, {}], ids=["zero", "none"])
def test_what_extra_terms_cannot_serve_trains_as_in_sft_trainer(case, weights, tiny_model_dir, tmp_path):
    """Weights left at None must not take away what SFTTrainer can do."""

    def loss(outputs, labels, num_items_in_batch=None):
        targets = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets, reduction="sum")
        return 2 * total / num_items_in_batch

    prompts = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    given, changes = {
        "label_smoothing": ({}, {"label_smoothing_factor": 0.1}),
        "compute_loss_func": ({"compute_loss_func": loss}, {}),
        "prompt_tuning": ({"peft_config": PromptTuningConfig(**prompts)}, {}),
        "prefix_tuning": ({"peft_config": PrefixTuningConfig(**prompts)}, {}),
    }[case]
    expected = run(build_sft(tmp_path, tiny_model_dir, given=given, **changes))
    trainer = run(build(tmp_path, tiny_model_dir, given=given, **changes, **weights))
    same_run(trainer, expected)


def test_evaluation_with_zero_weights_is_sft_trainers(tiny_model_dir, tmp_path):
    """Metrics under other names, or of another batch, would break early stopping and every plot."""
    data = {"one": Dataset.from_list(rows(3)), "two": Dataset.from_list(rows(6))}
    changes = {"eval_strategy": "steps", "eval_steps": 1, "given": {"eval_dataset": data}}
    expected = run(build_sft(tmp_path, tiny_model_dir, **changes))
    trainer = run(build(tmp_path, tiny_model_dir, **changes, **OFF))
    same_run(trainer, expected)
    assert "eval_two_loss" in {name for entry in trainer.state.log_history for name in entry}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", [SFTConfig, TrainingArguments])
def test_plain_arguments_are_converted_whole(kind, tiny_model_dir, tmp_path):
    """A setting lost on the way would be replaced by its default without a word; `to_dict` masks tokens."""
    extra = {"eos_token": "<|endoftext|>", "pad_token": "<|im_start|>"} if kind is SFTConfig else {}
    args = kind(
        str(tmp_path), **fields(weight_decay=0.1, seed=3, lr_scheduler_type="cosine"), hub_token="secret", **extra
    )
    converted = ContrastiveRobustConfig.from_arguments(args)
    for name, value in {**args.to_dict(), "hub_token": "secret", **extra}.items():
        assert getattr(converted, name) == getattr(args, name), (name, value)
    data = Dataset.from_list(rows())
    expected = run(SFTTrainer(str(tiny_model_dir), args, train_dataset=data))
    trainer = run(ContrastiveRobustTrainer(str(tiny_model_dir), converted, train_dataset=data))
    assert trainer._tokenizer.eos_token == expected._tokenizer.eos_token
    same_run(trainer, expected)


PLAIN = {
    "full": ({}, {}),
    "adapters": ({}, {"peft_config": "lora"}),
    "checkpointing": ({"gradient_checkpointing": True}, {"peft_config": "lora"}),
    "packing": ({"packing": True, "max_length": 48}, {}),
    "dft": ({"loss_type": "dft"}, {}),
    "bf16": ({"bf16": True}, {"peft_config": "lora"}),
    "evaluation": ({"eval_strategy": "steps", "eval_steps": 1}, {"eval_dataset": Dataset.from_list(rows(3))}),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, SFTConfig) for name in PLAIN), ("full", TrainingArguments), ("adapters", TrainingArguments)],
)
def test_plain_arguments_train_as_sft_trainer_to_the_last_bit(name, kind, tiny_model_dir, tmp_path, caplog):
    """The class name swapped and nothing else must not switch a term on: another loss, at twice the cost."""
    changes, given = PLAIN[name]
    given = {name: lora(lora_dropout=0.1) if value == "lora" else value for name, value in given.items()}

    def make(trainer):
        data = Dataset.from_list(rows())
        return run(trainer(str(tiny_model_dir), kind(str(tmp_path), **fields(**changes)), train_dataset=data, **given))

    expected = make(SFTTrainer)
    assert not caplog.messages
    trainer = make(ContrastiveRobustTrainer)
    assert trainer.objective is None
    same_run(trainer, expected)
    said = [message for message in caplog.messages if kind.__name__ in message]
    assert len(said) == 1 and "ContrastiveRobustConfig" in said[0] and "consistency_weight" in said[0]


def test_float16_weights_train_under_a_plain_config_as_in_sft_trainer(tiny_model_dir, tmp_path):
    """A term that was never asked for overflowed in pure float16 and stopped the run."""
    changes = {"model_init_kwargs": {"dtype": torch.float16}, "learning_rate": 0.1, "max_steps": 3}
    data = Dataset.from_list(rows())
    expected, trainer = (
        run(kind(str(tiny_model_dir), SFTConfig(str(tmp_path), **fields(**changes)), train_dataset=data))
        for kind in (SFTTrainer, ContrastiveRobustTrainer)
    )
    # As text: a loss that is not a number equals itself there.
    assert str(trainer.state.log_history[:-1]) == str(expected.state.log_history[:-1])
    first, second = trained(trainer), trained(expected)
    assert all(torch.equal(value.view(torch.int16), second[key].view(torch.int16)) for key, value in first.items())


def test_float16_weights_train_as_in_sft_trainer_until_a_weight_is_set(tiny_model_dir, tmp_path):
    """A recommended weight that makes pure float16 overflow is no recommendation; one that was set is taken as it is."""
    model = {"model_init_kwargs": {"dtype": torch.float16}}
    changes = {**model, "learning_rate": 0.1, "max_steps": 3}
    expected, trainer = (
        run(build_sft(tmp_path, tiny_model_dir, **changes)),
        run(build(tmp_path, tiny_model_dir, **changes)),
    )
    assert trainer.objective is None
    assert str(trainer.state.log_history[:-1]) == str(expected.state.log_history[:-1])
    assert set(build(tmp_path, tiny_model_dir, **model, consistency_weight=0.1).objective.terms) == {
        "task",
        "consistency",
    }
    # An adapter over a base in float16 trains in float32.
    adapted = build(tmp_path, tiny_model_dir, **model, given={"peft_config": lora()})
    assert "consistency" in adapted.objective.terms


def test_what_was_set_on_a_plain_config_is_kept(tmp_path):
    """`_n_gpu`, a setting changed afterwards or a field of the user's own class would be lost in a second __init__."""

    @dataclass
    class Own(SFTConfig):
        extra: int = 3

    args = Own(str(tmp_path), **fields(), extra=4)
    args._n_gpu, args.warmup_steps, args.note = 7, 11, "mine"
    converted = ContrastiveRobustConfig.from_arguments(args)
    assert {name: getattr(converted, name) for name in vars(args)} == vars(args)
    assert (converted._n_gpu, converted.warmup_steps, converted.note, converted.extra) == (7, 11, "mine", 4)
    defaults = ContrastiveRobustConfig(str(tmp_path), **fields(), **OFF)
    assert all(
        getattr(converted, name) == getattr(defaults, name) for name in defaults.to_dict() if name not in vars(args)
    )


def test_a_teacher_beside_a_plain_config_is_refused(tiny_model_dir, tmp_path):
    """A teacher that no term reads would be loaded and teach nothing."""
    with pytest.raises(ValueError, match=r"teacher_model: args is a plain SFTConfig.*ContrastiveRobustConfig"):
        ContrastiveRobustTrainer(
            str(tiny_model_dir),
            SFTConfig(str(tmp_path), **fields()),
            train_dataset=Dataset.from_list(rows()),
            teacher_model=str(tiny_model_dir),
        )


def test_weights_left_out_get_the_recommended_objective(tiny_model_dir, tmp_path):
    """The package's own configuration must bring the method, not SFTTrainer under another name."""
    adapters = build(tmp_path, tiny_model_dir, given={"peft_config": lora()})
    assert {role: term.schedule.weight for role, term in adapters.objective.terms.items()} == RECOMMENDED_WEIGHTS
    # Without an adapter or a teacher only the term that needs neither is left.
    assert set(build(tmp_path, tiny_model_dir).objective.terms) == {"task", "consistency"}


def test_conversion_leaves_the_users_arguments_alone(tmp_path):
    """A script that builds two trainers from one configuration would find it changed."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(load_in_8bit=True)
    kwargs = {"dtype": torch.bfloat16, "quantization_config": quantization}
    args = SFTConfig(str(tmp_path), **fields(), model_init_kwargs=kwargs)
    ContrastiveRobustConfig.from_arguments(args)
    assert args.model_init_kwargs["quantization_config"] is quantization
    assert args.model_init_kwargs["dtype"] == torch.bfloat16


def test_a_config_of_its_own_class_is_kept(tmp_path):
    """A copy would lose what the user sets on the object after building it."""
    args = ContrastiveRobustConfig(str(tmp_path), **fields())
    assert ContrastiveRobustConfig.from_arguments(args) is args


def test_defaults_of_sft_config_are_unchanged():
    """A changed default would be another training run under the same script."""
    ours, theirs = ContrastiveRobustConfig("out", use_cpu=True), SFTConfig("out", use_cpu=True)
    assert {name: getattr(ours, name) for name in theirs.to_dict()} == {
        name: getattr(theirs, name) for name in theirs.to_dict()
    }


def test_arguments_are_taken_in_sft_trainers_order(tiny_model_dir, tmp_path):
    """A positional call that lands on another argument trains on the evaluation data, say."""
    model = load(tiny_model_dir)
    data, held_out = Dataset.from_list(rows(8)), Dataset.from_list(rows(3))
    order = list(inspect.signature(SFTTrainer.__init__).parameters)[1:]
    assert order[:5] == ["model", "args", "data_collator", "train_dataset", "eval_dataset"]
    args = ContrastiveRobustConfig(str(tmp_path), **fields(**OFF))
    trainer = ContrastiveRobustTrainer(model, args, None, data, held_out)
    assert trainer.model is model and trainer.args is args
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (8, 3)
    with pytest.raises(TypeError, match="traindataset"):
        ContrastiveRobustTrainer(model, args, traindataset=data)


def test_without_arguments_a_config_is_made(tiny_model_dir, tmp_path, monkeypatch):
    """`args=None` is allowed in SFTTrainer; the output folder is named after the model."""

    class OnCPU(ContrastiveRobustConfig):
        def __post_init__(self):
            self.use_cpu = True
            super().__post_init__()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_ckt.training.trainer.ContrastiveRobustConfig", OnCPU)
    trainer = ContrastiveRobustTrainer(str(tiny_model_dir), train_dataset=Dataset.from_list(rows()))
    assert isinstance(trainer.args, ContrastiveRobustConfig)
    assert trainer.args.output_dir == f"{tiny_model_dir.name}-CKT"


TASK_SETTINGS = {
    name: SETTINGS[name]
    for name in ("full", "accumulation", "packing", "wrapped", "padding_free", "dft", "checkpointing", "neftune")
}


@pytest.mark.parametrize("name", list(TASK_SETTINGS))
def test_task_term_alone_equals_sft_trainer_to_rounding(name, tiny_model_dir, tmp_path):
    """The objective's own normalisation must be SFTTrainer's in every setting, not only with full batches."""
    given = {"peft_config": lora()}
    changes = {"optim": "sgd", "max_steps": 3, "max_grad_norm": 0.0, **TASK_SETTINGS[name]}
    expected = run(build_sft(tmp_path, tiny_model_dir, given=given, **changes))
    trainer = run(build(tmp_path, tiny_model_dir, given=given, **changes, **TASK_ONLY))
    for ours, theirs in zip(steps(trainer), steps(expected), strict=True):
        for key in ("loss", "grad_norm", "learning_rate", "num_tokens"):
            assert ours[key] == pytest.approx(theirs[key], rel=3e-6), key
    first, second = trained(trainer), trained(expected)
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=3e-7)
    difference = torch.cat([(first[key] - second[key]).flatten() for key in first])
    assert abs(difference.double().mean()) < 1e-8


@pytest.mark.parametrize("head", ["frozen", "trained", "tied", "modules_to_save", "softcap"])
def test_gradients_equal_sft_trainers(head, tiny_model_dir, tiny_gemma2_dir, tmp_path):
    """A head that trains gets its gradient from the tiles, a tied one from the embeddings too, a capped one bent."""
    folder = tiny_gemma2_dir if head in ("tied", "softcap") else tiny_model_dir
    peft = {
        "frozen": lora(),
        "modules_to_save": lora(modules_to_save=["lm_head"], exclude_modules=["lm_head"]),
        "softcap": lora(),
    }
    given = {"peft_config": peft[head]} if head in peft else {}
    # Without an adapter there is none to penalise: the task at another weight is what brings the objective in.
    weights = TASK_ONLY if head in peft else {**OFF, "task_weight": 2.0}
    expected = gradients(build_sft(tmp_path, folder, given=given))
    found = gradients(build(tmp_path, folder, given=given, **weights))
    assert found.keys() == expected.keys()
    factor = 1.0 if head in peft else 2.0
    for name in expected:
        torch.testing.assert_close(found[name], factor * expected[name], rtol=1e-4, atol=1e-6)
    assert (head in ("trained", "modules_to_save")) == any("lm_head" in name for name in found)


def test_last_uneven_accumulation_equals_sft_trainers(tiny_model_dir, tmp_path):
    """The last step of an epoch accumulates fewer batches; dividing by the usual number would shrink it."""
    changes = {
        "optim": "sgd",
        "max_steps": -1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "given": {"peft_config": lora()},
    }
    expected = run(build_sft(tmp_path, tiny_model_dir, **changes))
    trainer = run(build(tmp_path, tiny_model_dir, **changes, **TASK_ONLY))
    assert len(steps(trainer)) == len(steps(expected)) == 4
    for ours, theirs in zip(steps(trainer), steps(expected), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=3e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_batch_handed_to_compute_loss_is_left_as_it_was(tiny_model_dir, tmp_path):
    """Trainer reads the labels of the same batch afterwards, for the metrics."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **TASK_ONLY)
    batch = first_batch(trainer)
    before = {name: value.clone() for name, value in batch.items()}
    trainer.compute_loss(trainer.model, batch)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], before[name]) for name in before)


def test_trained_adapter_is_saved_as_by_sft_trainer(tiny_model_dir, tmp_path):
    """An adapter saved under other names loads as an untrained one."""
    files = {}
    for name, builder, weights in (("theirs", build_sft, {}), ("ours", build, TASK_ONLY)):
        trainer = builder(tmp_path / name, tiny_model_dir, given={"peft_config": LoraConfig(r=4)}, **weights)
        trainer.train()
        trainer.save_model()
        files[name] = sorted(path.name for path in (tmp_path / name).iterdir())
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny_model_dir)
    # Over which backbone an adapter was trained stands in a file of its own.
    assert files["ours"] == sorted([*files["theirs"], RECORD])
