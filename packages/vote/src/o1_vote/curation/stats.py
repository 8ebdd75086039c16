"""Counts of what training examples hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from o1_records import Example
from o1_records.kit.text import words

_QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "most": 1.0}


def stats(examples: Iterable[Example]) -> dict[str, Any]:
    """Count examples, their documents, and the words of their texts; memory stays bounded."""
    counts = dict.fromkeys(("examples", "with a thought", "with negatives", "with teacher scores"), 0)
    thinkers: Counter[str] = Counter()
    names = ("positives", "negatives", "query words", "thought words", "positive words")
    sizes: dict[str, Counter[int]] = {name: Counter() for name in names}
    for example in examples:
        counts["examples"] += 1
        counts["with a thought"] += example.thought is not None
        counts["with negatives"] += bool(example.negatives)
        counts["with teacher scores"] += bool(example.teacher_scores)
        sizes["positives"][len(example.positives)] += 1
        sizes["negatives"][len(example.negatives)] += 1
        sizes["query words"][len(words(example.query.text))] += 1
        if example.thought is not None:
            thinkers[example.thought.source.model] += 1
            sizes["thought words"][len(words(example.thought.text))] += 1
        for positive in example.positives:
            sizes["positive words"][len(words(positive.full_text))] += 1
    numbers = {name: _summary(sizes[name]) for name in names if sizes[name]}
    return {**counts, **numbers, "thoughts by model": dict(thinkers.most_common())}


def _summary(sizes: Mapping[int, int]) -> dict[str, float]:
    total = sum(sizes.values())
    mean = sum(size * count for size, count in sizes.items()) / total
    return {"mean": round(mean, 2), **{name: _quantile(sizes, q) for name, q in _QUANTILES.items()}}


def _quantile(sizes: Mapping[int, int], share: float) -> int:
    """Return the smallest size that at least this share does not exceed."""
    seen, total = 0, sum(sizes.values())
    for size in sorted(sizes):
        seen += sizes[size]
        if seen >= share * total:
            return size
    return max(sizes)
