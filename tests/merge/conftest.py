"""Fixtures of the merge tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.merge.training import train


@pytest.fixture
def trained(tmp_path: Path, base_of: Callable) -> Callable[..., tuple[Path, Path, torch.Tensor]]:
    """Adapter (its start in `START_init` below it), residual base, and what the trained model answers."""

    def make(start: str, **options: Any) -> tuple[Path, Path, torch.Tensor]:
        adapter, residual = tmp_path / "adapter", tmp_path / "residual"
        want = train(start, base=base_of("llama"), folder=adapter, residual=residual, **options)
        return adapter, residual, want

    return make
