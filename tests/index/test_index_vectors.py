"""Vectors in and out: files that other programs write, FAISS files, and folders of what an index holds."""

import subprocess
import sys

import faiss
import msgspec
import numpy as np
import pytest

from o1_index import build, build_from, exact_search, open_index
from o1_index.build import adopt
from o1_index.index import export
from o1_index.vectors import open_vectors
from o1_records import InputError
from o1_records.vectors import Encoder

RANDOM = np.random.default_rng(0)
# products of these are exact in float32
VECTORS = RANDOM.integers(-40, 41, size=(300, 6)).astype("f4") / 8 + 1 / 16
QUERIES = RANDOM.integers(-40, 41, size=(9, 6)).astype("f4") / 8
IDS = [f"d{row}" for row in range(300)]
NAMES = [f"q{row}" for row in range(9)]
NUMBERS = [str(row) for row in range(300)]


def as_npy(path):
    np.save(path / "v.npy", VECTORS)
    return path / "v.npy"


def as_fvecs(path):
    rows = np.concatenate([np.full((300, 1), 6, "<i4").view("<f4"), VECTORS], axis=1)
    rows.astype("<f4").tofile(path / "v.fvecs")
    return path / "v.fvecs"


def as_fbin(path):
    (path / "v.fbin").write_bytes(np.array([300, 6], "<u4").tobytes() + VECTORS.tobytes())
    return path / "v.fbin"


def as_parquet(path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": IDS, "_id": IDS, "embedding": list(VECTORS)})
    parquet.write_table(table, path / "v.parquet", row_group_size=70)
    return path / "v.parquet"


def hits(index, k=12):
    return index.search(QUERIES, NAMES, k=k)


@pytest.mark.parametrize(
    "write", [as_npy, as_fvecs, as_fbin, pytest.param(as_parquet, marks=pytest.mark.extra)]
)
def test_an_index_is_built_of_a_file_of_vectors(write, tmp_path, monkeypatch):
    monkeypatch.setattr("o1_index.vectors._ROWS", 64)
    path = write(tmp_path)
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in IDS))
    vectors = open_vectors(path, None if path.suffix == ".parquet" else tmp_path / "ids.txt")
    index = build_from(vectors, out=tmp_path / "index")
    assert list(hits(index)) == list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=12))
    assert list(hits(open_index(tmp_path / "index"))) == list(hits(index))
    assert index.made_from == open_index(tmp_path / "index").made_from != ""
    if path.suffix != ".parquet":
        assert list(hits(build_from(open_vectors(path)))) == list(
            exact_search((NUMBERS, VECTORS), (NAMES, QUERIES), k=12)
        )


