"""Environment → frozen Settings. The only reader of `os.environ`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bot.terms import VARIABLES, Limits, Terms

Isolation = Literal["process", "none"]
# What a worker needs: where programs and libraries are, how text is encoded, how many cores to use, which GPU.
KEPT = frozenset(
    {"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF"}
)
KEPT_PREFIXES = (
    "LC_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "CUDA_", "NVIDIA_", "PYTORCH_", "HSA_", "HIP_",
)  # fmt: skip
# And a step of a job, which talks to the Hub: ways there, the libraries' own settings, whose files these are.
STEP_KEPT = frozenset({
    "HOME", "USER", "LOGNAME", "PYTHONPATH", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    *(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL", "NO")),
    *(f"{kind}_proxy" for kind in ("http", "https", "all", "no")),
})  # fmt: skip
HUB_SECRETS = frozenset({"HF_TOKEN", "HF_OAUTH_CLIENT_SECRET"})
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)  # NVIDIA_API_KEY
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}
# Merging gives each core a block of its own: threads inside numpy would only wait beside it, at the cost of that core.
NUMPY = {"OPENBLAS_NUM_THREADS": "1"}
# glibc keeps freed blocks of up to 32 MiB once it has seen one: live DoRA layers took twice the memory of their model.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(16 * 2**20)}
SECRETS = (
    ".huggingface", ".netrc", ".git-credentials", ".config/gh", ".config/git", ".ssh", ".aws", ".kube", ".gnupg",
    ".docker", ".pypirc", ".config/gcloud", ".azure",
)  # fmt: skip


UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([kmgt]b)?", re.ASCII)
MOUNT = re.compile(r"([^\s@=]+@[0-9a-f]{40})=(/\S*)", re.ASCII)
OFF = "off"
FILES = ("event_path", "output", "step_summary")  # GITHUB_… variables with the names of files


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says.

    `read_token` and `write_token` are kept out of every repr. `timeout` is seconds without an answer, `attempts`
    how often a request is tried, `scratch` the folder for unfinished work (None: beside the destination, or the
    system's temporary folder), `terms` what is published and how large it may be. `isolation`:
    whether work on strangers' files gets a process of its own; `plan_timeout` is how many seconds it may look for the
    adapter's modules. `verbosity` is the command's, for that process. `identity`: this is a step of a GitHub workflow
    that can prove to the Hub whose it is. `anonymous`: the Hub is read without a token, for somebody who is not
    known to be allowed what the token may read, except below the names in `owned`, in small letters, which are theirs.
    `mounts`: folders that hold a repository of the Hub at a commit, by `owner/name@commit`. `cache`: where steps of a
    job keep what they fetch from the Hub (None: where its client does).
    """

    endpoint: str = "https://huggingface.co"
    read_token: str | None = field(default=None, repr=False)
    write_token: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    attempts: int = 5
    scratch: Path | None = None
    terms: Terms = field(default_factory=Terms)
    isolation: Isolation = "process"
    plan_timeout: float = 120.0
    verbosity: int = 0
    anonymous: bool = False
    owned: frozenset[str] = frozenset()
    identity: bool = False
    mounts: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A step of a GitHub workflow: what happened, where results go, and its inputs as they came.

    `run` tells its attempts apart; `url` is its page. `inputs` and `token` hold secrets and are kept out of every repr.
    """

    event_name: str
    event_path: Path | None = None
    output: Path | None = None
    step_summary: Path | None = None
    repository: str
    api_url: str
    run: str
    url: str
    temporary: Path
    token: str = field(repr=False)
    inputs: Mapping[str, str] = field(repr=False)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (default: the process's). Raises ValueError naming a variable that makes no sense."""
    env = os.environ if environ is None else environ
    token = env.get("HF_TOKEN") or None
    scratch = env.get("MERGE_BOT_SCRATCH")
    return Settings(
        endpoint=env.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"),
        read_token=env.get("MERGE_BOT_READ_TOKEN") or token,
        write_token=env.get("MERGE_BOT_WRITE_TOKEN") or token,
        timeout=_positive(env, "MERGE_BOT_TIMEOUT", 30.0),
        attempts=int(_positive(env, "MERGE_BOT_ATTEMPTS", 5)),
        scratch=Path(scratch) if scratch else None,
        terms=Terms(allowed_licenses=_licenses(env), limits=_limits(env)),
        isolation=_isolation(env),
        plan_timeout=_positive(env, "MERGE_BOT_PLAN_TIMEOUT", 120.0),
        identity=all([env.get("ACTIONS_ID_TOKEN_REQUEST_URL"), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")]),
        mounts=dict(_mount(word) for word in (env.get("MERGE_BOT_MOUNTS") or "").split()),
    )


def environment() -> Mapping[str, str]:
    """The process's environment as it is now, for `bot.config`, whose names nobody can list beforehand."""
    return dict(os.environ)


def workflow(environ: Mapping[str, str] | None = None) -> Workflow:
    """What GitHub tells a step: https://docs.github.com/en/actions/reference/workflows-and-actions/variables."""
    env = os.environ if environ is None else environ
    files = {name: Path(text) for name in FILES if (text := env.get(f"GITHUB_{name.upper()}"))}
    repository, run = env.get("GITHUB_REPOSITORY", ""), env.get("GITHUB_RUN_ID", "")
    server = env.get("GITHUB_SERVER_URL", "https://github.com")
    attempt = env.get("GITHUB_RUN_ATTEMPT", "1")
    return Workflow(
        event_name=env.get("GITHUB_EVENT_NAME", ""),
        repository=repository,
        api_url=env.get("GITHUB_API_URL", "https://api.github.com"),
        run=f"{run}-{attempt}" if run else "",
        url=f"{server}/{repository}/actions/runs/{run}" if run else "",
        temporary=Path(env.get("RUNNER_TEMP") or tempfile.gettempdir()),
        token=env.get("GITHUB_TOKEN", ""),
        inputs={name: text for name, text in env.items() if name.startswith("INPUT_")},
        **files,
    )


def told(settings: Settings) -> dict[str, str]:
    """What another merge-bot has to be told in its environment to decide as this one does; no token is in it."""
    limits = {name: getattr(settings.terms.limits, field) for field, name in VARIABLES.items()}
    return {
        "HF_ENDPOINT": settings.endpoint,
        "MERGE_BOT_TIMEOUT": str(settings.timeout),
        "MERGE_BOT_ATTEMPTS": str(settings.attempts),
        "MERGE_BOT_PLAN_TIMEOUT": str(settings.plan_timeout),
        "MERGE_BOT_ISOLATION": settings.isolation,
        "MERGE_BOT_ALLOW_LICENSES": ",".join(sorted(settings.terms.allowed_licenses)),
        **{name: OFF if value is None else str(value) for name, value in limits.items()},
    }


def steer_numpy() -> None:
    """Sets what numpy reads when it is imported, unless the user has."""
    for name, value in NUMPY.items():
        os.environ.setdefault(name, value)


def worker_environment(*, home: str) -> dict[str, str]:
    """All that a worker gets to see of the environment: nothing that could be a token, and the libraries offline."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if (k in KEPT or k.startswith(KEPT_PREFIXES)) and not SECRET_NAME.search(k)
    }
    return NUMPY | ALLOCATOR | kept | OFFLINE | _home(home)


def _home(place: str) -> dict[str, str]:
    return {"HOME": place, "HF_HOME": f"{place}/huggingface"}


def live_in(home: str, *, temporary: str) -> None:
    """Makes it the home, and the folder, of this process, which may have begun with another; so with `temporary`."""
    os.environ.update(_home(home) | {"TMPDIR": temporary})
    tempfile.tempdir = None  # it is looked up anew
    os.chdir(home)


def taken(name: str) -> str | None:
    """What a variable says that is for this process alone, once."""
    return os.environ.pop(name, None)


def step_environment(settings: Settings, *, scratch: Path, writes: bool = False) -> dict[str, str]:
    """What a step of a job gets to see: `load` makes the same settings of it, and there is no other secret in it.

    The write token is in it for a step that `writes`. Temporary files go below `scratch`, too.
    """
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in KEPT | STEP_KEPT or (k.startswith((*KEPT_PREFIXES, "HF_")) and k not in HUB_SECRETS)
    }
    limits = settings.terms.limits
    said = {
        "HF_ENDPOINT": settings.endpoint,
        "HF_HUB_CACHE": str(settings.cache or ""),
        "MERGE_BOT_READ_TOKEN": settings.read_token or "",
        "MERGE_BOT_WRITE_TOKEN": (settings.write_token if writes else None) or "",
        "MERGE_BOT_TIMEOUT": str(settings.timeout),
        "MERGE_BOT_ATTEMPTS": str(settings.attempts),
        "MERGE_BOT_SCRATCH": str(scratch),
        "MERGE_BOT_ALLOW_LICENSES": ",".join(sorted(settings.terms.allowed_licenses)),
        "MERGE_BOT_ISOLATION": settings.isolation,
        "MERGE_BOT_PLAN_TIMEOUT": str(settings.plan_timeout),
        "TMPDIR": str(scratch),
    }
    said |= {name: _said(getattr(limits, field)) for field, name in VARIABLES.items()}
    return kept | {name: text for name, text in said.items() if text}


def _said(limit: int | None) -> str:
    return OFF if limit is None else str(limit)


def secret_places() -> list[str]:
    """Files and folders of this user that hold tokens and keys, for a worker to be kept from."""
    env, home = os.environ, Path.home()
    cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(env.get("HF_HOME") or cache / "huggingface")
    token = Path(env.get("HF_TOKEN_PATH") or hub / "token")
    places = [token, token.with_name("stored_tokens"), hub / "token", hub / "stored_tokens"]
    places += [home / name for name in SECRETS]
    return list(dict.fromkeys(str(p.absolute()) for p in places if p.exists()))


def _isolation(env: Mapping[str, str]) -> Isolation:
    chosen = env.get("MERGE_BOT_ISOLATION") or "process"
    if chosen == "process":
        return "process"
    if chosen == "none":
        return "none"
    raise ValueError(f"MERGE_BOT_ISOLATION must be process or none, not {chosen!r}")


def _mount(text: str) -> tuple[str, Path]:
    found = MOUNT.fullmatch(text)
    if found is None:
        raise ValueError(f"MERGE_BOT_MOUNTS must be owner/name@commit=/folder, not {text!r:.200}")
    return found[1], Path(found[2])


def _licenses(env: Mapping[str, str]) -> frozenset[str]:
    names = (name.strip().casefold() for name in (env.get("MERGE_BOT_ALLOW_LICENSES") or "").split(","))
    return frozenset(name for name in names if name)


def _limits(env: Mapping[str, str]) -> Limits:
    given = {field: (name, (env.get(name) or "").strip().lower()) for field, name in VARIABLES.items()}
    return Limits(**{f: _amount(name, text) for f, (name, text) in given.items() if text})


def _amount(name: str, text: str) -> int | None:
    """A number, of bytes also as `500 GB`; None for `off`."""
    if text == OFF:
        return None
    found, value = AMOUNT.fullmatch(text), amount(text)
    is_bytes = name.endswith("_BYTES")
    if value < 1 or (found and found[2] and not is_bytes):
        example = "a number of bytes, such as 500GB," if is_bytes else "a positive whole number"
        raise ValueError(f"{name} must be {example} or off, not {text!r}")
    return value


def amount(text: str) -> int:
    """A number of bytes, also as `500 GB`; 0 for what is none."""
    found = AMOUNT.fullmatch(text.strip().lower())
    return int(float(found[1]) * UNITS[found[2] or ""]) if found else 0


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"{name} must be a positive number, not {text!r}")
    return value
