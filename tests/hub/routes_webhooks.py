"""Webhooks of a user over HTTP; `deliveries` sends what they ask for."""

import secrets
from typing import Any

from .errors import HubError
from .exchange import Call, Endpoint, Reply, as_json
from .routes_account import member


def _own_hook(call: Call, hook_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    hooks = call.state.webhooks()
    hook = hooks.get(hook_id)
    if hook is None or hook["owner"] != member(call).name:
        raise HubError(404, "Webhook not found")
    return hooks, hook["webhook"]


def list_webhooks(call: Call) -> Reply:
    name = member(call).name
    return as_json([hook["webhook"] for hook in call.state.webhooks().values() if hook["owner"] == name])


def create_webhook(call: Call) -> Reply:
    account, body = member(call), call.json()
    given: dict[str, Any] = {key: body[key] for key in ("url", "watched", "domains", "secret") if key in body}
    hook = {"secret": None, "disabled": False, **given, "id": secrets.token_hex(12)}
    with call.state.store.lock:
        hooks = call.state.webhooks()
        call.state.save_webhooks({**hooks, hook["id"]: {"owner": account.name, "webhook": hook}})
    return as_json({"webhook": hook})


def get_webhook(call: Call, hook: str) -> Reply:
    return as_json({"webhook": _own_hook(call, hook)[1]})


def update_webhook(call: Call, hook: str) -> Reply:
    body = call.json()
    with call.state.store.lock:
        hooks, found = _own_hook(call, hook)
        found.update({key: body[key] for key in ("url", "watched", "domains", "secret") if key in body})
        call.state.save_webhooks(hooks)
    return as_json({"webhook": found})


def switch_webhook(call: Call, hook: str, action: str) -> Reply:
    if action not in ("enable", "disable"):
        raise HubError(404, "Not found")
    with call.state.store.lock:
        hooks, found = _own_hook(call, hook)
        found["disabled"] = action == "disable"
        call.state.save_webhooks(hooks)
    return as_json({"webhook": found})


def delete_webhook(call: Call, hook: str) -> Reply:
    with call.state.store.lock:
        hooks, _ = _own_hook(call, hook)
        call.state.save_webhooks({key: value for key, value in hooks.items() if key != hook})
    return as_json({"success": True})


ROUTES: list[Endpoint] = [
    ("GET", "/api/settings/webhooks", list_webhooks),
    ("POST", "/api/settings/webhooks", create_webhook),
    ("GET", "/api/settings/webhooks/{hook}", get_webhook),
    ("POST", "/api/settings/webhooks/{hook}", update_webhook),
    ("DELETE", "/api/settings/webhooks/{hook}", delete_webhook),
    ("POST", "/api/settings/webhooks/{hook}/{action}", switch_webhook),
]
