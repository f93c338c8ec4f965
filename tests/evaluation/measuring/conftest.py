# SPDX-License-Identifier: Apache-2.0
"""What several tests of what is measured share."""

import pytest

from tests.evaluation.measuring.saved_adapters import save_adapter


@pytest.fixture(scope="session")
def adapters(tiny_model_dir, tmp_path_factory):
    """Folders of two adapters that differ, on the tiny model."""
    folder = tmp_path_factory.mktemp("adapters")
    return [save_adapter(tiny_model_dir, folder / name, seed) for seed, name in enumerate(("first", "second"))]
