"""The server of one index, over real HTTP."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from o1_index import build, exact_search, open_index

pytestmark = pytest.mark.extra

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.integers(-40, 41, size=(300, 6)).astype("f4") / 8 + 1 / 16
QUERIES = RANDOM.integers(-40, 41, size=(9, 6)).astype("f4") / 8
IDS = [f"d{row}" for row in range(300)]
NAMES = [f"q{row}" for row in range(9)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "index"
    build(VECTORS, IDS, payloads=[{"year": 2000 + row % 30} for row in range(300)]).save(folder)
    words = [sys.executable, "-m", "o1_index", "serve", "--index", str(folder), "--port", "0", "--mmap"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if match := re.search(r"running on (http://\S+)", line):
            break
    yield match[1], open_index(folder)
    process.terminate()
    process.stderr.read()
    assert process.wait(30) == 0


def ask(url, body=None, path="/search"):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_served_index_answers_as_one_that_is_opened(server):
    url, index = server
    status, body = ask(url, {"vectors": QUERIES.tolist(), "ids": NAMES, "k": 7})
    assert status == 200
    found = [
        (result["query_id"], hit["doc_id"], hit["score"], hit["rank"])
        for result in body["results"]
        for hit in result["hits"]
    ]
    expected = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=7)
    assert found == [(hit.query_id, hit.doc_id, hit.score, hit.rank) for hit in expected]
    assert ask(url, path="/health") == (200, {"status": "ok", "documents": 300})
    assert ask(url, path="/info")[1] == index.info()


def test_filters_and_payloads_go_through(server):
    url, index = server
    asked = {
        "vectors": QUERIES[:2].tolist(), "k": 5, "where": "year >= 2020", "payloads": True,
        "only": IDS[:100], "excluded": {"1": [IDS[25]]},
    }  # fmt: skip
    results = ask(url, asked)[1]["results"]
    expected = index.search(
        QUERIES[:2], ["0", "1"], k=5, where="year >= 2020", only=set(IDS[:100]), excluded={"1": {IDS[25]}}
    )
    assert [hit["doc_id"] for result in results for hit in result["hits"]] == [hit.doc_id for hit in expected]
    for result in results:
        for hit in result["hits"]:
            assert hit["payload"] == {"year": 2000 + int(hit["doc_id"][1:]) % 30}


def test_many_clients_at_once_get_each_their_own_answer(server):
    url, index = server
    expected = [[hit.doc_id for hit in index.search(QUERIES[row : row + 1], ["q"], k=3)] for row in range(9)]

    def one(number):
        results = ask(url, {"vectors": [QUERIES[number % 9].tolist()], "k": 3})[1]["results"]
        return [hit["doc_id"] for hit in results[0]["hits"]] == expected[number % 9]

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(60)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"vectors": [[1.0, 2.0]]}, r"vectors have \[2\] dimensions, the index has 6"),
        ({"vectors": []}, "length >= 1"),
        ({"vectors": [[1.0] * 6], "k": 0}, "`int` >= 1"),
        ({"vectors": [[1.0] * 6], "top_k": 3}, "unknown field `top_k`"),
        ({"vectors": [[0.0] * 6]}, "zero"),
        ({"vectors": [[1.0] * 6], "ids": ["a", "b"]}, "2 ids for vectors of shape"),
        ({"vectors": [[1.0] * 6] * 2, "ids": ["a", "a"]}, "duplicate id 'a'"),
        ({"vectors": [[1.0] * 6], "where": "year"}, "give a field"),
        (b"{", "malformed|truncated"),
    ],
)
def test_a_bad_request_is_one_sentence_and_the_server_lives(server, body, message):
    url, _ = server
    status, answer = ask(url, body)
    assert status == 422
    assert re.search(message, answer["error"])
    assert ask(url, path="/health")[0] == 200


def test_an_unknown_path_or_method_is_said(server):
    url, _ = server
    assert ask(url, path="/nothing") == (404, {"error": "GET /nothing: Not Found"})
    assert ask(url, path="/search") == (405, {"error": "GET /search: Method Not Allowed"})
