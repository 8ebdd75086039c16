"""Mining hard negatives that are no false ones, by the scores of several members.

Positive-aware, as in NV-Retriever (arXiv 2407.15831): a document that scores too close to the positive is
likely to be relevant and is left out, here if any one of the members scores it so.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import Document, Example, InputError, quoted, write_jsonl
from o1_records.kit.job import Database, Job
from o1_records.kit.text import jaccard, shingles
from o1_vote._job import Published, described, fingerprint_of, identified, publish
from o1_vote.election.elect import refuse_like_named
from o1_vote.election.nominate import Nomination, Nominations, Reason
from o1_vote.members.protocol import Member, Retriever, Searcher, loaded
from o1_vote.tally import standard_scores

Row = NDArray[np.float32]
Teacher = Callable[[str, Sequence[str]], tuple[float, ...]]
"""Scores of the documents, by doc_id, for a text."""
Search: TypeAlias = Callable[[Sequence[Nomination]], Iterator[Example | Reason]]

BLOCK = 64
"""Queries that are searched at a time: memory stays bounded, and a kill loses no more work."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS mined (place INTEGER PRIMARY KEY, body BLOB NOT NULL);"
_MINED = msgspec.json.Decoder(tuple[Example | None, Reason | None])


@dataclass(frozen=True)
class Mining:
    """What counts as a hard negative of a query.

    Attributes:
        count: how many are taken: the hardest, or with `seed` a random sample.
        first: the lowest rank of a negative for some member, among the documents that are not known to be
            positive.
        last: the highest such rank.
        margin: for every member a negative scores so much less than the lowest-scored positive.
        relative: for every member it scores at most this share (0 to 1) of the lowest-scored positive.
        near: it shares less than this part (above 0, at most 1) of its shingles with every positive.
        seed: of the sample; a query's sample does not depend on the other queries.
    """

    count: int = 15
    first: int = 1
    last: int = 100
    margin: float | None = None
    relative: float | None = 0.95
    near: float = 0.8
    seed: int | None = None

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
        if self.margin is not None and not math.isfinite(self.margin):
            raise InputError(f"margin must be a finite number, got {self.margin}")


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
    new_job: bool = False,
    progress: bool = False,
) -> Iterator[Example | Reason] | Published:
    """Find for each nomination an example with its negatives, or the reason why it has none.

    An example keeps the nomination's thought where there is exactly one. Documents that tie take the order
    of hits: doc_id descending.

    With `out` the mining is a job (`OUT.job`), as an election is: a call that was killed is continued by the
    same call, one that is finished returns at once, and what a job was made from is compared in the same way;
    see `o1_vote.elect`.

    Args:
        nominations: a sequence, or `Nominations`, whose left out queries are listed in `reasons` too.
        members: who searches. One that cannot search a corpus must be the teacher.
        documents: where the text of a negative is looked up.
        mining: what counts as a negative.
        excluded: doc_ids by query_id that are never taken.
        with_thought: search with query and thought.
        teacher: writes teacher scores: a function, the name of a member, or "committee", the mean of the
            members' standard scores.
        out: JSONL of examples to write.
        reasons: JSONL of the queries that have no negatives; needed with `out`.
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
    if isinstance(teacher, str) and teacher not in ("committee", *names):
        raise InputError(f"teacher {quoted(teacher)} is none of committee, {', '.join(names)}")

    def prepared(folder: Path | None) -> Search:
        searchers, teach = _roles(loaded(members, documents, folder), teacher)
        return functools.partial(
            mine_block,
            members=searchers,
            documents=documents,
            mining=mining,
            excluded=excluded or {},
            with_thought=with_thought,
            teacher=teach,
        )

    if out is None:
        search = prepared(None)
        return (record for block in _blocks(nominations) for record in search(block))
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
        **{field.name: repr(getattr(mining, field.name)) for field in dataclasses.fields(mining)},
        "with_thought": repr(with_thought),
        "teacher": described(teacher),
        **{f"member {member.name}": described(member) for member in members},
    }

    def work(job: Job, published: Published) -> None:
        _mine(job.db, nominations, lambda: prepared(job.folder / "members"), progress)
        examples = (example for example, _ in _mined(job.db) if example is not None)
        write_jsonl(out, published.counted(examples))
        before = nominations.reasons() if isinstance(nominations, Nominations) else ()
        without = (reason for _, reason in _mined(job.db) if reason is not None)
        published.left_out = write_jsonl(reasons, itertools.chain(before, without))

    return publish(out, made_from, work, beside={"reasons": reasons}, schema=_SCHEMA, new_job=new_job)


def mine_block(
    nominations: Sequence[Nomination],
    members: Sequence[Searcher],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]],
    with_thought: bool = False,
    teacher: Teacher | None = None,
) -> Iterator[Example | Reason]:
    """Yield the example or the reason of each nomination. Pure, so that any driver may deal out blocks."""
    texts = [_text(nomination, with_thought) for nomination in nominations]
    rows = zip(*(member.corpus_scores(texts) for member in members), strict=True)
    for nomination, text, scores in zip(nominations, texts, rows, strict=True):
        name = nomination.query.query_id
        hidden = {document.doc_id for document in nomination.positives} | excluded.get(name, set())
        negatives = _negatives(nomination, members, scores, documents, mining, hidden)
        if not negatives:
            yield Reason(query_id=name, reason="no document of the window is a safe hard negative")
            continue
        judged = [document.doc_id for document in (*nomination.positives, *negatives)]
        yield Example(
            query=nomination.query,
            positives=nomination.positives,
            negatives=negatives,
            thought=nomination.thoughts[0] if len(nomination.thoughts) == 1 else None,
            teacher_scores=teacher(text, judged) if teacher else (),
        )


def committee_teacher(members: Sequence[Retriever]) -> Teacher:
    """Return a teacher that averages the members' standard scores over the documents of an example."""

    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        pairs = [(text, doc_id) for doc_id in doc_ids]
        sheets: list[dict[str | None, float]]
        sheets = [dict(zip(doc_ids, member.similarities(pairs).tolist(), strict=True)) for member in members]
        own = [standard_scores(sheet) for sheet in sheets]
        return tuple(sum(scores[doc_id] for scores in own) / len(own) for doc_id in doc_ids)

    return teach


