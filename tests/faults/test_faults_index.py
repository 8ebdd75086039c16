"""What may happen to an index: kills, full disks, flipped bits, strangers' vectors and names.

O1_FAULTS=full runs the full counts (10,000 bit flips, 1,000 truncations, 100 kills).
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from o1_index import build, open_index
from o1_index.store.versions import open_version
from o1_records import InputError
from o1_records.vectors import Encoder, VectorWriter

pytest.importorskip("faiss")

FULL = os.environ.get("O1_FAULTS") == "full"
FLIPS, CUTS, KILLS = (10_000, 1_000, 100) if FULL else (600, 120, 5)
ENCODER = Encoder(model="m", digest="abc", layout="o1", pooling="emb", max_length=64, role="document")
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(300, 16)).astype(np.float32)
IDS = [f"d{i}" for i in range(300)]


@pytest.fixture
def artefacts(tmp_path):
    """A tuned IVF index of two versions, the second of which is the engine of the first and changes."""
    payloads = [{"place": place} for place in range(300)]
    index = build(VECTORS, IDS, factory="IVF4,Flat", encoder=ENCODER, payloads=payloads)
    index.save(tmp_path / "index")
    index.remove(IDS[:3])
    index.add(VECTORS[:1] + 1, ["beside"], [{"place": 300}])
    index.set_parameters("nprobe=4")
    index.save(tmp_path / "index", extras={"tuning.json": b"{}", "tuning.svg": b"<svg/>"})
    (tmp_path / "index" / "v000001" / "manifest.json").unlink()  # nobody reads that of an older version
    return tmp_path / "index"


def use(folder, mmap):
    """Everything that a user reads of an index."""
    index = open_index(folder, mmap=mmap)
    for name in ("tuning.json", "tuning.svg"):
        index.opened.version.file(name).read()
    found = index.search(VECTORS[:2], ["a", "b"], k=5, where="place >= 0")
    return list(found), index.fetch(["beside"]).vectors.tolist()


def test_f8_every_flipped_bit_of_every_artefact_is_detected(artefacts):
    choose = random.Random(1)
    files = sorted(path for path in artefacts.rglob("*") if path.is_file())
    names = [str(path.relative_to(artefacts)) for path in files]
    assert names == [
        "current.json",
        "v000001/ids.safetensors",
        "v000001/index.faiss",
        "v000001/payloads.safetensors",
        "v000002/changes.safetensors",
        "v000002/manifest.json",
        "v000002/tuning.json",
        "v000002/tuning.svg",
    ]
    whole = {path: path.read_bytes() for path in files}
    expected = use(artefacts, False)
    undetected = []
    for number in range(FLIPS):
        path = choose.choice(files)
        bit = choose.randrange(8 * len(whole[path]))
        changed = bytearray(whole[path])
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            use(artefacts, mmap=number % 2 == 0)
            undetected.append((path.name, bit))
        except InputError:
            pass
        path.write_bytes(whole[path])
    assert undetected == []
    assert use(artefacts, True) == expected


def test_f8_every_truncation_of_every_artefact_is_detected(artefacts):
    choose = random.Random(2)
    files = sorted(path for path in artefacts.rglob("*") if path.is_file())
    undetected = []
    for number in range(CUTS):
        path = choose.choice(files)
        whole = path.read_bytes()
        length = choose.randrange(len(whole))
        path.write_bytes(whole[:length])
        try:
            use(artefacts, mmap=number % 2 == 0)
            undetected.append((path.name, length))
        except InputError:
            pass
        path.write_bytes(whole)
    assert undetected == []


BUILD = """
import sys
from o1_index.store.checkpoint import Checkpoints
Checkpoints.__init__.__kwdefaults__.update(share=1e9, least=0.0)
from o1_index.__main__ import main
print("ready", flush=True)
sys.exit(main(["build", "--vectors", "vectors", "--out", "index", "--factory", "IVF16,Flat"]))
"""


def test_f1_a_build_killed_at_any_time_is_finished_by_running_it_again(tmp_path):
    writer = VectorWriter(tmp_path / "vectors", encoder=ENCODER)
    vectors = RANDOM.normal(size=(6000, 32)).astype(np.float32)
    for start in range(0, 6000, 200):
        writer.write([f"d{row}" for row in range(start, start + 200)], vectors[start : start + 200])
    writer.close()
    whole = build(vectors, [f"d{row}" for row in range(6000)], factory="IVF16,Flat")
    names = [f"q{i}" for i in range(20)]
    expected = [h.doc_id for h in whole.search(vectors[:20], names, k=5)]
    resumed = 0
    for kill in range(KILLS):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        shutil.rmtree(tmp_path / "index.partial", ignore_errors=True)
        for attempt in range(30):
            run = subprocess.Popen(
                [sys.executable, "-c", BUILD], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            run.stdout.readline()
            state = tmp_path / "index.partial" / "checkpoint" / "state.json"
            resumed += attempt > 0 and state.exists()
            try:
                _, said = run.communicate(timeout=0.05 + 0.03 * kill + 0.1 * 1.6**attempt)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                continue
            assert run.returncode == 0, said
            break
        index = open_index(tmp_path / "index")
        assert (len(index), set(index.documents)) == (6000, {f"d{row}" for row in range(6000)})
        assert [h.doc_id for h in index.search(vectors[:20], names, k=5)] == expected
        assert not (tmp_path / "index.partial").exists()
    assert resumed > 0


@pytest.mark.parametrize(
    ("kib", "added", "compact", "file"),
    [
        (0, 5, False, "lock"),
        (1, 5, False, "v000003.partial/manifest.json"),
        (1, 50, False, "v000003.partial/changes.safetensors"),
        (1, 5, True, "v000003.partial/index.faiss"),
        (20, 5, True, "v000003.partial/index.faiss"),
    ],
)
def test_f6_a_full_disk_leaves_the_old_version_and_names_the_file(artefacts, kib, added, compact, file):
    code = f"""
