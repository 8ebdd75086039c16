"""F2 and F12: files that were cut, and text that is none. Memory stays bounded."""

import contextlib
import os
import random
import subprocess
import sys

import pytest

from o1_records import InputError, Query, read_jsonl, write_jsonl

FULL = os.environ.get("O1_FAULTS") == "full"
MIB = 2**20
LINE = b'{"query_id":"q1","text":"fine","instruction":""}\n'
# not ru_maxrss: a process is born with that of its parent
READ = """
import sys
from o1_records import InputError, Query, read_jsonl


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


before = peak()
try:
    for _ in read_jsonl(sys.argv[1], Query):
        pass
    said = "read"
except InputError as error:
    said = str(error)
print(peak() - before)
print(said)
"""


def read_in_a_process(path):
    """(what was said, KiB of memory that reading took)."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    memory, said = done.stdout.split("\n", 1)
    return said.strip(), int(memory)


def test_f2_a_file_cut_at_every_byte_of_its_last_4_kb_is_read_up_to_the_cut(tmp_path):
    path = tmp_path / "q.jsonl"
    queries = [Query(query_id=f"q{n}", text=f"text {n} é") for n in range(90)]
    write_jsonl(path, queries)
    whole = path.read_bytes()
    for length in range(len(whole) - 4096, len(whole)):
        path.write_bytes(whole[:length])
        read, complaint = [], ""
        try:
            read.extend(read_jsonl(path, Query))
        except InputError as error:
            complaint = str(error)
        lines, rest = whole[:length].count(b"\n"), whole[:length].rpartition(b"\n")[2]
        complete = rest.endswith(b"}")
        assert read == queries[: lines + complete]
        if rest and not complete:
            assert complaint.startswith(f"{path}:{lines + 1}: ")


@pytest.mark.parametrize(
    ("name", "pieces", "complaint"),
    [
        ("a long line", [b'{"query_id":"q2","text":"', b"x" * (100 * MIB), b'"}\n'], "longer than 67108864"),
        ("nested brackets", [b"[" * MIB] * (1000 if FULL else 80), "longer than 67108864 bytes"),
        ("brackets in a line", [b'{"query_id":"q2","text":', b"[" * (60 * MIB), b"\n"], "Expected `str`"),
        ("nested objects", [b'{"query_id":' * (4 * MIB), b"\n"], "Expected `str`"),
        ("zeros", [b"\0" * MIB] * 40, "NUL byte at byte 0"),
        ("a NUL byte", [b'{"query_id":"q2","text":"a\0b"}\n'], "NUL byte at byte 26"),
        ("a lone surrogate", [b'{"query_id":"q2","text":"\\ud800"}\n'], "surrogate"),
        ("an encoded surrogate", [b'{"query_id":"q2","text":"\xed\xa0\x80"}\n'], "utf-8"),
        ("Latin 1", ['{"query_id":"q2","text":"café"}\n'.encode("latin-1")], "utf-8"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value and len(value) < 25 else "",
)
def test_f12_what_is_no_record_is_a_clear_error_in_bounded_memory(tmp_path, name, pieces, complaint):
    path = tmp_path / "q.jsonl"
    with open(path, "wb") as file:
        file.write(LINE)
        for piece in pieces:
            file.write(piece)
    said, memory = read_in_a_process(path)
    assert said.startswith(f"{path}:2: "), said
    assert complaint.lower() in said.lower()
    assert len(said) < 1000
    assert memory < 300 * 1024
    path.unlink()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_f12_a_byte_order_mark_is_named(tmp_path, encoding):
    path = tmp_path / "q.jsonl"
    path.write_bytes(LINE.decode().encode(encoding))
    with pytest.raises(InputError, match=r":1: (starts with a byte order mark|a NUL byte)"):
        list(read_jsonl(path, Query))


def test_f12_a_compressed_bomb_does_not_fill_the_memory(tmp_path):
    import gzip

    path = tmp_path / "q.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(LINE)
        for _ in range(1000 if FULL else 200):
            file.write(b"x" * MIB)
    assert path.stat().st_size < 10 * MIB
    said, memory = read_in_a_process(path)
    assert said.startswith(f"{path}:2: ") and "longer than 67108864 bytes" in said
    assert memory < 300 * 1024


def test_random_damage_is_an_error_or_another_valid_file_never_a_crash(tmp_path):
    path = tmp_path / "q.jsonl"
    write_jsonl(path, [Query(query_id=f"q{n}", text="é" * n) for n in range(30)])
    whole = path.read_bytes()
    choose = random.Random(0)
    for _ in range(10_000 if FULL else 1_000):
        damaged = bytearray(whole)
        for _ in range(choose.randrange(1, 4)):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert all(isinstance(query, Query) for query in read_jsonl(path, Query))


def test_f6_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    code = """
import resource, sys
from o1_records.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main(sys.argv[1:]))
"""
    write_jsonl(tmp_path / "q.jsonl", [Query(query_id=f"q{n}", text="x" * 100) for n in range(200)])
    for name in ("out.jsonl", "out.jsonl.gz"):
        arguments = ["convert", "--type", "query", str(tmp_path / "q.jsonl"), str(tmp_path / name)]
        if name.endswith("gz"):
            write_jsonl(
                tmp_path / "q.jsonl", [Query(query_id=f"q{n}", text=os.urandom(60).hex()) for n in range(200)]
            )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 4, done.stderr
        assert done.stderr.endswith(f"error: {tmp_path / name}: File too large\n")
        assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
