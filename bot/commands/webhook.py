"""`merge-bot webhook`: registers the service with the Hub, which then tells it of pushes and comments."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import options
from bot.commands import extra, running
from bot.errors import AccessError, HostError, InputError
from bot.terminal import session

if TYPE_CHECKING:
    from bot.clients.hub_webhooks import HubWebhooks, Reply, Watched, Webhook
    from bot.config.models import Config
    from bot.settings import Settings

PATH = "/webhooks/hub"
REFUSED = frozenset({401, 403})
REF = "refs/heads/merge-bot-webhook-test"  # which no rule is for: a test starts nothing


@click.group()
def webhook() -> None:
    """Register the service with the Hub: create, list, test or delete its webhook."""


@webhook.command()
@click.argument("url", required=False)
@click.option("--owner", "owners", metavar="NAME", multiple=True, help="A user or an organisation to watch.")
@click.option("--repo", "repositories", metavar="OWNER/NAME", multiple=True, help="A model to watch.")
@running.config
@options.as_json
@options.verbose
def create(
    *,
    url: str | None,
    owners: tuple[str, ...],
    repositories: tuple[str, ...],
    file: Path | None,
    json: bool,
    verbose: int,
) -> None:
    """Have the Hub tell URL of what the configuration watches. A webhook that is there for URL is changed."""
    with session.tools(verbosity=verbose, plain=json) as tools:
        known = _config(file)
        to = _address(url, known)
        hooks = _hooks(tools["settings"])
        watched = _watched(known, owners=owners, repositories=repositories, hooks=hooks)
        made, before = hooks.create(to, watched=watched, secret=_secret(known))
    what = "Changed" if before else "Registered"
    _say([made], as_json=json, line=f"{what}: {made.id} tells {made.url} of {_names(made.watched)}.")


@webhook.command("list")
@options.as_json
@options.verbose
def list_(*, json: bool, verbose: int) -> None:
    """List the webhooks of the token's user."""
    with session.tools(verbosity=verbose, plain=json) as tools:
        found = _hooks(tools["settings"]).list()
    _say(found, as_json=json, line="" if found else "There are none.")


@webhook.command()
@click.argument("url", required=False)
@running.config
@options.as_json
@options.verbose
def test(*, url: str | None, file: Path | None, json: bool, verbose: int) -> None:
    """Send URL a payload as the Hub would, with the secret and with a wrong one, and say what came back."""
    with session.tools(verbosity=verbose, plain=json) as tools:
        from bot.clients.hub_webhooks import send

        known = _config(file)
        to, timeout = _address(url, known), tools["settings"].timeout
        right = send(to, _sample(), secret=_secret(known), timeout=timeout)
        wrong = send(to, _sample(), secret=secrets.token_hex(16), timeout=timeout)
    with session.reader_may_leave():
        if json:
            answers = {"url": to, "right": vars(right), "wrong": vars(wrong)}
            click.echo(session.document(answers))
        else:
            click.echo(f"With the secret: {_told(right)}\nWith a wrong secret: {_told(wrong)}")
    _check(to, right, wrong)


