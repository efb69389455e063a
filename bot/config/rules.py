"""What applies to one repository of the Hub: the first rule of the configuration that matches, and its own file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bot.config import repository_file
from bot.config.globs import matches
from bot.config.kinds import filled
from bot.config.models import Config
from bot.config.repository_file import Own
from bot.config.rule_models import Dtype, Publish, RuleKeys, Visibility, Watch
from bot.errors import InputError
from bot.plan.destination import is_repo_id
from bot.request import Destination, QuantizedBase, Reload, Way

KEYS = tuple(RuleKeys.model_fields)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is in force for `repository`: `destination` is a template, `runner` is `auto` or a runner's name.

    `rule` counts the tables `[[watch]]` from 1; 0: there is none, and the repository has opted in. `own`: keys that
    its `merge-bot.yml` has changed.
    """

    repository: str
    rule: int
    destination: str
    publish: Publish
    visibility: Visibility
    runner: str
    validation: Way
    thorough: bool
    max_change: float | None
    max_perplexity: float | None
    perplexity_text: Path | None
    reload: Reload
    dtype: Dtype
    quantized_base: QuantizedBase
    allow_pickle: bool
    own: tuple[str, ...] = ()

    def to(self, *, base: str, subfolder: str = "") -> Destination:
        """Where the merge of an adapter in this repository goes. `base` is `owner/name`, or just a name.

        An adapter in a subfolder has a place of its own, also when the template does not say so. Raises InputError
        when the names make no name of a repository.
        """
        owner, _, name = self.repository.partition("/")
        part = subfolder.replace("/", "-")
        values = {
            "owner": owner,
            "name": name,
            "subfolder": part,
            "base": base,
            "base_name": base.rpartition("/")[2],
        }
        made = filled(self.destination, values)
        if part and "{subfolder}" not in self.destination:
            made = f"{made}-{part}"
        if not is_repo_id(made):
            raise InputError(
                f"The destination {self.destination!r} makes {made!r} for {self.repository}, which is no repository.",
                advice="Change `destination` for it: a repository is owner/name, of at most 96 characters each.",
                code="bad-destination",
            )
        hub_pr = self.publish == "hub_pr"
        return Destination(
            kind="hub_pr" if hub_pr else "repository",
            location=made,
            public=self.visibility == "public" and not hub_pr,
        )


def rules_for(config: Config, repo_id: str, override: bytes | None = None) -> Rules | None:
    """What applies to a repository; None: it is left alone. `override` is its `merge-bot.yml` as it lies there.

    Raises InputError for a file that cannot be read, or asks for what its owner may not change: then nothing is done.
    """
    number, rule = _first(config.watch, repo_id)
    if rule is not None and not rule.enabled:
        return None
    read = override is not None and config.repository_file.read
    own = repository_file.parse(override, where=repo_id) if read and override is not None else Own()
    if own.merge is False:
        return None
    if rule is None and not (own.merge and _any(config.repository_file.opt_in, repo_id)):
        return None
    changed = {} if rule is None else {key: getattr(rule, key) for key in KEYS}
    values = {key: v for key in KEYS if (v := changed.get(key)) is not None}
    in_force = Rules(repository=repo_id, rule=number, **{**config.defaults.model_dump(), **values})
    return _with(in_force, own)


def ruled(config: Config, repo_id: str, *, base: str = "", subfolder: str = "") -> Destination | None:
    """Where the first rule that matches has an adapter go, else `[defaults]`; its own file is not asked.

    None where that takes the name of the base, and it is not given. Raises InputError as `Rules.to` does.
    """
    rules = rules_for(config, repo_id) or Rules(repository=repo_id, rule=0, **config.defaults.model_dump())
    return None if "{base" in rules.destination and not base else rules.to(base=base, subfolder=subfolder)


def may_watch(config: Config, repo_id: str) -> bool:
    """Whether a repository can have rules at all, once its own file has been read."""
    _, rule = _first(config.watch, repo_id)
    return rule.enabled if rule is not None else _any(config.repository_file.opt_in, repo_id)


def _with(rules: Rules, own: Own) -> Rules:
    asked = own.changes()
    repository_file.check(
        own,
        rules.repository,
        destination=rules.destination,
        publish=rules.publish,
        visibility=rules.visibility,
        validation=rules.validation,
    )
    return replace(rules, **asked, own=tuple(asked)) if asked else rules


def _first(watch: Iterable[Watch], repo_id: str) -> tuple[int, Watch | None]:
    for number, rule in enumerate(watch, 1):
        if _is_for(rule, repo_id):
            return number, rule
    return 0, None


def _is_for(rule: Watch, repo_id: str) -> bool:
    owner = repo_id.partition("/")[0].casefold()
    wanted = [pattern for pattern in rule.repositories if not pattern.startswith("!")]
    left_out = [pattern[1:] for pattern in rule.repositories if pattern.startswith("!")]
    named = owner in {name.casefold() for name in rule.owners}
    return (named or _any(wanted, repo_id)) and not _any(left_out, repo_id)


def _any(patterns: Iterable[str], repo_id: str) -> bool:
    return any(matches(repo_id, pattern) for pattern in patterns)
