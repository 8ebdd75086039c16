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
import torch

from helpers.served import post, running, vectors
from o1_model import Embedder, Thinking
from o1_model.backbone import embedding_matrix
from o1_model.layout import text_ids
from o1_model.thinking.gate import Gate
from o1_records import InputError

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


@pytest.fixture(scope="module")
def address(checkpoint):
    url, stop = running(
        Embedder.from_pretrained(checkpoint), max_inputs=300, max_body=200_000, token_ids=True
    )
    yield url
    stop()


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


def test_the_servers_thoughts_are_the_librarys(address, local):
    """By the text and the seed alone: what is measured is what is served."""
    thinking = Thinking(**{name: THINK[name] for name in ("samples", "max_tokens", "temperature", "seed")})
    served = post(address, input=TEXTS[:2], think=THINK)
    own: dict[str, list[str]] = {text: [] for text in TEXTS[:2]}
    for text in own:
        own[text] = [thought.text for thought in local.think(text, thinking)]
    assert [entry["thoughts"] for entry in served.json()["data"]] == list(own.values())
    np.testing.assert_allclose(vectors(served), local.encode_query(TEXTS[:2], think=thinking), atol=1e-5)


def test_an_instruction_of_the_request_is_the_librarys(address, local):
    got = vectors(post(address, input=TEXTS, instruction="list the keys"))
    np.testing.assert_allclose(got, local.encode_query(TEXTS, instruction="list the keys"), atol=1e-6)
    refused = post(address, input=[[5, 6]], instruction="list")
    assert refused.status_code == 422
    assert "token ids are read as they are" in refused.json()["error"]["message"]


def test_thoughts_of_the_request_are_read(address, local):
    """Such as o1-synth or another model wrote."""
    brought = [["read the bytes", "open"], [], ["sort"]]
    got = vectors(post(address, input=TEXTS[:3], thoughts=brought))
    np.testing.assert_allclose(got, local.encode_query(TEXTS[:3], thoughts=brought), atol=1e-6)
    for thoughts in (["open", "sort"], [["open", "sort"]]):
        one = vectors(post(address, input=TEXTS[0], thoughts=thoughts))
        np.testing.assert_allclose(one[0], local.encode_query(TEXTS[0], thoughts=["open", "sort"]), atol=1e-6)
    both = vectors(post(address, input=TEXTS[0], thoughts=["open"], think={"with_query": True}))
    expected = local.encode_query(TEXTS[0], thoughts=["open"], with_query=True)
    np.testing.assert_allclose(both[0], expected, atol=1e-6)


@pytest.mark.parametrize("input_type", ["query", "document"])
def test_what_is_cut_is_said(address, local, input_type):
    most = getattr(local.layout, f"{input_type}_length")
    texts = ["sort", "list " * (most + 1), "open", "keys " * 50_0]
    reply = post(address, input=texts, input_type=input_type)
    assert reply.headers["X-Truncated-Inputs"] == "2"
    assert reply.json()["truncated"] == [1, 3]
    fits = post(address, input=["list " * most], input_type=input_type)
    assert "X-Truncated-Inputs" not in fits.headers
    assert "truncated" not in fits.json()
    thought = post(address, input="sort", thoughts=["list " * 50])
    assert thought.json()["truncated"] == [0]
    assert f'o1_inputs_truncated_total{{input_type="{input_type}"}}' in httpx2.get(f"{address}/metrics").text


def test_token_ids_are_refused_where_nobody_has_allowed_them(local):
    """LangChain's client sends those of OpenAI's tokenizer unless it is told not to."""
    url, stop = running(local)
    replies = [post(url, input=ids) for ids in ([5, 6], [[5, 6]])]
    stop()
    for reply in replies:
        assert reply.status_code == 422
        assert "check_embedding_ctx_length=False" in reply.json()["error"]["message"]


def test_only_clients_with_a_key_are_served(local):
    url, stop = running(local, api_keys=("first", "second"))
    codes = {}
    for path in ("/v1/models", "/info", "/health", "/metrics", "/openapi.json"):
        for key in (None, "third", "first", "second"):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            codes[path, key] = httpx2.get(url + path, headers=headers).status_code
    body = {"input": "sort"}
    stranger = httpx2.post(f"{url}/v1/embeddings", json=body, headers={"Authorization": "Bearer third"})
    friend = httpx2.post(f"{url}/v1/embeddings", json=body, headers={"Authorization": "Bearer second"})
    stop()
    for path in ("/v1/models", "/info"):
        assert [codes[path, key] for key in (None, "third", "first", "second")] == [401, 401, 200, 200]
    # what load balancers and Prometheus ask
    assert {code for (path, _), code in codes.items() if path in ("/health", "/metrics")} == {200}
    assert (stranger.status_code, friend.status_code) == (401, 200)
    assert "Authorization: Bearer KEY" in stranger.json()["error"]["message"]


