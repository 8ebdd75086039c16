"""Saved indexes: whole or absent, and every changed bit is noticed."""

import hashlib
import random
import subprocess
import sys

import faiss
import msgspec
import numpy as np
import pytest

from o1_index import build, build_from, open_index
from o1_index.store.manifest import Pointer, sealed
from o1_index.store.versions import open_version
from o1_index.vectors import spread
from o1_records import InputError
from o1_records.vectors import Encoder, VectorSet, VectorWriter

ENCODER = Encoder(model="m", digest="abc", layout="o1", pooling="emb", max_length=64)
VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
IDS = [f"doc-{i}" for i in range(60)]


@pytest.fixture
def saved(tmp_path):
    build(VECTORS, IDS, encoder=ENCODER).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW8", "SQ8", "IVF2,PQ4x4"])
def test_an_opened_index_is_the_saved_one(tmp_path, factory, mmap):
    index = build(VECTORS, IDS, factory=factory, metric="cosine", encoder=ENCODER)
    if factory.startswith("IVF"):
        index.set_parameters("nprobe=2")
    index.save(tmp_path / "index")
    opened = open_index(tmp_path / "index", mmap=mmap)
    names = [f"q{i}" for i in range(7)]
    assert list(opened.search(VECTORS[:7], names, k=9)) == list(index.search(VECTORS[:7], names, k=9))
    assert opened.settings == index.settings
    assert (len(opened), opened.dim) == (60, 8)


def test_an_empty_index_can_be_saved(tmp_path):
    build(np.zeros((0, 3)), []).save(tmp_path / "index")
    assert list(open_index(tmp_path / "index").search(np.ones((1, 3)), ["q"], k=3)) == []


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def search(folder, mmap):
    """Open and ask once: with mmap the last check comes with the first answer."""
    return list(open_index(folder, mmap=mmap).search(VECTORS[:1], ["q"], k=3))


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_noticed(saved, mmap):
    """FAISS alone returns wrong answers from half of such files."""
    choose = random.Random(0)
    files = files_of(saved)
    names = [str(path.relative_to(saved)) for path in files]
    assert names == [
        "current.json",
        "v000001/ids.safetensors",
        "v000001/index.faiss",
        "v000001/manifest.json",
    ]
    for path in files:
        whole = path.read_bytes()
        for _ in range(120):
            bit = choose.randrange(8 * len(whole))
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(InputError, match="damaged"):
                search(saved, mmap)
        path.write_bytes(whole)
    assert len(search(saved, mmap)) == 3


def test_every_byte_of_the_small_files_counts(saved):
    for path in (saved / "current.json", saved / "v000001" / "manifest.json"):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(InputError, match="damaged"):
                open_index(saved)
        path.write_bytes(whole)


@pytest.mark.parametrize("mmap", [False, True])
def test_every_truncation_is_noticed(saved, mmap):
    choose = random.Random(0)
    for path in files_of(saved):
        whole = path.read_bytes()
        lengths = {0, 1, len(whole) - 1, *(choose.randrange(len(whole)) for _ in range(40))}
        for length in lengths:
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match="damaged"):
                search(saved, mmap)
        path.write_bytes(whole)


def test_an_index_of_a_newer_release_is_refused(saved):
    version = open_version(saved)
    changed = sealed(msgspec.structs.replace(version.manifest, version=99))
    (version.folder / "manifest.json").write_bytes(changed)
    pointer = Pointer(name=version.folder.name, manifest_sha256=hashlib.sha256(changed).hexdigest())
    (saved / "current.json").write_bytes(sealed(pointer))
    with pytest.raises(InputError, match=r"manifest\.json: written by a newer release of o1-index"):
        open_index(saved)


def test_files_of_two_indexes_do_not_mix(saved, tmp_path):
    build(VECTORS[::-1], IDS, encoder=ENCODER).save(tmp_path / "other")
    for name in ("current.json", "v000001/index.faiss", "v000001/manifest.json"):
        mine = (saved / name).read_bytes()
        (saved / name).write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(InputError, match="damaged"):
            open_index(saved)
        (saved / name).write_bytes(mine)


