"""What the Hub derives from a repository's files: card metadata, tags, config and the safetensors summary."""

import json
import math
import re
import struct
from collections import Counter
from typing import Any

import yaml

from .blobs import Blobs
from .records import Commit, FileEntry
from .store import REPO_ID

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
MAIN_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
SMALL = 10 << 20


def _listed(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if item not in (None, "")]


def front_matter(text: str) -> dict[str, Any]:
    """Raises yaml.YAMLError; {} when there is none."""
    match = FRONT_MATTER.search(text)
    data = yaml.safe_load(match[1]) if match else {}
    return data if isinstance(data, dict) else {}


def complaints(text: str) -> list[str]:
    """Why the Hub would refuse this model card; empty when it would not."""
    try:
        data = front_matter(text)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"]
    wrong = [name for name in _listed(data.get("base_model")) if not REPO_ID.fullmatch(name) and "/" in name]
    found = [
        f'"base_model" with value "{name}" is not valid. Use a model id from https://hf.co/models.'
        for name in wrong
    ]
    if not isinstance(data.get("license", ""), str | list):
        found.append('"license" must be a string')
    return found


def text_of(blobs: Blobs, commit: Commit, path: str) -> str:
    """A small text file of a commit, "" when missing."""
    entry = commit.files.get(path)
    return blobs.read(entry.sha256).decode(errors="replace") if entry and entry.size <= SMALL else ""


def json_of(blobs: Blobs, commit: Commit, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text_of(blobs, commit, path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def card_data(blobs: Blobs, commit: Commit) -> dict[str, Any]:
    try:
        data = front_matter(text_of(blobs, commit, "README.md"))
    except yaml.YAMLError:
        return {}
    plain: dict[str, Any] = json.loads(json.dumps(data, default=str))
    return plain


def model_config(blobs: Blobs, commit: Commit) -> dict[str, Any]:
    """The few keys of config.json or adapter_config.json that the Hub shows."""
    config, adapter = (json_of(blobs, commit, name) for name in ("config.json", "adapter_config.json"))
    shown: dict[str, Any] = {key: config[key] for key in ("architectures", "model_type") if key in config}
    if adapter:
        keys = ("base_model_name_or_path", "task_type")
        shown["peft"] = {key: adapter[key] for key in keys if key in adapter}
    return shown


def tags(card: dict[str, Any], commit: Commit, config: dict[str, Any]) -> list[str]:
    """Explicit tags first, then those made from other keys and from file names."""
    found = [*_listed(card.get("library_name")), *_listed(card.get("tags")), *_listed(card.get("language"))]
    found += [
        name
        for name in ("safetensors", "gguf", "onnx")
        if any(path.endswith(f".{name}") for path in commit.files)
    ]
    found += ["peft"] if "peft" in config else []
    found += _listed(config.get("model_type")) + _listed(card.get("pipeline_tag"))
    for key, prefix in (("datasets", "dataset"), ("license", "license"), ("base_model", "base_model")):
        found += [f"{prefix}:{value}" for value in _listed(card.get(key))]
    relation = card.get("base_model_relation") or ("adapter" if "peft" in config else None)
    if relation:
        found += [f"base_model:{relation}:{value}" for value in _listed(card.get("base_model"))]
    return list(dict.fromkeys([*found, "region:us"]))


def safetensors_header(blobs: Blobs, entry: FileEntry) -> dict[str, Any]:
    """https://huggingface.co/docs/safetensors/index#format; {} when the file is something else."""
    try:
        with blobs.path(entry.sha256).open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(min(size, entry.size)))
    except (struct.error, ValueError):
        return {}
    return header


def parameters(blobs: Blobs, commit: Commit) -> dict[str, Any] | None:
    """Parameter counts by dtype over the main weights."""
    counts: Counter[str] = Counter()
    for path, entry in commit.files.items():
        if MAIN_WEIGHTS.fullmatch(path):
            tensors = (v for k, v in safetensors_header(blobs, entry).items() if k != "__metadata__")
            for tensor in tensors:
                counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return {"parameters": dict(counts), "total": counts.total()} if counts else None
