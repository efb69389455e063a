"""Who gets in, who sees what and who may do what: through a browser, and past it."""

import re
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from playwright.sync_api import expect

from bot.config.load import load
from bot.jobs.order import Origin
from bot.serve.pages import site as sites
from tests.jobs.memory import MemoryDesk

from .conftest import TOKEN, csrf_of, signed_in
from .filled import an_order, published


def test_somebody_signs_in_with_the_hub_and_out_again(with_hub, page):
    served = with_hub("alice")
    page.goto(f"{served.url}/sign-in")
    page.get_by_role("button", name="Sign in with Hugging Face").click()
    page.wait_for_url(f"{served.url}/")
    expect(page.locator(".who")).to_contain_text("alice")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "hf_oauth" not in cookie["value"]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in with Hugging Face")).to_be_visible()
    assert page.context.cookies()[0]["value"] != cookie["value"]


def test_cookies_go_over_tls_alone_where_browsers_come_that_way(serve, client):
    served = serve()
    given = client.get(f"{served.url}/sign-in").headers["set-cookie"]
    assert "Secure" not in given
    there = sites.Site(public_url="https://merge.example.org", secret="s" * 32)
    assert (there.secure, there.callback) == (True, "https://merge.example.org/sign-in/callback")


def test_the_hub_is_asked_for_a_code_with_pkce_and_for_nothing_but_who_it_is(with_hub, hub, client):
    served = with_hub("alice")
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    sent = urlsplit(client.post(f"{served.url}/sign-in/hub", data={"csrf": form}).headers["location"])
    asked = {name: values[0] for name, values in parse_qs(sent.query).items()}
    assert f"{sent.scheme}://{sent.netloc}{sent.path}" == f"{hub.url}/oauth/authorize"
    assert asked["redirect_uri"] == served.site.callback
    assert (asked["scope"], asked["response_type"], asked["code_challenge_method"]) == (
        "openid profile",
        "code",
        "S256",
    )
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43


def test_a_sign_in_that_another_browser_began_is_not_finished_here(with_hub, client):
    served = with_hub("mallory")
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    to_hub = client.post(f"{served.url}/sign-in/hub", data={"csrf": form})
    planted = client.get(to_hub.headers["location"]).headers["location"]
    with httpx2.Client(timeout=10) as victim:
        victim.get(f"{served.url}/sign-in")
        assert victim.get(planted).status_code == 403  # nothing was begun in this browser
        victim.post(
            f"{served.url}/sign-in/hub", data={"csrf": csrf_of(victim.get(f"{served.url}/sign-in").text)}
        )
        answer = victim.get(planted)  # something was, but not this
        assert answer.status_code == 403
        assert "mallory" not in victim.get(f"{served.url}/").text


def test_an_answer_of_the_hub_is_used_once(with_hub, client):
    served = with_hub("alice")
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    to_hub = client.post(f"{served.url}/sign-in/hub", data={"csrf": form})
    back = client.get(to_hub.headers["location"]).headers["location"]
    assert client.get(back).status_code == 303
    assert client.get(back).status_code == 403


@pytest.mark.slow
def test_a_statement_that_is_not_for_this_sign_in_is_refused(with_hub, hub, client):
    served = with_hub("alice")
    elsewhere = {
        "nonce": "another",
        "aud": "another",
        "iss": "https://evil.example",
        "exp": 1,
        "sub": "another",
    }
    for name, value in elsewhere.items():
        hub.state.oauth.claims = {name: value}
        assert signed_in(client, served).status_code == 403, name
        assert "Sign out" not in client.get(f"{served.url}/").text, name
    hub.state.oauth.claims = {}
    assert signed_in(client, served).status_code == 303


def test_whoever_declines_at_the_hub_is_told_and_a_hub_that_fails_too(with_hub, hub, client):
    served = with_hub("")
    assert "not allowed to say who you are" in signed_in(client, served).text
    hub.sign_in("alice")
    hub.fault("/oauth/token", status=500, times=1)
    answer = signed_in(client, served)
    assert answer.status_code == 503
    assert "Try to sign in again in a minute." in answer.text


def test_the_session_before_a_sign_in_is_worth_nothing_after_it(with_hub, client):
    served = with_hub("alice")
    client.get(f"{served.url}/sign-in")
    planted = client.cookies["merge-bot"]
    signed_in(client, served)
    assert client.cookies["merge-bot"] != planted
    with httpx2.Client(cookies={"merge-bot": planted}) as thief:
        assert "Sign out" not in thief.get(f"{served.url}/").text


