"""Duplicates, overlap with a test set, and counts: exact where they say so, and nothing lost."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
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


# --- different texts stay different ----------------------------------------------------------------------


def deduped(folder, vote, kind, records, *words):
    """Remove duplicates of records; returns what is kept, what is removed, and the line on stderr."""
    write_jsonl(folder / "in.jsonl", records)
    files = ["in.jsonl", "--type", kind, "--out", "kept.jsonl", "--reasons", "gone.jsonl"]
    done = vote(folder, "dedup", *files, *words)
    assert done.returncode == 0, done.stderr
    kept = list(read_jsonl(folder / "kept.jsonl", type(records[0])))
    return kept, list(read_jsonl(folder / "gone.jsonl", Removal)), done.stderr


def test_languages_and_operators_are_different_queries(tmp_path, vote):
    texts = ["sort a vector in C", "sort a vector in C++", "sort a vector in C#", "x == y", "x != y", "x = y"]
    queries = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(texts)]
    kept, gone, _ = deduped(tmp_path, vote, "query", queries)
    assert (kept, gone) == (queries, [])
    kept, gone, told = deduped(tmp_path, vote, "query", queries, "--same", "words")
    assert [query.query_id for query in kept] == ["q0", "q3"]
    assert {removal.reason for removal in gone} == {"the same words"}
    assert "3 of 6 texts are mostly no words, and compared by the rest" not in told


def test_case_white_space_and_forms_of_unicode_make_no_other_text(tmp_path, vote):
    texts = [
        "Caf\u00e9  au lait",
        "cafe\u0301 au\tlait ",
        "CAF\u00c9 AU LAIT",
        "cafe au lait",
        "caf\u00e9 au lait.",
    ]
    queries = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(texts)]
    kept, gone, _ = deduped(tmp_path, vote, "query", queries)
    assert [query.query_id for query in kept] == ["q0", "q3", "q4"]
    assert [(removal.name, removal.like) for removal in gone] == [
        ("q1", "in.jsonl:1: q0"),
        ("q2", "in.jsonl:1: q0"),
    ]


def test_texts_without_a_word_are_told_where_words_are_compared(tmp_path, vote):
    queries = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(["==", "!=", "a word"])]
    kept, gone, told = deduped(tmp_path, vote, "query", queries)
    assert (len(kept), gone) == (3, [])
    kept, gone, told = deduped(tmp_path, vote, "query", queries, "--same", "words")
    assert [removal.name for removal in gone] == ["q1"]
    assert "2 of 3 texts are mostly no words, and compared by the rest" in told


def test_queries_of_other_instructions_are_other_queries(tmp_path, vote):
    queries = [
        Query(query_id=f"q{n}", text="zip files", instruction=instruction)
        for n, instruction in enumerate(["", "find code", "Find  code", "find papers"])
    ]
    kept, _, _ = deduped(tmp_path, vote, "query", queries)
    assert [query.query_id for query in kept] == ["q0", "q1", "q3"]


def test_removed_thoughts_are_told_apart_by_their_place(tmp_path, vote):
    """Ids that read the same when they are joined by a space."""
    names = [("a b", "c"), ("x", "y"), ("x y", "z"), ("x", "y z")]
    thoughts = [
        Thought(query_id=query, thought_id=thought, text="one two", source=Source(model="m"))
        for query, thought in names
    ]
    kept, gone, _ = deduped(tmp_path, vote, "thought", thoughts)
    assert kept == thoughts[:1]
    assert [(removal.number, removal.name) for removal in gone] == [(2, "x y"), (3, "x y z"), (4, "x y z")]


@pytest.mark.parametrize("near", ["1", "1.0"])
def test_all_shingles_in_common_can_be_asked_for_without_an_extra(tmp_path, vote, near):
    texts = ["one two three four", "one, two: three; four!", "one two three four five"]
    documents = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)]
    kept, gone, _ = deduped(tmp_path, vote, "document", documents, "--near", near)
    assert [document.doc_id for document in kept] == ["d0", "d2"]
    assert [(removal.name, removal.share, removal.reason) for removal in gone] == [
        ("d1", 1.0, "near-duplicate")
    ]


@pytest.mark.parametrize("near", ["0", "1.1", "nan", "-1"])
def test_a_share_that_is_none_is_refused(tmp_path, vote, near):
    write_jsonl(tmp_path / "in.jsonl", [Query(query_id="q", text="x")])
    files = ["in.jsonl", "--type", "query", "--out", "kept.jsonl", "--reasons", "gone.jsonl"]
    done = vote(tmp_path, "dedup", *files, "--near", near)
    assert done.returncode == 4
    assert f"near must be above 0 and at most 1, got {float(near)}" in done.stderr
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_removed_example_leaves_its_positives_to_the_one_that_is_kept(tmp_path, vote):
    def document(name):
        return Document(doc_id=name, text=f"text {name}")

    query = Query(query_id="a", text="rotate a key")
    examples = [
        Example(query=query, positives=(document("p1"),), negatives=(document("n1"), document("p2"))),
        Example(query=Query(query_id="b", text="Rotate a  key"), positives=(document("p2"), document("p1"))),
        Example(query=Query(query_id="c", text="something else"), positives=(document("p3"),)),
    ]
    kept, gone, told = deduped(tmp_path, vote, "example", examples)
    assert [document.doc_id for document in kept[0].positives] == ["p1", "p2"]
    assert [document.doc_id for document in kept[0].negatives] == ["n1"]
    assert kept[1:] == examples[2:]
    assert [removal.name for removal in gone] == ["b"]
    assert "examples have 1 positives more, of removed ones with like queries" in told


@pytest.mark.parametrize("near", [pytest.param("0.7", marks=pytest.mark.extra), "1"])
def test_an_example_with_a_near_duplicate_query_leaves_its_positives_too(tmp_path, vote, near):
    def document(name):
        return Document(doc_id=name, text=f"text {name}")

    asked = "how do I rotate the api key of a service account"
    other = f"{asked} today" if near == "0.7" else f"{asked}!"
    examples = [
        Example(
            query=Query(query_id="a", text=asked),
            positives=(document("p1"),),
            negatives=(document("n1"), document("p2")),
        ),
        Example(query=Query(query_id="b", text=other), positives=(document("p2"),)),
    ]
    kept, gone, told = deduped(tmp_path, vote, "example", examples, "--near", near)
    assert [(removal.name, removal.reason) for removal in gone] == [("b", "near-duplicate")]
    (one,) = kept
    assert [document.doc_id for document in one.positives] == ["p1", "p2"]
    assert [document.doc_id for document in one.negatives] == ["n1"]
    assert "examples have 1 positives more" in told
    # nobody is left to have them where the other query is in --against
    write_jsonl(tmp_path / "old.jsonl", examples[:1])
    kept, _, told = deduped(tmp_path, vote, "example", examples[1:], "--near", near, "--against", "old.jsonl")
    assert kept == []
    assert "1 positives are removed with examples whose query has a twin in --against" in told


@pytest.mark.parametrize("both", [True, False])
def test_teacher_scores_follow_their_documents_or_are_told_lost(tmp_path, vote, both):
    def scored(name, text, positives, negatives, scores):
        return Example(
            query=Query(query_id=name, text=text),
            positives=tuple(Document(doc_id=each, text=each) for each in positives),
            negatives=tuple(Document(doc_id=each, text=each) for each in negatives),
            teacher_scores=scores,
        )

    examples = [
        scored("a", "x", ["p1"], ["n1", "p2", "n2"], (9.0, 1.0, 7.0, 2.0)),
        scored("b", "X", ["p2"], [], (8.0,) if both else ()),
    ]
    kept, _, told = deduped(tmp_path, vote, "example", examples)
    assert kept[0].teacher_scores == ((9.0, 8.0, 1.0, 2.0) if both else ())
    assert ("1 examples lost their teacher scores" in told) == (not both)


def test_positives_that_go_with_a_query_of_other_files_are_told(tmp_path, vote):
    write_jsonl(tmp_path / "old.jsonl", [example("o", "rotate a key")])
    kept, gone, told = deduped(
        tmp_path, vote, "example", [example("a", "Rotate a key")], "--against", "old.jsonl"
    )
    assert (kept, [removal.like for removal in gone]) == ([], ["old.jsonl:1: o"])
    assert "1 positives are removed with examples whose query has a twin in --against" in told


# --- what a test set's texts are found by ----------------------------------------------------------------


def cleaned(folder, vote, kind, records, tests, *words):
    """Remove what overlaps with test queries; returns as `deduped`."""
    write_jsonl(folder / "in.jsonl", records)
    write_jsonl(folder / "tests.jsonl", [Query(query_id=f"t{n}", text=text) for n, text in enumerate(tests)])
    files = ["in.jsonl", "--type", kind, "--out", "kept.jsonl", "--reasons", "gone.jsonl"]
    done = vote(folder, "decontaminate", *files, "--test-queries", "tests.jsonl", *words)
    assert done.returncode == 0, done.stderr
    kept = list(read_jsonl(folder / "kept.jsonl", type(records[0])))
    return kept, list(read_jsonl(folder / "gone.jsonl", Removal)), done.stderr


UNSPACED = "如何用一条命令列出压缩包里的文件"
HINDI = "हिमालय की सबसे ऊँची चोटी"


@pytest.mark.parametrize(
    "asked",
    [
        "what is the capital of France",
        "how many moons does the planet Jupiter have in total",
        "capital of sunny France",
        UNSPACED,
        UNSPACED[:8],
        HINDI,
    ],
)
def test_a_test_query_is_found_inside_a_text_whatever_its_length_and_script(tmp_path, vote, asked):
    documents = [
        Document(doc_id="asks", text=f"Q: {asked}? A: that is told elsewhere, and at some length."),
        Document(doc_id="free", text="Nothing of this is in the test."),
    ]
    kept, gone, told = cleaned(tmp_path, vote, "document", documents, [asked])
    assert [document.doc_id for document in kept] == ["free"]
    assert [(removal.name, removal.reason, removal.like) for removal in gone] == [
        ("asks", "contained", "query t0")
    ]
    assert "test texts" not in told


def test_what_cannot_be_found_is_counted_and_named(tmp_path, vote):
    tests = ["zip files", "sort it", "...", "what is the capital of France"]
    documents = [Document(doc_id="d", text="zip files are here, and so is how to sort it")]
    kept, gone, told = cleaned(tmp_path, vote, "document", documents, tests, "--unchecked", "unchecked.txt")
    assert (kept, gone) == (documents, [])
    assert (
        "2 test texts have fewer than 4 words (twice as many characters where there are no spaces) and are "
        "found only where a whole text is near them: query t0, query t1" in told
    )
    assert "1 test texts have no word and cannot be found: query t2" in told
    assert (tmp_path / "unchecked.txt").read_text() == "query t0\nquery t1\nquery t2\n"
    kept, gone, told = cleaned(tmp_path, vote, "document", documents, tests, "--shortest", "2")
    assert (len(kept), gone[0].reason) == (0, "contained")
    assert "have fewer than" not in told


def test_a_short_test_query_is_found_where_it_is_all_of_a_text(tmp_path, vote):
    kept, gone, _ = cleaned(tmp_path, vote, "query", [Query(query_id="q", text="Zip files!")], ["zip files"])
    assert (kept, gone[0].reason) == ([], "near-duplicate")


def test_a_contaminated_negative_is_taken_out_of_its_example_with_its_score(tmp_path, vote):
    asked = "what is the capital of France"
    bad, good = Document(doc_id="bad", text=f"Q: {asked}"), Document(doc_id="good", text="another text")
    before = Example(
        query=Query(query_id="e", text="moons of Jupiter"),
        positives=(Document(doc_id="p", text="it has many moons"),),
        negatives=(good, bad, good.__class__(doc_id="more", text="more text")),
        teacher_scores=(4.0, 3.0, 2.0, 1.0),
    )
    (after,), gone, told = cleaned(tmp_path, vote, "example", [before], [asked])
    assert [document.doc_id for document in after.negatives] == ["good", "more"]
    assert after.teacher_scores == (4.0, 3.0, 1.0)
    assert [(removal.name, removal.part, removal.like) for removal in gone] == [
        ("e", "negative 1: bad", "query t0")
    ]
    assert "kept.jsonl: 1 kept; gone.jsonl: 0 removed, and 1 negatives of kept examples" in told


def test_a_reasoning_query_that_asks_a_test_query_is_found(tmp_path, vote):
    asked = "what is the capital of France"
    before = Example(
        query=Query(query_id="e", text="capitals"), positives=(Document(doc_id="p", text="Paris"),),
        reasoning_query=f"Think about it: {asked}?",
    )  # fmt: skip
    kept, gone, _ = cleaned(tmp_path, vote, "example", [before], [asked])
    assert (kept, gone[0].name) == ([], "e")


def test_only_relevant_documents_of_the_grade_asked_for_are_test_texts(tmp_path, vote):
    from o1_vote.curation.contamination import read_test_set

    write_jsonl(tmp_path / "q.jsonl", [Query(query_id="t", text="x")])
    write_jsonl(tmp_path / "c.jsonl", [Document(doc_id=f"d{n}", text=f"text {n}") for n in range(3)])
    write_jsonl(tmp_path / "r.jsonl", [Qrel(query_id="t", doc_id=f"d{n}", relevance=n) for n in range(3)])
    files = tmp_path / "q.jsonl", tmp_path / "r.jsonl", tmp_path / "c.jsonl"
    assert [name for name, _ in read_test_set(*files)] == ["query t", "document d1", "document d2"]
    assert [name for name, _ in read_test_set(*files, relevance=2)] == ["query t", "document d2"]
