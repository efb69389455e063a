"""Queue, history and a job's page in a real browser: what is shown, and that it goes on by itself."""

import re

import pytest
from playwright.sync_api import expect

from bot.job import Bill, Failure, Now, Outcome
from bot.serve.pages import jobs as pages
from bot.serve.pages import live
from tests.jobs.memory import MemoryDesk

from .conftest import as_operator
from .filled import an_order, published


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.05)


def test_the_list_has_every_job_with_its_state_newest_first(serve, page):
    served = serve()
    as_operator(page, served)
    rows = page.locator("#jobs tbody tr")
    states = ["Queued", "Running", "Published", "Planned", "Refused", "Failed", "Published", "Published"]
    assert rows.locator(".badge").all_inner_texts() == states
    expect(rows.nth(1)).to_contain_text("Merging, 46 %")
    expect(rows.nth(4)).to_contain_text("forbids publishing")
    asked = rows.nth(2).locator("time")
    assert asked.inner_text() == "36 min ago"
    assert re.fullmatch(r"\d+ \w{3} \d{4}, \d\d:\d\d:\d\d UTC", asked.get_attribute("title"))


def test_filters_narrow_the_list_without_a_reload_and_stay_in_the_address(serve, page):
    served = serve()
    as_operator(page, served)
    page.get_by_role("radio", name="Refused").check()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    expect(page).to_have_url(re.compile("state=refused"))
    page.get_by_role("radio", name="All").check()
    page.get_by_role("searchbox").fill("poet")
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("poet")
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.get_by_text("No job is like that.")).to_be_visible()


def test_below_a_path_the_list_and_a_job_go_on_by_themselves_as_well(serve, page):
    served = serve(below="/bot")
    as_operator(page, served)
    page.get_by_role("radio", name="Active").check()
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/bot/\?state=active"))
    page.locator("td.what a").last.click()
    expect(page.locator(".wire")).to_have_text("Live")


@pytest.mark.slow
def test_older_jobs_are_a_page_away(serve, page, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 3)
    desk = MemoryDesk()
    for number in range(7):
        desk.enqueue(an_order(f"alice/number-{number}"))
    as_operator(page, served := serve(desk))
    seen = [page.locator("td.what a").all_inner_texts()]
    while page.get_by_role("link", name="Older").count():
        page.get_by_role("link", name="Older").click()
        page.wait_for_load_state()
        seen.append(page.locator("td.what a").all_inner_texts())
    assert [name for names in seen for name in names] == [
        f"alice/number-{number}" for number in reversed(range(7))
    ]
    assert [len(names) for names in seen] == [3, 3, 1]
    page.get_by_role("link", name="Newest").click()
    expect(page).to_have_url(f"{served.url}/")


def test_the_list_shows_a_new_job_by_itself_and_keeps_the_focus(serve, page):
    served = serve()
    as_operator(page, served)
    page.evaluate("document.querySelector('#jobs').setAttribute('hx-trigger', 'every 100ms')")
    page.evaluate("htmx.process(document.querySelector('#jobs'))")
    page.locator(f"#job-{served.ids['running']}").focus()
    served.desk.enqueue(an_order("zoe/new-lora"))
    expect(page.get_by_role("link", name="zoe/new-lora")).to_be_visible(timeout=9000)
    assert page.evaluate("document.activeElement.id") == f"job-{served.ids['running']}"


def test_a_job_goes_on_before_ones_eyes_from_the_queue_to_its_report(serve, page):
    desk = MemoryDesk()
    key = desk.enqueue(an_order("alice/cat-lora", to="alice/cat-7b")).order.job.key
    as_operator(page, served := serve(desk))
    page.goto(f"{served.url}/jobs/{key}")
    expect(page.locator(".stages [aria-current=step]")).to_have_text("queued")
    expect(page.get_by_text("Nothing has been said yet.")).to_be_visible()
    expect(page.locator(".wire")).to_have_text("Live")
    desk.begin(key)
    desk.tell(key, Now(stage="merging", done=1_500_000_000, total=3_000_000_000))
    desk.write(key, "Merging \x1b[1mlayer 7\x1b[0m")
    expect(page.locator(".stages [aria-current=step]")).to_have_text("merging")
    expect(page.locator(".figures")).to_have_text("50 % 1.5/3.0 GB")
    assert page.locator("progress").get_attribute("value") == "50"
    expect(page.locator(".said")).to_have_text("Merging")
    expect(page.locator("#log li span")).to_have_text("Merging layer 7")
    desk.tell(key, Now(stage="publishing"))
    bill = Bill(machine="a10g-small", seconds=184.0, dollars=0.051, url="https://huggingface.co/jobs/acme/7")
    desk.end(key, published(bill=bill))
    expect(page.get_by_role("heading", name="Checks")).to_be_visible()
    expect(page.get_by_role("link", name="alice/cat-7b")).to_have_attribute(
        "href", "https://huggingface.co/alice/cat-7b"
    )
    expect(page.get_by_text("To undo it,")).to_be_visible()
    expect(
        page.get_by_text("at a cost of 12 (by MERGE_BOT_COST_PER_GB). A rented a10g-small cost $0.05.")
    ).to_be_visible()
    expect(page.get_by_role("link", name="a10g-small")).to_have_attribute("href", bill.url)
    assert page.locator(".stages .done").count() == 6


