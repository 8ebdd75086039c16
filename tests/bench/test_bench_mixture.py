"""Thoughts mixed in by a weight, beside no thought, thoughts alone, the joint row, and controls."""

import numpy as np
import pytest

from o1_bench import Collection, Options, explore, run
from o1_bench.__main__ import main
from o1_bench.results.verify import verify_result
from o1_bench.running.mixture import MixedLexical, MixedVectors
from o1_bench.running.retrieve import bm25
from o1_records import Document, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.beir import write_beir
from o1_records.bm25 import BM25
from o1_records.mixture import Mixture, mix_scores, mix_vectors

TEXTS = ["open a zip archive", "close the socket", "parse the date", "copy a folder", "sort the list"]
DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(TEXTS)]
QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(("open close", "date list", "folder"))]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{d}", relevance=1) for n, d in enumerate((1, 4, 3))]
WORDS = sorted({word for text in TEXTS for word in text.split()})
# q2 has no thought; q1 has two
GIVEN = {"q0": ["socket"], "q1": ["sort", "list"]}
THOUGHTS = [
    Thought(query_id=q, thought_id=str(n), text=text, source=Source(model="llm", completion_tokens=2))
    for q, texts in GIVEN.items()
    for n, text in enumerate(texts)
]


@pytest.fixture
def collection():
    return Collection(
        name="tiny/test", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, instruction="find",
        excluded={"q0": frozenset({"d4"})},
    )  # fmt: skip


class Model:
    """Counts words; longer than unit length, and what it was asked is written down."""

    name, device = "counter", "cpu"

    def __init__(self):
        self.fingerprint, self.asked = {"weights": 1, "with_query": False}, []

    def _vectors(self, texts):
        rows = [[1e-3 + 2.0 * text.split().count(word) for word in WORDS] for text in texts]
        return np.array(rows, dtype=np.float32)

    def documents(self, documents):
        self.asked += [("document", document.text) for document in documents]
        return self._vectors([document.text for document in documents])

    def queries(self, queries, thoughts=None, *, with_query=False):
        own = thoughts or [()] * len(queries)
        texts = [
            " ".join([query.text, *(getattr(t, "text", t) for t in each)])
            for query, each in zip(queries, own, strict=True)
        ]
        self.asked += [("query", text, query.instruction) for text, query in zip(texts, queries, strict=True)]
        return self._vectors(texts)

    def sample(self, queries, documents):
        return [query.text for query in queries], [document.text for document in documents]

    def think(self, queries):
        by_query = {}
        for thought in THOUGHTS:
            by_query.setdefault(thought.query_id, []).append(thought)
        return [by_query.get(query.query_id, []) for query in queries]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- the vectors and the scores -----------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["document", "query", "joint"])
def test_vectors_are_mixed_as_the_records_say_in_each_reading(reading):
    model = Model()
    own = [GIVEN.get(query.query_id, []) for query in QUERIES]
    found = MixedVectors(model, Mixture(weight=0.3, reading=reading))(QUERIES, thoughts=own)
    plain = Model()
    read = {
        "document": lambda query, text: plain.documents([Document(doc_id="x", text=text)]),
        "query": lambda query, text: plain.queries([Query(query_id="x", text=text)]),
        "joint": lambda query, text: plain.queries([query], [[text]]),
    }[reading]
    expected = mix_vectors(
        unit(plain.queries(QUERIES)),
        [
            np.concatenate([unit(read(query, text)) for text in texts])
            if texts
            else np.zeros((0, len(WORDS)))
            for query, texts in zip(QUERIES, own, strict=True)
        ],
        0.3,
    )
    assert np.allclose(found, expected, atol=1e-6)
    assert np.allclose(found[2], unit(plain.queries(QUERIES[2:]))[0], atol=1e-6)  # it has no thought
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_thought_that_is_read_as_a_query_has_the_querys_instruction():
    model = Model()
    asked = [Query(query_id="q", text="open", instruction="find")]
    MixedVectors(model, Mixture(reading="query"))(asked, thoughts=[["zip"]])
    assert model.asked == [("query", "open", "find"), ("query", "zip", "find")]


