"""What nobody will go on with is cleared away, and what nobody takes is said."""

import pytest
from sqlalchemy import text

from bot.jobs.queues import Queues
from bot.jobs.scratch import Scratch
from bot.jobs.unserved import swept, unserved
from tests.jobs.orders import order


@pytest.fixture
def queues(database):
    made = Queues(database)
    made.prepare({"pool-gpu": 1, "pool-other": 1})
    yield made
    made.close()


def texts(ledger, key):
    return [line.text for line in ledger.lines(key)]


def test_a_pool_without_a_worker_is_said_once_in_the_log_of_who_waits(ledger, queues, database):
    one, two = (ledger.enqueue(order(f"ada/{n}")).order.job.key for n in range(2))
    for key in (one, two):
        make = ledger.join(key, 1, f"m{key}")
        if key == one:
            queues.make(make, {}, runner="pool:gpu")
        else:  # its shards wait, and it waits for them elsewhere
            queues.shard(make, 7, file="model.safetensors", needed=1, runner="spread:pool:gpu")
    names = ["pool-gpu", "pool-other"]
    unserved(ledger, queues, names, long=60)  # not for long yet
    assert texts(ledger, one) == []
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    older = text(f"UPDATE {table} SET created_at = created_at - 100000, updated_at = updated_at - 100000")
    database.write(lambda c: c.execute(older))
    for _ in range(2):
        unserved(ledger, queues, names, long=60)
    said = (
        "Waiting for a worker: none has taken anything from the queue gpu for 1 min 0 s. Start one that does."
    )
    assert texts(ledger, one) == texts(ledger, two) == [said]


@pytest.mark.parametrize("status", ["PENDING", "SUCCESS"])
def test_a_pool_whose_worker_is_busy_is_not_complained_of(ledger, queues, database, status):
    one, two = (ledger.enqueue(order(f"ada/{n}")).order.job.key for n in range(2))
    makes = [ledger.join(key, 1, f"m{key}") for key in (one, two)]
    for make in makes:
        queues.make(make, {}, runner="pool:gpu")
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    older = f"UPDATE {table} SET created_at = created_at - 100000"
    busy = f"UPDATE {table} SET status = '{status}' WHERE workflow_uuid = '{makes[0]}'"
    database.write(lambda c: [c.execute(text(each)) for each in (older, busy)])
    unserved(ledger, queues, ["pool-gpu"], long=60)
    assert texts(ledger, two) == []


def test_a_folder_of_a_make_that_ended_elsewhere_is_cleared_away(ledger, tmp_path):
    root = tmp_path / "scratch"
    scratch = Scratch(root)
    key = ledger.enqueue(order()).order.job.key
    wanted = ledger.join(key, 1, "a" * 32)
    for name in (wanted, f"{'b' * 32}-1"):
        (root / name).mkdir()
        (root / f"{name}.space").touch()
    swept(scratch, ledger)
    assert sorted(path.name for path in root.iterdir() if path.name != ".lock") == [wanted, f"{wanted}.space"]
