# SPDX-License-Identifier: Apache-2.0
"""What the docstring of every part must hold."""

import doctest
import inspect
import re
import sys

from hf_ckt.discovery import part_settings


def check_documentation(cls: type, *, example: bool = True) -> None:
    doc = inspect.getdoc(cls) or ""
    assert re.search(r"^Source: \S", doc, re.M), "no `Source:`: nobody can tell a slip from an intention"
    settings = part_settings(cls)
    if settings:
        assert "\nArgs:\n" in doc
        for name, field in settings.items():
            entry = re.search(rf"^    {name} \(`\w+`, \*optional\*, defaults to `(.+?)`\):\n        \S", doc, re.M)
            assert entry, f"Args does not describe `{name}` with its default"
            assert entry[1].replace('"', "'") == repr(field.default), (
                f"`{name}` defaults to {field.default!r}, not {entry[1]}"
            )
    if example:
        assert "\nExample:\n" in doc and ">>> " in doc
        run_examples(cls)


def run_examples(cls: type) -> None:
    namespace = vars(sys.modules[cls.__module__])
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    tests = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs=dict(namespace))
    assert sum(len(test.examples) for test in tests) > 0
    for test in tests:
        assert runner.run(test).failed == 0, f"the example of {cls.__name__} prints something else"
