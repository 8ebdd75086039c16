"""Collections that are broken (F11, F12) and names that are tricks (F13): figures are in the asserts."""

import gzip
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.bright import load_bright
from o1_bench.datasets.cosqa import load_cosqa
from o1_bench.datasets.hub import inside
from o1_bench.datasets.msmarco import load_msmarco
from o1_bench.datasets.r2med import load_r2med
from o1_bench.datasets.suites import fetch, load, load_collection
from o1_records import InputError

FILES = {
    "beir": {
        "corpus.jsonl": '{"_id": "1", "text": "a"}\n{"_id": "2", "text": "b"}\n',
        "queries.jsonl": '{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}\n',
        "qrels/test.tsv": "q1\t1\t1\nq2\t2\t1\n",
    },
    "bright": {
        "documents/pony.jsonl": '{"id": "1", "content": "a"}\n{"id": "2", "content": "b"}\n',
        "examples/pony.jsonl": '{"id": "q1", "query": "a", "gold_ids": ["1"], "excluded_ids": ["N/A"]}\n'
        '{"id": "q2", "query": "b", "gold_ids": ["2"], "excluded_ids": ["N/A"]}\n',
    },
    "msmarco": {
        "collection.tsv": "1\ta\n2\tb\n",
        "queries.dev.small.tsv": "q1\ta\nq2\tb\n",
        "qrels.dev.small.tsv": "q1\t0\t1\t1\nq2\t0\t2\t1\n",
    },
    "r2med": {
        "corpus.jsonl": '{"id": "1", "text": "a"}\n{"id": "2", "text": "b"}\n',
        "query.jsonl": '{"id": "q1", "text": "a"}\n{"id": "q2", "text": "b"}\n',
        "qrels.jsonl": '{"q_id": "q1", "p_id": "1", "score": 1}\n{"q_id": "q2", "p_id": "2", "score": 1}\n',
    },
}
LOAD = {
    "beir": load_beir,
    "bright": lambda folder: load_bright(folder, "pony"),
    "msmarco": load_msmarco,
    "r2med": lambda folder: load_r2med(folder, "Biology"),
}
EVERY_FILE = [(kind, name) for kind, files in FILES.items() for name in files]
JSON_FILES = [(kind, name) for kind, name in EVERY_FILE if name.endswith(".jsonl")]


def write(folder, kind, changes=None):
    for name, text in {**FILES[kind], **(changes or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def refusal(folder, kind, changes):
    """The message of the refusal; None when the collection was taken."""
    try:
        LOAD[kind](write(folder, kind, changes))
    except InputError as error:
        return str(error)
    return None


def test_the_collections_are_taken_as_they_are(tmp_path):
    assert [len(LOAD[kind](write(tmp_path / kind, kind))) for kind in FILES] == [2, 2, 2, 2]


# F11: ids


def test_repeated_ids_are_refused_in_every_file(tmp_path):
    told = [
        refusal(tmp_path / str(n), kind, {name: FILES[kind][name].splitlines(keepends=True)[0] * 2 + line})
        for n, (kind, name) in enumerate(EVERY_FILE)
        for line in FILES[kind][name].splitlines(keepends=True)[1:]
    ]
    assert len(told) == 11
    assert [message for message in told if not re.search("duplicate|twice", str(message))] == []


@pytest.mark.parametrize("value", ["7", "1.5", "null", "NaN", "true", '""', '["1"]', "missing"])
def test_ids_that_are_no_text_are_refused_with_file_and_line(tmp_path, value):
    told = []
    for number, (kind, name) in enumerate(JSON_FILES):
        first, second = FILES[kind][name].splitlines()
        row = json.loads(second)
        key = next(iter(row))
        row[key] = "PUT"
        line = json.dumps(row).replace('"PUT"', value)
        if value == "missing":
            line = json.dumps({other: row[other] for other in row if other != key})
        message = refusal(tmp_path / str(number), kind, {name: f"{first}\n{line}\n"})
        told.append(message is not None and f"{name}:2: " in message)
    assert told == [True] * 7


@pytest.mark.extra
@pytest.mark.parametrize("ids", [[1, 2], [1.0, float("nan")], ["1", None], [b"1", b"\xff"]])
def test_parquet_ids_that_are_no_text_are_refused_with_their_row(tmp_path, ids):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path, "r2med")
    (tmp_path / "corpus.jsonl").unlink()
    pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), tmp_path / "corpus.parquet")
    with pytest.raises(InputError, match=r"corpus\.parquet: row [12]: Expected `str`"):
        load_r2med(tmp_path, "Biology")


def test_missing_documents_queries_and_judgements_are_refused(tmp_path):
    told = []
    for number, (kind, name) in enumerate(EVERY_FILE):
        cut = FILES[kind][name].splitlines(keepends=True)[0]
        told.append(refusal(tmp_path / f"cut{number}", kind, {name: cut}))
        told.append(refusal(tmp_path / f"empty{number}", kind, {name: ""}))
    taken = [message for message in told if message is None]
    # half of the qrels is a smaller collection that is whole: BEIR and MS MARCO keep the judged queries
    # and BRIGHT's examples are both; all else is refused
    assert (len(told), len(taken)) == (22, 3)


# F12: bytes

NESTED = b"[" * 200_000
BAD_LINES = {
    "not UTF-8": b"\xff\xfe\t\xff\t1",
    "UTF-16": '{"_id": "2"}'.encode("utf-16-le"),
    "NUL": b'{"_id": "2\x00", "id": "2\x00"}\t\x00\t1',
    "lone surrogate": b'{"_id": "\\ud800", "id": "\\ud800", "q_id": "\\ud800"}',
    "nested": b'{"_id": ' + NESTED,
    "nested in a field nobody reads": b'{"metadata": ' + NESTED,
    "cut": b'{"_id": "2", "id": "2',
}


