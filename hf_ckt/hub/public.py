# SPDX-License-Identifier: Apache-2.0
"""What may be read by everybody: names without folders of this machine, settings and commands without secrets."""

import ast
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..data.numbered_rows import BUILDERS, ending_of

# Settings that name a secret or a place on the machine. They are left out whole; everything else is cleaned by value.
_SECRET_SETTING = re.compile(
    r"(token|passw(or)?d|passphrase|secret|credentials?|(api|access|secret|private|wandb)_?key)$", re.I
)
_PLACE_SETTING = re.compile(r"(_dir|_path|_file|_cache|^run_name|^resume_from_checkpoint)$")
_PUBLIC_TOKENS = ("eos_token", "pad_token", "bos_token", "unk_token")

SECRET = re.compile(
    r"\b(?:hf_|api_org_|ghp_|gho_)[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}|(?<=://)[^/@\s]+(?=@)"
)
"""What looks like an access token, or a name and password within an address."""
_REMOVED = "[removed]"
_FILES = "[files]"
# What Python was started with where no script was: nothing that could be typed again.
_NO_SCRIPT = ("", "-c", "-m", "ipykernel_launcher.py", "colab_kernel_launcher.py")
_HUB_CACHE = re.compile(r"\bmodels--(?P<id>[\w.-]+?)[/\\]snapshots\b")
# An absolute path inside a longer text: at least two parts, not the path of a web address and not a ratio.
_ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~\\])(?:file://)?(?:~?(?:/[\w.@+ -]*[\w.@+-]){2,}|[A-Za-z]:[\\/][^\s'\"|]+)/?")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def public_text(value: Any) -> str:
    """
    Returns a value as text that may be published: folders become their last name, tokens are removed.

    Example:

    >>> public_text("/data/models/my-base")
    'my-base'
    >>> public_text("org/name"), public_text(2e-4), public_text(["q_proj", "v_proj"])
    ('org/name', '0.0002', 'q_proj, v_proj')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={public_text(item)}" for key, item in value.items() if not is_private(str(key)))
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(map(str, value)) if isinstance(value, (set, frozenset)) else value
        return ", ".join(public_text(item) for item in items)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(getattr(value, "value", value))  # an enum is shown by its value
    cached = _HUB_CACHE.search(text)
    if cached:
        return cached["id"].replace("--", "/")
    return public_prose(_last_name(text) if _is_local(text) else text)


def public_prose(text: str) -> str:
    """
    Returns a longer text in which absolute paths are their last names and tokens are removed.

    Example:

    >>> public_prose("Read /data/out/rows.jsonl.\\nDone.")
    'Read rows.jsonl.\\nDone.'
    """
    lines = (_ABSOLUTE_PATH.sub(lambda match: _last_name(match[0]), line) for line in text.split("\n"))
    return SECRET.sub(_REMOVED, "\n".join(lines))


def public_facts(value: Any) -> Any:
    """
    Returns facts as JSON may hold and everybody may read them: numbers as they are, texts as [`public_text`] has them, and no
    settings that name a place or a secret.

    Example:

    >>> public_facts({"name": "/data/models/my-base", "weight": 0.5, "hub_token": "secret", "layers": ("a", None)})
    {'name': 'my-base', 'weight': 0.5, 'layers': ['a', None]}
    """
    value = getattr(value, "value", value)
    if isinstance(value, Mapping):
        return {str(key): public_facts(item) for key, item in value.items() if not is_private(str(key))}
    if isinstance(value, (list, tuple)):
        return [public_facts(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else public_text(value)


def public_name(name: str | None) -> str | None:
    """
    Returns a Hub id and words as they are, and the last name of a folder or file behind `./`, so that on no other machine it is
    taken for a Hub id, see [`hub_id`].

    Example:

    >>> public_name("org/name"), public_name("/data/models/my-base"), public_name("two words"), public_name(None)
    ('org/name', './my-base', 'two words', None)
    """
    if not name:
        return None
    known, shown = hub_id(name), public_text(name)
    return known or (f"./{shown}" if _HUB_ID.fullmatch(shown) else shown)


def public_command(arguments: Sequence[str]) -> str:
    """
    Returns a command line that may be published: values of secrets and names of data files are removed, of other paths the last
    name is left. Nothing, where no command was typed, as in a notebook.

    Args:
        arguments (`Sequence[str]`):
            As `sys.argv` has them, the program first.

    Example:

    >>> public_command(["/home/me/.venv/bin/hf-ckt", "train", "--hub-token", "x", "--output_dir=/home/me/out/align"])
    "hf-ckt train --hub-token '[removed]' --output_dir=align"
    """
    program = Path(arguments[0])
    if program.name in _NO_SCRIPT:
        return ""
    is_own = program.name == "hf-ckt" or program.parts[-3:] == ("hf_ckt", "cli", "main.py")
    return shlex.join(["hf-ckt"] if is_own else ["python", program.name]) + "".join(
        f" {shlex.quote(word)}" for word in _public_words(arguments[1:])
    )


def _public_words(words: Sequence[str]) -> Iterator[str]:
    option = ""
    for word in words:
        if word.startswith("-"):
            name, equals, given = word.partition("=")
            option = name.lstrip("-").replace("-", "_")
            yield f"{name}={_public_word(option, given)}" if equals else public_text(name)
        elif re.match(r"[\w.]+=", word):  # as Hydra and others take their settings
            name, _, given = word.partition("=")
            yield f"{name}={_public_word(name, given)}"
        else:
            yield _public_word(option, word)


def _public_word(option: str, word: str) -> str:
    if is_private(option) and not _PLACE_SETTING.search(option):
        return _REMOVED
    if is_private(option) and not (option.endswith("name_or_path") and hub_id(word)):
        return public_prose(_last_name(word))
    found = None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = found or read(word)
    if isinstance(found, (dict, list)):
        return json.dumps(public_facts(_without_files(found)))
    return public_text(_without_files(word, option))


def _without_files(value: Any, key: str = "") -> Any:
    """What was given without the names of data files and of folders of data, which may be those of a customer."""
    if isinstance(value, Mapping):
        return {name: _without_files(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_files(item, key) for item in value]
    if not isinstance(value, str):
        return value
    is_data = ending_of(value) in BUILDERS or (key in ("dataset_name", "path") and _is_local(value))
    return _FILES if is_data else value


def _is_local(text: str) -> bool:
    """True for a folder or file of this machine, also for a relative one, which transformers prefers to a Hub id."""
    if text.startswith(("./", "../", "~", "file://", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    return os.path.isabs(text) or (("/" in text or os.sep in text or "." in text) and os.path.exists(text))


def _last_name(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def hub_id(name: str | None) -> str | None:
    """
    Returns the name where it is a Hub id, None where it is local or free text.

    Args:
        name (`str`, *optional*):
            A name, or a folder; that of a snapshot in the Hub's cache is known by its id.
    """
    if not name:
        return None
    cached = _HUB_CACHE.search(name)
    if cached:
        return cached["id"].replace("--", "/")
    is_id = _HUB_ID.fullmatch(name) and not _is_local(name) and not os.path.exists(name) and not SECRET.search(name)
    return name if is_id else None


def is_private(setting: str) -> bool:
    """Returns whether a setting of this name holds a secret or a place on the machine."""
    if setting in _PUBLIC_TOKENS:
        return False
    return _SECRET_SETTING.search(setting) is not None or _PLACE_SETTING.search(setting) is not None
