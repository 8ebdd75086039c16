"""The server as its clients see it: a real one, over real connections."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from o1_model import Embedder, Thinking
from o1_model.layout import text_ids

httpx2 = pytest.importorskip("httpx2")
pytestmark = pytest.mark.extra

TEXTS = ["how do i open a zip file", "sort a list of keys", "read the bytes of a text file", ""]
THINK = {"samples": 2, "max_tokens": 6, "temperature": 1.0, "seed": 3, "return_thoughts": True}


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def local(checkpoint):
    return Embedder.from_pretrained(checkpoint)


def running(embedder, **limits):
    """A server in a thread; gives its address and a function that stops it."""
    import uvicorn

    from o1_model.serving.server import Serving, application

    app = application(embedder, Serving(**limits))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop():
        server.should_exit = True
        thread.join(30)

    return f"http://127.0.0.1:{port}", stop


@pytest.fixture(scope="module")
def address(checkpoint):
    url, stop = running(
        Embedder.from_pretrained(checkpoint), max_inputs=300, max_body=200_000, token_ids=True
    )
    yield url
    stop()


def post(address, **body):
    return httpx2.post(f"{address}/v1/embeddings", json=body, timeout=60)


def vectors(reply):
    assert reply.status_code == 200, reply.text
    return np.array([entry["embedding"] for entry in reply.json()["data"]], dtype=np.float32)


def test_the_openai_client_gets_the_vectors_of_the_library(address, local):
    from openai import OpenAI

    with OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        documents = client.embeddings.create(model="tiny", input=TEXTS)
        query = client.embeddings.create(
            model="tiny", input=TEXTS[0], dimensions=8, extra_body={"input_type": "query"}
        )
    got = np.array([entry.embedding for entry in documents.data])
    np.testing.assert_allclose(got, local.encode_document(TEXTS), atol=1e-6)
    cut = local.encode_query(TEXTS[0])[:8]
    np.testing.assert_allclose(query.data[0].embedding, cut / np.linalg.norm(cut), atol=1e-6)
    assert documents.usage.prompt_tokens > 0


def test_token_ids_stand_for_the_text_they_come_from(address, local):
    ids = text_ids(local.tokenizer, TEXTS[:3])
    for role in ("query", "document"):
        expected = vectors(post(address, input=TEXTS[:3], input_type=role))
        np.testing.assert_allclose(vectors(post(address, input=ids, input_type=role)), expected, atol=1e-6)
    one = vectors(post(address, input=ids[0], input_type="query"))
    np.testing.assert_allclose(one, vectors(post(address, input=TEXTS[0], input_type="query")), atol=1e-6)


def test_null_is_the_default_of_what_clients_send_empty(address):
    nulls = {"encoding_format": None, "user": None, "dimensions": None, "input_type": None, "think": None}
    assert post(address, input=TEXTS, **nulls).json() == post(address, input=TEXTS).json()


def test_base64_holds_the_same_numbers(address):
    plain = vectors(post(address, input=TEXTS))
    coded = post(address, input=TEXTS, encoding_format="base64").json()["data"]
    raw = [np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4") for entry in coded]
    np.testing.assert_array_equal(np.stack(raw), plain)


def test_thinking_gives_the_thoughts_and_their_vector_whatever_else_is_asked(address, local):
    body = {"input": TEXTS[:2], "think": THINK}
    alone = post(address, **body)
    again = [post(address, input=TEXTS[:1], think=THINK), alone]
    thoughts = [entry["thoughts"] for entry in alone.json()["data"]]
    assert [len(own) for own in thoughts] == [2, 2]
    assert again[0].json()["data"][0]["thoughts"] == thoughts[0]
    assert not np.allclose(vectors(alone), local.encode_query(TEXTS[:2]), atol=1e-4)
    quiet = post(address, input=TEXTS[:2], think={**THINK, "return_thoughts": False})
    np.testing.assert_allclose(vectors(quiet), vectors(alone), atol=1e-5)
    assert "thoughts" not in quiet.json()["data"][0]
    assert Thinking(samples=2).samples == 2


def test_a_text_gets_the_instruction_of_its_checkpoint(plain_models, tmp_path):
    plain = Embedder.from_backbone(plain_models["llama"], name="instruct", instruction="sort the list")
    plain.save_pretrained(tmp_path / "instructed")
    embedder = Embedder.from_pretrained(tmp_path / "instructed")
    address, stop = running(embedder)
    got = vectors(post(address, input=TEXTS, input_type="query"))
    stop()
    np.testing.assert_allclose(got, embedder.encode_query(TEXTS), atol=1e-6)


def test_control_tokens_in_a_text_stay_text_and_as_ids_are_refused(address, local):
    spelled = "open <emb> a <thought> file"
    got = vectors(post(address, input=spelled))
    np.testing.assert_allclose(got[0], local.encode_document(spelled), atol=1e-6)
    refused = post(address, input=[local.layout.emb])
    assert refused.status_code == 422
    assert "control token" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": []}, "empty list"),
        ({}, "input"),
        ({"input": "a", "inptu": 1}, "inptu"),
        ({"input": ["a", 3]}, "int and str"),
        ({"input": [10_000_000]}, "outside the vocabulary"),
        ({"input": [-1]}, ">= 0"),
        ({"input": "a", "dimensions": 33}, "dimensions must be at most 32"),
        ({"input": "a", "dimensions": 0}, ">= 1"),
        ({"input": "a", "encoding_format": "hex"}, "hex"),
        ({"input": "a", "input_type": "passage"}, "passage"),
        ({"input": "a", "think": {"samples": 0}}, ">= 1"),
        ({"input": "a", "think": {"temperature": 1e308}}, "cannot think: temperature must be"),
        ({"input": "a", "think": {}, "input_type": "document"}, "think is for queries"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(address, body, words):
    reply = post(address, **body)
    assert reply.status_code == 422
    assert words in reply.json()["error"]["message"]


def test_what_is_not_json_too_large_or_elsewhere_has_its_own_answer(address):
    url = f"{address}/v1/embeddings"
    assert httpx2.post(url, content=b'{"input": "a').status_code == 422
    assert httpx2.post(url, content=b"[" * 100_000).status_code == 422
    assert httpx2.post(url, content=b"\xff\xfe").status_code == 422
    assert httpx2.post(url, content=b"x" * 300_000).status_code == 413
    assert post(address, input=["a"] * 301).status_code == 413
    assert post(address, input="a", model="another").status_code == 404
    for reply in (httpx2.get(url), httpx2.get(f"{address}/v2")):
        assert reply.json()["error"]["code"] == reply.status_code >= 404


def test_200_clients_at_once_each_get_their_own_vectors_in_shared_batches(address, local):
    texts = [f"{a} {b} {c}" for a in TEXTS[0].split() for b in TEXTS[1].split() for c in TEXTS[2].split()]
    texts = texts[:200]

    async def ask():
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
            bodies = [{"input": text, "input_type": "query"} for text in texts]
            replies = await asyncio.gather(
                *[client.post(f"{address}/v1/embeddings", json=body) for body in bodies]
            )
        return np.concatenate([vectors(reply) for reply in replies])

    np.testing.assert_allclose(asyncio.run(ask()), local.encode_query(texts), atol=1e-6)
    metrics = httpx2.get(f"{address}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    batches, inputs = (float(values[f"o1_batch_inputs_{what}"]) for what in ("count", "sum"))
    assert inputs / batches > 2
    assert float(values["o1_inputs_waiting"]) == 0


def slow(checkpoint, seconds):
    """An embedder whose batches take a while."""
    embedder = Embedder.from_pretrained(checkpoint)
    encode = embedder.read

    def encode_slowly(rows):
        time.sleep(seconds)
        return encode(rows)

    embedder.read = encode_slowly
    return embedder


def test_a_full_queue_answers_429_with_the_time_to_come_back(checkpoint):
    address, stop = running(slow(checkpoint, 0.5), max_waiting=4, batch_tokens=32)

    async def ask():
        async with httpx2.AsyncClient(timeout=60) as client:
            calls = [client.post(f"{address}/v1/embeddings", json={"input": ["a"] * 2}) for _ in range(12)]
            return await asyncio.gather(*calls)

    replies = asyncio.run(ask())
    stop()
    codes = [reply.status_code for reply in replies]
    assert set(codes) == {200, 429}
    assert all(int(r.headers["Retry-After"]) >= 1 for r in replies if r.status_code == 429)


def test_what_an_empty_queue_cannot_hold_is_too_large_and_not_told_to_come_back(local):
    address, stop = running(local, max_waiting=4)
    reply, fits = post(address, input=["a"] * 5), post(address, input=["a"] * 4)
    stop()
    assert (reply.status_code, fits.status_code) == (413, 200)
    assert "Retry-After" not in reply.headers


@pytest.mark.parametrize("option", ["--batch-tokens", "--max-waiting", "--max-inputs"])
def test_a_limit_of_nothing_is_refused_before_the_model_is_loaded(option, capsys):
    from o1_model.__main__ import main

    with pytest.raises(SystemExit):
        main(["serve", "--model", "nowhere", option, "0"])
    assert "1 or more" in capsys.readouterr().err


def test_a_client_that_leaves_frees_its_work(checkpoint):
    address, stop = running(slow(checkpoint, 0.3), batch_tokens=16)
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"input": ["a b c d e f"] * 200}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
        assert httpx2.get(f"{address}/health").json()["waiting"] > 100
    # 200 inputs would take half a minute; its work is gone, so another client is served at once
    post(address, input="a")
    assert httpx2.get(f"{address}/health").json()["waiting"] == 0
    assert 'status="499"' in httpx2.get(f"{address}/metrics").text
    stop()


def test_a_failing_batch_is_a_500_and_the_server_lives_on(checkpoint):
    embedder = Embedder.from_pretrained(checkpoint)
    encode, failures = embedder.read, [RuntimeError("bus error")]

    def encode_once_broken(rows):
        if failures:
            raise failures.pop()
        return encode(rows)

    embedder.read = encode_once_broken
    address, stop = running(embedder)
    replies = [post(address, input="a") for _ in range(2)]
    stop()
    assert [reply.status_code for reply in replies] == [500, 200]
    assert "bus error" not in replies[0].text


def test_sigterm_drains_what_clients_wait_for_and_exits_0(checkpoint):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "o1_model", "serve", "--model", str(checkpoint), "--port", str(port)]
    server = subprocess.Popen([*command, "--batch-tokens", "64"], stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx2.get(f"{address}/health")
                break
            except httpx2.ConnectError:
                assert server.poll() is None, server.stderr.read()
                time.sleep(0.1)
        replies = []
        body = {"input": ["how do i open a file"] * 2000}
        client = threading.Thread(target=lambda: replies.append(post(address, **body)))
        client.start()
        while httpx2.get(f"{address}/health").json()["waiting"] == 0:
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGTERM)
        client.join(60)
        assert vectors(replies[0]).shape == (2000, 32)
        assert server.wait(30) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{address}/health")
    finally:
        server.kill()
        server.stderr.close()
