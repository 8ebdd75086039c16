"""An election: members cast ballots, a rule counts them, winners are written into training examples.

```
OUT                       the examples
BALLOTS                   what every member measured, and how it was counted in BALLOTS.settings.json
OUT.job/journal.sqlite    what the election was made from, and its ballots: a row for each member and query;
                          what members measured of thoughts without content
OUT.job/members           what members keep until the election is finished: vectors
```
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import msgspec
import numpy as np

from o1_records import (
    Ballot,
    Document,
    Example,
    InputError,
    Qrel,
    Query,
    Thought,
    quoted,
    write_jsonl,
)
from o1_records.kit.cluster import Cluster
from o1_records.kit.job import Database, Job
from o1_vote._job import Published, described, files_of, publish
from o1_vote.election.cluster import Spread
from o1_vote.election.controls import measured, outcomes, tolerance_of
from o1_vote.election.controls import places as sample_places
from o1_vote.election.nominate import Nomination, Nominations, Reason, candidate_of
from o1_vote.measure import MEASURES, Measure, margin_to_corpus, name_of
from o1_vote.members.protocol import LazyMember, Member, Recorded, Retriever
from o1_vote.settings import Outcome, Settings, write_settings
from o1_vote.settings import beside as settings_beside
from o1_vote.tally import Counting, refuse_weights_of_nobody

Rule: TypeAlias = Callable[[Iterable[Ballot]], Mapping[str, str | None]]
"""Maps each query_id to the elected thought_id, or to None for no thought. It is given all ballots of some
queries at a time."""

CHOSEN_ON_DEV = Counting()
"""With `margin_to_corpus` the best of `benchmarks/vote_quality.py` on the dev queries of five collections,
but for the controls, which cost 0.003 of nDCG@10 there."""

BLOCK = 256
"""Queries that a member sees at a time: memory stays bounded, and a kill loses no more work."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ballots (
    member TEXT NOT NULL, place INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (member, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS controls (member TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS about (member TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
_CONTROLS = msgspec.json.Decoder(dict[str, list[tuple[str | None, float]]])
_SHEET = msgspec.json.Decoder(list[Ballot])


@dataclass(frozen=True)
class Election:
    """The outcome of an election in memory: every query is in `examples` or in `reasons`.

    `counting` is how ballots were counted, with the tolerance of each member where controls were measured;
    `controls` says how often these would have won; it is empty where they were not measured by every member.
    """

    examples: list[Example]
    ballots: list[Ballot]
    reasons: list[Reason]
    counting: Rule
    controls: dict[str, Outcome]


@overload
def elect(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    *,
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
    members: Sequence[Member],
    rule: Rule | str = ...,
    measure: Measure | str = ...,
    negatives: Iterable[Example] | None = ...,
    relevance: int = ...,
    controls: bool | None = ...,
    progress: bool = ...,
) -> Election: ...


@overload
def elect(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    *,
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
    members: Sequence[Member],
    rule: Rule | str = ...,
    measure: Measure | str = ...,
    negatives: Iterable[Example] | None = ...,
    relevance: int = ...,
    controls: bool | None = ...,
    out: str | Path,
    ballots: str | Path | None = ...,
    reasons: str | Path | None = ...,
    cluster: Cluster | None = ...,
    new_job: bool = ...,
    progress: bool = ...,
) -> Published: ...


def elect(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    *,
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
    members: Sequence[Member],
    rule: Rule | str = CHOSEN_ON_DEV,
    measure: Measure | str = margin_to_corpus,
    negatives: Iterable[Example] | None = None,
    relevance: int = 1,
    controls: bool | None = None,
    out: str | Path | None = None,
    ballots: str | Path | None = None,
    reasons: str | Path | None = None,
    cluster: Cluster | None = None,
    new_job: bool = False,
    progress: bool = False,
) -> Election | Published:
    """Elect a thought for each query and write it into an example with the query's positives.

    A query without thoughts becomes an example without a thought, and so does one whose thoughts lift its
    positives above the rest of the corpus no further than thoughts without content do; a query without
    positives is listed with the reason. Queries that ask the same share their positives. The paper's way is
    `rule=Counting("majority", abstain=False), measure="thought"`; it never abstains, and no member has to
    search the corpus.

    With `out` the election is a job (`OUT.job`): memory does not grow with the queries, a call that was
    killed is continued by the same call, which measures nothing again, and one that is finished returns at
    once. The job notes what it was made from and refuses anything else: input by its content, functions and
    members by their `fingerprint` where they have that attribute, and by name and class (or module and name)
    where they do not. So give a member that you change another name, or a new job. A member's own corpus is
    taken to be `documents`.

    Args:
        queries: what is asked.
        thoughts: the candidates.
        qrels: say which documents are positive.
        documents: the corpus.
        members: the committee.
        rule: how ballots are counted: the name of a rule, a `Counting` with its terms, or a function; see
            `o1_vote.tally`.
        measure: what a ballot says: a name or a function; see `o1_vote.measure`.
        negatives: examples with hard negatives, for `margin_to_negatives`; a query without one is left out.
        relevance: the lowest grade of a positive.
        controls: measure thoughts without content on some queries, for the tolerance of the rule; on by
            default where the rule has one, which is a `Counting` that abstains. Recorded scores bring the
            tolerance that was measured with them.
        out: JSONL of examples to write.
        ballots: JSONL of ballots to write.
        reasons: JSONL of the queries that are left out; without it, leaving one out is an error.
        cluster: with `out`, let the workers of a Ray cluster cast the ballots. Members are lazy ones then.
        new_job: move earlier work made from something else aside, instead of refusing to continue it.
        progress: show on stderr how many ballots each member has cast.

    Returns:
        The election, or with `out` what was written.

    Raises:
        ChangedJobError: there is earlier work that was made from something else.
        InputError: as `nominate`, `cast` and the rule raise it; another process works on the job.
    """
    names = [member.name for member in members]
    refuse_like_named(names)
    counting = Counting(rule) if isinstance(rule, str) else rule
    _refuse_weights_of_nobody(counting, names)
    measuring = _measure_of(measure)
    if out is None and (ballots or reasons or new_job):
        raise InputError("ballots, reasons and new_job need out; give the file of the examples, too")
    if out is None and cluster is not None:
        raise InputError("a cluster works on files; give out, the file of the examples, too")
    whole = any(isinstance(member, LazyMember) and member.whole_corpus for member in members)
    join = Nominations(
        queries, thoughts, qrels, documents, negatives=negatives, every_document=whole, relevance=relevance
    )
    controlled = _controlled(counting, members, controls)
    with join as nominations:
        if out is None:
            with Database("", _SCHEMA) as db:
                _vote(db, None, nominations, members, measuring, controlled, None, progress)
                level, won = _levelled(db, counting, members, controlled)
                examples = list(_examples(db, nominations, names, level))
                return Election(examples, list(_ballots(db, names)), list(nominations.reasons()), level, won)
        made_from = {
            **{f"{name} sha256": digest for name, digest in nominations.made_from().items()},
            **nominations.settings,
            "measure": described(measuring),
            "rule": described(counting),
            "controls": str(controlled),
            **{f"member {member.name}": described(member) for member in members},
        }
        inputs = {"queries": queries, "thoughts": thoughts, "qrels": qrels, "documents": documents}
        beside = {"ballots": ballots, "reasons": reasons}
        if ballots and isinstance(counting, Counting):
            beside["settings"] = settings_beside(ballots)

        def work(job: Job, published: Published) -> None:
            if not reasons:
                _refuse_to_leave_out(nominations)
            _vote(job.db, job.folder, nominations, members, measuring, controlled, cluster, progress)
            level, won = _levelled(job.db, counting, members, controlled)
            if reasons:
                published.left_out = write_jsonl(reasons, nominations.reasons())
            if ballots:
                write_jsonl(ballots, _ballots(job.db, names))
                if isinstance(level, Counting):
                    settings = Settings(
                        version=importlib.metadata.version("o1-vote"),
                        measure=name_of(measuring),
                        counting=level,
                        controls=won,
                        members={member.name: _about(job.db, member) for member in members},
                        inputs={
                            name: ", ".join(map(str, files))
                            for name, each in inputs.items()
                            if (files := files_of(each))
                        },
                        relevance=relevance,
                    )
                    write_settings(ballots, settings)
            write_jsonl(out, published.counted(_examples(job.db, nominations, names, level)))
            published.shared = nominations.shared
            recorded = _recorded(members)
            if controlled and 0 < len(recorded) < len(members):
                published.told.append(
                    "how often thoughts without content would have won is not known: "
                    f"{', '.join(recorded)} measured none"
                )
            for kind, outcome in won.items():
                published.told.append(
                    f"{kind}, as the only thought, would have won {outcome.won} of {outcome.queries} queries "
                    f"({outcome.without} without the tolerance)"
                )

        reading = files_of(*inputs.values(), negatives, *members)
        return publish(out, made_from, work, beside=beside, reading=reading, schema=_SCHEMA, new_job=new_job)


def cast(
    nominations: Iterable[Nomination],
    member: Retriever | Recorded,
    *,
    measure: Measure | str = margin_to_corpus,
) -> Iterator[Ballot]:
    """Yield a member's ballots: for each query the query alone, then its thoughts.

    The raw score is kept. A member whose scores are recorded, as in a score file, takes no measure. Nothing
    is kept between blocks of queries, so that any driver may deal them out. Raises InputError for a score
    that is not finite.
    """
    remaining, measuring = iter(nominations), _measure_of(measure)
    while block := list(itertools.islice(remaining, BLOCK)):
        candidates = [
            candidate_of(nomination, thought)
            for nomination in block
            for thought in (None, *nomination.thoughts)
        ]
        if isinstance(member, Retriever):
            scores: Sequence[float] = measuring(member, candidates).tolist()
        else:
            scores = member.scores(candidates)
        for candidate, score in zip(candidates, scores, strict=True):
            query_id = candidate.query.query_id
            thought_id = candidate.thought.thought_id if candidate.thought else None
            if not np.isfinite(score):
                raise InputError(
                    f"member {quoted(member.name)}: score {score} for query {quoted(query_id)}, "
                    f"thought {quoted(thought_id)}"
                )
            yield Ballot(query_id=query_id, thought_id=thought_id, retriever=member.name, score=score)


def conclude(nominations: Iterable[Nomination], winners: Mapping[str, str | None]) -> Iterator[Example]:
    """Yield the example of each nomination with the thought that won.

    Raises InputError where a query has no result or the winner is not one of its thoughts.
    """
    for nomination in nominations:
        name = nomination.query.query_id
        if name not in winners:
            raise InputError(f"query {quoted(name)} has no result; did every member vote?")
        thoughts: dict[str | None, Thought] = {thought.thought_id: thought for thought in nomination.thoughts}
        winner = winners[name]
        if winner is not None and winner not in thoughts:
            raise InputError(f"query {quoted(name)} has no thought {quoted(winner)}")
        yield Example(query=nomination.query, positives=nomination.positives, thought=thoughts.get(winner))


def refuse_like_named(names: Iterable[str]) -> None:
    """Raise InputError for a committee without members or with two of one name."""
    listed = list(names)
    if not listed:
        raise InputError("the committee has no members; name at least one")
    for name in listed:
        if listed.count(name) > 1:
            raise InputError(f"two members are called {quoted(name)}; give each a name of its own")


def _measure_of(measure: Measure | str) -> Measure:
    if not isinstance(measure, str):
        return measure
    if measure not in MEASURES:
        raise InputError(f"no measure {quoted(measure)}; there are {', '.join(MEASURES)}")
    return MEASURES[measure]


def _recorded(members: Iterable[Member]) -> list[str]:
    """Return the names of the members whose scores are recorded, so that they can measure nothing else."""
    return [member.name for member in members if not isinstance(member, (LazyMember, Retriever))]


def _controlled(rule: Rule, members: Sequence[Member], controls: bool | None) -> bool:
    """Return whether controls are measured. Raises InputError where they are asked for and have no effect."""
    able = isinstance(rule, Counting) and rule.abstain and not rule.tolerance
    if controls and not able:
        raise InputError("controls need a Counting that abstains and has no tolerance yet; leave them out")
    if controls and len(_recorded(members)) == len(members):
        raise InputError(
            "controls have no effect where the scores of all members are recorded; leave them out"
        )
    return able if controls is None else controls


def _levelled(
    db: Database, rule: Rule, members: Sequence[Member], controlled: bool
) -> tuple[Rule, dict[str, Outcome]]:
    """Return the rule with the tolerance of each member, and how often controls would have won.

    Where scores of a member are recorded, nobody knows how the committee would have voted on controls.
    """
    if not isinstance(rule, Counting) or not controlled:
        return rule, {}
    told = {
        name: {query_id: dict(scores) for query_id, scores in _CONTROLS.decode(body).items()}
        for name, body in db.rows("SELECT member, body FROM controls")
    }
    tolerance = {member.name: getattr(member, "tolerance", 0.0) for member in members}
    tolerance |= {name: tolerance_of(own) for name, own in told.items()}
    level = dataclasses.replace(rule, tolerance=tolerance)
    return level, {} if _recorded(members) else outcomes(told, level)


def _about(db: Database, member: Member) -> dict[str, str]:
    """Return what a member is in words, as it said when it was loaded."""
    row = db.row("SELECT body FROM about WHERE member = ?", member.name)
    return msgspec.json.decode(row[0], type=dict[str, str]) if row else {"member": described(member)}


def _refuse_weights_of_nobody(rule: Rule, names: Sequence[str]) -> None:
    """Raise InputError before anybody votes, and not when weights are counted."""
    weights: Mapping[str, float] = {}
    if isinstance(rule, Counting):
        weights = rule.weights
    elif isinstance(rule, functools.partial):
        weights = rule.keywords.get("weights", {})
    refuse_weights_of_nobody(weights, names)


def _refuse_to_leave_out(nominations: Nominations) -> None:
    reasons = list(nominations.reasons())
    if reasons:
        raise InputError(
            f"{len(reasons)} queries would be left out, the first is {quoted(reasons[0].query_id)} "
            f"({reasons[0].reason}); to leave them out and list them give --reasons FILE"
        )


def _vote(
    db: Database,
    folder: Path | None,
    nominations: Nominations,
    members: Iterable[Member],
    measure: Measure,
    controlled: bool,
    cluster: Cluster | None,
    progress: bool,
) -> None:
    """Let each member vote on what it has not voted on yet, block by block, after the controls."""
    from tqdm import tqdm  # here, so that `import o1_vote` stays light

    for member in members:
        (done,) = db.row("SELECT count(*) FROM ballots WHERE member = ?", member.name)
        known = db.row("SELECT 1 FROM controls WHERE member = ?", member.name) is not None
        if isinstance(member, LazyMember) and done == len(nominations) and (known or not controlled):
            continue
        spread: Spread | None = None
        loaded: Retriever | Recorded
        if cluster is not None and folder is not None and isinstance(member, LazyMember | Retriever):
            spread = Spread(cluster, [member], nominations, folder)
            (loaded,) = spread.loaded
        elif isinstance(member, LazyMember):
            loaded = member.load(nominations.documents, folder and folder / "members")
        else:
            loaded = member
        if about := getattr(loaded, "about", None):
            db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", member.name, msgspec.json.encode(about))
        if controlled and not known and isinstance(loaded, Retriever):
            own = measured(_sample(nominations), loaded, measure)
            pairs = {query_id: list(scores.items()) for query_id, scores in own.items()}
            db.execute("INSERT INTO controls VALUES (?, ?)", member.name, msgspec.json.encode(pairs))
        total, before = nominations.candidates(len(nominations)), nominations.candidates(done)
        with tqdm(
            desc=member.name, total=total, initial=before, unit=" ballots", disable=not progress
        ) as bar:
            if spread is None:
                blocks = _sheets_of_blocks(nominations, loaded, measure, done)
            else:
                blocks = spread.rows(functools.partial(_cast_there, measure), start=done, rows=BLOCK)
            for sheets in blocks:
                rows = [(member.name, place, body) for place, body in enumerate(sheets, done)]
                with db.transaction():
                    db.execute_many("INSERT INTO ballots VALUES (?, ?, ?)", rows)
                done += len(sheets)
                bar.update(nominations.candidates(done) - bar.n)


def _sheets_of_blocks(
    nominations: Nominations, member: Retriever | Recorded, measure: Measure, done: int
) -> Iterator[list[bytes]]:
    """Yield the encoded ballots on each nomination of a block, from the place of the first."""
    while block := list(nominations.block(done, BLOCK)):
        yield sheets_of(block, member, measure)
        done += len(block)


def sheets_of(block: Sequence[Nomination], member: Retriever | Recorded, measure: Measure) -> list[bytes]:
    """Return a member's encoded ballots on each nomination. Pure, so that any driver may deal out blocks."""
    votes = cast(block, member, measure=measure)
    sheets = [list(itertools.islice(votes, 1 + len(each.thoughts))) for each in block]
    return [msgspec.json.encode(sheet) for sheet in sheets]


def _cast_there(
    measure: Measure, block: Sequence[Nomination], members: Sequence[Retriever], nominations: Nominations
) -> list[bytes]:
    (member,) = members
    return sheets_of(block, member, measure)


def _sample(nominations: Nominations) -> list[Nomination]:
    return [next(nominations.block(place, 1)) for place in sample_places(len(nominations))]


def _ballots(db: Database, names: Iterable[str], start: int = 0, count: int = -1) -> Iterator[Ballot]:
    """Yield ballots, member by member, on `count` nominations (-1: all) from place `start`."""
    sql = "SELECT body FROM ballots WHERE member = ? AND place >= ? ORDER BY place LIMIT ?"
    for name in names:
        for (body,) in db.rows(sql, name, start, count):
            yield from _SHEET.decode(body)


def _examples(db: Database, nominations: Nominations, names: Sequence[str], rule: Rule) -> Iterator[Example]:
    for start in range(0, len(nominations), BLOCK):
        elected = rule(_ballots(db, names, start, BLOCK))
        yield from conclude(nominations.block(start, BLOCK), elected)
