"""Filters as SQL/JSON paths, which PostgreSQL and Lance evaluate alike: of a list, one element is enough."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from o1_index.documents import Comparison

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names of fields that need no quoting anywhere."""


def json_paths(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return for each comparison paths of which one has to match; none for what has to be looked at later."""
    return [paths for paths in map(_paths, comparisons) if paths]


def _paths(comparison: Comparison) -> list[str]:
    values = comparison.value if comparison.how == "in" else [comparison.value]
    if not PLAIN.fullmatch(comparison.field) or not all(map(plain_value, values)):
        return []
    if isinstance(values[0], str) and comparison.how in ("<", "<=", ">", ">="):
        return []  # texts have another order in every engine
    how = "==" if comparison.how in ("=", "in") else comparison.how
    return [f'$."{comparison.field}" ? (@ {how} {json.dumps(value, ensure_ascii=False)})' for value in values]


def plain_value(value: object) -> bool:
    """Return whether every engine reads this value as it is: no quotes, backslashes or huge numbers in it."""
    if isinstance(value, str):
        return value.isprintable() and not set(value) & set("\"'\\")
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**53)
