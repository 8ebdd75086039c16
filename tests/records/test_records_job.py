"""The work of a long command on disk: one holder, one policy for earlier work, nothing deleted."""

import contextlib
import re
import subprocess
import sys
import threading

import pytest

from o1_records import InputError
from o1_records.kit.job import (
    ChangedJobError,
    Database,
    Job,
    Lock,
    holder,
    job_folder,
    move_aside,
    refuse_changed,
)

SCHEMA = "CREATE TABLE IF NOT EXISTS answer (query_id TEXT PRIMARY KEY, text TEXT);"
HOLD = """
import sys
from o1_records.kit.job import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def begun(out, made_from=None, answers=("a",), **options):
    job = Job(out, made_from or {"model": "m", "seed": "0"}, schema=SCHEMA, **options)
    with job, job.db.transaction():
        job.db.execute_many("INSERT OR IGNORE INTO answer VALUES (?, 'text')", [(a,) for a in answers])
    return job


def answers(out, made_from=None):
    with Job(out, made_from or {"model": "m", "seed": "0"}, schema=SCHEMA) as job:
        return [query_id for (query_id,) in job.db.rows("SELECT query_id FROM answer")]


# --- lock ---------------------------------------------------------------------------------------------


def test_a_second_holder_is_refused_in_the_same_process_and_named(tmp_path):
    with Lock(tmp_path / "lock"):
        with pytest.raises(InputError, match=r"process \d+ on .* is at work there; wait for it"):
            Lock(tmp_path / "lock")
        assert holder(tmp_path / "lock").startswith("process ")
    assert holder(tmp_path / "lock") == ""
    Lock(tmp_path / "lock").close()


def test_closing_another_handle_of_the_file_does_not_release_it(tmp_path):
    with Lock(tmp_path / "lock") as lock:
        for _ in range(2):
            with contextlib.suppress(InputError):
                Lock(lock.path)
            lock.path.open("a").close()
            lock.path.read_text()
        done = subprocess.run([sys.executable, "-c", HOLD, lock.path], capture_output=True, text=True)
        assert "is at work there" in done.stderr


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path):
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {other.pid} on"):
            Lock(path)
        other.kill()
        other.wait()
        Lock(path).close()


def test_a_full_disk_leaves_no_lock_behind(tmp_path):
    code = """
import resource, sys
from o1_records.kit.job import Lock
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    Lock(sys.argv[1])
except OSError as error:
    kept = error  # and with it every object that its frames refer to
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(kept.errno, Lock(sys.argv[1]).path.read_text())
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], capture_output=True, text=True)
    assert re.fullmatch(r"27 process \d+ on .*\n", done.stdout), done.stderr


def test_holders_that_remove_the_lock_when_they_are_done_never_meet(tmp_path):
    inside, most, errors = [], [], []

    def hold():
        for _ in range(300):
            try:
                lock = Lock(tmp_path / "lock")
            except InputError:
                continue
            except OSError as error:
                errors.append(repr(error))
                continue
            inside.append(lock)
            most.append(len(inside))
            inside.remove(lock)
            lock.path.unlink()
            lock.close()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert errors == []
    assert set(most) == {1}


# --- SQLite -------------------------------------------------------------------------------------------


def test_an_error_names_the_file_and_the_remedy(tmp_path):
    path = tmp_path / "words.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: file is not a database; remove it$"):
        Database(path, remedy="remove it")


def insert_and_fail(db, error):
    with db.transaction():
        db.execute("INSERT INTO answer VALUES ('a', 'b')")
        raise error


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing_and_lets_the_next_one_begin(error):
    with Database(":memory:", SCHEMA) as db:
        with pytest.raises(error):
            insert_and_fail(db, error)
        assert list(db.rows("SELECT * FROM answer")) == []
        with db.transaction():
            db.execute("INSERT INTO answer VALUES ('c', 'd')")
        assert list(db.rows("SELECT * FROM answer")) == [("c", "d")]


def test_a_reader_sees_what_a_writer_committed_and_cannot_write(tmp_path):
    with Database(tmp_path / "x.sqlite", SCHEMA) as writer:
        writer.execute("INSERT INTO answer VALUES ('a', 'b')")
        with Database.read_only(tmp_path / "x.sqlite") as reader:
            assert reader.row("SELECT text FROM answer") == ("b",)
            with pytest.raises(InputError, match="readonly"):
                reader.execute("DELETE FROM answer")


def test_who_does_not_use_it_does_not_import_sqlite_or_filelock():
    code = "import sys, o1_records; print({'sqlite3', 'filelock', 'argparse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- the policy ---------------------------------------------------------------------------------------


def test_the_same_job_is_continued(tmp_path):
    begun(tmp_path / "out", answers=("a",))
    begun(tmp_path / "out", answers=("b",))
    assert answers(tmp_path / "out") == ["a", "b"]


def test_other_settings_are_refused_and_every_difference_is_named(tmp_path):
    begun(tmp_path / "out")
    expected = (
        "the earlier work was made with model 'm', seed '0', top_p not given, this run has model 'n', "
        "seed not given, top_p '1'; choose another name, or give --new-job"
    )
    with pytest.raises(ChangedJobError, match=re.escape(expected)):
        begun(tmp_path / "out", {"model": "n", "top_p": "1"})
    assert answers(tmp_path / "out") == ["a"]


def test_a_remedy_of_its_own_takes_the_place_of_a_new_job():
    with pytest.raises(ChangedJobError, match=r"'a': .*text 'x', this run has text 'y'; leave it out$"):
        refuse_changed("query 'a'", {"text": "x", "id": "a"}, {"text": "y", "id": "a"}, remedy="leave it out")


