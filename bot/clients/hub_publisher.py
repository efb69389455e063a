"""A finished folder → a Hub repository or a Hub PR, in one commit, with the write token. Never publishes twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
from huggingface_hub import CommitInfo, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from bot.clients import hub_target, hub_upload, hub_withdrawal
from bot.clients.http import retrying
from bot.clients.hub_errors import translated
from bot.clients.hub_finder import Finder, ReadMarker, is_pr
from bot.clients.hub_parcel import Parcel
from bot.clients.hub_target import ADAPTER_FILE, INDEX, Target
from bot.errors import HostError, InternalError
from bot.progress import Progress
from bot.records import Plan, Publication
from bot.request import Destination

CLIENT_ERRORS = (HfHubHTTPError, httpx2.TransportError)


class HubPublisher:
    """The bot's hand on the Hub.

    `read_marker` finds the key of a plan in a card or a comment (`bot.publish.marker.find_marker`).
    """

    def __init__(self, endpoint: str, *, token: str | None, attempts: int, read_marker: ReadMarker) -> None:
        # Never None: the client would then take whatever token it finds on the machine.
        self._api = HfApi(endpoint=endpoint, token=token or False)
        self.endpoint = endpoint
        self._attempts = attempts
        self._read_marker = read_marker
        self._finder = Finder(self._api, attempts=attempts, read_marker=read_marker)
        self._before: dict[str, tuple[Target, bool]] = {}  # what was there, and if made for this

    def find(self, destination: Destination, *, key: str) -> Publication | None:
        """What an earlier run has published for the plan of this key: on main, complete, or as an open Hub PR.

        Raises AccessError or HostError.
        """
        with translated(f"look at {destination.location}"):
            return self._finder.find(destination, self._look(destination), key=key)

    def is_private(self, destination: Destination) -> bool | None:
        """Whether the repository is private now; None when the token's owner sees none there."""
        with translated(f"look at {destination.location}"):
            target = self._look(destination)
            return None if target is None else target.private

    def check(self, destination: Destination, *, plan: Plan) -> None:
        """Raises what `publish` would for what the repository holds now: before a weight is fetched for it."""
        with translated(f"look at {destination.location}"):
            target = self._look(destination)
            self._refuse(destination, target, plan)
            if target is not None:
                self._deletions(target, set(), plan, ())

    def publish(
        self,
        folder: Path,
        destination: Destination,
        *,
        plan: Plan,
        message: str,
        texts: Mapping[str, str | bytes] | None = None,
        delete: tuple[str, ...] = (),
        checked: Mapping[str, str] | None = None,
        parcel: Parcel | None = None,
        progress: Progress,
    ) -> Publication:
        """Publish every file of `folder` in one commit; what an earlier run has published is only found.

        `message` is the commit's, and a Hub PR's title and first comment: one line, an empty one, and the rest.
        `texts` holds files whose content is given here and not by the folder (the card for this destination, records
        without local paths, pictures). `delete` names files to delete in the same commit when they are there and not
        among what is published; the adapter's own, and weights of an earlier result of ours, are deleted without being
        named. `checked` is the SHA-256 of files as the checks have seen them: the check `stored` of what was published
        says whether the Hub holds just these; it may have failed, and `take_back` is for that. `parcel` holds those of
        the files that were sent ahead, of which the folder has no more than the names. Raises RefusedError
        (`destination-exists`, `wider-than-base`), InputError, AccessError or HostError.
        """
        additions = hub_upload.additions(folder, texts or {}, sent=parcel.sent if parcel else None)
        self._must_carry_the_key(destination, plan, additions, message)
        with translated(f"publish to {destination.location}"):
            target = self._look(destination)
            self._refuse(destination, target, plan)
            if found := self._finder.find(destination, target, key=plan.key):
                return found
            with self._existing(destination, target, plan, progress) as now:
                self._before[destination.location] = (
                    now,
                    target is None or (parcel is not None and parcel.made),
                )
                deletions = self._deletions(now, {a.path_in_repo for a in additions}, plan, delete)
                hub_upload.upload(
                    self._api,
                    now.id,
                    additions,
                    pr=is_pr(destination),
                    attempts=self._attempts,
                    progress=progress,
                )
                done = self._commit(destination, now, [*additions, *deletions], plan.key, message)
            return self._with_check(done, additions, checked or {})

    @contextmanager
    def ahead(
        self,
        destination: Destination,
        *,
        plan: Plan,
        made: bool = False,
        waits: tuple[type[BaseException], ...] = (HostError,),
        progress: Progress,
    ) -> Iterator[Parcel]:
        """A parcel to fill before `publish`, in the repository, which is created when it is missing.

        `made`: an earlier run has created it for this. It is taken back when what is done with the parcel raises,
        unless it is one that it `waits` after: what was sent is left for the next run. Raises what `publish` raises.
        """
        with translated(f"publish to {destination.location}"):
            target = self._look(destination)
            self._refuse(destination, target, plan)
            made = target is None or (made and target.files <= {".gitattributes"})
            now = self._create(destination) if target is None else target
            self._deletions(now, {*plan.shards, INDEX}, plan, ())  # what it raises, before the work
        parcel = Parcel(self._api, now, pr=is_pr(destination), made=made, attempts=self._attempts)
        try:
            hub_target.refuse_wider(destination, plan, private=now.private)
            yield parcel
        except BaseException as error:
            if made and not isinstance(error, waits):
                hub_withdrawal.remove_empty(self._api, now, progress=progress)
            raise

    def take_back(self, done: Publication, *, comment: str) -> str:
        """Undoes a publication of this object that is not as it was checked, as far as may be; says how far, in words.

        `comment` goes into a Hub PR, which is closed. Nothing is deleted, and nothing of others is touched.
        """
        location = done.destination.location
        before, made = self._before[location]
        return hub_withdrawal.take_back(self._api, done, before=before, made=made, comment=comment)

    def _look(self, destination: Destination) -> Target | None:
        return hub_target.look(self._api, destination.location, attempts=self._attempts)

    def _again(self, destination: Destination, key: str) -> Publication | None:
        return self._finder.find(destination, self._look(destination), key=key)

    def _must_carry_the_key(
        self, destination: Destination, plan: Plan, additions: list[hub_upload.Addition], message: str
    ) -> None:
        text = message if is_pr(destination) else hub_upload.content(additions, hub_target.CARD)
        if self._read_marker(text) != plan.key or destination.kind == "folder":
            raise InternalError(
                "The result does not carry the marker by which a second run would find it.",
                advice="Please report this; nothing was published.",
                code="marker-missing",
            )

    def _refuse(self, destination: Destination, target: Target | None, plan: Plan) -> None:
        if self._api.token is False:
            raise hub_target.without_token(destination)
        ours = target is not None and self._read_marker(target.card) is not None
        hub_target.refuse(destination, target, plan, ours=ours)

    @contextmanager
    def _existing(
        self, destination: Destination, target: Target | None, plan: Plan, progress: Progress
    ) -> Iterator[Target]:
        """The repository, created for this publication when it is missing and taken back when that fails."""
        if target is not None:
            if destination.kind == "repository" and not destination.public and not target.private:
                progress.say(f"{target.id} exists and is public: the merged model will be public too.")
            yield target
            return
        made = self._create(destination)
        try:
            hub_target.refuse_wider(destination, plan, private=made.private)
            yield made
        except BaseException as error:
            if not _may_still_run(error):
                hub_withdrawal.remove_empty(self._api, made, progress=progress)
            raise

    def _create(self, destination: Destination) -> Target:
        self._api.create_repo(destination.location, private=not destination.public, exist_ok=False)
        made = self._look(destination)
        if made is None:
            raise HostError(
                f"{destination.location} was created and cannot be seen.",
                advice="Check on the Hub whether it is there, and run the same command again.",
                code="hub-inconsistent",
            )
        return made

    def _deletions(
        self, target: Target, added: set[str], plan: Plan, delete: tuple[str, ...]
    ) -> list[CommitOperationDelete]:
        there = target.files - added
        gone = there & set(delete)
        if hub_target.is_own(target.id, plan):
            gone |= {name for name in there if ADAPTER_FILE.fullmatch(name)}
        if self._read_marker(target.card) is not None:
            gone |= there & (target.weights | {INDEX})
        hub_target.refuse_shadowed(target, left=there - gone, added=added)
        return [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in sorted(gone)]

    def _commit(
        self,
        destination: Destination,
        target: Target,
        operations: list[hub_upload.Operation],
        key: str,
        message: str,
    ) -> Publication:
        """One commit. A write whose answer was lost may have happened: look for it before sending it again."""
        failed: list[Exception] = []

        def once() -> Publication:
            if failed and (found := self._again(destination, key)):
                return found
            if failed and is_pr(destination) and _may_still_run(failed[-1]):
                raise failed[-1]
            try:
                return self._published(
                    destination, target, self._send(destination, target, operations, message)
                )
            except CLIENT_ERRORS as error:
                failed.append(error)
                raise

        try:
            return retrying(once, attempts=self._attempts)
        except CLIENT_ERRORS:
            if found := self._again(destination, key):
                return found
            raise

    def _send(
        self,
        destination: Destination,
        target: Target,
        operations: list[hub_upload.Operation],
        message: str,
    ) -> CommitInfo:
        title, _, body = message.partition("\n")
        return self._api.create_commit(
            target.id,
            operations,
            commit_message=title,
            commit_description=body.lstrip("\n"),
            create_pr=is_pr(destination),
            parent_commit=target.head,
        )

    def _published(self, destination: Destination, target: Target, info: CommitInfo) -> Publication:
        repository = f"{self._api.endpoint}/{target.id}"
        unchanged = info.oid == target.head  # the client sends no commit when every file is there already
        return Publication(
            destination=destination,
            url=info.pr_url or repository,
            commit=info.oid,
            number=info.pr_num,
            existed=unchanged,
        )

    def _with_check(
        self, done: Publication, additions: list[hub_upload.Addition], checked: Mapping[str, str]
    ) -> Publication:
        """With the check `stored`: whether the Hub lists at that commit what was checked and sent."""
        if done.existed or done.commit is None:
            return done
        check = hub_upload.check_stored(
            self._api,
            done.destination.location,
            done.commit,
            additions,
            checked=checked,
            attempts=self._attempts,
        )
        return replace(done, checks=(check,))


def _may_still_run(error: BaseException) -> bool:
    """Whether the Hub may be working on the commit still: it fell silent, or its gateway lost patience."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 504
    return isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout)
