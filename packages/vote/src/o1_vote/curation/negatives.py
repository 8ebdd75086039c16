"""Mining hard negatives that are no false ones, by the scores of several members.

Positive-aware, as in NV-Retriever (arXiv 2407.15831): a document that scores too close to the positive is
likely to be relevant and is left out, here if any one of the members scores it so. A member that does not
match a query, or none of its positives, has no opinion about it and no vote.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import Document, Example, InputError, quoted, write_jsonl
from o1_records.kit.cluster import Cluster
from o1_records.kit.fusion import standard_scores
from o1_records.kit.job import Database, Job
from o1_vote._job import Published, described, files_of, fingerprint_of, identified, publish
from o1_vote.election.cluster import Spread
from o1_vote.election.elect import refuse_like_named
from o1_vote.election.nominate import Nomination, Nominations, Reason
from o1_vote.measure import Copies, as_instructed
from o1_vote.members.protocol import Member, Retriever, Searcher, loaded

Teacher = Callable[[str, Sequence[str]], tuple[float, ...]]
"""Scores of the documents, by doc_id, for a text."""
Search: TypeAlias = "Callable[[Sequence[Nomination]], Iterator[Mined]]"
Scores: TypeAlias = NDArray[np.float32]

BLOCK = 64
"""Queries that are searched at a time: memory stays bounded, and a kill loses no more work."""

NO_QUERY = "the query has no text to search with"
NO_MATCH = "no document but its positives matches the query"
NO_OPINION = "no member matches a positive of the query, so nothing says which documents are too close to it"
ITSELF = "the query itself"
NONE_SAFE = "no document of the window is a safe hard negative"

_SCHEMA = "CREATE TABLE IF NOT EXISTS mined (place INTEGER PRIMARY KEY, body BLOB NOT NULL);"
_AT_MOST = 100_000
"""Scores of a member that quantiles are taken of; of more, evenly spaced ones."""


@dataclass(frozen=True)
class Mining:
    """What counts as a hard negative of a query.

    Attributes:
        count: how many are taken: the hardest, or with `seed` a random sample.
        first: the lowest rank of a negative for some member, among the documents that are not known to be
            positive.
        last: the highest such rank.
        margin: for every member a negative scores so much less than the lowest-scored positive it matches.
        relative: for every member it scores at most this share (0 to 1) of that positive.
        near: it shares less than this part (above 0, at most 1) of its shingles with every positive.
        seed: of the sample; a query's sample does not depend on the other queries.
        max_score: the most that a negative may score: for the only member, or by the names of members.
        min_score: the least that it may score, likewise.
        full: leave out the queries that get fewer than `count`, so that all examples have equally many.
        keep: begin with the negatives that an example has already; they count, and are not judged again. Such
            an example is written even where nothing is found. What is excluded or positive is not kept.
    """

    count: int = 15
    first: int = 1
    last: int = 100
    margin: float | None = None
    relative: float | None = 0.95
    near: float = 0.8
    seed: int | None = None
    max_score: float | Mapping[str, float] | None = None
    min_score: float | Mapping[str, float] | None = None
    full: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty window, and limits that would let through what is no negative."""
        if self.count < 1:
            raise InputError(f"count must be 1 or more, got {self.count}")
        if not 1 <= self.first <= self.last:
            raise InputError(f"ranks must be 1 <= first <= last, got {self.first} and {self.last}")
        if self.relative is not None and not 0 <= self.relative <= 1:
            raise InputError(f"relative must be between 0 and 1, got {self.relative}")
        if not 0 < self.near <= 1:
            raise InputError(f"near must be above 0 and at most 1, got {self.near}")
        for name in ("margin", "max_score", "min_score"):
            value = getattr(self, name)
            for number in value.values() if isinstance(value, Mapping) else [value]:
                if number is not None and not math.isfinite(number):
                    raise InputError(f"{name} must be a finite number, got {number}")

    def bounds(self, names: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Return the least and the most that a negative may score, by member.

        Raises InputError for a bound of nobody, and for one without a name where there are several members.
        """
        found = {name: [-math.inf, math.inf] for name in names}
        for side, option in enumerate(("min_score", "max_score")):
            value = getattr(self, option)
            if value is None:
                continue
            if not isinstance(value, Mapping):
                if len(names) > 1:
                    raise InputError(
                        f"{option} {value} could be of any of {', '.join(names)}, whose scales differ; give "
                        f"it with a name: {names[0]}={value}"
                    )
                value = {names[0]: value}
            for name, number in value.items():
                if name not in found:
                    raise InputError(
                        f"{option}: no member is called {quoted(name)}; there are {', '.join(names)}"
                    )
                found[name][side] = number
        return {name: (low, high) for name, (low, high) in found.items()}


class Mined(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for one query: an example, or the reason why there is none.

    Attributes:
        example: with its negatives.
        reason: why there is none.
        scores: by member, of the positives and of the negatives.
        skipped: documents of the windows that were no negatives, by why not.
        dropped: negatives that the example had before and has no longer.
        unscored: the example had teacher scores, and has a document now that they do not say anything about.
    """

    example: Example | None = None
    reason: Reason | None = None
    scores: dict[str, tuple[list[float], list[float]]] = {}
    skipped: dict[str, int] = {}
    dropped: int = 0
    unscored: bool = False


_MINED = msgspec.json.Decoder(Mined)


@overload
def mine(
    nominations: Iterable[Nomination],
    members: Sequence[Member],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]] | None = ...,
    with_thought: bool = ...,
    teacher: Teacher | str | None = ...,
) -> Iterator[Example | Reason]: ...


