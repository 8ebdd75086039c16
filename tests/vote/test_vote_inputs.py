"""What an election and mining take: pipes, dicts, names of functions, and what they refuse in words."""

import os
import threading

import pytest

from o1_records import Document, Example, InputError, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_vote import BM25Member, elect, mine, nominate
from o1_vote.curation.negatives import Mining
from o1_vote.election.nominate import Reason
from o1_vote.tally import Counting, majority

QUERIES = [Query(query_id="q1", text="open a compressed folder"), Query(query_id="q2", text="order numbers")]
CORPUS = [
    Document(doc_id="d1", text="Read the members of a ZIP archive."),
    Document(doc_id="d2", text="Sort a list in ascending order."),
    Document(doc_id="d3", text="Order a table of numbers."),
]
QRELS = [Qrel(query_id="q1", doc_id="d1", relevance=1), Qrel(query_id="q2", doc_id="d2", relevance=1)]
THOUGHTS = [
    Thought(query_id="q1", thought_id="a", text="a folder on the desk", source=Source(model="m")),
    Thought(query_id="q1", thought_id="b", text="a zip archive has members", source=Source(model="m")),
    Thought(query_id="q2", thought_id="a", text="sorting a list", source=Source(model="m")),
]
FILES = {"queries": QUERIES, "thoughts": THOUGHTS, "qrels": QRELS, "corpus": CORPUS}


@pytest.fixture
def folder(tmp_path):
    for name, records in FILES.items():
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    return tmp_path


@pytest.fixture
def pipe(folder):
    """Makes a pipe of a file's content, as `<(cat FILE)` does; returns its path."""
    writers = []

    def make(name):
        content = (folder / f"{name}.jsonl").read_bytes()
        path = folder / f"{name}.pipe.jsonl"
        os.mkfifo(path)

        def write():
            with open(path, "wb") as file:
                file.write(content)

        writers.append(threading.Thread(target=write, daemon=True))
        writers[-1].start()
        return path.name

    yield make
    for writer in writers:
        writer.join(timeout=1)


@pytest.mark.parametrize("piped", ["queries", "thoughts", "qrels"])
def test_a_pipe_is_read_once_and_whole(folder, vote, pipe, piped):
    words = [f"--{name}={name}.jsonl" for name in FILES if name != piped]
    done = vote(folder, "elect", *words, f"--{piped}", pipe(piped), "--member", "bm25", "--out", "e.jsonl")
    assert done.returncode == 0, done.stderr
    assert "e.jsonl: 2 examples, 2 with a thought" in done.stderr
    plain = [f"--{name}={name}.jsonl" for name in FILES]
    assert vote(folder, "elect", *plain, "--member", "bm25", "--out", "plain.jsonl").returncode == 0
    assert (folder / "e.jsonl").read_bytes() == (folder / "plain.jsonl").read_bytes()


def test_examples_may_come_through_a_pipe_too(folder, vote, pipe):
    write_jsonl(folder / "examples.jsonl", [Example(query=QUERIES[1], positives=(CORPUS[1],))])
    words = ["--examples", pipe("examples"), "--corpus", "corpus.jsonl", "--member", "bm25"]
    done = vote(folder, "mine", *words, "--relative", "1", "--out", "m.jsonl", "--reasons", "r.jsonl")
    assert done.returncode == 0, done.stderr
    assert len([*read_jsonl(folder / "m.jsonl", Example), *read_jsonl(folder / "r.jsonl", Reason)]) == 1


@pytest.mark.parametrize("command", ["elect", "mine", "calibrate"])
def test_a_corpus_that_would_be_read_twice_is_refused_as_a_pipe(folder, vote, pipe, command):
    words = [f"--{name}={name}.jsonl" for name in ("queries", "qrels")]
    words += {"elect": ["--thoughts=thoughts.jsonl"], "mine": ["--reasons=r.jsonl"], "calibrate": []}[command]
    done = vote(folder, command, *words, "--corpus", pipe("corpus"), "--member", "bm25", "--out", "o")
    assert done.returncode == 4
    assert "--corpus corpus.pipe.jsonl is a pipe, which can be read only once" in done.stderr
    assert not (folder / "o").exists()


