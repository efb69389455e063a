"""Chapters four to seven: the real command line, on a machine that has never seen these models."""

from huggingface_hub import HfApi

from .home import ADAPTER, BASE, MERGED, Home
from .show import Show
from .texts import PROMPT, held_out

HEAD = 100_000  # bytes: what the Hub's own client reads of a file to know its tensors


def play(show: Show, home: Home) -> None:
    _plan(show, home)
    _repository(show, home)
    _pull_request(show, home)
    _again(show, home)


def _plan(show: Show, home: Home) -> None:
    show.chapter(
        "merge-bot plan",
        "A look first: what would happen, and what would it take? No weights are downloaded for that.",
    )
    home.hub.clear_requests()
    show.command("plan", ADAPTER, "--to", MERGED, env=home.machine("bot"))
    heads = [request.bytes_sent for request in home.hub.requests if "/blobs/" in request.path]
    show.promise(
        f"It read the heads of {len(heads)} weights files, at most {max(heads, default=0) / 1000:.0f} kB of each.",
        kept=bool(heads) and max(heads) <= HEAD,
    )


def _repository(show: Show, home: Home) -> None:
    show.chapter(
        "merge-bot run: a repository",
        "Now the whole way: plan, merge, validate, publish. With log entries that nobody has seen, to measure on.",
    )
    (text := home.folder / "unseen.txt").write_text("\n".join(held_out()), encoding="utf-8")
    (prompts := home.folder / "prompts.txt").write_text(f"{PROMPT}\nOnce upon a time\n", encoding="utf-8")
    asked = ("--text", str(text), "--prompts", str(prompts))
    show.command("run", ADAPTER, "--to", MERGED, *asked, env=home.machine("bot"))
    info = HfApi().model_info(MERGED)
    show.promise(
        f"[bold]{MERGED}[/] is on the Hub, and private until you say otherwise.", kept=bool(info.private)
    )


def _pull_request(show: Show, home: Home) -> None:
    show.chapter(
        "merge-bot run: a Hub PR",
        "The same as a proposal to the adapter's author, on the adapter's own repository:",
    )
    before = _heads()
    show.command("run", ADAPTER, "--to", ADAPTER, "--pr", env=home.machine("bot"))
    show.promise("There is one Hub PR, and it is open.", kept=[p.status for p in _pulls()] == ["open"])
    show.promise("The adapter itself is as it was until its author agrees.", kept=_heads() == before)


def _again(show: Show, home: Home) -> None:
    show.chapter("Once more", "Workers crash, hooks fire twice. The same command again must not do it again:")
    before = (_heads(), [(p.num, p.status) for p in _pulls()])
    show.command("run", ADAPTER, "--to", ADAPTER, "--pr", env=home.machine("bot"))
    after = (_heads(), [(p.num, p.status) for p in _pulls()])
    show.promise("It found its own Hub PR; nothing was published twice.", kept=after == before)


def _pulls():
    return list(HfApi().get_repo_discussions(ADAPTER, discussion_type="pull_request"))


def _heads() -> list[str]:
    return [HfApi().model_info(name).sha for name in (BASE, ADAPTER, MERGED)]
