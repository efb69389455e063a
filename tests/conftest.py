"""Factories that several folders of tests share: tiny bases, adapters on them, and merges into a folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from bot import pipeline
from bot.progress import Silent
from bot.records import MergedModel, Plan, Report
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from tests.tiny.adapters import save_adapter
from tests.tiny.models import save_base

settings.register_profile(
    "ci", deadline=None, derandomize=True
)  # noisy machines; the same examples at each run
settings.load_profile("ci")

# A shell that starts the tests in the background has them ignore SIGINT, and what they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

MARKED = "hf_EveryTestHasThisTokenAndNoneTellsIt"
Merged = tuple[Plan, MergedModel | None, Report | None]


@pytest.fixture(autouse=True)
def nobody_tells(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Whoever runs a test has a token, and neither what it prints and logs nor a file that it leaves holds it."""
    for name in ("HF_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, MARKED)
    yield
    printed = "".join(text for _, _, text in request.node._report_sections)
    written = (path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink())
    assert MARKED not in printed
    small = (path for path in written if path.stat().st_size < 2**26)  # some are sparse, and terabytes
    assert [path for path in small if MARKED.encode() in path.read_bytes()] == []


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices on a busy machine: threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny base by architecture and options; made once, never written to."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("bases")

    def base(architecture: str, **options: Any) -> Path:
        name = "-".join([architecture, *(f"{k}={v}" for k, v in sorted(options.items()))])
        if name not in made:
            made[name] = save_base(root / name, architecture, **options)
        return made[name]

    return base


@pytest.fixture
def adapter_on(tmp_path: Path, base_of: Callable[..., Path]) -> Callable[..., tuple[Path, Path]]:
    """A base and a fresh adapter on it, by architecture and PEFT config."""

    def adapter(
        architecture: str,
        config: dict[str, Any],
        *,
        name: str = "adapter",
        base: Path | None = None,
        **options: Any,
    ) -> tuple[Path, Path]:
        place = base or base_of(architecture)
        return place, save_adapter(
            tmp_path / name, place, config=config, architecture=architecture, **options
        )

    return adapter


@pytest.fixture
def merged(tmp_path: Path) -> Callable[..., tuple[Path, Plan]]:
    """Merges an adapter into `tmp_path/merged` through the pipeline, without checks unless asked for."""

    def merge(adapter: Path, *, out: Path | None = None, **request: Any) -> tuple[Path, Plan]:
        place = out or tmp_path / "merged"
        asked = MergeRequest(
            adapter=str(adapter),
            destination=Destination(kind="folder", location=str(place)),
            **{"validation": "none", **request},
        )
        plan, _, _ = pipeline.merge(asked, settings=Settings(isolation="none"), progress=Silent())
        return place, plan

    return merge


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    """The plan for an adapter."""

    def plan(adapter: Path | str, **request: Any) -> Plan:
        return pipeline.plan(
            MergeRequest(adapter=str(adapter), **request),
            settings=Settings(isolation="none"),
            progress=Silent(),
        )

    return plan