import resource, sys
import numpy as np
from o1_index import open_index
index = open_index(sys.argv[1])
index.add(np.ones(({added}, 16)), ["n%d" % n for n in range({added})])
if {compact}:
    index.compact()
resource.setrlimit(resource.RLIMIT_FSIZE, ({kib} * 1024, {kib} * 1024))
try:
    index.save(sys.argv[1])
except OSError as error:
    print(error.filename)
    sys.exit(4)
"""
    before = use(artefacts, False)
    done = subprocess.run([sys.executable, "-c", code, str(artefacts)], capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert done.stdout == f"{artefacts / file}\n"
    assert use(artefacts, False) == before
    assert open_version(artefacts).number == 2
    again = open_index(artefacts)
    again.add(np.ones((1, 16)), ["new"])
    again.save(artefacts)
    assert "new" in open_index(artefacts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes read-only folders")
def test_f6_a_read_only_folder_is_an_error(artefacts):
    index = open_index(artefacts)
    artefacts.chmod(0o500)
    with pytest.raises(PermissionError):
        index.save(artefacts)
    artefacts.chmod(0o700)
    assert use(artefacts, False)


def test_f9_f10_f11_bad_vectors_and_ids_are_never_indexed():
    index = build(VECTORS, IDS)
    bad = {"nan": np.nan, "inf": np.inf, "zero": 0.0}
    for name, value in bad.items():
        for change in (index.add, index.upsert):
            with pytest.raises(InputError, match=f"not finite.*{name}|zero.*{name}"):
                change(np.vstack([VECTORS[0] * value, VECTORS[1]]), [name, "good"])
        with pytest.raises(InputError, match=name):
            index.search(np.full((1, 16), value), [name], k=1)
    for ids in (["d1", "x"], ["x", "x"], ["x", 3], ["x", None], ["x", ""]):
        with pytest.raises(InputError):
            index.add(VECTORS[:2], ids)
    with pytest.raises(InputError, match="have 5 dimensions, the index has 16"):
        index.search(VECTORS[:1, :5], ["q"], k=1)
    with pytest.raises(InputError, match="are int64"):
        index.search(np.ones((1, 16), dtype=np.int64), ["q"], k=1)
    assert len(index) == 300
    index.add(VECTORS[:1], ["NaN"])
    assert "NaN" in index


def test_f13_names_inside_an_index_cannot_lead_out_of_it(artefacts, tmp_path):
    import hashlib

    secret = tmp_path / "outside"
    shutil.copytree(artefacts / "v000002", secret)
    path = artefacts / "current.json"
    pointer = json.loads(path.read_bytes())
    for name in ("../outside", str(secret), "v000002/../../outside"):
        forged = {**pointer, "name": name, "digest": ""}
        forged["digest"] = hashlib.sha256(json.dumps(forged, separators=(",", ":")).encode()).hexdigest()
        path.write_text(json.dumps(forged, indent=1) + "\n")
        with pytest.raises(InputError, match="damaged"):
            open_index(artefacts)


def test_a_killed_reader_and_a_running_one_do_not_stop_a_writer(artefacts):
    reader = subprocess.Popen(
        [sys.executable, "-c", f"""
import time
from o1_index import open_index
index = open_index({str(artefacts)!r}, mmap=True)
print("open", flush=True)
time.sleep(60)
"""],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    reader.stdout.readline()
    began = time.monotonic()
    writer = open_index(artefacts)
    writer.remove(["d5"])
    writer.save(artefacts)
    assert time.monotonic() - began < 30
    reader.kill()
    reader.communicate()
    assert len(open_index(artefacts)) == 297
