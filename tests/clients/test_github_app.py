"""A GitHub App signs in with its key, and its token is for one repository and a few permissions."""

import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bot import connect
from bot.clients.github import GitHub
from bot.clients.github_app import PERMISSIONS, InstallationToken, installation_token
from bot.errors import AccessError, HostError, InputError
from bot.settings import load
from tests.clients.github_fixtures import ADAPTER, REPO, clock, forge

__all__ = ["clock", "forge"]


def pem(key) -> str:
    kinds = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return key.private_bytes(*kinds).decode()


def public(key) -> str:
    kinds = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*kinds).decode()


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def app(forge, key):
    number = forge.add_app(
        "merge-bot", public_key=public(key), permissions={**PERMISSIONS, "issues": "write"}
    )
    forge.install(number, REPO)
    return number


def sign_in(forge, app, key, repository=REPO, **more):
    return installation_token(app, pem(key), repository, api_url=forge.url, attempts=2, **more)


def test_the_token_works_where_the_app_is_installed_and_its_comments_are_its_own(forge, app, key):
    forge.open_pull(REPO, ADAPTER)
    made = sign_in(forge, app, key)
    github = GitHub(REPO, token=made.token, login=made.login, api_url=forge.url)
    posted = github.post_comment(1, "hello <!-- m -->")
    assert posted.author == made.login == github.login() == "merge-bot[bot]"
    assert github.find_comment(1, marker="<!-- m -->") == posted
    assert made.token not in repr(made)
    assert made.expires.endswith("Z")


def test_a_token_is_made_anew_before_it_ends(forge, app, key):
    """A merge of two hours: what was there before its end is found and edited after it."""
    forge.open_pull(REPO, ADAPTER)
    now = [time.time()]
    token = InstallationToken(lambda: sign_in(forge, app, key), clock=lambda: now[0])
    github = GitHub(REPO, token=token, api_url=forge.url)
    posted = github.post_comment(1, "hello <!-- m -->")
    assert github.login() == posted.author == "merge-bot[bot]"
    first = token()
    assert token() == first
    now[0] += 3400
    forge.state.tokens.pop(first)  # GitHub ends it
    assert github.find_comment(1, marker="<!-- m -->") == posted
    assert github.edit_comment(posted, "bye").body == "bye"
    assert token() != first


def test_an_app_of_the_settings_answers_as_itself(forge, app, key):
    made = connect.app_forge(load({}), repository=REPO, app_id=app, private_key=pem(key), api_url=forge.url)
    forge.open_pull(REPO, ADAPTER)
    assert made.post_comment(1, "hello").author == made.login() == "merge-bot[bot]"


def test_the_token_may_do_what_was_asked_for_and_no_more(forge, app, key):
    sign_in(forge, app, key)
    holder = list(forge.state.tokens.values())[-1]
    assert holder.permissions == {**PERMISSIONS, "metadata": "read"}
    assert holder.repositories == {REPO}


def test_a_permission_that_the_installation_does_not_grant(forge, app, key):
    with pytest.raises(InputError) as caught:
        sign_in(forge, app, key, permissions={"contents": "write"})
    assert "not granted" in caught.value.sentence


def test_a_repository_without_the_app(forge, app, key):
    forge.add_repo("acme/other")
    for name in ("acme/other", "acme/nothing"):
        with pytest.raises(InputError) as caught:
            sign_in(forge, app, key, name)
        assert caught.value.code == "github-not-installed"


def test_another_apps_key(forge, app):
    with pytest.raises(AccessError) as caught:
        sign_in(forge, app, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    assert caught.value.code == "github-bad-key"


@pytest.mark.parametrize(
    "text", ["", "not a key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"]
)
def test_what_is_no_key_is_not_quoted(forge, app, text):
    with pytest.raises(InputError) as caught:
        installation_token(app, text, REPO, api_url=forge.url)
    assert caught.value.code == "github-bad-key"
    assert caught.value.__cause__ is None
    assert not text or text not in caught.value.sentence


def test_github_is_down(forge, app, key):
    forge.fault("/access_tokens", status=502)
    with pytest.raises(HostError):
        sign_in(forge, app, key)
