"""What the audience sees: chapters, sentences, panels, commands run live, and promises that are kept or not."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDTH = 100
BAR = 40
SECONDS_TO_TIDY = 15


class Broken(Exception):  # noqa: N818 - a promise is broken; it says which
    """A promise without which there is nothing more to show."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: only this process has had it, not its children."""


def _console() -> Console:
    sys.stdout.reconfigure(errors="replace")  # a ✓ must not fail where the locale is not UTF-8
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


@dataclass(kw_only=True)
class Show:
    """The stage, and the score."""

    console: Console = field(default_factory=_console)
    promises: list[bool] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    chapters: int = 0

    def title(self) -> None:
        self.panel(
            "adapter-merge-bot",
            "A PEFT adapter goes in; a complete model comes out, checked, that loads without PEFT.\n"
            "Everything here is real but small, and happens on this machine. It takes about a minute.",
            style="bold cyan",
        )
        self.say("Loading torch, transformers and PEFT…")

    def chapter(self, title: str, *sentences: str) -> None:
        self.chapters += 1
        self.console.print()
        self.console.rule(f"[bold cyan]{self.chapters}. {title}", align="left", style="cyan")
        for sentence in sentences:
            self.say(sentence)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=False)

    def panel(self, title: str, content: RenderableType, *, style: str = "dim") -> None:
        self.console.print(
            Panel(content, title=title, title_align="left", border_style=style, box=box.ROUNDED)
        )

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)
        self.console.print()

    def loss(self, step: int, steps: int, loss: float, *, first: float) -> None:
        bar = Text("━" * max(1, round(BAR * min(1, loss / first))), style="magenta")
        self.console.print(Text(f"  step {step:>4} of {steps}   loss {loss:5.2f}  ") + bar)

    def promise(self, sentence: str, *, kept: bool) -> None:
        """Says whether it holds, and remembers."""
        self.promises.append(kept)
        mark = "[green]✓[/]" if kept else "[bold red]✗ BROKEN:[/]"
        self.console.print(f"{mark} {sentence}")

    def command(self, *words: str, env: Mapping[str, str]) -> None:
        """Runs merge-bot before everyone's eyes. Raises Broken when it fails."""
        self.console.print(f"\n[bold]$ merge-bot {shlex.join(words)}[/]\n")
        self.console.file.flush()
        script = Path(sys.executable).with_name("merge-bot")
        start = [str(script)] if script.exists() else [sys.executable, "-m", "bot"]
        code = _live([*start, *words], env=env)
        self.console.print()
        if code:
            raise Broken(f"merge-bot {words[0]} ended with exit code {code}")

    def end(self) -> bool:
        """The last line; whether every promise was kept."""
        broken, seconds = self.promises.count(False), time.monotonic() - self.began
        self.console.print()
        if broken:
            self.say(
                f"[bold red]✗ {broken} of {len(self.promises)} promises do not hold[/] ({seconds:.0f} s)."
            )
        else:
            self.say(f"[bold green]✓ All {len(self.promises)} promises hold[/] ({seconds:.0f} s).")
        return not broken


def _live(command: list[str], *, env: Mapping[str, str]) -> int:
    """The exit code; its output goes where ours goes. Interrupted, it may tidy up before we go on."""
    child = subprocess.Popen(command, env=dict(env), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        return child.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) or isinstance(error, Terminated):
            child.terminate()
        try:
            child.wait(SECONDS_TO_TIDY)
        finally:
            child.kill()
        raise
