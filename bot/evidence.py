"""What was measured on the way through the checks, as far as pictures and tables show it. A part of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ChangedTensor:
    """One changed tensor, or `count` of them together, whose names differ where `name` has a `*`.

    `relative_norm`: of the adapter's delta against the base's tensor (Frobenius); None without such a tensor.
    `median_ulp` and `worst_ulp`: errors against the float64 reference, in units in the last place of the dtype on
    disk; None when not finite. `rows`: how many of all `of_rows` were held against the reference.
    """

    name: str
    count: int = 1
    relative_norm: float | None
    median_ulp: float
    worst_ulp: float | None
    rows: int
    of_rows: int


@dataclass(frozen=True, kw_only=True)
class Errors:
    """A histogram of errors: `counts[i]` of them lie from `i` to `i + 1` times `width` ulp, the last and all beyond."""

    width: float
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The singular values of the low-rank deltas in one layer.

    `energy[i]`: which share of all Σσ² of the layer the value number `i` of each module holds, the largest first. Of
    `rank` values only the first are told: what `energy` lacks to 1 is in the others.
    """

    layer: str
    rank: int
    energy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The same few of all answers' numbers (logits, scores, features): of the base, base + adapter, merged."""

    base: tuple[float, ...]
    adapter: tuple[float, ...]
    merged: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How far base + adapter, run in `dtype`, is from itself in float32, and how far the merged weights are from it.

    `worst`: the largest difference of any number of the answers, `mean`: the root of the mean square. None: not finite.
    """

    dtype: str
    worst: float | None
    mean: float | None
    merged_worst: float | None
    merged_mean: float | None


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """exp of the mean loss of `tokens` tokens of a text: of the base, base + adapter, merged. None: not finite.

    It is read in windows of `window` tokens. `sha256` is that of the whole text in UTF-8; `cut`: there is more of it.
    """

    base: float | None
    adapter: float | None
    merged: float | None
    tokens: int
    window: int
    cut: bool
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How base, base + adapter and the merged model go on from a prompt, always by the most likely token.

    `agreement` of the last two: `same`; `tie`: they part where rounding decides between two tokens; `other`: elsewhere.
    """

    prompt: str
    base: str
    adapter: str
    merged: str
    agreement: Literal["same", "tie", "other"]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How one model generated: `tokens` at so many a second, and the seconds to the first of them.

    `peak_bytes`: the most memory that was taken meanwhile, of the GPU or the whole process; None where nobody tells.
    """

    tokens_per_second: float
    first_token_seconds: float
    peak_bytes: int | None
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Base + adapter and the merged model generating in float32, greedily, from the same prompt. `place`: on what."""

    place: str
    adapter: Pace
    merged: Pace


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured; what was not is empty."""

    tensors: tuple[ChangedTensor, ...] = ()
    errors: Errors | None = None
    spectra: tuple[Spectrum, ...] = ()
    scores: Scores | None = None
    baseline: Baseline | None = None
    perplexity: Perplexity | None = None
    continuations: tuple[Continuation, ...] = ()
    speed: Speed | None = None