@overload
def mine(
    nominations: Iterable[Nomination],
    members: Sequence[Member],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]] | None = ...,
    with_thought: bool = ...,
    teacher: Teacher | str | None = ...,
    out: str | Path,
    reasons: str | Path,
    cluster: Cluster | None = ...,
    new_job: bool = ...,
    progress: bool = ...,
) -> Published: ...


def mine(
    nominations: Iterable[Nomination],
    members: Sequence[Member],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]] | None = None,
    with_thought: bool = False,
    teacher: Teacher | str | None = None,
    out: str | Path | None = None,
    reasons: str | Path | None = None,
    cluster: Cluster | None = None,
    new_job: bool = False,
    progress: bool = False,
) -> Iterator[Example | Reason] | Published:
    """Find for each nomination an example with its negatives, or the reason why it has none.

    An example keeps the nomination's thought where there is exactly one, and everything that the example it
    comes from has beyond documents and scores. Documents that tie take the order of hits: doc_id descending.

    With `out` the mining is a job (`OUT.job`), as an election is: a call that was killed is continued by the
    same call, one that is finished returns at once, and what a job was made from is compared in the same way;
    see `o1_vote.elect`.

    Args:
        nominations: a sequence, or `Nominations`, whose left out queries are listed in `reasons` too.
        members: who searches, and whose limits a negative keeps. One that cannot search, such as a
            cross-encoder, judges what the others found.
        documents: where the text of a negative is looked up.
        mining: what counts as a negative.
        excluded: doc_ids by query_id that are never taken.
        with_thought: search with query and thought.
        teacher: writes teacher scores: a function, the name of a member, or "committee", the mean of the
            members' standard scores.
        out: JSONL of examples to write.
        reasons: JSONL of the queries that have no negatives; needed with `out`.
        cluster: with `out` and `Nominations`, let the workers of a Ray cluster search. Members are lazy ones
            then, and `documents` those of the nominations.
        new_job: move earlier work made from something else aside, instead of refusing to continue it.
        progress: show on stderr how many queries are done.

    Returns:
        The examples and reasons in order, or with `out` what was written.

    Raises:
        ChangedJobError: there is earlier work that was made from something else.
        InputError: no member can search, the teacher is unknown, another process works on the job.
    """
    names = [member.name for member in members]
    refuse_like_named(names)
    mining.bounds(names)
    if isinstance(teacher, str) and teacher not in ("committee", *names):
        raise InputError(f"teacher {quoted(teacher)} is none of committee, {', '.join(names)}")

    def prepared(folder: Path | None) -> Search:
        return functools.partial(
            mine_block,
            members=loaded(members, documents, folder),
            documents=documents,
            mining=mining,
            excluded=excluded or {},
            with_thought=with_thought,
            teacher=teacher,
        )

    if out is None and cluster is not None:
        raise InputError("a cluster works on files; give out, the file of the examples, too")
    if out is None:
        search = prepared(None)
        found = (mined for block in _blocks(nominations) for mined in search(block))
        return (record for mined in found if (record := mined.example or mined.reason) is not None)
    if reasons is None:
        raise InputError("out needs reasons, the file of queries that have no negatives; give it, too")
    if isinstance(nominations, Nominations):
        inputs = nominations.made_from()
    else:
        nominations = identified(nominations)
        inputs = {"nominations": nominations.fingerprint}
    inputs["documents"] = fingerprint_of(documents)
    inputs["excluded"] = fingerprint_of(excluded or {})
    made_from = {
        **{f"{name} sha256": digest for name, digest in inputs.items()},
        **(nominations.settings if isinstance(nominations, Nominations) else {}),
        **{field.name: repr(getattr(mining, field.name)) for field in dataclasses.fields(mining)},
        "with_thought": repr(with_thought),
        "teacher": described(teacher),
        **{f"member {member.name}": described(member) for member in members},
    }

    def work(job: Job, published: Published) -> None:
        start = job.db.row("SELECT count(*) FROM mined")[0]
        if cluster is None:
            blocks = _mined_here(nominations, lambda: prepared(job.folder / "members"), start)
        elif not isinstance(nominations, Nominations):
            raise InputError("a cluster needs the nominations as Nominations; give them so")
        else:
            how: dict[str, Any] = {"mining": mining, "excluded": excluded or {}, "with_thought": with_thought}
            do = functools.partial(_mine_there, **how, teacher=teacher)
            spread = Spread(cluster, members, nominations, job.folder)
            blocks = spread.rows(do, start=start, rows=BLOCK)
        _mine(job.db, blocks, start, len(nominations) if isinstance(nominations, Sized) else None, progress)
        examples = (mined.example for mined in _mined(job.db) if mined.example is not None)
        write_jsonl(out, published.counted(examples))
        before = nominations.reasons() if isinstance(nominations, Nominations) else ()
        without = (mined.reason for mined in _mined(job.db) if mined.reason is not None)
        published.left_out = write_jsonl(reasons, itertools.chain(before, without))
        if isinstance(nominations, Nominations):
            published.shared = nominations.shared
        published.told = list(summary(_mined(job.db), mining))

    return publish(
        out,
        made_from,
        work,
        beside={"reasons": reasons},
        reading=files_of(nominations),
        schema=_SCHEMA,
        new_job=new_job,
    )


