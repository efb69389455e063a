"""What the log of the service and the log of a job say of a job that does not get on, and is called off."""

import time

import pytest

from bot.jobs.migration import opened
from bot.jobs.office import Office
from bot.jobs.queues import Queues
from tests.jobs.orders import order
from tests.serve.process import serving

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "MERGE_BOT_ATTEMPTS": "1", "MERGE_BOT_ISOLATION": "none"}


def until(found, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not (there := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return there


@pytest.mark.slow
def test_it_says_why_and_which_job_and_no_trace_of_what_was_asked_for(tmp_path):
    with serving(tmp_path, **NOWHERE) as server:
        database = opened(f"sqlite:///{server.database}")
        office = Office(database, Queues(database))
        id_ = office.enqueue(order(host="cli")).order.job.key
        lines = until(lambda: [e.text for e in office.lines(id_) if "Trying again in 5 s." in e.text])
        assert "cannot be reached" in lines[0]
        office.cancel(id_, by="ada")
        of_job = until(
            lambda: [e for e in server.log() if e.get("job") == id_ and "has ended" in e["message"]]
        )
        assert (of_job[0]["message"], of_job[0]["code"]) == ("the job has ended: skipped", "cancelled")
        assert [e["message"] for e in server.log() if e.get("job") == id_] == [
            "the job begins",
            of_job[0]["message"],
        ]
        time.sleep(2)  # DBOS looks for a second at what has become of it
        database.close()
        server.stop(within=20)
    assert not [line for line in server.log() if "trace" in line or line["logger"] == "dbos"]
