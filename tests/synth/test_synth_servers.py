"""The servers that one meets: each of them a real one on a local port."""

from __future__ import annotations

import json
import threading
import time

import pytest

from o1_records import InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth import ChatExpert, Checks, Job, Prompt, Request, Retry, Sampling, think
from o1_synth.__main__ import main
from o1_synth.job.draw import Failure
from o1_synth.job.watch import status

QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(4)]
HASTY = Retry(attempts=1, pause=0.01, patience=0.0)


def asked(serve, out, *, retry=HASTY, samples=1, queries=QUERIES, job=None, expert=None, **server):
    """Think with a server of that kind; return the server, the summary and the texts."""
    made = serve(**server)
    chat = ChatExpert(made.base_url, "echo", retry=retry, **(expert or {}))
    summary = think(queries, chat, out=out, samples=samples, job=job)
    return made, summary, [thought.text for thought in read_jsonl(out, Thought)]


def completion(content, finish_reason="stop", **fields):
    message = {"role": "assistant", "content": content, **fields}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()


JSON = "Content-Type: application/json\r\n"


# --- how answers end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("end", ["abort", "error", "insufficient_system_resource", "tool_calls", "cancelled"])
def test_only_the_model_or_max_tokens_can_end_a_thought(serve, tmp_path, streams, end):
    finish = lambda request, text: end if "number 1 " in text else "stop"  # noqa: E731
    out = tmp_path / "t.jsonl"
    server, summary, texts = asked(serve, out, finish=finish, streams=streams, job=Job(redraws=1))
    assert summary.failures == {"aborted": 1}
    assert len(texts) == 3 and not any("number 1 " in text for text in texts)
    (failure,) = read_jsonl(summary.failures_path, Failure)
    assert (failure.query_id, failure.detail) == ("q1", f"finish_reason '{end}'")
    server.finish = lambda request, text: "stop"
    expert = ChatExpert(server.base_url, "echo", retry=HASTY)
    assert think(QUERIES, expert, out=out, samples=1).thoughts == 4


