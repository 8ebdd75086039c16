import json

import pytest

from o1_bench import Collection, load_result, save_result
from o1_bench.results.result import Milliseconds, System
from o1_bench.results.verify import verify_result
from o1_bench.score import parse_measure
from o1_records import Document, Hit, InputError, Qrel, Query, Source, Thought, rank


@pytest.fixture
def collection():
    return Collection(
        name="tiny/test",
        revision="2",
        documents=[Document(doc_id=f"d{number}", text=f"text {number}") for number in range(6)],
        queries=(Query(query_id="q1", text="one"), Query(query_id="q2", text="two")),
        qrels=(
            Qrel(query_id="q1", doc_id="d1", relevance=2),
            Qrel(query_id="q1", doc_id="d2", relevance=1),
            Qrel(query_id="q2", doc_id="d3", relevance=1),
        ),
        excluded={"q2": {"d0", "d5"}},
    )


HITS = [
    *rank("q1", {"d0": 3.0, "d1": 2.0, "d2": 0.1}),
    *rank("q2", {"d0": 9.0, "d5": 8.0, "d3": 1.0}),
]
SYSTEM = System(
    name="mine",
    kind="control",
    note="control: nothing was thought",
    encoder={"model": "m", "dim": 384},
    milliseconds=Milliseconds(embed=2.0, search=0.5),
    thought_tokens=7,
)


def edit(folder, change):
    path = folder / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_result_comes_back_as_it_was_saved_and_verifies(tmp_path, collection):
    saved = save_result(tmp_path / "r", SYSTEM, collection=collection, hits=iter(HITS))
    assert load_result(tmp_path / "r") == load_result(tmp_path / "r" / "result.json") == saved
    assert verify_result(tmp_path / "r") == []
    assert saved.name == "mine"
    assert saved.metrics["RR@10"] == 0.75  # d0 stands before d1; q2's excluded documents are gone
    assert saved.per_query["RR@10"] == {"q1": 0.5, "q2": 1.0}
    assert saved.collection.digests == collection.digests
    assert (saved.collection.documents, saved.collection.queries) == (6, 2)
    assert saved.system.milliseconds.total == 2.5
    assert saved.packages["ir-measures"]
    assert saved.hardware.cpus >= 1


def test_the_measures_asked_for_are_the_measures_saved(tmp_path, collection):
    measures = [parse_measure("RR(rel=2)@10"), parse_measure("AP")]
    saved = save_result(tmp_path, SYSTEM, collection=collection, hits=HITS, measures=measures)
    assert list(saved.metrics) == ["RR(rel=2)@10", "AP"]
    assert verify_result(tmp_path) == []


def test_times_that_were_not_measured_are_not_zero():
    assert Milliseconds().total is None
    assert Milliseconds(think=1.0, search=0.0).total == 1.0


@pytest.mark.parametrize("name", ["run.trec", "qrels.trec", "excluded.jsonl"])
def test_a_changed_or_missing_file_is_named(tmp_path, collection, name):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"d", b"e", 1))
    assert verify_result(tmp_path) == [f"{name}: is not the file that was scored (its sha256 differs)"]
    path.unlink()
    assert verify_result(tmp_path) == [f"{name}: is missing"]


def test_a_mean_that_was_touched_up_is_found(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    edit(tmp_path, lambda content: content["metrics"].update({"RR@10": 0.76}))
    assert verify_result(tmp_path) == ["mean of RR@10: the result says 0.76, its files give 0.75"]


def test_a_query_value_that_was_touched_up_dropped_or_added_is_found(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)

    def change(content):
        values = content["per_query"]["RR@10"]
        values["q1"] = 1.0
        del values["q2"]
        values["q3"] = 0.0

    edit(tmp_path, change)
    assert verify_result(tmp_path) == [
        "RR@10 of q1: the result says 1.0, its files give 0.5",
        "RR@10 of q3: the result says 0.0, its files give None",
        "RR@10 of q2: the result says None, its files give 1.0",
    ]


def test_a_measure_that_was_added_is_found(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    edit(tmp_path, lambda content: content["per_query"].update({"P@1": {"q1": 1.0}}))
    assert verify_result(tmp_path) == ["P@1 of q1: the result says 1.0, its files give None"]


def test_judgements_of_another_collection_are_found(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    edit(tmp_path, lambda content: content["collection"]["digests"].update({"qrels": "0" * 64}))
    (difference,) = verify_result(tmp_path)
    assert difference.startswith("digest of qrels: the result says 000")


def test_a_damaged_result_says_which_file_and_where(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    edit(tmp_path, lambda content: content.pop("metrics"))
    with pytest.raises(InputError, match=r"result\.json: not a complete result: .*metrics"):
        load_result(tmp_path)
    deep = b'{"system": {"name": "a", "encoder": {"a": ' + b"[" * 100_000
    for content in (b"\xff{", b'{"created": "\xff"}', deep):
        (tmp_path / "result.json").write_bytes(content)
        with pytest.raises(InputError, match=r"result\.json: not a complete result"):
            verify_result(tmp_path)


def test_a_run_that_cannot_be_scored_leaves_an_older_result_as_it_was(tmp_path, collection):
    saved = save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    twice = [*HITS, Hit(query_id="q1", doc_id="d0", score=1.0, rank=4)]
    with pytest.raises(InputError, match="duplicate document 'd0' for query 'q1'"):
        save_result(tmp_path, SYSTEM, collection=collection, hits=twice)
    assert load_result(tmp_path) == saved
    assert verify_result(tmp_path) == []


def test_a_run_that_cannot_be_written_leaves_no_half_of_a_result(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    blank = [*HITS, Hit(query_id="q1", doc_id="d 9", score=0.0, rank=4)]
    with pytest.raises(InputError, match="white space"):
        save_result(tmp_path, SYSTEM, collection=collection, hits=blank)
    assert not (tmp_path / "result.json").exists()


def test_results_of_the_first_version_can_be_read_for_ever(tmp_path, collection):
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)

    def change(content):
        for name in ("k", "measures", "thought_words"):
            del content[name]
        for name in ("prompts", "sampling", "index_bytes", "peak_memory_bytes", "device"):
            del content["system"][name]
        del content["collection"]["instruction"]

    edit(tmp_path, change)
    assert load_result(tmp_path).metrics["RR@10"] == 0.75
    assert verify_result(tmp_path) == []


def test_thoughts_are_kept_counted_and_checked(tmp_path, collection):
    thoughts = [
        Thought(query_id="q1", thought_id=name, text="two words", source=Source(model="m")) for name in "ab"
    ]
    saved = save_result(tmp_path, SYSTEM, collection=collection, hits=HITS, thoughts=thoughts)
    assert saved.thought_words == {"q1": 4}
    assert verify_result(tmp_path) == []
    path = tmp_path / "thoughts.jsonl"
    path.write_text(path.read_text().replace("two", "few"))
    assert verify_result(tmp_path) == ["thoughts.jsonl: is not the file that was scored (its sha256 differs)"]
    save_result(tmp_path, SYSTEM, collection=collection, hits=HITS)
    assert not path.exists()
    assert verify_result(tmp_path) == []