def test_python_takes_dicts_and_names(folder):
    def dicts(records):
        return [{f: getattr(r, f) for f in r.__struct_fields__ if getattr(r, f)} for r in records]

    given = {"qrels": dicts(QRELS), "documents": dicts(CORPUS)}
    thoughts = [{**each, "source": {"model": "m"}} for each in dicts(THOUGHTS)]
    by_name = elect(
        dicts(QUERIES), thoughts, members=[BM25Member(dicts(CORPUS))], rule="majority", measure="thought",
        **given,
    )  # fmt: skip
    by_function = elect(
        QUERIES, THOUGHTS, qrels=QRELS, documents=CORPUS, members=[BM25Member(CORPUS)],
        rule=Counting("majority"), measure="thought",
    )  # fmt: skip
    assert by_name == by_function
    nominations, _ = nominate(dicts(QUERIES), (), **given)
    documents = {document.doc_id: document for document in CORPUS}
    (_, second) = mine(nominations, [BM25Member(CORPUS)], documents, Mining(relative=None))
    assert [document.doc_id for document in second.negatives] == ["d3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": ["open"]}, "queries: expected Query records or dicts, got 'open'"),
        (
            {"queries": [{"query_id": "q1"}]},
            "missing required field `text`; in {'query_id': 'q1'}",
        ),
        ({"queries": [Query(query_id=1, text="x")]}, "query 1: Expected `str`, got `int` - at `$.query_id`"),
        ({"qrels": [Qrel(query_id="q1", doc_id=1, relevance=1)]}, "ids are text; write them in quotes"),
        ({"qrels": [{"query_id": 1, "doc_id": "d", "relevance": 1}]}, "qrels: Expected `str`, got `int`"),
        ({"documents": [{"doc_id": 1, "text": "x"}]}, "documents: Expected `str`, got `int`"),
        ({"rule": "plurality"}, "no rule 'plurality'; there are majority, mean-rank, borda"),
        ({"measure": "bleu"}, "no measure 'bleu'; there are thought, query-thought, margin"),
        ({"relevance": 0}, "relevance must be 1 or more, got 0"),
    ],
)
def test_what_is_no_record_and_no_name_is_told_in_words(changes, message):
    given = {"queries": QUERIES[:1], "qrels": QRELS[:1], "documents": CORPUS, **changes}
    with pytest.raises(InputError) as refused:
        elect(given.pop("queries"), [], members=[BM25Member(CORPUS)], **given)
    assert message in str(refused.value)


def test_a_document_with_a_number_for_an_id_is_refused_by_bm25():
    with pytest.raises(InputError, match="doc_id 1 is not text; write it in quotes"):
        BM25Member([Document(doc_id=1, text="zip")])


def test_a_grade_below_the_one_asked_for_is_neither_positive_nor_a_competitor():
    """TREC-DL calls 1 related, and not relevant."""
    graded = [
        *QRELS[:1],
        Qrel(query_id="q2", doc_id="d2", relevance=2),
        Qrel(query_id="q2", doc_id="d3", relevance=1),
    ]
    given = {"qrels": graded, "documents": CORPUS, "members": [BM25Member(CORPUS)], "rule": majority}
    loose = elect(QUERIES[1:], THOUGHTS[2:], **given)
    assert [document.doc_id for document in loose.examples[0].positives] == ["d2", "d3"]
    strict = elect(QUERIES[1:], THOUGHTS[2:], relevance=2, **given)
    assert [document.doc_id for document in strict.examples[0].positives] == ["d2"]
    # without d3 the next document is one that does not match, and scores 0
    alone = BM25Member(CORPUS).similarities([("order numbers", "d2")])[0]
    assert strict.ballots[0].score == pytest.approx(alone)
