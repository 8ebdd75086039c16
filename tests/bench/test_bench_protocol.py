"""How a collection is evaluated is part of it, the same whichever way it is reached, and said in results."""

import json
import shutil

import msgspec
import pytest

from o1_bench import Collection, Pipeline, evaluate, load_collection, load_result, save_result
from o1_bench.__main__ import main
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.suites import SUITES, load, load_judgements, protocol_of
from o1_bench.protocol import BEIR, PLAIN, PROTOCOLS, Protocol, protocol_named
from o1_bench.reporting.rows import side_by_side
from o1_bench.results.result import Sent, System
from o1_bench.running.about import About
from o1_bench.running.retrieve import from_run, fused
from o1_records import Document, Hit, InputError, Qrel, Query, rank
from o1_records.beir import write_beir
from o1_records.trec import write_run

# as in ArguAna: each query is a document too, and finds itself first
TEXTS = {"a": "tea is good", "b": "tea is bad", "c": "coffee is good", "d": "coffee is bad"}
DOCUMENTS = [Document(doc_id=doc_id, text=text) for doc_id, text in TEXTS.items()]
QUERIES = [Query(query_id=query_id, text=TEXTS[query_id]) for query_id in ("a", "c")]
QRELS = [Qrel(query_id="a", doc_id="b", relevance=1), Qrel(query_id="c", doc_id="d", relevance=1)]
ITSELF_FIRST = [
    Hit(query_id=q, doc_id=d, score=s, rank=1)
    for q, order in {"a": "abcd", "c": "cdab"}.items()
    for d, s in zip(order, (4.0, 3.0, 2.0, 1.0), strict=True)
]


def run_with(*parts):
    return main([str(part) for part in parts])


