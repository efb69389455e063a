"""The form that asks for a merge, a plan or an examination: its fields become a command, which is read as any other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from anyio import to_thread
from fastapi import HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import FormData

from bot.doors.asked import job_key, of_command, of_inputs
from bot.errors import InputError
from bot.job import Job, Verb
from bot.jobs.desk import Desk
from bot.jobs.order import Order, Origin
from bot.plan.reference import parse
from bot.request import Access
from bot.serve.pages.look import Look
from bot.serve.pages.people import Viewer, may_ask, objection
from bot.serve.pages.session import Session, check_form
from bot.serve.pages.site import Site
from bot.trigger.command import Command, Misread, read
from bot.trigger.table import OPTIONS

VERBS: tuple[Verb, ...] = ("merge", "plan", "doctor")
# What a form shows at once, what it keeps folded, and what is for comments under a GitHub PR.
FIRST = ("--to", "--pr", "--public", "--dry-run")
ELSEWHERE = frozenset({"--folder", "--head"})
SHOWN = [option for flag in FIRST for option in OPTIONS if option.flag == flag]
FOLDED = [option for option in OPTIONS if option.flag not in {*FIRST, *ELSEWHERE}]
FLAG = re.compile(r"--[a-z-]+")
MAIN = re.compile(r"@main(?=:|$)")
LONGEST = 1000  # characters of a field


@dataclass(frozen=True, kw_only=True)
class Read:
    """What the form says: the command as a line, as it is understood, or what is wrong with which field."""

    line: str
    command: Command | None = None
    wrong: Misread | None = None
    field: str = ""


class Ask:
    """The form's pages."""

    def __init__(self, desk: Desk, look: Look) -> None:
        self.desk, self.look = desk, look

    def form(self, request: Request, adapter: str = "", verb: str = "merge") -> Response:
        """The form, which may be filled in by a link."""
        session = self._asker(request)
        given = {"adapter": adapter[:LONGEST], "verb": verb if verb in VERBS else "merge"}
        return self._page(request, session, given, found=None)

    async def reading(self, request: Request) -> Response:
        """How the form is understood so far: for htmx, as one types."""
        session, form = await self._sent(request)
        given = _given(form)
        found = self._read(given, session.viewer) if given.get("adapter") else None
        return HTMLResponse(self.look.part("_reading.html", found=found))

    async def send(self, request: Request) -> Response:
        """The job that was asked for; or the form once more, with what is wrong about it."""
        session, form = await self._sent(request)
        found = self._read(given := _given(form), session.viewer)
        if found.command is None:
            return self._page(request, session, given, found=found)
        try:
            order = _order(found.command, line=found.line, viewer=session.viewer, look=self.look)
        except InputError as error:
            wrong = Misread(sentence=error.sentence, advice=error.advice)
            again = Read(line=found.line, wrong=wrong, field=_field(wrong))
            return self._page(request, session, given, found=again)
        entry = await to_thread.run_sync(self.desk.enqueue, order)
        return RedirectResponse(f"{self.look.site.path}/jobs/{entry.order.job.key}", 303)

    def _asker(self, request: Request) -> Session:
        session = self.look.enter(request)
        if not session.viewer.known:
            raise HTTPException(401, "Sign in to ask for a merge or a plan.")
        if not may_ask(session.viewer, self.look.site):
            raise HTTPException(403, "You are not on the list of those who may ask this service for work.")
        return session

    async def _sent(self, request: Request) -> tuple[Session, FormData]:
        session = self._asker(request)
        form = await request.form(max_files=0, max_fields=60, max_part_size=LONGEST)
        check_form(request, session, str(form.get("csrf", "")))
        return session, form

    def _read(self, given: Mapping[str, str], viewer: Viewer) -> Read:
        line = _line(given)
        found = read(line)
        if isinstance(found, Command):
            try:
                found = _placed(found, self.look.site)
                no = objection(found, viewer=viewer)
            except InputError as error:
                no = Misread(sentence=error.sentence, advice=error.advice)
            return Read(line=line, command=None if no else found, wrong=no, field=_field(no))
        wrong = found or Misread(sentence="This cannot be read.", advice="Write owner/name.")
        return Read(line=line, wrong=wrong, field=_field(wrong))

    def _page(
        self, request: Request, session: Session, given: Mapping[str, str], *, found: Read | None
    ) -> Response:
        return self.look.page(
            "ask.html",
            request=request,
            session=session,
            status=422 if found else 200,
            given=given,
            found=found,
            verbs=VERBS,
            shown=SHOWN,
            folded=FOLDED,
        )


def _given(form: FormData) -> dict[str, str]:
    known = {"adapter", "verb", *(option.field for option in OPTIONS)}
    return {
        name: str(value).strip()[:LONGEST]
        for name, value in form.items()
        if name in known and str(value).strip()
    }


def _line(given: Mapping[str, str]) -> str:
    """The command in one line, which says the same under a GitHub PR and in a discussion."""
    verb = given["verb"] if given.get("verb") in VERBS else "merge"
    words = ["/merge"] if verb == "merge" else ["/merge", verb]
    words += [shlex.quote(word) for word in given.get("adapter", "").split()]
    for option in (*SHOWN, *FOLDED):
        value = given.get(option.field, "")
        if value and option.kind == "flag":
            words.append(option.flag)
        elif value:
            words.append(f"{option.flag}={shlex.quote(value)}")
    return " ".join(words)


def _placed(command: Command, site: Site) -> Command:
    """The command with the destination that the configuration has for its adapter, as if it had been written down.

    Raises InputError for a template that makes no good name of it.
    """
    if command.to or command.verb != "merge" or len(command.adapters) != 1:
        return command
    adapter = parse(command.adapters[0])
    base = parse(command.base).repo_id if command.base else None
    to = site.ruled(adapter.repo_id or "", base=base or "", subfolder=adapter.subfolder)
    if to is None:
        return command
    return replace(
        command, to=to.location, pr=command.pr or to.kind == "hub_pr", public=command.public or to.public
    )


def _field(wrong: Misread | None) -> str:
    """The field that a sentence is about: the flag that it names, else the adapter."""
    if wrong is None:
        return ""
    for text in (wrong.sentence, wrong.advice):
        for flag in FLAG.findall(text):
            if any(option.flag == flag for option in OPTIONS):
                return str(flag.removeprefix("--").replace("-", "_"))
    return "to" if "repository" in wrong.advice else "adapter"


def _order(command: Command, *, line: str, viewer: Viewer, look: Look) -> Order:
    """The job. The operator's words are the operator's; of anybody else, nobody has asked what they may read."""
    access: Access = "yes" if viewer.operator else "unknown"
    known = of_inputs(look.site.inputs, adapter=command.adapters[0])
    request = of_command(command, known, by=viewer.id, access=access)
    request = replace(
        request, requested_by=viewer.name or None, thorough=look.site.thorough, reload=look.site.reload
    )
    what = ", ".join(MAIN.sub("", adapter) for adapter in command.adapters)
    key = job_key(request, verb=command.verb, place=f"page:{viewer.id}")
    verb = next(verb for verb in VERBS if verb == command.verb)
    job = Job(key=key, verb=verb, what=what, asked_by=viewer.id, ask=line)
    return Order(job=job, request=request, origin=Origin(host="page"), runner=look.site.runner)
