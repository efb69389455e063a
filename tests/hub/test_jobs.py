"""The jobs of the loopback hub, asked by the real client."""

import pytest
from huggingface_hub import HfApi, Volume
from huggingface_hub.errors import HfHubHTTPError

from .server import LoopbackHub

IMAGE = "merge-bot:test"


@pytest.fixture
def hub(tmp_path):
    with LoopbackHub(tmp_path / "hub") as made:
        made.add_user("alice", orgs=("acme",))
        made.add_user("bob")
        yield made


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=hub.token("alice"))


def shell(api, text, **options):
    given = {"image": IMAGE, "flavor": "cpu-basic", "namespace": "acme", "timeout": 30, **options}
    return api.run_job(command=["sh", "-c", text], **given)


def test_a_job_runs_logs_and_ends(api):
    job = shell(api, "echo one; echo two >&2; exit 3", env={"A": "b"}, secrets={"S": "hidden"})
    assert (job.owner.name, job.environment) == ("acme", {"A": "b"})
    assert [*api.fetch_job_logs(job_id=job.id, namespace="acme", follow=True)] == ["one", "two"]
    done = api.wait_for_job(job.id, namespace="acme", poll_interval=0.05)
    assert (done.status.stage, done.status.message) == (
        "ERROR",
        "Job failed with exit code: 3. Reason: Error",
    )
    assert done.secrets == {"S": ""}
    assert [*api.fetch_job_logs(job_id=job.id, namespace="acme", tail=1, follow=True)] == ["two"]
    assert next(iter(api.fetch_job_metrics(job_id=job.id, namespace="acme")))["cpu_usage_pct"] == 0


def test_a_volume_is_the_repository_at_its_commit(hub, api):
    first = hub.commit("acme/model", {"a.txt": "first"})
    hub.commit("acme/model", {"a.txt": "second"})
    volume = Volume(type="model", source="acme/model", mount_path="/mnt/model", revision=first)
    job = shell(api, 'cat "$PLACE/a.txt"', env={"PLACE": "x=/mnt/model"}, volumes=[volume])
    assert (
        api.wait_for_job(job.id, namespace="acme", poll_interval=0.05).status.stage == "ERROR"
    )  # x= is no place
    job = shell(api, 'cat "${PLACE#x=}/a.txt"', env={"PLACE": "x=/mnt/model"}, volumes=[volume])
    assert [*api.fetch_job_logs(job_id=job.id, namespace="acme", follow=True)] == ["first"]


def test_jobs_are_found_by_labels_and_stages(api):
    one = shell(api, "true", labels={"key": "one"})
    two = shell(api, "sleep 30", labels={"key": "two"})
    assert [job.id for job in api.list_jobs(namespace="acme", labels={"key": "one"})] == [one.id]
    api.wait_for_job(one.id, namespace="acme", poll_interval=0.05)
    assert [job.id for job in api.list_jobs(namespace="acme", status="COMPLETED")] == [one.id]
    api.update_job_labels(job_id=two.id, labels={"key": "three"}, namespace="acme")
    assert [job.id for job in api.list_jobs(namespace="acme", labels={"key": "three"})] == [two.id]
    api.cancel_job(job_id=two.id, namespace="acme")
    assert api.wait_for_job(two.id, namespace="acme", poll_interval=0.05).status.stage == "CANCELED"
    again = api.rerun_job(job_id=one.id, namespace="acme")
    assert again.id != one.id
    assert again.command == one.command


def test_a_time_out_ends_it(api):
    done = api.wait_for_job(shell(api, "sleep 30", timeout=1).id, namespace="acme", poll_interval=0.05)
    assert (done.status.stage, done.status.message) == ("ERROR", "Job timeout")
    assert done.durations.running_secs == 1


def test_hardware_has_prices(api):
    found = {one.name: one for one in api.list_jobs_hardware()}
    assert found["cpu-basic"].accelerator is None
    assert found["l4x1"].accelerator.vram == "24 GB"
    assert {one.unit_label for one in found.values()} == {"minute"}


@pytest.mark.parametrize("wrong", [{"flavor": "abacus"}, {"labels": {"a/b": "c"}}, {"namespace": "bob"}])
def test_what_the_hub_does_not_take(api, wrong):
    with pytest.raises(HfHubHTTPError):
        shell(api, "true", **wrong)
