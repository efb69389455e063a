"""The pictures of a report, as PNG: evidence → bytes. matplotlib is imported here, and only when a picture is drawn.

They have no background of their own, so every colour stands out from white and from #0d1117, the dark of the hosts'
pages (at least 3:1, text 4:1). Names are strangers' text: no formulas in them, few characters, and no file is opened.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Self

from bot.evidence import Errors, Perplexity, Scores, Spectrum
from bot.publish.grid import OUTSIDE, Grid

INK = "#757b83"
BLUE, ORANGE = "#3a7fc4", "#c8641c"
DEPTH = ("#3a7fc4", "#8c6bd1", "#b0568f", "#c8641c")  # from the first layer to the last
HEAT = "viridis", 0.18, 1.0
DPI = 110
COLOURS = 256
NARROWEST = 0.1  # of the largest value: what the colours of a heat map span at least
WIDTH = 8.0  # inches
LONGEST = 44
FEW = 8
LEAST_ROWS = 5  # of a heat map: so high that the words beside its scale have room
TICKS = 16
LOOK: Any = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib: the same picture everywhere
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def delta(grid: Grid) -> bytes:
    """The heat map of relative norms."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415

    name, first, last = HEAT
    steps = [mpl.colormaps[name](first + (last - first) * step / 63) for step in range(64)]
    labels = [_short(label) for label in grid.rows]
    left = 0.35 + 0.078 * max(map(len, labels))
    height = 1.3 + 0.27 * max(LEAST_ROWS, len(labels))
    with Canvas(height) as canvas:
        axes = canvas.axes(left, 0.6, WIDTH - left - 1.35, height - 1.1)
        low, high = scale(grid)
        image = axes.imshow(
            [[math.nan if value is None else value for value in row] for row in grid.values],
            cmap=LinearSegmentedColormap.from_list("heat", steps),
            aspect="auto",
            interpolation="nearest",
            vmin=low,
            vmax=high,
        )
        axes.set_yticks(range(len(labels)), labels)
        places = _ticks(grid.columns)
        axes.set_xticks(places, [grid.columns[place] for place in places])
        axes.tick_params(length=0)
        outside = f" ({OUTSIDE}: in no layer)" if OUTSIDE in grid.columns else ""
        axes.set_xlabel(f"layer{outside}" if grid.layers else "")
        for spine in axes.spines.values():
            spine.set_visible(True)
        bar = canvas.figure.colorbar(
            image, cax=canvas.axes(WIDTH - 1.15, 0.6, 0.16, height - 1.1), format="%.3g"
        )
        bar.outline.set_edgecolor(INK)
        bar.set_label("‖delta‖ / ‖weight‖")
        if low:
            canvas.note("not from 0", WIDTH - 1.15)
        canvas.title("Size of the adapter's delta against the base's weight", min(left, WIDTH - 5.0))
        return canvas.png()


