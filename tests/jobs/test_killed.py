"""`kill -9` inside every step that DBOS records, before and after each of its effects, and at every boundary.

The worker is `merge-bot worker`; tests/jobs/run_killed.py kills it from inside. One job for as many places as it comes
to, and another one where a kill has kept it from coming to the rest.
"""

import subprocess
import sys

import pytest
from huggingface_hub import HfApi, close_session
from sqlalchemy import text

from bot.job import Job
from bot.jobs.order import ACTIVE, Order, Origin
from bot.request import Destination, MergeRequest
from tests.e2e import hub, models
from tests.jobs.site import Site

__all__ = ["hub", "models"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# By workflow and step as they are recorded: the effects in between, which come beside `before`, `after` and `recorded`.
STEPS = {
    ("job", "begin"): {"Ledger.begin", "Thread.begin"},
    ("job", "plan"): {"Ledger.begin", "Room.do plan", "Ledger.assign", "Ledger.join", "Queues.make"},
    ("job", "finish"): set(),
    ("make", "look"): {"Ledger.begin"},
    ("make", "carry_out"): {
        "Ledger.begin", "Room.do merge", "Thread.begin", "Ledger.publish", "Room.do publish", "Ledger.close",
        "Ledger.end", "Queues.answer",
    },
    ("make", "hand_over"): {"Queues.answer"},
    ("answer", "answer"): {"Thread.begin", "Thread.end"},
    ("answer", "tell_others"): set(),
    ("stop", "stop"): {"Queues.cancel", "Ledger.close", "Ledger.end", "Queues.answer"},
}  # fmt: skip
ALWAYS = {"before", "after", "recorded"}
THREAD = "alice/tiny-lora"
RULES = """
[worker]
jobs = 1
[[watch]]
owners = ["alice"]
"""


class Killed(Site):
    """A service whose worker is killed at the places of one step."""

    def __init__(self, *given, step, **options):
        super().__init__(*given, **options)
        self.step, self.places = step, self.root / "places"
        self.rules = self.root / "rules.toml"
        self.rules.write_text(RULES)
        self.environment |= {
            "MERGE_BOT_DATABASE_URL": self.url,
            "MERGE_BOT_SERVER__STATE": str(self.root / "one"),
            "MERGE_BOT_SERVER__DRAIN_SECONDS": "5",
        }

    @property
    def killed_at(self):
        return self.places.read_text().splitlines() if self.places.exists() else []

    def begin(self):
        with (self.root / f"worker-{len(self.workers)}.log").open("wb") as log:
            killed = ["tests.jobs.run_killed", self.step, str(self.places)]
            worker = subprocess.Popen(
                [sys.executable, "-m", *killed, "worker", "--config", str(self.rules)],
                env=self.environment, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.workers.append(worker)

    def order(self, name, *, kind):
        """A job that was asked for in a discussion of its own."""
        to = f"alice/killed-{name}"
        opened = self.api.create_discussion(THREAD, f"Please {name}", description="/merge")
        comment = f"{opened.num}#{opened.events[0].id}"
        request = MergeRequest(
            adapter=THREAD, destination=Destination(kind=kind, location=to), attended=False,
            requester_access="yes", requested_by="alice", validation="structure", reload="never",
        )  # fmt: skip
        job = Job(key=f"{name:->32}", what=THREAD, asked_by="alice", ask="/merge", run="delivery-1")
        origin = Origin(host="hub", repository=THREAD, number=opened.num, comment=comment, author="alice")
        return Order(job=job, request=request, origin=origin)

    def go_through(self, id_, *, cancelled=False):
        """The job as it ended, with a worker that is begun again whenever it was killed."""

        def ended():
            if self.workers[-1].poll() is not None:
                self.begin()
            entry = self.office.entry(id_)
            if cancelled and entry.state == "running" and entry.now.stage == "merging":
                self.office.cancel(id_, by="alice")
            return entry.state not in ACTIVE and set(self.states().values()) <= {"SUCCESS", "CANCELLED"}

        self.until(ended, seconds=900)  # for all that it is killed
        return self.office.entry(id_)

    def states(self):
        asked = text("SELECT workflow_uuid, status FROM workflow_status")
        return dict(self.database.read(lambda c: [tuple(row) for row in c.execute(asked)]))

    def recorded(self):
        """The workflows and steps that DBOS has written down."""
        asked = text(
            "SELECT DISTINCT s.name, o.function_name FROM operation_outputs o"
            " JOIN workflow_status s ON s.workflow_uuid = o.workflow_uuid"
        )
        return self.database.read(lambda c: {tuple(row) for row in c.execute(asked)})

    def comments(self, number):
        events = self.api.get_discussion_details(THREAD, number).events
        return [e for e in events if e.type == "comment"]

    def pulls(self, repo_id):
        return [d for d in self.api.get_repo_discussions(repo_id) if d.is_pull_request]


@pytest.fixture
def killed(tmp_path, hub):
    there = []

    def killed(step):
        site = Killed(f"sqlite:///{tmp_path / 'bot.db'}", hub=hub, root=tmp_path, step=step)
        there.append(site)
        site.api = HfApi(endpoint=hub.url, token=hub.token("alice"))
        site.begin()
        return site

    yield killed
    for site in there:
        site.close()
    close_session()


def check(site, order, *, cancelled):
    """It has ended once: one commit in one repository, one Hub PR, one comment with its end, nothing in scratch."""
    id_, to = order.job.key, order.request.destination
    entry = site.go_through(id_, cancelled=cancelled)
    assert (entry.state, entry.attempt) == ("skipped" if cancelled else "published", 1), site.logs()
    _, *ours = site.comments(order.origin.number)
    assert len(ours) == 1, site.logs()
    assert f"state={entry.state}" in ours[0].content or entry.state in ours[0].content.lower()
    if to.kind == "hub_pr":
        assert [pull.num for pull in site.pulls(to.location)] == ([] if cancelled else [1])
        assert len(site.commits(to.location)) == 2  # what was there
    elif cancelled:
        assert site.commits(to.location) == []
    else:
        assert len(site.commits(to.location)) == 2  # the Hub's first, and ours
        assert site.pulls(to.location) == []
    site.until(lambda: site.leftovers() == [], seconds=90)


@pytest.mark.parametrize(
    ("workflow", "step", "first"),
    [*((*each, "hub_pr") for each in STEPS), ("make", "carry_out", "repository")],
)
def test_kill_minus_nine_in_a_step_and_after_it(killed, hub, workflow, step, first):
    places = STEPS[workflow, step] | ALWAYS
    site, cancelled = killed(step), workflow == "stop"
    other = "repository" if first == "hub_pr" else "hub_pr"
    for number, kind in enumerate([first, other] * 2):
        order = site.order(f"{first[:3]}-{step.replace('_', '-')}-{number}", kind=kind)
        if kind == "hub_pr":
            hub.commit(order.request.destination.location, {"README.md": "A model of somebody's"})
        before = site.killed_at
        site.office.enqueue(order)
        check(site, order, cancelled=cancelled)
        if set(site.killed_at) == places and kind == other:
            break
        assert site.killed_at != before, site.logs()
    assert set(site.killed_at) == places


def test_every_step_that_is_recorded_has_a_case(killed):
    site = killed("none")
    for number, cancelled in enumerate([False, True]):
        order = site.order(f"steps-{number}", kind="repository")
        site.office.enqueue(order)
        check(site, order, cancelled=cancelled)
    assert site.recorded() == set(STEPS)
