"""A merge that is spread over workers, shard by shard: the same bytes as on one machine, whatever happens to them."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from bot import pipeline, settings
from bot.errors import MergeError, RefusedError, StoppedError
from bot.jobs.local import Opened
from bot.jobs.order import Origin
from bot.jobs.process import Bounds
from bot.jobs.queues import make_of, queue_of, shard_id
from bot.jobs.runners.runner import Make
from bot.jobs.spread import Spreading
from bot.progress import Silent
from bot.records import Publication
from bot.request import Destination, MergeRequest
from bot.serial import as_dict
from bot.shard import Begun, MergedShard, Portion, Proven, Spread
from bot.shardwise import spread
from tests.e2e import desk, hub, models, processes
from tests.hub.faults import Fault
from tests.jobs.site import Site
from tests.publish.samples import a_plan
from tests.tiny.adapters import save_adapter
from tests.tiny.models import save_base

__all__ = ["desk", "hub", "models", "processes"]
pytestmark = pytest.mark.timeout(600)
BASE, ADAPTER = "acme/spread", "alice/spread-lora"
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
TOUCHED = [f"model.layers.{n}.{m}_proj" for n in (0, 1) for m in ("self_attn.q", "mlp.up", "mlp.down")]


@pytest.fixture(scope="module")
def there(tmp_path_factory, hub):
    """A llama in several shards, of which the adapter touches some, and what one machine makes of the two."""
    root = tmp_path_factory.mktemp("spread")
    base = save_base(root / "base", "llama", shards=6, dtype="bfloat16")
    adapter = save_adapter(root / "adapter", base, config=LORA | {"target_modules": TOUCHED}, base_name=BASE)
    (adapter / "README.md").unlink()
    hub.commit(BASE, base)
    hub.commit(ADAPTER, adapter)
    return root


@pytest.fixture
def known(there, desk):
    """The settings of a worker's step, in this process."""
    return replace(settings.load(), isolation="none", scratch=desk.scratch)


@pytest.fixture
def single(there, desk):
    """The digests of what a single machine publishes, with the whole model on its disk."""
    if not is_there(desk.hub, "alice/spread-single"):
        desk.done("run", ADAPTER, "--to", "alice/spread-single", "--validate", "tensors")
    return weights(desk.hub, "alice/spread-single")


def asked(to, **options):
    destination = Destination(kind="repository", location=to)
    return MergeRequest(adapter=ADAPTER, destination=destination, **{"validation": "tensors", **options})


def weights(hub, repo_id):
    found = hub.files(repo_id)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if name.endswith(".safetensors") or name.startswith(("config", "model"))
    }


def is_there(hub, repo_id):
    return hub.state.store.find("model", repo_id) is not None


# the parts, by themselves


def key_of(request, known):
    return pipeline.plan(request, settings=known, progress=Silent()).key


def parts(request, known, *, wrong=lambda shard: shard, copied=lambda shard: shard, gate=None):
    """All parts, one after the other in one process."""
    told, key = {"settings": known, "progress": Silent()}, key_of(request, known)
    begun = spread.begin(request, key, True, **told)
    shards = tuple(wrong(spread.shard(request, key, portion.file, **told)) for portion in begun.left)
    whole = Spread(started=begun.started, made=True, copied=tuple(map(copied, begun.copied)), shards=shards)
    return spread.conclude(request, key, whole, gate=gate, **told)


def test_the_parts_make_the_bytes_and_the_report_of_a_single_machine(known, hub, single):
    _, report, done = parts(asked("alice/spread-parts"), known)
    assert weights(hub, "alice/spread-parts") == single
    verdicts = {check.name: check.verdict for check in report.checks}
    assert (verdicts["changed"], verdicts["untouched"]) == ("passed", "passed")
    assert (done.checks[0].name, done.checks[0].verdict) == ("stored", "passed")
    assert not any(known.scratch.iterdir())


@pytest.mark.parametrize(
    "changes", [{"sha256": "0" * 64}, {"size": 1}, {"file": "model-00099.safetensors"}, {"version": "0"}]
)
def test_a_shard_that_is_not_what_its_worker_says_is_found(known, hub, changes):
    def wrong(proven):
        if "version" in changes:
            return replace(proven, **changes)
        return replace(proven, shard=replace(proven.shard, **changes))

    with pytest.raises(MergeError) as found:
        parts(asked("alice/spread-wrong"), known, wrong=wrong)
    assert found.value.code == "wrong-shard"
    assert not is_there(hub, "alice/spread-wrong")
    assert not any(known.scratch.iterdir())


