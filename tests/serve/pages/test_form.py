"""Asking for work by the form: the same grammar as a command, and nothing that names a folder of the machine."""

import re
from functools import partial

from playwright.sync_api import expect

from bot.config.models import Config
from bot.config.rules import ruled
from bot.job import Outcome
from bot.request import Destination
from bot.trigger.inputs import Inputs

from .conftest import as_operator, csrf_of, signed_in

NOT_FOR_ASKING = [
    {"adapter": "./adapter", "to": "alice/x"},
    {"adapter": "/srv/models/adapter", "to": "alice/x"},
    {"adapter": "~/adapter", "to": "alice/x"},
    {"adapter": "alice/../../etc", "to": "alice/x"},
    {"adapter": "alice/cat-lora:../../etc", "to": "alice/x"},
    {"adapter": "alice/cat-lora", "to": "./out"},
    {"adapter": "alice/cat-lora", "to": "alice/x", "base": "/srv/base"},
    {"adapter": "alice/cat-lora", "to": "alice/x", "base": "./base"},
    {"adapter": "alice/cat-lora", "to": "alice/x", "initial_adapter": "../start"},
    {"adapter": "--folder=adapters/mine", "to": "alice/x"},
    {"adapter": "alice/cat-lora --device=cuda", "to": "alice/x"},
    {"adapter": "alice/cat-lora --allow-pickle", "to": "alice/x"},
    {"adapter": "alice/cat-lora", "to": "alice/x", "validate": "none"},
    {"adapter": "", "to": "alice/x"},
    {"adapter": "alice/cat-lora"},
    {"adapter": "alice/cat-lora", "to": "alice/x", "weights": "0.5"},
    {"adapter": "alice/cat-lora\nalice/other", "to": "alice/x", "stack": "yes", "combination": "ties"},
]


def ask(client, served, **fields):
    form = csrf_of(client.get(f"{served.url}/").text)
    return client.post(f"{served.url}/ask", data={"csrf": form, "verb": "merge", **fields})


def test_a_merge_is_asked_for_and_its_page_opens(serve, page):
    served = serve()
    as_operator(page, served)
    page.get_by_role("link", name="New merge").first.click()
    page.get_by_label("Adapter", exact=True).fill("zoe/new-lora@v2:final")
    page.get_by_label("Destination", exact=True).fill("zoe/new-7b")
    page.get_by_label("If the repository has to be created, make it public.").check()
    page.get_by_text("More options").click()
    page.get_by_label("Dtype", exact=True).select_option("float16")
    expect(page.locator("#reading code")).to_have_text(
        "/merge zoe/new-lora@v2:final --to=zoe/new-7b --public --dtype=float16"
    )
    expect(page.get_by_text("This can be asked for, and goes to zoe/new-7b.")).to_be_visible()
    page.get_by_role("button", name="Ask for it").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{32}"))
    expect(page.get_by_role("heading", level=1)).to_have_text("zoe/new-lora@v2:final")
    order = served.desk.entry(page.url.rpartition("/")[2]).order
    assert order.request.destination.location == "zoe/new-7b"
    assert (order.request.destination.public, order.request.dtype) == (True, "float16")
    assert (order.request.attended, order.request.requester_access, order.origin.host) == (
        False,
        "yes",
        "page",
    )


def test_a_mistake_is_said_at_once_and_beside_its_field(serve, page):
    served = serve()
    as_operator(page, served)
    page.goto(f"{served.url}/ask")
    page.get_by_label("Adapter", exact=True).fill("zoe/new-lora")
    page.get_by_label("Destination", exact=True).fill("/etc/passwd")
    expect(page.locator(".reads.bad")).to_contain_text("is not what --to takes")
    page.get_by_role("button", name="Ask for it").click()
    expect(page.get_by_role("alert")).to_contain_text("It takes a repository on the Hub, as owner/name.")
    expect(page.get_by_role("alert")).to_be_focused()
    field = page.get_by_label("Destination", exact=True)
    expect(field).to_have_value("/etc/passwd")
    assert field.get_attribute("aria-invalid") == "true"
    assert "wrong" in field.get_attribute("aria-describedby").split()
    expect(page.get_by_label("Adapter", exact=True)).to_have_value("zoe/new-lora")


def test_what_is_no_model_of_the_hub_or_not_for_asking_is_refused(with_hub, client):
    served = with_hub("alice")
    signed_in(client, served)
    before = len(served.desk.jobs)
    for fields in NOT_FOR_ASKING:
        answer = ask(client, served, **fields)
        assert answer.status_code == 422, fields
        assert 'role="alert"' in answer.text, fields
    assert len(served.desk.jobs) == before