def test_the_operators_token_is_not_guessed(serve, client):
    served = serve()
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    codes = [
        client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": f"guess-{n}"}).status_code
        for n in range(7)
    ]
    assert codes == [403] * 5 + [429] * 2
    assert client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": TOKEN}).status_code == 429


def test_a_long_token_is_let_in_however_many_wrong_ones_strangers_behind_the_same_proxy_send(serve, client):
    served = serve(operator_token="0123456789abcdef" * 2)
    form = csrf_of(client.get(f"{served.url}/sign-in").text)

    def sent(token):
        data = {"csrf": form, "token": token}
        return client.post(f"{served.url}/sign-in/token", data=data).status_code

    assert [sent(f"{n:032d}") for n in range(6)] == [403] * 5 + [429]
    assert sent("0123456789abcdef" * 2) == 303


@pytest.mark.parametrize("kept", ["/bot", ""])
def test_below_a_path_every_address_has_it_whether_the_proxy_keeps_it_or_takes_it_off(serve, client, kept):
    served = serve(below="/bot")
    host = served.url.removesuffix("/bot")

    def get(address):
        return client.get(host + address.replace("/bot", kept, 1))

    form = csrf_of(get("/bot/sign-in").text)
    sent = client.post(f"{host}{kept}/sign-in/token", data={"csrf": form, "token": TOKEN})
    assert (sent.status_code, sent.headers["location"]) == (303, "/bot/")
    pages = [get(f"/bot{path}") for path in ("/", "/ask", f"/jobs/{served.ids['running']}", "/nowhere")]
    assert [page.status_code for page in pages] == [200, 200, 200, 404]
    for page in pages:
        named = re.findall(r'(?:href|src|action|hx-get|hx-post|data-events)="(/[^"]*)"', page.text)
        assert named
        assert all(address.startswith("/bot/") for address in named)
    assert 'href="/bot/ask" aria-current="page"' in pages[1].text
    assert {get(found).status_code for found in re.findall(r'"(/bot/static/[^"]*)"', pages[0].text)} == {200}
    large = b'{"padding": "' + b" " * 100_000 + b'"}'
    headers = {"X-Webhook-Secret": "hub-secret", "Content-Type": "application/json"}
    hook = client.post(f"{host}{kept}/webhooks/hub", content=large, headers=headers)
    assert hook.status_code == 200, hook.text


def test_without_a_token_nobody_is_the_operator(serve, client):
    form = csrf_of(client.get(f"{serve().url}/sign-in").text)
    served = serve(operator_token="")
    assert client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": ""}).status_code == 403
    assert "Nobody can sign in here yet." in client.get(f"{served.url}/sign-in").text


def by_token(client, served):
    """Signs in as the operator."""
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    return client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": TOKEN})


def test_a_new_token_ends_the_operators_sessions_and_a_new_secret_all(serve, client):
    first = serve()
    form = csrf_of(client.get(f"{first.url}/sign-in").text)
    client.post(f"{first.url}/sign-in/token", data={"csrf": form, "token": TOKEN})
    cookie = {"merge-bot": client.cookies["merge-bot"]}
    same, token, secret = serve(), serve(operator_token="another-long-token"), serve(secret="t" * 32)
    texts = [httpx2.get(f"{served.url}/", cookies=cookie).text for served in (same, token, secret)]
    assert ["Sign out" in text for text in texts] == [True, False, False]


def test_strangers_see_what_is_public_and_nothing_of_the_rest(serve, client):
    served = serve()
    listed = client.get(f"{served.url}/").text
    assert "alice/cat-lora" in listed
    assert not any(
        name in listed for name in ("secret-base", "dolphin", "story-lora", "med-lora", "broken", "asked by")
    )
    assert re.search(r"\bby alice\b|alice, this page", listed) is None
    for name in ("running", "queued", "refused", "failed", "plan"):
        for tail in ("", "/log", "/events", "/report"):
            assert client.get(f"{served.url}/jobs/{served.ids[name]}{tail}").status_code == 404
    public = client.get(f"{served.url}/jobs/{served.ids['published']}").text
    assert "Checks" in public
    assert "by alice" not in public
    assert "Planning alice" not in public
    assert client.get(f"{served.url}/jobs/{served.ids['published']}/log").status_code == 403
    assert "No job is like that." in client.get(f"{served.url}/?q=secret").text


def test_what_strangers_search_for_is_not_looked_for_in_what_they_do_not_see(serve, client):
    desk = MemoryDesk()
    key = desk.enqueue(an_order("alice/cat-lora", to="alice/not-yet-told", by="zoe")).order.job.key
    desk.end(key, published())
    served = serve(desk)
    assert "cat-7b" in client.get(f"{served.url}/?q=CAT-7b").text
    assert "No job is like that." in client.get(f"{served.url}/?q=not-yet-told").text
    assert "No job is like that." in client.get(f"{served.url}/?q=zoe").text