@webhook.command()
@click.argument("id_", metavar="ID", required=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.verbose
def delete(*, id_: str | None, yes: bool, verbose: int) -> None:
    """Delete the webhook ID; without ID, say which there are and ask."""
    with session.tools(verbosity=verbose, plain=True) as tools:
        hooks = _hooks(tools["settings"])
        if id_ is None:
            _say(hooks.list(), as_json=False)
            id_ = str(click.prompt("Which id", type=str)).strip()
        if not yes:
            click.confirm(f"Delete the webhook {id_}?", abort=True)
        hooks.delete(id_)
    click.echo(f"Deleted: {id_}")


def _config(file: Path | None) -> Config:
    with extra.needed():
        from bot import settings
        from bot.config import load
    return load.load(file or (running.FILE if running.FILE.exists() else None), settings.environment())


def _hooks(settings: Settings) -> HubWebhooks:
    from bot import connect

    return connect.webhooks(settings)


def _address(url: str | None, config: Config) -> str:
    """Where payloads go to: as given, or below the service's address, which has a path of its own for them."""
    found = (url or config.server.public_url or "").rstrip("/")
    if not found:
        raise InputError(
            "Nothing says where the service is reached.",
            advice="Give its address, https://…, or set `public_url` in [server].",
            code="no-address",
        )
    if not found.startswith(("https://", "http://")):
        raise InputError(f"{found!r} is no address.", advice="Write https://….", code="usage")
    bare = url is None or "/" not in found.partition("://")[2]
    return f"{found}{PATH}" if bare else found


def _secret(config: Config) -> str:
    given = config.hub.webhook_secret
    if given is None or not given.get_secret_value():
        raise InputError(
            "There is no secret, and the service takes no webhook without one.",
            advice="Set `webhook_secret_file` in [hub], or MERGE_BOT_HUB__WEBHOOK_SECRET.",
            code="no-webhook-secret",
        )
    secret: str = given.get_secret_value()
    if not secret.isascii():
        raise InputError(
            "The Hub sends secrets of ASCII characters alone.",
            advice="Make another one: openssl rand -hex 32.",
            code="bad-webhook-secret",
        )
    return secret


def _watched(
    config: Config, *, owners: tuple[str, ...], repositories: tuple[str, ...], hooks: HubWebhooks
) -> tuple[Watched, ...]:
    """What is named, else what the configuration watches. A glob over owners cannot be told to the Hub."""
    from bot.clients.hub_webhooks import Watched

    if not owners and not repositories:
        rules = [rule for rule in config.watch if rule.enabled]
        globs = [name for rule in rules for name in rule.repositories if not name.startswith("!")]
        owners = tuple(name for rule in rules for name in rule.owners)
        owners += tuple(glob.partition("/")[0] for glob in globs if _is_open(glob.partition("/")[2]))
        repositories = tuple(glob for glob in globs if not _is_open(glob.partition("/")[2]))
    odd = next((name for name in (*owners, *repositories) if _is_open(name)), None)
    if odd is not None or not (owners or repositories):
        raise InputError(
            f"The Hub watches no pattern such as {odd}." if odd else "Nothing says what is to be watched.",
            advice="Name users and organisations: --owner NAME, or a model: --repo owner/name.",
            code="nothing-watched",
        )
    named = [Watched(kind=hooks.kind(name), name=name) for name in dict.fromkeys(owners)]
    return (*named, *(Watched(kind="model", name=name) for name in dict.fromkeys(repositories)))


def _is_open(name: str) -> bool:
    return bool({"*", "?", "["} & set(name))


def _sample() -> dict[str, Any]:
    """A push to a branch that no rule is for, as https://huggingface.co/docs/hub/webhooks shows one."""
    commit = "0" * 40
    return {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": "merge-bot/webhook-test", "private": False, "headSha": commit},
        "updatedRefs": [{"ref": REF, "oldSha": None, "newSha": commit}],
        "webhook": {"id": secrets.token_hex(12), "version": 3},
    }


def _check(url: str, right: Reply, wrong: Reply) -> None:
    if wrong.status not in REFUSED:
        raise AccessError(
            f"{url} does not refuse a wrong secret.",
            advice="See that the address leads to `merge-bot serve`, and to nothing else.",
            code="webhook-open",
        )
    if right.status // 100 != 2:
        raise HostError(
            f"{url} does not take the payload: it answers with status {right.status}.",
            advice="See that the service has the same secret, and look into its log.",
            code="webhook-refused",
        )


def _told(reply: Reply) -> str:
    return f"{reply.status} after {reply.seconds:.2f} s {reply.text}".rstrip()


def _names(watched: Iterable[Watched]) -> str:
    return ", ".join(one.name for one in watched) or "nothing"


def _say(found: Iterable[Webhook], *, as_json: bool, line: str = "") -> None:
    from bot.serial import as_dict

    with session.reader_may_leave():
        if as_json:
            click.echo(session.document({"webhooks": [as_dict(one) for one in found]}))
        elif line:
            click.echo(line)
        else:
            click.echo("\n".join(_line(one) for one in found))


def _line(one: Webhook) -> str:
    how = ", ".join(["disabled"] * one.disabled + ["without a secret"] * (not one.signed))
    return f"{one.id}  {one.url}  {_names(one.watched)}{f'  ({how})' if how else ''}"