def mine_block(
    nominations: Sequence[Nomination],
    members: Sequence[Retriever],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]],
    with_thought: bool = False,
    teacher: Teacher | str | None = None,
) -> Iterator[Mined]:
    """Yield what is found for each nomination. Pure, so that any driver may deal out blocks."""
    if not any(isinstance(member, Searcher) for member in members):
        names = ", ".join(member.name for member in members)
        raise InputError(f"none of {names} can search a corpus; add bm25, static or st:MODEL")
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, nomination in enumerate(nominations):
        groups[nomination.query.instruction].append(place)
    found: dict[int, Mined] = {}
    for instruction, places in groups.items():
        hunt = _Hunt([as_instructed(member, instruction) for member in members], documents, mining, teacher)
        asked = [
            _Asked(
                nominations[place],
                _text(nominations[place], with_thought),
                frozenset(excluded.get(nominations[place].query.query_id, ())),
            )
            for place in places
        ]
        found |= zip(places, hunt.mined(asked), strict=True)
    yield from (found[place] for place in range(len(nominations)))


def committee_teacher(members: Sequence[Retriever]) -> Teacher:
    """Return a teacher that averages the members' standard scores over the documents of an example."""

    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        pairs = [(text, doc_id) for doc_id in doc_ids]
        sheets: list[dict[str | None, float]]
        sheets = [dict(zip(doc_ids, member.similarities(pairs).tolist(), strict=True)) for member in members]
        own = [standard_scores(sheet) for sheet in sheets]
        return tuple(sum(scores[doc_id] for scores in own) / len(own) for doc_id in doc_ids)

    return teach


def summary(mined: Iterable[Mined], mining: Mining) -> Iterator[str]:
    """Yield lines about a whole mining: short examples, what was left out and why, the scores of members."""
    examples = short = dropped = unscored = 0
    skipped: Counter[str] = Counter()
    scores: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for each in mined:
        skipped.update(each.skipped)
        if each.example is None:
            continue
        examples += 1
        short += len(each.example.negatives) < mining.count
        dropped, unscored = dropped + each.dropped, unscored + each.unscored
        for member, (positives, negatives) in each.scores.items():
            scores[member, "positives"] += positives
            scores[member, "negatives"] += negatives
    yield f"{short:,} of {examples:,} examples have fewer than {mining.count} negatives"
    if skipped:
        told = ", ".join(f"{number:,} {why}" for why, number in skipped.most_common())
        yield f"documents of the windows that are no negatives: {told}"
    if dropped:
        why = "taken out: excluded, or positive" if mining.keep else "replaced (--keep-negatives keeps them)"
        yield f"{dropped:,} negatives that the examples had are {why}"
    if unscored:
        yield f"{unscored:,} examples had teacher scores, and have new documents without one (see --teacher)"
    if scores:
        names = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")
        yield "".join([f"{'scores of':<34}", *(f"{name:>10}" for name in names)])
        for (member, kind), values in sorted(scores.items()):
            yield f"{f'{member}, {kind}'[:33]:<34}" + "".join(f"{value:>10}" for value in _statistics(values))