def test_a_result_that_is_not_public_is_for_whoever_asked_and_the_operator(with_hub, client):
    served = with_hub("mallory", askers=("*",))
    key = served.desk.enqueue(an_order("alice/private-lora", to="alice/private-7b")).order.job.key
    served.desk.end(key, published(public=False))
    signed_in(client, served)
    assert client.get(f"{served.url}/jobs/{key}").status_code == 404
    with httpx2.Client(timeout=10) as other:
        served = with_hub("alice")
        served.desk.jobs[key] = replace(served.desk.enqueue(an_order(key=key)), created=time.time())
        signed_in(other, served)
        assert other.get(f"{served.url}/jobs/{key}").status_code == 200


def test_a_user_of_github_is_not_the_user_of_the_hub_with_the_same_name(with_hub, client):
    served = with_hub("alice")
    theirs = served.desk.enqueue(an_order("somebody/else", by="alice", host="github")).order.job.key
    mine = served.desk.enqueue(an_order("alice/mine", by="Alice", host="hub")).order.job.key
    signed_in(client, served)
    assert client.get(f"{served.url}/jobs/{theirs}").status_code == 404
    assert client.get(f"{served.url}/jobs/{mine}").status_code == 200


def test_a_closed_service_shows_strangers_nothing(serve, client):
    served = serve(strangers="closed")
    for path in ("/", f"/jobs/{served.ids['published']}", "/ask", f"/jobs/{served.ids['published']}/events"):
        answer = client.get(f"{served.url}{path}")
        assert answer.status_code == 401
        assert "alice" not in answer.text
    assert client.get(f"{served.url}/sign-in").status_code == 200


def test_only_owner_and_operator_stop_and_repeat(with_hub, client):
    served = with_hub("mallory", askers=("*",))
    signed_in(client, served)
    form = csrf_of(client.get(f"{served.url}/").text)
    stop, repeat = f"/jobs/{served.ids['running']}/cancel", f"/jobs/{served.ids['published']}/retry"
    assert client.post(served.url + stop, data={"csrf": form}).status_code == 404
    assert client.post(served.url + repeat, data={"csrf": form}).status_code == 403
    assert served.desk.entry(served.ids["running"]).state == "running"
    assert served.desk.entry(served.ids["published"]).attempt == 1


def test_who_was_taken_off_the_list_repeats_nothing(with_hub, client):
    served = with_hub("alice", askers=("bob",))
    signed_in(client, served)
    shown = client.get(f"{served.url}/jobs/{served.ids['published']}").text
    assert "Retry" not in shown
    answer = client.post(f"{served.url}/jobs/{served.ids['published']}/retry", data={"csrf": csrf_of(shown)})
    assert answer.status_code == 403
    assert served.desk.entry(served.ids["published"]).attempt == 1


def retried(client, served, order):
    """What a retry of such a job, which has ended, is answered with, and the access that it has then."""
    key = served.desk.enqueue(order).order.job.key
    served.desk.end(key, published())
    answer = client.post(
        f"{served.url}/jobs/{key}/retry", data={"csrf": csrf_of(client.get(served.url).text)}
    )
    return answer.status_code, served.desk.entry(key).order.request.requester_access


def test_a_retry_may_what_its_asker_may_today(with_hub, client):
    order = an_order(to="alice/cat-7b")
    once = replace(order, request=replace(order.request, requester_access="yes"))
    asked = an_order(to="bob/cat-7b", key="e" * 32)
    elsewhere = replace(asked, request=replace(asked.request, requester_access="yes"))
    served = with_hub("alice", operators=("alice",))
    signed_in(client, served)
    assert retried(client, served, once) == (303, "yes")
    assert retried(client, served, elsewhere) == (303, "yes")
    served = with_hub("alice")  # no operator any more
    signed_in(client, served)
    assert retried(client, served, once) == (303, "unknown")
    assert retried(client, served, elsewhere) == (403, "yes")


def test_a_command_on_the_hub_is_repeated_by_askers_and_below_ones_own_name(with_hub, client):
    below = [
        replace(an_order(f"{owner}/it", host="hub"), origin=Origin(host="hub", repository=f"{owner}/it"))
        for owner in ("alice", "acme")
    ]
    served = with_hub("alice", askers=("bob",))
    signed_in(client, served)
    assert [retried(client, served, order)[0] for order in below] == [303, 403]
    served = with_hub("alice", askers=("alice",))
    signed_in(client, served)
    assert [retried(client, served, order)[0] for order in below] == [303, 303]


