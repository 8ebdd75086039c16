"""The command, from folders of vectors to a TREC run."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from o1_index import exact_search, open_index
from o1_records import Exclusion, trec, write_jsonl
from o1_records.vectors import Encoder, VectorWriter

ENCODER = Encoder(model="m", digest="abc", layout="o1", pooling="emb", max_length=64, role="document")
QUERY_ENCODER = msgspec.structs.replace(ENCODER, role="query")
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.integers(-3, 4, size=(300, 6)).astype(np.float32) + 0.5
IDS = [f"d{i}" for i in range(300)]
QUERIES = RANDOM.integers(-3, 4, size=(20, 6)).astype(np.float32) + 0.5
NAMES = [f"q{i}" for i in range(20)]


def write(folder, ids, vectors, owners=None, encoder=ENCODER):
    writer = VectorWriter(folder, encoder=encoder)
    half = len(ids) // 2
    for part in (slice(None, half), slice(half, None)):
        writer.write(ids[part], vectors[part], owners[part] if owners else None)
    writer.close()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "documents", IDS, VECTORS)
    write(tmp_path / "queries", NAMES, QUERIES, encoder=QUERY_ENCODER)
    return tmp_path


def run(folder, command, **options):
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "o1_index", command, *flags],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def built(folder, **options):
    done = run(folder, "build", vectors="documents", out="index", **options)
    assert done.returncode == 0, done.stderr
    return done


def test_build_and_search_write_the_run_of_the_oracle(folder):
    assert "index: 300 vectors of 6 dimensions" in built(folder).stderr
    done = run(folder, "search", index="index", vectors="queries", k=7, out="run.txt")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=7))
    assert list(trec.read_run(folder / "run.txt")) == expected


def test_excluded_documents_do_not_come_back(folder):
    built(folder)
    banned = [Exclusion(query_id="q3", doc_id=f"d{i}") for i in range(290)]
    write_jsonl(folder / "excluded.jsonl", banned)
    options = {"index": "index", "vectors": "queries", "k": 20, "out": "run.txt"}
    assert run(folder, "search", excluded="excluded.jsonl", **options).returncode == 0
    found = [hit.doc_id for hit in trec.read_run(folder / "run.txt") if hit.query_id == "q3"]
    assert sorted(found) == sorted(IDS[290:])


def test_a_run_is_not_written_over_the_exclusions(folder):
    built(folder)
    write_jsonl(folder / "excluded.jsonl", [Exclusion(query_id="q3", doc_id="d1")])
    before = (folder / "excluded.jsonl").read_bytes()
    options = {"index": "index", "vectors": "queries", "out": "./queries/../excluded.jsonl"}
    done = run(folder, "search", excluded="excluded.jsonl", **options)
    assert done.returncode == 4
    assert "is the file of --excluded" in done.stderr
    assert (folder / "excluded.jsonl").read_bytes() == before


@pytest.mark.parametrize("fuse", ["max", "mean"])
def test_several_vectors_of_a_query_make_one_ranking(folder, fuse):
    owners = [f"owner{i % 8}" for i in range(20)]
    write(folder / "several", NAMES, QUERIES, owners=owners, encoder=QUERY_ENCODER)
    built(folder)
    done = run(folder, "search", index="index", vectors="several", k=9, out="run.txt", fuse=fuse)
    assert done.returncode == 0, done.stderr
    found = list(trec.read_run(folder / "run.txt"))
    for owner in set(owners):
        mine = QUERIES[[name == owner for name in owners]]
        scores = getattr(mine @ VECTORS.T, fuse)(axis=0)
        best = sorted(zip(scores.tolist(), IDS, strict=True), reverse=True)[:9]
        hits = [(hit.score, hit.doc_id) for hit in found if hit.query_id == owner]
        assert [score for score, _ in hits] == pytest.approx([score for score, _ in best], rel=1e-6)
        if fuse == "max":
            assert hits == best


def test_a_second_build_has_nothing_to_do_and_another_one_is_refused(folder):
    built(folder)
    assert built(folder).stderr == "index: up to date\n"
    other = run(folder, "build", vectors="documents", out="index", factory="HNSW8")
    assert other.returncode == 4
    assert "index: holds an index of" in other.stderr
    assert "HNSW8" in other.stderr


def test_another_encoder_is_refused_naming_both(folder):
    built(folder)
    other = msgspec.structs.replace(QUERY_ENCODER, model="another-model", digest="def")
    write(folder / "other", NAMES, QUERIES, encoder=other)
    done = run(folder, "search", index="index", vectors="other", out="run.txt")
    assert done.returncode == 4
    assert "another-model" in done.stderr
    assert "model='m'" in done.stderr
    assert not (folder / "run.txt").exists()


def test_bad_input_ends_in_one_sentence(folder):
    built(folder)
    write(folder / "narrow", NAMES, QUERIES[:, :5], encoder=QUERY_ENCODER)
    path = folder / "index" / "v000001" / "index.faiss"
    for changes, code, message in [
        ({"vectors": "narrow"}, 4, "the queries have 5 dimensions, the index has 6"),
        ({"index": "no-index"}, 4, "no-index/current.json: No such file"),
        ({"k": 0}, 2, "'0' is not a whole number of 1 or more"),
        ({"vectors": "documents"}, 4, "encoded as documents"),
        ({"device": "tpu"}, 4, "device 'tpu' is none of"),
        ({"index": "index"}, 4, "v000001/index.faiss: damaged"),
    ]:
        if "damaged" in message:
            path.write_bytes(path.read_bytes()[:-1])
        options = {"index": "index", "vectors": "queries", "k": 5, "out": "run.txt", **changes}
        done = run(folder, "search", **options)
        assert done.returncode == code, done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not (folder / "run.txt").exists()


def test_importing_it_loads_no_faiss():
    code = "import sys, o1_index; print([m for m in ('faiss', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_faiss_it_says_what_to_type():
    code = """
import sys; sys.modules["faiss"] = None
import numpy, o1_index
o1_index.build(numpy.ones((1, 1)), ["a"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'o1-index[cpu]'" in done.stderr.splitlines()[-1]


def test_documents_are_added_replaced_and_removed_by_command(folder):
    built(folder)
    new = 9 * np.eye(6, dtype=np.float32)[:2]
    write(folder / "new", ["d7", "added"], new)
    for code, words in [
        (4, ["add", "--index", "index", "--vectors", "new"]),
        (0, ["add", "--index", "index", "--vectors", "new", "--upsert"]),
        (4, ["add", "--index", "index", "--vectors", "queries"]),
        (0, ["remove", "--index", "index", "--ids", "gone.txt", "--prune"]),
        (4, ["remove", "--index", "index", "--ids", "gone.txt"]),
    ]:
        (folder / "gone.txt").write_text("added\n")
        done = subprocess.run(
            [sys.executable, "-m", "o1_index", *words], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
    index = open_index(folder / "index")
    assert "added" not in index.names.rows
    assert next(iter(index.search(new[:1], ["q"], k=1))).doc_id == "d7"
    assert [path.name for path in sorted((folder / "index").iterdir())] == ["current.json", "v000003"]
