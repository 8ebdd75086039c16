"""What a thought is worth: how much better its query finds its documents with the thought mixed in.

For expert iteration, preference pairs and reinforcement learning (`runs/thinker.py`). A vector's margin is

    t * logsumexp(s_p / t) - t * logsumexp(s_n / t)     over relevant documents p and all others n

and a thought's reward is the margin of the mixture less that of the query alone. Unlike nDCG it tells
thoughts apart that move no document across another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from o1_model.retriever.judged import Judged
from o1_model.retriever.retriever import ThinkingRetriever
from o1_records import InputError, Thought
from o1_records.kit.controls import copied_thoughts, shuffled_thoughts

Measure = Literal["margin", "nDCG@10"]
MEASURES: tuple[Measure, ...] = ("margin", "nDCG@10")
Floats = NDArray[np.float64]


class Reward:
    """Rewards of thoughts about judged queries, by one retriever and its mixture.

    Args:
        retriever: its embedder and mixture count; it needs no thinker.
        judged: the queries and the corpus (`o1_model.retriever.judged.open_judged`).
        measure: "margin", or "nDCG@10".
        temperature: t of the margin.

    Raises:
        InputError: an unknown measure, or a temperature that is not above 0.
    """

    def __init__(
        self,
        retriever: ThinkingRetriever,
        judged: Judged,
        *,
        measure: Measure = "margin",
        temperature: float = 0.05,
    ) -> None:
        if measure not in MEASURES:
            raise InputError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        if temperature <= 0:
            raise InputError(f"temperature must be above 0, got {temperature}")
        self._retriever, self._judged, self._measure = retriever, judged, measure
        self._temperature = temperature
        self._documents = retriever.embedder.documents(judged.documents)
        self._v_q = retriever.embedder.queries(judged.queries)
        self._places = {query.query_id: place for place, query in enumerate(judged.queries)}
        self.base: Floats = self._values(range(len(judged.queries)), self._v_q)

    def __call__(self, query_ids: Sequence[str], thoughts: Sequence[str]) -> Floats:
        """Return the reward of each thought about the query beside it; a blank one has 0.

        Raises InputError for a query that is not judged here.
        """
        if unknown := [query_id for query_id in query_ids if query_id not in self._places]:
            raise InputError(f"query {unknown[0]!r} is not among the judged queries")
        places = [self._places[query_id] for query_id in query_ids]
        texts = [[thought] if thought.strip() else [] for thought in thoughts]
        queries = [self._judged.queries[place] for place in places]
        mixed = self._retriever.mix(queries, self._v_q[places], texts)
        rewards = self._values(places, mixed) - self.base[places]
        rewards[[not own for own in texts]] = 0
        return rewards

    def _values(self, places: Sequence[int], vectors: NDArray[np.float32]) -> Floats:
        """Return the measure of vectors that stand for the queries at these places."""
        found = np.zeros(len(places))
        for start in range(0, len(places), 64):
            part = slice(start, start + 64)
            scores = self._judged.without_itself(vectors[part] @ self._documents.T, places[part])
            if self._measure == "nDCG@10":
                found[part] = self._judged.ndcg(scores, places[part])
            else:
                relevant = [self._judged.relevant[place] for place in places[part]]
                found[part] = [self._margin(own, right) for own, right in zip(scores, relevant, strict=True)]
        return found

    def _margin(self, scores: NDArray[np.float32], relevant: Mapping[int, int]) -> float:
        scaled = scores.astype(np.float64) / self._temperature
        right = np.zeros(len(scaled), dtype=bool)
        right[list(relevant)] = True
        if right.all():
            return 0.0
        return self._temperature * float(
            np.logaddexp.reduce(scaled[right]) - np.logaddexp.reduce(scaled[~right])
        )


@dataclass(frozen=True)
class Elected:
    """The best thought of a query, and one that is worse by `gap`, if there is any."""

    query_id: str
    text: str
    reward: float
    worse: str = ""
    gap: float = 0.0


@dataclass(frozen=True)
class Election:
    """The elected thoughts, and how often each control would have won in their place."""

    elected: Sequence[Elected]
    queries: int
    lost_to: Mapping[str, int]


def elect(reward: Reward, judged: Judged, thoughts: Mapping[str, Sequence[Thought]]) -> Election:
    """Elect each query's best thought, where it is worth more than none and than the controls.

    The controls are no thought, the query's own text, and the best thought of another query: one that
    does not beat them is worth nothing, and its query elects none.
    """
    known = {
        query.query_id: list(dict.fromkeys(thought.text for thought in thoughts[query.query_id]))
        for query in judged.queries
        if thoughts.get(query.query_id)
    }
    controls = {"copy": copied_thoughts(known, judged.queries)}
    if len(known) > 1:
        controls["other"] = shuffled_thoughts(known)
    best = {name: _best(reward, texts) for name, texts in controls.items()}
    lost = dict.fromkeys(("none", *controls), 0)
    elected = []
    for query_id, texts in known.items():
        rewards = reward([query_id] * len(texts), texts)
        top, least = int(rewards.argmax()), int(rewards.argmin())
        rivals = {"none": 0.0, **{name: own[query_id] for name, own in best.items()}}
        winner = max(rivals, key=lambda name: rivals[name])
        if rewards[top] <= rivals[winner]:
            lost[winner] += 1
            continue
        gap = float(rewards[top] - rewards[least])
        elected.append(
            Elected(query_id, texts[top], float(rewards[top]), texts[least] if gap > 0 else "", gap)
        )
    return Election(elected, len(known), lost)


def _best(reward: Reward, thoughts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    return {
        query_id: float(reward([query_id] * len(texts), list(texts)).max())
        for query_id, texts in thoughts.items()
    }
