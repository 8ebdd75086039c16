"""Is one run better than another? Paired tests on per-query metrics; pure numpy.

Smucker, Allan and Carterette (CIKM 2007) compare the options; here the p-value is that of the permutation
test and the interval that of the bootstrap. Holm (1979) corrects for several comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted

Values = NDArray[np.float64]

_BLOCK = 2**20  # numbers in memory at a time: 8 MB


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How run a compares with run b; `difference` is a - b, in the unit of the measure.

    `permutations` is the number of random signs and samples that were drawn, with `seed`.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int
    permutations: int = 10_000
    seed: int = 0

    @property
    def floor(self) -> float:
        """The smallest p-value that so many permutations can give."""
        return 1 / (1 + self.permutations)

    @property
    def queries(self) -> int:
        """The number of queries that were compared."""
        return self.wins + self.ties + self.losses


def paired_test(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare the values of one measure, query by query (`by_query` makes such mappings).

    `p_value` is two-sided: the share of random sign flips of the queries' differences whose mean is
    at least as large as the observed one, the observed one included (so it is never 0).
    `low` to `high` is the 95 % percentile bootstrap interval of the mean difference. The order of
    the queries does not matter; the same seed gives the same result.

    Raises InputError when a and b do not have the same queries, or have none.
    """
    if permutations < 1:
        raise InputError(f"permutations must be at least 1, got {permutations}")
    _check(a, b)
    differences = np.array([a[query_id] - b[query_id] for query_id in sorted(a)])
    rng = np.random.default_rng(seed)
    low, high = np.quantile(_resampled_means(differences, permutations, rng), [0.025, 0.975])
    moved = differences[differences != 0]
    # equal sums can differ in their last bits
    observed = abs(moved.sum()) - 1e-12 * np.abs(moved).sum()
    extreme = (np.abs(_flipped_sums(moved, permutations, rng)) >= observed).sum()
    return Comparison(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=float((1 + extreme) / (1 + permutations)),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        permutations=permutations,
        seed=seed,
    )


def paired_test_over_tasks(
    a: Mapping[str, Mapping[str, float]],
    b: Mapping[str, Mapping[str, float]],
    *,
    weights: Mapping[str, float] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare the mean over tasks of the tasks' means: `{task: {query_id: value}}`, as suites report.

    Every task counts the same, whatever its number of queries, or by its weight (they sum to 1; see
    `o1_bench.datasets.averages`). Signs are flipped and queries drawn within each task; with a single task
    this is `paired_test`.

    Raises InputError when a and b do not have the same tasks and queries, or have none, and where a task has
    no weight.
    """
    _check(a, b)
    if weights is not None:
        _check(a, weights)
    tasks = sorted(a)
    for task in tasks:
        _check(a[task], b[task])
    differences = [np.array([a[t][query_id] - b[t][query_id] for query_id in sorted(a[t])]) for t in tasks]
    shares = [1 / len(tasks) if weights is None else weights[task] for task in tasks]
    rng = np.random.default_rng(seed)
    mean = sum(share * values.mean() for share, values in zip(shares, differences, strict=True))
    flipped, drawn = np.zeros(permutations), np.zeros(permutations)
    for share, values in zip(shares, differences, strict=True):
        flipped += share * _flipped_sums(values, permutations, rng) / len(values)
        drawn += share * _resampled_means(values, permutations, rng)
    tolerance = 1e-12 * sum(np.abs(values).mean() for values in differences)
    extreme = (np.abs(flipped) >= abs(mean) - tolerance).sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    every = np.concatenate(differences)
    return Comparison(
        difference=float(mean),
        low=float(low),
        high=float(high),
        p_value=float((1 + extreme) / (1 + permutations)),
        wins=int((every > 0).sum()),
        ties=int((every == 0).sum()),
        losses=int((every < 0).sum()),
        permutations=permutations,
        seed=seed,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in the order given; each is at most 1.

    Holm's step-down: rejecting those below 0.05 makes one or more false claims with a
    probability of at most 0.05, however the comparisons depend on each other.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[place]))
        corrected[place] = largest
    return corrected


def _check(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    if not a or not b:
        raise InputError("there are no per-query values to compare")
    if odd := sorted(a.keys() ^ b.keys()):
        raise InputError(
            f"the two runs were not scored on the same queries: {len(odd)} are in only one of them, "
            f"the first {quoted(odd[0])}; score both against the same qrels"
        )


def _flipped_sums(values: Values, times: int, rng: np.random.Generator) -> Values:
    """Return the sum of the values with random signs, `times` times."""

    def sums(rows: int) -> Values:
        signs = rng.integers(0, 2, size=(rows, len(values)), dtype=np.int8) * 2.0 - 1.0
        return np.asarray(signs @ values)

    return _repeat(sums, times, len(values))


def _resampled_means(values: Values, times: int, rng: np.random.Generator) -> Values:
    """Return the mean of as many values drawn with replacement, `times` times."""
    count = len(values)

    def means(rows: int) -> Values:
        return np.asarray(values[rng.integers(0, count, size=(rows, count))].mean(axis=1))

    return _repeat(means, times, count)


def _repeat(draw: Callable[[int], Values], times: int, width: int) -> Values:
    """Return `times` draws, each of `width` numbers, made in blocks of bounded memory."""
    step = max(1, _BLOCK // max(1, width))
    blocks = [draw(min(step, times - start)) for start in range(0, times, step)]
    return np.concatenate([np.zeros(0), *blocks])
