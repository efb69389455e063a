"""Where the demo lives: a temporary folder, a Hub on 127.0.0.1, and an environment that knows no other."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hub.server import LoopbackHub

OWNER = "demo"
BASE = "demo/tiny-llama"
ADAPTER = "demo/tiny-llama-logbook"
MERGED = "demo/tiny-llama-logbook-merged"
#: Settings of this machine that must not reach the demo: its token, its caches, its switches.
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "MERGE_BOT_", "PEFT_")
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, kw_only=True)
class Home:
    """The demo's folder and Hub."""

    folder: Path
    hub: LoopbackHub

    def machine(self, name: str) -> dict[str, str]:
        """An environment as on another machine: with a cache of its own, in which nothing lies yet."""
        mine = {"HF_HOME": str(self.folder / name), "MERGE_BOT_SCRATCH": str(self.folder / name / "scratch")}
        return dict(os.environ) | mine


@contextmanager
def moved_in(*, keep: bool) -> Iterator[Home]:
    """Starts the Hub and points this process at it; must come before any client of the Hub is imported."""
    folder = Path(tempfile.mkdtemp(prefix="merge-bot-demo-"))
    try:
        with LoopbackHub(folder / "hub") as hub:
            hub.add_user(OWNER)
            _point_at(hub, folder / "author")
            yield Home(folder=folder, hub=hub)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _point_at(hub: LoopbackHub, cache: Path) -> None:
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ.update(QUIET | hub.environment(OWNER) | {"HF_HOME": str(cache), "no_proxy": "127.0.0.1"})
