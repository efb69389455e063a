"""A safetensors file that has its header and its size, and takes no space: what stands where a shard was."""

from __future__ import annotations

from pathlib import Path

from bot.weights.header import Header


def write_outline(path: Path, header: Header) -> None:
    """Puts the outline of a shard in the place of whatever has that name. Its tensors read as zeros: nobody may."""
    beside = path.with_name(f".{path.name}.outline")
    with beside.open("wb") as file:
        file.write(len(header.raw).to_bytes(8, "little") + header.raw)
        file.truncate(header.file_size)
    beside.replace(path)
