"""Check `modules` on its own, for tests that merge anyway."""

import json
from functools import partial
from pathlib import Path

from bot.merge.live import LiveLayers, live_layers
from bot.progress import Silent
from bot.records import Check, Plan
from bot.validate.modules import check_modules
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout


def layers(base: Path, adapter: Path, merged: Path, *, plan: Plan) -> LiveLayers:
    """The live layers, beside those of the merged folder."""
    return live_layers(
        plan,
        base_folder=base,
        base=read_layout(LocalFiles(base)),
        config=json.loads((base / "config.json").read_text()),
        adapter_path=adapter / plan.adapter_file,
        merged=merged,
    )


def ask(base: Path, adapter: Path, merged: Path, *, plan: Plan, rounded_more: bool = False) -> Check:
    """What the layers say."""
    made = partial(layers, base, adapter, merged, plan=plan)
    return check_modules(made, rounded_more=rounded_more, progress=Silent())
