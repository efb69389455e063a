"""How time, memory and disk grow with the size of a model, as a picture: `python -m benchmarks.growth`.

It reads what `benchmarks.scale` has measured, one run for each size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plot import FAINT, INK, OTHERS, OURS, PAPER, look
from benchmarks.sizes import SCALES
from bot.wording import duration

RESULTS = Path(__file__).with_name("results")
PICTURE = RESULTS / "scale.svg"


def line(runs: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Seconds for nothing, seconds for each further GB, and R², by least squares of the relative errors.

    Relative, because the largest run would otherwise be all that counts.
    """
    sizes = np.array([run["size_bytes"] / 1e9 for run in runs])
    times = np.array([run["seconds"] for run in runs])
    terms = np.stack([np.ones_like(sizes), sizes], axis=1)
    (start, slope), *_ = np.linalg.lstsq(terms / times[:, None], np.ones_like(times), rcond=None)
    missed = float(((times - start - slope * sizes) ** 2).sum())
    return float(start), float(slope), 1 - missed / float(((times - times.mean()) ** 2).sum())


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the runs into the file, in the format of its ending. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    runs = sorted(runs, key=lambda run: run["size_bytes"])
    with mpl.rc_context(look()):
        figure, (time, peaks) = plt.subplots(1, 2, figsize=(9, 3.4), facecolor=PAPER, layout="constrained")
        _times(time, runs)
        _peaks(peaks, runs)
        title = "From Hub to Hub, shard by shard"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, facecolor=PAPER, metadata=metadata, dpi=150)
        plt.close(figure)


def _times(axis: Any, runs: Sequence[dict[str, Any]]) -> None:
    start, slope, fits = line(runs)
    sizes = [run["size_bytes"] / 1e9 for run in runs]
    ends = np.array([0.0, max(sizes) * 1.05])
    axis.plot(ends, (start + slope * ends) / 60, color=OTHERS, linewidth=1.2, zorder=1)
    axis.scatter(sizes, [run["seconds"] / 60 for run in runs], color=OURS, s=22, zorder=2, clip_on=False)
    told = [f"{size:.0f} GB: {duration(run['seconds'])}" for size, run in zip(sizes, runs, strict=True)]
    axis.text(0.97, 0.06, "\n".join(told), transform=axis.transAxes, ha="right", color=FAINT, fontsize=8)
    axis.set_title(f"{start:.0f} s + {slope:.1f} s a GB, R² {fits:.4f}", loc="left", fontsize=9, color=INK)
    axis.set_ylabel("minutes")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    _plain(axis)


def _peaks(axis: Any, runs: Sequence[dict[str, Any]]) -> None:
    sizes = [run["size_bytes"] / 1e9 for run in runs]
    for key, title, colour in (
        ("peak_disk_bytes", "disk", OTHERS),
        ("peak_anonymous_bytes", "memory (anonymous)", OURS),
    ):
        values = [run[key] / 1e9 for run in runs]
        axis.plot(sizes, values, color=colour, marker="o", markersize=4.5, linewidth=1.2)
        axis.annotate(
            title, (sizes[-1], values[-1]), xytext=(0, 6), textcoords="offset points", ha="right", color=INK
        )
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axis.set_xticks([], minor=True)
    axis.set_title("peaks", loc="left", fontsize=9, color=INK)
    axis.set_ylabel("GB")
    axis.set_ylim(0, max(run["peak_disk_bytes"] for run in runs) / 1e9 * 1.2)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.set_facecolor(PAPER)
    axis.set_xlabel("size of the merged model, GB")
    axis.tick_params(colors=FAINT, labelsize=8)
    for side, spine in axis.spines.items():
        spine.set_visible(side in {"bottom", "left"})
        spine.set_color(OTHERS)


def main() -> None:
    """Draws the sizes that have been measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of scale-SIZE.json")
    parser.add_argument("--out", type=Path, default=PICTURE)
    given = parser.parse_args()
    files = [given.results / f"scale-{size}.json" for size in SCALES]
    draw([json.loads(file.read_text("utf-8")) for file in files if file.is_file()], given.out)


if __name__ == "__main__":
    main()