def test_the_command_builds_of_a_file_and_searches_for_the_vectors_of_another(tmp_path):
    as_npy(tmp_path)
    np.save(tmp_path / "q.npy", QUERIES)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for words in (
        ["build", "--vectors", "v.npy", "--out", "index"],
        [
            "search",
            "--index",
            "index",
            "--vectors",
            "q.npy",
            "--ids",
            "names.txt",
            "--k",
            "5",
            "--out",
            "run",
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "o1_index", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    expected = exact_search((NUMBERS, VECTORS), (NAMES, QUERIES), k=5)
    assert [(line[0], line[2]) for line in lines] == [(hit.query_id, hit.doc_id) for hit in expected]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "v.txt",
            b"",
            r"a file whose name ends in \.npy \.fvecs \.fbin \.parquet",
        ),
        ("v.npy", b"nothing", "v.npy: not an array of numbers"),
        ("v.fvecs", b"\x06\0\0\0" + bytes(23), "27 bytes are no whole vectors of 6 dimensions"),
        ("v.fvecs", b"\x01\0\0\0" + bytes(12), "its vectors have not all 1 dimensions"),
        ("v.fbin", b"\x02\0\0\0\x06\0\0\0" + bytes(47), "55 bytes are not 2 vectors of 6 dimensions"),
        ("v.npy", None, "no such file or folder"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_vectors(tmp_path / name)


@pytest.mark.extra
def test_a_parquet_file_without_ids_or_vectors_is_refused(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for columns, message in [
        ({"embedding": list(VECTORS)}, "none of doc_id, query_id, id, _id"),
        ({"id": IDS}, "none of vector, embedding"),
        ({"id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}, "row group 0: .* different lengths"),
    ]:
        parquet.write_table(pa.table(columns), tmp_path / "v.parquet")
        with pytest.raises(InputError, match=message):
            open_vectors(tmp_path / "v.parquet")


def test_ids_that_are_not_as_many_as_vectors_are_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="2 ids for the 300 vectors"):
        open_vectors(as_npy(tmp_path), tmp_path / "ids.txt")


# --- FAISS files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IDMap,Flat", "IVF8,Flat", "HNSW8,Flat", "IDMap2,IVF8,Flat"])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_a_faiss_file_is_taken_over_with_the_numbers_that_it_has(factory, metric, tmp_path):
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    engine = faiss.index_factory(6, factory, kind)
    engine.train(VECTORS)
    numbers = np.arange(300, dtype="i8")
    if "IDMap" in factory or "IVF" in factory:
        numbers = RANDOM.permutation(1000)[:300].astype("i8")
        engine.add_with_ids(VECTORS, numbers)
    else:
        engine.add(VECTORS)
    faiss.ParameterSpace().set_index_parameters(
        engine, "nprobe=8" if "IVF" in factory else "efSearch=300" if "HNSW" in factory else ""
    )
    faiss.write_index(engine, str(tmp_path / "theirs.faiss"))
    index = adopt(tmp_path / "theirs.faiss")
    expected = exact_search((list(map(str, numbers)), VECTORS), (NAMES, QUERIES), k=12, metric=metric)
    assert hits(index).arrays()[0].tolist() == expected.arrays()[0].tolist()
    assert index.settings.metric == metric
    index.remove([str(numbers[0])])
    index.add(VECTORS[:1], ["new"])
    index.compact()
    index.save(tmp_path / "ours")
    opened = open_index(tmp_path / "ours")
    assert list(hits(opened)) == list(hits(index))
    assert str(numbers[0]) not in opened
    assert np.allclose(opened.fetch(["new"]).vectors, VECTORS[:1])
    names = [f"n{row}" for row in range(300)]
    renamed = adopt(tmp_path / "theirs.faiss", names)
    order = np.argsort(numbers) if "IDMap" not in factory else np.arange(300)
    again = exact_search((names, VECTORS[order]), (NAMES, QUERIES), k=12, metric=metric)
    assert hits(renamed).arrays()[0].tolist() == again.arrays()[0].tolist()


def test_a_faiss_file_with_another_metric_or_number_of_ids_is_refused(tmp_path):
    faiss.write_index(faiss.IndexFlat(6, faiss.METRIC_L1), str(tmp_path / "l1.faiss"))
    engine = faiss.IndexFlatIP(6)
    engine.add(VECTORS)
    faiss.write_index(engine, str(tmp_path / "ip.faiss"))
    (tmp_path / "cut.faiss").write_bytes((tmp_path / "ip.faiss").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"l1\.faiss"):
        adopt(tmp_path / "l1.faiss")
    with pytest.raises(InputError, match="2 ids for 300 vectors"):
        adopt(tmp_path / "ip.faiss", ["a", "b"])
    with pytest.raises(InputError, match="the metric 'l2' cannot be had from it"):
        adopt(tmp_path / "ip.faiss", metric="l2")
    with pytest.raises(InputError, match=r"cut\.faiss: FAISS refuses"):
        adopt(tmp_path / "cut.faiss")
    done = subprocess.run(
        [sys.executable, "-m", "o1_index", "build", "--vectors", "ip.faiss", "--out", "i", "--factory", "PQ"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 4
    assert "--factory has no effect on a FAISS file" in done.stderr


# --- out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8,Flat"])
def test_the_vectors_of_an_index_come_out_as_they_went_in(factory, tmp_path):
    encoder = Encoder(model="m", digest="d", layout="o1", pooling="emb", max_length=64, role="document")
    index = build(VECTORS, IDS, factory=factory, encoder=encoder)
    index.remove(IDS[:10])
    index.add(VECTORS[:1], ["new"])
    index.save(tmp_path / "index")
    index = open_index(tmp_path / "index", mmap=True)
    vectors = export(index, tmp_path / "out")
    assert vectors.ids() == [*IDS[10:], "new"]
    assert np.allclose(vectors.load(), np.concatenate([VECTORS[10:], VECTORS[:1]]))
    assert vectors.manifest.encoder == encoder
    some = export(index, tmp_path / "some", ["new", "d50"])
    assert (some.ids(), some.load().tolist()) == (["new", "d50"], VECTORS[[0, 50]].tolist())
    with pytest.raises(InputError, match=r"ids are not in the index: \['d1'\]"):
        export(index, tmp_path / "none", ["d1"])


def test_codes_come_out_as_what_they_stand_for():
    index = build(VECTORS, IDS, factory="IVF4,SQ8")
    error = np.abs(index.fetch(IDS[:50]).vectors - VECTORS[:50]).max()
    assert 0 < error < 0.05


def test_the_commands_say_what_an_index_holds_and_write_it(tmp_path):
    build(VECTORS, IDS, factory="IVF8,Flat", k=10).save(tmp_path / "index")
    words = [sys.executable, "-m", "o1_index"]
    done = subprocess.run([*words, "info", "--index", "index"], cwd=tmp_path, capture_output=True)
    info = msgspec.json.decode(done.stdout)
    index = open_index(tmp_path / "index")
    assert info == {**msgspec.to_builtins(index.info())}
    assert (info["documents"], info["dim"], info["factory"], info["version"]) == (300, 6, "IVF8,Flat", 1)
    assert info["measured"]["recall"] >= 0.95
    done = subprocess.run([*words, "export", "--index", "index", "--out", "out"], cwd=tmp_path)
    assert done.returncode == 0
    assert len(open_vectors(tmp_path / "out")) == 300
