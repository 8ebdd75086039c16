"""What made a result is measured where it is made: nobody has to say it, and nobody can say it wrongly."""

from functools import partial

import numpy as np
import pytest

from o1_bench import Collection, Pipeline, evaluate
from o1_bench.results.result import System
from o1_bench.running.about import About, identity
from o1_bench.running.retrieve import Appended, bm25, from_run, fused
from o1_records import Document, Hit, InputError, Qrel, Query, rank
from o1_records.kit.job import ChangedJobError

COLLECTION = Collection(
    name="tiny/test",
    documents=[Document(doc_id=f"d{n}", text=f"text {n}") for n in range(4)],
    queries=[Query(query_id="q0", text="find 0"), Query(query_id="q1", text="find 1")],
    qrels=[Qrel(query_id="q0", doc_id="d0", relevance=1), Qrel(query_id="q1", doc_id="d1", relevance=1)],
)
RUN = [Hit(query_id="q0", doc_id="d0", score=1.0, rank=1)]


class Model:
    """A model with a digest of its own, whose method embeds."""

    def __init__(self, digest):
        self.digest = digest

    def embed(self, queries, *, thoughts):
        return np.ones((len(queries), 1), dtype=np.float32)


def search(vectors, query_ids, *, k):
    for query_id in query_ids:
        yield from rank(query_id, {"d0": 1.0, "d1": 0.5}, k)


def first(queries, k):
    for query in queries:
        yield from rank(query.query_id, {"d0": 1.0}, k)


def by_weight(weight):
    def retrieve(queries, k):
        for query in queries:
            yield from rank(query.query_id, {"d0": weight}, k)

    return retrieve


@pytest.mark.parametrize("told", ["encoder", "prompts", "device", "index_bytes", "index_seconds"])
def test_what_is_measured_cannot_be_told(told):
    value = {"encoder": {"model": "m"}, "prompts": {"query": "q"}, "device": "cpu"}.get(told, 3)
    with pytest.raises(InputError, match=f"System.{told} is measured: leave it out"):
        evaluate(COLLECTION, first, system=System(name="x", **{told: value}))


def test_another_model_behind_the_same_name_is_refused(tmp_path):
    def pipeline(digest):
        return Pipeline(embed=Model(digest).embed, search=search)

    made = evaluate(COLLECTION, pipeline("sha256:1"), folder=tmp_path)
    assert made.system.encoder["embed"]["of"] == {
        "type": f"{Model.__module__}.Model",
        "digest": "sha256:1",
    }
    assert evaluate(COLLECTION, pipeline("sha256:1"), folder=tmp_path) == made
    with pytest.raises(ChangedJobError, match="sha256:2"):
        evaluate(COLLECTION, pipeline("sha256:2"), folder=tmp_path)


def test_a_changed_instruction_does_not_return_the_old_result(tmp_path):
    asked = COLLECTION.changed(instruction="Find it.")
    evaluate(asked, first, folder=tmp_path)
    with pytest.raises(ChangedJobError, match=r"instruction 'Find it\.', this run has instruction 'Find an"):
        evaluate(asked.changed(instruction="Find another."), first, folder=tmp_path)


def test_a_callable_is_known_by_its_code_and_by_what_it_closes_over():
    assert identity(by_weight(1.0)) == identity(by_weight(1.0))
    assert identity(by_weight(1.0)) != identity(by_weight(2.0))
    assert identity(first) != identity(search)
    one, two = (partial(first, k=k) for k in (1, 2))
    assert identity(one) != identity(two)
    assert identity(Model("a").embed) != identity(Model("b").embed)


def test_bm25_a_run_and_their_fusion_each_say_what_they_are():
    lexical, given = bm25(COLLECTION, k1=1.2), from_run(RUN)
    found = {
        name: evaluate(COLLECTION, retrieve).system.encoder
        for name, retrieve in (
            ("bm25", lexical),
            ("run", given),
            ("fused", fused(lexical, given, weights=[0.75, 0.25], method="minmax")),
            ("appended", Appended(lexical, {"q0": ["text 0"]}, 5)),
        )
    }
    assert (found["bm25"]["model"], found["bm25"]["k1"]) == ("bm25s", 1.2)
    assert list(found["run"]) == ["hits (sha256)"]
    assert found["fused"] == {
        "fusion": "minmax", "weights": [0.75, 0.25], "retrievers": [found["bm25"], found["run"]],
    }  # fmt: skip
    assert found["appended"] == found["bm25"] | {"query_times": 5}


def test_two_runs_of_the_same_name_are_told_apart_by_their_hits(tmp_path):
    evaluate(COLLECTION, from_run(RUN), folder=tmp_path)
    with pytest.raises(ChangedJobError, match=r"hits \(sha256\)"):
        evaluate(COLLECTION, from_run([*RUN, Hit(query_id="q1", doc_id="d1", score=1.0, rank=1)]),
                 folder=tmp_path)  # fmt: skip


def test_bm25_shows_the_terms_that_it_reads():
    said = evaluate(COLLECTION.changed(instruction="Find it."), bm25(COLLECTION)).sent
    assert said.queries == ("find", "find")  # a digit is no term
    assert said.has("Find something else.") is False


def test_a_retriever_says_what_it_is_and_what_its_index_cost():
    class Telling:
        about = About(
            fingerprint={"model": "m"},
            prompts={"query": "Q: "},
            device="cpu",
            index_bytes=7,
            index_seconds=2.0,
        )

        def __call__(self, queries, k):
            return first(queries, k)

    system = evaluate(COLLECTION, Telling()).system
    assert (system.encoder, system.prompts, system.device) == ({"model": "m"}, {"query": "Q: "}, "cpu")
    assert (system.index_bytes, system.index_seconds) == (7, 2.0)
