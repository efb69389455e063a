"""The adapters of a repository on the Hub at a commit: what a push to it makes to be done, by the rules for it.

Webhooks and polling come here alike; who writes a command in a discussion is answered by `bot.doors.hub`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bot import connect
from bot.config.models import Config
from bot.config.repository_file import FILE as OWN
from bot.config.repository_file import LARGEST
from bot.config.rule_models import Defaults
from bot.config.rules import Rules, may_watch, rules_for
from bot.doors.asked import job_key
from bot.doors.task import Task
from bot.forge import Snapshot
from bot.job import Job
from bot.plan import adapter_config, card, lenient, questions
from bot.plan.reference import hidden, is_repo_id, parse
from bot.publish.marker import find_marker
from bot.request import MergeRequest, Thresholds
from bot.settings import Settings
from bot.trigger.hub import Ignored

if TYPE_CHECKING:
    from bot.clients.hub_repository import HubRepository

MOST = 20  # adapters of one repository: nobody means to merge more of them by one push
CHECKPOINT = re.compile(r"checkpoint-\d+")  # what transformers calls the folders of an unfinished training
BESIDE = frozenset({card.CARD, OWN, ".gitattributes", ".gitignore"})  # they change no merge
LONGEST_TEXT = 65_536  # characters: every order has a copy
ROOT = ""


def tasks(
    repo_id: str, commit: str, *, before: str | None = None, config: Config, settings: Settings, run: str = ""
) -> tuple[Task, ...] | Ignored:
    """A merge for each adapter that the commit holds; with `before`, if it changed since. Or why there is none.

    Raises InputError for a merge-bot.yml that is wrong, AccessError or HostError where the Hub does not let us look.
    """
    if not may_watch(config, repo_id):
        return Ignored(reason=f"{repo_id} is watched by no rule")
    repository = connect.repository(settings, repo_id)
    there = repository.at(commit)
    if there is None:
        return Ignored(reason=f"{repo_id} is gone, or has no commit {commit[:12]} any more")
    folders = _changed(adapters(there), there=there, before=before, repository=repository)
    if not folders:
        return Ignored(reason=f"{repo_id} has no adapter at {commit[:12]} that is new or changed")
    if _is_ours(there, repository=repository):
        return Ignored(reason=f"what {repo_id} holds was published by us")
    rules = in_force(config, there, repository=repository)
    if rules is None:
        return Ignored(reason=f"the merge-bot.yml of {repo_id} opts out, or does not opt in")
    return tuple(
        _task(folder, rules=rules, there=there, repository=repository, run=run) for folder in folders
    )


def is_overtaken(adapter: str, *, settings: Settings) -> bool:
    """Whether main holds other files of the pinned adapter by now, or its history no longer has that commit.

    Either came by a push of its own. Raises AccessError or HostError.
    """
    known = parse(adapter)
    repository = connect.repository(settings, known.repo_id or "")
    then, now = repository.at(known.revision or "main"), repository.at("main")
    if then is None or now is None:
        return now is not None
    return _files(known.subfolder, then) != _files(known.subfolder, now)


def adapters(there: Snapshot) -> tuple[str, ...]:
    """The folders with an adapter, `MOST` of them at most; the root is empty.

    Checkpoints of a training are left out where an adapter lies beside them: that is what came of it.
    """
    found = [str(PurePosixPath(path).parent) for path in there.files if _is_config(path)]
    named = sorted(ROOT if folder == "." else folder for folder in found)
    whole = [folder for folder in named if _has_weights(folder, there=there)]
    return tuple(folder for folder in whole if not _is_unfinished(folder, whole))[:MOST]


def in_force(config: Config, there: Snapshot, *, repository: HubRepository) -> Rules | None:
    """The rules with what the repository's own merge-bot.yml changes. Raises InputError where that is wrong."""
    own = repository.read(OWN, commit=there.commit, limit=LARGEST) if OWN in there.files else None
    return rules_for(config, there.repository, own)


