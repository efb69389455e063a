"""Good merges, made once; each test breaks a copy."""

import pytest

from tests.tiny.adapters import LORA_VARIANTS
from tests.validate.factory import Case, make


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """rsLoRA on every linear layer of a sharded float32 llama."""
    return make(tmp_path_factory.mktemp("plain"), "llama", LORA_VARIANTS["rslora"], shards=2)


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same in bfloat16, one file."""
    return make(tmp_path_factory.mktemp("half"), "llama", LORA_VARIANTS["rslora"], dtype="bfloat16")


@pytest.fixture(scope="session")
def faint(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """In bfloat16, with an adapter so weak that most of it is lost in rounding."""
    return make(
        tmp_path_factory.mktemp("faint"), "llama", LORA_VARIANTS["rslora"], dtype="bfloat16", scale=0.02
    )