@pytest.mark.parametrize("fault", BAD_LINES)
def test_lines_that_are_no_text_are_refused_with_file_and_line(tmp_path, fault):
    told = []
    for number, (kind, name) in enumerate(EVERY_FILE):
        first = FILES[kind][name].splitlines(keepends=True)[0].encode()
        message = refusal(tmp_path / str(number), kind, {name: first + BAD_LINES[fault] + b"\n"})
        assert message is not None
        told.append(f"{name}:2: " in message)
    assert told == [True] * 11


def test_a_byte_order_mark_is_refused_in_every_file(tmp_path):
    told = [
        refusal(tmp_path / str(n), kind, {name: b"\xef\xbb\xbf" + FILES[kind][name].encode()})
        for n, (kind, name) in enumerate(EVERY_FILE)
    ]
    assert [message is not None and "byte order mark" in message for message in told] == [True] * 11


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "collection.tsv", "collection.tsv.gz"])
def test_a_line_of_100_mb_is_refused_in_bounded_memory(tmp_path, name):
    kind = "beir" if "corpus" in name else "msmarco"
    write(tmp_path, kind)
    (tmp_path / name.removesuffix(".gz")).unlink()
    with gzip.open(tmp_path / name, "wb", 1) if name.endswith(".gz") else open(tmp_path / name, "wb") as file:
        for _ in range(100):
            file.write(b"a" * 2**20)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"{name}:1: the line is longer than"):
        LOAD[kind](tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_cut_gzip_file_is_refused(tmp_path, keep):
    write(tmp_path, "beir")
    whole = gzip.compress((tmp_path / "corpus.jsonl").read_bytes())
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl.gz").write_bytes(whole[:keep])
    with pytest.raises(InputError, match=r"compressed data is cut or damaged|not in the corpus"):
        load_beir(tmp_path)


@pytest.mark.extra
def test_a_parquet_file_cut_anywhere_is_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path, "r2med")
    (tmp_path / "corpus.jsonl").unlink()
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a", "b"]}), path)
    whole = path.read_bytes()
    refused = 0
    for size in range(0, len(whole), 16):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"corpus\.parquet"):
            load_r2med(tmp_path, "Biology")
        refused += 1
    assert refused == len(range(0, len(whole), 16)) > 20


def test_cosqas_files_are_refused_when_they_are_no_json_of_theirs(tmp_path):
    faults = [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{} {}",
        NESTED,
        b'{"a": NaN}',
        b'{"a": "1"}',
        b'{"\\ud800": 1}',
    ]
    for fault in faults:
        (tmp_path / "code_idx_map.txt").write_bytes(fault)
        with pytest.raises(InputError, match=r"code_idx_map\.txt: .*get it from"):
            load_cosqa(tmp_path)


# F13: names

TRICKS = [
    "../outside",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/../../outside",
    "link/inner",
    "\0",
    "~",
    "C:\\x",
    "x" * 5000,
]


def tree(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_names_lead_nowhere_and_nothing_is_written(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "corpus.jsonl").write_text(FILES["beir"]["corpus.jsonl"])
    (outside / "test.tsv").write_text(FILES["beir"]["qrels/test.tsv"])
    write(root / "tiny", "beir")
    (root / "link").symlink_to(outside)
    before, refused = tree(tmp_path), 0
    for trick in TRICKS:
        for attempt in (
            lambda name: load(name, root),
            lambda name: fetch(name, root),
            lambda name: load_beir(root / "tiny", name),
            lambda name: load_beir(root / "tiny", f"../../{name}/test"),
            lambda name: load_bright(root, name),
            lambda name: load_bright(root, "pony", reasoning=name or ".."),
            lambda name: load_r2med(root, name),
            lambda name: load_cosqa(root, name),
            lambda name: load_msmarco(root, name),
            lambda name: load_collection(root / "tiny", name),
        ):
            with pytest.raises(InputError):
                attempt(trick)
            refused += 1
    assert refused == 10 * len(TRICKS) == 110
    assert tree(tmp_path) == before


@pytest.mark.extra
def test_fetching_does_not_follow_symlinks_out_of_the_root(tmp_path):
    pytest.importorskip("huggingface_hub")
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / "R2MED" / "Biology").mkdir(parents=True)
    (root / "BRIGHT").symlink_to(outside)
    (root / "R2MED" / "Biology" / "corpus").symlink_to(outside)
    before, refused = tree(tmp_path), 0
    for name in ("bright/pony", "bright-gpt4/biology", "r2med/Biology"):
        with pytest.raises(InputError, match="leads out of"):
            fetch(name, root)
        refused += 1
    assert refused == 3
    assert tree(tmp_path) == before


def test_a_folder_inside_the_root_is_taken(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path, "link") == tmp_path / "link"
    with pytest.raises(InputError, match="leads out of"):
        inside(tmp_path, "../other")


def test_the_name_of_a_run_is_a_name_and_no_path(tmp_path):
    collection = write(tmp_path / "tiny", "beir")
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 1 1 2.0 x\n")
    tricks = ["../../outside", "/tmp/outside", "a/b", "..", "\n"]
    for number, trick in enumerate(tricks):
        before = set(tmp_path.rglob("*"))
        result = tmp_path / f"result{number}"
        command = ["score", "--qrels", collection, "--run", run, "--result", result, "--name", trick]
        done = subprocess.run(
            [sys.executable, "-m", "o1_bench", *command],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        new = {Path(path).relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
        assert new <= {result.name}, done.stderr