def request(
    rules: Rules, folder: str, *, there: Snapshot, repository: HubRepository, base: str = ""
) -> MergeRequest:
    """What the rules say of the adapter in this folder, pinned to the commit. Raises InputError.

    `base` comes before the one that the adapter names. It acts for whoever runs the bot, who has written the rules
    down, and not for whoever has pushed.
    """
    named = base or _base(folder, there=there, repository=repository)
    known = ruled(rules, reference(there, folder))
    return replace(known, destination=rules.to(base=named, subfolder=folder), requester_access="yes")


def ruled(rules: Rules, adapter: str) -> MergeRequest:
    """What the rules say of any adapter; where it goes is left open."""
    return MergeRequest(
        adapter=adapter,
        dtype=rules.dtype,
        quantized_base=rules.quantized_base,
        allow_pickle=rules.allow_pickle,
        validation=rules.validation,
        thorough=rules.thorough,
        text=_text(rules.perplexity_text),
        thresholds=Thresholds(change=rules.max_change, perplexity=rules.max_perplexity),
        reload=rules.reload,
        attended=False,
    )


def within(request: MergeRequest, defaults: Defaults) -> MergeRequest:
    """The request with the thresholds that hold for all, where no rule has given it others."""
    if request.thresholds != Thresholds():
        return request
    wanted = Thresholds(change=defaults.max_change, perplexity=defaults.max_perplexity)
    return replace(request, thresholds=wanted, text=request.text or _text(defaults.perplexity_text))


def _text(file: Path | None) -> str:
    return questions.read_text(str(file))[:LONGEST_TEXT] if file is not None else ""


def reference(there: Snapshot, folder: str) -> str:
    """The adapter, pinned, as the pipeline takes it."""
    return f"{there.repository}@{there.commit}" + (f":{folder}" if folder else "")


def what(there: Snapshot, folder: str) -> str:
    """The adapter as people call it."""
    return there.repository + (f":{folder}" if folder else "")


def _task(folder: str, *, rules: Rules, there: Snapshot, repository: HubRepository, run: str) -> Task:
    asked = request(rules, folder, there=there, repository=repository)
    key = job_key(asked, verb="merge", place=f"hub {there.repository}")
    return Task(job=Job(key=key, what=what(there, folder), run=run), request=asked, runner=rules.runner)


def _changed(
    folders: tuple[str, ...], *, there: Snapshot, before: str | None, repository: HubRepository
) -> tuple[str, ...]:
    """Those whose files are not what they were; all of them where nobody knows what they were."""
    then = repository.at(before) if before and folders else None
    if then is None:
        return folders
    return tuple(folder for folder in folders if _files(folder, there) != _files(folder, then))


def _files(folder: str, there: Snapshot) -> dict[str, str]:
    """What lies in the folder itself and has to do with the adapter."""
    inside = {PurePosixPath(path): id_ for path, id_ in there.files.items()}
    return {
        path.name: id_
        for path, id_ in inside.items()
        if path.parent == PurePosixPath(folder) and path.name not in BESIDE
    }


def _is_config(path: str) -> bool:
    return PurePosixPath(path).name == adapter_config.FILE


def _has_weights(folder: str, *, there: Snapshot) -> bool:
    return bool({adapter_config.WEIGHTS, adapter_config.PICKLE} & _files(folder, there).keys())


def _is_unfinished(folder: str, others: list[str]) -> bool:
    path = PurePosixPath(folder)
    above = "" if str(path.parent) == "." else str(path.parent)
    return bool(CHECKPOINT.fullmatch(path.name)) and above in others


def _is_ours(there: Snapshot, *, repository: HubRepository) -> bool:
    if card.CARD not in there.files:
        return False
    text = repository.read(card.CARD, commit=there.commit, limit=card.MAX_BYTES) or b""
    return find_marker(text.decode("utf-8", "replace")) is not None


def _base(folder: str, *, there: Snapshot, repository: HubRepository) -> str:
    """The base model that the adapter names, for the template of the destination; empty where it names none."""
    path = str(PurePosixPath(folder) / adapter_config.FILE)
    data = repository.read(path, commit=there.commit, limit=adapter_config.MAX_BYTES) or b""
    try:
        found: Any = lenient.loads(data)[0]
    except ValueError:  # the plan says what is wrong with it
        return ""
    named = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    if not isinstance(named, str):
        return ""
    repo_id, _ = hidden(named) or (named, None)
    return repo_id if is_repo_id(repo_id) else ""
