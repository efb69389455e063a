"""Chapter ten: whether the merged model is what it says it is, by asking it."""

import json
import subprocess
import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import texts
from .home import ADAPTER, BASE, MERGED, Home
from .judge import Verdict, judge
from .looking import PR
from .show import Broken, Show


def play(show: Show, home: Home) -> None:
    show.chapter(
        "Does it hold?",
        "Take nobody's word: each model, by its id, asked by plain transformers on a machine without PEFT.",
        f"Perplexity on log entries that nobody has seen, and how it goes on after [bold]“{texts.PROMPT}…”[/]",
        "They load and answer now; a few seconds.",
    )
    found = _plain(home, BASE, MERGED, f"{ADAPTER}@{PR}")
    base, merged, pull = found.values()
    live = _live()
    names = ("base", "base + adapter (PEFT)", "merged", "Hub PR #1 (refs/pr/1)")
    verdicts = (base, live, merged, pull)
    show.table(
        ("Model", "Perplexity", "Answer"),
        [(name, f"{v.perplexity:.4f}", f"…{v.answer}…") for name, v in zip(names, verdicts, strict=True)],
    )
    show.promise(
        "The base alone answers otherwise: there is something to merge.", kept=base.tokens != live.tokens
    )
    for name, verdict in (("merged model", merged), ("Hub PR", pull)):
        close = abs(verdict.perplexity / live.perplexity - 1) < 1e-3
        show.promise(
            f"Without PEFT, the {name} gives the adapter's answer, word for word, and its perplexity.",
            kept=close and verdict.tokens == live.tokens,
        )


def _live() -> Verdict:
    """Base and adapter as PEFT runs them."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER)
    return judge(model, AutoTokenizer.from_pretrained(BASE))


def _plain(home: Home, *names: str) -> dict[str, Verdict]:
    """Asked in a process of their own, with an empty cache, where PEFT cannot be imported."""
    command = [sys.executable, "-m", "tests.demo.plain", *names]
    done = subprocess.run(command, env=home.machine("reader"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"plain transformers cannot load them: {done.stderr.strip().splitlines()[-1]}")
    return {name: Verdict(**verdict) for name, verdict in json.loads(done.stdout).items()}
