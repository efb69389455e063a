"""`python -m tests.merge.table`: every PEFT type of the installed registry, merged or refused, and its worst errors."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import peft
from peft.utils.peft_types import PeftType
from transformers.utils import logging

from bot import pipeline
from bot.plan.peft_types import REFUSED
from bot.progress import Silent
from bot.records import Plan
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from tests.merge.oracle import compare, worst_ulp
from tests.tiny.adapters import LORA_VARIANTS, SUITS, TUNERS, save_adapter
from tests.tiny.models import save_base

HEAD = "| PEFT type | | worst logit error, float32 | effect | worst error of a weight, bf16 | of the bound |"
EXTRA = ("dora", "rslora", "pissa", "olora", "kasa")  # of LoRA; the other variants have tests of their own


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one config gave: errors of logits in float32, and of weights in bfloat16, in units in the last place."""

    name: str
    error: float
    effect: float
    ulp: float
    share: float

    def __str__(self) -> str:
        numbers = f"{self.error:.1e} | {self.effect:.2g} | {self.ulp:.4f} ulp | {self.share:.1%}"
        return f"| {self.name} | merged | {numbers} |"


def measured(name: str, config: dict[str, object], *, root: Path) -> Row:
    """Merges an adapter of this config in float32 and in bfloat16, and holds both against the live adapter."""
    architecture = SUITS.get(name, SUITS.get(name.partition(".")[0], "llama"))
    found = {}
    for dtype in ("float32", "bfloat16"):
        base = root / f"{architecture}-{dtype}"
        if not base.exists():
            save_base(base, architecture, dtype=dtype)
        adapter = save_adapter(root / f"{name}-{dtype}", base, config=config, architecture=architecture)
        out = root / f"{name}-{dtype}-merged"
        found[dtype] = (base, adapter, out, _merge(adapter, out))
    base, adapter, out, plan = found["float32"]
    logits = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    ulp, share, _ = worst_ulp(*found["bfloat16"][:3])
    return Row(name=name, error=logits.error, effect=logits.effect, ulp=ulp, share=share)


def _merge(adapter: Path, out: Path) -> Plan:
    to = Destination(kind="folder", location=str(out))
    request = MergeRequest(adapter=str(adapter), destination=to, validation="none")
    return pipeline.merge(request, settings=Settings(isolation="none"), progress=Silent())[0]


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    print(f"PEFT {peft.__version__}, tiny models on the CPU; LoRA first, then every other registered type.\n")
    print(f"{HEAD}\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(TUNERS, key=lambda n: (n != "LORA", n)):
            if name.partition(".")[0] not in REFUSED:
                print(measured(name, TUNERS[name], root=Path(folder)), flush=True)
        for variant in EXTRA:
            print(measured(variant, LORA_VARIANTS[variant], root=Path(folder)), flush=True)
    for kind in sorted(t.value for t in PeftType if t.value in REFUSED):
        print(f"| {kind} | refused: {REFUSED[kind]} | | | | |")


if __name__ == "__main__":
    main()