def test_a_new_job_moves_work_and_outputs_aside_and_deletes_nothing(tmp_path):
    out, sidecar = tmp_path / "out", tmp_path / "out.txt"
    for number in range(3):
        with Job(out, {"n": str(number)}, schema=SCHEMA, outputs=[out, sidecar], new_job=True) as job:
            job.db.execute("INSERT INTO answer VALUES (?, '')", str(number))
            out.write_text(f"out {number}")
            sidecar.write_text(f"sidecar {number}")
            job.finish()
    for suffix, number in ((".old1", 0), (".old2", 1), ("", 2)):
        assert (tmp_path / f"out{suffix}").read_text() == f"out {number}"
        assert (tmp_path / f"out.txt{suffix}").read_text() == f"sidecar {number}"
        with Database.read_only(tmp_path / f"out.job{suffix}" / "journal.sqlite") as db:
            assert db.row("SELECT query_id FROM answer") == (str(number),)


def test_a_new_job_moves_outputs_that_only_the_earlier_one_named(tmp_path):
    out, sidecar = tmp_path / "out", tmp_path / "out.txt"
    begun(out, outputs=[out, sidecar])
    out.write_text("out")
    sidecar.write_text("sidecar")
    job = begun(out, {"model": "other"}, new_job=True)
    assert (tmp_path / "out.txt.old1").read_text() == "sidecar"
    assert not sidecar.exists()
    assert sorted(path.name for path in job.moved) == ["out.job.old1", "out.old1", "out.txt.old1"]


def test_a_new_job_leaves_what_it_reads_where_it_is(tmp_path):
    out, sidecar = tmp_path / "out", tmp_path / "out.txt"
    begun(out, outputs=[out, sidecar])
    out.write_text("out")
    sidecar.write_text("sidecar")
    job = begun(out, {"model": "other"}, reading=[tmp_path / "." / "out.txt"], new_job=True)
    assert sidecar.read_text() == "sidecar"
    assert sorted(path.name for path in job.moved) == ["out.job.old1", "out.old1"]


def test_an_output_that_no_job_wrote_is_not_overwritten(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ChangedJobError, match="no job beside it says what it was made from"):
        begun(tmp_path / "out")
    assert not job_folder(tmp_path / "out").exists()
    begun(tmp_path / "out", new_job=True)
    assert (tmp_path / "out.old1").read_text() == "precious"


def test_an_output_that_is_named_later_is_not_overwritten_unless_the_job_wrote_it(tmp_path):
    out, extra = tmp_path / "out", tmp_path / "extra"
    begun(out)
    extra.write_text("precious")
    with pytest.raises(ChangedJobError, match="extra: exists, and no job beside it says"):
        begun(out, outputs=[out, extra])
    assert extra.read_text() == "precious"
    assert answers(out) == ["a"]
    extra.unlink()
    begun(out, outputs=[out, extra])
    extra.write_text("published, and killed before it was noted")
    begun(out, outputs=[out, extra])


def test_a_job_is_finished_from_whatever_directory_it_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    for folder, out in ((tmp_path, "below/out"), (tmp_path / "below", "out"), (tmp_path / "below", "./out")):
        monkeypatch.chdir(folder)
        with Job(out, {}, schema=SCHEMA) as job:
            assert job.finished == (folder != tmp_path)
            (tmp_path / "below" / "out").write_text("1")
            job.finish()


def test_a_job_without_work_leaves_nothing_and_stops_nobody(tmp_path):
    with (
        contextlib.suppress(KeyError),
        Job(tmp_path / "out", {"a": "1"}, schema=SCHEMA + "CREATE TABLE copy (x);", inputs=["copy"]) as job,
    ):
        job.db.execute("INSERT INTO copy VALUES (1)")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    job = Job(tmp_path / "out", {"a": "1"}, schema=SCHEMA)
    job._stack.close()  # as kill -9 leaves it
    begun(tmp_path / "out", {"a": "2"})
    assert answers(tmp_path / "out", {"a": "2"}) == ["a"]


def test_a_file_that_a_command_put_beside_the_journal_is_work(tmp_path):
    with Job(tmp_path / "out", {"a": "1"}, schema=SCHEMA) as job:
        (job.folder / "vectors").write_text("x")
    with pytest.raises(ChangedJobError):
        begun(tmp_path / "out", {"a": "2"})


def test_it_is_finished_only_while_all_outputs_are_as_they_were_left(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    with Job(out, {}, schema=SCHEMA, outputs=[out, other]) as job:
        assert not job.finished
        out.write_text("1")
        other.write_text("2")
        job.finish()
        assert job.finished
    for path, change in ((out, "3"), (other, None)):
        with Job(out, {}, schema=SCHEMA, outputs=[out, other]) as job:
            path.unlink() if change is None else path.write_text(change)
            assert not job.finished
            out.write_text("1")
            other.write_text("2")


def test_two_processes_cannot_work_on_one_job(tmp_path):
    with (
        Job(tmp_path / "out", {"a": "1"}, schema=SCHEMA),
        pytest.raises(InputError, match="is at work there"),
    ):
        begun(tmp_path / "out", {"a": "1"})


def test_moving_aside_takes_one_number_for_all(tmp_path):
    for name in ("a", "b", "b.old1"):
        (tmp_path / name).write_text(name)
    moved = move_aside(tmp_path / "a", tmp_path / "b", tmp_path / "absent")
    assert [path.name for path in moved] == ["a.old2", "b.old2"]
