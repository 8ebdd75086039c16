"""BEIR in the forms that it is published in; files are written as the hub's tools write them."""

import gzip
import json

import pytest

from o1_bench.datasets.beir import load_beir
from o1_records import InputError

DOCUMENTS = [
    {"_id": "4983", "title": "Newborn brains", "text": "White matter.", "metadata": {}},
    {"_id": "NaN", "title": "NaN", "text": "Not a number.", "metadata": {}},
    {"_id": "Ånge", "title": "", "text": "", "metadata": {"url": "x"}},
]
QUERIES = [
    {"_id": "1", "text": "brains", "metadata": {}},
    {"_id": "NaN", "text": "numbers", "metadata": {}},
    {"_id": "3", "text": "never judged", "metadata": {}},
]
QRELS = [("1", "4983", 2), ("1", "NaN", 0), ("NaN", "Ånge", 1)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_tsv(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [("query-id", "corpus-id", "score"), *QRELS]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def as_zip(folder):
    folder.mkdir()
    (folder / "corpus.jsonl").write_bytes(lines(DOCUMENTS))
    (folder / "queries.jsonl").write_bytes(lines(QUERIES))
    write_tsv(folder / "qrels" / "test.tsv")


def as_gzip(folder):
    """BeIR/<name> before the hub turned it into Parquet, with BeIR/<name>-qrels beside it."""
    folder.mkdir()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(DOCUMENTS)))
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines(QUERIES)))
    write_tsv(folder.with_name(f"{folder.name}-qrels") / "test.tsv")


def as_mteb(folder):
    """mteb/<name>: the judgements are JSON lines whose scores are floats."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(lines(DOCUMENTS))
    (folder / "queries.jsonl").write_bytes(lines(QUERIES))
    rows = [{"query-id": q, "corpus-id": d, "score": float(score)} for q, d, score in QRELS]
    (folder / "qrels" / "test.jsonl").write_bytes(lines(rows))


def as_parquet(folder):
    """BeIR/<name> today: a folder a table, in shards."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, rows, shards in (("corpus", DOCUMENTS, 2), ("queries", QUERIES, 1)):
        (folder / name).mkdir(parents=True)
        rows = [{key: row[key] for key in row if key != "metadata"} for row in rows]
        for shard in range(shards):
            part = pa.Table.from_pylist(rows[shard::shards])
            pq.write_table(part, folder / name / f"{folder.name}-{name}-{shard:05}-of-{shards:05}.parquet")
    write_tsv(folder.with_name(f"{folder.name}-qrels") / "test.tsv")


def as_mteb_parquet(folder):
    """mteb/<name> of later tasks: every table a folder, named by the split."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    judged = [{"query-id": q, "corpus-id": d, "score": score} for q, d, score in QRELS]
    for name, rows in (("corpus", DOCUMENTS), ("queries", QUERIES), ("qrels", judged)):
        (folder / name).mkdir(parents=True)
        rows = [{key: row[key] for key in row if key != "metadata"} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "test-00000-of-00001.parquet")


@pytest.fixture
def zipped(tmp_path):
    as_zip(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    "write",
    [
        as_zip,
        as_gzip,
        as_mteb,
        pytest.param(as_parquet, marks=pytest.mark.extra),
        pytest.param(as_mteb_parquet, marks=pytest.mark.extra),
    ],
)
def test_every_form_of_a_set_gives_the_same_collection(tmp_path, write):
    as_zip(tmp_path / "zip")
    write(tmp_path / "tiny")
    loaded = load_beir(tmp_path / "tiny")
    assert loaded.digests == load_beir(tmp_path / "zip").digests
    assert [query.query_id for query in loaded.queries] == ["1", "NaN"]
    assert [(q.query_id, q.doc_id, q.relevance) for q in loaded.qrels] == QRELS
    assert sorted(document.doc_id for document in loaded.documents) == ["4983", "NaN", "Ånge"]


def test_an_id_nan_stays_a_name(zipped):
    found = {document.doc_id: document for document in load_beir(zipped).documents}
    assert found["NaN"].text == "Not a number."


def called(folder, name):
    """The folder under another name."""
    folder.with_name(name).parent.mkdir(exist_ok=True)
    return folder.rename(folder.with_name(name))


def test_a_public_set_is_known_by_its_folder_and_never_counts_a_document_that_has_the_querys_id(zipped):
    loaded = load_beir(called(zipped, "scifact"))
    assert loaded.name == "beir/scifact/test"
    assert loaded.protocol.name == "beir"
    assert loaded.excluded == {"1": {"1"}, "NaN": {"NaN"}}


def test_ms_marco_is_reported_on_its_dev_split(zipped):
    write_tsv(zipped / "qrels" / "dev.tsv")
    (zipped / "qrels" / "test.tsv").unlink()
    loaded = load_beir(called(zipped, "msmarco"))
    assert (loaded.name, loaded.protocol.measures[0]) == ("beir/msmarco/dev", "nDCG@10")


def test_arguana_may_lack_five_judged_documents_and_no_other_set_may(zipped):
    with (zipped / "qrels" / "test.tsv").open("a") as file:
        file.writelines(f"1\tlost-{number}\t1\n" for number in range(5))
    arguana = called(zipped, "arguana")
    assert len(load_beir(arguana).qrels) == 8
    with pytest.raises(InputError, match="5 judged documents are not in the corpus"):
        load_beir(called(arguana, "scifact"))


@pytest.mark.extra
def test_a_missing_shard_is_noticed(tmp_path):
    as_parquet(tmp_path / "tiny")
    next((tmp_path / "tiny" / "corpus").glob("*-00001-of-*")).unlink()
    with pytest.raises(InputError, match="1 of the 2 shards"):
        load_beir(tmp_path / "tiny")


def test_a_table_in_two_forms_is_refused(zipped):
    (zipped / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(DOCUMENTS[:2])))
    with pytest.raises(InputError, match=r"two forms, corpus\.jsonl and corpus\.jsonl\.gz"):
        load_beir(zipped)


def test_a_score_that_is_no_whole_number_is_refused(tmp_path):
    as_mteb(tmp_path / "tiny")
    row = {"query-id": "1", "corpus-id": "4983", "score": 0.5}
    (tmp_path / "tiny" / "qrels" / "test.jsonl").write_bytes(lines([row]))
    with pytest.raises(InputError, match=r"test\.jsonl:1: .*multiple"):
        load_beir(tmp_path / "tiny")