@pytest.mark.parametrize("mmap", [False, True])
def test_damage_is_noticed_before_faiss_reads(saved, mmap):
    """The bytes would make FAISS itself fail or crash; the refusal must come from us."""
    path = saved / "v000001" / "index.faiss"
    path.write_bytes((b"IxFI" + b"\xff" * 4000)[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(InputError, match=r"index\.faiss: damaged"):
        open_index(saved, mmap=mmap)


def test_a_mapped_index_opens_at_once_and_checks_before_its_first_answer(tmp_path, monkeypatch):
    """Blocks of 512 bytes: only the ends are read at opening."""
    from o1_index.store import blocks

    monkeypatch.setattr(blocks, "BLOCK", 512)
    read = []
    digest = blocks._digest
    monkeypatch.setattr(blocks, "_digest", lambda path, block: read.append(block) or digest(path, block))
    build(VECTORS, IDS).save(tmp_path / "index")
    read.clear()
    index = open_index(tmp_path / "index", mmap=True)
    assert read == [0, 3]
    path = tmp_path / "index" / "v000001" / "index.faiss"
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(InputError, match="damaged"):
            index.search(VECTORS[:1], ["q"], k=1)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    assert len(index.search(VECTORS[:1], ["q"], k=1)) == 1
    read.clear()
    index.search(VECTORS[:1], ["q"], k=1)
    assert read == []


def test_faiss_limits_are_set_while_it_reads_and_given_back(saved, tmp_path):
    from o1_index.engine import read_engine

    limits = (
        faiss.get_deserialization_loop_limit,
        faiss.get_deserialization_vector_byte_limit,
        faiss.get_deserialization_lattice_r2_limit,
    )
    before = [limit() for limit in limits]
    content = bytearray((saved / "v000001" / "index.faiss").read_bytes())
    # the length of the vector data, 8 bytes before the data: claim 2**36 floats, 256 GiB
    place = len(content) - VECTORS.nbytes - 8
    assert int.from_bytes(content[place : place + 8], "little") in (VECTORS.size, VECTORS.nbytes // 4)
    content[place : place + 8] = (2**36).to_bytes(8, "little")
    (tmp_path / "bomb.faiss").write_bytes(content)
    with pytest.raises(InputError, match="deserialization_vector_byte_limit"):
        read_engine(tmp_path / "bomb.faiss")
    open_index(saved)
    assert [limit() for limit in limits] == before


def test_an_existing_folder_is_never_overwritten(saved):
    before = {path: path.read_bytes() for path in files_of(saved)}
    with pytest.raises(InputError, match="exists already"):
        build(VECTORS[:2], IDS[:2]).save(saved)
    assert {path: path.read_bytes() for path in files_of(saved)} == before


def test_an_interrupted_save_leaves_no_index_and_the_next_one_succeeds(tmp_path):
    partial = tmp_path / "index.partial" / "v000001.partial"
    partial.mkdir(parents=True)
    (partial / "index.faiss").write_bytes(b"half")
    (partial / ".ids.safetensors.abc.tmp").write_bytes(b"half")
    with pytest.raises(FileNotFoundError):
        open_index(tmp_path / "index")
    build(VECTORS, IDS).save(tmp_path / "index")
    assert len(open_index(tmp_path / "index")) == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_a_strangers_file_in_the_way_is_not_deleted(tmp_path):
    (tmp_path / "index.partial").mkdir()
    (tmp_path / "index.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt: no build of an index wrote this file"):
        build(VECTORS, IDS).save(tmp_path / "index")
    assert (tmp_path / "index.partial" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("kib", [0, 1, 2, 3])
def test_a_full_disk_is_an_error_and_leaves_no_index(tmp_path, kib):
    code = """
import resource, sys
import numpy as np
from o1_index import build
index = build(np.ones((200, 8), dtype=np.float32), [str(i) for i in range(200)])
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    index.save(sys.argv[1])
except OSError as error:
    sys.exit(f"OSError {error.errno}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "index"), str(kib * 1024)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "OSError" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "index").exists()


def test_an_index_of_shards_equals_one_of_a_matrix_and_knows_its_encoder(tmp_path):
    with_writer = VectorWriter(tmp_path / "vectors", encoder=ENCODER)
    for start in range(0, 60, 25):
        with_writer.write(IDS[start : start + 25], VECTORS[start : start + 25])
    with_writer.close()
    names = list("abcdef")
    for factory in ("Flat", "IVF4,Flat"):
        index = build_from(VectorSet(tmp_path / "vectors"), factory=factory)
        whole = build(VECTORS, IDS, factory=factory)
        assert list(index.search(VECTORS[:6], names, k=4)) == list(whole.search(VECTORS[:6], names, k=4))
        assert index.settings.encoder == ENCODER


def test_a_training_sample_is_spread_over_all_shards():
    numbers = np.arange(1.0, 61.0)[:, None]
    shards = [(IDS[:25], numbers[:25]), (IDS[25:29], numbers[25:29]), (IDS[29:], numbers[29:])]
    parts = list(spread(shards, 60, 7))
    assert np.concatenate([part for _, part in parts])[:, 0].tolist() == [1, 10, 19, 28, 37, 46, 55]
    assert [name for ids, _ in parts for name in ids] == [IDS[row] for row in range(0, 60, 9)]


def test_an_encoder_of_another_model_is_refused_naming_both(saved):
    settings = open_index(saved).settings
    settings.refuse_other_encoder(msgspec.structs.replace(ENCODER, role="query", thoughts="3"))
    for other in (msgspec.structs.replace(ENCODER, model="another", digest="def"), None):
        with pytest.raises(InputError) as caught:
            settings.refuse_other_encoder(other)
        assert repr(other) in str(caught.value)
        assert repr(ENCODER) in str(caught.value)


def test_vectors_of_documents_are_not_searched_for(saved):
    documents = msgspec.structs.replace(ENCODER, role="document")
    with pytest.raises(InputError, match="encoded as documents; give a folder of query vectors"):
        open_index(saved).settings.refuse_other_encoder(documents)


def test_codes_open_where_their_table_would_be_larger_than_the_file(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    build(vectors, [f"d{i}" for i in range(300)], factory="IVF64,PQ8np").save(tmp_path / "index")
    assert len(open_index(tmp_path / "index").search(vectors[:1], ["q"], k=1)) == 1
