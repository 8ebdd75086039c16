import json
import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from o1_bench import Collection, Pipeline, evaluate, save_result
from o1_bench.controls import empty_thoughts, thought_texts
from o1_bench.results.result import Milliseconds, System
from o1_bench.results.verify import verify_result
from o1_bench.running.about import About
from o1_bench.running.retrieve import Appended, from_run, fused
from o1_bench.score import parse_measure
from o1_records import Document, Hit, InputError, Qrel, Query, Source, Thought, rank, read_jsonl
from o1_records.kit.job import ChangedJobError

COUNT = 10
COLLECTION = Collection(
    name="tiny/test",
    documents=[Document(doc_id=f"d{n}", text=f"text {n}") for n in range(COUNT)],
    queries=tuple(Query(query_id=f"q{n}", text=f"find {n}") for n in range(COUNT)),
    qrels=tuple(Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(COUNT)),
    excluded={"q3": frozenset({"d0", "d1"})},
)
DOCUMENTS = np.eye(COUNT, dtype=np.float32)
AXIS = {f"q{n}": n for n in range(COUNT)}


class Calls:
    """The stages of a retriever over unit vectors; they write down what they were asked."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def _note(self, stage, query_ids):
        if (stage, query_ids[0]) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((stage, tuple(query_ids)))

    def think(self, queries):
        self._note("think", [query.query_id for query in queries])
        source = Source(model="m", completion_tokens=3)
        return [
            Thought(query_id=q.query_id, thought_id="t", text=f"of {q.query_id}", source=source)
            for q in queries
        ]

    def embed(self, queries, *, thoughts):
        self._note("embed", [query.query_id for query in queries])
        for query, own in zip(queries, thoughts or [[]] * len(queries), strict=True):
            assert list(own) in ([f"of {query.query_id}"], [""], [])
        # without a thought of its own a query points at its neighbour
        knows = bool(thoughts and thoughts[0] and thoughts[0][0])
        return DOCUMENTS[[(AXIS[query.query_id] + (not knows)) % COUNT for query in queries]]

    def search(self, vectors, query_ids, *, k):
        self._note("search", query_ids)
        for query_id, row in zip(query_ids, vectors @ DOCUMENTS.T, strict=True):
            yield from rank(query_id, {f"d{n}": float(value) for n, value in enumerate(row)}, k)

    def pipeline(self, **changed):
        stages = {"think": self.think, "embed": self.embed, "search": self.search}
        return Pipeline(**(stages | changed))


def whole(queries, k):
    for query in queries:
        yield from rank(query.query_id, {f"d{n}": -abs(n - AXIS[query.query_id]) for n in range(COUNT)}, k)


def test_any_callable_is_scored_and_the_result_verifies(tmp_path):
    result = evaluate(COLLECTION, whole, system=System(name="mine"), folder=tmp_path, k=5)
    assert result.name == "mine"
    assert result.metrics["RR@10"] == 1.0
    assert verify_result(tmp_path) == []
    assert result.system.milliseconds.search > 0
    assert result.system.milliseconds.think is None
    assert result.system.peak_memory_bytes > 10 * 2**20
    assert (result.k, result.system.device, result.measured) == (5, "", True)
    assert result.measures["nDCG@10"] == "ir-measures, pytrec_eval"
    assert evaluate(COLLECTION, whole).metrics == result.metrics


def test_a_pipeline_is_timed_stage_by_stage_and_its_thoughts_are_kept(tmp_path):
    calls = Calls()
    result = evaluate(COLLECTION, calls.pipeline(), folder=tmp_path, part=4)
    assert result.metrics["RR@10"] == 1.0
    times = result.system.milliseconds
    assert min(times.think, times.embed, times.search) > 0
    assert result.system.thought_tokens == 3 * COUNT
    assert result.thought_words == dict.fromkeys(AXIS, 2)
    assert len(list(read_jsonl(tmp_path / "thoughts.jsonl", Thought))) == COUNT
    assert verify_result(tmp_path) == []
    assert [stage for stage, _ in calls.asked] == ["think"] * 3 + ["embed"] * 3 + ["search"] * 3


def test_thoughts_that_are_there_already_are_not_thought_again_and_their_cost_can_be_told(tmp_path):
    own = thought_texts(Calls().think(COLLECTION.queries))
    known = System(name="empty", kind="control", milliseconds=Milliseconds(think=9.0), thought_tokens=7)
    given = {"think": None, "thoughts": empty_thoughts(own)}
    result = evaluate(COLLECTION, Calls().pipeline(**given), system=known, folder=tmp_path)
    assert result.metrics["RR@10"] < 1.0
    assert (result.system.milliseconds.think, result.system.thought_tokens) == (9.0, 7)
    assert result.thought_words == dict.fromkeys(AXIS, 0)
    assert evaluate(COLLECTION, Calls().pipeline(think=None, thoughts=own)).metrics["RR@10"] == 1.0
    with pytest.raises(InputError, match="not both"):
        Calls().pipeline(thoughts=own)


def test_a_pipeline_is_a_callable_too():
    hits = list(Calls().pipeline()(COLLECTION.queries[:2], 1))
    assert [(hit.query_id, hit.doc_id) for hit in hits] == [("q0", "d0"), ("q1", "d1")]


@pytest.mark.parametrize("stage", ["think", "embed", "search"])
def test_a_run_that_was_stopped_goes_on_where_it_stood(tmp_path, stage):
    stopped = Calls(stop_at=(stage, "q8"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(COLLECTION, stopped.pipeline(), folder=tmp_path, part=4)
    assert not (tmp_path / "result.json").exists()
    resumed, once = Calls(), Calls()
    result = evaluate(COLLECTION, resumed.pipeline(), folder=tmp_path, part=4)
    assert result.per_query == evaluate(COLLECTION, once.pipeline(), part=4).per_query
    assert stopped.asked + resumed.asked == once.asked  # every part of every stage exactly once
    assert verify_result(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from o1_bench import Collection, evaluate
from o1_records import Document, Qrel, Query, rank

ids = [f"q{n}" for n in range(40)]
collection = Collection(
    name="c", documents=[Document(doc_id="d", text="t")],
    queries=[Query(query_id=i, text="t") for i in ids],
    qrels=[Qrel(query_id=i, doc_id="d", relevance=1) for i in ids],
)
def retrieve(queries, k):
    time.sleep(0.01)
    with open(sys.argv[1] + ".log", "a") as log:
        log.write(queries[0].query_id + " ")
    return rank(queries[0].query_id, {"d": 1.0})
result = evaluate(collection, retrieve, folder=sys.argv[1], part=1)
print(result.metrics["RR@10"])
"""


