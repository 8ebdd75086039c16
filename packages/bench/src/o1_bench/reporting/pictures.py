"""The pictures of a report as inline SVG. Needs the `[report]` extra (matplotlib).

Colours are CSS variables of the page, so that the same picture serves light, dark and print:
matplotlib draws with placeholders, which are replaced in its output.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from o1_records import MissingExtraError

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--soft)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--gain)",
    "#060606": "var(--loss)",
    "#070707": "var(--page)",
}
INK, SOFT, LINE, ACCENT, GAIN, LOSS, PAGE = _COLOURS
_MOST_STEPS = 400


@dataclass(frozen=True, kw_only=True)
class Point:
    """One result in the picture of quality against time. `kind`: system, control, oracle, baseline."""

    name: str
    kind: str
    milliseconds: float
    quality: float


class _Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def touches(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


_MARKERS: dict[str, dict[str, Any]] = {
    "system": {"marker": "o", "s": 52, "facecolor": ACCENT, "edgecolor": ACCENT},
    "baseline": {"marker": "D", "s": 52, "facecolor": INK, "edgecolor": INK},
    "control": {"marker": "o", "s": 44, "facecolor": PAGE, "edgecolor": SOFT},
    "oracle": {"marker": "^", "s": 60, "facecolor": PAGE, "edgecolor": ACCENT},
}


def quality_against_time(
    points: Sequence[Point], *, measure: str, width: int, height: int, prefix: str
) -> str:
    """Draw every result as a labelled point: time per query on a logarithmic axis, quality upwards.

    `prefix` makes the ids of a picture unique on its page.
    """
    figure, axes = _figure(width, height, margins=(42, 12, 42, 30))
    axes.set_xscale("log")
    for point in points:
        axes.scatter(point.milliseconds, point.quality, linewidth=1.6, zorder=3, **_MARKERS[point.kind])
    times = [point.milliseconds for point in points]
    qualities = [point.quality for point in points]
    room = max(0.02, 0.12 * (max(qualities) - min(qualities)))
    axes.set_xlim(min(times) / 1.6, max(times) * 1.6)
    axes.set_ylim(min(qualities) - room, max(qualities) + room)
    for point in points:
        if point.kind == "baseline":
            axes.axhline(point.quality, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_xticks(ticks := _ticks(*axes.get_xlim()), [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("milliseconds per query", color=SOFT, fontsize=12)
    axes.set_title(measure, color=SOFT, fontsize=12, loc="left", x=-34 / width)
    figure.draw_without_rendering()  # places the axes, so that _label knows where the points are
    _label(axes, points, width, height)
    title = f"{measure} against milliseconds per query"
    return _svg(figure, prefix, title)


def depth_curve(
    curves: Sequence[tuple[str, str, Mapping[int, float]]], *, width: int, height: int, prefix: str
) -> str:
    """Draw nDCG@k against k: a line for each (name, kind, values by k), its name at the end."""
    figure, axes = _figure(width, height, margins=(42, 12, 42, 30))
    axes.set_xscale("log")
    points = []
    for name, kind, values in curves:
        ks, heights = list(values), list(values.values())
        style = {"linestyle": (0, (4, 3))} if kind == "control" else {}
        colour = {"baseline": INK, "control": SOFT}.get(kind, ACCENT)
        axes.plot(ks, heights, color=colour, linewidth=1.6, marker="o", markersize=3.5, zorder=3, **style)
        points.append(Point(name=name, kind=kind, milliseconds=ks[-1], quality=heights[-1]))
    every = [height for _, _, values in curves for height in values.values()]
    deepest, room = max(points, key=lambda point: point.milliseconds).milliseconds, 0.06
    axes.set_xlim(0.9, deepest * 8)  # room for the names
    axes.set_ylim(max(0.0, min(every) - room), max(every) + room)
    axes.grid(axis="y", color=LINE, linewidth=1)
    ticks = list(dict.fromkeys(k for _, _, values in curves for k in values))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k, the depth to which the ranking is looked at", color=SOFT, fontsize=12)
    axes.set_title("nDCG@k", color=SOFT, fontsize=12, loc="left", x=-34 / width)
    figure.draw_without_rendering()
    _label(axes, points, width, height)
    return _svg(figure, prefix, "nDCG@k against k")


def gain_curve(gains: Sequence[float], *, width: int, height: int, prefix: str) -> str:
    """Draw the gains of the queries that moved, largest first, as a filled curve around zero."""
    figure, axes = _figure(width, height, margins=(34, 6, 8, 8))
    gains = [gain for gain in gains if gain]
    heights = np.asarray(gains, dtype=float)
    if len(heights) > _MOST_STEPS:
        heights = heights[np.linspace(0, len(heights) - 1, _MOST_STEPS).round().astype(int)]
    edges = np.linspace(0, len(gains), len(heights) + 1)
    for part, colour in ((heights.clip(min=0), GAIN), (heights.clip(max=0), LOSS)):
        axes.stairs(part, edges, fill=True, facecolor=colour, edgecolor=colour, linewidth=0.4)
    axes.axhline(0, color=SOFT, linewidth=1)
    axes.set_xlim(0, len(gains))
    axes.set_ylim(-1.05, 1.05)
    axes.set_yticks([-1, 0, 1], ["−1", "0", "+1"], fontsize=13)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, prefix, "gain of each query that moved, largest first")


def length_curve(
    bins: Sequence[tuple[float, float, float, float]], *, width: int, height: int, prefix: str
) -> str:
    """Draw the mean gain against thought length; a bin is (words, gain, low and high end of its interval)."""
    figure, axes = _figure(width, height, margins=(44, 10, 40, 10))
    words, gains, lows, highs = np.asarray(bins, dtype=float).T
    axes.vlines(words, lows, highs, color=SOFT, linewidth=2, zorder=2)
    axes.plot(words, gains, color=ACCENT, linewidth=1, zorder=2)
    for colour, chosen in ((GAIN, lows > 0), (LOSS, highs < 0), (SOFT, (lows <= 0) & (highs >= 0))):
        face = PAGE if colour == SOFT else colour
        axes.scatter(words[chosen], gains[chosen], s=46, facecolor=face, edgecolor=colour, zorder=3)
    axes.axhline(0, color=SOFT, linewidth=1, zorder=1)
    reach = max(np.abs([lows, highs]).max() * 1.1, 0.05)
    axes.set_ylim(-reach, reach)
    ten = 10.0 ** math.floor(math.log10(reach))
    step = max(size * ten for size in (1, 2, 5) if size * ten <= reach)
    ticks = [-step, 0.0, step]
    axes.set_yticks(ticks, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks])
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_xlabel("words thought about a query", color=SOFT, fontsize=12)
    return _svg(figure, prefix, "gain against thought length")


def _figure(width: int, height: int, margins: tuple[int, int, int, int]) -> tuple[Any, Any]:
    """Return a figure of so many pixels with one plain pair of axes; margins left, right, bottom, top."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-bench", "report", "Drawing a report") from error
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    left, right, bottom, top = margins
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(length=0, pad=6, labelsize=11, labelcolor=SOFT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    return figure, axes


def _ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten between two times; if there are fewer than three, also 2 and 5 times each."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**power for power in powers]
    inside = [tick for tick in tens if low <= tick <= high]
    if len(inside) > 2:
        return inside
    return [step * ten for ten in tens for step in (1, 2, 5) if low <= step * ten <= high]


def _label(axes: Any, points: Sequence[Point], width: int, height: int) -> None:
    """Write each name beside its point, where it covers neither a point nor another name."""
    places = [axes.transData.transform((p.milliseconds, p.quality)) for p in points]
    taken = [_Box(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    order = sorted(range(len(points)), key=lambda number: -places[number][1])
    for number in order:
        (x, y), point = places[number], points[number]
        box = _free_box(x, y, 6.8 * len(point.name), taken, _Box(44, 32, width, height - 24))
        taken.append(box)
        middle = (box.bottom + box.top) / 2
        # anchored at the end near the point, because a browser's font has other widths
        end, side = ("left", box.left) if box.left > x else ("right", box.right)
        if abs(middle - y) > 14:
            axes.annotate(
                "", (x, y), (side, middle), xycoords="figure pixels", textcoords="figure pixels",
                arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 0},
                zorder=2,
            )  # fmt: skip
        axes.annotate(
            point.name, (side, middle), xycoords="figure pixels", fontsize=12,
            color=SOFT if point.kind == "control" else INK, va="center_baseline", ha=end,
            gid=f"name-{number}", zorder=4,
        )  # fmt: skip


def _free_box(x: float, y: float, length: float, taken: Sequence[_Box], page: _Box) -> _Box:
    """Return the nearest free rectangle for a name: right or left of its point, in steps up and down."""
    candidates = [
        _Box(left, y + shift - 8, left + length, y + shift + 8)
        for step in range(0, 160, 4)
        for shift in (step, -step)
        for left in (x + 11, x - 11 - length)
    ]
    free = (
        box
        for box in candidates
        if page.left <= box.left
        and box.right <= page.right
        and page.bottom <= box.bottom
        and box.top <= page.top
        and not any(box.touches(other) for other in taken)
    )
    return next(free, candidates[0])


def _svg(figure: Any, prefix: str, title: str) -> str:
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{title}"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for placeholder, variable in _COLOURS.items():
        text = text.replace(placeholder, variable)
    return text
