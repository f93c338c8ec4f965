# SPDX-License-Identifier: Apache-2.0
"""How many positions a model has learned, beyond which it cannot read."""

import re
from typing import Any

_TABLE = re.compile(r"(wpe|pos[a-z]*_embed[a-z]*|embed[a-z]*_pos[a-z]*)$")
# The patches of an image are no tokens.
_OTHER_INPUTS = re.compile(r"vision|visual|image|audio")


def learned_positions(model: Any) -> int | None:
    """
    Returns the tokens that fit a model whose positions are a table of embeddings (GPT-2, OPT); None for rotary and other
    computed positions, which go on without end.

    Args:
        model (`torch.nn.Module`):
            With or without adapters.
    """
    from torch import nn

    limits = [
        # OPT's table begins with rows that no text is given.
        module.num_embeddings - int(getattr(module, "offset", 0) or 0)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _TABLE.search(name) and not _OTHER_INPUTS.search(name)
    ]
    return min(limits, default=None)


def require_room(model: Any, tokens: int) -> None:
    """
    Raises where a text is longer than the positions that a model has learned.

    Args:
        model (`torch.nn.Module`):
            As for [`learned_positions`].
        tokens (`int`):
            Of the longest text, with those that will be generated.

    Raises:
        ValueError: With both numbers.
    """
    positions = learned_positions(model)
    if positions is not None and tokens > positions:
        raise ValueError(
            f"a text has {tokens} tokens, with those of its answer, and the model has learned {positions} positions, behind "
            "which it cannot read. Leave the longest prompts out, ask for fewer new tokens, or take another model."
        )