def test_kill_minus_9_loses_no_more_than_the_part_in_flight(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    log = tmp_path / "run.log"
    for least in (5, 20):
        process = subprocess.Popen(command)
        while not log.exists() or len(log.read_text().split()) < least:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"
    asked = log.read_text().split()
    assert {f"q{n}" for n in range(40)} == set(asked)
    assert len(asked) <= 42  # each kill repeats at most the part it hit
    assert verify_result(tmp_path / "run") == []


def test_a_rerun_repeats_nothing_and_new_measures_only_score_again(tmp_path):
    first = evaluate(COLLECTION, Calls().pipeline(), folder=tmp_path)
    again = Calls()
    assert evaluate(COLLECTION, again.pipeline(), folder=tmp_path) == first
    other = [parse_measure("AP"), parse_measure("Success@1")]
    scored = evaluate(COLLECTION, again.pipeline(), folder=tmp_path, measures=other)
    assert list(scored.metrics) == ["AP", "Success@1"]
    assert scored.system.milliseconds == first.system.milliseconds
    assert again.asked == []


def telling(**told):
    """A retriever that says something of itself."""

    class Telling:
        about = About(**told)

        def __call__(self, queries, k):
            return whole(queries, k)

    return Telling()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"system": System(name="other")}, "system 'run', this run has system 'other'"),
        (
            {"retrieve": telling(fingerprint={"model": "b"})},
            "encoder model 'a', this run has encoder model 'b'",
        ),
        (
            {"system": System(name="run", sampling={"samples": 3})},
            "sampling samples not given, this run has sampling samples '3'",
        ),
        (
            {"retrieve": telling(fingerprint={"model": "a"}, prompts={"query": "Q: "})},
            "prompt query not given, this run has prompt query 'Q: '",
        ),
        (
            {
                "retrieve": telling(fingerprint={"model": "a"}, device="cuda"),
                "system": System(name="run", kind="oracle"),
            },
            "device '', kind 'system', this run has device 'cuda', kind 'oracle'",
        ),
        (
            {"system": System(name="run", milliseconds=Milliseconds(think=2.0))},
            "think milliseconds not given, this run has think milliseconds '2.0'",
        ),
        ({"system": System(name="run", seed=3)}, "seed '', this run has seed '3'"),
        (
            {"collection": COLLECTION.changed(instruction="Find it.")},
            "instruction '', this run has instruction 'Find it.'",
        ),
        ({"k": 7}, "k '1000', this run has k '7'"),
        ({"part": 3}, "part '256', this run has part '3'"),
    ],
)
def test_what_another_run_made_is_refused_with_every_difference(tmp_path, change, named):
    settings = {
        "collection": COLLECTION,
        "retrieve": telling(fingerprint={"model": "a"}),
        "system": System(name="run"),
    }
    evaluate(**settings, folder=tmp_path / "run")
    before = contents(tmp_path / "run")
    settings |= change
    with pytest.raises(ChangedJobError, match=f"was made with {named}; .*--new-job"):
        evaluate(**settings, folder=tmp_path / "run")
    assert contents(tmp_path / "run") == before
    moved = evaluate(**settings, folder=tmp_path / "run", new_job=True)
    assert contents(tmp_path / "run.old1") == before
    assert verify_result(tmp_path / "run.old1") == verify_result(tmp_path / "run") == []
    assert moved.name == settings["system"].name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_job_continues_a_run_with_the_same_settings(tmp_path):
    stopped = Calls(stop_at=("embed", "q8"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(COLLECTION, stopped.pipeline(), folder=tmp_path / "run", part=4)
    resumed = Calls()
    evaluate(COLLECTION, resumed.pipeline(), folder=tmp_path / "run", part=4, new_job=True)
    assert "think" not in {stage for stage, _ in resumed.asked}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_did_nothing_yet_stops_no_other_one(tmp_path):
    def broken(queries, k):
        raise InputError("no server")

    with pytest.raises(InputError, match="no server"):
        evaluate(COLLECTION, broken, folder=tmp_path, k=7)
    assert evaluate(COLLECTION, whole, folder=tmp_path).k == 1000


def test_a_result_that_the_run_did_not_write_is_never_taken_for_its_own_nor_overwritten(tmp_path):
    hits = rank("q0", {"d0": 1.0})
    save_result(tmp_path / "run", System(name="run"), collection=COLLECTION, hits=hits)
    before = contents(tmp_path / "run")
    with pytest.raises(ChangedJobError, match=r"result\.json: exists, and no stages\.sqlite beside it"):
        evaluate(COLLECTION, whole, folder=tmp_path / "run")
    assert contents(tmp_path / "run") == before
    evaluate(COLLECTION, whole, folder=tmp_path / "run", new_job=True)
    assert contents(tmp_path / "run.old1") == before
    save_result(tmp_path / "run", System(name="run"), collection=COLLECTION, hits=hits)
    with pytest.raises(ChangedJobError, match="is not the one that this run wrote"):
        evaluate(COLLECTION, whole, folder=tmp_path / "run")


def test_changed_documents_and_thoughts_are_refused(tmp_path):
    evaluate(COLLECTION, Calls().pipeline(think=None, thoughts={"q0": ["of q0"]}), folder=tmp_path)
    with pytest.raises(InputError, match="was made with thoughts"):
        evaluate(COLLECTION, Calls().pipeline(think=None, thoughts={"q0": [""]}), folder=tmp_path)
    other = Collection(
        name=COLLECTION.name,
        documents=[*COLLECTION.documents, Document(doc_id="new", text="x")],
        queries=COLLECTION.queries,
        qrels=COLLECTION.qrels,
    )
    with pytest.raises(InputError, match=r"was made with documents \(sha256\)"):
        evaluate(other, Calls().pipeline(think=None, thoughts={"q0": ["of q0"]}), folder=tmp_path)


def test_thoughts_that_are_appended_are_counted_and_other_ones_refused(tmp_path):
    own = thought_texts(Calls().think(COLLECTION.queries))
    result = evaluate(COLLECTION, Appended(whole, own), folder=tmp_path)
    assert result.thought_words == dict.fromkeys(AXIS, 2)
    other = own | {"q0": ["changed"]}
    with pytest.raises(InputError, match="was made with thoughts"):
        evaluate(COLLECTION, Appended(whole, other), folder=tmp_path)


def test_two_runs_in_one_process_on_one_folder_are_refused(tmp_path):
    def again(queries, k):
        with pytest.raises(InputError, match=f"process {os.getpid()} on .* is at work there; wait for it"):
            evaluate(COLLECTION, whole, folder=tmp_path, new_job=True)
        return whole(queries, k)

    assert evaluate(COLLECTION, again, folder=tmp_path).metrics["RR@10"] == 1.0
    assert evaluate(COLLECTION, again, folder=tmp_path).metrics["RR@10"] == 1.0


def test_a_second_process_in_the_folder_is_refused(tmp_path):
    code = "import sys, time; from o1_records.kit.job import Lock; "
    code += "lock = Lock(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on .* is at work there"):
            evaluate(COLLECTION, whole, folder=tmp_path)
        holder.kill()
    assert evaluate(COLLECTION, whole, folder=tmp_path).metrics["RR@10"] == 1.0


def test_a_damaged_part_and_a_damaged_file_are_refused(tmp_path):
    evaluate(COLLECTION, whole, folder=tmp_path)
    (tmp_path / "result.json").unlink()
    other = sqlite3.connect(tmp_path / "stages.sqlite", isolation_level=None)
    other.execute("UPDATE parts SET content = x'90'")
    other.close()
    with pytest.raises(InputError, match="part 0 of search is damaged"):
        evaluate(COLLECTION, whole, folder=tmp_path)
    (tmp_path / "stages.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"stages\.sqlite: .*remove the folder"):
        evaluate(COLLECTION, whole, folder=tmp_path)


def test_excluded_documents_do_not_take_the_place_of_others(tmp_path):
    def by_number(queries, k):
        for query in queries:
            yield from rank(query.query_id, {f"d{n}": -n for n in range(COUNT)}, k)

    evaluate(COLLECTION, by_number, folder=tmp_path, k=2)
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert [(line[2], line[3]) for line in lines if line[0] == "q3"] == [("d2", "1"), ("d3", "2")]
    assert [line[2] for line in lines if line[0] == "q4"] == ["d0", "d1"]


def test_vectors_that_do_not_fit_the_queries_are_refused():
    with pytest.raises(InputError, match=r"vectors of shape \(10,\) for 10 queries"):
        evaluate(COLLECTION, Calls().pipeline(embed=lambda queries, thoughts: np.zeros(len(queries))))


def test_fusion_adds_reciprocal_ranks_and_breaks_ties_by_doc_id():
    a = from_run([*rank("q0", {"x": 3.0, "y": 2.0, "z": 1.0}), *rank("q1", {"x": 1.0})])
    b = from_run(rank("q0", {"y": 9.0, "w": 8.0}))
    asked = COLLECTION.queries[:3]
    hits = list(fused(a, b)(asked, 3))
    assert [hit.doc_id for hit in hits if hit.query_id == "q0"] == ["y", "x", "w"]
    best = hits[0]
    assert best.score == pytest.approx(1 / 61 + 1 / 62)
    assert [hit.doc_id for hit in hits if hit.query_id == "q1"] == ["x"]
    tied = fused(from_run(rank("q0", {"a": 1.0})), from_run(rank("q0", {"b": 1.0})))
    assert [hit.doc_id for hit in tied(asked, 2)] == ["b", "a"]


def test_a_retriever_thinks_by_having_thoughts_appended():
    seen = []

    def retrieve(queries, k):
        seen.extend(query.text for query in queries)
        return iter(())

    assert list(Appended(retrieve, {"q0": ["a thought"]})(COLLECTION.queries[:2], 1)) == []
    assert seen == ["find 0\na thought", "find 1"]
    seen.clear()
    assert list(Appended(retrieve, {"q0": ["a", "b"]}, times=3)(COLLECTION.queries[:2], 1)) == []
    assert seen == ["find 0\nfind 0\nfind 0\na\nb", "find 1"]


def test_a_foreign_run_is_cut_in_the_one_total_order():
    hits = [Hit(query_id="q0", doc_id=doc_id, score=1.0, rank=1) for doc_id in "abc"]
    assert [hit.doc_id for hit in from_run(hits)(COLLECTION.queries[:2], 2)] == ["c", "b"]


def test_result_json_says_all_that_a_reader_needs_to_check_it(tmp_path):
    about = About(
        fingerprint={"model": "m", "digest": "sha256:1"}, prompts={"query": "Query: "}, index_bytes=400
    )
    system = System(name="all", sampling={"temperature": 0.7})
    evaluate(COLLECTION, Calls().pipeline(about=about), system=system, folder=tmp_path)
    said = json.loads((tmp_path / "result.json").read_text())
    assert said["collection"].keys() >= {"name", "revision", "digests", "instruction", "protocol"}
    assert said["system"]["encoder"] == about.fingerprint
    assert (said["system"]["prompts"], said["system"]["index_bytes"]) == ({"query": "Query: "}, 400)
    assert said["collection"]["protocol"]["name"] == "plain"
    assert said["collection"]["digests"].keys() == {"documents", "queries", "qrels", "excluded"}
    assert said["system"].keys() >= {
        "encoder", "prompts", "sampling", "milliseconds", "thought_tokens", "index_bytes",
        "peak_memory_bytes", "device",
    }  # fmt: skip
    assert len(said["files"]["run.trec"]) == 64
    assert said.keys() >= {"packages", "measures", "hardware", "per_query", "metrics", "k"}
