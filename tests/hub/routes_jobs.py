"""Routes of jobs: machines, starting, looking, logs and metrics as events, calling off, labels, once more."""

import json
from collections.abc import Iterator

from .access import owns
from .errors import HubError
from .exchange import Call, Endpoint, Reply, Stream, as_json
from .jobs import Job, shown

EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


def _namespace(call: Call, namespace: str) -> str:
    if not owns(call.account, namespace):
        raise HubError(
            401 if call.account is None else 403, "You don't have permission to use jobs of this namespace"
        )
    return namespace


def _job(call: Call, namespace: str, job: str) -> Job:
    return call.state.jobs.find(_namespace(call, namespace), job)


def hardware(call: Call) -> Reply:
    return as_json([shown(one) for one in call.state.jobs.hardware])


def start(call: Call, namespace: str) -> Reply:
    return as_json(call.state.jobs.start(_namespace(call, namespace), call.json()).info())


def listed(call: Call, namespace: str) -> Reply:
    """Newest first; those with every label and one of the stages."""
    asked = call.query.get("label", []) if call.state.jobs.filters else []
    labels = [text.partition("=")[::2] for text in asked]
    stages = call.query.get("stage", [])
    found = [job for job in call.state.jobs.all.values() if job.namespace == _namespace(call, namespace)]
    found = [job for job in found if all((job.spec.get("labels") or {}).get(k) == v for k, v in labels)]
    return as_json([job.info() for job in reversed(found) if not stages or job.stage in stages])


def inspect(call: Call, namespace: str, job: str) -> Reply:
    return as_json(_job(call, namespace, job).info())


def cancel(call: Call, namespace: str, job: str) -> Reply:
    found = _job(call, namespace, job)
    call.state.jobs.cancel(found)
    return as_json(found.info())


def logs(call: Call, namespace: str, job: str) -> Reply:
    found = _job(call, namespace, job)
    tail = call.number("tail", -1)
    events = call.state.jobs.events(found, tail=None if tail < 0 else tail)
    return Reply(200, dict(EVENTS), Stream(events))


def metrics(call: Call, namespace: str, job: str) -> Reply:
    found = _job(call, namespace, job)

    def events() -> Iterator[bytes]:
        yield f"data: {json.dumps({'cpu_usage_pct': 0, 'replica': found.id[:5]})}\n\n".encode()

    return Reply(200, dict(EVENTS), Stream(events()))


def duplicate(call: Call, namespace: str, job: str) -> Reply:
    found = _job(call, namespace, job)
    return as_json(call.state.jobs.start(found.namespace, found.spec).info())


def relabel(call: Call, namespace: str, job: str) -> Reply:
    found = _job(call, namespace, job)
    found.spec = {**found.spec, "labels": call.json().get("labels", {})}
    return as_json(found.info())


ROUTES: list[Endpoint] = [
    ("GET", "/api/jobs/hardware", hardware),
    ("POST", "/api/jobs/{namespace}", start),
    ("GET", "/api/jobs/{namespace}", listed),
    ("GET", "/api/jobs/{namespace}/{job}", inspect),
    ("POST", "/api/jobs/{namespace}/{job}/cancel", cancel),
    ("GET", "/api/jobs/{namespace}/{job}/logs", logs),
    ("GET", "/api/jobs/{namespace}/{job}/metrics", metrics),
    ("POST", "/api/jobs/{namespace}/{job}/duplicate", duplicate),
    ("PUT", "/api/jobs/{namespace}/{job}/labels", relabel),
]
