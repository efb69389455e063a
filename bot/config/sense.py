"""What is well-formed in a configuration and still cannot work: mistakes, and remarks about what may not be meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from bot.config.kinds import AUTO, HF_JOBS, POOL
from bot.config.mistakes import Mistake, Path, named
from bot.config.models import Config, Secret
from bot.config.rule_models import Watch

# What the service's own paths begin with: nobody could tell whether a proxy has left it there.
OURS = frozenset({"ask", "healthz", "jobs", "metrics", "readyz", "sign-in", "sign-out", "static", "webhooks"})
SHORTEST = 16  # characters of a secret that nobody guesses


def mistakes(config: Config) -> Iterator[Mistake]:
    """What cannot work."""
    yield from _watch(config)
    yield from _runners(config)
    yield from _github(config)
    yield from _pages(config)
    for number, target in enumerate(config.notify):
        if target.url is None:
            yield _wrong(("notify", number), "has no `url`", "Add `url` or `url_file`.")


def remarks(config: Config) -> Iterator[str]:
    """What works, and may not be meant."""
    if config.hub.webhook_secret is None:
        yield "The Hub's webhooks are refused: hub.webhook_secret is not set."
    for name, secret in _webhook_secrets(config):
        if _is_short(secret):
            yield f"{name} is shorter than {SHORTEST} characters: make one with `openssl rand -hex 32`."
    yield from _silent_on_github(config)
    if not config.watch and not config.repository_file.opt_in:
        yield "No repository of the Hub is watched: there is no [[watch]]."
    if any(HF_JOBS in runner for _, runner in _named(config)) and config.hf_jobs.max_cost is None:
        yield "Jobs on the Hub's machines have no limit: hf_jobs.max_cost is not set."
    for number, rule in enumerate(config.watch, 1):
        to = rule.destination or config.defaults.destination
        if rule.enabled and "{name}" not in to and not _is_for_one(rule):
            yield f"Adapters of rule {number} may all go to {to}: its destination has no {{name}}."
        if rule.enabled and "{owner}" not in to and not _is_for_one_owner(rule):
            yield f"Adapters of several owners may go to one place by rule {number}: {to} has no {{owner}}."


def _silent_on_github(config: Config) -> Iterator[str]:
    github = config.github
    who = github.app_id or github.token
    if who and not github.repositories:
        yield "No repository on GitHub is answered: github.repositories is empty."
    if github.webhook_secret and not who:
        yield "Nobody answers on GitHub: [github] has a webhook_secret, and neither app_id nor token_file."


def _watch(config: Config) -> Iterator[Mistake]:
    for number, rule in enumerate(config.watch):
        if not rule.owners and all(pattern.startswith("!") for pattern in rule.repositories):
            yield _wrong(("watch", number), "is for no repository", "Add `owners` or `repositories`.")


def _is_for_one(rule: Watch) -> bool:
    return not rule.owners and len(rule.repositories) == 1 and not set("*?[") & set(rule.repositories[0])


def _is_for_one_owner(rule: Watch) -> bool:
    named = [pattern.partition("/")[0] for pattern in rule.repositories if not pattern.startswith("!")]
    owners = {name.casefold() for name in (*rule.owners, *named)}
    return len(owners) == 1 and not any(set("*?[") & set(name) for name in owners)


def _runners(config: Config) -> Iterator[Mistake]:
    for place, runner in _named(config):
        if runner == HF_JOBS and config.hf_jobs.image is None:
            advice = "Set `image` in [hf_jobs] to an image of merge-bot that the Hub may pull."
            yield _wrong(place, "is hf-jobs, for which no image is set", advice)
        queue = runner.removeprefix(POOL)
        if runner.startswith(POOL) and queue not in config.worker.queues:
            known = ", ".join(config.worker.queues) or "none"
            yield _wrong(
                place,
                f"names the queue {queue!r}",
                f"worker.queues has {known}: add it there, or correct it.",
            )
    before: float | None = 0.0
    for number, line in enumerate(config.runners):
        if line.runner == AUTO:
            yield _wrong(("runners", number), "is auto, which asks this very table", "Name a runner.")
        if before is None or (line.up_to_gb is not None and line.up_to_gb <= before):
            advice = "Order the table by size; the line without `up_to_gb` comes last."
            yield _wrong(("runners", number), "is never reached", advice)
        before = line.up_to_gb


def _named(config: Config) -> Iterator[tuple[Path, str]]:
    """Every place that names a runner."""
    yield ("defaults", "runner"), config.defaults.runner
    for number, rule in enumerate(config.watch):
        if rule.runner is not None:
            yield ("watch", number, "runner"), rule.runner
    for number, line in enumerate(config.runners):
        yield ("runners", number, "runner"), line.runner


def _github(config: Config) -> Iterator[Mistake]:
    github = config.github
    if github.app_id and github.private_key is None:
        yield _wrong(("github", "app_id"), "has no key", "Add `private_key_file`.")
    if github.private_key is not None and not github.app_id:
        yield _wrong(("github",), "has a private key, and no `app_id`", "Add `app_id`.")
    if github.app_id and github.token is not None:
        yield _wrong(("github",), "has an App and a token", "Leave one of the two out.")


def _pages(config: Config) -> Iterator[Mistake]:
    pages = config.pages
    if (pages.oauth_client_id is None) != (pages.oauth_client_secret is None):
        advice = "Both come from https://huggingface.co/settings/applications."
        yield _wrong(("pages",), "has half an OAuth app: oauth_client_id and oauth_client_secret", advice)
    if pages.oauth_client_id and config.server.public_url is None:
        advice = "The Hub has to know where it sends people back to."
        yield _wrong(("server", "public_url"), "is missing, and signing in with the Hub needs it", advice)
    first = urlsplit(config.server.public_url or "").path.strip("/").partition("/")[0]
    if first in OURS:
        advice = f"Name another path, such as /bot/{first}."
        yield _wrong(
            ("server", "public_url"), f"has the path /{first}, which is one of the service's own", advice
        )
    for key in ("operator_token", "session_secret"):
        if _is_short(getattr(pages, key)):
            yield _wrong(
                ("pages", key), f"is shorter than {SHORTEST} characters", "Make one: `openssl rand -hex 32`."
            )


def _webhook_secrets(config: Config) -> tuple[tuple[str, Secret], ...]:
    return (
        ("hub.webhook_secret", config.hub.webhook_secret),
        ("github.webhook_secret", config.github.webhook_secret),
    )


def _is_short(secret: SecretStr | None) -> bool:
    return secret is not None and len(secret.get_secret_value()) < SHORTEST


def _wrong(path: Sequence[str | int], what: str, advice: str) -> Mistake:
    key = named(path)
    return Mistake(key=key, path=tuple(path), sentence=f"`{key}` {what}.", advice=advice)
