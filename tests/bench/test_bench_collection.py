import hashlib
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_bench.collection import Collection, digest
from o1_bench.datasets.beir import load_beir
from o1_bench.protocol import BEIR
from o1_records import Document, InputError, Qrel, Query
from o1_records.beir import write_beir

DOCUMENTS = [Document(doc_id=f"d{n}", text=f"document {n}") for n in range(4)]
QUERIES = (Query(query_id="q1", text="first"), Query(query_id="q2", text="second"))
QRELS = (
    Qrel(query_id="q1", doc_id="d0", relevance=1),
    Qrel(query_id="q2", doc_id="d3", relevance=2),
)


def collection(**changes):
    parts = {"documents": DOCUMENTS, "queries": QUERIES, "qrels": QRELS}
    return Collection(name="tiny", **{**parts, **changes})


@pytest.fixture
def folder(tmp_path):
    extra = Query(query_id="q3", text="asked in the train split only")
    write_beir(
        tmp_path / "tiny",
        documents=DOCUMENTS,
        queries=[*QUERIES, extra],
        qrels={"test": QRELS, "train": [Qrel(query_id="q3", doc_id="d1", relevance=1)]},
    )
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, r"duplicate doc_id 'd0' \(documents 1 and 5\)"),
        ({"documents": [Document(doc_id="d9", text="\ud800")]}, "a lone surrogate is not valid text"),
        ({"documents": []}, "2 judged documents are not in the corpus"),
        ({"documents": DOCUMENTS[:2]}, "'d3' of query 'q2'"),
        ({"documents": iter(DOCUMENTS)}, "can be read only once"),
        ({"queries": (*QUERIES, QUERIES[0])}, "duplicate query_id 'q1'"),
        ({"queries": QUERIES[:1]}, "1 judged queries without a text, the first 'q2'"),
        ({"qrels": QRELS[:1]}, "1 queries without a judgement, the first 'q2'"),
        ({"qrels": ()}, "no judgements"),
        ({"qrels": (*QRELS, QRELS[0])}, "duplicate judgement 'q1', 'd0'"),
        ({"excluded": {"q9": {"d1"}}}, "'q9'"),
    ],
)
def test_a_collection_that_cannot_be_scored_is_refused(changes, told):
    with pytest.raises(InputError, match=told):
        collection(**changes)


def test_documents_may_be_excluded_that_the_corpus_does_not_have():
    assert collection(excluded={"q1": {"elsewhere"}}).excluded == {"q1": {"elsewhere"}}


def test_a_collection_knows_how_many_documents_it_has():
    assert len(collection()) == 4


def test_digests_do_not_depend_on_the_order_of_the_records():
    turned = collection(documents=DOCUMENTS[::-1], queries=QUERIES[::-1], qrels=QRELS[::-1])
    assert turned.digests == collection().digests


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("documents", {"documents": [*DOCUMENTS[1:], Document(doc_id="d0", text="another")]}),
        ("queries", {"queries": (QUERIES[0], Query(query_id="q2", text="other"))}),
        ("qrels", {"qrels": (QRELS[0], Qrel(query_id="q2", doc_id="d3", relevance=1))}),
        ("excluded", {"excluded": {"q1": {"d2"}}}),
    ],
)
def test_a_changed_part_changes_its_own_digest_and_no_other(part, changes):
    before, after = collection().digests, collection(**changes).digests
    assert {name for name in before if before[name] != after[name]} == {part}


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), unique_by=lambda pair: pair[0], max_size=8))
def test_equal_digests_mean_equal_sets_of_records(pairs):
    documents = [Document(doc_id=doc_id, text=text) for doc_id, text in pairs]
    assert digest(documents) == digest(sorted(documents, key=lambda one: one.text))
    for number, document in enumerate(documents):
        changed = list(documents)
        changed[number] = msgspec.structs.replace(document, text=document.text + "x")
        assert digest(changed) != digest(documents)
        assert digest(documents[:number] + documents[number + 1 :]) != digest(documents)


def test_a_beir_folder_gives_the_queries_of_its_split(folder):
    loaded = load_beir(folder)
    assert loaded.name == "tiny/test"
    assert loaded.queries == QUERIES
    assert loaded.qrels == QRELS
    assert load_beir(folder, "train").queries[0].query_id == "q3"


def test_the_corpus_of_a_beir_folder_can_be_read_again_and_again(folder):
    loaded = load_beir(folder)
    assert list(loaded.documents) == list(loaded.documents) == DOCUMENTS


def test_a_beir_folder_and_its_records_have_the_same_digests(folder):
    assert load_beir(folder).digests == collection(protocol=BEIR).digests


@pytest.mark.parametrize("split", ["dev", "../qrels/test", "/etc/passwd", "", "."])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder, split):
    with pytest.raises(InputError, match="it has test, train"):
        load_beir(folder, split)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_a_folder_without_one_of_its_files_is_refused(folder, file):
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        load_beir(folder)


def test_a_folder_whose_corpus_lost_a_judged_document_is_refused(folder):
    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="'d3' of query 'q2'"):
        load_beir(folder)


class Numbered:
    """Documents that exist only while they are iterated."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return (Document(doc_id=str(number), text="a passage") for number in range(self.count))


def test_making_a_collection_holds_few_bytes_a_document():
    count = 200_000
    qrels = [Qrel(query_id="q1", doc_id="7", relevance=1)]
    tracemalloc.start()
    made = collection(documents=Numbered(count), queries=QUERIES[:1], qrels=qrels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == count
    # 32 for the digest, 8 for the id's hash, and what growing arrays leave unused
    assert peak / count < 64


def test_the_digest_of_many_documents_is_that_of_their_sorted_digests():
    documents = list(Numbered(3000))  # so many that some sha256 end in a zero byte
    encoder = msgspec.json.Encoder(order="sorted")
    each = sorted(hashlib.sha256(encoder.encode(document)).digest() for document in documents)
    assert any(one.endswith(b"\0") for one in each)
    assert digest(reversed(documents)) == hashlib.sha256(b"".join(each)).hexdigest()


def test_ids_whose_hashes_are_equal_are_looked_at_again_and_only_equal_ids_refused():
    shared = np.sort(np.array(2 * [hash(document.doc_id) for document in DOCUMENTS]))
    collection()._refuse_duplicate_documents(shared)
    made = collection(documents=list(DOCUMENTS))
    made.documents.append(DOCUMENTS[1])
    with pytest.raises(InputError, match=r"duplicate doc_id 'd1' \(documents 2 and 5\)"):
        made._refuse_duplicate_documents(shared)


def test_judged_documents_that_an_edition_is_known_to_lack_may_be_absent():
    assert len(collection(documents=DOCUMENTS[:3], absent=1)) == 3
    with pytest.raises(InputError, match="2 judged documents are not in the corpus"):
        collection(documents=DOCUMENTS[1:3], absent=1)
