"""Trouble on demand: error answers, silence, cut connections and slow lines, chosen by path."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass
class Fault:
    """What happens to requests whose path contains `match` (or matches it as a regular expression)."""

    match: str
    method: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: float | None = None
    drop_after: int | None = None
    slow: int | None = None
    times: int | None = None

    def matches(self, method: str, path: str) -> bool:
        """`path` comes as the client quoted it (`refs%2Fpr%2F1`); both spellings count."""
        if self.times == 0 or (self.method and self.method != method):
            return False
        return any(self.match in text or self._found(text) for text in (path, unquote(path)))

    def _found(self, text: str) -> bool:
        try:
            return re.search(self.match, text) is not None
        except re.error:
            return False


class Faults:
    """The list of faults; those with `times` wear off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.closing = threading.Event()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def _take(self, wanted: str, method: str, path: str, length: int) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                value = getattr(fault, wanted)
                long_enough = wanted != "drop_after" or length > (value or 0)
                if value is not None and long_enough and fault.matches(method, path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def hang(self, method: str, path: str) -> float | None:
        """How many seconds this request gets no answer; then the connection closes."""
        fault = self._take("hang", method, path, 0)
        return fault.hang if fault else None

    def error(self, method: str, path: str) -> Fault | None:
        """The error to answer with instead of the real reply."""
        return self._take("status", method, path, 0)

    def cut(self, method: str, path: str, length: int) -> int | None:
        """After how many bytes of the response's body the connection breaks (only bodies longer than that)."""
        fault = self._take("drop_after", method, path, length) if method != "HEAD" else None
        return fault.drop_after if fault else None

    def speed(self, method: str, path: str, length: int) -> int | None:
        """Bytes per second of the response's body."""
        fault = self._take("slow", method, path, length) if method != "HEAD" and length else None
        return fault.slow if fault else None
