"""What is done about a publication that turns out not to be what was checked, or that came to nothing."""

from __future__ import annotations

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from bot.clients import hub_target
from bot.clients.hub_errors import redacted
from bot.clients.hub_target import CARD, Target
from bot.progress import Progress
from bot.records import Publication

WARNING = "Warn of the model of the last commit"


def take_back(api: HfApi, done: Publication, *, before: Target, made: bool, comment: str) -> str:
    """Closes a Hub PR with the comment; makes it the card of a repository, and that private if it was `made` for it.

    No later run takes such a repository for a result of ours. Says what was done and what is left to do, also where the
    Hub declines.
    """
    repo_id, number = before.id, done.number
    try:
        if number is not None:
            api.change_discussion_status(repo_id, number, "closed", comment=comment)
            return f"Hub PR #{number} was closed: do not merge it."
        if made and not before.private:
            api.update_repo_settings(repo_id, private=True)
        card = CommitOperationAdd(CARD, f"# Do not use this model\n\n{comment}\n".encode())
        api.create_commit(repo_id, [card], commit_message=WARNING, parent_commit=done.commit)
    except (HfHubHTTPError, httpx2.TransportError) as error:
        what = f"Hub PR #{number} could not be closed" if number else f"{repo_id} could not be marked"
        return f"{what} ({redacted(str(error)).rstrip('.')}): see to that."
    if made:
        return f"{repo_id}, which was made for it, is private and says so in its card: delete it."
    return f"The card of {repo_id} says so; what it held before is at commit {before.head}."


def remove_empty(api: HfApi, made: Target, *, progress: Progress) -> None:
    """Deletes a repository that was made for a publication which failed, unless anything has been committed to it."""
    try:
        now = hub_target.look(api, made.id, attempts=1)
        if now is not None and now.head == made.head and now.files <= {".gitattributes"}:
            api.delete_repo(made.id)
    except (HfHubHTTPError, httpx2.TransportError) as error:
        progress.say(f"The empty repository {made.id} was left behind: {redacted(str(error))}")
