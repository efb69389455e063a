"""Pages for everybody: by keyboard, on a phone, in the dark, without motion, and what axe-core finds."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.github.examples import NOT_INSTALLED
from tests.jobs.memory import MemoryDesk

from .conftest import as_operator

AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"
PAGES = ("/", "/ask", "/sign-in", "/nowhere", "running", "published", "refused", "failed", "plan")


def places(served):
    return [
        f"{served.url}{place}" if place[0] == "/" else f"{served.url}/jobs/{served.ids[place]}"
        for place in PAGES
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(serve, browser, scheme):
    if not AXE.exists():
        pytest.skip(f"{NOT_INSTALLED}: axe-core of tests/serve/pages, too")
    served = serve()
    # Only the test's own script may come in beside ours.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    as_operator(page, served)
    found = {}
    for place in places(served):
        page.goto(place)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        result = page.evaluate(
            "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        )
        assert len(result["passes"]) > 10
        found |= {
            (place, each["id"], node["html"][:200], node["failureSummary"]): 1
            for each in result["violations"]
            for node in each["nodes"]
        }
    context.close()
    assert found == {}


@pytest.mark.parametrize("width", [360, pytest.param(1100, marks=pytest.mark.slow)])
def test_no_page_is_wider_than_its_screen(serve, browser, width):
    served = serve()
    context = browser.new_context(viewport={"width": width, "height": 740})
    page = context.new_page()
    as_operator(page, served)
    for place in places(served):
        page.goto(place)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") == width, place
        touched = page.locator("button:visible, .button:visible, nav a:visible")
        assert min(touched.evaluate_all("all => all.map(each => each.offsetHeight)")) >= 24, place
    context.close()


def test_everything_is_reached_by_tab_and_nothing_holds_on_to_it(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['published']}")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "← Jobs"
    reached = set()
    for _ in range(60):
        active = page.evaluate("document.activeElement.outerHTML.slice(0, 80)")
        if active.startswith("<body"):
            break
        reached.add(active)
        style = "(e => { const s = getComputedStyle(e); return s.outlineStyle + ' ' + s.outlineWidth })"
        assert page.evaluate(f"{style}(document.activeElement)") == "solid 3px", active
        page.keyboard.press("Tab")
    else:
        pytest.fail("the keyboard never comes out of the page again")
    for wanted in ("<button>Retry", 'class="log"', "<summary>", "/report"):
        assert any(wanted in each for each in reached), wanted


def test_a_job_is_stopped_by_keyboard_alone(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['running']}")
    while page.evaluate("document.activeElement.textContent") != "Cancel":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".badge")).to_have_text("Stopping")


def test_states_are_told_politely_and_the_log_is_not_read_out(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/jobs/{served.ids['running']}")
    roles = page.locator("[role=status], [aria-live]").evaluate_all(
        "all => all.map(e => e.className || e.id)"
    )
    assert roles == ["lost", "wire faint", "said hidden"]
    expect(page.locator("[aria-current=step]")).to_have_count(1)
    assert page.locator("progress").get_attribute("aria-label") == "Merging"


def test_the_dark_is_dark_and_who_wants_no_motion_gets_none(serve, browser):
    served = serve()
    context = browser.new_context(color_scheme="dark", reduced_motion="reduce")
    page = context.new_page()
    as_operator(page, served)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 19, 23)"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.badge.running .dot')).animationName")
        == "none"
    )
    context.close()


def test_an_empty_service_says_what_to_do(serve, page):
    served = serve(MemoryDesk())
    page.goto(served.url)
    expect(page.get_by_text("Nothing public yet.")).to_be_visible()
    as_operator(page, served)
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    expect(page.get_by_role("link", name="ask for a merge here")).to_be_visible()
