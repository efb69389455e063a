"""The container image, built and run without Docker: by buildah, over a root of debootstrap in the place of its bases.

`make image-test`. It takes minutes, root, Debian's packages buildah and debootstrap, and a Python of Debian's version.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(1800)
TOOLS = ("buildah", "debootstrap", "unshare", "nsenter")


def run(*command, **options):
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class Image:
    """The built image: its configuration, and its files, mounted."""

    def __init__(self, folder, store):
        self.folder, self._store = folder, store
        self.config = json.loads(self.buildah("inspect", "merge-bot:test"))["OCIv1"]["config"]
        self.docker = json.loads(self.buildah("inspect", "merge-bot:test"))["Docker"]["config"]
        self.environment = [*self.config["Env"]]
        self.name = self.buildah("from", "--pull-never", "merge-bot:test").strip()
        self.root = Path(self.buildah("mount", self.name).strip())

    def buildah(self, *arguments):
        return run("buildah", *self._store, *arguments)

    def started(self, *arguments, **environment):
        """Its entry point as `docker run --read-only -v …:/scratch -v …:/state` starts it, as process 1."""
        place = self.folder / "read-only"
        for folder in (place, self.folder / "scratch", self.folder / "state"):
            folder.mkdir(exist_ok=True)
            shutil.chown(folder, 1001, 0)
        script = f"""
mount --bind {self.root} {place} && mount -o remount,ro,bind {place}
mount --bind {self.folder}/scratch {place}/scratch && mount --bind {self.folder}/state {place}/state
mount -t proc proc {place}/proc && mount --rbind /dev {place}/dev
cd / && exec chroot --userspec=1001:0 {place} env --ignore-environment "$@"
"""
        words = [*self.environment, *(f"{k}={v}" for k, v in environment.items()), *self.config["Entrypoint"]]
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            script,
            "sh",
            *words,
            *arguments,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def said(self, *arguments):
        process = self.started(*arguments)
        text, _ = process.communicate(timeout=120)
        return process.returncode, text

    def inside(self, process, *command):
        """A command beside process 1, as a health check is."""
        child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        enter = ["nsenter", "--target", child, "--mount", "--pid", "--root"]
        return subprocess.run(
            [*enter, "env", "--ignore-environment", *self.environment, *command], check=False
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image of this checkout, of the variant for CPUs."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS):
        pytest.skip(f"needs root and {', '.join(TOOLS)}")
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)  # the image's user has to get there
    base, wheels = folder / "base", folder / "wheels"
    packages = "--include=ca-certificates,python3,python3-venv"
    run("debootstrap", "--variant=minbase", packages, "bookworm", str(base))
    _wheels(wheels)
    store = ("--root", f"{folder}/store", "--runroot", f"{folder}/run")
    name = run("buildah", *store, "from", "scratch").strip()
    run("buildah", *store, "add", name, str(base), "/")
    bases = re.findall(r"^FROM ([^$\s]+)", DOCKERFILE, re.MULTILINE)
    names = [f"docker.io/{tag}" if "/" in tag else f"docker.io/library/{tag}" for tag in bases]
    run("buildah", *store, "commit", "--disable-compression", name, names[0])
    run("buildah", *store, "tag", *names)
    arguments = {"VARIANT": "cpu", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "VERSION": "1.2.3"}
    given = [f"--build-arg={k}={v}" for k, v in arguments.items()]
    run(
        "buildah", *store, "build", "--isolation", "chroot", "--layers=false", "--disable-compression",
        "--pull-never", "--format", "docker", *given, "--volume", f"{wheels}:/wheels:ro",
        "--tag", "merge-bot:test", str(ROOT),
        timeout=900,
    )  # fmt: skip
    made = Image(folder, store)
    yield made
    made.buildah("umount", made.name)


def _wheels(folder):
    """Everything that the image installs, as pip finds it on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = project["project"]["optional-dependencies"]
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *parts["github"],
        *parts["serve"],
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
    ]
    run(*pip, "--dest", str(folder), "--constraint", str(ROOT / "constraints.txt"), *wanted)


def test_the_image_is_built_of_the_dockerfile(image):
    assert image.config["User"] == "1001"
    assert image.config["Entrypoint"] == ["merge-bot"]
    assert image.config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert image.docker["Healthcheck"]["Test"][0] == "CMD"
    passwd = (image.root / "etc/passwd").read_text()
    assert re.search(r"^merge-bot:x:1001:0:", passwd, re.MULTILINE)


def test_commands_work_on_a_read_only_root_without_being_root(image):
    code, text = image.said("--help")
    assert code == 0, text
    assert "Merge a PEFT adapter into its base model" in text
    code, text = image.said("doctor", "./nothing", "--json")
    assert json.loads(text[text.index("{") :])["error"]["exit_code"] == code == 2


def test_versions_are_those_of_the_constraints(image):
    process = subprocess.run(
        ["chroot", image.root, "/opt/merge-bot/bin/pip", "freeze"], capture_output=True, text=True, check=True
    )
    pinned = set((ROOT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines())
    found = [
        line.partition("+")[0].lower().replace("_", "-")
        for line in process.stdout.splitlines()
        if "==" in line
    ]
    assert len(found) > 40
    assert [line for line in found if line not in pinned] == []


def test_the_service_answers_on_a_read_only_root(image):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = image.started("serve", MERGE_BOT_SERVER__PORT=port)
    try:
        assert _answers(f"http://127.0.0.1:{port}/healthz", server)
        check = image.docker["Healthcheck"]["Test"][1:]
        assert image.inside(server, f"MERGE_BOT_SERVER__PORT={port}", *check).returncode == 0
        assert image.inside(server, f"MERGE_BOT_SERVER__PORT={port + 1}", *check).returncode != 0
        assert [path.name for path in (image.folder / "state").iterdir()]  # the database
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url, server):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.poll() is not None:
            raise AssertionError(server.stdout.read())
        try:
            return urllib.request.urlopen(url, timeout=2).status == 200
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return False
