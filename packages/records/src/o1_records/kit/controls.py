"""Thoughts that should not help: what a gain through thinking must be compared with.

Thoughts are texts by query_id here, not records, because the empty thought is one of them and a `Thought` is
never blank: `{"q1": ["first thought", "second thought"], ...}`. Each control keeps the queries and the number
of thoughts of each, so that sampling and averaging cost the same and smooth alike. Every function is pure;
none depends on the order of the mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice

from o1_records.files import InputError, quoted
from o1_records.keys import draw
from o1_records.types import Query

Texts = dict[str, list[str]]

# Lucene's stop words only: no content, and BM25 ignores them
_FILLER = ("and", "then", "it", "is", "as", "it", "was", "and", "that", "is", "not", "it", "is")


def empty_thoughts(thoughts: Mapping[str, Sequence[str]]) -> Texts:
    """Return as many empty thoughts for each query as it has: what does having a thought at all do?"""
    return {query_id: [""] * len(texts) for query_id, texts in thoughts.items()}


def shuffled_thoughts(thoughts: Mapping[str, Sequence[str]], seed: int = 0) -> Texts:
    """Return for each query all thoughts of another query, never its own: does their content matter?

    `seed` decides an order of the queries, and each query takes the thoughts of the next one. Raises
    InputError where there are fewer than two queries.
    """
    if len(thoughts) < 2:
        raise InputError(
            f"shuffling needs the thoughts of two queries or more, got {quoted(sorted(thoughts))}"
        )
    circle = sorted(thoughts, key=lambda query_id: (draw(f"{seed} {query_id}"), query_id))
    other = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    return {query_id: list(thoughts[other[query_id]]) for query_id in thoughts}


def filler_thoughts(thoughts: Mapping[str, Sequence[str]]) -> Texts:
    """Return thoughts of as many words without content: what does length alone do?"""
    return {
        query_id: [" ".join(islice(cycle(_FILLER), len(text.split()))) for text in texts]
        for query_id, texts in thoughts.items()
    }


def copied_thoughts(thoughts: Mapping[str, Sequence[str]], queries: Iterable[Query]) -> Texts:
    """Return each query's own text for each of its thoughts: does a thought do more than the query again?

    Raises InputError for a query with thoughts that is not among the queries.
    """
    text_of = {query.query_id: query.text for query in queries}
    if missing := [query_id for query_id in thoughts if query_id not in text_of]:
        raise InputError(f"no text of query {quoted(missing[0])}, which has thoughts; give all queries")
    return {query_id: [text_of[query_id]] * len(texts) for query_id, texts in thoughts.items()}