@pytest.mark.parametrize(
    ("end", "known_as"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("STOP", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
    ],
)
def test_the_two_good_ends_have_other_names(serve, tmp_path, end, known_as):
    asked(serve, tmp_path / "t.jsonl", finish=lambda request, text: end)
    ends = {thought.source.finish_reason for thought in read_jsonl(tmp_path / "t.jsonl", Thought)}
    assert ends == {known_as}


def test_an_answer_that_does_not_say_how_it_ended_is_none(serve, tmp_path):
    respond = lambda request, text: (200, JSON, completion("cut, perhaps", None))  # noqa: E731
    _, summary, texts = asked(serve, tmp_path / "t.jsonl", respond=respond)
    assert (summary.failures, texts) == ({"aborted": 4}, [])


def test_a_filter_is_a_refusal(serve, tmp_path):
    _, summary, texts = asked(serve, tmp_path / "t.jsonl", finish=lambda request, text: "content_filter")
    assert (summary.failures, texts) == ({"refusal": 4}, [])


# --- what a request has -------------------------------------------------------------------------------


def without(field):
    """A server that refuses requests with that field."""

    def respond(request, text):
        if field not in request:
            return 200, JSON, completion(f"sunlight scatters in air, {text}")
        message = f"Unsupported parameter: '{field}' is not supported with this model."
        error = {"message": message, "type": "invalid_request_error"}
        return 400, JSON, json.dumps({"error": error}).encode()

    return respond


@pytest.mark.parametrize("field", ["temperature", "top_p", "max_tokens", "seed", "stream_options", "stream"])
def test_any_field_can_be_left_out(serve, tmp_path, field):
    _, summary, _ = asked(serve, tmp_path / "refused.jsonl", respond=without(field))
    assert summary.failures == {"http_status": 4}
    assert summary.examples["http_status"].startswith(f"400: \"Unsupported parameter: '{field}'")
    expert = {"request": Request(omit=[field])}
    _, summary, _ = asked(serve, tmp_path / "t.jsonl", respond=without(field), expert=expert)
    assert summary.thoughts == 4
    (thought, *_) = read_jsonl(tmp_path / "t.jsonl", Thought)
    shapes = field not in ("stream_options", "stream")
    assert thought.source.request == (f'{{"omit":["{field}"]}}' if shapes else "")
    if shapes:
        assert getattr(thought.source, field) == getattr(Source(model="m"), field), "what was not asked for"


def test_a_field_can_have_another_name_and_a_request_further_ones(serve, tmp_path, capsys, monkeypatch):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    server = serve(respond=without("max_tokens"))
    monkeypatch.setenv("SECRET", "s3cret")
    arguments = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    arguments += ["--base-url", f"{server.base_url}?api-version=2024-10-21", "--model", "echo"]
    arguments += ["--samples", "1"]
    arguments += ["--rename", "max_tokens=max_completion_tokens", "--omit", "seed,top_p"]
    arguments += ["--extra-body", '{"top_k": 40}', "--chat-template-kwargs", '{"enable_thinking": false}']
    arguments += ["--header", "api-key: env:SECRET", "--system", "Be brief.", "--stop", "\\n\\n"]
    arguments += ["--stop", "END"]
    assert main(arguments) == 0
    for request in server.requests:
        assert set(request) == {
            *("model", "messages", "temperature", "max_completion_tokens", "stream", "stream_options"),
            *("stop", "top_k", "chat_template_kwargs"),
        }
        assert request["max_completion_tokens"] == 512
        assert request["stop"] == ["\n\n", "END"]
        assert request["chat_template_kwargs"] == {"enable_thinking": False}
        assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    posts = [head for head in server.heads if head.startswith("POST")]
    assert all(head.startswith("POST /v1/chat/completions?api-version=2024-10-21 ") for head in posts)
    assert all("api-key: s3cret" in head for head in posts)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"s3cret" not in written and "s3cret" not in capsys.readouterr().err
    (thought, *_) = read_jsonl(tmp_path / "t.jsonl", Thought)
    assert json.loads(thought.source.request) == {
        "omit": ["seed", "top_p"], "extra": {"top_k": 40}, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"omit": ["sead"]}, "requests have no field 'sead' of ours"),
        ({"rename": {"tokens": "max"}}, "requests have no field 'tokens' of ours"),
        ({"extra": {"temperature": 1}}, "the extra body sets 'temperature', which has an option of its own"),
        ({"extra": {"messages": []}}, "the extra body sets 'messages'"),
        ({"rename": {"seed": "s"}, "extra": {"s": 1}}, "the extra body sets 's'"),
    ],
)
def test_a_field_that_is_set_twice_or_unknown_is_refused(request_, told):
    with pytest.raises(InputError, match=told):
        Request(**request_)
    assert Request(omit=["temperature"], extra={"temperature": None}).extra == {"temperature": None}


def test_another_name_or_a_field_of_the_transport_does_not_end_a_job_but_another_shape_does(serve, tmp_path):
    out, server = tmp_path / "t.jsonl", serve()
    expert = lambda **fields: ChatExpert(server.base_url, "echo", request=Request(**fields))  # noqa: E731
    think(QUERIES[:2], expert(), out=out)
    same = expert(rename={"max_tokens": "max_completion_tokens"}, omit=["stream_options"])
    assert think(QUERIES, same, out=out).asked == 6
    with pytest.raises(InputError, match=r"request '', this run has request '\{\"extra\":\{\"top_k\":1\}\}'"):
        think(QUERIES, expert(extra={"top_k": 1}), out=out)


# --- what an answer looks like ------------------------------------------------------------------------

SAID = "Short waves scatter more in air."
HARMONY = (
    "<|channel|>analysis<|message|>They ask about the sky.<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{SAID}<|return|>"
)