def test_a_shard_that_the_hub_copied_for_other_commits_is_not_taken(known, hub, single):
    """The base has changed meanwhile: what is to be copied has another digest now."""
    parts(asked("alice/spread-old"), known, copied=lambda shard: replace(shard, sha256="0" * 64))
    assert weights(hub, "alice/spread-old") == single  # it is copied anew


@pytest.mark.parametrize("part", ["begin", "shard", "conclude"])
def test_all_parts_go_by_one_plan(known, hub, part):
    request, told = asked("alice/spread-moved"), {"settings": known, "progress": Silent()}
    given = {
        "begin": (True,),
        "shard": ("x",),
        "conclude": (Spread(started="", made=True, copied=(), shards=()),),
    }
    more = {"gate": None} if part == "conclude" else {}
    with pytest.raises(RefusedError) as found:
        spread.PARTS[part](request, "0" * 64, *given[part], **told, **more)
    assert found.value.code == "moved"
    assert not is_there(hub, "alice/spread-moved")


def test_called_off_at_its_end_what_was_sent_waits_for_another(known, hub, single):
    """A service that is stopped hands the end to the next: only who calls off the whole takes the repository back."""
    request, told = asked("alice/spread-handed-on"), {"settings": known, "progress": Silent()}
    key = key_of(request, known)
    begun = spread.begin(request, key, True, **told)
    shards = tuple(spread.shard(request, key, portion.file, **told) for portion in begun.left)
    whole = Spread(started=begun.started, made=True, copied=begun.copied, shards=shards)

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread.conclude(request, key, whole, gate=stopped, **told)
    assert is_there(hub, "alice/spread-handed-on")
    spread.conclude(request, key, whole, gate=None, **told)
    assert weights(hub, "alice/spread-handed-on") == single


