"""A Hub on this machine that serves models of any size without having them, and swallows what is uploaded.

Weights are bfloat16 numbers of a seed: one block, over and over, turned by another amount for every file. What is sent
is held against its announced SHA-256 and forgotten. Run as a process of its own: `python -m benchmarks.synthetic`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sizes import SCALES, Experts, Scale, shards
from bot.weights.header import encode
from tests.hub.blobs import Blobs
from tests.hub.errors import HubError
from tests.hub.records import FileEntry
from tests.hub.server import LoopbackHub

BASE, ADAPTER, USER = "scale/base", "alice/scale-lora", "alice"
BLOCK = 64 * 2**20  # bytes
SPREAD = 0.02  # standard deviation of the numbers
RANK, ALPHA = 16, 24
SMALL = 16 * 2**20  # bytes, up to which an upload is kept: cards, configs, an index of many tensors
PIECE = 8 * 2**20


class Synthetic:
    """A file that is made as it is read: its header, then numbers of the block."""

    def __init__(self, tensors: Iterable[tuple[str, tuple[int, ...]]], *, block: bytes, turn: int) -> None:
        header = encode([(name, "BF16", shape) for name, shape in tensors], metadata={"format": "pt"})
        self._start = len(header.raw).to_bytes(8, "little") + header.raw
        self._block, self._turn = memoryview(block), turn
        self.size = header.file_size

    def open(self, _mode: str = "rb") -> _Reader:
        """As a path is opened."""
        return _Reader(self)

    def at(self, position: int, count: int) -> bytes | memoryview:
        """Bytes from `position` on, not more than asked for."""
        if position < len(self._start):
            return self._start[position : position + count]
        phase = (position - len(self._start) + self._turn) % BLOCK
        return self._block[phase : phase + min(count, self.size - position, BLOCK)]

    def sha256(self) -> str:
        """Of all of it."""
        digest, position = hashlib.sha256(), 0
        while piece := self.at(position, PIECE):
            digest.update(piece)
            position += len(piece)
        return digest.hexdigest()


class _Reader(io.RawIOBase):
    def __init__(self, file: Synthetic) -> None:
        self._file, self._position = file, 0

    def seek(self, position: int, _whence: int = 0) -> int:
        self._position = position
        return position

    def read(self, count: int = -1) -> bytes:
        piece = bytes(self._file.at(self._position, self._file.size if count < 0 else count))
        self._position += len(piece)
        return piece


class Swallowing(Blobs):
    """Blobs of which the large ones are made when they are read, and checked and forgotten when they are written.

    `line`: bytes per second of one upload; None: as they come.
    """

    def __init__(self, root: Path, *, line: int | None = None) -> None:
        super().__init__(root)
        self._line = line
        self.made: dict[str, Synthetic] = {}
        self.swallowed: dict[str, int] = {}

    def path(self, sha256: str) -> Any:
        return self.made.get(sha256) or super().path(sha256)

    def size(self, sha256: str) -> int | None:
        if sha256 in self.made:
            return self.made[sha256].size
        return self.swallowed.get(sha256) or super().size(sha256)

    def receive(self, pieces: Iterable[bytes], *, sha256: str, size: int) -> None:
        if size <= SMALL:
            super().receive(pieces, sha256=sha256, size=size)
            return
        digest, total, begun = hashlib.sha256(), 0, time.monotonic()
        for piece in pieces:
            digest.update(piece)
            total += len(piece)
            if self._line:
                time.sleep(max(0.0, begun + total / self._line - time.monotonic()))
        if digest.hexdigest() != sha256 or total != size:
            raise HubError(422, f"Content does not match: got {total} bytes, sha256 {digest.hexdigest()}")
        self.swallowed[sha256] = size


def block(seed: int) -> bytes:
    """Random numbers in bfloat16, twice, so that any piece of them lies in one place."""
    numbers = np.random.default_rng(seed).standard_normal(BLOCK // 2, dtype=np.float32) * np.float32(SPREAD)
    once = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return once + once


def fill(
    hub: LoopbackHub, scale: Scale | Experts, *, seed: int, known: Path | None = None, line: int | None = None
) -> None:
    """Puts base and adapter on the Hub. `known`: a file with digests, which take long and are the same each time.

    Without it the files have made-up digests: that is enough for a plan. `line`: bytes per second of each connection.
    """
    blobs = Swallowing(hub.state.root, line=line)
    if line:
        hub.fault("/blobs/", slow=line)
    hub.state.store.blobs = blobs
    hub.state.multipart_threshold = 2**40
    digests: dict[str, str] = json.loads(known.read_text()) if known and known.is_file() else {}
    numbers = block(seed)

    def made(tensors: list[tuple[str, tuple[int, ...]]], turn: int) -> FileEntry:
        file = Synthetic(tensors, block=numbers, turn=2 * (turn * 7919 * 4099 % (BLOCK // 2)))
        name = hashlib.sha256(json.dumps([seed, turn, tensors]).encode()).hexdigest()
        if name not in digests:
            digests[name] = file.sha256() if known else name
        blobs.made[digests[name]] = file
        return FileEntry.large(digests[name], file.size)

    parts = shards(scale)
    names = [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    total = sum(2 * math.prod(shape) for _, shape in scale.tensors())
    places = {tensor: name for name, shard in zip(names, parts, strict=True) for tensor, _ in shard}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files: dict[str, Any] = {
        name: made(shard, n) for n, (name, shard) in enumerate(zip(names, parts, strict=True))
    }
    files |= {"config.json": json.dumps(scale.config()), "model.safetensors.index.json": json.dumps(index)}
    hub.add_user(USER)
    hub.commit(BASE, files)
    pairs, targets = [], set()
    for module, (rows, columns) in scale.targets():
        targets.add(module.rpartition(".")[2])
        pairs.append((f"base_model.model.{module}.lora_A.weight", (RANK, columns)))
        pairs.append((f"base_model.model.{module}.lora_B.weight", (rows, RANK)))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted(targets),
        "base_model_name_or_path": BASE,
    }
    hub.commit(
        ADAPTER,
        {"adapter_model.safetensors": made(pairs, 9999), "adapter_config.json": json.dumps(config)},
    )
    if known:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(digests))


def main() -> None:
    """Serves until its stdin ends; one line of JSON says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SCALES, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--line", type=int, help="bytes per second of each connection, up and down")
    given = parser.parse_args()
    with LoopbackHub(given.root) as hub:
        fill(hub, SCALES[given.size], seed=given.seed, known=given.known, line=given.line)
        print(json.dumps(hub.environment(USER)), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
