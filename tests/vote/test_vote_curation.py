"""Duplicates, overlap with a test set, and counts: exact where they say so, and nothing lost."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import Document, Example, InputError, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.kit.text import jaccard, shingles, words
from o1_vote.curation.contamination import Holdout
from o1_vote.curation.duplicates import Duplicates
from o1_vote.curation.sieve import Removal
from o1_vote.curation.stats import stats

TEXTS = st.lists(st.sampled_from(["red", "blue", "green", "one"]), max_size=7).map(" ".join)


@given(text=TEXTS, size=st.integers(1, 4))
def test_shingles_are_the_runs_of_words(text, size):
    parts = text.split()
    runs = {" ".join(parts[i : i + size]) for i in range(len(parts)) if i + size <= len(parts)}
    assert shingles(text, size) == (runs or ({text} if parts else set()))
    assert jaccard(shingles(text), shingles(text)) == 1


@given(texts=st.lists(TEXTS, max_size=12))
def test_duplicates_by_words_are_those_of_the_same_words(texts):
    known, seen = Duplicates(by="words"), {}
    for place, text in enumerate(texts):
        twin = known.first(str(place), text.upper() + "!")
        assert (twin and twin.name) == seen.get(text)
        seen.setdefault(text, str(place))


@pytest.mark.extra
@settings(deadline=None)
@given(texts=st.lists(TEXTS, max_size=10), near=st.sampled_from([0.3, 0.6, 0.9]))
def test_near_duplicates_really_are_as_alike_as_asked_for(texts, near):
    known, kept = Duplicates(near), {}
    for place, text in enumerate(texts):
        twin = known.first(str(place), text)
        if twin is None:
            kept[str(place)] = text
        else:
            share = jaccard(shingles(text), shingles(kept[twin.name]))
            assert share == twin.similarity
            assert share >= near


@pytest.mark.extra
def test_minhash_finds_nearly_all_clear_near_duplicates():
    import random

    choose = random.Random(0)
    known, found = Duplicates(0.7), 0
    for number in range(200):
        text = [f"w{choose.randrange(5000)}" for _ in range(60)]
        assert known.first(f"{number}", " ".join(text)) is None
        text[choose.randrange(60)] = "changed"
        found += known.first(f"{number} again", " ".join(text)) is not None
    assert found >= 198


def test_a_missing_extra_says_what_to_type():
    code = (
        "import sys; sys.modules['datasketch'] = None; "
        "from o1_vote.curation.duplicates import Duplicates; Duplicates(0.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'o1-vote[dedup]'" in done.stderr.splitlines()[-1]


@given(tests=st.lists(TEXTS, max_size=5), text=TEXTS, contained=st.sampled_from([0.4, 1.0]))
def test_overlap_is_the_most_of_containment_and_likeness(tests, text, contained):
    holdout = Holdout(
        ((str(i), test) for i, test in enumerate(tests)), ngram=4, contained=contained, near=0.5
    )  # fmt: skip
    best = []
    for place, test in enumerate(tests):
        runs = shingles(test, 4) if len(words(test)) >= 4 else set()
        if runs and len(runs & shingles(text, 4)) / len(runs) >= contained:
            best.append((len(runs & shingles(text, 4)) / len(runs), -place))
        share = jaccard(shingles(test), shingles(text))
        if share >= 0.5 and words(text) and words(test):
            best.append((share, -place))
    found = holdout.overlap(text)
    assert (found and (found.share, -int(found.name))) == (max(best) if best else None)


def test_duplicates_within_and_across_files_are_removed_with_a_reason(tmp_path, vote):
    write_jsonl(tmp_path / "old.jsonl", [Query(query_id="o", text="Open a file.")])
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            Query(query_id="a1", text="open a FILE"),
            Query(query_id="a2", text="sort a list"),
            Query(query_id="a3", text="Sort a list!"),
        ],
    )
    write_jsonl(
        tmp_path / "b.jsonl", [Query(query_id="b1", text="sort a  list"), Query(query_id="b2", text="x")]
    )
    files = ["a.jsonl", "b.jsonl", "--type", "query", "--against", "old.jsonl"]
    done = vote(tmp_path, "dedup", *files, "--out", "kept.jsonl", "--reasons", "removed.jsonl")
    assert done.returncode == 0, done.stderr
    assert [q.query_id for q in read_jsonl(tmp_path / "kept.jsonl", Query)] == ["a1", "a2", "a3", "b2"]
    removed = [(r.name, r.number, r.like, r.reason) for r in read_jsonl(tmp_path / "removed.jsonl", Removal)]
    assert removed == [("b1", 1, "a.jsonl:2: a2", "the same text")]
    done = vote(
        tmp_path, "dedup", *files, "--same", "words", "--out", "kept.jsonl", "--reasons", "removed.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert [q.query_id for q in read_jsonl(tmp_path / "kept.jsonl", Query)] == ["a2", "b2"]
    removed = {r.name: r.like for r in read_jsonl(tmp_path / "removed.jsonl", Removal)}
    assert removed == {"a1": "old.jsonl:1: o", "a3": "a.jsonl:2: a2", "b1": "a.jsonl:2: a2"}
    clash = vote(tmp_path, "dedup", *files, "--out", "a.jsonl", "--reasons", "removed.jsonl")
    assert clash.returncode == 4
    assert "--out a.jsonl would overwrite the input of files, a.jsonl" in clash.stderr


@pytest.mark.extra
def test_near_duplicates_are_removed_on_request(tmp_path, vote):
    text = "read all the members of an archive and write each of them to a folder of its own"
    documents = [
        Document(doc_id="d1", text=text),
        Document(doc_id="d2", text=text + " now"),
        Document(doc_id="d3", text="sort"),
    ]
    write_jsonl(tmp_path / "d.jsonl", documents)
    files = ["d.jsonl", "--type", "document", "--out", "k.jsonl", "--reasons", "r.jsonl"]
    assert vote(tmp_path, "dedup", *files, "--near", "0.8").returncode == 0
    assert [d.doc_id for d in read_jsonl(tmp_path / "k.jsonl", Document)] == ["d1", "d3"]
    (removal,) = read_jsonl(tmp_path / "r.jsonl", Removal)
    assert removal.reason == "near-duplicate"
    assert 0.8 <= removal.share < 1


RELEVANT = "The heart pumps blood through the body in a closed circuit of vessels every minute."


def example(query_id, text, document="nothing in common here", thought=None):
    made = thought and Thought(query_id=query_id, thought_id="t", text=thought, source=Source(model="m"))
    return Example(
        query=Query(query_id=query_id, text=text),
        positives=(Document(doc_id=f"d{query_id}", text=document),),
        thought=made,
    )


def test_what_overlaps_with_a_test_set_is_removed_with_a_reason(tmp_path, vote):
    write_jsonl(tmp_path / "queries.jsonl", [Query(query_id="t1", text="how does the heart pump blood")])
    write_jsonl(tmp_path / "qrels.jsonl", [Qrel(query_id="t1", doc_id="h", relevance=1)])
    write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            Document(doc_id="h", text=RELEVANT),
            Document(doc_id="free", text="an irrelevant document of words"),
        ],
    )
    examples = [
        example("clean", "how do plants grow"),
        example("asked", "How does the heart pump blood?"),
        example("read", "another question", f"It is said: {RELEVANT} And so on."),
        example("thought", "a third question", thought=RELEVANT),
        example("irrelevant", "a fourth question", "an irrelevant document of words"),
    ]
    write_jsonl(tmp_path / "examples.jsonl", examples)
    test_set = [
        "--test-queries",
        "queries.jsonl",
        "--test-qrels",
        "qrels.jsonl",
        "--test-corpus",
        "corpus.jsonl",
    ]
    files = ["examples.jsonl", "--type", "example", "--out", "kept.jsonl", "--reasons", "removed.jsonl"]
    done = vote(tmp_path, "decontaminate", *files, *test_set)
    assert done.returncode == 0, done.stderr
    assert [e.query.query_id for e in read_jsonl(tmp_path / "kept.jsonl", Example)] == ["clean", "irrelevant"]
    removed = {r.name: (r.reason, r.like) for r in read_jsonl(tmp_path / "removed.jsonl", Removal)}
    assert removed == {
        "asked": ("contained", "query t1"),
        "read": ("contained", "document h"),
        "thought": ("contained", "document h"),
    }


def test_limits_outside_their_range_are_refused():
    with pytest.raises(InputError, match=r"near must be above 0 and at most 1, got 1\.5"):
        Duplicates(1.5)
    with pytest.raises(InputError, match="contained must be above 0 and at most 1, got 0"):
        Holdout([], contained=0)


def test_stats_count_what_examples_hold(tmp_path, vote):
    examples = [example("a", "one two three", "x y", "t"), example("b", "one"), example("c", "")]
    told = stats(examples)
    assert (told["examples"], told["with a thought"], told["with negatives"]) == (3, 1, 0)
    assert told["query words"] == {"mean": 1.33, "least": 0, "median": 1, "p90": 3, "most": 3}
    assert told["thoughts by model"] == {"m": 1}
    write_jsonl(tmp_path / "e.jsonl", examples)
    done = vote(tmp_path, "stats", "e.jsonl")
    assert json.loads(done.stdout) == told
    assert stats([])["examples"] == 0
