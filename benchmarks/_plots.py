"""Plots as SVG: small, the same bytes for the same figures, with text as text, for light and for dark pages."""

import io
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import matplotlib as mpl
from _report import Bars, Lines, Plot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_OURS: Final = "#2f81f7"
_OTHERS: Final = "#8b949e"
_LIMIT: Final = "#d1242f"
_TEXT: Final = "#010203"  # a colour that no plot uses otherwise: it becomes that of the page's text
_LINES: Final = (_OURS, "#bf8700", "#1a7f37", "#8250df", "#cf222e", _OTHERS)
_STYLE: Final = ":root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}"
_LOGARITHMIC_FROM: Final = 20.0
"""From this ratio of the greatest figure to the least on, lengths can no longer be read."""
_ROW: Final = 0.24  # inches
_PLOT: Final = 0.95  # inches, for a title and an axis

_SETTINGS: Final[Any] = {  # matplotlib names 400 keys in its type
    "svg.fonttype": "none",
    "svg.hashsalt": "trackside",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}

_ID: Final = re.compile(r"\b[pm][0-9a-f]{10}\b")
_TAG: Final = re.compile(r"<[^>]*>")
_PLACE: Final = re.compile(r"\d+\.\d{3,}")


def svg(plots: Sequence[Plot], ours: Collection[str]) -> str:
    """One picture of these plots, one below another; the bars and lines of `ours` stand out."""
    with mpl.rc_context(_SETTINGS):
        heights = [_PLOT + _ROW * (len(plot.bars) if isinstance(plot, Bars) else 10) for plot in plots]
        picture = Figure(figsize=(8.0, sum(heights)), layout="constrained")
        places = picture.subplots(len(plots), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for plot, axes in zip(plots, places[:, 0], strict=True):
            axes.set_title(plot.title)
            if isinstance(plot, Bars):
                _draw_bars(axes, plot, ours)
            else:
                _draw_lines(axes, plot)
        written = io.StringIO()
        picture.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    styled = written.getvalue().replace(_TEXT, "currentColor").replace("<defs>", f"<style>{_STYLE}</style>\n <defs>", 1)
    return _settled(styled)


def _settled(drawn: str) -> str:
    """The same SVG with places rounded and ids numbered: a place's last digit depends on the machine's floating-point
    unit, and the ids are made from places.
    """
    ids: dict[str, str] = {}
    drawn = _ID.sub(lambda found: ids.setdefault(found[0], f"{found[0][0]}{len(ids) + 1}"), drawn)
    return _TAG.sub(lambda tag: _PLACE.sub(lambda place: f"{float(place[0]):.2f}", tag[0]), drawn)


def _draw_bars(axes: Axes, plot: Bars, ours: Collection[str]) -> None:
    medians = [median for _, median, _ in plot.bars.values()]
    errors = [
        [median - low for low, median, _ in plot.bars.values()],
        [high - median for _, median, high in plot.bars.values()],
    ]
    colours = [_OURS if name in ours else _OTHERS for name in plot.bars]
    rows = range(len(plot.bars))
    axes.barh(rows, medians, xerr=errors, color=colours, height=0.62, error_kw={"ecolor": _TEXT, "elinewidth": 0.8})
    axes.set_yticks(rows, list(plot.bars))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(plot.unit)
    if min(medians) > 0 and max(medians) / min(medians) >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.set_xlim(left=min(medians) / 3)
    for row, (_, median, high) in zip(rows, plot.bars.values(), strict=True):
        axes.annotate(_said(median), (high, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.margins(x=0.09)
    if plot.limit is not None:
        axes.axvline(plot.limit, color=_LIMIT, linewidth=1, linestyle="--")


def _draw_lines(axes: Axes, plot: Lines) -> None:
    for number, (name, points) in enumerate(plot.lines.items()):
        colour = _LINES[number % len(_LINES)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.2, color=colour, label=name)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    if plot.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if plot.limit is not None:
        axes.axhline(plot.limit, color=_LIMIT, linewidth=1, linestyle="--")
    axes.legend(frameon=False, fontsize=7.5)


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
