"""What is equal is level, what is wrong is told before anybody votes, and two runs may share a cache."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from o1_records import Document, Example, InputError, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.bm25 import BM25
from o1_vote.__main__ import main
from o1_vote.election.elect import cast
from o1_vote.election.nominate import NO_NEGATIVE, NO_POSITIVE, Nomination, Reason
from o1_vote.measure import Candidate, margin_to_corpus, mean, reciprocal_rank
from o1_vote.members.cosine import CosineMember
from o1_vote.members.protocol import best_first

RANDOM = np.random.default_rng(0)
DOCUMENTS = [Document(doc_id=f"d{n}", text=f"text {n}") for n in range(200)]


class Shifted:
    """A searcher whose scores are those of random vectors, moved as a whole."""

    name = "shifted"

    def __init__(self, shift, documents=200):
        self.documents = {document.doc_id: document for document in DOCUMENTS[:documents]}
        scores = np.random.default_rng(1).normal(size=documents).astype(np.float32) + np.float32(shift)
        self.table = dict(zip(self.documents, scores, strict=True))

    def search(self, texts, k):
        return (best_first(list(self.table), np.array(list(self.table.values())), k) for _ in texts)

    def similarities(self, pairs):
        return np.array([self.table[doc_id] for _, doc_id in pairs], dtype=np.float32)


def thought(name, text):
    return Thought(query_id="q", thought_id=name, text=text, source=Source(model="test"))


@pytest.mark.parametrize("shift", [-1024.0, -4.0, 64.0])
def test_a_margin_does_not_ask_where_a_member_has_its_zero(shift):
    candidates = [Candidate(Query(query_id="q", text="x"), None, (DOCUMENTS[3], DOCUMENTS[9]))]
    plain, moved = Shifted(0.0), Shifted(shift)
    for options in ({}, {"several": mean}):
        values = [margin_to_corpus(member, candidates, **options) for member in (plain, moved)]
        assert values[0] == pytest.approx(values[1], abs=1e-3)
    everything = [Candidate(Query(query_id="q", text="x"), None, (DOCUMENTS[0],))]
    assert margin_to_corpus(Shifted(shift, documents=1), everything) == 0


@pytest.mark.parametrize("measure", [margin_to_corpus, reciprocal_rank])
def test_equal_thoughts_have_equal_ballots_wherever_they_stand_in_a_batch(measure):
    def vectors(texts):
        seeds = [sum(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=97) for seed in seeds]).astype(np.float32)

    member = CosineMember("random", vectors, DOCUMENTS)
    words = [f"word{n}" for n in range(50)]
    doubled = tuple(thought(f"{word}{twin}", word) for word in words for twin in "ab")
    nomination = Nomination(Query(query_id="q", text="query"), doubled, (DOCUMENTS[5],))
    told = {ballot.thought_id: ballot.score for ballot in cast([nomination], member, measure=measure)}
    assert all(told[f"{word}a"] == told[f"{word}b"] for word in words)
    assert len({told[f"{word}a"] for word in words}) > 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queries = [Query(query_id=f"q{n}", text=f"text {n}") for n in range(3)]
    write_jsonl("queries.jsonl", queries)
    write_jsonl("corpus.jsonl", DOCUMENTS)
    write_jsonl("qrels.jsonl", [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(2)])
    about = Thought(query_id="q0", thought_id="a", text="text", source=Source(model="test"))
    write_jsonl("thoughts.jsonl", [about])
    write_jsonl(
        "mined.jsonl",
        [Example(query=queries[0], positives=(DOCUMENTS[0],), negatives=(DOCUMENTS[7],))],
    )
    return tmp_path


ELECT = ["elect", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--qrels", "qrels.jsonl"]
ELECT += ["--thoughts", "thoughts.jsonl", "--member", "bm25", "--out", "out.jsonl"]


def test_queries_without_a_negative_are_listed_where_a_margin_to_it_is_asked_for(folder, capsys):
    margin = [*ELECT, "--measure", "margin"]
    assert main(margin) == 4
    assert "--measure margin needs --negatives" in capsys.readouterr().err
    assert main([*margin, "--negatives", "mined.jsonl"]) == 4
    assert f"2 queries would be left out, the first is 'q1' ({NO_NEGATIVE})" in capsys.readouterr().err
    assert main([*margin, "--negatives", "mined.jsonl", "--reasons", "reasons.jsonl"]) == 0
    assert [example.query.query_id for example in read_jsonl("out.jsonl", Example)] == ["q0"]
    reasons = {each.query_id: each.reason for each in read_jsonl("reasons.jsonl", Reason)}
    assert reasons == {"q1": NO_NEGATIVE, "q2": NO_POSITIVE}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"typo": 3.0}, "no member is called 'typo'; the members are bm25"),
        ({"bm25": 0.0}, "no weight is above 0"),
        ({"bm25": -1.0}, "weights must be 0 or more, got {'bm25': -1.0}"),
    ],
)
def test_weights_of_nobody_are_refused_before_anybody_votes(folder, capsys, weights, message):
    (folder / "w.json").write_text(json.dumps(weights))
    assert main([*ELECT, "--reasons", "r.jsonl", "--weights", "w.json"]) == 4
    told = capsys.readouterr().err
    assert message in told and "ballots/s" not in told


@pytest.mark.parametrize("option", ["--margin", "--least-agreement"])
def test_a_threshold_that_is_not_a_number_is_refused(folder, capsys, option):
    assert main([*ELECT, "--reasons", "r.jsonl", option, "nan"]) == 4
    name = option[2:].replace("-", "_")
    assert f"error: {name} must be a finite number, got nan" in capsys.readouterr().err


def test_two_processes_may_save_one_index(tmp_path):
    index, failed = BM25(DOCUMENTS), []

    def save():
        try:
            index.save(tmp_path / "index")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=save) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert BM25.load(tmp_path / "index").doc_ids == index.doc_ids


@pytest.mark.extra
@pytest.mark.parametrize("content", [b"{", b"{}"])
def test_a_broken_tokenizer_of_model2vec_is_told_in_one_sentence(tmp_path, content):
    from o1_vote.members.static import Model2VecMember

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded as a model2vec model"):
        Model2VecMember(tmp_path, DOCUMENTS)
