# SPDX-License-Identifier: Apache-2.0
"""
A process that trains one variant of `step.py` with the real trainer, one step for each line it is given.

Started by `step_group.py`. It reads a job (one line of JSON), then a line before each step, from its standard input, and
writes one JSON object a line to its standard output: `ready` before a step, `step` after it, `done` at the end.
"""

import json
import os
import resource
import sys
import time
from functools import partial
from typing import Any, TextIO

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    default_data_collator,
)
from trl import SFTConfig, SFTTrainer

from cases import STEP_VARIANTS, StepCase
from hf_ckt.fit.shapes import SHAPES, ModelShape
from hf_ckt.training.config import ContrastiveRobustConfig
from hf_ckt.training.trainer import ContrastiveRobustTrainer
from memory import reset_high_water_mark, status_bytes
from step_teachers import teacher_of

_SEED = 0
_ON_CUDA = torch.cuda.is_available()


def main() -> int:
    """Runs the job of the first line."""
    # Libraries print: their lines go to the error stream, and only this file's to the pipe that is read as JSON.
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    steps = Steps(sys.stdin, events, job["warmup"])
    trainer = build_trainer(job)
    steps.attach(trainer)
    trainer.train()
    steps.finish()
    return 0


def build_trainer(job: dict[str, Any]) -> Any:
    """
    Builds the trainer of a job.

    Args:
        job (`dict`):
            `variant`, a name of `cases.STEP_VARIANTS`; `case`, the fields of `cases.StepCase`; `path`, folder or
            Hub id of the model, `None` for random weights; `steps`; `folder`, to write to; `compile`, as
            `objective_compile`, or `None` for the configuration's own choice; `double_quantization`, of a 4-bit
            backbone's scales (may be left out: no).
    """
    case, variant = StepCase(**job["case"]), STEP_VARIANTS[job["variant"]]
    model = load_model(case, job["path"], job.get("double_quantization", False))
    tokenizer = load_tokenizer(case, job["path"])
    needs_model = variant.separate_teacher or (variant.trainer == "hf_ckt" and case.teacher == "model")
    teacher = {"teacher_model": load_model(case, job["path"])} if needs_model else {}
    fields = {
        "output_dir": job["folder"],
        "max_steps": job["steps"],
        "per_device_train_batch_size": case.batch_size,
        "max_length": case.length,
        "gradient_checkpointing": case.gradient_checkpointing,
        "bf16": case.precision == "bf16" or (_ON_CUDA and case.precision == "nf4"),
        "use_cpu": not _ON_CUDA,
        "train_sampling_strategy": "sequential",
        # The first step, which is not timed, is logged for comparison; a log within the others would be timed too.
        "logging_first_step": True,
        "logging_steps": 10**6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": _SEED,
        **variant.fields,
    }
    columns: dict[str, Any] = {}
    if case.data == "prompts":
        columns = random_prompts(case, job["steps"], tokenizer)
    else:
        columns["input_ids"] = random_rows(case, job["steps"], model.config.get_text_config().vocab_size)
    given: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        **teacher,
    }
    if variant.trainer == "sft":
        return SFTTrainer(args=SFTConfig(**fields), train_dataset=Dataset.from_dict(columns), **given)
    if variant.trainer == "gkd":
        # Here and not above: TRL calls it experimental, and its other trainers should run when it moves.
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        # Its own collator tokenizes conversations; with `lmbda=0` it reads no prompts, so plain rows do.
        columns["labels"] = columns["input_ids"]
        columns["attention_mask"] = [[1] * case.length for _ in columns["input_ids"]]
        dataset = Dataset.from_dict(columns)
        return GKDTrainer(
            args=GKDConfig(**fields), train_dataset=dataset, data_collator=default_data_collator, **given
        )
    if variant.teacher:
        load = partial(load_model, path=job["path"])
        given |= teacher_of(variant.teacher, case, load, fields, columns, tokenizer)
    elif teacher:
        given["teacher_processing_class"] = tokenizer
    if job["compile"] is not None:
        fields["objective_compile"] = job["compile"]
    args = ContrastiveRobustConfig(**fields)
    return ContrastiveRobustTrainer(args=args, train_dataset=Dataset.from_dict(columns), **given)


