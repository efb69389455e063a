"""`merge-bot.toml` as frozen records: every table and key of it, with its default and what it means.

What a key says here is what docs/config.md and the example say. A secret may be given as a file, by a key of the same
name with `_file` behind it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bot.config.kinds import Bytes, Count, Glob, Owner, Queue, Runner, Url, UserGlob
from bot.config.rule_models import Defaults, GitHubRule, Watch
from bot.config.sources import BETWEEN, PREFIX, sources
from bot.config.table import Table, key
from bot.job import Ended
from bot.terms import Limits

Role = Literal["read", "triage", "write", "maintain", "admin"]
Secret = SecretStr | None


class Server(Table):
    """Where the service listens, and where it keeps what it must not lose."""

    host: str = key("127.0.0.1", "The address to listen on; 0.0.0.0 is all of them.")
    port: int = key(8000, "The port; 0 takes a free one.", ge=0, le=65535)
    public_url: Url | None = key(
        None, "How others reach the service, a path included: for links and for sign-in."
    )
    state: Path = key(Path("state"), "Folder for the database and for reports, relative to this file.")
    drain_seconds: float = key(30.0, "How long a stop waits for what is being answered.", ge=0, le=3600)
    request_seconds: float = key(20.0, "How long a request may take to arrive whole.", gt=0, le=600)
    request_bytes: Bytes = key(4 * 2**20, "The largest body of a webhook.", ge=65_536, le=2**30)
    connections: int = key(512, "How many connections are served at once.", ge=1, le=65535)
    metrics_token: Secret = key(None, "What /metrics takes as a bearer token. Without it, it is closed.")
    metrics_token_file: Path | None = key(None, "File with it.")


class Worker(Table):
    """The merges on one machine."""

    jobs: int = key(1, "How many merges run at once.", ge=1, le=64)
    queues: tuple[Queue, ...] = key((), "Queues that workers on other machines take merges from.")
    scratch: Path | None = key(None, "Folder for unfinished work, relative to this file; else below `state`.")
    scratch_bytes: Bytes = key(None, "How much unfinished work may take there.", gt=0)
    cache: Path | None = key(
        None,
        "Folder for what is fetched from the Hub, which is then cleared there, too; else within `scratch`.",
    )
    cache_bytes: Bytes = key(
        None, "How much of that is kept for the next merges; else what the disk has room for.", gt=0
    )
    memory_bytes: Bytes = key(
        None, "How much memory a merge may have to itself, all its processes together.", gt=0
    )
    hours: float = key(12.0, "After how long a merge is given up.", gt=0, le=24 * 14)
    shards: int = key(4, "How many shards of one job are in line at once where it goes shard by shard.", ge=1)
    spread_above_gb: float | None = key(
        None, "Models above so many GB go shard by shard also where scratch space would do.", ge=0
    )


class Hub(Table):
    """The Hub's webhook, and who we are there. Tokens are in HF_TOKEN, as for every command."""

    user: Owner | None = key(
        None, "Our own name on the Hub, whose comments ask for nothing; else the Hub is asked."
    )
    webhook_secret: Secret = key(
        None, "What the Hub sends as X-Webhook-Secret. Without it the door is closed."
    )
    webhook_secret_file: Path | None = key(None, "File with it.")


class GitHub(Table):
    """The GitHub App, or a token, that answers on GitHub. Without either, that door is closed."""

    app_id: int | None = key(None, "The App's id.", gt=0)
    private_key: Secret = key(None, "The App's private key, as PEM.")
    private_key_file: Path | None = key(None, "File with it.")
    token: Secret = key(None, "A token in place of an App.")
    token_file: Path | None = key(None, "File with it.")
    webhook_secret: Secret = key(None, "What GitHub signs its webhooks with. Without it the door is closed.")
    webhook_secret_file: Path | None = key(None, "File with it.")
    api_url: Url = key("https://api.github.com", "GitHub's API; https://HOST/api/v3 on a server of your own.")
    repositories: tuple[Glob, ...] = key((), "Repositories on GitHub that are answered; none by default.")


class RepositoryFile(Table):
    """`merge-bot.yml` in a repository that is watched, by which its owners opt out or change safe keys."""

    read: bool = key(default=True, says="Whether the file is looked at.")
    opt_in: tuple[Glob, ...] = key(
        (), "Repositories without a rule that may opt in by `merge: true` in theirs."
    )


class Ask(Table):
    """Who may give commands in discussions, beside the owner of the adapter."""

    users: tuple[UserGlob, ...] = key((), "Users of the Hub, as globs.")
    organizations: tuple[Owner, ...] = key((), "Organisations whose members may.")
    github_role: Role = key("write", "The role that a command in a comment on GitHub takes.")


class RunnerBySize(Table):
    """A line of the table by which `auto` chooses: the first that is large enough."""

    up_to_gb: float | None = key(None, "For models of at most so many GB; left out: for all others.", gt=0)
    runner: Runner = key(..., "local, pool:QUEUE or hf-jobs.")


