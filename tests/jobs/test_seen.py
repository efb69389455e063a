"""What watching has seen, in both databases."""

from bot.jobs.seen import Memory


def test_what_was_put_last_is_what_is_there(database):
    memory = Memory(database)
    assert memory.get("model", "acme/x") is None
    for commit in ("one", "two", "two"):
        memory.put("model", "acme/x", commit)
    memory.put("owner", "acme/x", "")
    assert memory.get("model", "acme/x") == "two"
    assert memory.get("owner", "acme/x") == ""
    assert memory.get("model", "acme/X") is None
