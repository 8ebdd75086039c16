"""Scores of candidates by a language model, and the examples that they make.

ReasonEmbed, section 3.3: the annotator analyses the query, then the document, then gives an integer from 1 to
5; a document with 3 or more is a positive. A query without a positive or without a negative makes no example,
and an answer that is not in this form is no score. Several scores of a pair are averaged.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, ClassVar

import msgspec

from o1_records import (
    Document,
    Example,
    Hit,
    InputError,
    Query,
    Record,
    Thought,
    quoted,
    read_jsonl,
    write_jsonl,
)
from o1_records.files import open_output
from o1_records.flagembedding import write as write_flagembedding
from o1_records.jsonl import encode
from o1_synth.checks import Parses
from o1_synth.expert import ExpertOf
from o1_synth.job.scheduler import Answers, Job, Summary, path_beside, run_job
from o1_synth.prompt import template_digest
from o1_synth.remix.domain import Domain
from o1_synth.template import ANNOTATE, Message, Template, as_template

POSITIVE = 3.0  # the lowest score of a positive, in the paper

DROPPED = ".dropped.jsonl"
"""What follows the name of the examples in the name of the list of queries without one."""

_SCORE = re.compile(r"<score>(.*?)</score>", re.DOTALL)


class Pair(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query and one of its candidates, as the annotator is asked about it; `text` is the query's."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "doc_id")
    query_id: str
    doc_id: str
    text: str
    instruction: str = ""
    document_sha256: str = ""
    """Of the document's title and text, so that a changed document is noticed."""


class Pairs:
    """Queries with their candidates, the best first, and the documents of these.

    Raises InputError for a duplicate id, for a candidate whose query or document is missing, and for an id
    that contains a tab.
    """

    def __init__(
        self, queries: Iterable[Query], candidates: Iterable[Hit], documents: Iterable[Document]
    ) -> None:
        self.queries: dict[str, Query] = {}
        for query in queries:
            if self.queries.setdefault(query.query_id, query) is not query:
                raise InputError(f"duplicate query_id {quoted(query.query_id)}; keep one of them")
        ranked: dict[str, list[tuple[int, str]]] = {query_id: [] for query_id in self.queries}
        for hit in candidates:
            if hit.query_id not in ranked:
                raise InputError(
                    f"there is a candidate for query {quoted(hit.query_id)}, which is not among the queries"
                )
            ranked[hit.query_id].append((hit.rank, hit.doc_id))
        self.candidates = {query_id: [d for _, d in sorted(hits)] for query_id, hits in ranked.items()}
        wanted = {doc_id for doc_ids in self.candidates.values() for doc_id in doc_ids}
        for name in (*self.queries, *wanted):
            if "\t" in name:  # which separates the two in the key of a pair
                raise InputError(f"id {quoted(name)} contains a tab; rename it")
        self.documents: dict[str, Document] = {}
        for document in documents:
            known = document.doc_id in wanted and self.documents.setdefault(document.doc_id, document)
            if known and known is not document:
                raise InputError(f"duplicate doc_id {quoted(document.doc_id)}; keep one of them")
        if missing := wanted - self.documents.keys():
            raise InputError(
                f"{len(missing)} candidates are not in the corpus, {quoted(min(missing))} among them; give "
                "the corpus that was searched"
            )

    def __iter__(self) -> Iterator[Pair]:
        for query_id, doc_ids in self.candidates.items():
            query = self.queries[query_id]
            for doc_id in doc_ids:
                yield Pair(
                    query_id=query_id,
                    doc_id=doc_id,
                    text=query.text,
                    instruction=query.instruction,
                    document_sha256=hashlib.sha256(self.documents[doc_id].full_text.encode()).hexdigest(),
                )


class RubricPrompt:
    """Asks for the analysis of a pair and its score."""

    def __init__(
        self,
        pairs: Pairs,
        template: Template | str | Path = "remix_annotate",
        domain: Domain | None = None,
    ) -> None:
        domain = domain or Domain()
        self._documents = pairs.documents
        self._about = {
            "query_type": domain.query_type,
            "document_type": domain.document_type,
            "relevance": domain.relevance,
        }
        self.template = as_template(template, ANNOTATE)
        used = {name: self._about[name] for name in sorted(self._about.keys() & self.template.markers)}
        self.digest = template_digest(self.template, used)

    def messages(self, pair: Pair, sample: int = 0) -> list[Message]:
        """Return the question about a pair."""
        parts = {
            "instruction": pair.instruction,
            "query": pair.text,
            "document": self._documents[pair.doc_id].full_text,
        }
        return self.template.messages(parts | self._about)


