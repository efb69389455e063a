"""Fixtures of the merge tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.merge import run as merging
from bot.prepare import prepare
from bot.progress import Silent
from bot.request import MergeRequest
from tests.merge.training import train


@pytest.fixture
def bytes_by(tmp_path: Path) -> Callable[..., bytes]:
    """What a merge by so many workers writes: names and bytes of all files, digested."""

    def merge(adapter: Path, base: Path, *, workers: int, name: str = "", **options: Any) -> bytes:
        prepared = prepare(MergeRequest(adapter=str(adapter), **options), hub=None, progress=Silent())
        out = tmp_path / f"workers-{workers}{name}"
        out.mkdir()
        merging.merge(
            prepared.plan,
            base_folder=base,
            base=prepared.layout,
            config=prepared.config,
            adapter_path=adapter / "adapter_model.safetensors",
            out=out,
            device="cpu",
            progress=Silent(),
            workers=workers,
        )
        parts = [(path.name.encode(), path.read_bytes()) for path in sorted(out.iterdir())]
        return hashlib.sha256(repr(parts).encode()).digest()

    return merge


@pytest.fixture
def trained(tmp_path: Path, base_of: Callable) -> Callable[..., tuple[Path, Path, torch.Tensor]]:
    """Adapter (its start in `START_init` below it), residual base, and what the trained model answers."""

    def make(start: str, **options: Any) -> tuple[Path, Path, torch.Tensor]:
        adapter, residual = tmp_path / "adapter", tmp_path / "residual"
        want = train(start, base=base_of("llama"), folder=adapter, residual=residual, **options)
        return adapter, residual, want

    return make


@pytest.fixture
def exact_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's decompositions in float64, so that the live adapter is a reference: in float32 they are off by 1e-5."""
    svd = torch.linalg.svd

    def exact(matrix: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
        return tuple(part.to(matrix.dtype) for part in svd(matrix.double(), **options))

    monkeypatch.setattr(torch.linalg, "svd", exact)
