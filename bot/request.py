"""What somebody asked for, through whichever door: the frozen record that every stage starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Way = Literal["full", "tensors", "structure", "none"]
QuantizedBase = Literal["original", "dequantize"]
AskedWay = Literal["auto", "whole"]
Parity = Literal["exact", "peft"]
Access = Literal["yes", "no", "unknown"]
Reload = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the result goes: a folder, a Hub repository, or a Hub PR on a repository."""

    kind: Literal["folder", "repository", "hub_pr"]
    location: str
    public: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How several adapters go into one model.

    `method` is a `combination_type` of PEFT's `add_weighted_adapter`, with one of `weights` for each adapter, or
    `stack`: one after the other. The rest is None where the method takes none: `density` is the share of values that
    is kept, `majority_sign_method` how signs are elected, `svd_rank` the rank of a decomposition, `seed` the random
    numbers'.
    """

    method: str
    weights: tuple[float, ...] = ()
    density: float | None = None
    majority_sign_method: str | None = None
    svd_rank: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a chat: who says what."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the models are asked in words: a text, or a chat that goes through the tokenizer's template."""

    text: str = ""
    chat: tuple[Turn, ...] = ()

    @property
    def shown(self) -> str:
        """The prompt as it is shown to people."""
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.chat) or self.text


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a merge is to stay within beside being right; None: nothing is asked.

    `change`: the norm of a tensor's delta against the base's tensor (Frobenius), of the one that changes most.
    `perplexity`: the merged model's by the adapter's, on the request's text.
    """

    change: float | None = None
    perplexity: float | None = None


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """What somebody asked for, through whichever door.

    `adapter` and `base` are references as typed (`owner/name@revision:subfolder`, or a folder); `further` are adapters
    beside the first, and `recipe` says what becomes of them; `initial_adapter` is the adapter's state before the first
    step, for starts that changed the base. `dtype` and `device` are `auto` or a name of theirs; `quantized_base` is
    what a quantised base stands for: the model that it was made from, or its dequantised weights. `allow_pickle`:
    weights that lie there only as pickle are read, as tensors and nothing else. `validation` is how much is checked,
    `thorough` whether that is all rows of changed tensors or a sample; `parity`: `exact` computes in float32 and rounds
    once, `peft` rounds as PEFT's `merge_and_unload` does by default; `dry_run` does everything but leave a result.
    `way` is `whole` to have transformers load the whole model where its tensors could be streamed. `prompts` and
    `text`: what the models are asked in place of the usual prompts, and what their perplexity is measured on, if any.
    `scratch_limit`: bytes of disk that the merge may take at any time; None: as much as it needs, or as there is.
    `thresholds`: what whoever runs the bot wants of every merge. `reload`: whether a model is loaded again from the Hub
    once it is published; `auto` means a small one.
    `attended`: whoever asked sits there, and the tokens are theirs (the command line). A door that acts for others with
    tokens of its own (a webhook, an Action that somebody's comment has started) sets it to False. `requester_access`
    then says whether they may read everything private or gated that is merged, adapters, base and initial adapter:
    `yes` when the host has said so of them for each of these, or when they could use the door's own tokens anyway;
    `no` when it has denied it, `unknown` when it was not asked, which is as good as no. Where all is public, it is not
    looked at. Below the users and organisations in `requester_owns`, they may read everything for certain: they own
    it. `requested_by` is their name on the host where they asked.
    """

    adapter: str
    further: tuple[str, ...] = ()
    recipe: Recipe | None = None
    base: str | None = None
    base_revision: str | None = None
    initial_adapter: str | None = None
    destination: Destination | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantized_base: QuantizedBase = "original"
    validation: Way = "tensors"
    thorough: bool = False
    parity: Parity = "exact"
    dry_run: bool = False
    allow_pickle: bool = False
    way: AskedWay = "auto"
    reload: Reload = "auto"
    scratch_limit: int | None = None
    prompts: tuple[Prompt, ...] = ()
    text: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)
    attended: bool = True
    requester_access: Access = "unknown"
    requester_owns: tuple[str, ...] = ()
    requested_by: str | None = None
