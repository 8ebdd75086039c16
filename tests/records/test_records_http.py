"""A post that is tried again where that helps, against a real server on this machine."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from o1_records import InputError
from o1_records.kit.http import Address, address, embeddings, is_address, post


class Answer(msgspec.Struct):
    data: list[int]


@pytest.fixture
def server():
    """A server that answers with the next of `answers`: (status, headers, body)."""
    answers, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body), self.headers.get("Authorization")))
            status, headers, text = answers.pop(0)
            if status is None:  # breaks off
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.answers, running.asked = answers, asked
    running.url = f"http://127.0.0.1:{running.server_address[1]}/v1/embeddings"
    yield running
    running.shutdown()
    running.server_close()


GOOD = (200, {}, b'{"data": [1, 2], "more": 3}')


def test_an_address_names_server_and_model():
    assert address("http://localhost:8000/v1/#org/name") == Address("http://localhost:8000/v1", "org/name")
    assert is_address("https://host/v1#m")
    assert not is_address("org/name")
    for wrong in ("http://localhost:8000/v1", "http://#m", "http://[::1/v1#m"):
        with pytest.raises(InputError, match=r"http://"):
            address(wrong)


def test_the_answer_is_checked_and_the_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answers.append(GOOD)
    assert post(server.url, {"input": ["é"]}, Answer) == Answer([1, 2])
    assert server.asked == [("/v1/embeddings", {"input": ["é"]}, "Bearer secret")]


@pytest.mark.parametrize(
    "passing", [(503, {}, b"busy"), (429, {"Retry-After": "0"}, b""), (None, {}, b""), (500, {}, b"")]
)
def test_a_server_that_is_busy_is_asked_again(server, passing):
    server.answers += [passing, GOOD]
    assert post(server.url, {}, Answer, wait=0.01) == Answer([1, 2])
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([(400, {}, b"unknown model")], "status 400: 'unknown model'"),
        ([(200, {}, b"<html>")], "is it an OpenAI-compatible server"),
        ([(200, {}, b'{"data": ["x"]}')], "Expected `int`, got `str`"),
        ([(503, {}, b"still busy")] * 3, "status 503: 'still busy'"),
    ],
)
def test_what_will_not_change_is_an_error_with_the_address(server, answers, complaint):
    server.answers += answers
    with pytest.raises(InputError, match=complaint) as caught:
        post(server.url, {}, Answer, tries=3, wait=0.01)
    assert str(caught.value).startswith(server.url)
    assert len(server.asked) == len(answers)


def test_nobody_there_is_an_error():
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=r"127\.0\.0\.1.*refused"):
            post(f"http://127.0.0.1:{port}/v1/x", {}, Answer, tries=2, wait=0.01)


def embedded(*rows, model="served"):
    data = [{"index": n, "embedding": list(row)} for n, row in rows]
    return 200, {}, json.dumps({"data": data, "model": model}).encode()


def test_embeddings_come_back_in_order_and_an_empty_text_is_sent_as_a_space(server):
    where = Address(server.url.removesuffix("/embeddings"), "m")
    server.answers += [embedded((1, [0, 2]), (0, [1, 0])), embedded((0, [3, 0]))]
    rows, name = embeddings(where, ["a", "", "b"], batch=2)
    assert (rows, name) == ([[1, 0], [0, 2], [3, 0]], "served")
    assert [body["input"] for _, body, _ in server.asked] == [["a", " "], ["b"]]
    assert embeddings(where, []) == ([], "m")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([(0, [1, 0])], "1 vectors for 2 texts"),
        ([(0, [1, 0]), (1, [1])], "of several lengths"),
        ([(0, [1, 0]), (1, [0, 0])], "the vector of 'b' is zero or not finite"),
    ],
)
def test_other_embeddings_than_were_asked_for_are_refused(server, rows, complaint):
    server.answers.append(embedded(*rows))
    with pytest.raises(InputError, match=complaint):
        embeddings(Address(server.url.removesuffix("/embeddings"), "m"), ["a", "b"])


def test_the_key_goes_to_no_other_host(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answers.append((302, {"Location": server.url.replace("127.0.0.1", "localhost")}, b""))
    with pytest.raises(InputError, match=r"status 302: it redirects to 'http://localhost"):
        post(server.url, {}, Answer)
    assert len(server.asked) == 1
