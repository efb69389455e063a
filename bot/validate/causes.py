"""Why changed tensors are wrong, in words: a cause for each tensor, and one sentence for each cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bot.records import Binding
from bot.validate.measure import Measure
from bot.validate.reference import scaling
from bot.validate.second_look import Look
from bot.wording import few

NEAR = 0.02  # how far, of itself, a factor may be from one that has a name
UNSURE = 0.25  # a factor that rounding makes less certain than this says nothing
SOME = 0.25  # of a tensor's numbers: where fewer are wrong, the others speak for the delta
ROUNDED = 4.0  # units in the last place of a row's largest number: more than a few roundings make
FEW = 3  # names in a sentence
SCALED = frozenset({"lora", "dora", "lora_bias"})  # methods with a factor of alpha and r


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a tensor is wrong.

    `kind`: `not-finite`, `missing`, `factor`, `mistake`, `rounding`, `places`, `unsure` or `other`. `words` say it
    without figures, several where several mistakes make the same factor; tensors with the same two are told together.
    """

    kind: str
    words: tuple[str, ...]
    look: Look
    wrong: int
    elements: int


def cause_of(look: Look, *, measure: Measure, binding: Binding, config: dict[str, Any]) -> Cause:
    """The cause of one tensor that `measure` found wrong. `config`: the patched adapter_config.json."""
    few_wrong = measure.wrong < SOME * measure.elements
    look.not_finite = max(look.not_finite, measure.infinite)  # that was looked for in every row
    kind, words = _kind(look, binding=binding, config=config, few_wrong=few_wrong)
    return Cause(kind=kind, words=words, look=look, wrong=measure.wrong, elements=measure.elements)


def _kind(
    look: Look, *, binding: Binding, config: dict[str, Any], few_wrong: bool
) -> tuple[str, tuple[str, ...]]:
    taken = binding.method == "replace"
    if look.not_finite or not look.elements:
        return "not-finite", ()
    if _is_base(look):
        return "missing", ("it is still the base's, not the adapter's" if taken else "the delta is missing",)
    if look.mistake is not None:
        return "mistake", (MISTAKES[look.mistake],)
    explained = look.explained(look.delta)
    once = not explained or abs((look.factor or 1.0) - 1) <= NEAR
    if few_wrong and once and look.far > ROUNDED:
        return "places", ()
    if look.factor is None or taken or not explained:
        return "other", ("it is not the adapter's",) if taken else ()
    return _counted(look.factor, look=look, binding=binding, config=config)


def _is_base(look: Look) -> bool:
    """Whether nothing of the delta is there."""
    none = look.factor is not None and look.spread < UNSURE and abs(look.factor) <= max(NEAR, look.spread)
    return look.has_base and (not look.change or (none and look.change <= look.rounding))


