"""A wire to a PostgreSQL that can be cut and mended: a socket that passes on what it hears."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

NAME = ".s.PGSQL.5432"


class Wire:
    """Listens in `folder` for the server in `server`. `silent`: nothing is said; else connections are refused."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server, self._whole, self._ends = str(server / NAME), threading.Event(), []
        self._whole.set()
        self._refuses = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / NAME))
        self._listener.listen(50)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, silent: bool) -> None:
        if silent:
            self._whole.clear()
        else:
            self._refuses = True
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._refuses = False
        self._whole.set()

    def close(self) -> None:
        self.cut(silent=False)
        self.mend()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                if self._refuses:
                    ours.close()
                    continue
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._server)
                self._ends += [ours, theirs]
                for ends in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, heard: socket.socket, said: socket.socket) -> None:
        with suppress(OSError):
            while data := heard.recv(1 << 16):
                self._whole.wait()
                said.sendall(data)
        for end in (heard, said):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
