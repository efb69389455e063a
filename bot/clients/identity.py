"""A workflow's proof of whose it is → a token of the Hub that lasts an hour and writes to one repository.

https://huggingface.co/docs/hub/trusted-publishers; the variables that GitHub sets for it are read by huggingface_hub.
"""

from __future__ import annotations

from typing import Any

import httpx2
from huggingface_hub._oidc import Provider, oidc_login
from huggingface_hub.errors import HfHubHTTPError, OIDCError

from bot.clients.hub_errors import redacted
from bot.errors import AccessError, HostError

ADVICE = (
    "Add this repository and workflow as a Trusted Publisher in the settings of the Hub repository, or give the step"
    " a token: `hf-token`."
)


def publishing_token(repo_id: str, *, endpoint: str) -> str:
    """A token that writes to this repository alone.

    Raises AccessError when the Hub does not take the workflow for its publisher, HostError when one of the two hosts
    is at fault.
    """
    try:
        answer: dict[str, Any] = oidc_login(resource=repo_id, provider=Provider.GITHUB, endpoint=endpoint)
        token = answer["access_token"]
    except (HfHubHTTPError, OIDCError, KeyError, ValueError) as error:
        raise _declined(repo_id, error) from error
    except httpx2.HTTPError as error:
        raise HostError(
            f"Could not get a token for {repo_id}: GitHub or the Hub cannot be reached.",
            advice="Run the job again in a few minutes.",
            code="hub-unreachable",
        ) from error
    return str(token)


def _declined(repo_id: str, error: Exception) -> AccessError | HostError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status >= 500 or status == 429:
        return HostError(
            f"Could not get a token for {repo_id}: the host answered with status {status}.",
            advice="Run the job again in a few minutes.",
            code="hub-down",
        )
    said = redacted(str(getattr(error, "server_message", None) or "")).rstrip(".")
    return AccessError(
        f"The Hub does not take this workflow for a Trusted Publisher of {repo_id}{f' ({said})' if said else ''}.",
        advice=ADVICE,
        code="no-trusted-publisher",
    )
