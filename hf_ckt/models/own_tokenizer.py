# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that belongs to a model or an adapter, by its name."""

from collections.abc import Mapping
from typing import Any

from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file


def load_tokenizer(name: str, init_kwargs: Mapping[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer of a model or an adapter; of an adapter that has none beside it, that of its base.

    Args:
        name (`str`):
            Hub id or folder.
        init_kwargs (`Mapping[str, Any]`, *optional*):
            What the model is loaded with, of which revision, trust in its code and GGUF file are the tokenizer's too.

    Raises:
        OSError, ValueError: If there is none.
    """
    given = init_kwargs or {}
    options = {key: given[key] for key in ("revision", "trust_remote_code", "gguf_file") if key in given}
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError):
        if find_adapter_config_file(name, revision=options.get("revision")) is None:
            raise
        adapter = PeftConfig.from_pretrained(name, revision=options.get("revision"))
        if not adapter.base_model_name_or_path:
            raise
        return AutoTokenizer.from_pretrained(adapter.base_model_name_or_path, revision=adapter.revision)
