"""What may happen to an election and to mining: kills, full disks, bad ids and bad bytes.

O1_FAULTS=full runs the full counts (100 kills each, every file size at which the disk is full).
"""

import json
import os
import random
import resource
import subprocess
import sys
import time

import pytest

from o1_records import Ballot, Document, Example, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_vote.election.nominate import Reason

FULL = os.environ.get("O1_FAULTS") == "full"
KILLS = 100 if FULL else 4
SIZES = range(0, 2000, 20) if FULL else (0, 64, 300, 4000)
QUERIES = 600
WORDS = [f"word{i}" for i in range(200)]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def make_input(folder, queries, seed=0):
    choose = random.Random(seed)

    def text(count):
        return " ".join(choose.choices(WORDS, k=count))

    source = Source(model="test")
    documents = [Document(doc_id=f"d{i}", text=text(30)) for i in range(300)]
    asked = [Query(query_id=f"q{i}", text=text(5)) for i in range(queries)]
    # one query in fifty has no positive: it must end in the reasons
    qrels = [
        Qrel(query_id=q.query_id, doc_id=f"d{i % 300}", relevance=1) for i, q in enumerate(asked) if i % 50
    ]
    thoughts = [
        Thought(query_id=q.query_id, thought_id=f"t{i}", text=text(12), source=source)
        for q in asked
        for i in range(3)
    ]
    choose.shuffle(thoughts)
    write_jsonl(folder / "corpus.jsonl", documents)
    write_jsonl(folder / "queries.jsonl", asked)
    write_jsonl(folder / "qrels.jsonl", qrels)
    write_jsonl(folder / "thoughts.jsonl", thoughts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vote")
    make_input(folder, QUERIES)
    return folder


FILES = ["--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--qrels", "qrels.jsonl"]


def elect(out, *extra):
    members = ["--member", "one=bm25", "--member", "two=bm25"]
    outputs = [
        "--out",
        f"{out}.jsonl",
        "--ballots",
        f"{out}.ballots.jsonl",
        "--reasons",
        f"{out}.reasons.jsonl",
    ]
    return ["elect", *FILES, "--thoughts", "thoughts.jsonl", *members, *outputs, *extra]


def mine(out, *extra):
    outputs = ["--out", f"{out}.jsonl", "--reasons", f"{out}.reasons.jsonl"]
    return ["mine", *FILES, "--member", "bm25", "--relative", "1", "--seed", "3", *outputs, *extra]


def command(words):
    return [sys.executable, "-m", "o1_vote", *words]


def run(folder, words, **options):
    return subprocess.run(command(words), cwd=folder, capture_output=True, text=True, **options)


def outputs(folder, out):
    return {path.name[len(out) :]: path.read_bytes() for path in folder.glob(f"{out}.*jsonl")}


@pytest.fixture(scope="module", params=[elect, mine], ids=["elect", "mine"])
def whole(request, folder):
    """What an undisturbed run writes, and how long it takes."""
    began = time.monotonic()
    done = run(folder, request.param(f"whole-{request.param.__name__}"))
    assert done.returncode == 0, done.stderr
    return request.param, outputs(folder, f"whole-{request.param.__name__}"), time.monotonic() - began


def test_every_query_ends_in_the_output_or_in_the_reasons(folder, whole):
    make, files, _ = whole
    examples = list(read_jsonl(folder / f"whole-{make.__name__}.jsonl", Example))
    reasons = list(read_jsonl(folder / f"whole-{make.__name__}.reasons.jsonl", Reason))
    ended = [*(e.query.query_id for e in examples), *(r.query_id for r in reasons)]
    assert sorted(ended) == sorted(f"q{i}" for i in range(QUERIES))
    assert len(reasons) >= QUERIES // 50
    if make is elect:
        ballots = list(read_jsonl(folder / "whole-elect.ballots.jsonl", Ballot))
        assert len(ballots) == 2 * 4 * (QUERIES - QUERIES // 50)
    assert files


def test_f1_a_run_killed_at_any_time_is_finished_by_running_it_again(folder, whole):
    make, expected, seconds = whole
    choose = random.Random(1)
    resumed = 0
    for kill in range(KILLS):
        out = f"{make.__name__}-killed-{kill}"
        while True:
            process = subprocess.Popen(
                command(make(out)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            try:
                process.communicate(timeout=choose.uniform(0.3, 1.0) * max(seconds, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                resumed += (folder / f"{out}.jsonl.job" / "journal.sqlite").exists()
                continue
            break
        assert process.returncode == 0
        assert outputs(folder, out) == expected
        job = folder / f"{out}.jsonl.job"
        assert sorted(path.name for path in job.iterdir()) == ["journal.sqlite", "lock"]
        assert run(folder, make(out)).stderr == f"{out}.jsonl: up to date\n"
    assert resumed > 0


def test_f1_what_was_measured_before_a_kill_is_not_measured_again(folder):
    """The second half of the run is done by a member that knows what is left only."""
    code = """
import os, signal, sys
import importlib
from o1_vote.__main__ import main
elect = importlib.import_module("o1_vote.election.elect")
real, seen = elect.cast, []
def cast(block, member, **options):
    seen.extend(n.query.query_id for n in block)
    print(*(n.query.query_id for n in block), flush=True)
    if os.environ["KILL"] and len(seen) > 600:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(block, member, **options)
elect.cast = cast
sys.exit(main(sys.argv[1:]))
"""
    counts = {}
    for kill in ("yes", ""):
        done = subprocess.run(
            [sys.executable, "-c", code, *elect("half")],
            cwd=folder, capture_output=True, text=True, env={**os.environ, "KILL": kill},
        )  # fmt: skip
        for name in done.stdout.split():
            counts[name] = counts.get(name, 0) + 1
    assert done.returncode == 0, done.stderr
    judged = QUERIES - QUERIES // 50
    assert len(counts) == judged
    # two members see each query once; only the block in flight is seen again
    assert sum(counts.values()) - 2 * judged <= 256


def test_f6_a_full_disk_leaves_what_was_there_and_the_next_run_completes(folder, whole):
    make, expected, _ = whole
    failures = 0
    for kib in SIZES:
        out = f"{make.__name__}-full-{kib}"

        def limit(kib=kib):
            resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))

        done = run(folder, make(out), preexec_fn=limit)
        if done.returncode:
            failures += 1
            assert done.returncode == 4, done.stderr
            assert "Traceback" not in done.stderr
            for name, content in outputs(folder, out).items():
                assert content == expected[name]
            assert run(folder, make(out)).returncode == 0
        assert outputs(folder, out) == expected
    assert failures >= 2


def test_f7_a_second_process_on_the_same_job_is_refused(folder):
    code = """
import sys, time
from o1_records.kit.job import Job
with Job("held.jsonl", {"a": "b"}):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    done = run(folder, elect("held"))
    holder.kill()
    holder.communicate()
    assert done.returncode == 4
    assert f"process {holder.pid}" in done.stderr


def test_f8_a_damaged_journal_is_an_error_and_not_a_result(folder):
    job = folder / "damaged.jsonl.job"
    job.mkdir()
    (job / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    done = run(folder, elect("damaged"))
    assert done.returncode == 4
    assert "journal.sqlite" in done.stderr
    assert "if the file is damaged, remove it" in done.stderr


GOOD = {"query_id": "q0", "thought_id": "t9", "text": "x", "source": {"model": "m"}}
BAD_LINES = {
    "a repeated id": {**GOOD, "thought_id": "t0"},
    "no id": {name: value for name, value in GOOD.items() if name != "thought_id"},
    "a whole number": {**GOOD, "thought_id": 7},
    "an empty id": {**GOOD, "thought_id": ""},
    "another's query": {**GOOD, "query_id": "q-none"},
    "blank": {**GOOD, "text": " \n"},
}
BAD_BYTES = {
    "not UTF-8": b'{"query_id": "q0", "thought_id": "\xff"}',
    "a lone surrogate": b'{"query_id": "q0", "thought_id": "t9", "text": "\\ud800"}',
    "deep nesting": b"[" * 100_000,
    "half a line": b'{"query_id": "q0", "thou',
    "twice the same field": b'{"query_id": "q0", "query_id": "q1", "thought_id": "t9", "text": "x"}',
    "a NUL byte": b'{"query_id": "q0"}\0',
}


@pytest.mark.parametrize("line", [*BAD_LINES, *BAD_BYTES])
def test_f11_f12_bad_ids_and_bytes_end_in_one_sentence_and_change_nothing(tmp_path, line):
    make_input(tmp_path, 20)
    bad = BAD_BYTES[line] if line in BAD_BYTES else json.dumps(BAD_LINES[line]).encode()
    with open(tmp_path / "thoughts.jsonl", "ab") as file:
        file.write(bad + b"\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = run(tmp_path, elect("bad"))
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "thoughts.jsonl:61" in last or "q-none" in last
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_f11_the_id_nan_is_an_id(tmp_path):
    make_input(tmp_path, 20)
    extra = Query(query_id="NaN", text="word1")
    write_jsonl(tmp_path / "queries.jsonl", [*read_jsonl(tmp_path / "queries.jsonl", Query), extra])
    qrels = [*read_jsonl(tmp_path / "qrels.jsonl", Qrel), Qrel(query_id="NaN", doc_id="d1", relevance=1)]
    write_jsonl(tmp_path / "qrels.jsonl", qrels)
    assert run(tmp_path, elect("nan")).returncode == 0
    assert "NaN" in {e.query.query_id for e in read_jsonl(tmp_path / "nan.jsonl", Example)}


def test_memory_does_not_grow_with_the_queries(tmp_path):
    # not ru_maxrss: a process is born with that of its parent
    code = """
import sys
from o1_vote.__main__ import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) // 1024)
sys.exit(code)
"""
    peaks = []
    counts = (5_000, 100_000) if FULL else (300, 4_000)
    for queries in counts:
        folder = tmp_path / str(queries)
        folder.mkdir()
        make_input(folder, queries)
        with open(folder / "thoughts.jsonl", "rb") as file:
            size = len(file.read()) / 2**20
        done = subprocess.run(
            [sys.executable, "-c", code, *elect("out")],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    # as Python objects the thoughts alone would take several times their bytes
    assert peaks[1] - peaks[0] < max(8, size), (peaks, size)
