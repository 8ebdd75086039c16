"""Mined negatives are hard, safe, the same on every run, and nobody is dropped silently."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import Document, Example, Exclusion, InputError, Qrel, Query, beir, read_jsonl, write_jsonl
from o1_vote import BM25Member
from o1_vote.curation.calibrate import calibrate
from o1_vote.curation.negatives import (
    ITSELF,
    NO_MATCH,
    NO_OPINION,
    NO_QUERY,
    Mining,
    committee_teacher,
    mine,
    mine_block,
)
from o1_vote.election.nominate import Nomination, Reason, candidate_of
from o1_vote.members.cosine import CosineMember
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


def test_a_query_that_is_a_document_is_no_negative_of_its_own_unless_it_is_judged():
    """As in ArguAna, where it would be the hardest of all."""
    scores = [0.5, 0.4, *(0.3 - n / 100 for n in range(28))]
    scores[2] = 0.9
    query = Query(query_id="d02", text="text number 2")
    itself = Nomination(query, (), (CORPUS[0], CORPUS[1]))
    (found,) = mine([itself], [Table("m", scores)], DOCUMENTS, Mining(near=1, relative=1, count=3))
    assert ids(found) == ["d03", "d04", "d05"]
    found = mine_block([itself], [Table("m", scores)], DOCUMENTS, Mining(near=1, count=3), excluded={})
    assert next(found).skipped[ITSELF] == 1
    judged = Nomination(query, (), (CORPUS[0], CORPUS[2]))
    (found,) = mine([judged], [Table("m", scores)], DOCUMENTS, Mining(near=1, relative=1, count=3))
    assert [document.doc_id for document in found.positives] == ["d00", "d02"]
    assert ids(found) == ["d01", "d03", "d04"]
    # and no competitor in an election
    assert candidate_of(itself, None).related == {"d02"}
    assert candidate_of(judged, None).related == frozenset()


SCORES = st.lists(st.integers(-9, 9).map(lambda n: n / 8), min_size=30, max_size=30)


@settings(max_examples=60)
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


# --- what matches nothing, what was known before, what is left out ------------------------------------------


def mined_of(corpus, query, positives, members=None, **options):
    """Mine one query of a small corpus of texts by name."""
    documents = {name: Document(doc_id=name, text=text) for name, text in corpus.items()}
    nomination = Nomination(Query(query_id="q", text=query), (), tuple(documents[name] for name in positives))
    mining = Mining(**{"relative": None, "near": 1, **options})
    members = members(documents) if members else [BM25Member(documents)]
    (record,) = mine([nomination], members, documents, mining)
    return record


def test_a_document_that_matches_nothing_of_the_query_is_no_negative():
    corpus = {
        "p": "open the zip file",
        "n": "open a door",
        "x": "sorting numbers",
        "blank": "",
        "dots": "...",
    }
    record = mined_of(corpus, "open zip", ["p"], count=9)
    assert ids(record) == ["n"]
    assert mined_of(corpus, "zip", ["p"]) == Reason(query_id="q", reason=NO_MATCH)
    assert mined_of(corpus, " ", ["p"]) == Reason(query_id="q", reason=NO_QUERY)
    assert mined_of(corpus, "?!", ["p"]) == Reason(query_id="q", reason=NO_MATCH)
    # the positive does not match, so nothing says which documents are too close to it
    assert mined_of(corpus, "sorting doors", ["p"], relative=0.95) == Reason(query_id="q", reason=NO_OPINION)
    assert ids(mined_of(corpus, "sorting door", ["p"])) == ["x", "n"]


def test_a_member_without_an_opinion_has_no_vote():
    silent, loud = Table("silent", [0] * 30), Table("loud", [9, 9, *range(28, 0, -1)])
    alone = ids(mined([loud], count=3, relative=0.5))
    assert alone == ids(mined([silent, loud], count=3, relative=0.5))
    # one that matches a positive has, also about documents that it does not match
    strict = Table("strict", [1.0, 1.0, *[0.9] * 20, *[0] * 8])
    louder = Table("louder", [60, 60, *range(28, 0, -1)])
    assert set(ids(mined([strict, louder], count=30, relative=0.5))) == {f"d{n}" for n in range(22, 30)}


def test_an_empty_document_is_no_negative_of_a_model_that_gives_it_a_vector():
    corpus = {"p": "open the zip file", "n": "sorting numbers", "blank": "", "dots": "...", "space": " \n"}

    def constant(texts):
        return np.array([[1.0, len(text)] for text in texts], dtype=np.float32)

    def members(documents):
        return [CosineMember("constant", constant, documents)]

    assert ids(mined_of(corpus, "open", ["p"], members, count=9)) == ["n"]


def test_the_rows_of_one_anchor_do_not_mine_each_others_positives(folder, vote):
    rotate = [
        "press rotate to rotate an api key",
        "the api key can be rotated by a command",
        "who rotates keys",
    ]
    asked = [
        Query(query_id="a", text="How do I rotate an API key?"),
        Query(query_id="b", text="how do I  rotate an api key?"),
        Query(query_id="c", text="how do I rotate an api key?"),
        Query(query_id="d", text="how do I rotate an api key?", instruction="Answer in French."),
    ]
    corpus = [Document(doc_id=f"p{n}", text=text) for n, text in enumerate(rotate)]
    corpus += [
        Document(doc_id="n", text="an api lists all keys"),
        Document(doc_id="x", text="rotate a picture"),
    ]
    write_jsonl(folder / "c.jsonl", corpus)
    examples = [Example(query=asked[n], positives=(corpus[n],)) for n in range(3)]
    examples.append(Example(query=asked[3], positives=(corpus[0],)))
    write_jsonl(folder / "asked.jsonl", examples)
    words = ["--examples", "asked.jsonl", "--corpus", "c.jsonl", "--member", "bm25", "--relative", "1"]
    done = vote(folder, "mine", *words, "--out", "m.jsonl", "--reasons", "r.jsonl")
    assert done.returncode == 0, done.stderr
    found = {example.query.query_id: example for example in read_jsonl(folder / "m.jsonl", Example)}
    for name, own in (("a", "p0"), ("b", "p1"), ("c", "p2")):
        positives = [document.doc_id for document in found[name].positives]
        assert positives[0] == own
        assert sorted(positives) == ["p0", "p1", "p2"]
        assert set(ids(found[name])) <= {"n", "x"}
    assert [document.doc_id for document in found["d"].positives] == ["p0"]
    assert "6 positives are shared by queries that ask the same" in done.stderr


def test_an_example_keeps_what_it_has_beyond_negatives_and_what_goes_is_counted(folder, mine_with):
    before = Example(
        query=QUERIES[0],
        positives=(CORPUS[13],),
        negatives=(Document(doc_id="own", text="a text of its own"), CORPUS[3]),
        teacher_scores=(3.0, 2.0, 1.0),
        reasoning_query="the thirteenth",
        dataset="numbers",
        group_size=5,
        batch_size=7,
    )
    write_jsonl(folder / "examples.jsonl", [before])
    done = mine_with("--examples", "examples.jsonl", "--count", "4")
    assert done.returncode == 0, done.stderr
    (after,) = read_jsonl(folder / "mined.jsonl", Example)
    for field in ("query", "positives", "reasoning_query", "dataset", "group_size", "batch_size"):
        assert getattr(after, field) == getattr(before, field)
    assert len(after.negatives) == 4
    assert "own" not in ids(after)
    assert "2 negatives that the examples had are replaced (--keep-negatives keeps them)" in done.stderr
    assert "1 examples had teacher scores, and have new documents without one" in done.stderr
    done = mine_with("--examples", "examples.jsonl", "--count", "4", "--keep-negatives", "--new-job")
    (after,) = read_jsonl(folder / "mined.jsonl", Example)
    assert ids(after)[:2] == ["own", "d03"]
    assert len(set(ids(after))) == 4
    assert after.negatives[0].text == "a text of its own"
    assert "are replaced" not in done.stderr


KEPT = Example(
    query=Query(query_id="q", text="number 13 of a corpus"),
    positives=(CORPUS[13],),
    negatives=(Document(doc_id="own", text="a text of its own"), CORPUS[3]),
    teacher_scores=(3.0, 2.0, 1.0),
)


def kept_by(mine_with, folder, before, *words):
    """Mine with --keep-negatives for one example; returns what is written, and the lines on stderr."""
    write_jsonl(folder / "examples.jsonl", [before])
    done = mine_with("--examples", "examples.jsonl", "--keep-negatives", *words)
    assert done.returncode == 0, done.stderr
    return list(read_jsonl(folder / "mined.jsonl", Example)), done.stderr


@pytest.mark.parametrize(
    ("text", "reason"), [("qqq zzz", NO_MATCH), ("17", NO_OPINION), ("?", NO_MATCH), ("", NO_QUERY)]
)
def test_an_example_whose_negatives_are_kept_is_written_where_nothing_is_found(
    folder, mine_with, text, reason
):
    before = msgspec.structs.replace(KEPT, query=Query(query_id="q", text=text))
    after, told = kept_by(mine_with, folder, before, "--count", "4")
    assert after == [before]
    assert "1 of 1 examples have fewer than 4 negatives" in told
    assert list(read_jsonl(folder / "reasons.jsonl", Reason)) == []
    # as before where it has none, and where it must be full
    nothing = msgspec.structs.replace(before, negatives=(), teacher_scores=())
    assert kept_by(mine_with, folder, nothing, "--count", "4", "--new-job")[0] == []
    assert [each.reason for each in read_jsonl(folder / "reasons.jsonl", Reason)] == [reason]
    assert kept_by(mine_with, folder, before, "--count", "4", "--only-full", "--new-job")[0] == []
    assert [each.reason for each in read_jsonl(folder / "reasons.jsonl", Reason)] == ["only 2 of 4 negatives"]


def test_teacher_scores_stay_where_the_documents_do(folder, mine_with):
    after, told = kept_by(mine_with, folder, KEPT, "--count", "2")
    assert after == [KEPT]
    assert "teacher scores" not in told
    (more,), told = kept_by(mine_with, folder, KEPT, "--count", "3", "--new-job")
    assert (len(more.negatives), more.teacher_scores) == (3, ())
    assert "1 examples had teacher scores, and have new documents without one" in told
    inside = msgspec.structs.replace(KEPT, negatives=(CORPUS[5], CORPUS[3]))
    (taught,), _ = kept_by(mine_with, folder, inside, "--count", "2", "--teacher", "bm25", "--new-job")
    assert ids(taught) == ["d05", "d03"]
    assert taught.teacher_scores != inside.teacher_scores
    # scores of another text are none of the corpus' text
    other = msgspec.structs.replace(KEPT, positives=(Document(doc_id="d13", text="another text"),))
    (stale,), told = kept_by(mine_with, folder, other, "--count", "2", "--new-job")
    assert (stale.positives, stale.teacher_scores) == ((CORPUS[13],), ())
    assert "1 examples had teacher scores" in told


def test_an_excluded_document_is_no_negative_that_is_kept(folder, mine_with):
    write_jsonl(folder / "not.jsonl", [Exclusion(query_id="q", doc_id="own")])
    (after,), told = kept_by(mine_with, folder, KEPT, "--count", "1", "--excluded", "not.jsonl")
    assert ids(after) == ["d03"]
    assert after.teacher_scores == (3.0, 1.0)
    assert "1 negatives that the examples had are taken out: excluded, or positive" in told
    (more,), _ = kept_by(mine_with, folder, KEPT, "--count", "4", "--excluded", "not.jsonl", "--new-job")
    assert ids(more)[0] == "d03"
    assert len(more.negatives) == 4
    assert "own" not in ids(more)


def test_scores_have_a_ceiling_and_a_floor_for_each_member():
    down = Table("down", [40, 40, *range(28, 0, -1)])
    up = Table("up", [40, 40, *range(1, 29)])
    options = {"relative": None, "count": 30}
    assert ids(mined([down], max_score=20, min_score=18, **options)) == ["d10", "d11", "d12"]
    both = mined([down, up], max_score={"down": 20}, min_score={"up": 25}, **options)
    assert set(ids(both)) == {f"d{n}" for n in range(26, 30)}
    with pytest.raises(InputError, match=r"max_score 20 could be of any of down, up.*: down=20"):
        mined([down, up], max_score=20, **options)
    with pytest.raises(InputError, match="min_score: no member is called 'typo'; there are down"):
        mined([down], min_score={"typo": 1.0}, **options)
    with pytest.raises(InputError, match="max_score must be a finite number, got nan"):
        Mining(max_score=float("nan"))


class Judge:
    """Reads pairs, and cannot search."""

    name = "judge"

    def __init__(self, likes):
        self.likes, self.read = likes, []

    def similarities(self, pairs):
        self.read += pairs
        return np.array([self.likes.get(doc_id, 0.1) for _, doc_id in pairs], dtype=np.float32)


def test_a_reader_of_pairs_filters_what_the_others_find_and_reads_no_more_than_it_needs():
    down = Table("down", [40, 40, *range(28, 0, -1)])
    judge = Judge({"d00": 0.9, "d01": 0.8, "d02": 0.79, "d04": 0.85})
    record = mined([down, judge], relative=0.95, count=3, teacher="judge")
    # d02 is above 0.95 of the lowest positive, 0.76
    assert ids(record) == ["d03", "d05", "d06"]
    assert record.teacher_scores == pytest.approx([0.9, 0.8, 0.1, 0.1, 0.1])
    read = {doc_id for _, doc_id in judge.read}
    assert read == {"d00", "d01", "d02", "d03", "d04", "d05", "d06", "d07"}
    with pytest.raises(InputError, match="none of judge can search a corpus; add bm25, static or st:MODEL"):
        mined([judge])


def test_all_examples_have_equally_many_negatives_on_request(folder, mine_with):
    write_jsonl(
        folder / "excluded.jsonl", [Exclusion(query_id="q1", doc_id=f"d{n:02}") for n in range(10, 30)]
    )
    asked = [*ASKED, "--excluded", "excluded.jsonl", "--count", "12"]
    done = mine_with(*asked)
    assert "1 of 1 examples have fewer than 12 negatives" in done.stderr
    (short,) = read_jsonl(folder / "mined.jsonl", Example)
    assert len(short.negatives) == 10
    done = mine_with(*asked, "--only-full", "--new-job")
    assert done.returncode == 0
    assert list(read_jsonl(folder / "mined.jsonl", Example)) == []
    reasons = {reason.query_id: reason.reason for reason in read_jsonl(folder / "reasons.jsonl", Reason)}
    assert reasons["q1"] == "only 10 of 12 negatives"


def test_what_was_skipped_and_how_members_score_is_told(folder, mine_with):
    done = mine_with(*ASKED, "--count", "3", "--max-score", "0.01")
    assert done.returncode == 0, done.stderr
    told = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert "documents of the windows that are no negatives: 29 above 0.01 for bm25" in told
    done = mine_with(*ASKED, "--count", "3", "--new-job")
    told = [" ".join(line.split()) for line in done.stderr.splitlines()]
    (example,) = read_jsonl(folder / "mined.jsonl", Example)
    member = BM25Member(CORPUS)
    scores = member.similarities([(QUERIES[0].text, document.doc_id) for document in example.negatives])
    numbers = [
        scores.mean(),
        scores.std(),
        scores.min(),
        *np.quantile(scores, [0.25, 0.5, 0.75]),
        scores.max(),
    ]
    assert f"bm25, negatives 3 {' '.join(f'{number:.4f}' for number in numbers)}" in told
    assert "0 of 1 examples have fewer than 3 negatives" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-score", "x"], "'x' is neither SCORE nor NAME=SCORE"),
        (["--max-score", "1", "--max-score", "2"], "--max-score: give one score, or one for each of several"),
        (["--min-score", "m=1"], "min_score: no member is called 'm'; there are bm25"),
        (["--keep-negatives"], "--keep-negatives needs --examples"),
    ],
)
def test_a_limit_of_scores_that_limits_nobody_is_refused(folder, mine_with, words, message):
    done = mine_with(*ASKED, *words)
    assert done.returncode in (2, 4)
    assert message in done.stderr
    assert not (folder / "mined.jsonl").exists()


def test_a_grade_below_the_one_asked_for_is_neither_positive_nor_negative(folder, vote):
    """TREC-DL calls 1 related, and not relevant."""
    grades = {"d13": 3, "d14": 2, "d15": 1, "d16": 0}
    qrels = [Qrel(query_id="q1", doc_id=name, relevance=grade) for name, grade in grades.items()]
    write_jsonl(folder / "graded.jsonl", qrels)
    write_jsonl(folder / "one.jsonl", QUERIES[:1])
    words = ["--queries", "one.jsonl", "--qrels", "graded.jsonl", "--corpus", "set", "--member", "bm25"]
    words += ["--relative", "1", "--near", "1", "--count", "29", "--out", "m.jsonl", "--reasons", "r.jsonl"]
    for least, positives, hidden in (("1", ["d13", "d14", "d15"], set()), ("2", ["d13", "d14"], {"d15"})):
        done = vote(folder, "mine", *words, "--relevance", least, "--new-job")
        assert done.returncode == 0, done.stderr
        (example,) = read_jsonl(folder / "m.jsonl", Example)
        assert [document.doc_id for document in example.positives] == positives
        assert "d16" in ids(example)
        assert not set(ids(example)) & ({"d13", "d14", "d15"} | hidden)
    refused = vote(folder, "mine", *words, "--relevance", "3", "--examples", "m.jsonl")
    assert refused.returncode == 4


def test_a_related_document_is_no_negative_of_a_query_that_asks_the_same(folder, vote):
    twins = [QUERIES[0], Query(query_id="q1 again", text=QUERIES[0].text.upper())]
    judged = [("q1", "d13", 2), ("q1", "d14", 1), ("q1 again", "d15", 2), ("q1 again", "d16", 1)]
    qrels = [Qrel(query_id=query, doc_id=doc, relevance=grade) for query, doc, grade in judged]
    write_jsonl(folder / "graded.jsonl", qrels)
    write_jsonl(folder / "twins.jsonl", twins)
    words = ["--queries", "twins.jsonl", "--qrels", "graded.jsonl", "--corpus", "set", "--member", "bm25"]
    words += ["--relative", "1", "--near", "1", "--count", "29", "--relevance", "2"]
    done = vote(folder, "mine", *words, "--out", "m.jsonl", "--reasons", "r.jsonl")
    assert done.returncode == 0, done.stderr
    examples = list(read_jsonl(folder / "m.jsonl", Example))
    assert len(examples) == 2
    for example in examples:
        assert {document.doc_id for document in example.positives} <= {"d13", "d15"}
        assert ids(example)
        assert not set(ids(example)) & {"d13", "d14", "d15", "d16"}


# --- the command --------------------------------------------------------------------------------------------

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
