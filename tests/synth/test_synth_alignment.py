"""Every thought belongs to its query, whatever the server does and whenever it answers."""

from __future__ import annotations

import random

import pytest

from o1_records import InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth import ChatExpert, Job, NoThought, Reply, Retry, Sampling, think
from o1_synth.expert import sample_seed
from o1_synth.job.draw import Failure

QUICK = Retry(timeout=1.0, attempts=4, pause=0.01, patience=0.0)


def queries(count):
    return [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(count)]


def thoughts_in(path):
    return list(read_jsonl(path, Thought))


def check_alignment(thoughts, asked):
    text_of = {query.query_id: query.text for query in asked}
    for thought in thoughts:
        sample = int(thought.thought_id.removeprefix(f"{thought.query_id}#"))
        seed = sample_seed(0, thought.query_id, sample)
        assert thought.text == f"a thought about {text_of[thought.query_id]} with seed {seed}"


def test_thoughts_stay_with_their_queries_under_shuffled_latencies(serve, tmp_path):
    server = serve(delay=(0.0, 0.05))
    asked = queries(300)
    random.Random(1).shuffle(asked)
    out = tmp_path / "t.jsonl"
    summary = think(asked, ChatExpert(server.base_url, "echo"), out=out, concurrency=32)
    thoughts = thoughts_in(out)
    assert (summary.thoughts, summary.failed, summary.asked) == (900, 0, 900)
    check_alignment(thoughts, asked)
    ids = [(t.query_id, t.thought_id) for t in thoughts]
    assert ids == sorted((q.query_id, f"{q.query_id}#{s}") for q in asked for s in range(3))
    assert set(server.asked.values()) == {1}
    assert 8 < server.most_at_once <= 32


def test_one_attempt_in_four_may_fail_in_any_way(serve, tmp_path, faults):
    rng = random.Random(3)
    server = serve(lambda text, attempt: rng.choice(faults) if rng.random() < 0.25 else "")
    asked = queries(60)
    out = tmp_path / "t.jsonl"
    retry = Retry(timeout=0.3, attempts=8, pause=0.01, patience=0.0)
    summary = think(asked, ChatExpert(server.base_url, "echo", retry=retry), out=out)
    check_alignment(thoughts_in(out), asked)
    assert summary.thoughts + summary.failed == 180
    assert summary.thoughts >= 179
    assert sum(server.asked.values()) <= 1.6 * 180


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "http_status"),
        ("500", "http_status"),
        ("400", "http_status"),
        ("reset", "unreachable"),
        ("cut", "unreachable"),
        ("stall", "timeout"),
        ("truncated", "malformed"),
        ("html", "malformed"),
        ("no choice", "malformed"),
        ("blank", "empty"),
    ],
)
def test_what_goes_on_failing_is_listed_with_its_reason_and_never_stored(serve, tmp_path, fault, reason):
    asked = queries(3)
    server = serve(lambda text, attempt: fault if text == asked[1].text else "")
    out = tmp_path / "t.jsonl"
    retry = Retry(timeout=0.2, attempts=2, pause=0.01, patience=0)
    expert = ChatExpert(server.base_url, "echo", retry=retry)
    summary = think(asked, expert, out=out, samples=2)
    assert summary.failures == {reason: 2}
    thoughts = thoughts_in(out)
    check_alignment(thoughts, asked)
    assert [t.query_id for t in thoughts] == ["q0", "q0", "q2", "q2"]
    failures = list(read_jsonl(summary.failures_path, Failure))
    assert [(f.query_id, f.sample, f.reason) for f in failures] == [
        ("q1", 0, reason),
        ("q1", 1, reason),
    ]
    # What the same request would meet again is not asked for again.
    attempts = {n for (text, _), n in server.asked.items() if text == asked[1].text}
    assert attempts == {1 if fault in ("400", "blank") else 2}

    server.fault = lambda text, attempt: ""
    again = think(asked, expert, out=out, samples=2)
    assert (again.thoughts, again.failed, again.asked) == (6, 0, 2)
    assert not again.failures_path.exists()


def test_retry_after_is_waited_for(serve, tmp_path):
    server = serve(lambda text, attempt: "429" if attempt == 1 else "")
    expert = ChatExpert(server.base_url, "echo", retry=Retry(pause=0.0))
    waited = []
    pause = expert._pause
    expert._pause = lambda attempt, wait: waited.append(wait) or pause(attempt, wait)
    think(queries(1), expert, out=tmp_path / "t.jsonl", samples=1)
    assert waited == [0.05]
    assert pause(1, 0.05) == 0.05
    assert pause(1, 1e9) == 1e9
    own = ChatExpert(server.base_url, "echo")._pause
    assert 0.25 <= own(1, 0.0) <= 0.75 and own(99, 0.0) == 30


