"""`python -m tests.jobs.run_worker URL FOLDER [SECONDS]`: one executor of the service, until SIGTERM.

TEST_RUNNER is the runner of what it plans, TEST_SHARDS how many shards of a job are in line at once.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from tenacity import wait_fixed

from bot import settings
from bot.jobs.answers import Answerer
from bot.jobs.engine import Engine
from bot.jobs.flow import Flow
from bot.jobs.lease import Lease
from bot.jobs.ledger import Ledger
from bot.jobs.local import Local
from bot.jobs.migration import opened
from bot.jobs.planning import Planning
from bot.jobs.queues import ANSWERS, JOBS, LOCAL, SPREAD, STOPS, Queues
from bot.jobs.scratch import Scratch
from bot.jobs.slot import Slot
from bot.jobs.spread import Spreading
from bot.jobs.workers import Workers


def main() -> None:
    url, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    known = settings.load()
    database = opened(url)
    ledger, queues, scratch = Ledger(database), Queues(database), Scratch(folder / "scratch", spare=2**26)
    slot = Slot(folder / "slots")
    lease = Lease(slot.name, workers=Workers(database), queues=queues, lost=stop.set, seconds=seconds)
    planning = Planning(
        settings=known, ledger=ledger, scratch=scratch, alive=lease.alive, patience=lease.patience,
        choose=lambda *_: os.environ.get("TEST_RUNNER", "local"),
    )  # fmt: skip
    runners: dict = {}
    flow = Flow(
        executor=slot.name, settings=known, ledger=ledger, queues=queues, answers=Answerer(), planning=planning,
        runners=runners, wait=wait_fixed(1), held=lease.held,
    )  # fmt: skip
    takes = {JOBS: 4, ANSWERS: 4, STOPS: 4, LOCAL: 1, SPREAD: 4}
    engine = Engine(flow, database=database, lease=lease, scratch=scratch, takes=takes)
    local = runners["local"] = Local(
        settings=known, scratch=scratch, alive=lease.alive, patience=lease.patience,
        gate=lambda make: flow.gate(make.id), keeps=lambda: engine.draining,
    )  # fmt: skip
    at_once = int(os.environ.get("TEST_SHARDS", "2"))
    runners["spread"] = Spreading(local=local, queues=queues, at_once=at_once)
    engine.start()
    print("ready", slot.name, flush=True)
    stop.wait()
    engine.stop(seconds=1)
    slot.close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