@pytest.mark.parametrize(
    "content",
    [
        SAID,
        [{"type": "text", "text": SAID}],
        [{"type": "text", "text": "Short waves "}, {"type": "text", "text": "scatter more in air."}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": SAID}],
        f"<think>Hm.</think>\n\n{SAID}",
        f"<thinking>\nHm.\n</thinking>{SAID}",
        f"<reasoning>Hm.</reasoning> {SAID}",
        f"[THINK]Hm.[/THINK]{SAID}",
        f"◁think▷Hm.◁/think▷{SAID}",
        f"Hm.</think>{SAID}",
        HARMONY,
        f"analysisThey ask about the sky.assistantfinal{SAID}",
        f"{SAID}<|im_end|>",
        f"{SAID}<|eot_id|>\n",
        f"{SAID}</s>",
        f"{SAID} <end_of_turn>\n",
        f"{SAID}<|im_end|><|endoftext|>",
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_the_answer_is_what_is_left_without_reasoning_and_control_tokens(serve, tmp_path, content, streams):
    def respond(request, text):
        if not streams:
            return 200, JSON, completion(content)
        parts = content if isinstance(content, list) else [content[:7], content[7:]]
        deltas = [[part] if isinstance(part, dict) else part for part in parts]
        choices = [{"index": 0, "delta": {"content": delta}} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [json.dumps({"choices": [choice]}) for choice in choices]
        body = "".join(f"data: {chunk}\r\n\r\n" for chunk in chunks) + "data: [DONE]\r\n\r\n"
        return 200, "Content-Type: text/event-stream\r\n", body.encode()

    _, summary, texts = asked(serve, tmp_path / "t.jsonl", respond=respond, queries=QUERIES[:1])
    assert texts == [SAID]
    # the stream did not count its tokens, and that is known
    assert summary.spent.uncounted == streams
    assert summary.spent.completion_tokens == (0 if streams else 3)


@pytest.mark.parametrize("content", [HARMONY.partition("<|start|>")[0], "<think>Hm, cut", [], None, "</s>"])
def test_reasoning_alone_is_no_answer(serve, tmp_path, content):
    respond = lambda request, text: (200, JSON, completion(content, "length"))  # noqa: E731
    _, summary, _ = asked(serve, tmp_path / "t.jsonl", respond=respond)
    assert summary.failures == {"empty": 4}
    # tokens are spent all the same: 4 samples, 3 draws each
    assert (summary.spent.prompt_tokens, summary.spent.completion_tokens) == (4 * 3 * 5, 4 * 3 * 3)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/octet-stream"])
def test_events_are_read_whatever_they_are_called(serve, tmp_path, kind):
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": SAID}, "finish_reason": "stop"}]})
    body = f": hello\n\ndata: {chunk}\n\ndata: [DONE]\n\n".encode()
    respond = lambda request, text: (200, f"Content-Type: {kind}\r\n", body)  # noqa: E731
    _, _, texts = asked(serve, tmp_path / "t.jsonl", respond=respond)
    assert texts == [SAID] * 4


def test_an_error_inside_of_a_good_status_is_told(serve, tmp_path):
    body = json.dumps({"error": {"message": "Provider returned error", "code": 502}}).encode()
    _, summary, _ = asked(serve, tmp_path / "t.jsonl", respond=lambda request, text: (200, JSON, body))
    assert summary.failures == {"malformed": 4}
    assert "the server reports an error: 'Provider returned error'" in summary.examples["malformed"]


# --- where it is and what it serves -------------------------------------------------------------------


def test_a_server_without_a_list_of_models_is_asked_all_the_same(serve, tmp_path):
    server, summary, _ = asked(serve, tmp_path / "t.jsonl", models=None)
    assert summary.thoughts == 4
    assert server.heads[0].startswith("GET /v1/models ")
    wrong = server.base_url.replace("/v1", "/v2")
    with pytest.raises(InputError, match="mostly ends in /v1"):
        ChatExpert(wrong, "echo")


def test_several_servers_share_the_work_and_one_that_dies_is_done_without(serve, tmp_path):
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(60)]
    servers = [serve(delay=(0.002, 0.004)) for _ in range(3)]
    servers[2].fault = lambda text, attempt: "reset"
    expert = ChatExpert([server.base_url for server in servers], "echo", retry=Retry(attempts=3, pause=0.05))
    summary = think(many, expert, out=tmp_path / "t.jsonl", samples=2, concurrency=12)
    assert (summary.thoughts, summary.failed) == (120, 0)
    shares = [server.answered.total() for server in servers]
    assert shares[2] == 0 and min(shares[:2]) > 20
    # the samples of a query go to one server, while it is not busier than the others
    homes = [{text for text, _ in server.answered} for server in servers[:2]]
    assert len(homes[0] & homes[1]) < 40


def test_servers_that_are_all_away_are_not_asked_without_a_pause(serve, tmp_path):
    servers = [serve(fault=lambda text, attempt: "reset") for _ in range(2)]
    retry = Retry(attempts=2, pause=0.1, patience=0.6)
    expert = ChatExpert([server.base_url for server in servers], "echo", retry=retry)
    summary = think(QUERIES[:1], expert, out=tmp_path / "t.jsonl", samples=1)
    assert summary.failures == {"unreachable": 1}
    assert 3 <= sum(server.asked.total() for server in servers) <= 16


def test_several_servers_have_to_serve_the_same_model(serve):
    servers = [serve(models=[{"id": "echo", "root": root}]) for root in ("llama-8b", "llama-70b")]
    with pytest.raises(InputError, match="different models behind the name 'echo': 'llama-8b' at"):
        ChatExpert([server.base_url for server in servers], "echo")
    with pytest.raises(InputError, match="one base_url or several different ones"):
        ChatExpert([servers[0].base_url] * 2, "echo")


# --- refusals of the server ---------------------------------------------------------------------------


@pytest.mark.parametrize("status_", [400, 402, 403, 404, 413, 422, 451])
def test_one_refused_input_is_a_failure_of_its_own_and_the_rest_is_asked(serve, tmp_path, status_):
    def respond(request, text):
        if "number 0 " not in text:
            return None
        return status_, JSON, json.dumps({"error": {"message": "this prompt was blocked"}}).encode()

    out = tmp_path / "t.jsonl"
    server, summary, _ = asked(serve, out, respond=respond, samples=3)
    assert (summary.thoughts, summary.failures) == (9, {"http_status": 3})
    failures = list(read_jsonl(summary.failures_path, Failure))
    assert [(failure.query_id, failure.sample) for failure in failures] == [("q0", n) for n in range(3)]
    assert failures[0].detail == f"{status_}: 'this prompt was blocked'"
    # what was never asked for comes before what failed
    more = [*QUERIES, Query(query_id="q9", text="how does number 9 work")]
    server.requests.clear()
    expert = ChatExpert(server.base_url, "echo", retry=HASTY)
    again = think(more, expert, out=out, samples=3, concurrency=1)
    assert (again.thoughts, again.asked) == (12, 6)
    first = [request["messages"][-1]["content"] for request in server.requests[:3]]
    assert all("number 9 " in content for content in first)


@pytest.mark.parametrize("status_", [400, 401, 402, 403, 404, 500])
def test_a_hopeless_job_ends_with_the_servers_sentence(serve, tmp_path, status_):
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(500)]
    number = iter(range(10**6))

    def respond(request, text):
        said = {"error": {"message": f"You exceeded your quota (request req_{next(number)}a7)."}}
        return status_, JSON, json.dumps(said).encode()

    server = serve(respond=respond)
    expert = ChatExpert(server.base_url, "echo", retry=HASTY)
    told = rf"the last \d+ requests all failed alike: http_status: {status_}: 'You exceeded your quota"
    with pytest.raises(InputError, match=told):
        think(many, expert, out=tmp_path / "t.jsonl", concurrency=8)
    assert server.asked.total() < 40
    server.respond = lambda request, text: None
    assert think(many, expert, out=tmp_path / "t.jsonl", samples=1).thoughts == 500


def test_refusals_with_answers_between_do_not_end_a_job(serve, tmp_path):
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(60)]
    respond = lambda request, text: None if "5 work" in text else (403, JSON, b'{"message": "blocked"}')  # noqa: E731
    _, summary, _ = asked(serve, tmp_path / "t.jsonl", respond=respond, queries=many, job=Job(give_up=12))
    assert (summary.thoughts, summary.failures) == (6, {"http_status": 54})


def test_a_server_that_comes_back_is_waited_for(serve, tmp_path):
    server = serve(delay=(0.01, 0.01))
    port = server.port
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(40)]
    expert = ChatExpert(server.base_url, "echo", retry=Retry(attempts=1, pause=0.05, patience=30))
    ended = []
    out = tmp_path / "t.jsonl"
    work = threading.Thread(target=lambda: ended.append(think(many, expert, out=out, concurrency=4)))
    work.start()
    while server.answered.total() < 10:
        time.sleep(0.01)
    server.stop()
    time.sleep(0.5)
    assert work.is_alive()
    serve(port=port)
    work.join(60)
    (summary,) = ended
    assert (summary.thoughts, summary.failed) == (120, 0)