def test_people_publish_where_they_are_at_home(with_hub, client):
    served = with_hub("alice")
    signed_in(client, served)
    assert (
        "neither you nor an organisation where your role"
        in ask(client, served, adapter="a/b", to="victim/model").text
    )
    for to in ("alice/model", "ACME/model"):
        assert ask(client, served, adapter="a/b", to=to).status_code == 303
    made = [entry.order for entry in served.desk.entries(text="a/b")]
    assert {order.request.requester_access for order in made} == {"unknown"}
    assert {(order.job.asked_by, order.request.requested_by) for order in made} == {("alice", "alice")}
    assert ask(client, served, adapter="victim/lora", verb="plan").status_code == 303


def test_where_no_destination_is_named_the_configuration_says_where_it_goes(with_hub, client):
    config = Config.model_validate(
        {
            "defaults": {"destination": "{owner}/{name}-on-{base_name}"},
            "watch": [
                {"owners": ["acme"], "destination": "acme/{name}-full", "visibility": "public"},
                {"owners": ["alice"], "publish": "hub_pr", "destination": "alice/{name}-full"},
                {"owners": ["bob"], "destination": "{owner}/{name}-{name}"},
            ],
        }
    )
    served = with_hub("alice", ruled=partial(ruled, config))
    signed_in(client, served)

    def placed(adapter, **fields):
        answer = ask(client, served, adapter=adapter, **fields)
        if answer.status_code != 303:
            return answer.status_code
        return served.desk.entry(answer.headers["location"].rpartition("/")[2]).order.request.destination

    to = partial(Destination, kind="repository")
    assert placed("acme/lora@v1") == to(location="acme/lora-full", public=True)
    assert placed("alice/lora:last/one") == to(kind="hub_pr", location="alice/lora-full-last-one")
    assert placed("acme/lora", to="alice/other") == to(location="alice/other")
    assert placed("alice/lora\nalice/other", combination="linear") == 422
    assert placed("bob/" + 60 * "x") == 422  # no name of a repository
    assert placed("zoe/lora", base="acme/tiny") == 422  # not hers to publish to
    config = Config.model_validate({"defaults": {"destination": "alice/{name}-on-{base_name}"}})
    served = with_hub("alice", ruled=partial(ruled, config))
    signed_in(client, served)
    assert placed("zoe/lora") == 422  # nobody has said which base
    assert placed("zoe/lora", base="acme/tiny@v1") == to(location="alice/lora-on-tiny")


def test_what_is_left_open_is_as_configured_and_what_is_chosen_is_not(with_hub, client):
    served = with_hub("alice", inputs=Inputs(dtype="bfloat16"))
    signed_in(client, served)
    for chosen, dtype in {"": "bfloat16", "auto": "auto", "float16": "float16"}.items():
        answer = ask(client, served, adapter="a/b", to="alice/model", dtype=chosen)
        order = served.desk.entry(answer.headers["location"].rpartition("/")[2]).order
        assert order.request.dtype == dtype
    form = client.get(f"{served.url}/ask").text
    assert form.count('<option value="">–</option>') == form.count("<select ")


def test_who_may_not_write_in_an_organisation_does_not_publish_there(with_hub, hub, client):
    served = with_hub("alice", askers=("acme",))
    for role, status in {"read": 422, "contributor": 422, "": 422, "write": 303, "admin": 303}.items():
        hub.state.oauth.roles = {"acme": role}
        signed_in(client, served)
        assert ask(client, served, adapter="a/b", to="acme/model").status_code == status, role
        assert ask(client, served, adapter="a/b", to="alice/model").status_code == 303, role


def test_who_is_on_no_list_asks_for_nothing(with_hub, client):
    served = with_hub("mallory")
    signed_in(client, served)
    assert "New merge" not in client.get(f"{served.url}/").text
    assert client.get(f"{served.url}/ask").status_code == 403
    assert ask(client, served, adapter="a/b", to="mallory/model").status_code == 403
    assert client.get(f"{served.url}/ask").headers["content-security-policy"]


def test_an_organisation_on_the_list_lets_its_members_ask(with_hub, client):
    served = with_hub("alice", askers=("acm?",))
    signed_in(client, served)
    assert ask(client, served, adapter="a/b", to="acme/model").status_code == 303


def test_the_same_asked_twice_is_one_job_and_once_more_after_its_end(with_hub, client):
    served = with_hub("alice")
    signed_in(client, served)
    first, second = (ask(client, served, adapter="a/b", to="alice/x").headers["location"] for _ in range(2))
    assert first == second
    served.desk.end(first.rpartition("/")[2], Outcome(ended="refused"))
    assert ask(client, served, adapter="a/b", to="alice/x").headers["location"] == first
    assert served.desk.entry(first.rpartition("/")[2]).attempt == 2
    assert client.get(served.url + first).status_code == 200
