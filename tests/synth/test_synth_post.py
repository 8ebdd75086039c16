"""Requests on the wire: redirects, proxies, how many at once, how often again."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from o1_records import InputError, Query, write_jsonl
from o1_synth import ChatExpert, Checks, Job, Sampling, think
from o1_synth.__main__ import main
from o1_synth.chat.http import _proxy


@pytest.fixture
def redirecting():
    """A server that sends everything elsewhere, and what it was asked with which key."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, self.headers.get("authorization")))
            listing = self.server.lists and self.path.endswith("/models")
            self.send_response(200 if listing else 307)
            if not listing:
                self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            body = b'{"data": [{"id": "echo"}]}' if listing else b""
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815  names that http.server asks for

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.lists = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()


def test_a_redirect_is_told_and_the_key_goes_nowhere_else(redirecting, tmp_path):
    server, base_url, seen = redirecting
    expert = ChatExpert(base_url, "echo", api_key="secret")
    with pytest.raises(InputError, match=r"redirects to 'http://127.0.0.1:\d+/elsewhere' \(307\)"):
        think([Query(query_id="q", text="x")], expert, out=tmp_path / "t.jsonl", samples=1)
    server.lists = False
    with pytest.raises(InputError, match=r"status 307, which redirects to http://127.0.0.1:\d+/elsewhere"):
        ChatExpert(base_url, "echo", api_key="secret")
    assert "/elsewhere" not in [path for path, _ in seen]


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_an_authorization_of_ones_own_goes_in_place_of_the_key(serve, tmp_path, monkeypatch, name):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    write_jsonl(tmp_path / "q.jsonl", [Query(query_id="q", text="x")])
    server = serve()
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    command += ["--base-url", server.base_url, "--model", "echo", "--samples", "1"]
    command += [
        "--header",
        f"{name}: Basic dTpw",
        "--header",
        "Content-Type: application/json; charset=utf-8",
    ]
    assert main(command) == 0
    assert len(server.heads) == 2, "the list of models and a request"
    for head in server.heads:
        lines = [line.partition(":") for line in head.splitlines()]
        sent = [(name.lower(), value.strip()) for name, _, value in lines]
        assert [value for name, value in sent if name == "authorization"] == ["Basic dTpw"]
        types = [value for name, value in sent if name == "content-type"]
        assert types == ["application/json; charset=utf-8"]


def test_the_proxy_of_the_environment_is_asked_for_http(serve, tmp_path, monkeypatch):
    server = serve()
    expert = ChatExpert(server.base_url, "echo")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "127.0.0.1:3128")
    assert _proxy("http://model.invalid/v1") == "http://127.0.0.1:3128"
    assert _proxy("https://model.invalid/v1") is None
    monkeypatch.setenv("no_proxy", "model.invalid:80,other")
    assert _proxy("http://model.invalid:80/v1") is None
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(InputError, match=r"the proxy socks5://127.0.0.1:1, which is not an HTTP proxy"):
        think([Query(query_id="q", text="x")], expert, out=tmp_path / "t.jsonl", samples=1)


def test_more_requests_than_a_hundred_are_in_flight_at_once(serve, tmp_path):
    server = serve(delay=(0.3, 0.3), keep=False)
    queries = [Query(query_id=f"q{n}", text=f"query {n}") for n in range(150)]
    think(queries, ChatExpert(server.base_url, "echo"), out=tmp_path / "t.jsonl", samples=1, concurrency=150)
    assert server.most_at_once > 120


@pytest.mark.parametrize("redraws", [0, 3])
def test_a_refused_text_is_drawn_again_so_many_times(serve, tmp_path, redraws):
    server = serve(say=lambda request, text: "I'm sorry, but I can't help with that.")
    job = Job(checks=Checks(names=("refusal",)), redraws=redraws)
    expert = ChatExpert(server.base_url, "echo")
    think([Query(query_id="q", text="x")], expert, out=tmp_path / "t.jsonl", samples=1, job=job)
    assert server.asked.total() == 1 + redraws


@pytest.mark.parametrize("wrong", [{"temperature": float("nan")}, {"top_p": 0.0}, {"max_tokens": 0}])
def test_a_sampling_that_no_model_can_draw_with_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"{name} must be"):
        Sampling(**wrong)
