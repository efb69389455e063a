"""Heads that share their numbers with the embeddings: no tie is lost or made, and what is written twice agrees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.records import Check, Plan
from bot.validate.copies import compare, place
from bot.validate.expected import expected_tensors
from bot.validate.models import meta_model, parameter_names
from bot.validate.quiet import quiet
from bot.weights.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Ties:
    """What was found. `allowed`: tensors that the base does not store, with the numbers that they are tied to."""

    check: Check | None = None
    allowed: frozenset[str] = frozenset()


def check_ties(merged: Path, *, plan: Plan, layout: Layout, base: Layout, base_folder: Path | None) -> Ties:
    """Check `ties`; none where names and configs leave nothing to ask, or a config does not load (`config` says so)."""
    if base_folder is None:
        return Ties()
    as_in_the_base = not plan.added and not plan.config_edits and _flags(merged) == _flags(base_folder)
    if as_in_the_base and set(layout.tensors) == set(expected_tensors(plan, base=base)):
        return Ties()  # two models less to build
    try:
        with quiet():
            here, there = meta_model(merged, plan.model_class), meta_model(base_folder, plan.model_class)
            look = _Look(
                merged=merged,
                base_folder=base_folder,
                plan=plan,
                layout=layout,
                base=base,
                names={p: n for n, p in parameter_names(here, layout.tensors).items()},
                base_names={p: n for n, p in parameter_names(there, base.tensors).items()},
            )
            return _found(look, here=_tied(here), there=_tied(there))
    except Exception:  # noqa: BLE001  # whatever transformers raises of a stranger's config: `config` says it
        return Ties()


def _flags(folder: Path) -> list[str]:
    """What config.json says of ties, in all its parts."""
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return sorted(re.findall(r'"tie_\w+"\s*:\s*\w+', text))


def _tied(model: Any) -> dict[str, str]:
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Both folders, and their tensors by the parameters that they are loaded into."""

    merged: Path
    base_folder: Path
    plan: Plan
    layout: Layout
    base: Layout
    names: dict[str, str]
    base_names: dict[str, str]

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of the merged folder hold the same numbers."""
        first, second = self.layout.tensors[one], self.layout.tensors[other]
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        places = [place(self.merged, layout=self.layout, spec=spec) for spec in (first, second)]
        return compare(*places, old=first.dtype, new=second.dtype)[0] == 0

    def moved(self, parameter: str) -> bool:
        """Whether a tensor that the plan leaves alone is another than the base's."""
        name, before = self.names.get(parameter), self.base_names.get(parameter)
        if name is None or before is None or parameter in {b.parameter for b in self.plan.bindings}:
            return False
        new, old = self.layout.tensors[name], self.base.tensors[before]
        if new.shape != old.shape or new.dtype != old.dtype:
            return False
        places = (
            place(self.base_folder, layout=self.base, spec=old),
            place(self.merged, layout=self.layout, spec=new),
        )
        return compare(*places, old=old.dtype, new=new.dtype)[0] > 0


def _found(look: _Look, *, here: dict[str, str], there: dict[str, str]) -> Ties:
    own = {b.parameter for b in look.plan.bindings if b.tensor not in look.base.tensors}
    problems: list[str] = []
    allowed: set[str] = set()
    for target in sorted(here.keys() | there.keys()):
        source = here.get(target) or there[target]
        name, origin = look.names.get(target), look.names.get(source)
        both = name is not None and origin is not None
        if target in here and target in own:
            problems.append(_lost(target, source, moved=look.moved(source)))
        elif target in here and target not in there:
            problems.append(
                f"config.json ties {target} to {source} and the base's does not: the base's own {target} is lost."
            )
        elif name is None and target not in here:
            problems.append(
                f"config.json does not tie {target} to {source}, and it has no tensor: it is lost."
            )
        elif name is not None and origin is None and source in look.base_names:
            problems.append(_half(name, look.base_names[source]))
        elif both and target not in own and name not in look.base.tensors:
            if look.equal(str(name), str(origin)):
                allowed.add(str(name))
            else:
                problems.append(
                    f"{name} is stored with other numbers than {origin}, which it shares in the base."
                )
    if not here and not there:
        return Ties()
    figure = ", ".join(f"{target} = {source}" for target, source in sorted(here.items())) or "none"
    detail = " ".join(problems) or "What is tied and what is not is as planned."
    check = Check(name="ties", verdict="failed" if problems else "passed", figure=figure, detail=detail)
    return Ties(check=check, allowed=frozenset(allowed))


def _half(name: str, other: str) -> str:
    """One of two names for the same numbers, and not the one that the base has."""
    return (
        f"{name} is stored and {other} is not, which the base stores for both:"
        " transformers loads it, a loader that looks for that name finds nothing."
    )


def _lost(target: str, source: str, *, moved: bool) -> str:
    """A head whose delta needs numbers of its own."""
    what = f"its delta is in {source} instead" if moved else "its delta is lost"
    return f"The adapter changes {target}, but config.json ties it to {source}: {what}."
