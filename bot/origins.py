"""What is said to have gone into a merge, held against what the Hub has at those commits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bot.errors import AccessError, HostError, InputError, MergeBotError, RefusedError
from bot.plan.local import WHOLE
from bot.plan.reference import checked
from bot.progress import Progress
from bot.provenance import FileState
from bot.publish.claims import Claims, Origin
from bot.records import Pinned
from bot.weights.files import Hub, Model, digest

CLOSED = (AccessError, HostError, InputError, RefusedError)


@dataclass
class _Look:
    """Looks at one repository after the other. `notes`: sentences about what could not be looked at."""

    hub: Hub
    notes: list[str] = field(default_factory=list)
    silent: MergeBotError | None = None  # the Hub does not answer: it is not asked again

    def at(self, source: Pinned, origins: Iterable[Origin]) -> Iterator[FileState]:
        """The states of the files of one source."""
        model = self._opened(source)
        for origin in origins:
            found = "" if model is None else self._found(model, origin)
            if found is None:
                yield FileState(name=origin.name, state="missing", expected=origin.sha256)
            elif not found:
                yield FileState(name=origin.name, state="unchecked", expected=origin.sha256)
            else:
                state = "same" if found == origin.sha256 else "differs"
                yield FileState(name=origin.name, state=state, expected=origin.sha256, found=found)  # type: ignore[arg-type]

    def _opened(self, source: Pinned) -> Model | None:
        if source.kind == "folder":
            self._note(f"{source}, a local folder of whoever made it,", None)
            return None
        if self.silent:
            self._note(str(source), self.silent)
            return None
        try:
            place = checked(source)
            model = self.hub.open(place.location, revision=place.commit, subfolder=place.subfolder)
        except CLOSED as error:
            self.silent = error if isinstance(error, HostError) else None
            self._note(str(source), error)
            return None
        if model.pinned.location.casefold() != place.location.casefold():
            self.notes.append(f"{place.location} is {model.pinned.location} now")
        return model

    def _found(self, model: Model, origin: Origin) -> str | None:
        """The digest at the Hub, which lists those of large files; small ones are read. None where there is no file."""
        size = model.files.sizes().get(origin.file)
        if size is None:
            return None
        known = model.files.digests().get(origin.file, "")
        if known or size > WHOLE:
            return known
        try:
            return digest(model.files, origin.file, size=size)
        except CLOSED as error:
            self._note(origin.name, error)
            return ""

    def _note(self, what: str, error: MergeBotError | None) -> None:
        why = f": {error.sentence.rstrip('.')}" if error else ""
        self.notes.append(f"{what} cannot be checked again{why}")


def recheck(claims: Claims, *, hub: Hub, progress: Progress) -> tuple[tuple[FileState, ...], tuple[str, ...]]:
    """Every file that the statement names as an input, and notes about those that nobody here can look at any more.

    A repository that is gone, closed or silent proves nothing: its files are `unchecked`, neither good nor bad.
    """
    look = _Look(hub)
    progress.say("Looking at what went in")
    sources = dict.fromkeys(claims.plan.sources) if claims.stated else {}
    states = [s for p in sources for s in look.at(p, [o for o in claims.origins if o.source == p])]
    return tuple(states), tuple(look.notes)
