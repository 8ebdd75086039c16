"""What can be seen of a job from outside, what ends it, and what begins a new one."""

from __future__ import annotations

import json
import threading
import time

import pytest

from o1_records import InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth import ChatExpert, Job, Prompt, Reply, Retry, Sampling, think
from o1_synth.__main__ import main
from o1_synth.job.draw import Failure
from o1_synth.job.journal import Journal, JournalReader
from o1_synth.job.watch import Prices
from o1_synth.template import read_template

QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(20)]


def in_a_thread(server, out, **options):
    expert = ChatExpert(server.base_url, "echo", retry=Retry(timeout=20, pause=0.01, patience=0))
    thread = threading.Thread(target=lambda: think(QUERIES, expert, out=out, **options))
    thread.start()
    return thread


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def state_of(out, capsys):
    assert main(["status", str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_and_export_look_into_a_running_job_without_disturbing_it(serve, tmp_path, capsys):
    server = serve(lambda text, attempt: "stall" if "number 7 " in text else "")
    out, part = tmp_path / "t.jsonl", tmp_path / "part.jsonl.gz"
    job = Job(stop=threading.Event())
    thread = in_a_thread(server, out, samples=2, concurrency=4, job=job)
    wait_until(lambda: (tmp_path / "t.jsonl.job" / "journal.sqlite").exists() and server.asked)
    wait_until(lambda: state_of(out, capsys)["thoughts"] == 38)
    state = state_of(out, capsys)
    assert state["running"].startswith("process ")
    assert (state["queries"], state["samples"], state["not asked"]) == (20, 40, 2)
    assert main(["export", str(out), "--out", str(part)]) == 0
    assert "38 of 40 thoughts" in capsys.readouterr().err
    ids = [thought.thought_id for thought in read_jsonl(part, Thought)]
    assert len(ids) == 38 and ids == sorted(ids)
    assert not out.exists()
    wait_until(lambda: state_of(out, capsys)["last run"].get("in_flight") == 2)
    server.stop()
    thread.join(30)
    after = state_of(out, capsys)
    assert after["running"] == "no"
    assert (after["thoughts"], after["failed"], after["not asked"]) == (38, {"unreachable": 2}, 0)
    assert main(["status", str(out)]) == 0
    assert "failed: unreachable 2" in capsys.readouterr().out


def test_a_job_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["status", str(tmp_path / "t.jsonl")]) == 4
    assert "there is no job at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_to_write_over_the_journal(serve, tmp_path, capsys):
    out = tmp_path / "t.jsonl"
    think(QUERIES[:2], ChatExpert(serve().base_url, "echo"), out=out, samples=1)
    journal = tmp_path / "t.jsonl.job" / "journal.sqlite"
    before = journal.read_bytes()
    assert main(["export", str(out), "--out", str(journal)]) == 4
    assert "would overwrite the input of job" in capsys.readouterr().err
    assert journal.read_bytes() == before


def test_when_the_time_is_over_the_tail_is_listed_with_reasons_and_a_rerun_completes_it(serve, tmp_path):
    server = serve(lambda text, attempt: "stall" if "number 1" in text else "")
    expert = ChatExpert(server.base_url, "echo", retry=Retry(timeout=60))
    out = tmp_path / "t.jsonl"
    began = time.monotonic()
    job = Job(deadline=0.7)
    summary = think(QUERIES, expert, out=out, samples=1, concurrency=2, job=job)
    assert time.monotonic() - began < 20
    assert summary.failures == {"deadline": 2, "not_asked": 20 - summary.thoughts - 2}
    failures = {failure.query_id: failure.reason for failure in read_jsonl(summary.failures_path, Failure)}
    thoughts = {thought.query_id for thought in read_jsonl(out, Thought)}
    assert failures.keys() | thoughts == {query.query_id for query in QUERIES}
    assert sum(reason == "deadline" for reason in failures.values()) == 2
    server.fault = lambda text, attempt: ""
    again = think(QUERIES, expert, out=out, samples=1)
    assert (again.thoughts, again.failed, again.asked) == (20, 0, 20 - summary.thoughts)
    assert not again.failures_path.exists()


def test_a_stopped_job_finishes_what_is_in_flight_and_publishes_nothing(serve, tmp_path):
    server = serve(delay=(0.02, 0.04))
    job = Job(stop=threading.Event())
    out = tmp_path / "t.jsonl"
    server.fault = lambda text, attempt: "stop" if job.stop.set() else ""
    expert = ChatExpert(server.base_url, "echo")
    summary = think(QUERIES, expert, out=out, samples=1, concurrency=3, job=job)
    assert summary.interrupted
    assert summary.thoughts == sum(server.asked.values()) == 3
    assert not out.exists()
    assert think(QUERIES, expert, out=out, samples=1).asked == 17


def test_a_new_job_moves_the_old_one_aside_only_when_something_changed(serve, tmp_path):
    server = serve()
    out = tmp_path / "t.jsonl"
    expert = ChatExpert(server.base_url, "echo")
    think(QUERIES[:2], expert, out=out)
    assert think(QUERIES[:2], expert, out=out, job=Job(new_job=True)).asked == 0
    hotter = ChatExpert(server.base_url, "echo", sampling=Sampling(temperature=1.5))
    with pytest.raises(InputError, match=r"temperature '0.8', this run has temperature '1.5'.*--new-job"):
        think(QUERIES[:2], hotter, out=out)
    assert think(QUERIES[:2], hotter, out=out, job=Job(new_job=True)).asked == 6
    assert {thought.source.temperature for thought in read_jsonl(out, Thought)} == {1.5}
    assert (tmp_path / "t.jsonl.job.old1" / "journal.sqlite").exists()


def test_another_number_of_samples_per_request_stops_the_job(serve, tmp_path):
    expert = ChatExpert(serve().base_url, "echo")
    out = tmp_path / "t.jsonl"
    think(QUERIES[:2], expert, out=out)
    with pytest.raises(InputError, match="made with n_per_request '1', this run has n_per_request '3'"):
        think(QUERIES[:2], expert, out=out, job=Job(n_per_request=3))


def test_an_expert_that_answers_one_at_a_time_cannot_answer_three(tmp_path):
    class Single:
        source = None

        async def think(self, query, sample, draw=0):
            return Reply(text="x", source=self.source)

        async def close(self):
            pass

    with pytest.raises(
        InputError, match="n_per_request must be 1 with an expert that has no think_together, got 3"
    ):
        think(QUERIES, Single(), out=tmp_path / "t.jsonl", job=Job(n_per_request=3))


def test_a_model_that_changes_behind_its_name_stops_the_run_now_or_at_the_next(serve, tmp_path):
    server = serve(answers_as="echo-2026-01")
    out = tmp_path / "t.jsonl"
    expert = ChatExpert(server.base_url, "echo")
    think(QUERIES[:4], expert, out=out, samples=1)
    server.answers_as = "echo-2026-06"
    with pytest.raises(InputError, match=r"'echo-2026-01' answered so far, now 'echo-2026-06' answers"):
        think(QUERIES, ChatExpert(server.base_url, "echo"), out=out, samples=1)
    with JournalReader(out) as journal:
        assert len(list(journal.thoughts(1))) == 4


def test_elsewhere_than_on_a_terminal_the_progress_is_json(serve, tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    server = serve(lambda text, attempt: "400" if "number 3 " in text else "")
    common = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    common += ["--base-url", server.base_url, "--model", "echo", "--samples", "1"]
    assert main([*common, "--price-prompt", "1000", "--price-completion", "2000"]) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    state = json.loads(lines[-1])
    assert (state["done"], state["failed"], state["in_flight"], state["total"]) == (19, 1, 0, 20)
    assert (state["prompt_tokens"], state["completion_tokens"]) == (19 * 7, 19 * 11)
    assert state["cost"] == pytest.approx(19 * (7 * 1000 + 11 * 2000) / 1e6, abs=1e-4)
    assert state["all_runs"] == {name: state[name] for name in state["all_runs"]}
    assert {"tokens_per_s", "eta_seconds", "samples_per_s"} <= state.keys()


class ThreeAtOnce:
    source = Source(model="m", prompt_tokens=100, completion_tokens=10)

    async def think_together(self, query, samples, draw=0):
        return [Reply(text=f"thought {sample}", source=self.source) for sample in samples]

    async def close(self):
        pass


def test_the_prompt_of_a_request_for_several_samples_is_paid_once(tmp_path, capsys):
    job = Job(n_per_request=3, prices=Prices(prompt=1.0))
    think(QUERIES[:2], ThreeAtOnce(), out=tmp_path / "t.jsonl", progress=True, job=job)
    state = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (state["prompt_tokens"], state["completion_tokens"]) == (200, 60)
    assert state["cost"] == 2e-4


def test_a_million_wanted_samples_are_not_held_in_memory(tmp_path):
    count = 20_000
    with Journal(tmp_path / "t.jsonl", Query, {}) as journal:
        assert journal.plan(Query(query_id=f"q{n:06}", text="t") for n in range(count)) == count
        todo = journal.remaining(3, 1)
        assert next(todo)[0].query_id == "q000000"
        assert sum(1 for _ in todo) == 3 * count - 1


def test_templates_shape_the_prompt_and_the_fingerprint(tmp_path):
    query = Query(query_id="x", text="open {query} a {zip} file")
    own = tmp_path / "own.txt"
    own.write_text('Write JSON like {"a": 1}.\n{query}\n')
    for name, marker in (("reason", "essential problem"), ("keywords", "keywords"), (own, '{"a": 1}')):
        prompt = Prompt(template=read_template(name))
        (message,) = prompt.messages(query)
        assert marker in message["content"]
        fenced = "```\nopen {query} a {zip} file\n```"
        assert (fenced in message["content"]) == (name != "keywords")
        assert "open {query} a {zip} file" in message["content"]
        assert prompt.digest != Prompt().digest
    for text in ("no marker", "{query} {oops}"):
        own.write_text(text)
        with pytest.raises(InputError, match=r"own.txt: has markers"):
            read_template(own)
    with pytest.raises(
        InputError, match=r"or one of function, keywords, o1, paper, passage, reason, snippet$"
    ):
        read_template("unheard")