def score_of(text: str) -> int | None:
    """Return the integer from 1 to 5 between <score> and </score>; None without one, or where two differ."""
    found = {tag.strip() for tag in _SCORE.findall(text)}
    score = found.pop() if len(found) == 1 else ""
    return int(score) if re.fullmatch("[1-5]", score) else None


class Dropped(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query that made no example, and why; `scores` are those of its candidates."""

    key_fields = ("query_id",)
    query_id: str
    reason: str
    scores: tuple[float, ...] = ()


class Judgement(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the annotator said of a pair: each score with its justification, and their mean."""

    key_fields = ("query_id", "doc_id")
    query_id: str
    doc_id: str
    score: float
    scores: tuple[int, ...]
    justifications: tuple[str, ...]


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """What an annotator wrote about a pair, as fine-tuning takes it: a chat and its score."""

    query_id: str
    doc_id: str
    score: int
    messages: list[Message]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """How an annotation ended: how many examples, and how many queries made none, by reason.

    `undecided` documents are neither positive nor negative, `agreement` is the share of pairs with several
    scores whose scores are all equal (None where there are none).
    """

    summary: Summary
    examples: int
    dropped: dict[str, int]
    undecided: int = 0
    agreement: float | None = None


def annotate(
    queries: Iterable[Query],
    candidates: Iterable[Hit],
    documents: Iterable[Document],
    expert: ExpertOf,
    *,
    out: str | Path,
    domain: Domain | None = None,
    scores: int = 1,
    positive: float = POSITIVE,
    negative: float | None = None,
    thoughts: Iterable[Thought] = (),
    judgements: str | Path | None = None,
    distill: str | Path | None = None,
    flagembedding: str | Path | None = None,
    template: Template | str | Path = "remix_annotate",
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Annotated:
    """Score every candidate and write the examples to `out`, always in the same order; resumes as `think`.

    The positives of an example, and its negatives, are ordered by falling score, then by rank;
    `teacher_scores` are the scores. Queries without an example are listed in `<out>.dropped.jsonl`, answers
    without a score with the failures. Queries, and the documents of candidates, are held in memory.

    Args:
        queries: queries with their instructions.
        candidates: which documents to score for which query.
        documents: the corpus.
        expert: makes an expert that asks with a prompt, as `functools.partial(ChatExpert, url, model)` does.
        out: JSONL of Example records.
        domain: says when a document is relevant, and gives the examples a dataset name and sizes.
        scores: how often each pair is scored; the mean of the scores counts.
        positive: the lowest mean of a positive.
        negative: the highest mean of a negative; what is between is left out. Default: all below `positive`.
        thoughts: the first of a query becomes the example's thought, and with the query its reasoning_query.
        judgements: a file for the scores of every pair and what the annotator said about each (Judgement).
        distill: a file for what the annotator wrote, one chat for each pair, to fine-tune another with.
        flagembedding: a file for the same examples in FlagEmbedding's format.
        template: the prompt; `remix_rubric` is another one. A file of your own has `{query}`, `{document}`
            and, optionally, `{instruction}`, `{relevance}`, `{query_type}` and `{document_type}`.
        concurrency: requests in flight.
        progress: show progress on stderr.
        job: see `Job`.

    Raises InputError as `think` does, and for a candidate whose query or document is missing.
    """
    if not 1 < positive <= 5 or (negative is not None and not 1 <= negative < positive):
        raise InputError(
            f"positive must be above 1 and at most 5, negative below it; got {positive}, {negative}"
        )
    domain = domain or Domain()
    pairs = Pairs(queries, candidates, documents)
    prompt = RubricPrompt(pairs, template, domain)
    first_thoughts: dict[str, Thought] = {}
    for thought in thoughts:
        first_thoughts.setdefault(thought.query_id, thought)
    examples = _Examples(pairs, first_thoughts, domain, positive, negative)
    dropped = path_beside(out, DROPPED)
    more = [Path(path) for path in (judgements, distill, flagembedding) if path is not None]

    def publish(answers: Answers[Pair]) -> None:
        if judgements is not None:
            write_jsonl(judgements, _judged(answers()))
        if distill is not None:
            with open_output(distill) as chats:
                for pair, said in answers():
                    chats.write(msgspec.json.encode(_trajectory(prompt, pair, said)) + b"\n")
        with open_output(dropped) as file:
            examples.count = write_jsonl(out, examples.made(_judged(answers()), file))
        if flagembedding is not None:
            write_flagembedding(flagembedding, read_jsonl(out, Example))

    summary = run_job(
        pairs,
        Pair,
        expert(prompt=prompt),
        Parses(score_of),
        command="remix annotate",
        outputs=[Path(out), dropped, *more],
        samples=scores,
        concurrency=concurrency,
        progress=progress,
        job=job or Job(),
        publish=publish,
    )
    return Annotated(
        summary=summary,
        examples=examples.count,
        dropped=dict(examples.reasons),
        undecided=examples.undecided,
        agreement=examples.equal / examples.several if examples.several else None,
    )


def _judged(answers: Iterable[tuple[Pair, Thought]]) -> Iterator[Judgement]:
    """Yield one judgement for each pair that has a score."""
    for (query_id, doc_id), group in groupby(answers, lambda answer: (answer[0].query_id, answer[0].doc_id)):
        said = [thought for _, thought in group]
        scores = tuple(map(_score, said))
        yield Judgement(
            query_id=query_id,
            doc_id=doc_id,
            score=sum(scores) / len(scores),
            scores=scores,
            justifications=tuple(thought.text for thought in said),
        )


class _Examples:
    """Makes examples of scores, and says which queries made none."""

    def __init__(
        self,
        pairs: Pairs,
        thoughts: Mapping[str, Thought],
        domain: Domain,
        positive: float,
        negative: float | None,
    ) -> None:
        self._pairs, self._thoughts, self._domain = pairs, thoughts, domain
        self._positive, self._negative = positive, negative
        self.count, self.reasons = 0, Counter[str]()
        self.undecided = self.several = self.equal = 0

    def made(self, judgements: Iterable[Judgement], dropped: IO[bytes]) -> Iterator[Example]:
        """Yield the examples, ordered by query_id; list the other queries in `dropped`."""
        left = dict.fromkeys(self._pairs.queries)
        for query_id, group in groupby(judgements, lambda judgement: judgement.query_id):
            del left[query_id]
            scores: dict[str, float] = {}
            for judgement in group:
                scores[judgement.doc_id] = judgement.score
                if len(judgement.scores) > 1:
                    self.several += 1
                    self.equal += len(set(judgement.scores)) == 1
            if example := self._example(query_id, scores):
                yield example
            else:
                reason = "no negative" if max(scores.values()) >= self._positive else "no positive"
                self._drop(dropped, Dropped(query_id=query_id, reason=reason, scores=tuple(scores.values())))
        for query_id in left:
            reason = "no score" if self._pairs.candidates[query_id] else "no candidate"
            self._drop(dropped, Dropped(query_id=query_id, reason=reason))

    def _example(self, query_id: str, scores: Mapping[str, float]) -> Example | None:
        """Return the example of a query, if it has a positive and a negative."""
        ranked = [doc_id for doc_id in self._pairs.candidates[query_id] if doc_id in scores]
        ranked.sort(key=lambda doc_id: -scores[doc_id])  # stable: by rank among equals
        positives = [doc_id for doc_id in ranked if scores[doc_id] >= self._positive]
        rest = ranked[len(positives) :]
        negatives = [it for it in rest if self._negative is None or scores[it] <= self._negative]
        self.undecided += len(rest) - len(negatives)
        if not positives or not negatives:
            return None
        query, thought = self._pairs.queries[query_id], self._thoughts.get(query_id)
        return Example(
            query=query,
            positives=tuple(self._pairs.documents[doc_id] for doc_id in positives),
            negatives=tuple(self._pairs.documents[doc_id] for doc_id in negatives),
            teacher_scores=tuple(scores[doc_id] for doc_id in (*positives, *negatives)),
            thought=thought,
            reasoning_query=f"{query.text}\n{thought.text}" if thought else "",
            dataset=self._domain.name,
            group_size=self._domain.group_size,
            batch_size=self._domain.batch_size,
        )

    def _drop(self, file: IO[bytes], dropped: Dropped) -> None:
        file.write(encode(dropped, f"query {dropped.query_id!r}") + b"\n")
        self.reasons[dropped.reason] += 1


def _trajectory(prompt: RubricPrompt, pair: Pair, said: Thought) -> Trajectory:
    chat = [*prompt.messages(pair), {"role": "assistant", "content": said.text}]
    return Trajectory(query_id=pair.query_id, doc_id=pair.doc_id, score=_score(said), messages=chat)


def _score(said: Thought) -> int:
    score = score_of(said.text)
    assert score is not None  # the checks let nothing else pass
    return score
