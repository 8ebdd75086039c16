"""Mined negatives are hard, safe, the same on every run, and nobody is dropped silently."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import Document, Example, Exclusion, InputError, Qrel, Query, beir, read_jsonl, write_jsonl
from o1_vote import BM25Member
from o1_vote.curation.calibrate import calibrate
from o1_vote.curation.negatives import Mining, committee_teacher, mine
from o1_vote.election.nominate import Nomination, Reason
from o1_vote.members.protocol import best_first

RANDOM = np.random.default_rng(5)
CORPUS = [Document(doc_id=f"d{i:02}", text=f"text number {i} of a corpus") for i in range(30)]
DOCUMENTS = {document.doc_id: document for document in CORPUS}
NOMINATION = Nomination(Query(query_id="q", text="anything"), (), (CORPUS[0], CORPUS[1]))


class Table:
    """A member that knows its scores by heart."""

    def __init__(self, name, scores):
        self.name, self.documents = name, DOCUMENTS
        self._scores = dict(zip(DOCUMENTS, np.array(scores, dtype=np.float32), strict=True))

    def similarities(self, pairs):
        return np.array([self._scores[doc_id] for _, doc_id in pairs], dtype=np.float32)

    def search(self, texts, k):
        matched = {name: score for name, score in self._scores.items() if score != 0}
        scores = np.array(list(matched.values()), dtype=np.float32)
        return (best_first(list(matched), scores, k) for _ in texts)


def mined(members, nomination=NOMINATION, **options):
    settings = {key: options.pop(key) for key in list(options) if key in Mining.__dataclass_fields__}
    mining = Mining(**{"near": 1, **settings})
    (record,) = mine([nomination], members, DOCUMENTS, mining, **options)
    return record


def ids(record):
    return [document.doc_id for document in record.negatives]


SCORES = st.lists(st.integers(-9, 9).map(lambda n: n / 8), min_size=30, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    tables=st.lists(SCORES, min_size=1, max_size=3),
    first=st.integers(1, 5),
    width=st.integers(0, 20),
    margin=st.none() | st.sampled_from([0.0, 0.5]),
    relative=st.none() | st.sampled_from([0.5, 0.95]),
    seed=st.none() | st.integers(0, 3),
)
def test_every_negative_is_within_the_window_and_below_the_margins(
    tables, first, width, margin, relative, seed
):
    members = [Table(f"m{i}", table) for i, table in enumerate(tables)]
    last = first + width
    record = mined(
        members, first=first, last=last, margin=margin, relative=relative, seed=seed, count=100,
        excluded={"q": {"d02"}},
    )  # fmt: skip
    safe, heard = set(), False
    for table in tables:
        # 0 is no match
        others = [d.doc_id for d in CORPUS[3:] if table[int(d.doc_id[1:])]]
        others.sort(key=lambda name: (table[int(name[1:])], name), reverse=True)
        safe |= set(others[first - 1 : last])
    for table in tables:
        matched = [score for score in table[:2] if score]
        if not matched:
            continue
        heard, positive = True, min(matched)
        for name in set(safe):
            score = table[int(name[1:])]
            too_near = margin is not None and score > positive - margin
            if too_near or (relative is not None and score > positive - (1 - relative) * abs(positive)):
                safe.discard(name)
    if margin is not None or relative is not None:
        safe = safe if heard else set()
    if safe:
        assert set(ids(record)) == safe
        assert len(ids(record)) == len(safe)
    else:
        assert isinstance(record, Reason)


def test_the_hardest_come_first_and_members_take_turns():
    down = Table("down", [9, 9, *range(28, 0, -1)])
    up = Table("up", [99, 99, *range(28)])
    assert ids(mined([down], relative=None, count=3)) == ["d02", "d03", "d04"]
    assert ids(mined([down, up], relative=None, count=4)) == ["d02", "d29", "d03", "d28"]


def test_a_sample_depends_on_the_seed_and_the_query_alone():
    table = Table("m", [9, 9, *range(28, 0, -1)])
    options = {"relative": None, "count": 5, "last": 20}
    one = ids(mined([table], seed=1, **options))
    assert ids(mined([table], seed=1, **options)) == one
    assert ids(mined([table], seed=2, **options)) != one
    other = Nomination(Query(query_id="other", text="x"), (), NOMINATION.positives)
    both = list(mine([other, NOMINATION], [table], DOCUMENTS, Mining(seed=1, near=1, **options)))
    assert ids(both[1]) == one
    assert ids(both[0]) != one


def test_near_duplicates_of_a_positive_are_no_negatives():
    corpus = [
        Document(doc_id="p", text="Read the members of a zip archive and write them to a folder."),
        Document(doc_id="copy", text="read the members of a ZIP archive, and write them to a directory"),
        Document(doc_id="other", text="Read the lines of a text file and sort them."),
        *(Document(doc_id=f"x{i}", text=f"nothing to see here {i}") for i in range(5)),
    ]
    nomination = Nomination(Query(query_id="q", text="read a zip archive"), (), (corpus[0],))
    documents = {document.doc_id: document for document in corpus}
    mining = Mining(relative=None, count=2)
    (record,) = mine([nomination], [BM25Member(corpus)], documents, mining)
    assert ids(record)[0] == "other"
    assert "copy" not in ids(record)
    (loose,) = mine([nomination], [BM25Member(corpus)], documents, Mining(relative=None, count=2, near=1))
    assert "copy" in ids(loose)


def test_an_empty_window_is_refused():
    with pytest.raises(InputError, match="ranks must be 1 <= first <= last, got 5 and 4"):
        Mining(first=5, last=4)
    with pytest.raises(InputError, match="count must be 1 or more, got 0"):
        Mining(count=0)


def test_a_committee_teaches_standard_scores():
    small, large = Table("small", [3, 1, 2, *[0] * 27]), Table("large", [300, 100, 200, *[0] * 27])
    teach = committee_teacher([small, large])
    scores = teach("text", ["d00", "d01", "d02"])
    assert scores == pytest.approx([1.2247, -1.2247, 0], abs=1e-3)
    record = mined([small], relative=None, count=1, teacher=teach)
    assert len(record.teacher_scores) == 3


def test_members_are_weighted_by_where_they_find_held_out_documents():
    nominations = [Nomination(Query(query_id=f"q{i}", text="x"), (), (CORPUS[i],)) for i in range(4)]
    good = Table("good", list(range(30, 0, -1)))
    bad = Table("bad", list(range(30)))
    level = Table("level", [1] * 30)
    weights = calibrate(nominations, [good, bad, level], list(DOCUMENTS))
    assert weights["good"] > weights["bad"] >= weights["level"] > 0
    assert weights == calibrate(nominations[::-1], [good, bad, level], list(DOCUMENTS))
    assert weights["good"] == pytest.approx(np.mean([1 / (1 + i) for i in range(4)]), abs=1e-6)
    with pytest.raises(InputError, match="nothing to calibrate with"):
        calibrate([], [good], list(DOCUMENTS))


QUERIES = [
    Query(query_id="q1", text="number 13 of a corpus"),
    Query(query_id="q2", text="17"),
    Query(query_id="q3", text="?"),
]
QRELS = [Qrel(query_id="q1", doc_id="d13", relevance=1), Qrel(query_id="q2", doc_id="d17", relevance=1)]
ASKED = ["--queries", "queries.jsonl", "--qrels", "set"]


@pytest.fixture
def folder(tmp_path):
    beir.write_beir(tmp_path / "set", documents=CORPUS, queries=QUERIES, qrels={"train": QRELS})
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    return tmp_path


@pytest.fixture
def mine_with(vote, folder):
    def run(*words):
        files = ["--corpus", "set", "--member", "bm25", "--out", "mined.jsonl", "--reasons", "reasons.jsonl"]
        return vote(folder, "mine", *files, "--near", "1", *words)

    return run


def test_every_query_is_mined_or_has_a_reason(folder, mine_with):
    asked = ["--queries", "queries.jsonl", "--qrels", "set"]
    write_jsonl(folder / "excluded.jsonl", [Exclusion(query_id="q1", doc_id="d14")])
    done = mine_with(*asked, "--count", "4", "--teacher", "bm25", "--excluded", "excluded.jsonl")
    assert done.returncode == 0, done.stderr
    examples = list(read_jsonl(folder / "mined.jsonl", Example))
    reasons = list(read_jsonl(folder / "reasons.jsonl", Reason))
    assert sorted([*(e.query.query_id for e in examples), *(r.query_id for r in reasons)]) == [
        "q1",
        "q2",
        "q3",
    ]
    (first, *_) = examples
    assert [d.doc_id for d in first.positives] == ["d13"]
    assert len(first.negatives) == 4
    assert "d14" not in ids(first)
    assert len(first.teacher_scores) == 5
    assert first.teacher_scores[0] > max(first.teacher_scores[1:])
    again = mine_with(*asked, "--count", "4", "--teacher", "bm25", "--excluded", "excluded.jsonl")
    assert again.stderr == "mined.jsonl: up to date\n"
    assert sorted(path.name for path in (folder / "mined.jsonl.job").iterdir()) == ["journal.sqlite", "lock"]


def test_examples_keep_their_thoughts_and_get_negatives(folder, mine_with):
    from o1_records import Source, Thought

    thought = Thought(query_id="q1", thought_id="t", text="15", source=Source(model="test"))
    positive = Document(doc_id="d13", text="thirteen is number 13 of a corpus")
    query = Query(query_id="q1", text="number 13 of a corpus, thirteen")
    write_jsonl(folder / "examples.jsonl", [Example(query=query, positives=(positive,), thought=thought)])
    beir.write_beir(
        folder / "set",
        documents=[positive, *CORPUS[:13], *CORPUS[14:]],
        queries=[query],
        qrels={"train": QRELS[:1]},
    )
    assert mine_with("--examples", "examples.jsonl", "--relative", "1").returncode == 0
    (plain,) = read_jsonl(folder / "mined.jsonl", Example)
    assert plain.thought == thought
    assert ids(plain)[0] != "d15"
    searched = mine_with("--examples", "examples.jsonl", "--relative", "1", "--with-thought", "--new-job")
    assert searched.returncode == 0
    (thoughtful,) = read_jsonl(folder / "mined.jsonl", Example)
    assert ids(thoughtful)[0] == "d15"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --queries and --qrels, or --examples"),
        (["--queries", "queries.jsonl"], "give --queries and --qrels, or --examples"),
        (["--examples", "queries.jsonl", "--qrels", "set"], "give --queries and --qrels, or --examples"),
        ([*ASKED, "--with-thought"], "--with-thought needs --examples"),
        ([*ASKED, "--teacher", "x"], "teacher 'x' is none of committee, bm25"),
        ([*ASKED, "--first", "9", "--last", "3"], "ranks must be 1 <= first <= last, got 9 and 3"),
    ],
)
def test_what_cannot_be_mined_is_one_sentence(folder, mine_with, words, message):
    done = mine_with(*words)
    assert done.returncode == 4
    assert message in done.stderr.splitlines()[-1]
    assert not (folder / "mined.jsonl").exists()
    assert not list(folder.glob("*.job"))


def test_weights_of_a_calibration_are_used_by_an_election(folder, vote):
    files = ["--queries", "queries.jsonl", "--qrels", "set", "--corpus", "set", "--split", "train"]
    members = ["--member", "one=bm25", "--member", "two=bm25"]
    done = vote(folder, "calibrate", *files, *members, "--out", "weights.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split("\t")[0] == "one"
    (folder / "thoughts.jsonl").write_text("")
    voted = ["--thoughts", "thoughts.jsonl", "--out", "e.jsonl", "--reasons", "r.jsonl"]
    assert vote(folder, "elect", *files, *members, *voted, "--weights", "weights.json").returncode == 0
    again = vote(folder, "elect", *files, *members, *voted, "--weights", "weights.json")
    assert "up to date" in again.stderr
    (folder / "weights.json").write_text('{"one": 9.0}')
    other = vote(folder, "elect", *files, *members, *voted, "--weights", "weights.json")
    assert other.returncode == 4
    assert "weights={one: 9.0}" in other.stderr
    (folder / "weights.json").write_text('{"one": "x"}')
    refused = vote(folder, "elect", *files, *members, *voted, "--weights", "weights.json")
    assert refused.returncode == 4
    assert "weights.json: Expected `float`" in refused.stderr
