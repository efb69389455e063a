"""By Xet where the Hub offers it, with the real client: the same bytes, checked the same, and LFS where it does not."""

import errno
import hashlib
import os
import shutil

import hf_xet
import pytest
from huggingface_hub import constants

from bot.clients.hub_publisher import HubPublisher
from bot.clients.hub_reader import HubReader
from bot.errors import AccessError, HostError, MergeError
from bot.progress import Silent
from bot.publish.marker import find_marker, marker
from bot.request import Destination
from tests.clients.hub_fixtures import hub, xet_hub
from tests.publish.samples import KEY, a_plan

__all__ = ["hub", "xet_hub"]
PLACE = Destination(kind="repository", location="alice/cat-7b")
NAME = "model.safetensors"
CARD = f"{marker(KEY)}\n# Merged\n"


class Told(Silent):
    def __init__(self):
        self.total = self.done = 0

    def begin(self, what, *, total):
        self.total = total

    def advance(self, count):
        self.done += count


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "merged"
    made.mkdir()
    (made / NAME).write_bytes(os.urandom(1 << 20))
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text(CARD)
    return made


def publisher(hub):
    return HubPublisher(hub.url, token=hub.token("alice"), attempts=2, read_marker=find_marker)


def reader(hub, tmp_path):
    return HubReader(hub.url, token=hub.token("alice"), attempts=2, cache=tmp_path / "cache")


def publish(hub, folder, **more):
    who = more.pop("by", None) or publisher(hub)
    return who.publish(folder, PLACE, plan=a_plan(), message=f"Merge\n\n{CARD}", progress=Silent(), **more)


def ahead(hub, folder, *, sha256=None):
    """As a merge shard by shard publishes: the weights before the commit, of which the folder then holds the names."""
    who = publisher(hub)
    with who.ahead(PLACE, plan=a_plan(), progress=Silent()) as parcel:
        path = folder / NAME
        parcel.send(path, name=NAME, sha256=sha256 or digest(path))
        path.write_bytes(b"")
        return publish(hub, folder, by=who, parcel=parcel)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_lfs(hub):
    """What went by LFS: up, down, or the question what is there."""
    return [r.path for r in hub.requests if "/lfs" in r.path or r.path.startswith("/blobs/")]


@pytest.mark.parametrize("way", [publish, ahead])
def test_it_goes_up_and_comes_down_by_xet(xet_hub, folder, tmp_path, way):
    data = (folder / NAME).read_bytes()
    done = way(xet_hub, folder)
    assert [(c.name, c.verdict) for c in done.checks] == [("stored", "passed")]
    told, source = Told(), reader(xet_hub, tmp_path)
    model = source.open(PLACE.location)
    out = source.download(model, names=[NAME], progress=told)
    assert (out / NAME).read_bytes() == data
    assert told.done == told.total == len(data)
    assert source.fetch(model, name=NAME, out=tmp_path, progress=Silent()).read_bytes() == data
    assert by_lfs(xet_hub) == []
    assert any("/xet-write-token/" in r.path for r in xet_hub.requests)


def test_what_changed_after_the_proof_is_not_published(xet_hub, folder):
    with pytest.raises(MergeError) as stop:
        ahead(xet_hub, folder, sha256="0" * 64)
    assert stop.value.code == "changed-since-validation"


def die_after_sending(hub, path):
    with publisher(hub).ahead(PLACE, plan=a_plan(), progress=Silent()) as parcel:
        parcel.send(path, name=NAME, sha256=digest(path))
        raise HostError("The Hub fails.", advice="Later.", code="hub-down")


def test_what_an_earlier_run_sent_is_recalled(xet_hub, folder):
    path = folder / NAME
    known = {NAME: (digest(path), path.stat().st_size), "other.safetensors": ("1" * 64, 5)}
    with pytest.raises(HostError):
        die_after_sending(xet_hub, path)
    stored, who = xet_hub.cas.bytes_stored, publisher(xet_hub)
    path.write_bytes(b"")
    with who.ahead(PLACE, plan=a_plan(), made=True, progress=Silent()) as parcel:
        assert parcel.recall(known) == {NAME}
        done = publish(xet_hub, folder, by=who, parcel=parcel)
    assert done.checks[0].verdict == "passed"
    assert xet_hub.cas.bytes_stored == stored
    assert digest(xet_hub.files(PLACE.location)[NAME]) == known[NAME][0]


def test_another_upload_of_the_same_bytes_adds_none(xet_hub, folder):
    publish(xet_hub, folder)
    stored = xet_hub.cas.bytes_stored
    xet_hub.delete_repo(PLACE.location)
    publish(xet_hub, folder)
    assert xet_hub.cas.bytes_stored == stored


