"""Names, logs and errors that somebody made up to do harm; what every answer carries; pages for what goes wrong."""

from dataclasses import replace

import httpx2
import pytest
from playwright.sync_api import expect

from bot.errors import HostError
from bot.job import Failure, Outcome
from bot.records import Publication
from bot.request import Destination
from tests.jobs.memory import MemoryDesk
from tests.publish.samples import hostile_evidence

from .conftest import TOKEN, as_operator, csrf_of
from .filled import an_order, filled, published

NASTY = (
    '<script>document.title="pwned"</script>',
    '"><img src=x onerror=document.title="pwned">',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:document.title='pwned'",
    "\u202egnp.exe\x1b]0;pwned\x07\x1b[31mred\x00",
    "é" * 100_000,
    "</li></ol></div><h1>pwned</h1>",
)


@pytest.mark.parametrize(
    "name",
    [NASTY[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NASTY[1:])],
    ids=range(len(NASTY)),
)
def test_nothing_that_somebody_wrote_acts_on_a_page(serve, page, name):
    desk = MemoryDesk()
    outcome = published()
    plan = replace(
        outcome.plan,
        adapter=replace(outcome.plan.adapter, location=name, subfolder=name),
        notes=(name,),
        patches=(replace(outcome.plan.patches[0], key=name, reason=name),),
        bindings=(replace(outcome.plan.bindings[0], tensor=name, adapter=(name,)),),
    )
    checks = tuple(replace(check, figure=name, detail=name) for check in outcome.report.checks)
    publication = Publication(
        destination=Destination(kind="repository", location=name), url=name, commit=name
    )
    ended = replace(
        outcome,
        plan=plan,
        report=replace(outcome.report, checks=checks, evidence=hostile_evidence(name[:200])),
        publication=publication,
    )
    key = desk.enqueue(an_order(name, by=name, to=name, key="a" * 32)).order.job.key
    desk.write(key, name)
    desk.end(key, ended)
    failed = desk.enqueue(an_order(name, key="b" * 32)).order.job.key
    desk.end(
        failed, Outcome(ended="failed", failure=Failure(code=name, sentence=name, advice=name, exit_code=4))
    )
    served = serve(desk)
    as_operator(page, served)
    for path in ("/", f"/jobs/{key}", f"/jobs/{failed}", f"/?q={'x' * 50}", "/ask?adapter=%3Cscript%3E"):
        page.goto(served.url + path)
        assert not page.title().startswith("pwned")
        assert page.locator("main script, main img[src=x], a[href^=javascript]").count() == 0
        assert page.get_by_role("heading", name="pwned", exact=True).count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        text = page.locator("body").inner_text()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert len(text) < 60_000


def test_a_line_of_a_log_that_comes_while_one_looks_stays_a_line(serve, page):
    desk = MemoryDesk()
    key = desk.enqueue(an_order()).order.job.key
    desk.begin(key)
    served = serve(desk)
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{key}")
    for text in NASTY:
        desk.write(key, text)
    expect(page.locator("#log li")).to_have_count(len(NASTY))
    assert page.locator("#log li").nth(0).inner_text().endswith('<script>document.title="pwned"</script>')
    assert page.locator("#log script, #log img, #log h1").count() == 0
    assert "pwned" not in page.title()


def test_tokens_and_folders_of_the_machine_are_not_told(serve):
    desk = MemoryDesk()
    key = desk.enqueue(an_order()).order.job.key
    desk.write(key, "Authorization: hf_" + "a" * 34)
    failure = Failure(
        code="disk",
        sentence="/srv/secret/place/file is full.",
        advice="Look at /srv/secret/place.",
        exit_code=6,
    )
    desk.end(key, Outcome(ended="failed", failure=failure))
    served = serve(desk)
    with httpx2.Client(timeout=10) as client:
        form = csrf_of(client.get(f"{served.url}/sign-in").text)
        client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": TOKEN})
        shown = client.get(f"{served.url}/jobs/{key}").text + client.get(f"{served.url}/jobs/{key}/log").text
    assert "hf_aaa" not in shown
    assert "/srv/secret" not in shown


def test_every_answer_says_what_browsers_may_do_with_it(serve):
    served = serve()
    paths = ("/", "/sign-in", "/nowhere", f"/jobs/{served.ids['published']}", "/static/page.css", "/ask")
    for path in paths:
        headers = httpx2.get(served.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        kept = "immutable" if path.startswith("/static") else "no-store"
        assert kept in headers["cache-control"]


def test_nothing_but_our_own_files_is_handed_out(serve):
    served = serve()
    for name in ("..%2flook.py", "htmx.LICENSE.txt", "%2e%2e/look.py", "nothing.js", "..\\look.py"):
        assert httpx2.get(f"{served.url}/static/{name}").status_code == 404
    assert (
        httpx2.get(f"{served.url}/static/htmx.min.js").headers["content-type"].startswith("text/javascript")
    )


class Gone(MemoryDesk):
    def entries(self, **_):
        raise HostError("The database cannot be reached.", advice="Wait a little.", code="database-gone")

    def entry(self, id_):
        raise ZeroDivisionError("a secret of the machine")


def test_what_goes_wrong_has_a_page_and_no_trace(serve):
    served = serve(Gone())
    gone = httpx2.get(f"{served.url}/")
    assert gone.status_code == 503
    assert "The database cannot be reached. Wait a little." in gone.text
    broken = httpx2.get(f"{served.url}/jobs/{'a' * 32}")
    assert broken.status_code == 500
    assert "Something is broken on our side." in broken.text
    assert not any(word in broken.text for word in ("Traceback", "ZeroDivision", "secret of the machine"))
    for path, code in {
        "/nowhere/at/all": 404,
        "/?before=yesterday": 400,
        f"/jobs/{'b' * 32}/pictures/x.png": 500,
    }.items():
        answer = httpx2.get(served.url + path)
        assert answer.status_code == code
        assert "<h1>" in answer.text


def test_machines_are_still_answered_as_machines(serve):
    served = serve()
    health = httpx2.get(f"{served.url}/healthz")
    assert (health.status_code, health.headers["content-type"]) == (200, "application/json")
    refused = httpx2.post(f"{served.url}/webhooks/hub", json={})
    assert refused.status_code >= 400
    assert "error" in refused.json()


def test_a_beginning_of_an_id_that_two_jobs_have_is_told(serve):
    desk, _ = filled(0.0)
    for tail in "ab":
        key = desk.enqueue(an_order(f"alice/{tail}", key="c" * 31 + tail)).order.job.key
        desk.end(key, published())
    served = serve(desk)
    assert httpx2.get(f"{served.url}/jobs/{'c' * 12}").status_code == 400
    assert httpx2.get(f"{served.url}/jobs/{'c' * 31}a").status_code == 200
