"""Repositories that lie in folders already: used there, held against the Hub's word, and named as on the Hub."""

import shutil

import pytest

from tests.e2e import ADAPTER, BASE, desk, hub, models

__all__ = ["desk", "hub", "models"]


@pytest.fixture
def mounted(desk):
    """The base in a folder, as a job on the Hub has it."""
    place = desk.place / "volume"
    shutil.copytree(desk.models.base, place)
    commit = desk.hub.state.store.find("model", BASE).main
    desk.set(MERGE_BOT_MOUNTS=f"{BASE}@{commit}={place}")
    return place


def failure(desk, *arguments):
    answer = desk(*arguments, "--json")
    assert answer.code != 0
    return answer.error


def fetched(desk):
    """Whole files of weights that the Hub has sent."""
    return sum(r.path.startswith("/blobs/") and r.method == "GET" and not r.range for r in desk.hub.requests)


def test_a_mounted_base_is_not_downloaded_and_keeps_its_name(desk, mounted):
    done = desk.done("merge", ADAPTER, "--out", str(desk.out))
    assert done["plan"]["base"]["location"] == BASE
    assert done["plan"]["base"]["kind"] == "hub"
    assert fetched(desk) == 1  # the adapter's
    told = (desk.out / "merge_provenance.json").read_text() + (desk.out / "merge_plan.json").read_text()
    assert str(mounted) not in told
    assert BASE in told


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_another_file_than_the_hubs_is_noticed(desk, mounted, name):
    data = bytearray((mounted / name).read_bytes())
    data[-20] ^= 1
    (mounted / name).write_bytes(data)
    error = failure(desk, "merge", ADAPTER, "--out", str(desk.out))
    assert error["code"] == "mount-differs"
    assert f"{mounted / name} is not the file that {BASE}@" in error["sentence"]


def test_a_file_that_is_missing_is_noticed(desk, mounted):
    (mounted / "model.safetensors").unlink()
    assert failure(desk, "merge", ADAPTER, "--out", str(desk.out))["code"] == "mount-differs"


def test_another_commit_is_downloaded(desk, mounted):
    desk.set(MERGE_BOT_MOUNTS=f"{BASE}@{'0' * 40}={mounted}")
    desk.done("merge", ADAPTER, "--out", str(desk.out))
    assert fetched(desk) == 2


@pytest.mark.parametrize("text", ["acme/tiny=/mnt", "acme/tiny@main=/mnt", f"acme/tiny@{'0' * 40}=mnt"])
def test_what_makes_no_sense_is_a_bad_setting(desk, text):
    desk.set(MERGE_BOT_MOUNTS=text)
    error = failure(desk, "plan", ADAPTER)
    assert error["code"] == "bad-setting"
    assert "MERGE_BOT_MOUNTS must be owner/name@commit=/folder" in error["sentence"]
