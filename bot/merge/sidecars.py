"""The small files beside the merged weights: config.json with its edits, the rest byte for byte or without a key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bot.merge.config import edited_config
from bot.records import Plan

CONFIG = "config.json"


def write_sidecars(
    plan: Plan, *, base_folder: Path, adapter_folder: Path, config: dict[str, Any], out: Path
) -> None:
    """Writes config.json and copies the plan's sidecars into `out`. `config` is the base's config.json.

    A config without edits is copied as it is, not written anew. Raises OSError as it comes from the disk.
    """
    if plan.config_edits:
        edited = edited_config(config, {e.key: e.after for e in plan.config_edits})
        (out / CONFIG).write_text(_text(edited), encoding="utf-8")
    else:
        shutil.copyfile(base_folder / CONFIG, out / CONFIG)
    for sidecar in plan.sidecars:
        origin = adapter_folder if sidecar.origin == "adapter" else base_folder
        target = out / sidecar.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if sidecar.without:
            content = json.loads((origin / sidecar.name).read_bytes())
            target.write_text(_text(edited_config(content, {sidecar.without: None})), encoding="utf-8")
        else:
            shutil.copyfile(origin / sidecar.name, target)


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
