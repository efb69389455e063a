"""Changed tensors by layer and module: what a heat map shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bot.address import Address, address
from bot.evidence import ChangedTensor

MOST_ROWS = 40
OUTSIDE = "–"  # the column of what stands in no layer


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Relative norms: one row a module, one column a layer; None where the adapter changes nothing."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    @property
    def layers(self) -> int:
        """How many columns are layers."""
        return sum(column != OUTSIDE for column in self.columns)


def grid(tensors: Iterable[ChangedTensor]) -> Grid | None:
    """The grid of all tensors whose delta has a size; None when none has. Of very many modules, the largest deltas."""
    cells: dict[tuple[str, str], dict[int, list[ChangedTensor]]] = {}
    for tensor in tensors:
        if tensor.relative_norm is not None:
            where = address(tensor.name)
            column = -1 if where.layer is None else where.layer
            cells.setdefault(_row(where), {}).setdefault(column, []).append(tensor)
    if not cells:
        return None
    rows = {key: {column: _mean(group) for column, group in row.items()} for key, row in cells.items()}
    largest = sorted(rows, key=lambda key: -max(rows[key].values()))[:MOST_ROWS]
    columns = sorted({column for key in largest for column in rows[key]})
    kept = [key for key in sorted(rows) if key in largest]
    several = len({stack for stack, _ in kept if stack}) > 1
    return Grid(
        rows=tuple(f"{stack}: {module}" if stack and several else module for stack, module in kept),
        columns=tuple(OUTSIDE if column < 0 else str(column) for column in columns),
        values=tuple(tuple(rows[key].get(column) for column in columns) for key in kept),
    )


def _row(where: Address) -> tuple[str, str]:
    return where.stack, where.module


def _mean(group: Iterable[ChangedTensor]) -> float:
    """Of several tensors in one cell, the experts of a layer mostly: the root of their mean square."""
    pairs = [(tensor.relative_norm or 0.0, tensor.count) for tensor in group]
    return float((sum(norm**2 * count for norm, count in pairs) / sum(count for _, count in pairs)) ** 0.5)
