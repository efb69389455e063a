"""The frozen records that flow from stage to stage. Their JSON form is in `bot.serial`.

`Plan` → `MergedModel` → `Report` → `Publication`. Every boundary between two of them is a place to stop,
inspect and resume. No logic of any stage lives here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bot.evidence import Evidence
from bot.request import Destination, Parity, Recipe, Way
from bot.shard import Traffic

SCHEMA = 1
Verdict = Literal["passed", "failed", "skipped"]
MergeWay = Literal["names", "layers", "whole"]


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A model or adapter at one immutable state.

    `location` is a repo id (`kind="hub"`) or an absolute folder (`kind="folder"`); `commit` is the 40-hex commit
    of the Hub, or `sha256:…`, the fingerprint of a folder. `revision` is the name that was asked for.
    """

    kind: Literal["hub", "folder"]
    location: str
    commit: str
    revision: str | None = None
    subfolder: str = ""
    private: bool = False
    gated: bool = False

    def __str__(self) -> str:
        place = f"{self.location}:{self.subfolder}" if self.subfolder else self.location
        return f"{place}@{self.commit[:12]}" if self.kind == "hub" else place


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A change to a key of `adapter_config.json`: which rule, what was, what is (None: the key is gone), why.

    `inert` when the value was a default that did nothing: such patches are many, and shown in one line.
    """

    rule: str
    key: str
    before: Any
    after: Any
    reason: str
    inert: bool = False


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One output tensor that the adapter changes.

    `tensor`: its name on disk. `source`: the base tensor that it starts from (another one for an untied head;
    None when the adapter brings the whole tensor). `parameter`: its name in the model. `adapter`: the adapter
    tensors that it consumes, by their names in the file. `shape` and `dtype` (safetensors' name) are the output's.
    `method`: `lora` (linear, Conv1D, convolution or embedding), `dora` (the same with a magnitude), `lora_bias`
    (the bias of a LoRA layer), `replace` (the adapter's tensor as it is), `copy` (the source as it is), the name of
    another PEFT type or variant; with `_converted` when the base stores the parameter in another form. `scale` is the
    factor of B·A for `lora` and `dora`.
    """

    tensor: str
    source: str | None
    parameter: str
    method: str
    adapter: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class AddedTensor:
    """A tensor of the merged model that the base does not have on disk.

    `place`: the tensor of the base in whose place it comes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    reason: str
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConfigEdit:
    """A change to the merged model's `config.json`; `key` is dotted for nested configs, `after` None: it is gone."""

    key: str
    before: Any
    after: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An adapter bound to a base.

    `vocabulary` is the number of rows of the merged model's embeddings, if it has any. `renamed` and `patches`: adapter
    tensors, and what its config says of modules, brought to the names that the model has today; `adapter_config` is
    the patched config, None when it is as it was. `experts` and `dropped`: see `Plan`.
    """

    model_class: str
    vocabulary: int | None
    bindings: tuple[Binding, ...]
    added: tuple[AddedTensor, ...] = ()
    config_edits: tuple[ConfigEdit, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    adapter_config: dict[str, Any] | None = None
    experts: dict[str, int] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """A small file that travels with the weights and whose it is: byte for byte, or `without` a key of its JSON."""

    name: str
    origin: Literal["adapter", "base"]
    without: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the merge needs, in bytes: to fetch, to write, of free disk, and of anonymous memory."""

    download_bytes: int
    output_bytes: int
    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that was decided before the first weight is read.

    `adapter_config` is the patched config that PEFT gets; `base_found_by` says which source named the base. `way`:
    `names` for plain LoRA, bound and merged without a model, else `layers`, through PEFT's own, one at a time from
    disk; `whole` where transformers has to load the model first. `dropped`: tensors of the base that the result stores
    under other names. `renamed`: tensors of the adapter's file that are read under another name. `experts`: LoRA pairs
    in the layout of PEFT before 0.19.1, by the name of A, and how many experts they are for. `dequantized` says what
    the base's weights are stored as when the merge goes into their dequantised values, else it is empty. `initial`: the
    adapter's state before the first step, which is subtracted; then `adapter_config` and `bindings` are those of the
    plain LoRA of twice the rank that the two make.
    `key` identifies the job: same adapter, base and options, same key. With several adapters, `further` are those
    behind the first and `recipe` says how they are merged: combined into one, whose config and tensors these are, or
    as `stages`, each a plan of its own on what the one before it has made. `traffic`: what a merge to the Hub moves
    when it goes shard by shard.
    """

    schema: int = SCHEMA
    key: str
    adapter: Pinned
    further: tuple[Pinned, ...] = ()
    recipe: Recipe | None = None
    base: Pinned
    base_found_by: str
    peft_type: str
    task_type: str | None
    model_class: str
    way: MergeWay
    adapter_config: dict[str, Any]
    adapter_file: str
    renamed: dict[str, str]
    patches: tuple[Patch, ...]
    bindings: tuple[Binding, ...]
    added: tuple[AddedTensor, ...]
    config_edits: tuple[ConfigEdit, ...]
    sidecars: tuple[Sidecar, ...]
    shards: tuple[str, ...]
    dtype: str
    parity: Parity = "exact"
    destination: Destination | None
    estimate: Estimate
    experts: dict[str, int] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dequantized: str = ""
    initial: Pinned | None = None
    initial_renamed: dict[str, str] = field(default_factory=dict)
    stages: tuple[Plan, ...] = ()
    traffic: Traffic | None = None

    @property
    def adapters(self) -> tuple[Pinned, ...]:
        """Every adapter, in the order in which they were named."""
        return self.adapter, *self.further

    @property
    def sources(self) -> tuple[Pinned, ...]:
        """Everything that the result is made of."""
        return (*self.adapters, self.base, *((self.initial,) if self.initial else ()))


@dataclass(frozen=True, kw_only=True)
class MergedModel:
    """A complete folder of merged weights: how many tensors were merged, copied and added, in how long.

    `digests`: SHA-256 of the weight files, as far as they were taken while writing. `peak_bytes`: the most memory that
    the process had which merged and checked, mapped files included; processes that it forked are not counted. `gpu`:
    the name of the one that was used, if any. `changed`: whether anything that was merged differs from the base.
    """

    folder: str
    merged: int
    copied: int
    added: int
    total_bytes: int
    seconds: float
    device: str
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    peak_bytes: int = 0
    gpu: str = ""
    changed: bool = True


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the merged model. `figure` is the number that was measured, `detail` what it means."""

    name: str
    verdict: Verdict
    figure: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The proof: `verdict` is `failed` when any check failed. `files` maps names to SHA-256 of the merged files.

    `notes` are the plan's: what is to be known of base and adapter. `isolation` says what kept the work on them apart.
    `evidence`: the numbers behind the checks, for tables and pictures.
    """

    schema: int = SCHEMA
    verdict: Verdict
    level: Way
    plan_key: str
    adapter: Pinned
    further: tuple[Pinned, ...] = ()
    recipe: Recipe | None = None
    base: Pinned
    checks: tuple[Check, ...]
    files: dict[str, str]
    versions: dict[str, str]
    device: str
    seconds: float
    notes: tuple[str, ...] = ()
    isolation: str = ""
    evidence: Evidence = field(default_factory=Evidence)

    def check(self, name: str) -> Check | None:
        """The check of that name, or None."""
        return next((c for c in self.checks if c.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Where the result can be found. `existed` says that an earlier run had already published it.

    `checks` are those that were made of it on the Hub: `stored`, its files' digests, and `reloaded`, the model that
    transformers loads by its id at that commit.
    """

    destination: Destination
    url: str
    commit: str | None = None
    number: int | None = None
    existed: bool = False
    checks: tuple[Check, ...] = ()
