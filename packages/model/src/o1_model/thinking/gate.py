"""Deciding for each query whether to think about it, from signals that cost nothing.

The prefill that gives v_q gives the signals too; the margin between v_q's best hits comes from the caller,
who searches. `calibrate` chooses one signal and its threshold for a compute budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from o1_records import InputError, Record, atomic_write, open_run, quoted

Name = Literal["norm", "entropy", "margin"]
NAMES: tuple[Name, ...] = ("norm", "entropy", "margin")
Floats = NDArray[np.float64]
Opens = Callable[["Signal"], bool]


class Signal(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known about a query before any thinking.

    `norm` is that of v_q before normalisation, `entropy` that of the thought's first token (nats), both only
    of a checkpoint of this package; `margin` is the difference between the scores of v_q's first and second
    hit, if the caller has searched.
    """

    key_fields = ("query_id",)
    query_id: str
    norm: float | None = None
    entropy: float | None = None
    margin: float | None = None


class Gate(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Think if `signal` is at least `threshold` (without `above`: at most). No threshold: never think."""

    signal: Name
    above: bool
    threshold: float | None

    def __call__(self, signal: Signal) -> bool:
        """Return whether to think. Raises InputError when this gate needs a margin and there is none."""
        if self.threshold is None:
            return False
        value: float | None = getattr(signal, self.signal)
        if value is None:
            what = f"the {self.signal}, which only a checkpoint of this package has"
            if self.signal == "margin":
                what = "the margin between v_q's hits; search first and give gate.given(margins), or --hits"
            raise InputError(f"query {quoted(signal.query_id)}: this gate needs {what}")
        return value >= self.threshold if self.above else value <= self.threshold

    def given(self, margins: Mapping[str, float]) -> Opens:
        """Return this gate with the margin of each query_id filled in."""

        def decide(signal: Signal) -> bool:
            return self(replace(signal, margin=margins.get(signal.query_id)))

        return decide

    def save(self, path: str | Path) -> None:
        """Write the gate as JSON."""
        with atomic_write(path) as file:
            file.write(msgspec.json.encode(self))


def load_gate(path: str | Path) -> Gate:
    """Read a gate. Raises InputError when the file is none."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Gate)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}; is this a file of `o1-model gate`?") from error


@dataclass(frozen=True)
class Point:
    """Mean gain a query when at most `budget` of the queries think, between its bounds.

    `gate` is the gain of the calibrated gate on the queries that it was calibrated on, `held_out` on other
    queries (two halves, each with the gate of the other); `random` chooses the queries at random, `oracle`
    knows the gains.
    """

    budget: float
    gate: float
    held_out: float
    random: float
    oracle: float


def calibrate(signals: Sequence[Signal], gains: Mapping[str, float], budget: float) -> Gate:
    """Return the gate with the greatest mean gain that lets at most the share `budget` of the queries think.

    `gains` are the measure with thinking minus the measure without, by query_id. Ties go to less thinking,
    then to the order norm, entropy, margin. Raises InputError for a budget that is not between 0 and 1, no
    queries, or a query without a gain.
    """
    refuse_budget(budget)
    if not signals:
        raise InputError("no queries to calibrate a gate on")
    values = _gains(signals, gains)
    best, chosen = 0.0, Gate(signal="norm", above=True, threshold=None)
    for name in NAMES:
        if any(getattr(signal, name) is None for signal in signals):
            continue
        column = np.array([getattr(signal, name) for signal in signals], dtype=np.float64)
        for above in (True, False):
            total, threshold = _best_cut(column if above else -column, values, budget)
            if total > best:
                best = total
                chosen = Gate(signal=name, above=above, threshold=threshold if above else -threshold)
    return chosen


def read_margins(path: str | Path) -> dict[str, float]:
    """Return, from a run (TREC, or JSONL of Hit records), each query's margin between its two best hits.

    A query with a single hit has its score as the margin.
    """
    best: dict[str, list[float]] = {}
    for hit in open_run(path):
        best[hit.query_id] = sorted([*best.get(hit.query_id, []), hit.score], reverse=True)[:2]
    return {query_id: scores[0] - sum(scores[1:]) for query_id, scores in best.items()}


def refuse_budget(budget: float) -> None:
    """Raise InputError for a budget that is not a share of the queries."""
    if not 0 <= budget <= 1:
        raise InputError(f"the budget must be between 0 and 1, got {budget}")


def curve(signals: Sequence[Signal], gains: Mapping[str, float], budgets: Iterable[float]) -> list[Point]:
    """Return quality at each budget: the calibrated gate between a random one and the oracle.

    The halves of `held_out` are the even and the odd queries in the order of query_id.
    """
    ordered = sorted(signals, key=lambda signal: signal.query_id)
    values = _gains(ordered, gains)
    descending = np.sort(values)[::-1].clip(min=0)
    points = []
    for budget in budgets:
        allowed = int(budget * len(ordered))
        crossed = sum(
            _gained(calibrate(ordered[half::2], gains, budget), ordered[1 - half :: 2], gains)
            for half in (0, 1)
            if ordered[half::2]
        )
        points.append(
            Point(
                budget=budget,
                gate=_gained(calibrate(ordered, gains, budget), ordered, gains) / len(ordered),
                held_out=crossed / len(ordered),
                random=float(values.mean()) * budget,
                oracle=float(descending[:allowed].sum()) / len(ordered),
            )
        )
    return points


def _best_cut(column: Floats, gains: Floats, budget: float) -> tuple[float, float]:
    """Return the greatest sum of gains of the queries with the highest values, and a threshold below them.

    It lies midway to the next value, so that rounding does not move a query across it.
    """
    order = np.argsort(-column, kind="stable")
    values, totals = column[order], np.cumsum(gains[order])
    sizes = np.arange(1, len(order) + 1)
    # a cut between equal values cannot be made
    possible = np.append(values[:-1] != values[1:], True) & (sizes <= budget * len(order))
    if not possible.any():
        return 0.0, 0.0
    place = int(np.argmax(np.where(possible, totals, -np.inf)))
    below = values[place + 1] if place + 1 < len(values) else values[place]
    middle = (values[place] + below) / 2
    return float(totals[place]), float(middle if middle > below else values[place])


def _gains(signals: Sequence[Signal], gains: Mapping[str, float]) -> Floats:
    missing = [signal.query_id for signal in signals if signal.query_id not in gains]
    if missing:
        raise InputError(f"{len(missing)} queries have no gain, first {quoted(missing[0])}; score both runs")
    return np.array([gains[signal.query_id] for signal in signals], dtype=np.float64)


def _gained(gate: Gate, signals: Sequence[Signal], gains: Mapping[str, float]) -> float:
    return sum(gains[signal.query_id] for signal in signals if gate(signal))