def _statistics(values: Sequence[float]) -> list[str]:
    own = np.array(values, dtype=np.float64)
    some = own[:: max(1, len(own) // _AT_MOST)]
    quartiles = np.quantile(some, [0.25, 0.5, 0.75]) if len(own) else [math.nan] * 3
    numbers = [own.mean(), own.std(), own.min(), *quartiles, own.max()] if len(own) else [math.nan] * 7
    return [f"{len(own):,}", *(f"{number:.4f}" for number in numbers)]


@dataclass(frozen=True)
class _Asked:
    """A query to mine for: the text that is searched with, and what is never taken."""

    nomination: Nomination
    text: str
    excluded: frozenset[str]

    @property
    def hidden(self) -> frozenset[str]:
        own = self.nomination
        return self.excluded | {document.doc_id for document in own.positives} | own.beside


@dataclass(frozen=True)
class _Opinion:
    """What one member says of the candidates of one query: their scores, and which are too close or far."""

    member: str
    scores: dict[str, float]
    low: float
    high: float
    limit: float

    def objection(self, doc_id: str) -> str:
        """Return why a document is no negative; empty where it may be one."""
        score = self.scores[doc_id]
        if score > self.limit:
            return f"too close to a positive for {self.member}"
        if score > self.high:
            return f"above {self.high:g} for {self.member}"
        return f"below {self.low:g} for {self.member}" if score < self.low else ""


class _Hunt:
    """Members that look for negatives of queries with one instruction."""

    def __init__(
        self,
        members: Sequence[Retriever],
        documents: Mapping[str, Document],
        mining: Mining,
        teacher: Teacher | str | None,
    ) -> None:
        self._members, self._documents, self._mining = members, documents, mining
        self._searchers = [member for member in members if isinstance(member, Searcher)]
        self._judges = [member for member in members if not isinstance(member, Searcher)]
        self._bounds = mining.bounds([member.name for member in members])
        self._copies = Copies(documents, mining.near)
        self._teacher = teacher
        if isinstance(teacher, str):
            by_name = {member.name: member for member in members}
            self._teacher = (
                committee_teacher(members) if teacher == "committee" else _taught(by_name[teacher])
            )

    def mined(self, asked: Sequence[_Asked]) -> Iterator[Mined]:
        """Yield what is found for each query."""
        width = self._mining.last + max(len(each.hidden) for each in asked)
        texts = [each.text for each in asked]
        found = [list(searcher.search(texts, width)) for searcher in self._searchers]
        windows = [
            [self._window(each, own.doc_ids) for each, own in zip(asked, hits, strict=True)] for hits in found
        ]
        candidates = [_in_turns(own) for own in zip(*windows, strict=True)]
        opinions = [
            self._opinions(searcher, asked, candidates, [bool(own.doc_ids) for own in hits])
            for searcher, hits in zip(self._searchers, found, strict=True)
        ]
        per_query = zip(*opinions, strict=True), zip(*found, strict=True)
        for each, names, own, hits_of in zip(asked, candidates, *per_query, strict=True):
            mined = self._decided(each, names, [opinion for opinion in own if opinion is not None])
            itself = {each.nomination.query.query_id} & each.nomination.beside
            if any(itself.intersection(hits.doc_ids) for hits in hits_of):
                mined = msgspec.structs.replace(mined, skipped={**mined.skipped, ITSELF: 1})
            yield mined

    def _window(self, asked: _Asked, doc_ids: Sequence[str]) -> list[str]:
        """Return the documents at ranks first to last of those that are not hidden."""
        hidden = asked.hidden
        free = [name for name in doc_ids if name not in hidden]
        return free[self._mining.first - 1 : self._mining.last]

    def _opinions(
        self,
        member: Retriever,
        asked: Sequence[_Asked],
        candidates: Sequence[Sequence[str]],
        found: Sequence[bool],
    ) -> list[_Opinion | None]:
        """Return what a member says about each query, or None where it matches nothing."""
        groups = [
            [*(document.doc_id for document in each.nomination.positives), *names] if matches else []
            for each, names, matches in zip(asked, candidates, found, strict=True)
        ]
        self._refuse_strangers(member, asked)
        pairs = [(each.text, name) for each, group in zip(asked, groups, strict=True) for name in group]
        scores = np.split(member.similarities(pairs), np.cumsum([len(group) for group in groups])[:-1])
        return [
            self._opinion(member, each, dict(zip(group, own.tolist(), strict=True))) if group else None
            for each, group, own in zip(asked, groups, scores, strict=True)
        ]

    def _opinion(self, member: Retriever, asked: _Asked, scores: dict[str, float]) -> _Opinion:
        low, high = self._bounds[member.name]
        own = [scores[document.doc_id] for document in asked.nomination.positives]
        # to a searcher 0 is no match, and a positive that it does not match says nothing about the others
        known = [score for score in own if score != 0] if isinstance(member, Searcher) else own
        return _Opinion(
            member.name, scores, low, high, _limit(min(known), self._mining) if known else math.inf
        )

    def _decided(self, asked: _Asked, names: Sequence[str], opinions: Sequence[_Opinion]) -> Mined:
        mining, nomination = self._mining, asked.nomination
        query_id = nomination.query.query_id
        limited = mining.relative is not None or mining.margin is not None
        known = any(opinion.limit < math.inf for opinion in opinions) or bool(self._judges)
        before = self._kept(asked)
        if not asked.text.strip() or not names or (limited and not known):
            if not before:
                why = NO_QUERY if not asked.text.strip() else NO_OPINION if names else NO_MATCH
                return Mined(reason=Reason(query_id=query_id, reason=why))
            names = ()  # nothing is found, and what is kept is all
        if mining.seed is not None:
            names = list(names)
            random.Random(f"{mining.seed} {query_id}").shuffle(names)
        skipped: Counter[str] = Counter()
        safe = self._safe([name for name in names if name not in before], asked, opinions, skipped)
        negatives = [*before, *itertools.islice(safe, max(0, mining.count - len(before)))]
        if not negatives or (mining.full and len(negatives) < mining.count):
            why = f"only {len(negatives)} of {mining.count} negatives" if negatives else NONE_SAFE
            return Mined(reason=Reason(query_id=query_id, reason=why), skipped=dict(skipped))
        return self._example(asked, negatives, before, opinions, skipped)

    def _safe(
        self,
        names: Sequence[str],
        asked: _Asked,
        opinions: Sequence[_Opinion],
        skipped: Counter[str],
    ) -> Iterator[str]:
        """Yield the documents that no member objects to and that are no copies of a positive, in order."""
        fit = []
        for name in names:
            objection = next((why for opinion in opinions if (why := opinion.objection(name))), "")
            if objection:
                skipped[objection] += 1
            else:
                fit.append(name)
        positives = asked.nomination.positives

        def distinct() -> Iterator[str]:
            for name in fit:
                if self._copies.of_any(name, positives):
                    skipped["near-copies of a positive, or empty"] += 1
                else:
                    yield name

        if not self._judges:
            yield from distinct()
            return
        remaining = distinct()
        while some := list(itertools.islice(remaining, self._mining.count)):  # judges are slow
            judged = [self._opinions(judge, [asked], [some], [True])[0] for judge in self._judges]
            for name in some:
                why = next((why for own in judged if own is not None and (why := own.objection(name))), "")
                if why:
                    skipped[why] += 1
                else:
                    yield name

    def _kept(self, asked: _Asked) -> list[str]:
        """Return the negatives that an example has and keeps: those that are not hidden."""
        example = asked.nomination.example
        if not self._mining.keep or example is None:
            return []
        return [d.doc_id for d in example.negatives if d.doc_id not in asked.hidden]

    def _example(
        self,
        asked: _Asked,
        names: Sequence[str],
        kept: Sequence[str],
        opinions: Sequence[_Opinion],
        skipped: Counter[str],
    ) -> Mined:
        nomination = asked.nomination
        before = nomination.example or Example(query=nomination.query, positives=())
        held = {document.doc_id: document for document in before.negatives}
        negatives = tuple(held[name] if name in kept else self._documents[name] for name in names)
        documents = (*nomination.positives, *negatives)
        if callable(self._teacher):
            taught = self._teacher(asked.text, [document.doc_id for document in documents])
        else:
            taught = _known_scores(before, documents)
        example = msgspec.structs.replace(
            before,
            query=nomination.query,
            positives=nomination.positives,
            negatives=negatives,
            thought=nomination.thoughts[0] if len(nomination.thoughts) == 1 else None,
            teacher_scores=taught,
        )
        scores = {}
        for opinion in opinions:
            told = opinion.scores
            scores[opinion.member] = (
                [told[document.doc_id] for document in nomination.positives],
                [told[name] for name in names if name in told],
            )
        return Mined(
            example=example,
            scores=scores,
            skipped=dict(skipped),
            dropped=len(before.negatives) - len(kept),
            unscored=bool(before.teacher_scores) and not example.teacher_scores,
        )

    def _refuse_strangers(self, member: Retriever, asked: Sequence[_Asked]) -> None:
        """Raise InputError for a positive that is not in the corpus of a member."""
        if not isinstance(member, Searcher):
            return
        for each in asked:
            for document in each.nomination.positives:
                if document.doc_id not in member.documents:
                    raise InputError(
                        f"member {quoted(member.name)}: document {quoted(document.doc_id)}, a positive of "
                        f"query {quoted(each.nomination.query.query_id)}, is not in its corpus"
                    )


def _known_scores(example: Example, documents: Sequence[Document]) -> tuple[float, ...]:
    """Return the teacher scores of an example for documents that it has; none where one is new to it."""
    own = ((document.doc_id, document.full_text) for document in (*example.positives, *example.negatives))
    known = dict(zip(own, example.teacher_scores, strict=False))  # there are as many scores, or none
    scores = [known.get((document.doc_id, document.full_text)) for document in documents]
    return tuple(score for score in scores if score is not None) if None not in scores else ()


def _taught(member: Retriever) -> Teacher:
    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        return tuple(member.similarities([(text, doc_id) for doc_id in doc_ids]).tolist())

    return teach


def _limit(positive: float, mining: Mining) -> float:
    """Return what a negative may score at most, given the score of the lowest positive."""
    limit = math.inf
    if mining.margin is not None:
        limit = positive - mining.margin
    if mining.relative is not None:
        # abs, because a share of a negative score would be above that score
        limit = min(limit, positive - (1 - mining.relative) * abs(positive))
    return limit


def _in_turns(windows: Sequence[Sequence[str]]) -> list[str]:
    """Return the documents of all windows: the first of each, then the second of each, each once."""
    in_turns = itertools.chain.from_iterable(itertools.zip_longest(*windows))
    return list(dict.fromkeys(name for name in in_turns if name is not None))


def _text(nomination: Nomination, with_thought: bool) -> str:
    thoughts = nomination.thoughts if with_thought else ()
    return " ".join([nomination.query.text, *(thought.text for thought in thoughts)])


def _blocks(nominations: Iterable[Nomination], start: int = 0) -> Iterator[list[Nomination]]:
    remaining = itertools.islice(nominations, start, None)
    while block := list(itertools.islice(remaining, BLOCK)):
        yield block


def _mined_here(
    nominations: Iterable[Nomination], prepared: Callable[[], Search], start: int
) -> Iterator[list[bytes]]:
    """Yield what is found for each nomination from place `start` on, encoded, block by block."""
    search: Search | None = None
    for block in _blocks(nominations, start):
        search = search or prepared()  # members are loaded only where something is left to do
        yield [msgspec.json.encode(mined) for mined in search(block)]


def _mine_there(
    block: Sequence[Nomination], members: Sequence[Retriever], nominations: Nominations, **how: Any
) -> list[bytes]:
    """Do the same in a worker of a cluster, for one block."""
    return [msgspec.json.encode(found) for found in mine_block(block, members, nominations.documents, **how)]


def _mine(db: Database, blocks: Iterable[list[bytes]], done: int, total: int | None, progress: bool) -> None:
    """Keep what is found, block by block."""
    from tqdm import tqdm  # here, so that `import o1_vote` stays light

    with tqdm(desc="mine", total=total, initial=done, unit=" queries", disable=not progress) as bar:
        for block in blocks:
            with db.transaction():
                db.execute_many("INSERT INTO mined VALUES (?, ?)", enumerate(block, done))
            done += len(block)
            bar.update(len(block))


def _mined(db: Database) -> Iterator[Mined]:
    return (_MINED.decode(body) for (body,) in db.rows("SELECT body FROM mined ORDER BY place"))
