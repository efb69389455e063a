"""Chapters eight and nine: what lies on the Hub now, as its readers find it."""

import json
import threading
from contextlib import suppress
from pathlib import Path

import yaml
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.text import Text

from .home import ADAPTER, BASE, MERGED, Home
from .show import Show

PR = "refs/pr/1"
CHANGES = {"added": "green", "deleted": "red", "changed": "yellow"}


def play(show: Show, home: Home) -> None:
    _pull_request(show)
    _card(show)


def serve(show: Show, home: Home) -> None:
    """Until Ctrl-C. A browser has no token here, so the new repository is made public."""
    HfApi().update_repo_settings(MERGED, private=False)
    show.say("\nThe Hub stays up; look at")
    for page in (BASE, ADAPTER, f"{ADAPTER}/discussions/1", MERGED):
        show.say(f"  [link]{home.hub.url}/{page}[/]")
    show.say("Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _pull_request(show: Show) -> None:
    show.chapter("What the author of the adapter finds")
    pull = HfApi().get_discussion_details(ADAPTER, 1)
    body = pull.events[0].content.split("**How it was checked**")[0]
    show.panel(f"Hub PR #{pull.num}: {pull.title}", Markdown(body + "\n\n…"), style="blue")
    changes = _changes()
    rows = [(Text(kind, style=CHANGES[kind]), name, size) for name, kind, size in changes]
    show.table(("In this PR", "File", "Bytes"), rows)
    deleted = {name for name, kind, _ in changes if kind == "deleted"}
    left = _files(PR)
    show.promise(
        "Adapter out, merged weights in, in one commit: never both side by side.",
        kept="adapter_model.safetensors" in deleted
        and not any(name.startswith("adapter_model") or name == "adapter_config.json" for name in left),
    )
    same = {name: _digests(MERGED, "main").get(name) for name in _digests(ADAPTER, PR)}
    show.promise(
        "The weights of the Hub PR and of the new repository are the same, byte for byte.",
        kept=bool(same) and same == _digests(ADAPTER, PR),
    )


def _card(show: Show) -> None:
    show.chapter("What everyone else finds", f"The card of [bold]{MERGED}[/]:")
    card = Path(hf_hub_download(MERGED, "README.md")).read_text(encoding="utf-8")
    _, front, text = card.split("---\n", maxsplit=2)
    show.panel("README.md, front matter", Syntax(front.strip(), "yaml", background_color="default"))
    show.panel("README.md", Markdown(text.split("## How it was merged")[0] + "\n\n…"))
    facts = yaml.safe_load(front)
    show.promise(
        "Its front matter names the base model, and inherits licence and language.",
        kept=[facts.get(key) for key in ("base_model", "license", "language")] == [BASE, "cc0-1.0", ["en"]],
    )
    report = json.loads(Path(hf_hub_download(MERGED, "merge_report.json")).read_text(encoding="utf-8"))
    verdicts = [check["verdict"] for check in report["checks"]]
    show.promise(
        f"merge_report.json lies beside it: {len(verdicts)} checks, {verdicts.count('passed')} passed.",
        kept=report["verdict"] == "passed" and "failed" not in verdicts,
    )
    told = report["evidence"]
    losses, texts = told["perplexity"], told["continuations"]
    show.promise(
        f"Its report measures a perplexity of {losses['merged']:.2f}, the base's is {losses['base']:.1f};"
        " and it goes on from a prompt as base + adapter does.",
        kept=losses["merged"] < losses["base"] / 2
        and all(each["merged"] == each["adapter"] for each in texts),
    )


def _changes() -> list[tuple[str, str, str]]:
    before, after = _files("main"), _files(PR)
    found = []
    for name in sorted(before | after):
        old, new = before.get(name), after.get(name)
        if old != new:
            kind = "added" if old is None else "deleted" if new is None else "changed"
            found.append((name, kind, f"{(new or old)[1]:,}"))
    return sorted(found, key=lambda change: (list(CHANGES).index(change[1]), change[0]))


def _files(revision: str) -> dict[str, tuple[str, int]]:
    tree = HfApi().list_repo_tree(ADAPTER, recursive=True, revision=revision)
    return {file.path: (file.blob_id, file.size) for file in tree if isinstance(file, RepoFile)}


def _digests(repo_id: str, revision: str) -> dict[str, str]:
    tree = HfApi().list_repo_tree(repo_id, recursive=True, revision=revision)
    return {file.path: file.lfs.sha256 for file in tree if file.path.endswith(".safetensors")}