@pytest.mark.slow
def test_a_shard_that_is_made_twice_at_a_time_is_the_same(known, hub, single):
    request, line = asked("alice/spread-twice"), {"progress": Silent()}
    key = key_of(request, known)
    begun = spread.begin(request, key, True, settings=known, **line)
    places = [known.scratch / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    shards = []
    for portion in begun.left:
        with ThreadPoolExecutor(2) as pool:
            made = [
                pool.submit(
                    spread.shard, request, key, portion.file, settings=replace(known, scratch=p), **line
                )
                for p in places
            ]
        one, two = (each.result() for each in made)
        assert (one.shard.sha256, one.notes) == (two.shard.sha256, two.notes)
        shards.append(two)
    whole = Spread(started=begun.started, made=True, copied=begun.copied, shards=tuple(shards))
    spread.conclude(request, key, whole, gate=None, settings=known, **line)
    assert weights(hub, "alice/spread-twice") == single


def test_a_repository_that_is_gone_is_not_made_again_by_a_late_worker(known, hub):
    request = asked("alice/spread-late")
    key = key_of(request, known)
    with pytest.raises(StoppedError) as found:
        spread.shard(request, key, "x", settings=known, progress=Silent())
    assert found.value.code == "destination-gone"
    assert not is_there(hub, "alice/spread-late")


def test_a_repository_that_goes_while_a_worker_fetches_is_not_made_again(known, hub, monkeypatch):
    request, told = asked("alice/spread-going"), {"settings": known, "progress": Silent()}
    key = key_of(request, known)
    file = spread.begin(request, key, True, **told).left[0].file
    honest = spread.fetched

    def gone_meanwhile(*given, **named):
        hub.delete_repo("alice/spread-going")
        return honest(*given, **named)

    monkeypatch.setattr(spread, "fetched", gone_meanwhile)
    with pytest.raises(StoppedError) as found:
        spread.shard(request, key, file, **told)
    assert found.value.code == "destination-gone"
    assert not is_there(hub, "alice/spread-going")


def test_the_gate_is_asked_before_the_commit(known, hub):
    def gate():
        raise StoppedError("Nobody wants it.", advice="None.", code="cancelled")

    with pytest.raises(StoppedError):
        parts(asked("alice/spread-gate"), known, gate=gate)
    assert not is_there(hub, "alice/spread-gate")


# in line


class Line:
    """Queues in which the first of those that wait ends at each look, as `end` says; `most` were there at once."""

    def __init__(self, end=lambda id_: "SUCCESS"):
        self.end, self.there, self.begun, self.most = end, {}, [], 0

    def shard(self, make, number, *, file, needed, runner):
        id_ = shard_id(make, number)
        self.begun.append((file, needed, runner))
        self.there[id_] = MergedShard(file=file, sha256="", size=1)
        self.most = max(self.most, len(self.there))

    def states(self, ids):
        return {id_: self.end(id_) if id_ == ids[0] else "PENDING" for id_ in ids}

    def results(self, ids):
        if self.end(ids[0]) != "SUCCESS":
            return {}
        proven = Proven(shard=self.there.pop(ids[0]), notes={}, key="k", version="1")
        return {ids[0]: {"done": as_dict(proven)}}


def in_line(line, *, at_once=2):
    files = tuple(f"{n}.safetensors" for n in range(5))
    left = tuple(Portion(file=f, needs=(f,), fetched_bytes=10, written_bytes=20) for f in files)
    plan = replace(a_plan(), shards=files)
    make = Make(
        id="m-1", request=asked("a/b"), plan=plan, origin=Origin(host="hub"), runner="spread:pool:gpu"
    )
    runner = Spreading(local=None, queues=line, at_once=at_once)
    begun = Begun(started="", left=left, copied=(), beside=3)
    return asyncio.run(runner._all(make, begun, space=0, tell=lambda _: None, log=lambda _: None))


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_no_more_shards_of_one_job_are_in_line_than_are_allowed(at_once):
    line = Line()
    done = in_line(line, at_once=at_once)
    assert line.most == min(at_once, 5)
    assert [each.shard.file for each in done] == [f"{n}.safetensors" for n in range(5)]
    assert line.begun[0] == ("0.safetensors", 33, "spread:pool:gpu")


@pytest.mark.parametrize(("state", "code"), [("ERROR", "internal"), ("CANCELLED", "cancelled")])
def test_what_ends_without_a_shard_ends_the_make(state, code):
    line = Line(end=lambda id_: state if id_ == "m-1.2" else "SUCCESS")
    outcome = in_line(line)
    assert outcome.failure.code == code
    assert len(line.begun) == 4


class Forgetful(Line):
    """One has ended and was removed before the first look."""

    def states(self, ids):
        if len(self.begun) == 2 and self.there.pop("m-1.1", None):
            return {"m-1.0": "SUCCESS"}
        return super().states(ids)


def test_a_shard_that_was_removed_before_anybody_looked_is_put_in_line_again():
    line = Forgetful()
    done = in_line(line)
    assert [each.shard.file for each in done] == [f"{n}.safetensors" for n in range(5)]
    assert [file for file, *_ in line.begun].count("1.safetensors") == 2


class Opening:
    """A local runner that writes down what its steps need; each comes to what `of` says."""

    def __init__(self, **of):
        self.of, self.needs, self.settings = of, [], None
        self.room = self

    keeps = paid = staticmethod(lambda *_: None)

    @asynccontextmanager
    async def opened(self, make, name, *, needs, **_):
        self.needs.append(needs.size)
        yield Opened(room=self, bounds=Bounds(file=needs.size), request=make.request)

    async def do(self, step, part, *_, **__):
        return self.of[part]


@pytest.mark.parametrize("reload", ["auto", "always"])
def test_where_all_of_it_is_to_be_reloaded_its_end_has_room_for_that(reload):
    request, plan = asked("a/b", reload=reload), a_plan()
    make = Make(id="m-1", request=request, plan=plan, origin=Origin(host="hub"), runner="spread:local")
    done = Publication(destination=request.destination, url="")
    local = Opening(begin=Begun(started="", left=(), copied=(), beside=3), conclude=(plan, None, done))
    runner = Spreading(local=local, queues=SimpleNamespace(given=lambda _: ({}, True)), at_once=1)
    object.__setattr__(runner, "_is_public", lambda _: False)
    assert asyncio.run(runner._carried_out(make, tell=print, log=print)).ended == "published"
    assert local.needs == [0, 3 + (plan.estimate.output_bytes if reload == "always" else 0)]


def test_shards_wait_in_the_line_of_the_runner_and_the_make_in_one_of_its_own():
    assert [queue_of(name) for name in ("local", "pool:gpu", "spread:pool:gpu")] == [
        "local",
        "pool-gpu",
        "spread",
    ]
    assert make_of(shard_id("abc-1", 7)) == make_of("abc-1") == "abc-1"


# on workers


@pytest.fixture
def site(there, hub, tmp_path, url):
    hub.clear_requests()
    made = Site(url, hub=hub, root=tmp_path)
    made.environment["TEST_RUNNER"] = "spread:local"
    yield made
    made.close()
    hub.clear_faults()


def ask(site, to, **options):
    return site.ask(ADAPTER, to=to, **{"validation": "tensors", **options})


def states(site):
    """How each shard stands, and who has it."""
    table = "workflow_status" if site.database.is_sqlite else "dbos.workflow_status"
    asked_ = text(f"SELECT workflow_uuid, status, executor_id FROM {table} WHERE name = 'shard'")
    return {row[0]: (row[1], row[2]) for row in site.database.read(lambda c: c.execute(asked_).all())}


def told(site, entry):
    return entry.outcome.failure, [line.text for line in site.office.lines(entry.order.job.key)], site.logs()


def working(site):
    """The executors that have a shard in hand."""
    return {executor for state, executor in states(site).values() if state == "PENDING"}


@pytest.fixture
def slow_line(hub):
    """The Hub takes its time with the first shards that it is sent: whoever sends them stands in the middle."""
    hub.faults.add(Fault(match="/lfs/", method="PUT", hang=8, times=2))


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_one_worker_makes_every_shard_and_lets_others_in_between(site, hub, single):
    site.environment["TEST_SHARDS"] = "1"
    site.start()
    large = ask(site, "alice/spread-one")
    site.until(lambda: states(site))
    small = site.ask(to="alice/spread-small")
    entry, other = site.ended(large), site.ended(small)
    assert (entry.state, other.state) == ("published", "published"), told(site, entry)
    assert weights(hub, "alice/spread-one") == single
    assert entry.outcome.report.verdict == "passed"
    assert other.ended < entry.ended
    assert len(site.commits("alice/spread-one")) == 2
    assert site.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_worker_that_is_killed_in_the_middle_changes_nothing(site, hub, single, slow_line):
    """It has a shard in hand, and maybe the merge itself; the other worker has another shard."""
    killed, other = site.start("one"), site.start("two")
    id_ = ask(site, "alice/spread-killed")
    site.until(lambda: len(working(site)) == 2)
    site.kill(killed)
    entry = site.ended(id_, seconds=420)
    assert entry.state == "published", told(site, entry)
    assert weights(hub, "alice/spread-killed") == single
    assert entry.outcome.report.verdict == "passed"
    assert {state for state, _ in states(site).values()} == {"SUCCESS"}
    assert site.name(other) in {executor for _, executor in states(site).values()}
    assert len(site.commits("alice/spread-killed")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("follows", [True, False])
def test_cancelled_in_the_middle_nothing_is_left(site, hub, slow_line, follows):
    """Also where whoever followed it is dead, and another worker hears of the end."""
    worker = site.start("one")
    to = f"alice/spread-off-{follows}"
    id_ = ask(site, to)
    site.until(lambda: working(site))
    assert is_there(hub, to)
    if not follows:
        site.kill(worker)
    site.office.cancel(id_, by="alice")
    if not follows:
        site.start("one", lease=600)
    entry = site.ended(id_)
    assert (entry.state, entry.outcome.failure.code) == ("skipped", "cancelled")
    site.until(lambda: not is_there(hub, to), seconds=30)
    site.until(lambda: {state for state, _ in states(site).values()} <= {"CANCELLED", "SUCCESS"}, seconds=30)
    site.until(lambda: site.leftovers() == [], seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_shard_that_cannot_be_made_ends_the_job_and_takes_back_the_repository(site, hub):
    site.environment["MERGE_BOT_ATTEMPTS"] = "1"
    hub.faults.add(Fault(match="objects/batch", status=403))
    site.start()
    entry = site.ended(ask(site, "alice/spread-failed"))
    assert entry.state == "failed", told(site, entry)
    site.until(lambda: site.leftovers() == [], seconds=30)  # of the shards that were called off
    assert not is_there(hub, "alice/spread-failed")
