# SPDX-License-Identifier: Apache-2.0
"""One prompt to a base and to an adapter on it, over one backbone in memory: answers as they are written, and margins."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any

from ..checks import require_count, require_within
from ..data.corrupt import prompt_noise, text_perturbation
from .measuring.answers import padded
from .measuring.backbones import Backbones
from .measuring.chat_format import ChatFormat, require_tokens
from .measuring.generation import adapter_generation, decoding, generating
from .measuring.models import EvaluatedModel, Loading, public_name
from .measuring.refusal_openings import COMPLIANCE_OPENINGS, REFUSAL_OPENINGS, Leaning, refusal_leanings

_LARGEST_SEED = 2**63 - 1
_LEAST_TEMPERATURE = 0.001


@dataclass(frozen=True)
class Asking:
    """
    How the next prompt is asked.

    Args:
        perturbation (`str`, *optional*):
            Name of a perturbation of text; None leaves the prompt as it is.
        severity (`float`, *optional*):
            Its strength, in [0, 1]. None: the perturbation's default.
        seed (`int`, *optional*, defaults to `0`):
            Of the noise, and of what is drawn while answering; 0 or more.
        temperature (`float`, *optional*, defaults to `0.0`):
            0: the most probable token each time; from 0.001 on, tokens are drawn from all that the model says at this temperature.

    Raises:
        ValueError: If there is no such perturbation, or a number is out of its range.
    """

    perturbation: str | None = None
    severity: float | None = None
    seed: int = 0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        require_count(
            "seed", self.seed, 0, "Python's generator takes -1 for 1, so two seeds would give the same noise."
        )
        require_within(
            "temperature",
            self.temperature,
            0,
            math.inf,
            "Below 0 the least probable tokens would come first. Use 0 for greedy.",
        )
        if self.seed > _LARGEST_SEED:
            raise ValueError(f"seed: must be at most {_LARGEST_SEED}, got {self.seed}. Torch takes none above.")
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature: must be 0 or at least {_LEAST_TEMPERATURE}, got {self.temperature}. Logits that are divided by "
                "less may be infinite. Use 0 for greedy."
            )
        if self.perturbation is not None:
            text_perturbation(self.perturbation, self.severity)

    def asked(self, prompt: str) -> str:
        """Returns a prompt as it is asked; its noise is that of `hf-ckt perturb` with the same seed."""
        if self.perturbation is None:
            return prompt
        return text_perturbation(self.perturbation, self.severity).apply(prompt, prompt_noise(prompt, self.seed))

    def described(self) -> str:
        """Returns the noise in words."""
        if self.perturbation is None:
            return "none"
        return (
            f"{self.perturbation} {text_perturbation(self.perturbation, self.severity).severity:g}, seed {self.seed}"
        )


@dataclass
class SideBySide:
    """
    The models that are compared, loaded once.

    Every prompt stands alone: with what was said before, each model would read its own earlier answers, so that from the
    second prompt on they would answer different texts. That is also how prompts are asked in an evaluation.

    Args:
        formats (`Mapping[EvaluatedModel, ChatFormat]`):
            The models, and how each is asked. Adapters on one backbone share it.
        loading ([`Loading`], *optional*):
            How weights are loaded.
        new_tokens (`int`, *optional*, defaults to `256`):
            Most tokens of an answer; at least 1.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Whether answers are generated as each model's own generation configuration says, where [`Asking`] has no temperature.
    """

    formats: Mapping[EvaluatedModel, ChatFormat]
    loading: Loading = field(default_factory=Loading)
    new_tokens: int = 256
    keep_generation_config: bool = False
    # An adapter is switched on and off in the one backbone, so there is one pass at a time, whoever asks.
    _turn: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        require_count("--new-tokens", self.new_tokens, 1, "With none there is no answer.")
        self._backbones = Backbones(self.loading)
        self._beside = {
            entry: adapter_generation(entry.adapter, required=self.keep_generation_config) for entry in self.formats
        }

    @property
    def entries(self) -> list[EvaluatedModel]:
        """The models, the base first."""
        return [*self.formats]

    def load(self) -> None:
        """Loads what was not loaded yet, so that no prompt waits for it and what does not fit is known before the first."""
        for entry, asked in self.formats.items():
            with self._backbones.active(entry) as model:
                require_tokens(model, entry, asked.tokenizer, self.loading.trust_remote_code)
                config = self._decoding(entry, model, 0.0)
                if (config.num_beams or 1) > 1:
                    raise ValueError(
                        f"--keep-generation-config: {public_name(entry.adapter or entry.model)!r} answers with "
                        f"{config.num_beams} beams, which cannot be shown while they are written. Leave it out."
                    )

    def leanings(self, entry: EvaluatedModel, prompts: Sequence[str]) -> list[Leaning]:
        """Returns how far a model leans to refusing each prompt, before it has said a word."""
        from ..models.positions import require_room

        asked = self.formats[entry]
        openings = asked.tokenizer([*REFUSAL_OPENINGS, *COMPLIANCE_OPENINGS], add_special_tokens=False)["input_ids"]
        longest = max(map(len, asked.ids(prompts, answering=True))) + max(self.new_tokens, *map(len, openings))
        with self._turn, self._backbones.active(entry) as model:
            require_room(model, longest)
            return refusal_leanings(model, asked, prompts, title=None)

    def answer(self, entry: EvaluatedModel, prompt: str, asking: Asking) -> Generator[str, None, None]:
        """
        Yields a model's answer word by word; closed before its end, as a generator may be, it writes no further.

        Args:
            entry ([`EvaluatedModel`]):
                Whose answer.
            prompt (`str`):
                As it is asked: noise is not added here.
            asking ([`Asking`]):
                Seed and temperature.
        """
        pieces = _pieces(self.formats[entry].tokenizer)
        stopped, errors = Event(), list[BaseException]()

        def write() -> None:
            try:
                # All in this thread: what torch is told of gradients holds for the thread that tells it.
                with self._turn, self._backbones.active(entry) as model:
                    self._write(entry, model, prompt, asking, pieces, stopped)
            except BaseException as error:
                errors.append(error)
            finally:
                pieces.text_queue.put(pieces.stop_signal)

        thread = Thread(target=write, name="answer", daemon=True)
        thread.start()
        try:
            yield from filter(None, pieces)
        finally:
            stopped.set()
            thread.join()
        if errors:
            raise errors[0]

    def _write(
        self, entry: EvaluatedModel, model: Any, prompt: str, asking: Asking, pieces: Any, stopped: Event
    ) -> None:
        import torch
        from transformers import StoppingCriteriaList

        from ..models.backbone import frozen
        from ..models.positions import require_room

        asked = self.formats[entry]
        inputs = padded(asked.tokenizer, asked.ids([prompt])).to(model.device)
        require_room(model, inputs["input_ids"].shape[1] + self.new_tokens)
        config = self._decoding(entry, model, asking.temperature)
        config.max_new_tokens = self.new_tokens
        pieces.ends = frozenset(config.eos_token_id or ())
        stop = StoppingCriteriaList([lambda ids, scores, **_: torch.full((len(ids),), stopped.is_set())])
        devices = [model.device] if model.device.type == "cuda" else []
        options = {"tokenizer": asked.tokenizer} if config.stop_strings else {}
        with frozen(model), generating(model, config), torch.random.fork_rng(devices):
            torch.manual_seed(asking.seed)
            model.generate(**inputs, streamer=pieces, stopping_criteria=stop, **options)

    def _decoding(self, entry: EvaluatedModel, model: Any, temperature: float) -> Any:
        tokenizer = self.formats[entry].tokenizer
        config = decoding(
            model.generation_config, tokenizer, self._beside[entry], keep_own=self.keep_generation_config
        )
        if temperature:
            config.do_sample, config.temperature = True, temperature
            if not self.keep_generation_config:
                # What is left open here, transformers fills with a top_k of 50.
                config.top_k, config.top_p = 0, 1.0
        return config


def _pieces(tokenizer: Any) -> Any:
    from transformers import TextIteratorStreamer

    class Pieces(TextIteratorStreamer):
        """Whole words as they come, without the token that ends an answer, which not every tokenizer calls special."""

        ends: frozenset[int] = frozenset()

        def put(self, value: Any) -> None:
            if self.next_tokens_are_prompt or value.item() not in self.ends:
                super().put(value)

    return Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
