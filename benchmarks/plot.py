"""Results as a picture: `python -m benchmarks.plot RESULT.json… --out PICTURE.svg`, one row of bars for each.

The picture brings its own background, so that it reads the same on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAPER, INK, FAINT = "#fbfbf9", "#1f2328", "#6b7280"
OURS, OTHERS = "#0b6fb8", "#b3b9c2"
PANELS = (("wall", 1.0, "seconds"), ("anonymous", 1e9, "peak anonymous memory, GB"))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draws the results into the file, in the format of its ending. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(look()):
        heights = [len(r["subjects"]) for r in results]
        figure, axes = plt.subplots(
            len(results), 2, figsize=(9, sum(0.36 * h + 0.95 for h in heights) + 0.2), squeeze=False,
            facecolor=PAPER, layout="constrained", gridspec_kw={"height_ratios": [h + 2 for h in heights]},
        )  # fmt: skip
        for row, result in zip(axes, results, strict=True):
            for place, (axis, (quantity, unit, label)) in enumerate(zip(row, PANELS, strict=True)):
                _bars(axis, result, quantity=quantity, unit=unit)
                axis.set_xlabel(label)
                if place:
                    axis.set_yticklabels([])
            row[0].set_title(f"{result['title']}\n", loc="left", fontsize=10, fontweight="bold", color=INK)
            row[0].text(0, 1.04, _circumstances(result), transform=row[0].transAxes, color=FAINT, fontsize=8)
        figure.savefig(
            path, facecolor=PAPER, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150
        )
        plt.close(figure)


def look() -> dict[str, Any]:
    """What every picture has in common, as matplotlib's settings."""
    return {
        "font.size": 9,
        "font.family": "sans-serif",
        "font.sans-serif": ["Arial", "DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": FAINT,
        "svg.hashsalt": "bench",
        "svg.fonttype": "none",
    }


def _bars(axis: Any, result: dict[str, Any], *, quantity: str, unit: float) -> None:
    subjects = result["subjects"]
    values = [s[quantity]["median"] / unit for s in subjects.values()]
    spans = [(s[quantity]["low"] / unit, s[quantity]["high"] / unit) for s in subjects.values()]
    colours = [OURS if name.startswith("merge") else OTHERS for name in subjects]
    places = range(len(values))
    axis.barh(places, values, color=colours, height=0.62)
    axis.hlines(places, [low for low, _ in spans], [high for _, high in spans], color=INK, linewidth=1)
    limit = max(high for _, high in spans)
    for place, value, (_, high) in zip(places, values, spans, strict=True):
        text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
        axis.text(max(high, value) + limit * 0.015, place, text, va="center", color=INK)
    axis.set_xlim(0, limit * 1.16)
    axis.set_yticks(list(places), [s["title"] for s in subjects.values()])
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.set_facecolor(PAPER)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0, colors=INK)
    axis.tick_params(axis="x", colors=FAINT, labelsize=8)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(OTHERS)


def _circumstances(result: dict[str, Any]) -> str:
    machine, rounds = result["machine"], len(next(iter(result["subjects"].values()))["samples"])
    times = "one run" if rounds == 1 else f"median and range of {rounds} runs"
    return f"{machine['processor']}, {machine['cores']} cores, {machine['file_system']}; {times}"


def main() -> None:
    """Draws the results named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw([json.loads(p.read_text("utf-8")) for p in given.results], given.out)


if __name__ == "__main__":
    main()