# --- how long to wait ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "least"),
    [
        ("Retry-After: 1", 1.0),
        ("retry-after-ms: 600", 0.6),
        ("x-ms-retry-after-ms: 600\r\nRetry-After: 9", 0.6),
    ],
)
def test_a_pause_is_as_long_as_the_server_asks_for(serve, tmp_path, header, least):
    began = []

    def respond(request, text):
        began.append(time.monotonic())
        return (429, f"{header}\r\n", b"slow down") if len(began) == 1 else None

    retry = Retry(attempts=2, pause=0.0)
    asked(serve, tmp_path / "t.jsonl", respond=respond, retry=retry, queries=QUERIES[:1])
    assert least <= began[1] - began[0] < least + 2


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_run_and_says_so(serve, tmp_path):
    respond = lambda request, text: (429, "Retry-After: 3600\r\n", b'{"message": "daily limit"}')  # noqa: E731
    told = r"asks to wait 3600 s, longer than --patience \(120\): 429: 'daily limit'; run the same command"
    with pytest.raises(InputError, match=told):
        asked(serve, tmp_path / "t.jsonl", respond=respond, retry=Retry())


# --- tokens and draws over all runs -------------------------------------------------------------------


def test_every_token_of_every_answer_is_counted_over_all_runs(serve, tmp_path, capsys):
    """Answers without text, refused ones, redrawn ones, and those of earlier runs."""
    out, server = tmp_path / "t.jsonl", serve()
    bodies = {
        "number 0": (200, JSON, completion("")),
        "number 1": (200, JSON, completion(None, "content_filter")),
        "number 2": (200, JSON, completion("I'm sorry, but I can't help with that.")),
        "number 3": (200, JSON, completion("half of a", "abort")),
    }
    server.respond = lambda request, text: next(body for part, body in bodies.items() if part in text)
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(out), "--samples", "2"]
    command += ["--base-url", server.base_url, "--model", "echo", "--price-prompt", "1000000"]
    command += ["--omit", "stream", "--checks", "+refusal"]
    assert main(command) == 3
    requests = server.asked.total()
    assert requests == 4 * 2 * 3
    assert "in all runs: 24 requests, 120 + 72 tokens" in capsys.readouterr().err
    server.respond = lambda request, text: None
    assert main(command) == 0
    state = status(out)
    words = sum(len(thought.text.split()) for thought in read_jsonl(out, Thought))
    assert state["all runs"] == {
        "runs": 2,
        "seconds": state["all runs"]["seconds"],
        "requests": 24 + 8,
        "prompt_tokens": 120 + 8 * 7,
        "completion_tokens": 72 + words,
        "cost": 120 + 56,
    }
    assert state["last run"]["requests"] == 8


