# SPDX-License-Identifier: Apache-2.0
"""Scripts of the repository as modules: they lie in no package."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_script(path: Path) -> ModuleType:
    """Returns what a script defines; what it does as a program is not done."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
