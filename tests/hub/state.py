"""What every route can reach: the store, the accounts, the webhooks, this server's addresses and its limits."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .accounts import Accounts
from .deliveries import Deliveries
from .errors import HubError
from .exchange import Call
from .jobs import Jobs
from .routes_oauth import OAuth
from .store import Store, read_json, write_json


@dataclass
class State:
    """One hub."""

    root: Path
    xet: bool = False
    url: str = ""
    cdn_url: str = ""
    multipart_threshold: int = 64 << 20
    part_size: int = 16 << 20
    tree_page: int = 1000
    discussion_page: int = 10
    list_page: int = 1000
    trusted: dict[str, tuple[str, ...]] = field(default_factory=dict)  # repository → subjects of workflows
    oauth: OAuth = field(default_factory=OAuth)
    store: Store = field(init=False)
    accounts: Accounts = field(init=False)
    secret: bytes = field(init=False, repr=False)
    jobs: Jobs = field(init=False)
    tell: Deliveries = field(init=False)  # what happened, to whoever has a webhook

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.root, xet=self.xet)
        self.accounts = Accounts(self.root)
        self.jobs = Jobs(self.root, store=self.store)
        self.tell = Deliveries(self)
        kept = read_json(self.root / "secret.json", None) or secrets.token_hex(32)
        write_json(self.root / "secret.json", kept)
        self.secret = bytes.fromhex(kept)

    # webhooks: {id: {"owner": name, "webhook": {…}}}

    def webhooks(self) -> dict[str, Any]:
        hooks: dict[str, Any] = read_json(self.root / "webhooks.json", {})
        return hooks

    def save_webhooks(self, hooks: dict[str, Any]) -> None:
        write_json(self.root / "webhooks.json", hooks)

    # links that work without a token, as the storage's presigned URLs do

    def _signature(self, path: str, query: str) -> str:
        return hmac.new(self.secret, f"{path}?{query}".encode(), hashlib.sha256).hexdigest()

    def signed(self, path: str, **query: str | int) -> str:
        """`path` with its query and a signature over both."""
        text = urlencode(sorted(query.items()))
        return f"{path}?{text}&sig={self._signature(path, text)}"

    def check_signature(self, call: Call) -> None:
        query = urlencode(sorted((key, values[0]) for key, values in call.query.items() if key != "sig"))
        if not hmac.compare_digest(self._signature(call.path, query), call.param("sig")):
            raise HubError(403, "The link's signature does not match")
