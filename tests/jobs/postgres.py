"""A private PostgreSQL for one session of tests, on a socket in a temporary folder: nobody else can reach it.

It ends with the process that has started it, also where that was killed: a guard waits for the other end of a pipe.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psycopg

DEBIAN = Path("/usr/lib/postgresql")
# In a session of its own: what ends the tests does not end it.
GUARD = """if True:
    import os, shutil, signal, sys, time
    from pathlib import Path
    sys.stdin.buffer.read()
    folder = Path(sys.argv[1])
    try:
        server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(server, signal.SIGQUIT)
        for _ in range(200):
            time.sleep(0.05)
            os.kill(server, 0)
    except (OSError, ValueError, IndexError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
"""


def program(name: str) -> str | None:
    """A program of PostgreSQL, the newest where Debian keeps several."""
    there = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(there[-1]) if there else shutil.which(name)


class Postgres:
    """A server that can be stopped and started. It runs as a user who is not root, as PostgreSQL demands."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder, self.data, self.durable = folder, folder / "data", durable
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@/{database}?host={self.folder}"

    def fresh(self, name: str = "test") -> str:
        """The URL of a database of that name with nothing in it."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS dbos, public CASCADE; CREATE SCHEMA public")
        return self.url(name)

    def make(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-A", "trust", "-U", self.user, "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Unless it is durable, a power cut may lose what was committed; the crash of a process may not."""
        options = {
            "fsync": "on" if self.durable else "off",
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "60",
        }
        given = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        self._run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", given)

    def stop(self) -> None:
        """At once, as in a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(program(name)), "-D", str(self.data), *arguments]
        as_other = {"user": self.user, "group": self.user, "extra_groups": []} if os.getuid() == 0 else {}
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            env={"PATH": os.defpath},
            **as_other,
        )


@contextmanager
def running(*, durable: bool = False) -> Iterator[Postgres]:
    folder = Path(mkdtemp(prefix="mbpg", dir="/tmp"))  # the path of a socket may have 107 characters
    server = Postgres(folder, durable=durable)
    command = [sys.executable, "-c", GUARD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        server.make()
        server.start()
        yield server
