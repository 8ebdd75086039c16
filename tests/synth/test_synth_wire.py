"""What a server says becomes answers, however it is cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Query, Thought, read_jsonl
from o1_synth import ChatExpert, Job, Retry, think
from o1_synth.answer import split_reasoning
from o1_synth.chat.wire import StreamedAnswers, parse_answers

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def event(**fields):
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def choice(index=0, finish_reason=None, **delta):
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_a_stream_says_what_its_words_say_wherever_it_is_cut(contents, cuts):
    events = []
    for index, content in enumerate(contents):
        events += [event(choices=[choice(index, content=letter)]) for letter in content]
        events.append(event(choices=[choice(index, "stop")]))
    stream = b": hello\n\n" + b"".join(events)
    stream += event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 5}) + b"data: [DONE]\n\n"
    answers = StreamedAnswers()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(places):
        answers.feed(stream[start:end])
    read = answers.answers()
    assert [answer.text for answer in read] == [split_reasoning(content)[0] for content in contents]
    shares = [answer.completion_tokens for answer in read]
    assert sum(shares) == 5 and max(shares) - min(shares) <= 1
    assert all(answer.prompt_tokens == 3 and answer.counted for answer in read)


def whole(received):
    answers = StreamedAnswers()
    answers.feed(received)
    return answers.answers()


def test_only_tokens_are_progress():
    answers = StreamedAnswers()
    assert not answers.feed(b": ping\n\n")
    assert not answers.feed(event(choices=[choice(role="assistant", content="")]))
    assert not answers.feed(event(choices=[], usage={"prompt_tokens": 1}))
    assert answers.feed(event(choices=[choice(content="a")]))
    assert answers.feed(event(choices=[choice(reasoning_content="b")]))


@pytest.mark.parametrize(
    "received",
    [
        b"data: <html>\n\n",
        b"data: {\n\n",
        b'data: {"error": {"message": "out of memory"}}\n\n',
        event(choices=[choice(content="cut before its end")]),
        b"data: [DONE]\n\n",
        b"",
    ],
)
def test_what_is_no_whole_answer_is_an_error(received):
    with pytest.raises(ValueError, match=r".+"):
        whole(received)


@pytest.mark.parametrize(
    ("content", "answer", "reasoning"),
    [
        ("plain", "plain", ""),
        ("<think>\nwell\n</think>\n\nthe answer", "the answer", "well"),
        ("well</think>the answer", "the answer", "well"),
        ("<think>cut by max_tokens", "", "cut by max_tokens"),
        ("<think></think>the answer", "the answer", ""),
        ("the tag <think> is text here</think>", "the tag <think> is text here</think>", ""),
        ("models end it with `</think>` as a rule", "models end it with `</think>` as a rule", ""),
        ("it is said with `</think>`\n</think>\nthe answer", "the answer", "it is said with `</think>`"),
    ],
)
def test_reasoning_is_separated_from_the_answer(content, answer, reasoning):
    assert split_reasoning(content) == (answer, reasoning)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_the_reasoning_field_is_no_part_of_the_answer(field):
    message = {"content": "the answer", field: "well"}
    (answer,) = parse_answers(json.dumps({"choices": [{"message": message}]}).encode())
    assert (answer.text, answer.reasoning) == ("the answer", "well")


def test_choices_are_filed_by_their_index():
    choices = [{"index": n, "message": {"content": f"text {n}"}} for n in (2, 0, 1)]
    read = parse_answers(json.dumps({"choices": choices}).encode())
    assert [answer.text for answer in read] == ["text 0", "text 1", "text 2"]


QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(6)]


@pytest.mark.parametrize("streams", [True, False])
def test_a_streaming_server_and_one_that_cannot_write_the_same_thoughts(serve, tmp_path, streams):
    server = serve(streams=streams)
    out = tmp_path / "t.jsonl"
    summary = think(QUERIES, ChatExpert(server.base_url, "echo"), out=out)
    assert (summary.thoughts, summary.failed) == (18, 0)
    plain = tmp_path / "plain.jsonl"
    think(QUERIES, ChatExpert(serve().base_url, "echo", stream=False), out=plain)
    assert out.read_bytes() == plain.read_bytes()
    for thought in read_jsonl(out, Thought):
        assert thought.source.completion_tokens == len(thought.text.split())
        assert thought.source.finish_reason == "stop"


def test_several_samples_in_one_request_are_filed_and_counted_apart(serve, tmp_path):
    drawn = []

    def say(request, text):
        drawn.append(request["seed"])
        return f"thought {len(drawn)} about {text}"

    server = serve(say=say, streams=True)
    out = tmp_path / "t.jsonl"
    job = Job(n_per_request=2)
    summary = think(QUERIES, ChatExpert(server.base_url, "echo"), out=out, samples=3, job=job)
    assert summary.thoughts == 18
    assert sorted(request.get("n", 1) for request in server.requests) == [1] * 6 + [2] * 6
    thoughts = list(read_jsonl(out, Thought))
    assert [t.thought_id for t in thoughts] == [f"q{n}#{s}" for n in range(6) for s in range(3)]
    text_of = {query.query_id: query.text for query in QUERIES}
    assert all(thought.text.endswith(text_of[thought.query_id]) for thought in thoughts)
    assert len({thought.text for thought in thoughts}) == 18


def test_a_server_that_ignores_n_is_named(serve, tmp_path):
    server = serve()
    complete = server._complete

    async def without_n(request, writer):
        await complete({**request, "n": 1}, writer)

    server._complete = without_n
    job = Job(n_per_request=3)
    summary = think(QUERIES[:1], ChatExpert(server.base_url, "echo"), out=tmp_path / "t.jsonl", job=job)
    assert summary.failures == {"malformed": 3}
    assert "1 choices for n = 3" in summary.failures_path.read_text()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stream stall", "stalled"),
        ("stream ping", "stalled"),
        ("stream cut", "malformed"),
        ("stream error", "malformed"),
        ("stream html", "malformed"),
    ],
)
def test_a_stream_that_ends_badly_is_tried_again_and_then_listed(serve, tmp_path, fault, reason):
    server = serve(lambda text, attempt: fault if "number 1 " in text else "", streams=True)
    retry = Retry(timeout=20.0, attempts=2, pause=0.01, stall=0.3)
    expert = ChatExpert(server.base_url, "echo", retry=retry)
    summary = think(QUERIES[:3], expert, out=tmp_path / "t.jsonl", samples=1)
    assert (summary.thoughts, summary.failures) == (2, {reason: 1})
    assert sum(server.asked.values()) == 4


def test_a_slow_drip_of_tokens_is_no_stall(serve, tmp_path):
    server = serve(lambda text, attempt: "drip", streams=True)
    expert = ChatExpert(server.base_url, "echo", retry=Retry(timeout=20.0, attempts=1, stall=0.8))
    summary = think(QUERIES[:2], expert, out=tmp_path / "t.jsonl", samples=1)
    assert summary.thoughts == 2
