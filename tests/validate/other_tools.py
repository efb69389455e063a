"""Merges made without this bot, as people make them: by PEFT's own merge and `save_pretrained`, then broken."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from bot import pipeline, settings
from bot.errors import ValidationError
from bot.progress import Silent
from bot.records import Check, Plan, Report
from bot.request import MergeRequest, Way
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.models import load, save_base
from tests.validate.factory import edit


@dataclass(frozen=True)
class Elsewhere:
    """A base, an adapter, and a folder that another tool says is the two merged."""

    base: Path
    adapter: Path
    merged: Path

    def copy(self, folder: Path) -> "Elsewhere":
        """The same with a merged folder of its own, to be broken."""
        return replace(self, merged=Path(shutil.copytree(self.merged, folder / "broken")))

    def plan(self) -> Plan:
        """What this bot would do."""
        return pipeline.plan(self._request("tensors"), settings=_settings(), progress=Silent())

    def report(self, level: Way = "tensors") -> Report:
        """What `merge-bot validate MERGED --adapter ADAPTER` finds."""
        try:
            return pipeline.validate(
                self.merged, self._request(level), settings=_settings(), progress=Silent()
            )
        except ValidationError as error:
            return cast("Report", error.report)

    def failed(self, level: Way = "tensors") -> dict[str, str]:
        """What each failed check says."""
        return {c.name: c.detail for c in self.report(level).checks if c.verdict == "failed"}

    def check(self, name: str) -> Check:
        found = self.report().check(name)
        assert found is not None
        return found

    def times(self, factor: float, *, only: str = "") -> None:
        """Puts the delta in so many times, where the name holds `only`."""
        before = tensors(self.base)
        before |= {f"transformer.{name}": tensor for name, tensor in before.items()}

        def change(after: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: _scaled(t, before.get(n), factor) if only in n else t for n, t in after.items()}

        edit(self.merged, change)

    def config(self, name: str = "config.json", **changes: Any) -> None:
        path = self.merged / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def _request(self, level: Way) -> MergeRequest:
        return MergeRequest(adapter=str(self.adapter), device="cpu", validation=level)


def _settings() -> settings.Settings:
    return settings.load({**os.environ, "MERGE_BOT_ISOLATION": "none"})


def _scaled(after: Tensor, before: Tensor | None, factor: float) -> Tensor:
    if before is None or before.shape != after.shape:
        return after
    return (before.double() + factor * (after.double() - before.double())).to(after.dtype)


def tensors(folder: Path) -> dict[str, Tensor]:
    """All of a folder's tensors."""
    return {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}


def make(
    folder: Path, architecture: str, config: str | dict[str, Any], *, dtype: str = "float32"
) -> Elsewhere:
    """A base in one file, an adapter, and PEFT's merge in as many shards as `save_pretrained` likes."""
    base = save_base(folder / "base", architecture, dtype=dtype)
    keys = LORA_VARIANTS[config] if isinstance(config, str) else config
    adapter = save_adapter(folder / "adapter", base, config=keys, architecture=architecture)
    return Elsewhere(base, adapter, peft_merge(base, adapter, folder / "merged"))


def peft_merge(
    base: Path,
    adapter: Path,
    merged: Path,
    *,
    dtype: torch.dtype | None = None,
    saved: torch.dtype | None = None,
    safe: bool = False,
    **options: Any,
) -> Path:
    """The usual few lines of Python. `dtype`: that of the arithmetic; `saved`: that on disk."""
    tuned = PeftModel.from_pretrained(load(base, dtype=dtype), str(adapter), **options)
    model = tuned.merge_and_unload(safe_merge=safe)
    model = model if saved is None else model.to(saved)
    model.save_pretrained(merged, max_shard_size="60KB")
    if (base / "tokenizer_config.json").exists():
        AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return merged