def test_draws_go_on_where_the_last_run_ended(serve, tmp_path):
    # an echo, whatever the seed
    server = serve(say=lambda request, text: f"{text} {'?' * (request['seed'] % 99)}")
    expert = ChatExpert(server.base_url, "echo")
    seeds = []
    for run in range(3):
        server.requests.clear()
        job = Job(checks=Checks(names=["echo"]), redraws=1)
        summary = think(QUERIES, expert, out=tmp_path / "t.jsonl", samples=1, job=job)
        assert summary.failures == {"echo": 4}, run
        seeds += [request["seed"] for request in server.requests]
    assert len(seeds) == len(set(seeds)) == 3 * 4 * 2


def test_another_seed_goes_on_with_the_job(serve, tmp_path):
    server, out = serve(), tmp_path / "t.jsonl"
    expert = lambda seed: ChatExpert(server.base_url, "echo", sampling=Sampling(seed=seed))  # noqa: E731
    assert think(QUERIES[:2], expert(0), out=out).asked == 6
    assert think(QUERIES, expert(7), out=out).asked == 6
    drawn = {thought.query_id: thought.source.seed for thought in read_jsonl(out, Thought)}
    from o1_synth.expert import sample_seed

    assert drawn == {f"q{n}": sample_seed(0 if n < 2 else 7, f"q{n}", 2) for n in range(4)}