class HfJobs(Table):
    """The Hub's own machines."""

    namespace: Owner | None = key(None, "Who pays: a user or an organisation; else the token's user.")
    image: str | None = key(
        None, "An image of merge-bot that the Hub may pull. Without it, hf-jobs cannot be."
    )
    flavors: tuple[str, ...] = key(
        (), "Machines that may be rented; none: the cheapest that is large enough."
    )
    hours: float = key(6.0, "After how long a job is given up.", gt=0, le=24 * 7)
    max_cost: float | None = key(
        None, "The most that one merge may cost, all tries together, in US dollars.", gt=0
    )


class Quotas(Table):
    """How much one requester may have done in 24 hours."""

    jobs_per_day: Count = key(None, "Merges.", gt=0)
    gb_per_day: float | None = key(None, "GB of merged weights.", gt=0)


class LimitKeys(Table):
    """How large a merge may be. The variables MERGE_BOT_MAX_… come before these."""

    base_bytes: Bytes = key(Limits.base_bytes, "Weights of a base model.", gt=0)
    adapter_bytes: Bytes = key(Limits.adapter_bytes, "Weights of an adapter.", gt=0)
    rank: Count = key(Limits.rank, "Rank of an adapter.", gt=0)
    tensors: Count = key(Limits.tensors, "Tensors of a model.", gt=0)
    download_bytes: Bytes = key(Limits.download_bytes, "What a merge fetches.", gt=0)
    output_bytes: Bytes = key(Limits.output_bytes, "What a merge writes.", gt=0)
    disk_bytes: Bytes = key(Limits.disk_bytes, "Free disk that a merge needs.", gt=0)
    cost: Count = key(Limits.cost, "What a merge costs, in the unit of `cost_per_gb`.", gt=0)
    cost_per_gb: Count = key(Limits.cost_per_gb, "The price of a GB fetched, read or written.", gt=0)

    def limits(self) -> Limits:
        """The record that the pipeline takes."""
        return Limits(**self.model_dump())


class Notify(Table):
    """A webhook of yours that is told when a job has ended: JSON with `text`, as Slack takes it, and the job."""

    url: Secret = key(None, "Where it is posted to; it is a secret, since who has it may post.")
    url_file: Path | None = key(None, "File with it.")
    on: tuple[Ended, ...] = key(("published", "refused", "failed"), "Of which outcomes.")


class Pages(Table):
    """The status page, and who may do something on it."""

    operator_token: Secret = key(None, "What an operator signs in with; at least 16 characters.")
    operator_token_file: Path | None = key(None, "File with it.")
    operators: tuple[Owner, ...] = key((), "Users of the Hub who are operators, too.")
    session_secret: Secret = key(None, "What sessions are signed with; else one is made and kept in `state`.")
    session_secret_file: Path | None = key(None, "File with it.")
    oauth_client_id: str | None = key(None, "Of an OAuth app on the Hub, by which its users sign in.")
    oauth_client_secret: Secret = key(None, "Its secret.")
    oauth_client_secret_file: Path | None = key(None, "File with it.")
    strangers: Literal["read-only", "closed"] = key("closed", "What who has not signed in sees.")


class Polling(Table):
    """`merge-bot watch`: looking at watched users and organisations without webhooks."""

    seconds: float = key(300.0, "How long lies between two looks.", ge=10, le=86400)
    since: datetime | None = key(
        None, "What changed after this is merged at the first look; else nothing is."
    )
    serve: Literal["start", "always", "never"] = key(
        "start",
        "When `merge-bot serve` looks, too: for what webhooks missed while it was away, or in their place.",
    )


class Retention(Table):
    """How long what has ended is kept in the database."""

    log_days: float = key(30.0, "Logs of jobs.", gt=0)
    job_days: float = key(365.0, "Jobs, with their plans and reports.", ge=2)


class Config(BaseSettings):
    """The whole file. Variables `MERGE_BOT_TABLE__KEY` of the environment come before it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=BETWEEN,
    )

    database_url: Secret = key(None, "sqlite:///FILE or postgresql://…; else a SQLite file below `state`.")
    database_url_file: Path | None = key(None, "File with it.")
    server: Server = Server()
    worker: Worker = Worker()
    hub: Hub = Hub()
    github: GitHub = GitHub()
    github_rules: tuple[GitHubRule, ...] = ()
    defaults: Defaults = Defaults()
    watch: tuple[Watch, ...] = ()
    repository_file: RepositoryFile = RepositoryFile()
    ask: Ask = Ask()
    runners: tuple[RunnerBySize, ...] = ()
    hf_jobs: HfJobs = HfJobs()
    quotas: Quotas = Quotas()
    limits: LimitKeys = LimitKeys()
    notify: tuple[Notify, ...] = ()
    pages: Pages = Pages()
    polling: Polling = Polling()
    retention: Retention = Retention()

    @property
    def database(self) -> str:
        """The URL of the database, which may hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.server.state / 'merge-bot.sqlite'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings hands over all that it knows
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`Config(source=Source(…))` reads a file and an environment; any other call reads neither."""
        return sources(settings_cls, init_settings)
