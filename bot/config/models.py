"""`merge-bot.toml` as frozen records: every table and key of it, with its default and what it means.

What a key says here is what docs/config.md and the example say. A secret may be given as a file, by a key of the same
name with `_file` behind it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bot.config.kinds import Bytes, Count, Glob, Owner, Queue, Runner, Template, UserGlob
from bot.config.sources import BETWEEN, PREFIX, sources
from bot.job import Ended
from bot.request import QuantizedBase, Reload, Way
from bot.terms import Limits

Publish = Literal["repository", "hub_pr"]
Visibility = Literal["private", "public"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Role = Literal["read", "triage", "write", "maintain", "admin"]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*[^\s/]$")]
Secret = SecretStr | None


class Table(BaseModel):
    """One table of the file. A key that it does not know is a mistake; what was given is in no error's text."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _key(default: Any, says: str, **bounds: Any) -> Any:
    return Field(default=default, description=says, **bounds)


class Server(Table):
    """Where the service listens, and where it keeps what it must not lose."""

    host: str = _key("127.0.0.1", "The address to listen on; 0.0.0.0 is all of them.")
    port: int = _key(8000, "The port; 0 takes a free one.", ge=0, le=65535)
    public_url: Url | None = _key(None, "How others reach the service: for links and for sign-in.")
    state: Path = _key(Path("state"), "Folder for the database and for reports, relative to this file.")
    drain_seconds: float = _key(30.0, "How long a stop waits for what is being answered.", ge=0, le=3600)
    request_seconds: float = _key(20.0, "How long a request may take to arrive whole.", gt=0, le=600)
    request_bytes: Bytes = _key(4 * 2**20, "The largest body of a request.", ge=65_536, le=2**30)
    connections: int = _key(512, "How many connections are served at once.", ge=1, le=65535)
    metrics_token: Secret = _key(None, "What /metrics takes as a bearer token. Without it, it is closed.")
    metrics_token_file: Path | None = _key(None, "File with it.")


class Worker(Table):
    """The merges on one machine."""

    jobs: int = _key(1, "How many merges run at once.", ge=1, le=64)
    queues: tuple[Queue, ...] = _key((), "Queues that workers on other machines take merges from.")
    scratch: Path | None = _key(
        None, "Folder for unfinished work, relative to this file; else below `state`."
    )
    scratch_bytes: Bytes = _key(None, "How much unfinished work may take there.", gt=0)
    hours: float = _key(12.0, "After how long a merge is given up.", gt=0, le=24 * 14)


class Hub(Table):
    """The Hub's webhook, and who we are there. Tokens are in HF_TOKEN, as for every command."""

    user: Owner | None = _key(
        None, "Our own name on the Hub, whose comments ask for nothing; else the Hub is asked."
    )
    webhook_secret: Secret = _key(
        None, "What the Hub sends as X-Webhook-Secret. Without it the door is closed."
    )
    webhook_secret_file: Path | None = _key(None, "File with it.")


class GitHub(Table):
    """The GitHub App, or a token, that answers on GitHub. Without either, that door is closed."""

    app_id: int | None = _key(None, "The App's id.", gt=0)
    private_key: Secret = _key(None, "The App's private key, as PEM.")
    private_key_file: Path | None = _key(None, "File with it.")
    token: Secret = _key(None, "A token in place of an App.")
    token_file: Path | None = _key(None, "File with it.")
    webhook_secret: Secret = _key(None, "What GitHub signs its webhooks with. Without it the door is closed.")
    webhook_secret_file: Path | None = _key(None, "File with it.")
    api_url: Url = _key(
        "https://api.github.com", "GitHub's API; https://HOST/api/v3 on a server of your own."
    )
    repositories: tuple[Glob, ...] = _key((), "Repositories on GitHub that are answered; none by default.")


class RuleKeys(Table):
    """What a rule may say. What it leaves out is as in `defaults`."""

    destination: Template | None = _key(
        None, "Where the result goes: owner/name with {owner}, {name}, {subfolder}, {base} or {base_name}."
    )
    publish: Publish | None = _key(
        None, "`repository` makes one or commits to it; `hub_pr` opens a Hub PR on it."
    )
    visibility: Visibility | None = _key(None, "What a repository is that has to be made.")
    runner: Runner | None = _key(
        None, "Where it is merged: auto (by `runners`), local, pool:QUEUE or hf-jobs."
    )
    validation: Way | None = _key(None, "How much of the result is checked.")
    thorough: bool | None = _key(None, "Check all numbers of changed tensors, not one row in 16.")
    reload: Reload | None = _key(None, "Whether the model is loaded once more from the Hub.")
    dtype: Dtype | None = _key(None, "Dtype of the result; auto keeps every tensor's own.")
    quantized_base: QuantizedBase | None = _key(None, "What a quantised base stands for.")
    allow_pickle: bool | None = _key(None, "Read weights that are there only as pickle, as tensors.")


def _always(key: str, default: Any) -> Any:
    return _key(default, str(RuleKeys.model_fields[key].description))


class Defaults(RuleKeys):
    """What holds where no rule says something else."""

    destination: Template = _always("destination", "{owner}/{name}-merged")
    publish: Publish = _always("publish", "repository")
    visibility: Visibility = _always("visibility", "private")
    runner: Runner = _always("runner", "auto")
    validation: Way = _always("validation", "full")
    thorough: bool = _always("thorough", default=False)
    reload: Reload = _always("reload", "auto")
    dtype: Dtype = _always("dtype", "auto")
    quantized_base: QuantizedBase = _always("quantized_base", "original")
    allow_pickle: bool = _always("allow_pickle", default=False)