def _blocks(nominations: Iterable[Nomination], start: int = 0) -> Iterator[list[Nomination]]:
    remaining = itertools.islice(nominations, start, None)
    while block := list(itertools.islice(remaining, BLOCK)):
        yield block


def _roles(
    members: Sequence[Retriever], teacher: Teacher | str | None
) -> tuple[list[Searcher], Teacher | None]:
    """Return the members that search, and the teacher; a member that cannot search may be the teacher."""
    searchers = [member for member in members if isinstance(member, Searcher)]
    silent = [member.name for member in members if not isinstance(member, Searcher)]
    if not searchers:
        raise InputError(f"none of {', '.join(silent)} can search a corpus; add bm25, static or st:MODEL")
    if useless := [name for name in silent if teacher not in (name, "committee")]:
        raise InputError(f"{', '.join(useless)} cannot search a corpus, and can only be the teacher")
    if not isinstance(teacher, str):
        return searchers, teacher
    if teacher == "committee":
        return searchers, committee_teacher(members)
    (taught_by,) = (member for member in members if member.name == teacher)

    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        return tuple(taught_by.similarities([(text, doc_id) for doc_id in doc_ids]).tolist())

    return searchers, teach


def _mine(
    db: Database, nominations: Iterable[Nomination], prepared: Callable[[], Search], progress: bool
) -> None:
    """Search for what was not mined yet, block by block."""
    from tqdm import tqdm  # here, so that `import o1_vote` stays light

    (done,) = db.row("SELECT count(*) FROM mined")
    total = len(nominations) if isinstance(nominations, Sized) else None
    search: Search | None = None
    with tqdm(desc="mine", total=total, initial=done, unit=" queries", disable=not progress) as bar:
        for block in _blocks(nominations, done):
            search = search or prepared()  # members are loaded only where something is left to do
            pairs = [
                (record, None) if isinstance(record, Example) else (None, record) for record in search(block)
            ]
            rows = [(place, msgspec.json.encode(pair)) for place, pair in enumerate(pairs, done)]
            with db.transaction():
                db.execute_many("INSERT INTO mined VALUES (?, ?)", rows)
            done += len(block)
            bar.update(len(block))


def _mined(db: Database) -> Iterator[tuple[Example | None, Reason | None]]:
    return (_MINED.decode(body) for (body,) in db.rows("SELECT body FROM mined ORDER BY place"))


def _text(nomination: Nomination, with_thought: bool) -> str:
    thoughts = nomination.thoughts if with_thought else ()
    return " ".join([nomination.query.text, *(thought.text for thought in thoughts)])


def _negatives(
    nomination: Nomination,
    members: Sequence[Searcher],
    scores: Sequence[Row],
    documents: Mapping[str, Document],
    mining: Mining,
    hidden: Set[str],
) -> tuple[Document, ...]:
    windows = [_window(*each, mining, hidden) for each in zip(members, scores, strict=True)]
    in_turns = itertools.chain.from_iterable(itertools.zip_longest(*windows))
    found = list(dict.fromkeys(doc_id for doc_id in in_turns if doc_id is not None))
    if mining.seed is not None:
        random.Random(f"{mining.seed} {nomination.query.query_id}").shuffle(found)
    limits = [_limit(*each, nomination, mining) for each in zip(members, scores, strict=True)]
    safe = (
        documents[doc_id]
        for doc_id in found
        if all(row[m.row(doc_id)] <= limit for m, row, limit in zip(members, scores, limits, strict=True))
    )
    return tuple(itertools.islice(_unlike(safe, nomination.positives, mining.near), mining.count))


def _window(member: Searcher, row: Row, mining: Mining, hidden: Set[str]) -> list[str]:
    """Return the doc_ids at ranks first to last of those that are not hidden."""
    wanted = min(len(row), mining.last + len(hidden))
    least = np.partition(row, -wanted)[-wanted]
    places = np.flatnonzero(row >= least)
    names = member.doc_ids
    ordered = sorted(((float(row[place]), names[int(place)]) for place in places), reverse=True)
    return [name for _, name in ordered if name not in hidden][mining.first - 1 : mining.last]


def _limit(member: Searcher, row: Row, nomination: Nomination, mining: Mining) -> float:
    """Return what a negative may score at most."""
    try:
        positive = min(float(row[member.row(document.doc_id)]) for document in nomination.positives)
    except KeyError as error:
        raise InputError(
            f"member {quoted(member.name)}: document {quoted(error.args[0])}, a positive of query "
            f"{quoted(nomination.query.query_id)}, is not in its corpus"
        ) from None
    limit = np.inf
    if mining.margin is not None:
        limit = positive - mining.margin
    if mining.relative is not None:
        # abs, because a share of a negative score would be above that score
        limit = min(limit, positive - (1 - mining.relative) * abs(positive))
    return float(limit)


def _unlike(documents: Iterable[Document], positives: Sequence[Document], near: float) -> Iterator[Document]:
    """Yield the documents that are no near-duplicates of a positive."""
    known = [shingles(positive.full_text) for positive in positives]
    for document in documents:
        own = shingles(document.full_text)
        if all(jaccard(own, positive) < near for positive in known):
            yield document