def test_an_unknown_model_and_a_silent_address_are_one_clear_sentence(serve):
    server = serve(models=[{"id": "llama-70b"}, {"id": "qwen-7b"}])
    with pytest.raises(InputError) as unknown:
        ChatExpert(server.base_url, "lama-70b")
    for part in (server.base_url, "'lama-70b'", "llama-70b, qwen-7b"):
        assert part in str(unknown.value)
    address = server.base_url
    server.stop()
    with pytest.raises(InputError, match=f"no server answers at {address}.*'qwen-7b'"):
        ChatExpert(address, "qwen-7b")
    with pytest.raises(InputError, match=r"must begin with http:// or https://, got 'localhost:8000/v1'"):
        ChatExpert("localhost:8000/v1", "qwen-7b")


def test_an_address_without_v1_is_pointed_out(serve):
    server = serve()
    with pytest.raises(InputError, match="mostly ends in /v1"):
        ChatExpert(server.base_url.removesuffix("/v1"), "echo")


def test_a_model_that_goes_away_stops_the_run_and_keeps_what_is_done(serve, tmp_path):
    server = serve()

    def withdraw(text, attempt):
        if "number 3 " in text:
            server.models = [{"id": "another"}]
        return ""

    server.fault = withdraw
    out = tmp_path / "t.jsonl"
    expert = ChatExpert(server.base_url, "echo")
    alike = "the last 3 requests all failed alike: http_status: 404: 'no such model'"
    with pytest.raises(InputError, match=alike):
        think(queries(8), expert, out=out, samples=1, concurrency=1, job=Job(give_up=3))
    assert not out.exists()
    server.models, server.fault = [{"id": "echo"}], lambda text, attempt: ""
    assert think(queries(8), expert, out=out, samples=1).asked == 5
    check_alignment(thoughts_in(out), queries(8))


def test_the_key_comes_from_the_environment_and_is_not_kept(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    monkeypatch.setenv("O1_API_KEY", "first-choice")
    server = serve()
    think(queries(2), ChatExpert(server.base_url, "echo"), out=tmp_path / "t.jsonl")
    assert server.keys == {"first-choice"}
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"first-choice" not in written


def test_sampling_and_counts_are_written_down(serve, tmp_path):
    server = serve(models=[{"id": "echo", "root": "/models/echo-v2"}])
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=64, seed=5)
    expert = ChatExpert(server.base_url, "echo", sampling=sampling)
    think(queries(1), expert, out=tmp_path / "t.jsonl", samples=1)
    (thought,) = thoughts_in(tmp_path / "t.jsonl")
    assert thought.source == Source(
        model="echo",
        revision="/models/echo-v2",
        prompt_digest=expert.prompt.digest,
        temperature=0.5,
        top_p=0.9,
        max_tokens=64,
        seed=sample_seed(5, "q0", 0),
        finish_reason="stop",
        prompt_tokens=7,
        completion_tokens=len(thought.text.split()),
    )


class Whimsical:
    """A stranger's expert: blank for sample 0, not UTF-8 for sample 1, then nothing more."""

    source = Source(model="whim")

    async def think(self, query, sample, draw=0):
        if sample == 2:
            raise NoThought("exhausted")
        return Reply(text=" \n" if sample == 0 else "\ud800", source=self.source)

    async def close(self):
        self.closed = True


def test_a_strangers_expert_cannot_store_an_empty_or_broken_thought(tmp_path):
    expert = Whimsical()
    summary = think(queries(2), expert, out=tmp_path / "t.jsonl", samples=3)
    assert summary.failures == {"empty": 2, "malformed": 2}
    assert (summary.thoughts, summary.exhausted) == (0, 2)
    assert thoughts_in(tmp_path / "t.jsonl") == []
    assert expert.closed


def test_a_repeated_query_id_stops_before_anything_is_asked(serve, tmp_path):
    server = serve()
    twice = [*queries(3), queries(1)[0]]
    with pytest.raises(InputError, match="duplicate query_id 'q0'"):
        think(twice, ChatExpert(server.base_url, "echo"), out=tmp_path / "t.jsonl")
    assert not server.asked


def test_the_records_are_readable_by_everyone(serve, tmp_path):
    server = serve()
    out = tmp_path / "t.jsonl"
    think(queries(4), ChatExpert(server.base_url, "echo", retry=QUICK), out=out)
    copy = tmp_path / "copy.jsonl"
    write_jsonl(copy, read_jsonl(out, Thought))
    assert copy.read_bytes() == out.read_bytes()