def printed(capsys):
    return dict(line.split("\t") for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def root(tmp_path):
    """The same set under three paths, and a run."""
    for place in ("data/arguana", "data2/beir/arguana", "elsewhere/mine"):
        write_beir(tmp_path / place, documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    write_run(tmp_path / "self.trec", ITSELF_FIRST)
    return tmp_path


WAYS = ("data/beir/arguana", "data/arguana", "data2/beir/arguana", "elsewhere/mine")


# --- instructions -------------------------------------------------------------------------------------


def asked_by(collection, **changed):
    """The instructions that a callable, and the stages of a pipeline, are given."""
    seen = {}

    def retrieve(queries, k):
        seen["callable"] = [query.instruction for query in queries]
        return from_run(ITSELF_FIRST)(queries, k)

    def embed(queries, *, thoughts):
        seen["embed"] = [query.instruction for query in queries]
        return [[1.0]] * len(queries)

    def search(vectors, query_ids, *, k):
        for query_id in query_ids:
            yield from rank(query_id, {"b": 1.0, "d": 0.5}, k)

    def think(queries):
        seen["think"] = [query.instruction for query in queries]
        return []

    evaluate(collection, retrieve)
    evaluate(collection, Pipeline(think=think, embed=embed, search=search))
    return seen


def test_every_stage_gets_queries_with_the_collections_instruction_and_a_querys_own_wins():
    own = msgspec.structs.replace(QUERIES[1], instruction="Find the counter-argument.")
    collection = Collection(
        name="x", documents=DOCUMENTS, queries=[QUERIES[0], own], qrels=QRELS, instruction="Find it."
    )
    expected = ["Find it.", "Find the counter-argument."]
    assert asked_by(collection) == {"callable": expected, "embed": expected, "think": expected}
    assert asked_by(collection.changed(instruction=""))["embed"] == ["", "Find the counter-argument."]


def test_an_instruction_changes_no_digest_of_the_queries_as_they_came():
    plain = Collection(name="x", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS)
    assert plain.changed(instruction="Find it.").digests == plain.digests
    again = plain.changed(instruction="Find it.").changed(instruction="Find another.")
    assert {query.instruction for query in again.queries} == {"Find another."}


def test_a_result_says_what_the_model_read_and_whether_the_instruction_reached_it(tmp_path):
    collection = Collection(
        name="x", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, instruction="Find the reply."
    )

    def deaf(queries, documents):
        return [f"[CLS] {q.text}" for q in queries], [f"[CLS] {d.text}" for d in documents]

    def hearing(queries, documents):
        return [f"{q.instruction.lower()} <emb> {q.text}" for q in queries], []

    class Retriever:
        def __init__(self, **about):
            self.about = About(**about)

        def __call__(self, queries, k):
            return from_run(ITSELF_FIRST)(queries, k)

    told = {}
    for name, sample in (("deaf", deaf), ("hearing", hearing), ("silent", None)):
        retriever = Retriever(fingerprint={"model": name}, sample=sample)
        evaluate(collection, retriever, system=System(name=name), folder=tmp_path / name)
        told[name] = load_result(tmp_path / name).sent
    assert told["deaf"].queries == ("[CLS] tea is good", "[CLS] coffee is good")
    assert told["deaf"].documents[0] == "[CLS] tea is good"
    assert told["deaf"].how == "as the model reads them"
    assert [told[name].has("Find the reply.") for name in ("deaf", "hearing", "silent")] == [
        False,
        True,
        True,
    ]
    assert told["silent"].how == "as the callable is given them: instruction and text"
    assert Sent().has("Find the reply.") is None
    # runs that were read from files, fused or not, say nothing of what was read
    for given in (from_run(ITSELF_FIRST), fused(from_run(ITSELF_FIRST), from_run(ITSELF_FIRST))):
        assert evaluate(collection, given).sent == Sent()


# --- one folder, one protocol -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_set_is_evaluated_alike_whichever_way_it_is_reached(root, capsys, way):
    assert load_collection(root / way).protocol == BEIR
    assert load_judgements(root / way).protocol == BEIR
    assert run_with("score", "--run", root / "self.trec", "--qrels", root / way) == 0
    assert printed(capsys)["nDCG@10"] == "1.0000"
    kept = root / "kept"
    assert (
        run_with("score", "--run", root / "self.trec", "--qrels", root / way, "--result", kept, "--name", "x")
        == 0
    )
    err = capsys.readouterr().err
    assert "protocol beir: measures nDCG@10, RR@10, R@100; a document with the id of its query never" in err
    assert load_result(kept).collection.protocol == BEIR
    made = root / "made"
    assert run_with("run", "--collection", root / way, "--model", root / "self.trec", "--out", made) == 0
    (result,) = made.glob("*/self")
    assert load_result(result).metrics["nDCG@10"] == 1.0


def test_a_suite_and_a_folder_of_a_set_are_one(root):
    assert load("beir/arguana", root / "data").excluded == load_beir(root / "data" / "arguana").excluded
    by_suite, by_path = load("beir/arguana", root / "data"), load_collection(root / "data2/beir/arguana")
    assert (by_suite.name, by_suite.digests) == (by_path.name, by_path.digests)


@pytest.mark.parametrize("named", ["--protocol plain", "@plain", "collection.json"])
@pytest.mark.parametrize("way", ["data/arguana", "elsewhere/mine"])
def test_another_protocol_can_be_named(root, capsys, way, named):
    folder, options = root / way, []
    if named == "collection.json":
        (folder / "collection.json").write_text(json.dumps({"name": "ours", "protocol": "plain"}))
    elif named == "@plain":
        folder = folder.with_name(f"{folder.name}@plain")
    else:
        options = named.split()
    assert run_with("score", "--run", root / "self.trec", "--qrels", folder, *options) == 0
    out, err = capsys.readouterr()
    assert "nDCG@10\t0.6309" in out
    assert "protocol plain: " in err
    command = ("bm25", "--collection", folder, "--run", root / "bm25.trec", *options)
    assert run_with(*command) == 0
    assert "a Q0 a 1 " in (root / "bm25.trec").read_text()  # found by BM25, as it counts


def test_bm25_leaves_out_what_the_protocol_leaves_out(root):
    assert run_with("bm25", "--collection", root / "data/arguana", "--run", root / "bm25.trec") == 0
    assert "a Q0 a " not in (root / "bm25.trec").read_text()


def test_two_different_protocols_for_one_collection_are_refused(root, capsys):
    folder = root / "data" / "arguana@plain"
    assert run_with("score", "--run", root / "self.trec", "--qrels", folder, "--protocol", "beir") == 4
    assert "names another protocol than 'beir'; name one of them" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown protocol 'bier'; did you mean beir"):
        protocol_named("bier")


def test_a_folder_where_the_querys_own_id_is_the_answer_must_say_its_protocol(tmp_path):
    own = [Qrel(query_id="a", doc_id="a", relevance=1)]
    folder = tmp_path / "own"
    write_beir(folder, documents=DOCUMENTS, queries=QUERIES[:1], qrels={"test": own})
    for read in (load_beir, load_judgements):
        with pytest.raises(
            InputError, match=r"has the id of its query and is judged relevant.*--protocol plain"
        ):
            read(folder)
    assert load_beir(folder, protocol=PLAIN).excluded == {}
    (folder / "collection.json").write_text('{"protocol": "plain"}')
    assert load_judgements(folder).protocol == PLAIN


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"protocl": "plain"}', "unknown field `protocl`.*name, instruction, revision, protocol, excluded"),
        ('{"protocol": "bier"}', "unknown protocol 'bier'"),
        ("[", "collection.json: "),
    ],
)
def test_a_wrong_description_is_refused(root, text, said):
    (root / "elsewhere/mine/collection.json").write_text(text)
    with pytest.raises(InputError, match=said):
        load_collection(root / "elsewhere/mine")