def test_without_any_thought_nothing_changes():
    model = Model()
    found = MixedVectors(model, Mixture())(QUERIES, thoughts=None)
    assert np.allclose(found, unit(model.queries(QUERIES)), atol=1e-6)


@pytest.mark.parametrize("query_weights", [False, True])
@pytest.mark.parametrize("weight", [0.2, 0.7, 1.0])
def test_bm25_is_mixed_by_standard_scores_over_the_corpus(collection, weight, query_weights):
    search = bm25(collection, query_weights=query_weights)
    found = {}
    for hit in MixedLexical(search, GIVEN, weight)(QUERIES, 10):
        found.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    for query in QUERIES:
        asked = search.scores(query.text)
        read = [search.scores(text) for text in GIVEN.get(query.query_id, [])]
        every = read if read and weight == 1.0 else [asked, *read]
        scores = mix_scores(asked, read, weight)
        expected = {
            f"d{n}": float(scores[n]) for n in range(5) if any(each[n] > 0 for each in every)
        }  # fmt: skip
        expected.pop("d4" if query.query_id == "q0" else "", None)  # excluded
        assert found[query.query_id] == pytest.approx(expected, abs=1e-6)


def test_scores_of_bm25_are_those_of_its_search(collection):
    search, plain = bm25(collection), BM25(DOCUMENTS)
    assert np.allclose(search.scores("open close"), plain.scores("open close"))
    hits = {hit.doc_id: hit.score for hit in search(QUERIES[1:2], 10)}
    scores = search.scores(QUERIES[1].text)
    assert hits == pytest.approx({f"d{n}": scores[n] for n in range(5) if scores[n] > 0})


# --- the rows of a result -----------------------------------------------------------------------------

CONTROLS = ("empty", "shuffled", "filler", "copy")


def by_name(done):
    return {result.name: result for result in done["tiny/test"]}


@pytest.mark.extra
def test_a_system_that_thinks_is_measured_without_with_alone_joint_and_with_controls(collection, tmp_path):
    done = by_name(run(Model(), tmp_path, collection=collection, think=True, controls=True))
    assert {name: result.system.kind for name, result in done.items()} == {
        "counter": "system",
        "counter, thinking": "system",
        **{f"counter, {control} thoughts": "control" for control in CONTROLS},
        "counter, 0.2 own thought": "system",
        **{f"counter, 0.2 {control} own thought": "control" for control in CONTROLS},
        "counter, own thought alone": "system",
    }
    row = done["counter, 0.2 own thought"].system
    assert row.encoder["thoughts"] == {"mixture": {"weight": 0.2, "reading": "document"}}
    assert row.note == "0.8 query + 0.2 thought, read as a document"
    # thinking has its price in every row with thoughts
    think = done["counter, thinking"].system.milliseconds.think
    assert think > 0
    for name, result in done.items():
        assert result.system.milliseconds.think == (None if name == "counter" else think), name
        assert result.system.thought_tokens == (0 if name == "counter" else 6), name
    assert done["counter"].metrics["RR@10"] < done["counter, 0.2 own thought"].metrics["RR@10"]
    found = explore(tmp_path / "tiny-test", tmp_path / "e.html")
    assert found[:3] == ("counter, 0.2 own thought", "counter", "nDCG@10")
    assert (found.gained, found.lost, found.same) == (1, 0, 2)
    assert (tmp_path / "e.html").read_text().count('"shuffled"') == 1
    for folder in (tmp_path / "tiny-test").glob("*/result.json"):
        assert verify_result(folder) == []


@pytest.mark.extra
def test_a_copy_of_the_query_read_as_a_query_changes_nothing(collection, tmp_path):
    options = Options(reading="query", mix=(0.4,))
    done = by_name(run(Model(), tmp_path, collection=collection, think=True, controls=True, options=options))
    assert done["counter, 0.4 copy own thought"].per_query == done["counter"].per_query
    assert done["counter, 0.4 own thought"].system.note == "0.6 query + 0.4 thought, read as a query"