# --- a server that does not sample --------------------------------------------------------------------

LONG = "short waves are scattered more than long ones by the air and reach the eye from all sides"


def test_a_server_that_does_not_sample_is_told_at_once_and_asked_again_when_it_is_mended(serve, tmp_path):
    out = tmp_path / "t.jsonl"
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(200)]
    server = serve(say=lambda request, text: f"{LONG} {text}")
    job = lambda: Job(checks=Checks())  # noqa: E731
    expert = ChatExpert(server.base_url, "echo")
    with pytest.raises(InputError, match=r"'echo' gives the same text whatever the seed \(temperature 0.8\)"):
        think(many, expert, out=out, concurrency=4, job=job())
    assert server.asked.total() < 30
    words = lambda seed: " ".join(f"w{seed * n % 997}" for n in range(1, 30))  # noqa: E731
    server.say = lambda request, text: f"{text}: {words(request['seed'])}"
    again = think(many, ChatExpert(server.base_url, "echo"), out=out, job=job())
    assert (again.thoughts, again.exhausted) == (600, 0)


def test_a_model_that_samples_may_repeat_itself_now_and_then(serve, tmp_path):
    def say(request, text):
        return LONG if "number 2 " in text else f"{text}: w{request['seed']}"

    _, summary, _ = asked(serve, tmp_path / "t.jsonl", say=say, samples=8)
    assert summary.thoughts == 32


def test_a_few_long_texts_that_are_equal_are_no_sign(serve, tmp_path):
    said = [" ".join([LONG] * 9)] * 8 + [f"{LONG} {n}" for n in range(4)]
    server = serve(say=lambda request, text: said[server.asked.total() - 1])
    expert = ChatExpert(server.base_url, "echo")
    assert think(QUERIES[:1], expert, out=tmp_path / "t.jsonl", samples=12, concurrency=1).thoughts == 12


def test_without_temperature_repeated_texts_are_what_was_asked_for(serve, tmp_path):
    many = [Query(query_id=f"q{n:03}", text=f"how does number {n} work") for n in range(40)]
    expert = {"sampling": Sampling(temperature=0.0)}
    say = lambda request, text: f"{LONG} {text}"  # noqa: E731
    _, summary, _ = asked(serve, tmp_path / "t.jsonl", say=say, samples=3, queries=many, expert=expert)
    assert summary.thoughts == 120


# --- prefixes -----------------------------------------------------------------------------------------


def test_where_the_server_continues_a_message_the_answer_begins_as_the_template_says(serve, tmp_path):
    from o1_synth.template import read_template

    def say(request, text):
        continued = request["messages"][-1]["role"] == "assistant"
        code = f"zipfile.ZipFile(path, {request['seed']})"
        return code if continued else f"Sure:\n```python\n{code}\n```\nThis opens it."

    prompt = Prompt(template=read_template("snippet"))
    for continues in (False, True):
        server = serve(say=say)
        server.fault = lambda text, attempt: ""
        expert = ChatExpert(server.base_url, "echo", prompt=prompt, request=Request(continues=continues))
        out = tmp_path / f"{continues}.jsonl"
        think(QUERIES, expert, out=out, samples=1)
        (request, *_) = server.requests
        if continues:
            assert request["messages"][-1] == {"role": "assistant", "content": "```python\n"}
            assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)
            assert request["stop"] == ["```"]
        else:
            assert request["messages"][-1]["role"] == "user" and "stop" not in request
        assert all(t.text.startswith("zipfile.ZipFile(path, ") for t in read_jsonl(out, Thought))
        assert all(t.text.endswith(f"{t.source.seed})") for t in read_jsonl(out, Thought))