def _counted(
    factor: float, *, look: Look, binding: Binding, config: dict[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The cause where base and delta are all that there is."""
    if look.spread > UNSURE:
        return "unsure", ("the delta is smaller than a rounding, so how often it is there cannot be told",)
    if abs(factor - 1) > max(NEAR, look.spread):
        return "factor", _reasons(factor, look=look, binding=binding, config=config)
    return "rounding", (_rounded(look),)


MISTAKES = {
    "magnitude": "the delta was added as plain LoRA, DoRA's magnitude was left out",
    "transposed": "the delta was added transposed",
}


def _rounded(look: Look) -> str:
    if look.shortest:
        return f"every number is one of {look.shortest}: it was merged in that precision"
    return "it was rounded more than once, or computed in a precision shorter than float32"


def _reasons(factor: float, *, look: Look, binding: Binding, config: dict[str, Any]) -> tuple[str, ...]:
    """The mistakes that put the delta in so many times."""
    known = [(-1.0, "subtracted"), (2.0, "added twice")]
    known += [(float(n), f"added {n} times") for n in range(3, 6)]
    known += _scales(binding, config=config)
    near = max(NEAR * abs(factor), look.spread)
    return tuple(dict.fromkeys(words for value, words in known if abs(value - factor) <= near))


def _scales(binding: Binding, *, config: dict[str, Any]) -> list[tuple[float, str]]:
    """Factors that come of another scale than the adapter's."""
    if binding.method not in SCALED:
        return []
    module = binding.parameter.rpartition(".")[0]

    def scale(**changes: Any) -> float:
        return scaling(module, config=config | changes, rank=None)

    own, rslora = scale(), bool(config.get("use_rslora"))
    if not own:
        return []
    forgotten = "rsLoRA's scale forgotten: alpha/r in place of alpha/√r"
    mistaken = "scaled by alpha/√r as rsLoRA is, which this adapter is not: alpha/r is right"
    found = [(scale(use_rslora=not rslora) / own, forgotten if rslora else mistaken)]
    patterns = [name for name in ("alpha_pattern", "rank_pattern") if config.get(name)]
    found += [
        (scale(**{name: {} for name in names}) / own, f"{' and '.join(names)} ignored")
        for names in (patterns[:1], patterns[1:], patterns)
    ]
    found += [(1 / own, "added without its scale"), (own, "scaled twice")]
    return [(value, words) for value, words in found if abs(value - 1) > NEAR]


def told(causes: Iterable[Cause], *, total: int) -> list[str]:
    """One sentence for each cause, the most tensors first. `total`: how many tensors the adapter changes."""
    found = sorted(causes, key=lambda c: c.look.name)
    shared = Counter(words for cause in found for words in cause.words)
    groups: dict[tuple[str, tuple[str, ...]], list[Cause]] = {}
    for cause in found:
        most = max((shared[words] for words in cause.words), default=0)
        likely = tuple(words for words in cause.words if shared[words] == most)  # one mistake made them all
        groups.setdefault((cause.kind, likely), []).append(replace(cause, words=likely))
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{_who(group, total=total)}: {_what(group)}" for _, group in ordered]


def _who(causes: list[Cause], *, total: int) -> str:
    names = [cause.look.name for cause in causes]
    if len(names) == 1:
        return names[0]
    if len(names) == total:
        return f"All {total:,} changed tensors"
    return f"{len(names):,} of {total:,} changed tensors ({few(names, most=FEW)})"


def _what(causes: list[Cause]) -> str:
    """What is wrong with tensors of one cause, and how large the error is."""
    kind, looks = causes[0].kind, [cause.look for cause in causes]
    words = " or ".join(causes[0].words)
    if kind == "not-finite":
        return f"{sum(k.not_finite for k in looks):,} numbers are NaN or infinite"
    if kind == "rounding":
        worst = max(k.worst for k in looks)
        return f"the delta is there once, but {words}; {_size(looks)}, a number by up to {worst:.3g} ulp"
    if kind == "places":
        wrong, of = sum(c.wrong for c in causes), sum(c.elements for c in causes)
        return f"{wrong:,} of {of:,} numbers looked at are wrong; {_size(looks)}"
    if kind == "factor":
        words = f"the delta is there {_times(looks)} ({words or 'no cause that is known here'})"
    elif kind == "other" and not words:
        words = f"other numbers than base + delta (the delta is there {_times(looks)}, and more beside it)"
    return f"{words}; {_size(looks)}"


def _size(looks: list[Look]) -> str:
    """The error against what the tensor must be."""
    worst = max(looks, key=lambda k: (k.size, k.name))
    percent = f"{100 * worst.size:.2g}" if worst.size < 1 else f"{100 * worst.size:.0f}"
    share = f"{worst.size:.3g} times" if worst.size >= 10 else f"{percent}% of"
    return f"off by up to {share} its size, in {worst.name}" if len(looks) > 1 else f"off by {share} its size"


def _times(looks: list[Look]) -> str:
    """`2.00 times`, `0.35 to 0.50 times`."""
    factors = [k.factor for k in looks if k.factor is not None]
    if not factors:
        return "an unknown number of times"
    low, high = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"{low} times" if low == high else f"{low} to {high} times"
