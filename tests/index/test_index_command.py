"""The command, from folders of vectors to a TREC run."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from o1_index import exact_search, open_index
from o1_index.__main__ import main
from o1_index.fusion import search_from
from o1_records import Exclusion, InputError, trec, write_jsonl
from o1_records.kit.command import role_of
from o1_records.vectors import Encoder, VectorSet, VectorWriter

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
    assert "--out queries/../excluded.jsonl would overwrite the input of --excluded" in done.stderr
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


def test_python_searches_a_folder_of_vectors_without_the_command(folder):
    built(folder)
    owners = [f"owner{i % 8}" for i in range(20)]
    write(folder / "several", NAMES, QUERIES, owners=owners, encoder=QUERY_ENCODER)
    index = open_index(folder / "index")
    for name, fuse in (("queries", "max"), ("several", "max"), ("several", "mean")):
        assert run(folder, "search", index="index", vectors=name, out="run.txt", fuse=fuse).returncode == 0
        hits = list(search_from(index, VectorSet(folder / name), fuse=fuse))
        assert list(trec.read_run(folder / "run.txt")) == hits
    with pytest.raises(InputError, match="encoded as documents"):
        search_from(index, VectorSet(folder / "documents"))
    with pytest.raises(InputError, match="unknown fuse 'sum'; choose one of max, mean"):
        search_from(index, VectorSet(folder / "queries"), fuse="sum")


def test_a_second_build_has_nothing_to_do_and_another_one_is_refused(folder):
    built(folder)
    assert built(folder).stderr == "index: up to date\n"
    other = run(folder, "build", vectors="documents", out="index", factory="HNSW8")
    assert other.returncode == 4
    assert "index: the earlier work was made with factory 'Flat', this run has factory 'HNSW8';" in (
        other.stderr
    )
    assert "--new-job" in other.stderr


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
        ({"device": "tpu"}, 4, "unknown device 'tpu'"),
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
    assert "added" not in index
    assert next(iter(index.search(new[:1], ["q"], k=1))).doc_id == "d7"
    names = [path.name for path in sorted((folder / "index").iterdir())]
    assert names == ["current.json", "v000001", "v000003"]  # the engine is that of the first version
    done = run(folder, "compact", index="index")
    assert (done.returncode, done.stderr) == (
        0,
        "index: 300 documents, 2 removed rows are gone\n",
    )
    done = subprocess.run(
        [sys.executable, "-m", "o1_index", "compact", "--index", "index", "--prune"], cwd=folder
    )
    assert done.returncode == 0
    # nothing was left to take in or out, so the engine stays that of the version before
    names = [path.name for path in sorted((folder / "index").iterdir())]
    assert names == ["current.json", "v000004", "v000005"]
    assert list(open_index(folder / "index").search(new[:1], ["q"], k=9)) == list(
        index.search(new[:1], ["q"], k=9)
    )


# every option that names no file; `--queries` is a number in tune and a file in hybrid
PLAIN = {
    "build": "--factory --parameters --k --recall --memory-gib --metric --device --new-job",
    "tune": "--queries --k --recall",
    "shards": "--shards --only --processes --factory --parameters --k --recall --memory-gib --metric "
    "--new-job",
    "merge": "",
    "add": "--upsert --prune",
    "remove": "--prune",
    "compact": "--prune",
    "info": "",
    "export": "--to --metric --search --add --k --effort --new-job",
    "search": "--from --servers --timeout --effort --processes --k --mmap --device --where --fuse",
    "hybrid": "--k --mmap --device --split --lexical --fusion --weight --k1 --b",
    "fuse": "--fusion --weights --k",
    "serve": "--servers --timeout --host --port --threads --mmap --device",
    "serve-from": "--effort --host --port --threads",
}


def test_every_option_is_plain_or_says_that_its_file_is_read_or_written():
    [subparsers] = [action for action in main.parser()._actions if action.choices]
    assert set(subparsers.choices) == set(PLAIN)
    for name, command in subparsers.choices.items():
        options = [action for action in command._actions if action.option_strings]
        plain = {action.option_strings[-1] for action in options if role_of(action) is None}
        assert plain == {"--help", *PLAIN[name].split()}
        assert all(action.help for action in command._actions)


SEARCH = "search --index index --vectors queries"
HYBRID = "hybrid --index index --vectors queries --corpus beir --queries q"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("build --vectors documents --out documents", "--vectors"),
        ("build --vectors documents --out documents/index", "--vectors"),
        (f"{SEARCH} --out index/current.json", "--index"),
        (f"{SEARCH} --out index/run.txt", "--index"),
        (f"{SEARCH} --out queries/manifest.json", "--vectors"),
        (f"{SEARCH} --excluded e --out ./e", "--excluded"),
        (f"{HYBRID} --out beir/corpus.jsonl", "--corpus"),
        (f"{HYBRID} --out q", "--queries"),
        (f"{HYBRID} --out index/run.txt", "--index"),
        (f"{HYBRID} --thoughts t --out t", "--thoughts"),
        (f"{HYBRID} --qrels r --out r", "--qrels"),
        (f"{HYBRID} --excluded e --out e", "--excluded"),
        ("add --index index --vectors index", "--vectors"),
        ("remove --index index --ids index", "--ids"),
        ("tune --index index --documents index --vectors queries", "--documents"),
        ("tune --index index --documents documents --vectors index", "--vectors"),
    ],
)
def test_an_output_that_is_an_input_is_refused(folder, words, option):
    built(folder)
    (folder / "beir").mkdir()
    for name in ("e", "q", "t", "r", "beir/corpus.jsonl"):
        (folder / name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", "o1_index", *words.split()], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 4
    assert f"would overwrite the input of {option}, " in done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_ids_to_remove_are_counted_once_and_an_empty_file_is_refused(folder):
    built(folder)
    (folder / "gone.txt").write_text("d1\nd2\r\n\nd1\n")
    done = run(folder, "remove", index="index", ids="gone.txt")
    assert (done.returncode, done.stderr) == (0, "index: 2 removed, 298 documents left\n")
    (folder / "gone.txt").write_text("\n")
    done = run(folder, "remove", index="index", ids="gone.txt")
    assert done.returncode == 4
    assert "gone.txt: holds no ids" in done.stderr