def scale(grid: Grid) -> tuple[float, float]:
    """Where the colours of a heat map begin and end.

    At zero, so that a colour is a size. Where the smallest value is more than half of the largest, most of such a scale
    would be empty and all cells alike: then it begins at the smallest. It spans a tenth of the largest at least:
    what is as good as equal looks so.
    """
    values = [value for row in grid.values for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low <= high / 2:
        return 0.0, high or 1.0
    more = max(0.0, (NARROWEST * high - (high - low)) / 2)
    return low - more, high + more


def errors(found: Errors) -> bytes:
    """The histogram of errors, with the line beyond which one rounding alone cannot lead."""
    total = sum(found.counts)
    shares = [100 * count / total for count in found.counts]
    last = max(index for index, count in enumerate(found.counts) if count) + 1
    open_end = last == len(shares)
    shown = max(last, round(0.8 / found.width))
    half = round(0.5 / found.width)
    with Canvas(3.3) as canvas:
        axes = canvas.axes(0.75, 0.6, WIDTH - 1.0, 2.2)
        axes.bar(
            [index * found.width for index in range(shown)],
            shares[:shown],
            width=found.width * 0.9,
            align="edge",
            color=[BLUE if index < half else ORANGE for index in range(shown)],
        )
        axes.axvline(0.5, color=INK, linestyle="--", linewidth=1.2)
        axes.annotate(
            "½ ulp: one rounding",
            (0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(5, -9),
            textcoords="offset points",
        )
        beyond = 100 * sum(found.counts[half:]) / total
        axes.set_ylim(top=1.4 * max(shares))  # no bar reaches up to the words
        axes.text(
            1.0, 0.78, f"{beyond:.2g} % beyond" if beyond else "none beyond",
            transform=axes.transAxes, ha="right", color=ORANGE if beyond else INK,
        )  # fmt: skip
        axes.set_xlim(0, shown * found.width)
        axes.set_xlabel(
            "error in units in the last place (ulp)" + (", at the end all larger ones" if open_end else "")
        )
        axes.set_ylabel("% of numbers")
        canvas.title("Errors of the merged weights against a float64 reference", 0.75)
        return canvas.png()


def scores(found: Scores) -> bytes:
    """Answers of the merged model and of the base over those of base + adapter."""
    with Canvas(4.6) as canvas:
        axes = canvas.axes(0.85, 0.65, WIDTH - 1.1, 3.4)
        ends = [min(found.adapter), max(found.adapter)]
        axes.axline((ends[0], ends[0]), (ends[0] + 1.0, ends[0] + 1.0), color=INK, linewidth=1.0)
        axes.scatter(found.adapter, found.merged, s=16, color=BLUE, label="merged model", zorder=3)
        axes.scatter(found.adapter, found.base, s=14, color=ORANGE, marker="x", linewidths=1.1, label="base")
        axes.set_xlabel("base + adapter")
        axes.set_ylabel("merged model, and base")
        legend = axes.legend(frameon=False, loc="upper left", labelcolor=INK)
        legend.set_title("on the line: the same answer")
        canvas.title("Answers to the same prompts: logits, scores or features", 0.85)
        return canvas.png()


def spectra(found: Sequence[Spectrum]) -> bytes:
    """How much of each layer's delta the first singular values hold."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415
    from matplotlib.colors import LinearSegmentedColormap, Normalize  # noqa: PLC0415

    layers = [each for each in found if each.layer.rpartition(".")[2].isdecimal()]
    longest = max(len(each.energy) for each in found)
    colours = LinearSegmentedColormap.from_list("depth", DEPTH)
    with Canvas(3.8) as canvas:
        axes = canvas.axes(0.75, 0.6, WIDTH - 2.3, 2.7)
        for each in found:
            inside = each in layers
            depth = layers.index(each) / max(1, len(layers) - 1) if inside else 0.0
            axes.plot(
                range(1, len(each.energy) + 1),
                [100 * sum(each.energy[: index + 1]) for index in range(len(each.energy))],
                color=colours(depth) if inside else INK,
                linestyle="-" if inside else ":",
                marker="o" if len(found) <= FEW else "",
                markersize=3.5,
                linewidth=1.3,
            )
        numbers = [str(number) for number in range(1, longest + 1)]
        axes.set_xticks([int(numbers[place]) for place in _ticks(numbers)])
        axes.set_ylim(0, 103)
        axes.set_xlabel(f"singular values of B·A, the largest first (rank {max(s.rank for s in found)})")
        axes.set_ylabel("% of the delta's energy, added up")
        if len(layers) > 1:
            scale = ScalarMappable(Normalize(0, len(layers) - 1), colours)
            bar = canvas.figure.colorbar(scale, cax=canvas.axes(WIDTH - 1.35, 0.6, 0.16, 2.7))
            bar.outline.set_edgecolor(INK)
            ends = sorted({0, (len(layers) - 1) // 2, len(layers) - 1})
            bar.set_ticks(ends, labels=[_layer(layers, end) for end in ends])
        outside = " (dotted: in no layer)" if len(layers) < len(found) else ""
        canvas.title(f"Energy of the delta's singular values, by layer{outside}", 0.75)
        return canvas.png()


def perplexity(found: Perplexity) -> bytes:
    """One bar for each of base, base + adapter and merged."""
    values = [value or 0.0 for value in (found.base, found.adapter, found.merged)]
    with Canvas(2.0) as canvas:
        axes = canvas.axes(1.25, 0.3, WIDTH - 2.2, 1.25)
        bars = axes.barh(
            ["base", "base + adapter", "merged model"], values, color=[ORANGE, BLUE, BLUE], height=0.66
        )
        axes.bar_label(bars, [f"{value:.5g}" for value in values], padding=4, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, max(values) or 1.0)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        canvas.title(f"Perplexity on {found.tokens:,} tokens of a text: lower is better", 1.25)
        return canvas.png()


class Canvas:
    """A figure of `height` inches with our look, and no state of pyplot."""

    def __init__(self, height: float) -> None:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        self._look, self._height = mpl.rc_context(LOOK), height
        self.figure: Any = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="none")
        FigureCanvasAgg(self.figure)

    def __enter__(self) -> Self:
        self._look.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._look.__exit__(None, None, None)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Any:
        """Axes at a place in inches."""
        return self.figure.add_axes(
            (left / WIDTH, bottom / self._height, width / WIDTH, height / self._height)
        )

    def title(self, text: str, left: float) -> None:
        """One line above the axes."""
        self.figure.text(
            left / WIDTH, 1 - 0.28 / self._height, text, fontsize=11, fontweight="bold", va="center"
        )

    def note(self, text: str, left: float) -> None:
        """A few words below the axes."""
        self.figure.text(left / WIDTH, 0.32 / self._height, text, va="center")

    def png(self) -> bytes:
        """The picture, the same bytes for the same evidence; 256 colours make it half as large."""
        from PIL import Image  # noqa: PLC0415 - matplotlib's own

        canvas = self.figure.canvas
        canvas.draw()
        picture = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
        file = io.BytesIO()
        picture.quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(file, "png", optimize=True)
        return file.getvalue()


def _ticks(labels: Sequence[str]) -> list[int]:
    """The places of labels that are shown: few enough, and of numbers round ones."""
    step = next((step for step in (1, 2, 5, 10, 20, 50) if len(labels) / step <= TICKS), 100)
    chosen = [place for place, text in enumerate(labels) if not text.isdecimal() or int(text) % step == 0]
    return chosen or list(range(0, len(labels), step))


def _layer(layers: Sequence[Spectrum], index: int) -> str:
    """`layer 3`, with its stack where there are several."""
    stack, _, number = layers[index].layer.rpartition(".")
    alone = len({each.layer.rpartition(".")[0] for each in layers}) == 1
    return f"layer {number}" if alone else _short(f"{stack.rpartition('.')[0] or stack} {number}", 14)


def _short(label: str, longest: int = LONGEST) -> str:
    """A stranger's name in characters that the font has."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in label)
    return plain if len(plain) <= longest else "…" + plain[1 - longest :]