@pytest.mark.slow
def test_a_stream_that_is_cut_is_told_and_taken_up_where_it_was_cut(serve, page, running_again):
    desk = MemoryDesk()
    key = desk.enqueue(an_order()).order.job.key
    desk.begin(key)
    for number in range(3):
        desk.write(key, f"line {number}")
    as_operator(page, served := serve(desk))
    page.goto(f"{served.url}/jobs/{key}")
    desk.write(key, "line 3")
    expect(page.locator("#log li")).to_have_count(4)
    again = running_again(served)
    expect(page.locator(".wire")).to_have_text("The connection is lost. Trying again…")
    desk.write(key, "line 4")
    again()
    expect(page.locator(".wire")).to_have_text("Live", timeout=15000)
    expect(page.locator("#log li span")).to_have_text([f"line {number}" for number in range(5)])


@pytest.mark.slow
def test_the_log_on_the_page_is_its_end_and_the_whole_of_it_is_text(serve, page, monkeypatch):
    monkeypatch.setattr(pages, "TAIL", 20)
    desk = MemoryDesk()
    key = desk.enqueue(an_order()).order.job.key
    for number in range(2500):
        desk.write(key, f"line {number}")
    as_operator(page, served := serve(desk))
    page.goto(f"{served.url}/jobs/{key}")
    assert page.locator("#log li span").all_inner_texts() == [f"line {n}" for n in range(2480, 2500)]
    whole = page.request.get(f"{served.url}/jobs/{key}/log")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.text().splitlines() == [f"line {n}" for n in range(2500)]


@pytest.mark.slow
def test_a_report_is_shown_with_its_pictures_and_as_a_page_of_its_own(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['published']}")
    assert page.locator(".checks tbody tr").count() == 4
    images = page.locator("figure img")
    assert images.count() == 5
    for image in images.all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", value=True, timeout=20000)
        assert image.evaluate("image => image.naturalWidth") > 300
        assert len(image.get_attribute("alt")) > 40
    with page.expect_response("**/report") as answer:
        page.get_by_role("link", name="Full report").click()
    assert "script-src" not in answer.value.headers["content-security-policy"]
    assert answer.value.headers["x-frame-options"] == "DENY"
    expect(page.get_by_role("heading", name="Merge report")).to_be_visible()
    assert page.locator("img").count() == 5


def test_what_went_wrong_is_said_with_what_to_do(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['refused']}")
    expect(page.get_by_role("heading", name="Why it was refused")).to_be_visible()
    expect(page.get_by_text("Ask the owner of the base")).to_be_visible()
    page.goto(f"{served.url}/jobs/{served.ids['failed']}")
    expect(page.locator(".checks tr.failed")).to_contain_text("behaviour")
    expect(page.locator(".stages .stopped")).to_contain_text("validating")
    assert page.get_by_text("To undo it,").count() == 0


@pytest.mark.slow
def test_a_job_is_stopped_and_begun_anew_without_javascript(serve, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['running']}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".badge")).to_have_text("Stopping")
    assert page.get_by_role("button", name="Cancel").count() == 0
    stopped = Failure(code="stopped", sentence="It was stopped.", advice="Ask again.", exit_code=3)
    served.desk.end(served.ids["running"], Outcome(ended="skipped", failure=stopped))
    page.reload()
    expect(page.locator(".badge")).to_have_text("Stopped")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".badge")).to_have_text("Queued")
    assert served.desk.entry(served.ids["running"]).attempt == 2
    context.close()


def test_only_so_many_browsers_follow_at_one_time(serve, page):
    desk = MemoryDesk()
    key = desk.enqueue(an_order()).order.job.key
    served = serve(desk, streams=0)
    as_operator(page, served)
    assert page.request.get(f"{served.url}/jobs/{key}/events").status == 503
    page.goto(f"{served.url}/jobs/{key}")
    expect(page.locator(".wire")).to_have_text("The connection is lost. Trying again…")
