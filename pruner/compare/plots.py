"""Drawing with Matplotlib: lines with error bars and direct labels, and histograms over time; PNG and SVG.

Matplotlib is imported when something is drawn, not before. Only its figures are used, not pyplot: nothing is global
and no display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checks import ConfigError
from pruner.compare.plot_styles import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.0, 4.2)  # inches
DPI = 160
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pruner",  # the same picture is the same file
}
LABEL = 12.0  # points from one label to the next
SHADES = "cividis_r"  # made for the colour-blind; darker is more, in grey too
DODGE = 0.008  # shares of the axis by which methods stand beside one another


@dataclass(frozen=True)
class Line:
    """One method's points; `spread` (standard deviations, None for one run) gives error bars."""

    name: str
    look: Look
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Axis:
    """What an axis is of; `ticks` are places with their texts, by default Matplotlib's own, at whole numbers or not."""

    title: str
    ticks: Sequence[tuple[float, str]] | None = None
    log: bool = False
    whole: bool = False
    upright: bool = False  # texts that are too long to lie side by side


@dataclass(frozen=True)
class Histogram:
    """How many units had a mask between `edges`, epoch by epoch: counts[epoch][bin]."""

    name: str
    epochs: Sequence[int]
    edges: Sequence[float]
    counts: Sequence[Sequence[float]]


def draw_lines(path: Path, title: str, lines: Sequence[Line], x: Axis, y: Axis) -> None:
    """Writes `path`.png and `path`.svg: lines with a label at the end of each."""
    _draw(path, SIZE, lambda figure: _lines(figure.add_subplot(), title, lines, x, y))


def draw_histograms(path: Path, title: str, found: Sequence[Histogram]) -> None:
    """Writes `path`.png and `path`.svg: a panel for each histogram, time to the right, the share of units as shade."""
    across = min(3, len(found))
    down = math.ceil(len(found) / across)
    size = (1.6 + 2.6 * across, 1.2 + 2.2 * down)
    _draw(path, size, lambda figure: _histograms(figure, title, found, down, across))


def _text(text: str) -> str:
    """Text for Matplotlib, which would read what is between two dollars as a formula."""
    return text.replace("$", "\\$")


def _draw(path: Path, size: tuple[float, float], fill: Callable[[Figure], None]) -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--pictures: needs Matplotlib; install it with pip install 'pruner[pictures]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        figure.savefig(f"{path}.png", dpi=DPI)
        figure.savefig(f"{path}.svg", metadata={"Date": None})


def _lines(axes: Axes, title: str, lines: Sequence[Line], x: Axis, y: Axis) -> None:
    ends = [place for line in lines for place in (min(line.x), max(line.x))]
    low, high = min(ends), max(ends)
    for place, line in enumerate(lines):
        step = DODGE * (place - (len(lines) - 1) / 2) * (line.spread is not None)
        at = [v * (high / low) ** step if x.log else v + step * (high - low or 1) for v in line.x]
        bars = None if line.spread is None else [s or math.nan for s in line.spread]
        axes.errorbar(
            at,
            line.y,
            yerr=bars,
            color=line.look.colour,
            marker=line.look.marker,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.6,
            dashes=line.look.dashes or (None, None),
            capsize=3,
            elinewidth=1.1,
        )
    if x.log:
        axes.set_xscale("log")
    if x.ticks is not None:
        places, texts = zip(*((place, _text(text)) for place, text in x.ticks), strict=True)
        axes.set_xticks(places, texts, rotation=90 if x.upright else 0, fontsize=8 if x.upright else None)
        axes.minorticks_off()
    if x.whole:
        axes.locator_params("x", integer=True, min_n_ticks=1)
    axes.set_xlabel(x.title)
    axes.set_ylabel(y.title)
    axes.set_title(_text(title), fontsize=9, loc="left", color="#444444")
    _label(axes, lines, LABEL / (SIZE[1] * 72 * 0.75))  # the axes have about so much of the height


def _label(axes: Axes, lines: Sequence[Line], gap: float) -> None:
    """Each line's name and marker to the right of the axes, near its end, `gap` (in heights of the axes) apart."""
    low, high = axes.get_ylim()
    order = sorted(range(len(lines)), key=lambda i: lines[i].y[-1])
    places = [(lines[i].y[-1] - low) / (high - low) for i in order]
    for n in range(1, len(places)):
        places[n] = max(places[n], places[n - 1] + gap)
    top = 1.0
    for n in reversed(range(len(places))):
        places[n] = min(places[n], top)
        top = places[n] - gap
    for i, place in zip(order, places, strict=True):
        look = lines[i].look
        axes.plot(
            1.03, place, marker=look.marker, color=look.colour, transform=axes.transAxes, clip_on=False, markersize=6
        )
        axes.annotate(_text(lines[i].name), (1.055, place), xycoords="axes fraction", va="center", fontsize=9)


def _histograms(figure: Figure, title: str, found: Sequence[Histogram], down: int, across: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    norm = LogNorm(1e-5, 1)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for histogram, axes in zip(found, panels.flat, strict=False):
        shares = [[count / (sum(counts) or 1) for count in counts] for counts in histogram.counts]
        columns = [[share or math.nan for share in one] for one in zip(*shares, strict=True)]
        edges = [histogram.epochs[0] - 0.5, *(epoch + 0.5 for epoch in histogram.epochs)]
        axes.pcolormesh(edges, histogram.edges, columns, norm=norm, cmap=SHADES, rasterized=True)
        axes.set_title(_text(histogram.name), fontsize=10)
        axes.grid(False)
        axes.set_xlabel("epoch of pruning")
        axes.locator_params("x", integer=True, min_n_ticks=1)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("soft mask")
    figure.colorbar(ScalarMappable(norm, SHADES), ax=panels, label="share of units")
    figure.suptitle(_text(title), fontsize=9, color="#444444")
