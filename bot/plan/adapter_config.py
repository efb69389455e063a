"""Reads `adapter_config.json`: the text in, a dict out, or the reason why it is none."""

from __future__ import annotations

import re
from typing import Any

from bot.errors import InputError, RefusedError
from bot.plan import lenient
from bot.weights.files import Files, is_unicode

FILE = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MOST = 8  # subfolders that are named
MAX_BYTES = 10_000_000  # the largest seen in the wild has some 100 kB


def read(files: Files) -> tuple[str, dict[str, Any]]:
    """The file's text and its content. Raises InputError when it is missing or cannot be parsed."""
    data = read_bytes(files)
    content, _ = parse(data, files=files)
    return data.decode("utf-8", "replace"), content


def read_bytes(files: Files) -> bytes:
    """The file as it is. Raises InputError when it is missing or too large."""
    sizes = files.sizes()
    if FILE not in sizes:
        raise _absent(files)
    if sizes[FILE] > MAX_BYTES:
        raise _broken(files, f"it has {sizes[FILE]} bytes")
    return files.read(FILE)


def parse(data: bytes, *, files: Files) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content, and in which ways the file is no plain JSON. Raises InputError when it cannot be read at all."""
    try:
        config, odd = lenient.loads(data)
    except ValueError as error:
        raise _broken(files, str(error)) from error
    if not isinstance(config, dict):
        raise _broken(files, "it is no JSON object")
    if not is_unicode(config):
        raise _broken(files, "it holds half a character (a lone surrogate)")
    return config, odd


def weights_file(files: Files, *, allow_pickle: bool = False) -> str:
    """The name of the adapter's weights; safetensors before pickle, and that only when it is allowed.

    Raises InputError when there are none, RefusedError when they are only pickle.
    """
    sizes = files.sizes()
    if WEIGHTS in sizes:
        return WEIGHTS
    if PICKLE in sizes and allow_pickle:
        return PICKLE
    if PICKLE in sizes:
        raise RefusedError(
            f"{files.name} has its weights only as pickle ({PICKLE}), a format that can carry code.",
            advice="Add --allow-pickle to read it as tensors and nothing else.",
            code="pickle-only",
        )
    raise InputError(
        f"{files.name} has no {WEIGHTS}.",
        advice="Save or upload the adapter's weights too.",
        code="no-adapter-weights",
    )


def nested(files: Files) -> list[str]:
    """The subfolders that hold an adapter, in natural order: `checkpoint-90` before `checkpoint-100`."""
    found = {name.removesuffix(f"/{FILE}") for name in files.sizes() if name.endswith(f"/{FILE}")}
    return sorted(found, key=lambda name: [_natural(word) for word in re.split(r"(\d+)", name)])


def beside(files: Files) -> list[str]:
    """A note on adapters in subfolders, for a plan that takes the one that lies above them; none without them."""
    found = nested(files)
    if not found:
        return []
    return [
        f"not merged are {listed(found)}: each has an adapter of its own, chosen with {_chosen(files, found)}"
    ]


def listed(names: list[str]) -> str:
    """`3 subfolders (checkpoint-100, checkpoint-200, checkpoint-300)`: the first and the last of many."""
    shown = names if len(names) <= MOST else [*names[: MOST - 1], "…", names[-1]]
    return f"{len(names)} subfolder{'s' * (len(names) > 1)} ({', '.join(shown)})"


def _natural(word: str) -> tuple[bool, int, str]:
    number = word.isdecimal() and len(word) < 19
    return number, int(word) if number else 0, word


def _chosen(files: Files, found: list[str]) -> str:
    return f"{files.name}{'/' if ':' in files.name else ':'}{found[-1]}"


def _absent(files: Files) -> InputError:
    found = nested(files)
    if found:
        return InputError(
            f"{files.name} has no {FILE} of its own; {listed(found)} {'has' if len(found) == 1 else 'have'} one.",
            advice=f"Choose one: {_chosen(files, found)}.",
            code="no-adapter-config",
        )
    return InputError(
        f"{files.name} has no {FILE}, so it is no PEFT adapter.",
        advice="Name the folder or repository that save_pretrained wrote the adapter to.",
        code="no-adapter-config",
    )


def _broken(files: Files, reason: str) -> InputError:
    return InputError(
        f"The {FILE} of {files.name} cannot be parsed: {reason.rstrip('.')}.",
        advice="Save the adapter again with PEFT, or correct the file by hand.",
        code="broken-adapter-config",
    )