def test_no_form_is_taken_that_is_not_ours(serve, client):
    served = serve()
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": TOKEN})
    ours = csrf_of(client.get(f"{served.url}/").text)
    stop = f"{served.url}/jobs/{served.ids['running']}/cancel"
    paths = (
        "/ask",
        "/ask/reading",
        "/sign-out",
        "/sign-in/hub",
        "/sign-in/token",
        f"/jobs/{served.ids['plan']}/retry",
    )
    assert client.post(stop).status_code == 403
    assert client.post(stop, data={"csrf": form}).status_code == 403  # of the session before
    assert client.post(stop, data={"csrf": ours}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert [
        client.post(served.url + path, data={"csrf": "x", "adapter": "a/b"}).status_code for path in paths
    ] == [403] * 6
    assert served.desk.entry(served.ids["running"]).state == "running"
    assert client.post(stop, data={"csrf": ours}).status_code == 303
    assert served.desk.entry(served.ids["running"]).state == "cancelling"


def test_a_cookie_that_was_written_by_somebody_else_is_nobodys(serve, client):
    served = serve()
    from itsdangerous import URLSafeTimedSerializer

    forged = URLSafeTimedSerializer("x" * 32, salt="merge-bot session").dumps(
        {"name": "alice", "orgs": [], "csrf": "c"}
    )
    assert "Sign out" not in client.get(f"{served.url}/", cookies={"merge-bot": forged}).text


def test_the_configuration_says_who_gets_in(tmp_path):
    path = tmp_path / "merge-bot.toml"
    path.write_text(
        """
        [server]
        public_url = "https://merge.example.org"
        state = "state"
        [defaults]
        validation = "tensors"
        [ask]
        users = ["al*"]
        organizations = ["acme"]
        [pages]
        operators = ["root"]
        operator_token = "an-operators-long-token"
        strangers = "read-only"
        """
    )
    config = load(path, {})
    made = sites.of(config, endpoint="https://huggingface.co")
    assert (made.strangers, made.askers, made.operators) == ("read-only", ("al*", "acme"), ("root",))
    assert (made.inputs.validate, made.client) == ("tensors", None)
    assert "long-token" not in repr(made)
    again = sites.of(config, endpoint="https://huggingface.co")
    assert len(made.secret) > 40
    assert made.secret == again.secret
    assert (config.server.state / sites.FILE).stat().st_mode & 0o777 == 0o600


def test_an_operator_by_name_sees_everything(with_hub, client):
    served = with_hub("alice", operators=("Alice",))
    signed_in(client, served)
    assert "story-lora" in client.get(f"{served.url}/").text


def test_a_user_of_the_hub_who_is_called_operator_is_not_the_operator(with_hub, hub, client):
    hub.add_user("operator")
    served = with_hub("operator", askers=("*",))
    with httpx2.Client(timeout=10) as real:
        by_token(real, served)
        form = csrf_of(real.get(f"{served.url}/").text)
        given = {"csrf": form, "verb": "merge", "adapter": "secret/lora", "to": "secret/merged"}
        path = real.post(f"{served.url}/ask", data=given).headers["location"]
        assert "by the operator" in real.get(served.url + path).text
        assert "the operator, this page" in real.get(f"{served.url}/").text
        real.post(f"{served.url}{path}/cancel", data={"csrf": form})
    signed_in(client, served)
    assert client.get(served.url + path).status_code == 404
    assert "secret" not in client.get(f"{served.url}/").text
    order = served.desk.entry(path.rpartition("/")[2]).order
    assert (order.job.asked_by, order.request.requested_by) == (":operator", None)
    assert [line.text for line in served.desk.lines(order.job.key)] == ["Cancelled by the operator."]


def test_the_hub_names_nobody_as_we_name_the_operator(with_hub, hub, client):
    hub.add_user(":operator")
    assert signed_in(client, with_hub(":operator")).status_code == 403


def test_the_operator_signs_in_by_a_form_that_says_when_the_token_is_wrong(serve, page):
    served = serve()
    page.goto(f"{served.url}/sign-in")
    for token in ("mistyped", TOKEN):
        page.get_by_label("Operator's token").fill(token)
        page.get_by_role("button", name="Sign in", exact=True).click()
        if token != TOKEN:
            expect(page.get_by_role("alert")).to_have_text("This is not the operator's token.")
    page.wait_for_url(f"{served.url}/")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
