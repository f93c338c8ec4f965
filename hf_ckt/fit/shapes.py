# SPDX-License-Identifier: Apache-2.0
"""Shapes of well-known models: what is needed of a model that is not loaded."""

from dataclasses import dataclass, replace
from typing import Any

_CONFIG_NAMES = (
    *("num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "vocab_size"),
)


@dataclass(frozen=True)
class ModelShape:
    """
    Sizes of a Llama-like model: grouped-query attention, a gated feed-forward layer, RMS norms.

    Args:
        family (`str`):
            Whose sizes they are.
        layers (`int`), hidden (`int`), intermediate (`int`), heads (`int`), key_value_heads (`int`), head_size (`int`):
            As in the family's configuration.
        vocab (`int`), tied (`bool`):
            Rows of the head, and whether the embedding is the same matrix.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocab: int
    tied: bool

    @property
    def linear_sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps: query, key, value, output, gate, up, down."""
        query, key = self.heads * self.head_size, self.key_value_heads * self.head_size
        return [
            (self.hidden, query),
            (self.hidden, key),
            (self.hidden, key),
            (query, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]

    @property
    def linear_parameters(self) -> int:
        """Parameters of the layers' linear maps: what is quantized, and what a pass multiplies by."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_sizes)

    @property
    def head_parameters(self) -> int:
        """Parameters of the head."""
        return self.vocab * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of head and embedding together."""
        return self.head_parameters * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        return self.linear_parameters + self.embedding_parameters + self.norm_parameters

    @property
    def norm_parameters(self) -> int:
        """Parameters of the norms: two a layer and the last."""
        return (2 * self.layers + 1) * self.hidden

    @classmethod
    def of(cls, config: Any) -> "ModelShape | None":
        """Returns the shape that a model's configuration states; None where it states none of this kind."""
        config = config.get_text_config()
        read: list[Any] = [getattr(config, name, None) for name in _CONFIG_NAMES]
        # Another activation is the sign of another layer: Gemma's has norms behind its maps too, and is of this size.
        if not all(isinstance(value, int) for value in read) or getattr(config, "hidden_act", None) != "silu":
            return None
        layers, hidden, intermediate, heads, key_value_heads, vocab = read
        size = getattr(config, "head_dim", None) or hidden // heads
        tied = bool(getattr(config, "tie_word_embeddings", False))
        return cls(config.model_type, layers, hidden, intermediate, heads, key_value_heads, size, vocab, tied=tied)

    def reduced(self, layers: int | None = None, shrink: int = 1) -> "ModelShape":
        """Returns the shape with another number of layers, its widths and vocabulary divided by `shrink`."""
        return replace(
            self,
            layers=layers or self.layers,
            hidden=self.hidden // shrink,
            intermediate=self.intermediate // shrink,
            heads=max(1, self.heads // shrink),
            key_value_heads=max(1, self.key_value_heads // shrink),
            vocab=self.vocab // shrink,
        )

    def config(self) -> Any:
        """Returns the `LlamaConfig` of the shape."""
        from transformers import LlamaConfig

        return LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_size,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            max_position_embeddings=131072,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )


# From the config.json of each family's repository on the Hub.
SHAPES = {
    "1b": ModelShape("Llama 3.2 1B", 16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "3b": ModelShape("Llama 3.2 3B", 28, 3072, 8192, 24, 8, 128, 128256, tied=True),
    "8b": ModelShape("Llama 3.1 8B", 32, 4096, 14336, 32, 8, 128, 128256, tied=False),
    "14b": ModelShape("Qwen2.5 14B", 48, 5120, 13824, 40, 8, 128, 152064, tied=False),
    "32b": ModelShape("Qwen2.5 32B", 64, 5120, 27648, 40, 8, 128, 152064, tied=False),
}