class Watch(RuleKeys):
    """A rule: which repositories it is for, and what it says about them. The first that matches holds."""

    owners: tuple[Owner, ...] = _key((), "Users and organisations: all their models.")
    repositories: tuple[Glob, ...] = _key(
        (), "Globs of owner/name; with `!` before it, what this rule is not for."
    )
    enabled: bool = _key(default=True, says="false: these are left alone, and no later rule is asked.")


class RepositoryFile(Table):
    """`merge-bot.yml` in a repository that is watched, by which its owners opt out or change safe keys."""

    read: bool = _key(default=True, says="Whether the file is looked at.")
    opt_in: tuple[Glob, ...] = _key(
        (), "Repositories without a rule that may opt in by `merge: true` in theirs."
    )


class Ask(Table):
    """Who may give commands in discussions, beside the owner of the adapter."""

    users: tuple[UserGlob, ...] = _key((), "Users of the Hub, as globs.")
    organizations: tuple[Owner, ...] = _key((), "Organisations whose members may.")
    github_role: Role = _key("write", "The role that a command in a comment on GitHub takes.")


class RunnerBySize(Table):
    """A line of the table by which `auto` chooses: the first that is large enough."""

    up_to_gb: float | None = _key(None, "For models of at most so many GB; left out: for all others.", gt=0)
    runner: Runner = _key(..., "local, pool:QUEUE or hf-jobs.")


class HfJobs(Table):
    """The Hub's own machines."""

    namespace: Owner | None = _key(None, "Who pays: a user or an organisation; else the token's user.")
    image: str | None = _key(
        None, "An image of merge-bot that the Hub may pull. Without it, hf-jobs cannot be."
    )
    flavors: tuple[str, ...] = _key(
        (), "Machines that may be rented; none: the cheapest that is large enough."
    )
    hours: float = _key(6.0, "After how long a job is given up.", gt=0, le=24 * 7)
    max_cost: float | None = _key(None, "The most that one job may cost, in US dollars.", gt=0)


class Quotas(Table):
    """How much one requester may have done in 24 hours."""

    jobs_per_day: Count = _key(None, "Merges.", gt=0)
    gb_per_day: float | None = _key(None, "GB of merged weights.", gt=0)


class LimitKeys(Table):
    """How large a merge may be. The variables MERGE_BOT_MAX_… come before these."""

    base_bytes: Bytes = _key(Limits.base_bytes, "Weights of a base model.", gt=0)
    adapter_bytes: Bytes = _key(Limits.adapter_bytes, "Weights of an adapter.", gt=0)
    rank: Count = _key(Limits.rank, "Rank of an adapter.", gt=0)
    tensors: Count = _key(Limits.tensors, "Tensors of a model.", gt=0)
    download_bytes: Bytes = _key(Limits.download_bytes, "What a merge fetches.", gt=0)
    output_bytes: Bytes = _key(Limits.output_bytes, "What a merge writes.", gt=0)
    disk_bytes: Bytes = _key(Limits.disk_bytes, "Free disk that a merge needs.", gt=0)
    cost: Count = _key(Limits.cost, "What a merge costs, in the unit of `cost_per_gb`.", gt=0)
    cost_per_gb: Count = _key(Limits.cost_per_gb, "The price of a GB fetched, read or written.", gt=0)

    def limits(self) -> Limits:
        """The record that the pipeline takes."""
        return Limits(**self.model_dump())


class Notify(Table):
    """A webhook of yours that is told when a job has ended: JSON with `text`, as Slack takes it, and the job."""

    url: Secret = _key(None, "Where it is posted to; it is a secret, since who has it may post.")
    url_file: Path | None = _key(None, "File with it.")
    on: tuple[Ended, ...] = _key(("published", "refused", "failed"), "Of which outcomes.")


class Pages(Table):
    """The status page, and who may do something on it."""

    operator_token: Secret = _key(None, "What an operator signs in with; at least 16 characters.")
    operator_token_file: Path | None = _key(None, "File with it.")
    operators: tuple[Owner, ...] = _key((), "Users of the Hub who are operators, too.")
    session_secret: Secret = _key(
        None, "What sessions are signed with; else one is made and kept in `state`."
    )
    session_secret_file: Path | None = _key(None, "File with it.")
    oauth_client_id: str | None = _key(None, "Of an OAuth app on the Hub, by which its users sign in.")
    oauth_client_secret: Secret = _key(None, "Its secret.")
    oauth_client_secret_file: Path | None = _key(None, "File with it.")
    strangers: Literal["read-only", "closed"] = _key("closed", "What who has not signed in sees.")


class Polling(Table):
    """`merge-bot watch`: looking at watched users and organisations without webhooks."""

    seconds: float = _key(300.0, "How long lies between two looks.", ge=10, le=86400)
    since: datetime | None = _key(
        None, "What changed after this is merged at the first look; else nothing is."
    )


class Retention(Table):
    """How long what has ended is kept in the database."""

    log_days: float = _key(30.0, "Logs of jobs.", gt=0)
    job_days: float = _key(365.0, "Jobs, with their plans and reports.", ge=2)


class Config(BaseSettings):
    """The whole file. Variables `MERGE_BOT_TABLE__KEY` of the environment come before it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=BETWEEN,
    )

    database_url: Secret = _key(None, "sqlite:///FILE or postgresql://…; else a SQLite file below `state`.")
    database_url_file: Path | None = _key(None, "File with it.")
    server: Server = Server()
    worker: Worker = Worker()
    hub: Hub = Hub()
    github: GitHub = GitHub()
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
