"""A few bare HTML pages, so that a human can look at what the demo published. Every text is escaped."""

from html import escape
from urllib.parse import quote

from .access import can_see
from .cards import text_of
from .errors import HubError
from .exchange import Call, Endpoint, Reply, as_page


def _link(path: str, text: str) -> str:
    return f'<a href="/{escape(quote(path))}">{escape(text)}</a>'


def home(call: Call) -> Reply:
    visible = [repo for repo in call.state.store.all("model") if can_see(call.account, repo)]
    items = "".join(f"<li>{_link(repo.page, repo.id)}" for repo in visible)
    return as_page("Loopback Hub", f"<ul>{items}</ul>")


def repo_page(call: Call, rest: str = "") -> Reply:
    """The files and the card of main (or of the commit in the path)."""
    repo, store = call.repo, call.state.store
    rev = rest.split("/", maxsplit=1)[0] or "main"
    commit = store.resolve(repo, rev)
    base = f"{repo.page}/resolve/{commit.oid}"
    files = "".join(
        f"<li>{_link(f'{base}/{path}', path)} {entry.size:,} bytes" for path, entry in commit.files.items()
    )
    threads = "".join(
        f"<li>{_link(f'{repo.page}/discussions/{d.num}', f'#{d.num} {d.title}')} {d.status}"
        for d in store.discussions(repo)
    )
    about = f"<p>{escape(rev)} · {commit.oid} · {escape(commit.title)}</p>"
    card = f"<h2>Model card</h2><pre>{escape(text_of(store.blobs, commit, 'README.md'))}</pre>"
    return as_page(
        repo.id, about, f"<h2>Files</h2><ul>{files}</ul><h2>Community</h2><ul>{threads}</ul>", card
    )


def discussion_page(call: Call, num: str) -> Reply:
    found = call.state.store.discussion(call.repo, int(num)) if num.isdecimal() else None
    if found is None:
        raise HubError(404, "Not found")
    parts = [f"<p>{_link(call.repo.page, call.repo.id)} · {found.status} · by {escape(found.author)}</p>"]
    for event in found.events:
        data = event["data"]
        text = data["latest"]["raw"] if event["type"] == "comment" else ", ".join(map(str, data.values()))
        parts.append(f"<h3>{escape(event['author']['name'])}: {event['type']}</h3><pre>{escape(text)}</pre>")
    return as_page(f"#{found.num} {found.title}", *parts)


TOP_ROUTES: list[Endpoint] = [("GET|HEAD", "/", home)]
ROUTES: list[Endpoint] = [
    ("GET|HEAD", "", repo_page),
    ("GET|HEAD", "/(?:tree|commit)/{rest:path}", repo_page),
    ("GET|HEAD", "/discussions/{num}", discussion_page),
]