def test_web_pages_may_ask_where_they_are_allowed(local):
    url, stop = running(local, cors_origins=("https://mine.example",), api_keys=("k",))
    asked = {"Origin": "https://mine.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    allowed = httpx2.request("OPTIONS", f"{url}/v1/embeddings", headers=asked)
    strange = httpx2.request(
        "OPTIONS", f"{url}/v1/embeddings", headers={**asked, "Origin": "https://other.example"}
    )
    stop()
    assert allowed.headers["access-control-allow-origin"] == "https://mine.example"
    assert "access-control-allow-origin" not in strange.headers


def test_the_model_has_the_names_it_is_given(local):
    url, stop = running(local, names=("retriever", "org/retriever"))
    listed = [entry["id"] for entry in httpx2.get(f"{url}/v1/models").json()["data"]]
    found = [httpx2.get(f"{url}/v1/models/{name}") for name in ("retriever", "org/retriever", "tiny")]
    by_name = [post(url, input="sort", model=name) for name in ("retriever", "org/retriever", "", "tiny")]
    stop()
    assert listed == ["retriever", "org/retriever"]
    assert [reply.status_code for reply in found] == [200, 200, 404]
    assert found[1].json()["id"] == "org/retriever"
    assert found[1].json()["dimensions"] == 32
    assert [reply.status_code for reply in by_name] == [200, 200, 200, 404]
    assert [reply.json()["model"] for reply in by_name[:3]] == ["retriever", "org/retriever", "retriever"]


def test_the_server_says_what_it_serves_and_how(checkpoint, local):
    thinking = Thinking(samples=2, max_tokens=6)
    url, stop = running(local, think=thinking, max_inputs=7)
    info, schema = (httpx2.get(f"{url}/{name}").json() for name in ("info", "openapi.json"))
    stop()
    assert (info["model_id"], info["model_sha"], info["model_dtype"]) == ("tiny", local.digest, "float32")
    assert (info["dimensions"], info["max_client_batch_size"], info["token_ids"]) == (32, 7, False)
    assert info["think"] == {
        "samples": 2, "max_tokens": 6, "temperature": 0.7, "top_p": 0.9, "seed": 0,
    }  # fmt: skip
    assert info["layout"]["query_length"] == 12
    assert schema["openapi"] == "3.1.0"
    fields = schema["components"]["schemas"]["EmbeddingRequest"]["properties"]
    assert {"input", "model", "instruction", "thoughts", "think", "input_type", "dimensions"} <= set(fields)


def test_the_server_thinks_by_default_unless_the_client_says_otherwise(local):
    thinking = Thinking(samples=2, max_tokens=6, temperature=2.0)
    url, stop = running(local, think=thinking, default_input_type="query")
    asked = {
        "default": {},
        "no": {"think": False},
        "more": {"think": {"samples": 3}},
        "document": {"input_type": "document"},
    }
    got = {name: vectors(post(url, input=TEXTS[:2], **more)) for name, more in asked.items()}
    stop()
    more = Thinking(samples=3, max_tokens=6, temperature=2.0)
    expected = {
        "default": local.encode_query(TEXTS[:2], think=thinking),
        "no": local.encode_query(TEXTS[:2]),
        "more": local.encode_query(TEXTS[:2], think=more),
        "document": local.encode_document(TEXTS[:2]),
    }
    for name, found in got.items():
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)


def test_a_gate_decides_on_the_server_too(local):
    signals = local.signals(TEXTS[:3])
    middle = sorted(signal.entropy for signal in signals)[1]
    gate = Gate(signal="entropy", threshold=middle, above=True)
    thinking = Thinking(samples=2, max_tokens=6, temperature=2.0)
    url, stop = running(local, think=thinking, gate=gate)
    served = post(url, input=TEXTS[:3], input_type="query", think=None)
    forced = post(url, input=TEXTS[:3], think={"samples": 2})
    stop()
    expected = local.encode_query(TEXTS[:3], think=thinking, gate=gate)
    np.testing.assert_allclose(vectors(served), expected, atol=1e-5)
    np.testing.assert_allclose(vectors(forced), local.encode_query(TEXTS[:3], think=thinking), atol=1e-5)
    with pytest.raises(InputError, match="a gate that needs margins cannot serve"):
        running(local, think=thinking, gate=Gate(signal="margin", threshold=0.1, above=False))


def test_numbers_that_are_none_are_never_served(checkpoint):
    broken = Embedder.from_pretrained(checkpoint, device="cpu")
    (ids,) = [row.ids for row in broken.document_rows(["zip"])]
    with torch.no_grad():
        embedding_matrix(broken.backbone.lm)[ids[2], 0] = torch.nan
    url, stop = running(broken)
    replies = [post(url, input=["sort", "zip"], encoding_format=how) for how in ("float", "base64")]
    sound = post(url, input=["sort", "list"])
    stop()
    for reply in replies:
        assert reply.status_code == 500
        assert "not finite" in reply.json()["error"]["message"]
    assert sound.status_code == 200


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
        ({"input": "a", "thoughts": ["b"], "input_type": "document"}, "thoughts is for queries"),
        ({"input": "a", "instruction": "b", "input_type": "document"}, "instruction is for queries"),
        ({"input": ["a", "b"], "thoughts": ["c", "d"]}, "2 inputs but thoughts for 1"),
        ({"input": ["a", "b"], "thoughts": []}, "2 inputs but thoughts for 0"),
        ({"input": "a", "thoughts": ["b", ["c"]]}, "thoughts mix texts and lists"),
        ({"input": "a", "thoughts": ["b"], "think": True}, "give thoughts or think, not both"),
        ({"input": "a", "thoughts": ["b"], "think": {"samples": 2}}, "give thoughts or think, not both"),
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


def test_a_server_that_thinks_and_asks_for_a_key_passes_its_certificate(
    checkpoint, local, monkeypatch, capsys
):
    from o1_model.__main__ import main

    url, stop = running(local, think=Thinking(samples=2, max_tokens=6), api_keys=("secret",))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    stranger = main(["verify", "--model", str(checkpoint), "--server", url])
    said = capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    friend = main(["verify", "--model", str(checkpoint), "--server", url])
    buckets = httpx2.get(f"{url}/metrics").text
    stop()
    assert (stranger, friend) == (4, 0)
    assert "401" in said
    assert ": pass (16 vectors" in capsys.readouterr().out
    assert 'o1_request_seconds_bucket{le="300.0"}' in buckets  # thinking takes longer than 10 s
