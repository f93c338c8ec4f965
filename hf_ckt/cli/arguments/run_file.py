# SPDX-License-Identifier: Apache-2.0
"""The YAML file of a run: its entries as options take them, environment variables put in."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VARIABLE = re.compile(r"\$(\$|\{[^}]*\}|[A-Za-z_]\w*)")
# YAML 1.1 takes 5e-1 for a text, since it has no dot.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def read_run_file(path: Path) -> dict[str, Any]:
    """
    Reads the file that `--config` names.

    `env` is set as environment variables first. Then `$NAME` and `${NAME}` (`${NAME:-default}`) become the value of such a
    variable in any text, `$$` a dollar sign, and `~/` at its beginning the home folder. Keys may have hyphens.

    Args:
        path (`Path`):
            The file.

    Returns:
        `dict`: values by the names of their options, with underscores.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is not UTF-8 text or YAML, holds no entries by name or one twice, or names a variable that is not
            set; file and key are named.

    Example:

    >>> import tempfile
    >>> os.environ["SCRATCH"] = "/scratch"
    >>> path = Path(tempfile.mkdtemp(), "run.yaml")
    >>> _ = path.write_text("output-dir: ${SCRATCH}/run\\nlearning_rate: 1e-4\\n")
    >>> read_run_file(path)
    {'output_dir': '/scratch/run', 'learning_rate': '1e-4'}
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no such file, {str(path)!r}.")
    entries = _parsed(path)
    if not isinstance(entries, dict):
        raise ValueError(
            f"--config: {path.name} must hold entries such as `output_dir: out`, got {entries!r:.80}, so no option is set."
        )
    variables = entries.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ValueError(
            f"--config: {path.name}: env must hold entries such as `HF_HOME: /data/hf`, got {variables!r}."
        )
    for name, value in variables.items():
        os.environ[str(name)] = str(_expanded(value, f"{path.name}, env, {name}"))
    found: dict[str, Any] = {}
    for key, value in entries.items():
        name = str(key).replace("-", "_")
        if name in found:
            raise ValueError(f"--config: {path.name} has {name} twice, and one of them would be ignored. Drop one.")
        value = _expanded(value, f"{path.name}, {key}")
        found[name] = _numbers(value) if isinstance(value, (dict, list)) else value
    return found


def _parsed(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """As `safe_load`, but that a key may stand only once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [
                self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"
            ]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise ValueError(
                    f"--config: {path.name}, line {node.start_mark.line + 1}: has {twice} twice, and one of them would be "
                    "ignored. Drop one."
                )
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: {path.name} is not UTF-8 text ({error}). Save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path.name} is not YAML: {error}") from error


def _expanded(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(one, f"{where}, {key}") for key, one in value.items()}
    if isinstance(value, list):
        return [_expanded(one, where) for one in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        word = match[1]
        if word == "$":
            return "$"
        name, default_given, default = word.strip("{}").partition(":-")
        if name in os.environ and (os.environ[name] or not default_given):
            return os.environ[name]
        if default_given:
            return default
        raise ValueError(
            f"--config: {where}: there is no environment variable {name!r}, so {value!r} would be taken as it stands. Set "
            "it, or write $$ for a dollar sign."
        )

    found = _VARIABLE.sub(variable, value)
    return os.path.expanduser(found) if found.startswith("~") else found


def _numbers(value: Any) -> Any:
    """The value with numbers in place of texts such as 5e-1, which no option's type turns into one further down."""
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
