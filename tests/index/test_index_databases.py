"""Uploads to vector databases, commands and servers over them: real engines, crashes included."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

import msgspec
import numpy as np
import pytest

from o1_index import build, exact_search
from o1_index.__main__ import main
from o1_index.databases import upload as uploading
from o1_index.databases.database import Keep, create_store, open_store, target
from o1_index.databases.upload import IndexVectors, Uploaded, upload
from o1_index.vectors import open_vectors
from o1_records import InputError, MissingExtraError, trec
from o1_records.kit.job import ChangedJobError
from o1_records.vectors import Encoder, VectorWriter

ENCODER = Encoder(model="m", digest="abc", layout="o1", pooling="emb", max_length=64, role="document")
QUERY_ENCODER = msgspec.structs.replace(ENCODER, role="query")
RANDOM = np.random.default_rng(5)
ROWS, DIM = 600, 12
VECTORS = RANDOM.integers(-20, 21, (ROWS, DIM)).astype("f4") + 0.5
QUERIES = RANDOM.integers(-20, 21, (20, DIM)).astype("f4") + 0.5
IDS = [f"dé{row}" for row in range(ROWS)]
NAMES = [f"q{row}" for row in range(20)]
PAYLOADS = [{"year": 2000 + row % 30} for row in range(ROWS)]


def write(folder, ids, vectors, encoder=ENCODER, rows=150):
    with VectorWriter(folder, encoder=encoder) as writer:
        for start in range(0, len(ids), rows):
            writer.write(ids[start : start + rows], vectors[start : start + rows])
        return writer.close()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "documents", IDS, VECTORS)
    write(tmp_path / "queries", NAMES, QUERIES, QUERY_ENCODER)
    lines = [{"doc_id": name, **payload} for name, payload in zip(IDS, PAYLOADS, strict=True)]
    (tmp_path / "payloads.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


# --- without an engine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mongo:x#y", "give one of milvus:FILE.db#NAME"),
        ("lance:folder", "give one of"),
        ("lance:#docs", "give one of"),
        ("lance:folder#1x", "must be letters, digits and underscores"),
        ("lance:folder#a-b", "must be letters, digits and underscores"),
        ("pgvector:postgresql://me:secret@host/db#docs", "leave the password out"),
    ],
)
def test_what_names_no_collection_is_refused(text, message):
    with pytest.raises(InputError, match=message) as raised:
        target(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("engine", "package"),
    [
        ("milvus", "pymilvus"),
        ("qdrant", "qdrant_client"),
        ("lance", "lancedb"),
        ("pgvector", "psycopg"),
    ],
)
def test_a_missing_client_is_told_with_the_extra_that_has_it(engine, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"o1_index.databases.{engine}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'o1-index\[{engine}\]'"):
        open_store(f"{engine}:place#docs")


def test_options_that_have_no_effect_are_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    to, search = ["--to", "lance:db#docs"], ["search", "--vectors", "queries", "--out", "o"]
    for words, message in [
        (["export", "--index", "i"], "give --out"),
        (["export", "--index", "i", "--out", "o", *to], "give --out"),
        (["export", "--index", "i", "--out", "o", "--add"], "--add has no effect without --to"),
        (["export", "--vectors", "documents", "--out", "o"], "--vectors has no effect without --to"),
        (["export", *to, "--report", "r"], "give --index, or --vectors"),
        (["export", "--vectors", "documents", *to], "give --report"),
        (["export", "--index", "i", "--ids", "x", "--report", "r", *to], "--ids has no effect with --index"),
        (search, "give --index, or --from"),
        (
            ["search", "--index", "i", "--effort", "9", "--vectors", "queries", "--out", "o"],
            "--effort is for",
        ),
        (
            ["search", "--from", to[1], "--mmap", "--vectors", "queries", "--out", "o"],
            "no effect on a database",
        ),
    ]:
        assert main(words) == 4
        assert message in capsys.readouterr().err


# --- uploads ------------------------------------------------------------------------------------------


@pytest.mark.engines
def test_an_upload_holds_every_document_and_reports_its_recall(database, folder):
    place = database.target()
    done = upload(
        open_vectors(folder / "documents"),
        place,
        folder / "report.json",
        payloads=folder / "payloads.jsonl",
        queries=open_vectors(folder / "queries"),
        k=10,
    )
    assert (done.documents, done.count, done.sent, done.dim) == (ROWS, ROWS, ROWS, DIM)
    assert (done.recall, done.queries, done.sample, done.factory) == (1.0, 20, "queries", "Flat")
    assert msgspec.json.decode((folder / "report.json").read_bytes(), type=Uploaded) == done
    with open_store(place) as store:
        assert store.settings.encoder == ENCODER
        there = store.fetch(IDS)
        assert (there.ids, there.payloads) == (IDS, PAYLOADS)
        assert np.array_equal(there.vectors, VECTORS)
        hits = list(store.search(QUERIES, NAMES, k=10))
    assert hits == list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=10))
    # done is done
    again = upload(
        open_vectors(folder / "documents"),
        place,
        folder / "report.json",
        payloads=folder / "payloads.jsonl",
        queries=open_vectors(folder / "queries"),
        k=10,
    )
    assert again == done
    with pytest.raises(ChangedJobError, match="k '10', this run has k '20'"):
        upload(
            open_vectors(folder / "documents"),
            place,
            folder / "report.json",
            payloads=folder / "payloads.jsonl",
            queries=open_vectors(folder / "queries"),
            k=20,
        )


KILLED = """
import sys
from o1_index.databases import upload as uploading
from o1_index.vectors import open_vectors
uploading.ROWS = 20
uploading.upload(open_vectors(sys.argv[1]), sys.argv[2], sys.argv[3], payloads=sys.argv[4], k=10)
"""


@pytest.mark.engines
def test_an_upload_that_is_killed_goes_on_and_holds_every_document_once(database, folder):
    place, report = database.target(), folder / "report.json"
    words = [sys.executable, "-c", KILLED, folder / "documents", place, report, folder / "payloads.jsonl"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seed = random.Random(len(place))
    for least in (20, 200):  # rows that are sent before the next kill
        process = subprocess.Popen(list(map(str, words)), env=environment, stderr=subprocess.PIPE)
        while rows_sent(report) < least:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.005)
        time.sleep(seed.random() / 20)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not report.exists()
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(report.read_bytes(), type=Uploaded)
    assert found.sent <= ROWS - 200
    assert (found.count, found.recall) == (ROWS, 1.0)
    with open_store(place) as store:
        assert store.count() == ROWS
        there = store.fetch(IDS)
    assert (there.ids, there.payloads) == (IDS, PAYLOADS)
    assert np.array_equal(there.vectors, VECTORS)


def rows_sent(report):
    journal = report.with_name(report.name + ".job") / "journal.sqlite"
    if not journal.exists():
        return 0
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=60) as db:
        try:
            row = db.execute("SELECT shard, rows FROM sent").fetchone()
        except sqlite3.OperationalError:  # the tables are not made yet
            return 0
    return 0 if row is None else 150 * row[0] + row[1]


@pytest.mark.engines
def test_nothing_is_sent_of_what_has_one_bad_vector_id_or_payload(database, folder):
    place = database.target()
    bad = VECTORS.copy()
    bad[-1, 3] = np.nan
    np.save(folder / "bad.npy", bad)
    np.save(folder / "good.npy", VECTORS)
    (folder / "ids.txt").write_text("\n".join(IDS))
    (folder / "twice.txt").write_text("\n".join([*IDS[:-1], IDS[0]]))
    (folder / "nul.txt").write_text("\n".join([*IDS[:-1], "a\0b"]))
    for vectors, ids, message in [
        ("bad.npy", "ids.txt", f"not finite.*{IDS[-1]}"),
        ("good.npy", "twice.txt", f"duplicate id '{IDS[0]}'"),
        ("good.npy", "nul.txt", "NUL character"),
    ]:
        with pytest.raises(InputError, match=message):
            upload(open_vectors(folder / vectors, folder / ids), place, folder / "report.json")
        with pytest.raises(InputError, match="no such collection"):
            open_store(place)
    assert not list(folder.glob("report.json*"))


@pytest.mark.engines
def test_documents_are_added_and_replaced_in_a_collection_that_exists(database, folder):
    place = database.target()
    upload(open_vectors(folder / "documents"), place, folder / "first.json", k=10)
    more = {"dé5": VECTORS[5] * 2, "new": VECTORS[7] * 3}
    write(folder / "more", list(more), np.array(list(more.values())))
    with pytest.raises(InputError, match=r"such a collection already; .* give --add"):
        upload(open_vectors(folder / "more"), place, folder / "second.json")
    done = upload(open_vectors(folder / "more"), place, folder / "second.json", add=True, k=10)
    assert (done.documents, done.count, done.recall) == (2, ROWS + 1, 1.0)
    held = dict(zip(IDS, VECTORS, strict=True)) | more
    with open_store(place) as store:
        hits = list(store.search(QUERIES, NAMES, k=10))
    assert hits == list(exact_search((list(held), np.array(list(held.values()))), (NAMES, QUERIES), k=10))
    other = msgspec.structs.replace(ENCODER, digest="other")
    write(folder / "other", ["x"], VECTORS[:1], other)
    write(folder / "wide", ["x"], np.ones((1, DIM + 1), "f4"))
    for name, options, message in [
        ("other", {"add": True}, "encode the new documents as those"),
        ("wide", {"add": True}, f"vectors of {DIM + 1} dimensions"),
        ("more", {"add": True, "metric": "l2"}, "its metric is inner_product"),
        ("more", {"add": True, "exact": True}, "leave exact out with add"),
    ]:
        with pytest.raises(InputError, match=message):
            upload(open_vectors(folder / name), place, folder / "third.json", **options)
    with pytest.raises(InputError, match="no such collection; leave --add out"):
        upload(open_vectors(folder / "more"), database.target(), folder / "third.json", add=True)


@pytest.mark.engines
def test_a_graph_finds_what_its_report_says_and_a_filter_loses_no_hit(database, folder):
    random = np.random.default_rng(4)
    vectors = random.standard_normal((3000, 16)).astype("f4")
    ids = [f"d{row}" for row in range(3000)]
    queries, names = random.standard_normal((30, 16)).astype("f4"), [f"q{row}" for row in range(30)]
    write(folder / "many", ids, vectors, rows=1000)
    write(folder / "asked", names, queries, QUERY_ENCODER)
    lines = [{"doc_id": name, "part": row % 50} for row, name in enumerate(ids)]
    (folder / "parts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    place, options = database.target(), {"queries": open_vectors(folder / "asked"), "k": 20, "exact": False}
    source = open_vectors(folder / "many")
    if database.name == "milvus-lite":
        with pytest.raises(InputError, match="Milvus Lite ignores ef"):
            upload(source, place, folder / "report.json", **options)
        return
    done = upload(source, place, folder / "report.json", payloads=folder / "parts.jsonl", **options)
    assert done.factory == "HNSW"
    assert 0.95 <= done.recall <= 1
    with open_store(place) as store:
        wanted = set(found(exact_search((ids, vectors), (names, queries), k=20)))
        hits = set(found(store.search(queries, names, k=20)))
        assert done.recall == pytest.approx(len(hits & wanted) / len(wanted))
        kept = [row for row in range(3000) if row % 50 == 7]
        exact = exact_search(([ids[row] for row in kept], vectors[kept]), (names, queries), k=20)
        for where in ("part = 7", lambda payload: payload["part"] == 7):
            hits = found(store.search(queries, names, k=20, where=where))
            assert len(hits) == len(exact)
            assert len(set(hits) & set(found(exact))) >= 0.9 * len(exact)
        # parts of a graph may be cut off from others; all the same, as many as there are come back
        nearest = store.database.nearest(queries[:2], 4000, Keep(), payloads=False, exact=True, effort=1)
        for near, query in zip(nearest, queries, strict=False):
            assert {each.doc_id for each in near} == set(ids)
            scores = [each.score for each in near]
            assert scores == sorted(scores, reverse=True)
            by_id = dict(zip(ids, (vectors @ query).tolist(), strict=True))
            assert scores == pytest.approx([by_id[each.doc_id] for each in near], abs=1e-4)
        gone = [ids[row] for row in range(0, 3000, 3)]
        assert store.delete(gone) == len(gone)
        hits = list(store.search(queries, names, k=100))
        assert len(hits) == 100 * len(names)
        assert not {hit.doc_id for hit in hits} & set(gone)


def found(hits):
    return [(hit.query_id, hit.doc_id) for hit in hits]


@pytest.mark.engines
def test_threads_that_upsert_the_same_documents_leave_each_once(database):
    store = database.create(DIM)
    barrier = threading.Barrier(3)

    def work(number):
        barrier.wait()
        for start in range(0, 200, 40):
            store.upsert(VECTORS[start : start + 40] * (number + 1), IDS[start : start + 40])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 200
    hits = list(store.search(QUERIES[:2], NAMES[:2], k=200))
    assert len({(hit.query_id, hit.doc_id) for hit in hits}) == len(hits) == 400


# --- commands and servers -----------------------------------------------------------------------------


@pytest.mark.engines
def test_a_run_from_a_database_is_that_of_the_index_it_came_from(database, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    place = database.target()
    build(VECTORS, IDS, encoder=ENCODER, payloads=PAYLOADS).save(folder / "index")
    assert main(["export", "--index", "index", "--to", place, "--report", "r.json", "--k", "10"]) == 0
    assert f"{place}: 600 documents, recall@10 1.0000 over 200 documents" in capsys.readouterr().err
    for options in ([], ["--where", "year >= 2028"]):
        common = ["search", "--vectors", "queries", "--k", "9", *options]
        assert main([*common, "--index", "index", "--out", "index.txt"]) == 0
        assert main([*common, "--from", place, "--out", "database.txt"]) == 0
        assert list(trec.read_run(folder / "database.txt")) == list(trec.read_run(folder / "index.txt"))
    source = IndexVectors(folder / "index")
    with pytest.raises(InputError, match="its metric is inner_product, not l2"):
        upload(source, place, folder / "other.json", metric="l2")
    other = msgspec.structs.replace(QUERY_ENCODER, digest="other")
    write(folder / "foreign", NAMES, QUERIES, other)
    assert main(["search", "--vectors", "foreign", "--from", place, "--out", "x.txt"]) == 4
    assert "encode the queries with the model that encoded the documents" in capsys.readouterr().err


@pytest.mark.engines
def test_a_collection_is_served_as_an_index_is(database):
    store = database.create(DIM)
    store.upsert(VECTORS, IDS, PAYLOADS)
    place = str(store.target)
    database.close()
    words = [sys.executable, "-m", "o1_index", "serve-from", place, "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if match := re.search(r"running on (http://\S+)", line):
            break
    body = {"vectors": QUERIES[:3].tolist(), "k": 4, "where": "year = 2007", "payloads": True}
    request = urllib.request.Request(match[1] + "/search", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        results = json.load(answer)["results"]
    kept = [row for row in range(ROWS) if row % 30 == 7]
    exact = exact_search(([IDS[row] for row in kept], VECTORS[kept]), (list("012"), QUERIES[:3]), k=4)
    assert [
        (result["query_id"], hit["doc_id"], hit["score"], hit["rank"])
        for result in results
        for hit in result["hits"]
    ] == [(hit.query_id, hit.doc_id, hit.score, hit.rank) for hit in exact]
    assert {hit["payload"]["year"] for result in results for hit in result["hits"]} == {2007}
    with urllib.request.urlopen(match[1] + "/health", timeout=60) as answer:
        assert json.load(answer) == {"status": "ok", "documents": ROWS}
    process.terminate()
    process.stderr.read()
    assert process.wait(30) == 0


@pytest.mark.engines
def test_a_collection_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    for place, message in [
        (f"lance:{tmp_path}#absent", "no such collection"),
        ("milvus:http://127.0.0.1:9#docs", "milvus:http://127.0.0.1:9#docs: "),
        ("qdrant:http://127.0.0.1:9#docs", "qdrant:http://127.0.0.1:9#docs: "),
        (
            "pgvector:postgresql://nobody@127.0.0.1:9/x#docs",
            "pgvector:postgresql://nobody@127.0.0.1:9/x#docs: ",
        ),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            open_store(place)
    with create_store(f"qdrant:{tmp_path}#docs", 3), pytest.raises(InputError, match="is at work there"):
        open_store(f"qdrant:{tmp_path}#docs")


@pytest.mark.engines
@pytest.mark.parametrize("damaged", ["edge_config.json", "segment.json", "first-index"])
def test_a_damaged_folder_of_qdrant_edge_is_one_sentence(damaged, tmp_path):
    with create_store(f"qdrant:{tmp_path}#docs", 3) as store:
        store.upsert(np.eye(3), list("abc"))
    [path] = (tmp_path / "docs").rglob(damaged)
    path.write_text("{")
    with pytest.raises(InputError, match=f"^qdrant:{re.escape(str(tmp_path))}#docs: Qdrant Edge: "):
        open_store(f"qdrant:{tmp_path}#docs")
    # and nobody holds it any more
    with pytest.raises(InputError, match="Qdrant Edge"):
        open_store(f"qdrant:{tmp_path}#docs")


@pytest.mark.engines
def test_a_folder_of_qdrant_edge_that_goes_away_is_one_sentence(tmp_path):
    with create_store(f"qdrant:{tmp_path}#docs", 3) as store:
        store.upsert(np.eye(3), list("abc"))
        shutil.rmtree(tmp_path / "docs")
        with pytest.raises(InputError, match=f"^qdrant:{re.escape(str(tmp_path))}#docs: Qdrant Edge: "):
            store.database.persist()


def test_a_part_is_what_is_sent_again_at_most():
    assert uploading.ROWS == 16_384
