"""The tables `[defaults]`, `[[watch]]` and `[[github_rules]]`: what is done with which repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bot.config.kinds import Glob, Owner, Runner, Template
from bot.config.table import Table, key
from bot.request import QuantizedBase, Reload, Way

Publish = Literal["repository", "hub_pr"]
Visibility = Literal["private", "public"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class RuleKeys(Table):
    """What a rule may say. What it leaves out is as in `defaults`."""

    destination: Template | None = key(
        None, "Where the result goes: owner/name with {owner}, {name}, {subfolder}, {base} or {base_name}."
    )
    publish: Publish | None = key(
        None, "`repository` makes one or commits to it; `hub_pr` opens a Hub PR on it."
    )
    visibility: Visibility | None = key(None, "What a repository is that has to be made.")
    runner: Runner | None = key(
        None, "Where it is merged: auto (by `runners`), local, pool:QUEUE or hf-jobs."
    )
    validation: Way | None = key(None, "How much of the result is checked.")
    thorough: bool | None = key(None, "Check all numbers of changed tensors, not one row in 16.")
    max_change: float | None = key(
        None,
        "How much of a base tensor's norm an adapter may change; a merge above it is not published.",
        gt=0,
    )
    max_perplexity: float | None = key(
        None,
        "How much larger than the adapter's the merged model's perplexity on `perplexity_text` may be: 1.01.",
        gt=0,
    )
    perplexity_text: Path | None = key(
        None, "A file with a text, of which 64 KiB are read: the full check measures perplexity on it."
    )
    reload: Reload | None = key(None, "Whether the model is loaded once more from the Hub.")
    dtype: Dtype | None = key(None, "Dtype of the result; auto keeps every tensor's own.")
    quantized_base: QuantizedBase | None = key(None, "What a quantised base stands for.")
    allow_pickle: bool | None = key(None, "Read weights that are there only as pickle, as tensors.")


def _always(name: str, default: Any) -> Any:
    return key(default, str(RuleKeys.model_fields[name].description))


class Defaults(RuleKeys):
    """What holds where no rule says something else."""

    destination: Template = _always("destination", "{owner}/{name}-merged")
    publish: Publish = _always("publish", "repository")
    visibility: Visibility = _always("visibility", "private")
    runner: Runner = _always("runner", "auto")
    validation: Way = _always("validation", "full")
    thorough: bool = _always("thorough", default=False)
    max_change: float | None = _always("max_change", None)
    max_perplexity: float | None = _always("max_perplexity", None)
    perplexity_text: Path | None = _always("perplexity_text", None)
    reload: Reload = _always("reload", "auto")
    dtype: Dtype = _always("dtype", "auto")
    quantized_base: QuantizedBase = _always("quantized_base", "original")
    allow_pickle: bool = _always("allow_pickle", default=False)


class Watch(RuleKeys):
    """A rule: which repositories it is for, and what it says about them. The first that matches holds."""

    owners: tuple[Owner, ...] = key((), "Users and organisations: all their models.")
    repositories: tuple[Glob, ...] = key(
        (), "Globs of owner/name; with `!` before it, what this rule is not for."
    )
    enabled: bool = key(default=True, says="false: these are left alone, and no later rule is asked.")


class GitHubRule(Table):
    """What people of a repository on GitHub may do with the bot's tokens. The first that matches holds."""

    repositories: tuple[Glob, ...] = key(..., "Globs of repositories on GitHub.")
    destinations: tuple[Glob, ...] = key(
        (), "Globs of repositories on the Hub that commands there may publish to; none by default."
    )
    trusted: bool = key(
        default=False,
        says="true: who has the role `write` there may use all that our token may read.",
    )
    forks: bool = key(
        default=False, says="true: GitHub PRs from forks are planned as soon as they are opened, for anybody."
    )
