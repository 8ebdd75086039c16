"""Scores of candidates by a language model, and the examples that they make.

ReasonEmbed, section 3.3: the annotator analyses the query, then the document, then gives an
integer from 1 to 5; from 3 on a document is a positive. A query without a positive or without a
negative is dropped, and so is an answer that is not in this form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO

import msgspec

from o1_records import Document, Example, Hit, Query, Record, Thought, write_jsonl
from o1_records.jsonl import encode
from o1_records.files import open_output
from o1_synth.generate import Answers, Job, Summary, think
from o1_synth.prompt import Message
from o1_synth.remix.documents import ExpertOf
from o1_synth.remix.domain import Domain
from o1_synth.remix.rubric import Pairs, RubricPrompt, ScoreChecks, pair_of, score_of

POSITIVE = 3  # and more


class Dropped(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query that made no example, and why; `scores` are those its candidates got."""

    key_fields = ("query_id",)
    query_id: str
    reason: str
    scores: tuple[int, ...] = ()


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """What an annotator wrote about a pair, as fine-tuning takes it: a chat and its score."""

    query_id: str
    doc_id: str
    score: int
    messages: list[Message]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """How an annotation ended: how many examples, how many queries without one by reason."""

    summary: Summary
    examples: int
    dropped: dict[str, int]


def path_of_dropped(out: str | Path) -> Path:
    """Where the queries without an example are listed."""
    return Path(out).with_name(Path(out).name + ".dropped.jsonl")


def annotate(
    queries: Iterable[Query],
    candidates: Iterable[Hit],
    documents: Iterable[Document],
    expert: ExpertOf,
    *,
    out: str | Path,
    domain: Domain | None = None,
    thoughts: Iterable[Thought] = (),
    distill: str | Path | None = None,
    template: str | Path = "remix_annotate",
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Annotated:
    """Score every candidate and write the examples to `out`, always in one order; resumes.

    The positives of an example, and its negatives, come by falling score, then by rank;
    `teacher_scores` are the scores. A query's first thought becomes the example's, and with the
    query its reasoning_query. `distill` gets a chat a pair. Queries without an example are listed
    in `<out>.dropped.jsonl`, answers without a score with the failures. Queries and the candidates'
    documents are held in memory.

    Raises InputError as `think` does, and for a candidate of an unknown query or document.
    """
    pairs = Pairs(queries, candidates, documents)
    prompt = RubricPrompt(pairs, template)
    maker = _Maker(pairs, prompt, thoughts, domain or Domain(), Path(out), distill)
    summary = think(
        pairs.asked(),
        expert(prompt=prompt),
        out=out,
        samples=1,
        concurrency=concurrency,
        progress=progress,
        job=replace(job or Job(), checks=ScoreChecks()),
        publish=maker.publish,
    )
    return Annotated(summary=summary, examples=maker.count, dropped=dict(maker.reasons))


class _Maker:
    """Makes examples of answers, and says which queries made none."""

    def __init__(
        self,
        pairs: Pairs,
        prompt: RubricPrompt,
        thoughts: Iterable[Thought],
        domain: Domain,
        out: Path,
        distill: str | Path | None,
    ) -> None:
        self._pairs, self._prompt, self._domain = pairs, prompt, domain
        self._out, self._distill = out, distill
        self._thoughts: dict[str, Thought] = {}
        for thought in thoughts:
            self._thoughts.setdefault(thought.query_id, thought)
        self.count, self.reasons = 0, Counter[str]()

    def publish(self, answers: Answers) -> None:
        """Write the trajectories, the examples and the list of what was dropped."""
        if self._distill is not None:
            with open_output(self._distill) as chats:
                for asked, said in answers():
                    chats.write(msgspec.json.encode(self._trajectory(asked, said)) + b"\n")
        with open_output(path_of_dropped(self._out)) as dropped:
            self.count = write_jsonl(self._out, self._examples(answers(), dropped))

    def _examples(self, answers: Iterable[tuple[Query, Thought]], dropped: IO[bytes]) -> Iterator[Example]:
        left = dict.fromkeys(self._pairs.queries)
        for query_id, group in groupby(answers, lambda answer: pair_of(answer[0].query_id)[0]):
            del left[query_id]
            scores = {pair_of(asked.query_id)[1]: _score(said) for asked, said in group}
            if example := self._example(query_id, scores):
                yield example
            else:
                reason = "no negative" if max(scores.values()) >= POSITIVE else "no positive"
                self._drop(dropped, Dropped(query_id=query_id, reason=reason, scores=tuple(scores.values())))
        for query_id in left:
            reason = "no score" if self._pairs.candidates[query_id] else "no candidate"
            self._drop(dropped, Dropped(query_id=query_id, reason=reason))

    def _example(self, query_id: str, scores: Mapping[str, int]) -> Example | None:
        """The example of a query, where it has a positive and a negative."""
        ranked = [doc_id for doc_id in self._pairs.candidates[query_id] if doc_id in scores]
        ranked.sort(key=lambda doc_id: -scores[doc_id])  # stable: by rank among equals
        documents = [self._pairs.documents[doc_id] for doc_id in ranked]
        positives = sum(score >= POSITIVE for score in scores.values())
        if positives in (0, len(ranked)):
            return None
        query, thought = self._pairs.queries[query_id], self._thoughts.get(query_id)
        return Example(
            query=query,
            positives=tuple(documents[:positives]),
            negatives=tuple(documents[positives:]),
            teacher_scores=tuple(float(scores[doc_id]) for doc_id in ranked),
            thought=thought,
            reasoning_query=f"{query.text}\n{thought.text}" if thought else "",
            dataset=self._domain.name,
            group_size=self._domain.group_size,
        )

    def _drop(self, file: IO[bytes], dropped: Dropped) -> None:
        file.write(encode(dropped, f"query {dropped.query_id!r}") + b"\n")
        self.reasons[dropped.reason] += 1

    def _trajectory(self, asked: Query, said: Thought) -> Trajectory:
        query_id, doc_id = pair_of(asked.query_id)
        answer = {"role": "assistant", "content": said.text}
        chat = [*self._prompt.messages(asked), answer]
        return Trajectory(query_id=query_id, doc_id=doc_id, score=_score(said), messages=chat)


def _score(said: Thought) -> int:
    score = score_of(said.text)
    assert score is not None  # the checks let nothing else pass
    return score
