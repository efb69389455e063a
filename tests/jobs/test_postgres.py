"""The private PostgreSQL of the tests does not outlive them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs import postgres as private
from tests.jobs.conftest import NO_POSTGRES

CODE = """if True:
    import sys
    from tests.jobs.postgres import running
    with running() as server:
        print(server.folder, flush=True)
        sys.stdin.read() or sys.exit(1)
"""


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "failed"])
def test_it_ends_with_the_session_that_has_started_it(end):
    if not private.program("initdb"):
        pytest.skip(NO_POSTGRES)
    command = [sys.executable, "-c", CODE]
    session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(session.stdout.readline().strip())
    server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    assert is_there(server)
    if end == "killed":
        session.kill()
    session.communicate()
    deadline = time.monotonic() + 30
    while is_there(server) or folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