@pytest.mark.parametrize("way", [publish, ahead])
def test_a_hub_without_xet_is_sent_the_files_by_lfs(hub, folder, monkeypatch, way):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    wanted = digest(folder / NAME)
    assert way(hub, folder).checks[0].verdict == "passed"
    assert digest(hub.files(PLACE.location)[NAME]) == wanted
    assert constants.HF_HUB_DISABLE_XET  # so that the next file is not tried again


def test_switched_off_it_goes_by_lfs(xet_hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    wanted = digest(folder / NAME)
    assert publish(xet_hub, folder).checks[0].verdict == "passed"
    source = reader(xet_hub, tmp_path)
    out = source.download(source.open(PLACE.location), names=[NAME], progress=Silent())
    assert digest(out / NAME) == wanted
    assert xet_hub.cas.bytes_stored == 0
    assert not any("/xet-" in r.path for r in xet_hub.requests)


def stopped(kind, call):
    with pytest.raises(kind) as stop:
        call()
    assert stop.value.sentence.endswith(".")
    return stop.value


def test_a_storage_that_fails_is_named_when_it_is_written_to(xet_hub, folder):
    shutil.rmtree(xet_hub.cas.folder)
    xet_hub.cas.folder.write_text("no folder")
    error = stopped(HostError, lambda: publish(xet_hub, folder))
    assert error.code == "xet-failed"
    assert "upload model.safetensors to alice/cat-7b: the Hub's Xet storage failed (" in error.sentence
    assert "HF_HUB_DISABLE_XET=1" in error.advice


def test_a_storage_that_fails_is_named_when_it_is_read_from(xet_hub, tmp_path):
    xet_hub.commit("acme/base", {NAME: os.urandom(1 << 20)})
    for path in xet_hub.cas.folder.glob("xet/xorbs/xorbs/default.*"):
        path.unlink()
    source = reader(xet_hub, tmp_path)
    model = source.open("acme/base")
    error = stopped(HostError, lambda: source.download(model, names=[NAME], progress=Silent()))
    assert (error.code, "download model.safetensors of acme/base:" in error.sentence) == ("xet-failed", True)


def test_what_the_storage_gives_is_held_against_the_sha256(xet_hub, tmp_path):
    xet_hub.commit("acme/base", {NAME: os.urandom(1 << 20)})
    for path in xet_hub.cas.folder.glob("xet/xorbs/xorbs/default.*"):
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        if len(data) > 1000:
            data[1000] ^= 1
            path.write_bytes(data)
    source = reader(xet_hub, tmp_path)
    model = source.open("acme/base")
    error = stopped(HostError, lambda: source.fetch(model, name=NAME, out=tmp_path, progress=Silent()))
    assert error.code == "download-damaged"


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(403, AccessError, "forbidden"), (400, HostError, "hub-declined")]
)
def test_a_hub_that_denies_its_storage_is_quoted(xet_hub, folder, status, kind, code):
    xet_hub.fault("/xet-write-token/", status=status)
    assert stopped(kind, lambda: publish(xet_hub, folder)).code == code


FULL = "Task error: File reconstruction error: IO Error: No space left on device (os error 28)"  # on a full tmpfs


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (RuntimeError(FULL), MergeError, "disk-full"),
        (hf_xet.XetObjectNotFoundError("not found"), HostError, "xet-failed"),
        (hf_xet.XetAuthenticationError("denied"), AccessError, "forbidden"),
        (OSError(errno.EDQUOT, "quota"), MergeError, "disk-full"),
    ],
)
def test_what_the_library_raises_has_a_sentence(xet_hub, tmp_path, monkeypatch, raised, kind, code):
    xet_hub.commit("acme/base", {NAME: os.urandom(1 << 20)})
    source = reader(xet_hub, tmp_path)
    model = source.open("acme/base")

    def fails(**given):
        raise raised

    monkeypatch.setattr("huggingface_hub.file_download.xet_get", fails)
    assert stopped(kind, lambda: source.download(model, names=[NAME], progress=Silent())).code == code


def test_an_upload_by_lfs_that_fails_is_tried_again(hub, folder):
    hub.fault("/lfs/", method="PUT", status=503, times=6)  # as often as the client tries
    assert publish(hub, folder).checks[0].verdict == "passed"


def test_an_upload_by_lfs_that_is_denied_says_what_the_hub_says(hub, folder):
    hub.fault("/lfs/", method="PUT", status=403)
    error = stopped(AccessError, lambda: publish(hub, folder))
    assert (error.code, "Xet" in error.sentence + error.advice) == ("forbidden", False)
