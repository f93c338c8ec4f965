# SPDX-License-Identifier: Apache-2.0
"""What the tests of the terminal and of the page share."""

import pytest

from hf_ckt.evaluation.measuring.chat_format import chat_formats
from hf_ckt.evaluation.measuring.models import Loading, entries
from hf_ckt.evaluation.side_by_side import SideBySide
from tests.evaluation.measuring.saved_adapters import save_adapter


@pytest.fixture(scope="session")
def adapter(tiny_model_dir, tmp_path_factory):
    """Folder of an adapter on the tiny model."""
    return save_adapter(tiny_model_dir, tmp_path_factory.mktemp("chat") / "aligned")


@pytest.fixture(scope="session")
def side(tiny_model_dir, adapter):
    """The tiny model and its adapter, loaded."""
    listed, _ = entries(str(tiny_model_dir), adapter)
    formats = chat_formats(listed, thinking_tokens=0, system_prompt="Be brief.")
    side = SideBySide(formats, Loading(dtype="float32"), new_tokens=12)
    side.load()
    return side