def test_several_weights_are_several_rows_and_bm25_has_the_same(collection, tmp_path, capsys):
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    command = ["run", "--model", "bm25", "--collection", tmp_path / "tiny", "--out", tmp_path / "r"]
    command += ["--thoughts", tmp_path / "thoughts.jsonl", "--think-ms", "7", "--mix", "0.5", "0.1"]
    assert main([str(word) for word in command]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert names[:5] == [
        "BM25",
        "BM25 + thought",
        "BM25, 0.1 thought",
        "BM25, 0.5 thought",
        "BM25, thought alone",
    ]
    done = by_name(
        run(
            "bm25", tmp_path / "s", collection=collection, thoughts=tmp_path / "thoughts.jsonl", controls=True
        )
    )
    assert {f"BM25, 0.2 {control} thought" for control in CONTROLS} <= done.keys()
    # an empty thought has no score
    assert done["BM25, 0.2 empty thought"].per_query == done["BM25"].per_query
    mixture = done["BM25, 0.2 thought"]
    assert mixture.system.encoder["mixture"] == {"weight": 0.2, "of": "standard scores"}
    assert mixture.system.note.startswith("0.8 query + 0.2 thought, of standard scores")
    assert mixture.thought_words == {"q0": 1, "q1": 2, "q2": 0}


@pytest.mark.extra
def test_other_weights_are_other_rows_and_the_first_ones_stay(collection, tmp_path):
    first = by_name(run(Model(), tmp_path, collection=collection, think=True))
    again = by_name(
        run(Model(), tmp_path, collection=collection, think=True, options=Options(mix=(0.2, 0.5)))
    )
    assert first.items() <= again.items()
    assert again.keys() - first.keys() == {"counter, 0.5 own thought"}


@pytest.mark.parametrize("weight", [0, 1, -0.1, 1.5])
def test_a_weight_that_mixes_nothing_is_refused(weight):
    with pytest.raises(InputError, match="mix must be more than 0 and less than 1, got"):
        Options(mix=(weight,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--mix 0.5", "--mix has an effect only with --thoughts or --think"),
        ("--reading query", "--reading has an effect only with --thoughts or --think"),
        ("--thoughts thoughts.jsonl --reading query", "--reading has no effect on bm25"),
    ],
)
def test_a_mixture_without_thoughts_is_refused(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    assert main(["run", "--model", "bm25", "--collection", "tiny", "--out", "r", *options.split()]) == 4
    assert said in capsys.readouterr().err


class Mixing(Model):
    """A model that mixes thoughts in itself, as `o1_model.bench` opens one for a `ThinkingRetriever`."""

    def __init__(self, weight):
        super().__init__()
        self.fingerprint = {"weights": 1, "mixture": {"weight": weight, "reading": "document"}}
        self._mixed = MixedVectors(Model(), Mixture(weight=weight))

    def queries(self, queries, thoughts=None, *, with_query=False):
        return super().queries(queries) if thoughts is None else self._mixed(queries, thoughts=thoughts)


@pytest.mark.extra
def test_a_model_that_mixes_by_itself_is_one_more_row_and_another_weight_is_refused(collection, tmp_path):
    done = by_name(run(Mixing(0.2), tmp_path, collection=collection, think=True))
    assert done["counter, thinking"].per_query == done["counter, 0.2 own thought"].per_query
    assert done["counter, thinking"].system.encoder["mixture"]["weight"] == 0.2
    assert "mixture" not in done["counter"].system.encoder
    with pytest.raises(InputError, match=r"counter-thinking: .*mixture .*0\.2.*0\.5"):
        run(Mixing(0.5), tmp_path, collection=collection, think=True)
    with pytest.raises(InputError, match="--reading joint: counter reads no thought in one row with its que"):
        run(Mixing(0.2), tmp_path / "j", collection=collection, think=True, options=Options(reading="joint"))