def test_a_description_brings_name_instruction_revision_exclusions_and_a_protocol_of_ones_own(root):
    folder = root / "elsewhere/mine"
    described = {
        "name": "ours", "instruction": "Find the reply.", "revision": "2026-05", "excluded": "excluded.jsonl",
        "protocol": {"name": "ours", "measures": ["R@1"]},
    }  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(described))
    (folder / "excluded.jsonl").write_text('{"query_id":"a","doc_id":"c"}\n')
    loaded = load_collection(folder)
    assert (loaded.name, loaded.revision, loaded.excluded) == ("ours/test", "2026-05", {"a": {"c"}})
    assert loaded.protocol == Protocol(name="ours", measures=("R@1",))
    assert evaluate(loaded, from_run(ITSELF_FIRST)).metrics == {"R@1": 0.0}
    assert {query.instruction for query in loaded.queries} == {"Find the reply."}


def test_results_of_different_protocols_are_not_compared(root, capsys):
    for protocol in ("beir", "plain"):
        command = ("score", "--run", root / "self.trec", "--qrels", root / "data/arguana")
        run_with(*command, "--protocol", protocol, "--result", root / "r" / protocol, "--name", protocol)
    capsys.readouterr()
    assert run_with("compare", root / "r/beir", root / "r/plain") == 4
    assert "were measured by different protocols: protocol plain, beir" in capsys.readouterr().err


# --- named protocols ----------------------------------------------------------------------------------


def test_suite_o1_is_what_the_papers_code_evaluates_and_ours_is_beside_it():
    theirs = {name: protocol_of(name) for name in SUITES["o1"]}
    assert len(theirs) == 13
    assert [name for name in theirs if name.startswith("msmarco")] == [
        "msmarco-titles/dev@o1-dev", "msmarco-titles/dl19@o1-dl", "msmarco-titles/dl20@o1-dl",
    ]  # fmt: skip
    # every grade of 1 or more is relevant there, TREC's own is 2
    assert not any("rel=2" in measure for protocol in theirs.values() for measure in protocol.measures)
    assert sum(name.startswith("beir/") for name in theirs) == 10
    ours = {name: protocol_of(name) for name in SUITES["o1-standard"]}
    assert {"msmarco/dev", "msmarco/dl19", "msmarco/dl20", "cosqa"} <= ours.keys()
    assert "RR(rel=2)@10" in ours["msmarco/dl19"].measures


def test_protocols_lead_with_the_measure_that_is_published():
    leading = {name: protocol_of(name).measures[0] for name in (
        "msmarco/dev", "beir/msmarco", "bright/pony", "bright-long/pony", "r2med/Biology", "msmarco/dl19",
    )}  # fmt: skip
    assert leading == {
        "msmarco/dev": "RR@10", "beir/msmarco": "nDCG@10", "bright/pony": "nDCG@10",
        "bright-long/pony": "R@1", "r2med/Biology": "nDCG@10", "msmarco/dl19": "nDCG@10",
    }  # fmt: skip


def test_reasonembeds_prompts_and_token_limits_are_part_of_its_protocol():
    bright, r2med = PROTOCOLS["reasonembed-bright"], PROTOCOLS["reasonembed-r2med"]
    assert (bright.max_length, r2med.max_length) == (8192, 512)
    assert bright.query_prompt == r2med.query_prompt == "Instruct: {instruction}\nQuery: "
    assert (bright.family, r2med.family) == ("bright", "r2med")
    assert {name.partition("@")[2] for name in SUITES["reasonembed"]} == {bright.name, r2med.name}


def test_an_older_result_without_a_protocol_can_still_be_read_and_compared(tmp_path):
    collection = Collection(name="x", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, protocol=BEIR)
    for name in ("old", "new"):
        save_result(tmp_path / name, System(name=name), collection=collection, hits=ITSELF_FIRST)
    path = tmp_path / "old" / "result.json"
    content = json.loads(path.read_text())
    del content["collection"]["protocol"]
    path.write_text(json.dumps(content))
    old = load_result(tmp_path / "old")
    assert old.collection.protocol is None
    assert len(side_by_side([old, load_result(tmp_path / "new")])) == 2


def test_a_copied_folder_keeps_its_protocol(root):
    (root / "elsewhere/mine/collection.json").write_text('{"protocol": "plain"}')
    shutil.copytree(root / "elsewhere/mine", root / "copy")
    assert load_collection(root / "copy").protocol == PLAIN
