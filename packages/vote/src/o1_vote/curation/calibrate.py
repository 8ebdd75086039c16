"""How far each member can be trusted: by its agreement with held-out relevance."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from o1_records import InputError
from o1_vote.election.elect import refuse_like_named
from o1_vote.election.nominate import Nomination
from o1_vote.members.protocol import Retriever, Searcher

_AT_A_TIME = 64


def calibrate(
    nominations: Sequence[Nomination],
    members: Sequence[Retriever],
    doc_ids: Sequence[str],
    *,
    hardest: int = 10,
    at_random: int = 90,
    seed: int = 0,
) -> dict[str, float]:
    """Map each member to its weight: the mean reciprocal rank of the best positive of held-out queries.

    All members rank the same pool of a query: its positives, the `hardest` documents of each member
    that can search, and `at_random` others of `doc_ids`. Documents that tie with the positive rank before
    it. Raises InputError where there are no queries and where two members have one name.
    """
    refuse_like_named(member.name for member in members)
    if not nominations:
        raise InputError("no held-out query has a positive document; there is nothing to calibrate with")
    found: dict[str, list[float]] = {member.name: [] for member in members}
    for start in range(0, len(nominations), _AT_A_TIME):
        some = nominations[start : start + _AT_A_TIME]
        pools = _pools(some, members, doc_ids, hardest, at_random, seed)
        for member in members:
            pairs = [(n.query.text, d) for n, pool in zip(some, pools, strict=True) for d in pool]
            scores = np.split(member.similarities(pairs), np.cumsum([len(pool) for pool in pools])[:-1])
            for nomination, own in zip(some, scores, strict=True):
                positives = len(nomination.positives)
                above = int((own[positives:] >= own[:positives].max()).sum())
                found[member.name].append(1 / (1 + above))
    return {name: round(float(np.mean(values)), 6) for name, values in found.items()}


def _pools(
    nominations: Sequence[Nomination],
    members: Sequence[Retriever],
    doc_ids: Sequence[str],
    hardest: int,
    at_random: int,
    seed: int,
) -> list[list[str]]:
    """Return for each query its positives, then the others."""
    pools = []
    for nomination in nominations:
        choose = random.Random(f"{seed} {nomination.query.query_id}")
        positives = [document.doc_id for document in nomination.positives]
        others = choose.sample(doc_ids, min(at_random, len(doc_ids)))
        pools.append(dict.fromkeys([*positives, *others]))
    texts = [nomination.query.text for nomination in nominations]
    for member in members:
        if isinstance(member, Searcher):
            for pool, found in zip(pools, member.search(texts, hardest), strict=True):
                pool.update(dict.fromkeys(found.doc_ids))
    return [list(pool) for pool in pools]
