"""The curve of a tuning: recall against time, one SVG file without scripts."""

from __future__ import annotations

import math
from html import escape

from o1_index.tune import Trial, Tuning

WIDTH, HEIGHT, MARGIN = 640, 400, 56


def svg(tuning: Tuning, title: str) -> str:
    """Each setting as a point, the best of each recall joined, the chosen one filled."""
    trials = sorted(tuning.trials, key=lambda trial: trial.milliseconds)
    low, high = (math.log10(max(trials[i].milliseconds, 1e-4)) for i in (0, -1))

    def place(trial: Trial) -> tuple[float, float]:
        share = (math.log10(max(trial.milliseconds, 1e-4)) - low) / ((high - low) or 1)
        x = MARGIN + share * (WIDTH - 2 * MARGIN)
        return x, HEIGHT - MARGIN - trial.recall * (HEIGHT - 2 * MARGIN)

    front, best = [], -1.0
    for trial in trials:
        if trial.recall > best:
            front.append(place(trial))
            best = trial.recall
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    points = "".join(_point(trial, *place(trial), chosen=trial == tuning.chosen) for trial in trials)
    goal = HEIGHT - MARGIN - tuning.target * (HEIGHT - 2 * MARGIN)
    box = f"0 0 {WIDTH} {HEIGHT}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>
<text x="{MARGIN}" y="42" font-size="12" fill="#555">{escape(_summary(tuning))}</text>
{_axes(trials)}
<path d="M{MARGIN} {goal:.1f}H{WIDTH - MARGIN}" stroke="#999" stroke-dasharray="4 4"/>
<polyline points="{line}" fill="none" stroke="#1b6ca8" stroke-width="1.5"/>
{points}
</svg>
"""


def _summary(tuning: Tuning) -> str:
    chosen = tuning.chosen
    return (
        f"recall@{tuning.k} over {tuning.queries} queries; chosen: {chosen.parameters}, recall "
        f"{chosen.recall:.3f}, {chosen.milliseconds:.3g} ms a query"
    )


def _axes(trials: list[Trial]) -> str:
    ticks = []
    for tenth in range(0, 11, 2):
        y = HEIGHT - MARGIN - tenth / 10 * (HEIGHT - 2 * MARGIN)
        ticks.append(
            f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" font-size="11" text-anchor="end">{tenth / 10}</text>'
        )
    bottom, right = HEIGHT - MARGIN + 18, WIDTH - MARGIN
    first, last = trials[0].milliseconds, trials[-1].milliseconds
    return (
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" stroke="#333"/>'
        + "".join(ticks)
        + f'<text x="{MARGIN}" y="{bottom}" font-size="11">{first:.3g} ms</text>'
        + f'<text x="{right}" y="{bottom}" font-size="11" text-anchor="end">{last:.3g} ms a query</text>'
    )


def _point(trial: Trial, x: float, y: float, *, chosen: bool) -> str:
    fill = "#1b6ca8" if chosen else "white"
    label = f"{trial.parameters}: recall {trial.recall:.3f}, {trial.milliseconds:.3g} ms"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="#1b6ca8">'
        f"<title>{escape(label)}</title></circle>"
    )