def random_rows(case: StepCase, steps: int, vocab_size: int) -> list[list[int]]:
    """Returns as many rows of random ids as the steps take: no padding, no prompt, so every token is kept."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, vocab_size, (case.batch_size * steps, case.length), generator=generator).tolist()


def random_prompts(case: StepCase, steps: int, tokenizer: Any) -> dict[str, list[str]]:
    """Returns prompts and completions of random words, each a token of its own: half of a row's length each."""
    vocabulary = sorted(tokenizer.get_vocab())
    words = [
        token[1:] for token in vocabulary if len(token) > 3 and token[0] in "\u0120\u2581" and token[1:].isalpha()
    ]
    generator = torch.Generator().manual_seed(_SEED)

    def texts(tokens: int) -> list[str]:
        drawn = torch.randint(0, len(words), (case.batch_size * steps, tokens), generator=generator)
        return ["".join(f" {words[index]}" for index in row) for row in drawn.tolist()]

    # The trainer adds the token that ends a text.
    return {"prompt": texts(case.length // 2), "completion": texts(case.length - case.length // 2 - 1)}


def load_model(case: StepCase, path: str | None, double_quantization: bool = False) -> Any:
    """Loads the model in the case's precision; the same call makes a teacher's copy."""
    compute = torch.bfloat16 if case.precision == "bf16" or (_ON_CUDA and case.precision == "nf4") else torch.float32
    options: dict[str, Any] = {"dtype": compute}
    if case.precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_use_double_quant=double_quantization,
        )
    if path is None:
        return _random_model(random_shape(case), options)
    return AutoModelForCausalLM.from_pretrained(path, **options)


def load_tokenizer(case: StepCase, path: str | None) -> Any:
    """Loads the model's tokenizer; one of random weights has a word for each id."""
    if path is not None:
        return AutoTokenizer.from_pretrained(path)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {str(index): index for index in range(random_shape(case).vocab)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="0", eos_token="1", pad_token="2")


def random_shape(case: StepCase) -> ModelShape:
    """Returns the shape that `random-*` names."""
    return SHAPES[case.model.removeprefix("random-")].reduced(case.layers, case.shrink)


def _random_model(shape: ModelShape, options: dict[str, Any]) -> Any:
    config, dtype = shape.config(), options["dtype"]
    torch.manual_seed(_SEED)
    if "quantization_config" not in options:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Quantized on the way in, as a checkpoint would be, but from memory. All layers are given the same tensors, which
    # costs one layer instead of all of them in full precision; each layer's own 4-bit weights come out of it.
    with torch.device("meta"):
        names = LlamaForCausalLM(config).state_dict()
    shared: dict[Any, torch.Tensor] = {}
    weights = {}
    for name, tensor in names.items():
        key = tensor.shape if ".layers." in name and tensor.dim() == 2 else name
        if key not in shared:
            # A GPU draws an 8B model's numbers in a moment, a CPU core in half a minute.
            blank = torch.empty(tensor.shape, dtype=dtype, device="cuda" if _ON_CUDA else "cpu")
            drawn = blank.normal_(std=config.initializer_range) if tensor.dim() == 2 else blank.fill_(1)
            shared[key] = drawn.cpu()
        weights[name] = shared[key]
    return LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights, **options)


class Steps(TrainerCallback):
    """
    Waits for a line before each step and reports after it.

    Args:
        words (`TextIO`):
            Where the lines come from; its end ends the process, for then nobody is there any more.
        events (`TextIO`):
            Where the reports go.
        warmup (`int`):
            Steps after which the high-water mark of memory is set back.
    """

    def __init__(self, words: TextIO, events: TextIO, warmup: int):
        self.words, self.events, self.warmup = words, events, warmup
        self.memory = Memory()
        self.cold_peak: int | None = None
        self.before: int | None = None
        self.first_log: dict[str, float] = {}
        self.losses: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []

    def attach(self, trainer: Any) -> None:
        """Listens to a trainer: to its steps, and to the loss of each batch."""
        objective = getattr(trainer, "objective", None)
        # What `objective_compile=None` came to is known after the first step.
        self.compiled = lambda: None if objective is None else objective.compiles
        compute_loss = trainer.compute_loss

        def compute(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self.kept.append((inputs["labels"][:, 1:] != -100).sum())
            loss = compute_loss(model, inputs, *args, **kwargs)
            self.losses.append(loss.detach())  # read at the end: the device is not waited for
            return loss

        trainer.compute_loss = compute
        trainer.add_callback(self)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _ON_CUDA:
            # The process waits while others take their steps, and should not hold what they need. Outside the timing,
            # but its price is inside: each step asks the driver for its memory anew. Not so on CPU, where the price is
            # that of faulting it in, page by page: more than the step's own differences, and least for the leanest.
            torch.cuda.empty_cache()
        if state.global_step == 0:
            self.before = self.memory.held_bytes()
        if state.global_step == self.warmup and state.global_step:
            self.cold_peak = self.memory.peak_bytes()
        if state.global_step in (0, self.warmup):
            self.memory.reset()
        self._say("ready", first_log=self.first_log)
        if not self.words.readline():
            raise SystemExit("nobody is left to measure for")
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _ON_CUDA:
            torch.cuda.synchronize()
        self._say("step", seconds=time.perf_counter() - self.start)
        self.peak = self.memory.peak_bytes()
        self.host_peak = self.memory.host_peak_bytes()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.first_log = self.first_log or {name: value for name, value in logs.items() if "loss" in name}

    def finish(self) -> None:
        """Reports what was gathered over the run."""
        self._say(
            "done",
            peak_bytes=self.peak,
            host_peak_bytes=self.host_peak,
            cold_peak_bytes=self.cold_peak,
            before_bytes=self.before,
            compiled=self.compiled(),
            peak_source=self.memory.source,
            losses=[float(loss) for loss in self.losses],
            kept_tokens=[int(count) for count in self.kept],
        )

    def _say(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), file=self.events, flush=True)


class Memory:
    """The high-water mark of a process's memory: of the allocator on CUDA, else of what is resident."""

    def __init__(self) -> None:
        self.source = "torch.cuda.max_memory_allocated" if _ON_CUDA else "VmHWM"

    def reset(self) -> None:
        """Sets the mark to what is in use now; where the system forbids that, it counts since the process began."""
        if _ON_CUDA:
            torch.cuda.reset_peak_memory_stats()
        try:
            reset_high_water_mark()
        except OSError:
            self.source = self.source if _ON_CUDA else "ru_maxrss, loading included"

    def peak_bytes(self) -> int:
        """Returns the mark of the device that trains."""
        return torch.cuda.max_memory_allocated() if _ON_CUDA else self.host_peak_bytes()

    def host_peak_bytes(self) -> int:
        """Returns the mark of the process."""
        try:
            return status_bytes("VmHWM")
        except OSError:
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def held_bytes(self) -> int | None:
        """Returns what is in use now, on the device that trains; None where the system does not say."""
        if _ON_CUDA:
            return torch.cuda.memory_allocated()
        try:
            return status_bytes("VmRSS")
        except OSError:
            return None


if __name__ == "__main__":
    sys.exit(main())
