# SPDX-License-Identifier: Apache-2.0
"""
How answers are generated: greedily, whatever else the model's own generation configuration asks for, or as that says.

A published model carries sampling, penalties, beams or forced tokens in `generation_config.json`, and `generate` takes
each one that a call leaves open. What an evaluation calls greedy is therefore a configuration in which nothing is open.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .models import source_file

GREEDY, OWN = "greedy", "each model's own"
# Where an answer begins and ends is the model's to say in either case.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# What the call needs to read the answers, whoever decides how they are made: one row of ids a prompt.
_SHAPE = {
    **{"num_return_sequences": 1, "return_dict_in_generate": False, "output_scores": False, "output_logits": False},
    **{"output_attentions": False, "output_hidden_states": False},
}
# transformers takes these where a configuration samples and says no more.
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
_NOT_STATED = ("transformers_version", "_from_model_config", "use_cache", *_SHAPE)


def adapter_generation(adapter: str | None, required: bool = False) -> Any:
    """
    Returns the `GenerationConfig` that lies beside an adapter, as one with a bias of its own does
    ([`~evaluation.operating_point.with_bias`]); None without. PEFT does not read it.

    Args:
        adapter (`str`, *optional*):
            Hub id or folder.
        required (`bool`, *optional*, defaults to `False`):
            Whether an adapter whose repository cannot be asked is an error, and not taken for one without.

    Raises:
        OSError: If it is `required`, and cannot be told.
    """
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    if adapter is None:
        return None
    file = source_file(adapter, GENERATION_CONFIG_NAME)
    if file is not None:
        return GenerationConfig.from_pretrained(Path(file).parent)
    # Of a repository that was asked and holds none, the cache knows it.
    known = Path(adapter).is_dir() or try_to_load_from_cache(adapter, GENERATION_CONFIG_NAME) is _CACHED_NO_EXIST
    if required and not known:
        raise OSError(
            f"--keep-generation-config: {adapter!r} cannot be asked whether it has a {GENERATION_CONFIG_NAME}, and without it "
            "answers would be its base's way. Connect to the Hub, or name a folder with the adapter."
        )
    return None


def own_generation(model: str, trust_remote_code: bool = False) -> Any:
    """
    Returns the `GenerationConfig` that a model would be loaded with, without its weights.

    Args:
        model (`str`):
            Hub id or folder.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with the model.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:  # no such file: transformers then derives one from the model's configuration
        return GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        )


def decoding(own: Any, tokenizer: Any, beside: Any = None, *, keep_own: bool = False) -> Any:
    """
    Returns the `GenerationConfig` that answers are made with, but for their length.

    Args:
        own (`GenerationConfig`):
            The model's.
        tokenizer (`PreTrainedTokenizerBase`):
            Whose end token ends an answer too: one that came with a chat template is not in the model's configuration.
        beside (`GenerationConfig`, *optional*):
            That of an adapter on the model, which goes before the model's: [`adapter_generation`]. Where an answer begins and
            ends is the model's to say where it says nothing.
        keep_own (`bool`, *optional*, defaults to `False`):
            Takes over all that the model's configuration says, sampling included. By default the token of highest logit
            is taken each time, and nothing of it but the special tokens is left.
    """
    from transformers import GenerationConfig

    known = [one for one in (beside, own) if one is not None]
    ids: dict[str, Any] = {
        name: next((value for one in known if (value := getattr(one, name, None)) is not None), None) for name in _KEPT
    }
    ends = [*_listed(ids["eos_token_id"]), *_listed(tokenizer.eos_token_id)]
    ids["eos_token_id"] = list(dict.fromkeys(ends)) or None
    if tokenizer.pad_token_id is not None:
        ids["pad_token_id"] = tokenizer.pad_token_id
    if not keep_own:
        return GenerationConfig(do_sample=False, num_beams=1, **ids)
    config = copy.deepcopy(known[0])
    if config.do_sample:
        ids |= {name: value for name, value in _SAMPLING.items() if getattr(config, name) is None}
    for name, value in {**ids, **_SHAPE, "max_length": None, "max_new_tokens": None}.items():
        setattr(config, name, value)
    return config


def stated(config: Any) -> dict[str, Any]:
    """
    Returns what a `GenerationConfig` sets, as results files and the names of kept answers state it.

    Example:

    >>> from transformers import GenerationConfig
    >>> stated(GenerationConfig(do_sample=False, num_beams=1, repetition_penalty=1.1, eos_token_id=[2]))
    {'do_sample': False, 'eos_token_id': [2], 'num_beams': 1, 'repetition_penalty': 1.1}
    """
    found = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_STATED}
    # As JSON holds it: tuples and keys that are numbers come back from a file as something else.
    return json.loads(json.dumps({name: found[name] for name in sorted(found)}, default=_as_json))


def _as_json(value: Any) -> Any:
    """What JSON does not know: a watermark's settings are an object of their own."""
    return value.to_dict() if hasattr(value, "to_dict") else str(value)


def generation_facts(
    model: str, tokenizer: Any, beside: Any = None, *, keep_own: bool = False, trust_remote_code: bool = False
) -> dict[str, Any]:
    """
    Returns what [`decoding`] sets for a model, and under `set_aside` what its own configuration, or the adapter's, sets beside
    it: what results files state, and what kept answers depend on. No weights are loaded.
    """
    own = own_generation(model, trust_remote_code)
    used = stated(decoding(own, tokenizer, beside, keep_own=keep_own))
    set_by_it = stated(own if beside is None else beside)
    aside = {name: value for name, value in set_by_it.items() if name not in _KEPT and used.get(name) != value}
    return {**used, "set_aside": aside}


@contextmanager
def generating(model: Any, config: Any) -> Iterator[None]:
    """
    Has `generate` of a model, or of the one inside a `PeftModel`, know `config` alone, and gives it its own back.

    A configuration that is passed to `generate` is not enough: each field that it leaves open is taken from the model.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = [(one, one.generation_config) for one in (model, inner) if "generation_config" in vars(one)]
    try:
        for one, _ in before:
            one.generation_config = copy.deepcopy(config)
        yield
    finally:
        for one, own in before:
            one.generation_config = own


def _listed(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
