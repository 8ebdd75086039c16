"""A job survives its process: killed, restarted, with other queries, another model, a rival."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from o1_records import InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth import ChatExpert, Prompt, Sampling, think
from o1_synth.expert import Reason, sample_seed
from o1_synth.job.draw import Failure, failed_outcome, thought_outcome
from o1_synth.job.journal import Journal


def queries(count, word="work"):
    return [Query(query_id=f"q{n}", text=f"how does number {n} {word}") for n in range(count)]


def command(server, folder, model="echo", *options):
    return [
        *(sys.executable, "-m", "o1_synth", "think", "--base-url", server.base_url),
        *("--model", model, "--queries", str(folder / "queries.jsonl")),
        *("--out", str(folder / "t.jsonl"), "--samples", "3", "--concurrency", "16", *options),
    ]


def run(*args):
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=60, check=False)


def start(*args):
    return subprocess.Popen(command(*args), stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def committed(folder):
    """The (query_id, sample) pairs in the journal, read as another program would."""
    path = folder / "t.jsonl.job" / "journal.sqlite"
    database = sqlite3.connect(path)
    try:
        return set(database.execute("SELECT key, sample FROM outcome WHERE reason = ''"))
    finally:
        database.close()


def test_kill_9_loses_nothing_repeats_nothing_and_mixes_nothing(serve, tmp_path):
    server = serve(delay=(0.005, 0.03))
    asked = queries(130)
    write_jsonl(tmp_path / "queries.jsonl", asked)
    rng = random.Random(7)
    for goal in (60, 250):
        process = start(server, tmp_path)
        known = committed(tmp_path) if goal > 60 else set()
        wait_for(lambda goal=goal: sum(server.answered.values()) >= goal + rng.randrange(20))
        wait_for(lambda known=known: committed(tmp_path) > known)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert not (tmp_path / "t.jsonl").exists()
        kept = committed(tmp_path)
        assert kept
        before = dict(server.asked)
    finished = run(server, tmp_path)
    assert finished.returncode == 0, finished.stderr
    thoughts = list(read_jsonl(tmp_path / "t.jsonl", Thought))
    keys = [(t.query_id, t.thought_id) for t in thoughts]
    assert keys == sorted((q.query_id, f"{q.query_id}#{s}") for q in asked for s in range(3))
    text_of = {q.query_id: q.text for q in asked}
    for thought in thoughts:
        sample = int(thought.thought_id.split("#")[1])
        seed = sample_seed(0, thought.query_id, sample)
        assert thought.text == f"a thought about {text_of[thought.query_id]} with seed {seed}"
    for query_id, sample in kept:
        request = (text_of[query_id], sample_seed(0, query_id, sample))
        assert server.asked[request] == before[request], "a finished sample was asked for again"


def test_ctrl_c_finishes_what_is_in_flight_and_says_how_to_resume(serve, tmp_path):
    server = serve(delay=(0.005, 0.03))
    write_jsonl(tmp_path / "queries.jsonl", queries(60))
    process = start(server, tmp_path)
    wait_for(lambda: sum(server.answered.values()) >= 60)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "Traceback" not in told
    assert not (tmp_path / "t.jsonl").exists()
    assert len(committed(tmp_path)) == sum(server.answered.values()) == sum(server.asked.values())
    resume = told.splitlines()[-1].strip()
    assert resume.startswith("o1-synth think --base-url")
    module = [sys.executable, "-m", "o1_synth", *shlex.split(resume)[1:]]
    finished = subprocess.run(module, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert len(list(read_jsonl(tmp_path / "t.jsonl", Thought))) == 180
    assert sum(server.asked.values()) == 180


def test_a_second_ctrl_c_leaves_what_is_in_flight(serve, tmp_path):
    server = serve(lambda text, attempt: "stall" if "number 7 " in text else "")
    write_jsonl(tmp_path / "queries.jsonl", queries(10))
    process = start(server, tmp_path)
    wait_for(lambda: sum(server.answered.values()) == 27 and len(committed(tmp_path)) == 27)
    process.send_signal(signal.SIGINT)
    assert "finishing what is in flight" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "run the same command again to resume" in told
    assert len(committed(tmp_path)) == 27


def test_another_model_behind_the_same_address_stops_and_names_both(serve, tmp_path):
    server = serve(models=[{"id": "echo", "root": "llama-8b"}])
    write_jsonl(tmp_path / "queries.jsonl", queries(4))
    out = tmp_path / "t.jsonl"
    think(queries(4), ChatExpert(server.base_url, "echo"), out=out)
    thoughts = out.read_bytes()

    server.models = [{"id": "other"}]
    gone = run(server, tmp_path)
    assert gone.returncode == 4
    assert "'echo'" in gone.stderr and "other" in gone.stderr

    with pytest.raises(InputError, match=r"made with model 'echo', .*this run has model 'other'"):
        think(queries(4), ChatExpert(server.base_url, "other"), out=out)

    server.models = [{"id": "echo", "root": "llama-70b"}]  # the same name for other weights
    with pytest.raises(InputError, match=r"revision 'llama-8b', this run has revision 'llama-70b'"):
        think(queries(4), ChatExpert(server.base_url, "echo"), out=out)
    assert out.read_bytes() == thoughts


def test_a_model_withdrawn_from_many_workers_at_once_is_still_one_sentence(serve, tmp_path):
    server = serve(delay=(0.05, 0.05))
    write_jsonl(tmp_path / "queries.jsonl", queries(40))
    process = start(server, tmp_path)
    wait_for(lambda: sum(server.answered.values()) >= 16)
    server.models = [{"id": "other"}]
    _, told = process.communicate(timeout=20)
    assert process.returncode == 4
    assert told.count("failed alike: http_status: 404: 'no such model'") == 1
    assert "Traceback" not in told and "never retrieved" not in told
    answered = sum(server.answered.values())
    assert answered - 16 <= len(committed(tmp_path)) <= answered


def test_another_prompt_or_sampling_stops_the_job(serve, tmp_path):
    server = serve()
    out = tmp_path / "t.jsonl"
    think(queries(2), ChatExpert(server.base_url, "echo"), out=out)
    hotter = ChatExpert(server.base_url, "echo", sampling=Sampling(temperature=1.5))
    with pytest.raises(
        InputError, match=r"made with temperature '0.8', this run has temperature '1.5'; .*--new-job"
    ):
        think(queries(2), hotter, out=out)
    other = ChatExpert(server.base_url, "echo", prompt=Prompt("Think in three words."))
    with pytest.raises(
        InputError, match=r"made with prompt_digest '\w{16}', this run has prompt_digest '\w{16}'; "
    ):
        think(queries(2), other, out=out)


def test_a_query_with_another_text_stops_the_job(serve, tmp_path):
    server = serve()
    out = tmp_path / "t.jsonl"
    expert = ChatExpert(server.base_url, "echo")
    think(queries(2), expert, out=out)
    with pytest.raises(InputError, match=r"query 'q0': .*text 'how.*work', this run has text 'how.*fail'; "):
        think(queries(2, "fail"), expert, out=out)


def test_more_queries_and_samples_continue_a_job_and_fewer_narrow_its_output(serve, tmp_path):
    server = serve()
    out = tmp_path / "t.jsonl"
    expert = ChatExpert(server.base_url, "echo")
    assert think(queries(3), expert, out=out, samples=1).asked == 3
    assert think(queries(5), expert, out=out, samples=2).asked == 7
    assert set(server.asked.values()) == {1}
    again = think(queries(2), expert, out=out, samples=1)
    assert (again.asked, again.thoughts) == (0, 2)
    assert [t.thought_id for t in read_jsonl(out, Thought)] == ["q0#0", "q1#0"]


def test_a_second_process_is_refused_until_the_first_is_dead(serve, tmp_path):
    server = serve(delay=(30.0, 30.0))
    write_jsonl(tmp_path / "queries.jsonl", queries(4))
    first = start(server, tmp_path)
    wait_for(lambda: server.asked)
    second = run(server, tmp_path)
    assert second.returncode == 4
    assert f"process {first.pid} on {os.uname().nodename} is at work there" in second.stderr
    first.kill()
    first.communicate(timeout=10)
    server.delay = (0.0, 0.0)
    expert = ChatExpert(server.base_url, "echo")
    assert think(queries(4), expert, out=tmp_path / "t.jsonl").thoughts == 12


def test_a_damaged_journal_is_named(tmp_path):
    folder = tmp_path / "t.jsonl.job"
    folder.mkdir()
    (folder / "journal.sqlite").write_bytes(b"not a database, " * 100)
    with pytest.raises(InputError, match=r"t\.jsonl\.job/journal\.sqlite: .*not a database"):
        Journal(tmp_path / "t.jsonl", Query, {})


def test_a_thought_is_never_replaced_by_a_failure(tmp_path):
    with Journal(tmp_path / "t.jsonl", Query, {}) as journal:
        journal.plan(queries(1))
        source = Source(model="m")
        thought = Thought(query_id="q0", thought_id="q0#0", text="kept", source=source)
        failure = Failure(query_id="q0", sample=0, reason=Reason.TIMEOUT)
        journal.record([failed_outcome(failure)])
        assert list(journal.failures(1)) == [failure]
        journal.record([thought_outcome(0, thought)])
        journal.record([failed_outcome(failure)])
        assert list(journal.thoughts(1)) == [thought]
        assert list(journal.failures(1)) == []
