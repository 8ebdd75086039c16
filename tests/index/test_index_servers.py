"""Parts of a collection on several servers, searched as one behind one address, over real HTTP."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from o1_index import build, exact_search, open_index
from o1_index.__main__ import main
from o1_index.servers import MOST_QUERIES, ServerError, Servers
from o1_index.vector_store import Shards
from o1_records import InputError, trec

pytestmark = pytest.mark.extra

RANDOM = np.random.default_rng(5)
ROWS = 400
VECTORS = RANDOM.integers(-6, 7, (ROWS, 8)).astype("f4") / 8 + 1 / 16
VECTORS[::5] = VECTORS[0]  # 80 documents that tie, on every server
IDS = [f"d{row}" for row in RANDOM.permutation(ROWS)]
PAYLOADS = [{"row": row} for row in range(ROWS)]
QUERIES = np.concatenate([VECTORS[:2], RANDOM.integers(-6, 7, (7, 8)).astype("f4") / 8])
NAMES = [f"q{row}" for row in range(len(QUERIES))]
PARTS = [slice(0, 150), slice(150, 151), slice(151, ROWS)]


@contextlib.contextmanager
def serving(store, port=0):
    """The address of a server of a store, in a thread."""
    import uvicorn

    from o1_index.serve import application

    config = uvicorn.Config(application(store), port=port, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def parts(metric="inner_product"):
    return [build(VECTORS[part], IDS[part], payloads=PAYLOADS[part], metric=metric) for part in PARTS]


@pytest.fixture(scope="module")
def addresses():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(index)) for index in parts()]


@pytest.fixture(scope="module")
def together(addresses):
    with Servers(addresses) as servers:
        yield servers


@pytest.fixture(scope="module")
def front(together):
    with serving(together) as address:
        yield address


@pytest.fixture(scope="module")
def whole():
    return build(VECTORS, IDS, payloads=PAYLOADS)


def post(address, body, path="/search"):
    try:
        request = urllib.request.Request(address + path, body and json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("k", [1, 7, 79, 80, 81, ROWS, 1000])
def test_servers_give_the_hits_of_one_index_ties_included(together, k):
    expected = list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=k))
    assert list(together.search(QUERIES, NAMES, k=k)) == expected


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_so_they_do_by_every_metric_and_in_float64(metric):
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(serving(index)) for index in parts(metric)]
        servers = stack.enter_context(Servers(addresses))
        one = build(VECTORS, IDS, metric=metric)
        for queries in (QUERIES, QUERIES.astype("f8"), QUERIES.astype("f2")):
            assert list(servers.search(queries, NAMES, k=90)) == list(one.search(queries, NAMES, k=90))


def test_filters_exclusions_and_payloads_go_to_every_server(together, whole):
    for options in [
        {"where": "row < 160"},
        {"where": ["row >= 140", "row < 160"]},
        {"only": set(IDS[100:200])},
        {"only": set()},
        {"only": set(IDS[::3]), "where": "row >= 100", "excluded": {"q0": set(IDS[:300]), "q3": {IDS[399]}}},
    ]:
        hits = together.search(QUERIES, NAMES, k=30, payloads=True, **options)
        assert list(hits) == list(whole.search(QUERIES, NAMES, k=30, **options))
        for hit, row in zip(hits, hits.rows[hits.rows >= 0].tolist(), strict=True):
            assert hits.names.payload(row) == {"row": IDS.index(hit.doc_id)}


def test_fetch_brings_documents_of_all_servers_in_the_order_asked_for(together, front, whole):
    ids = ["unknown", *IDS[140:160][::-1], IDS[0], IDS[399]]
    mine, theirs = together.fetch(ids), whole.fetch(ids)
    assert (mine.ids, mine.payloads) == (theirs.ids, theirs.payloads)
    assert np.array_equal(mine.vectors, theirs.vectors)
    assert together.fetch([]).vectors.shape == (0, 8)
    status, body = post(front, {"ids": ids}, "/fetch")
    assert status == 200
    assert [each["doc_id"] for each in body["documents"]] == theirs.ids
    assert [each["vector"] for each in body["documents"]] == theirs.vectors.tolist()
    assert [each["payload"] for each in body["documents"]] == theirs.payloads
    assert post(front, {"ids": ["a", "a"]}, "/fetch") == (422, {"error": "duplicate id 'a' (rows 0 and 1)"})


def test_one_address_answers_as_the_server_of_one_index_would(front, whole):
    with serving(whole) as alone:
        for body in [
            {"vectors": QUERIES.tolist(), "ids": NAMES, "k": 85, "payloads": True},
            {"vectors": QUERIES[:2].tolist(), "k": 5, "where": "row >= 390", "only": IDS[380:]},
            {"vectors": [[0.0] * 8]},
            {"vectors": [[1.0, 2.0]]},
            {"vectors": [[1.0] * 8], "k": 0},
            {"vectors": [[1.0] * 8], "where": "row"},
            {"vectors": [[1.0] * 8], "ids": ["a", "b"]},
        ]:
            assert post(front, body) == post(alone, body)
        assert post(front, None, "/health") == post(alone, None, "/health")


def test_a_front_may_be_a_part_of_another_front(front, addresses, tmp_path):
    more = build(np.eye(8, dtype="f4") * 9, [f"more{row}" for row in range(8)])
    with serving(more) as address, Servers([front, address]) as servers:
        ids = [*IDS, *(f"more{row}" for row in range(8))]
        vectors = np.concatenate([VECTORS, np.eye(8, dtype="f4") * 9])
        expected = list(exact_search((ids, vectors), (NAMES, QUERIES), k=90))
        assert list(servers.search(QUERIES, NAMES, k=90)) == expected
        assert servers.info()["documents"] == servers.count() == ROWS + 8
        assert list(servers.info()["servers"][front]["servers"]) == addresses


def test_more_queries_than_a_request_may_have_are_asked_for_in_turn(together, whole):
    count = MOST_QUERIES + 3
    names, queries = [f"q{row}" for row in range(count)], np.resize(QUERIES, (count, 8))
    assert list(together.search(queries, names, k=3)) == list(whole.search(queries, names, k=3))


def test_many_clients_at_once_get_each_their_own_answer(front, whole):
    def one(number):
        row = number % len(QUERIES)
        results = post(front, {"vectors": [QUERIES[row].tolist()], "k": 3})[1]["results"]
        expected = [hit.doc_id for hit in whole.search(QUERIES[row : row + 1], ["q"], k=3)]
        return [hit["doc_id"] for hit in results[0]["hits"]] == expected

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(40)))


def test_a_server_that_is_away_is_one_error_or_a_marked_part():
    first, second, third = parts()
    asked = {"vectors": QUERIES.tolist(), "ids": NAMES, "k": 30}
    with contextlib.ExitStack() as stack:
        there = [stack.enter_context(serving(index)) for index in (first, third)]
        with serving(second) as gone:
            servers = stack.enter_context(Servers([there[0], gone, there[1]]))
        front = stack.enter_context(serving(servers))
        message = rf"^{gone}: does not answer \(.*refused\); its documents cannot be searched$"
        for status, body in [
            post(front, asked),
            post(front, {"ids": IDS[:3]}, "/fetch"),
            post(front, None, "/info"),
            post(front, None, "/health"),
        ]:
            assert status == 502
            assert re.search(message, body["error"])
        with pytest.raises(ServerError, match=message):
            servers.search(QUERIES, NAMES, k=3)
        status, body = post(front, {**asked, "partial": True})
        assert status == 200
        assert body["missing"].keys() == {gone}
        assert re.search(message, body["missing"][gone])
        ids, vectors = [*IDS[:150], *IDS[151:]], np.concatenate([VECTORS[:150], VECTORS[151:]])
        found = [(each["query_id"], hit["doc_id"]) for each in body["results"] for hit in each["hits"]]
        left = exact_search((ids, vectors), (NAMES, QUERIES), k=30)
        assert found == [(hit.query_id, hit.doc_id) for hit in left]


def test_where_no_server_answers_there_is_no_partial_answer():
    with contextlib.ExitStack() as stack:
        with serving(parts()[0]) as gone:
            servers = stack.enter_context(Servers([gone]))
        front = stack.enter_context(serving(servers))
        status, body = post(front, {"vectors": QUERIES.tolist(), "partial": True})
    assert status == 502
    assert body["error"].startswith(f"{gone}: does not answer")


def test_partial_is_marked_also_where_all_answer_and_refused_where_it_has_no_effect(front, whole):
    asked = {"vectors": QUERIES.tolist(), "k": 3, "partial": True}
    status, body = post(front, asked)
    assert (status, body["missing"]) == (200, {})
    with serving(whole) as alone:
        status, body = post(alone, asked)
    assert status == 422
    assert "partial has no effect here" in body["error"]


@contextlib.contextmanager
def saying(status, content, wait=0.0):
    """A server that says the same to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(wait)
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"<html>", r"/info: .*is it `o1-index serve`\?"),
        (200, b'{"documents": 3}', r"missing required field `dim`; is it `o1-index serve`\?"),
        (404, b"not here", "status 404: 'not here'"),
        (500, b'{"error": "broken"}', "status 500: broken"),
        (302, b"", "status 302"),
    ],
)
def test_what_is_no_server_of_an_index_is_said_by_its_address(status, content, message):
    with saying(status, content) as address, pytest.raises(ServerError, match=f"^{address}.*{message}"):
        Servers([address])


def test_a_server_that_is_too_slow_counts_as_away():
    away = r"does not answer \(timed out\)"
    with saying(200, b"{}", wait=1.0) as address, pytest.raises(ServerError, match=f"^{address}: {away}"):
        Servers([address], timeout=0.2)


def test_servers_that_cannot_be_one_are_refused(addresses):
    for given, message in [
        ([], "at least one server"),
        ([addresses[0], addresses[0] + "/"], "given twice"),
        (["10.0.0.1:8081"], "not the address of a server"),
        (["http://a b:x["], "not the address|Invalid"),
    ]:
        with pytest.raises(InputError, match=message):
            Servers(given)
    for other, message in [
        (build(np.eye(3), list("abc")), "8 dimensions and the metric inner_product, shard 2 3 and inner"),
        (build(np.eye(8), list("abcdefgh"), metric="cosine"), "shard 2 8 and cosine"),
    ]:
        with serving(other) as address, pytest.raises(InputError, match=message):
            Servers([addresses[0], address])


def test_a_document_on_two_servers_is_said_with_both_and_is_not_the_fault_of_the_request(addresses):
    """Neither is taken: they may differ, and nothing says which of them is out of date."""
    older = build(np.stack([VECTORS[1], VECTORS[399]]), [IDS[1], "other"])
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(serving(older))
        front = stack.enter_context(serving(stack.enter_context(Servers([addresses[0], copy]))))
        said = (
            f"document '{IDS[1]}' is in {addresses[0]} and in {copy}; a document belongs to one: remove it "
            "from the other (`o1-index remove --index FOLDER --ids FILE`), and start that server again"
        )
        asked = {"vectors": QUERIES.tolist(), "k": ROWS}
        for path, body in [
            ("/search", asked),
            ("/search", {**asked, "partial": True}),
            ("/fetch", {"ids": IDS[:3]}),
        ]:
            assert post(front, body, path) == (502, {"error": said})
        assert post(front, {"ids": ["other", IDS[0]]}, "/fetch")[0] == 200


def test_also_where_each_server_found_it_for_another_query():
    newer, older = build(np.eye(2), ["a", "b"]), build(np.eye(2)[::-1], ["a", "c"])
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(serving(index)) for index in (newer, older)]
        servers = stack.enter_context(Servers(both))
        with pytest.raises(ServerError, match=f"^document 'a' is in {both[0]} and in {both[1]}; "):
            servers.search(np.eye(2), ["p", "q"], k=1)
        assert [hit.doc_id for hit in servers.search(np.eye(2)[1:], ["q"], k=2, only={"b", "c"})] == [
            "b",
            "c",
        ]


def test_a_search_that_cannot_be_done_is_refused_before_it_is_sent(together):
    for vectors, names, options, message in [
        (QUERIES, NAMES, {"k": 0}, "k must be between 1 and 10,000, got 0"),
        (QUERIES, NAMES, {"k": 10_001}, "got 10001"),
        (QUERIES[:2], ["p", "p"], {"k": 1}, "duplicate id 'p'"),
        (np.eye(2), ["p", "q"], {"k": 1}, "2 dimensions, the index has 8"),
        (np.full((1, 8), np.nan), ["p"], {"k": 1}, "'p'"),
        (QUERIES, NAMES, {"k": 1, "where": lambda payload: True}, "a function cannot go to a server"),
        (QUERIES, NAMES, {"k": 1, "where": "row in 3"}, "give a list after 'in'"),
        (QUERIES, NAMES, {"k": 1, "only": "abc"}, "is a single string"),
    ]:
        with pytest.raises(InputError, match=message):
            together.search(vectors, names, **options)


def test_the_commands_serve_shards_and_servers_and_search_them(tmp_path):
    np.save(tmp_path / "queries.npy", QUERIES)
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    folders = [tmp_path / f"shard-{number}" for number in range(3)]
    for index, folder in zip(parts(), folders, strict=True):
        index.save(folder)
    expected = list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=90))
    with served("--index", *folders, "--mmap") as shards, served("--servers", shards) as front:
        words = ["search", "--servers", front, "--vectors", tmp_path / "queries.npy", "--k", "90"]
        words += ["--ids", tmp_path / "names.txt", "--out", tmp_path / "run.txt"]
        assert main(list(map(str, words))) == 0
        assert [(hit.query_id, hit.doc_id) for hit in trec.read_run(tmp_path / "run.txt")] == [
            (hit.query_id, hit.doc_id) for hit in expected
        ]
        status, body = post(shards, {"vectors": QUERIES[:1].tolist(), "k": 3, "payloads": True})
        assert status == 200
        assert [hit["payload"] for hit in body["results"][0]["hits"]] == [
            {"row": IDS.index(hit.doc_id)} for hit in expected[:3]
        ]
        assert post(shards, None, "/info")[1]["dim"] == 8
        with Servers([shards]) as servers:
            assert (
                servers.fetch(IDS[140:160]).ids
                == Shards([open_index(each) for each in folders]).fetch(IDS[140:160]).ids
            )


@contextlib.contextmanager
def served(*words):
    """The address of `o1-index serve` in a process."""
    command = [sys.executable, "-m", "o1_index", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if match := re.search(r"running on (http://\S+)", line):
            break
    try:
        yield match[1]
    finally:
        process.terminate()
        process.stderr.read()
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve"], "give --index, or --servers"),
        (["serve", "--index", "x", "--servers", "http://x"], "give --index, or --servers"),
        (["serve", "--servers", "http://x", "--mmap"], "no effect with --servers"),
        (["serve", "--index", "x", "--timeout", "3"], "--timeout has no effect without --servers"),
        (["serve", "--servers", "http://x", "--timeout", "0"], "--timeout must be above 0, got 0"),
        (["search", "--servers", "http://x", "--processes", "2"], "no effect on servers"),
        (["search", "--servers", "http://x", "--effort", "2"], "--effort is for a database"),
        (["search", "--from", "lance:x#y", "--timeout", "2"], "--timeout has no effect without --servers"),
    ],
)
def test_options_without_effect_are_refused(words, message, tmp_path, capsys):
    np.save(tmp_path / "queries.npy", QUERIES)
    build(VECTORS, IDS).save(tmp_path / "x")
    words = [str(tmp_path / "x") if word == "x" else word for word in words]
    if words[0] == "search":
        words += ["--vectors", str(tmp_path / "queries.npy"), "--out", str(tmp_path / "run.txt")]
    assert main(words) == 4
    assert message in capsys.readouterr().err


def test_a_command_on_an_address_where_nobody_listens_is_one_sentence(tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert main(["serve", "--servers", address]) == 4
    assert re.search(rf"{address}: does not answer \(.*refused\)", capsys.readouterr().err)


def test_a_server_that_was_replaced_by_another_index_is_said():
    with contextlib.ExitStack() as stack:
        with serving(parts()[0]) as address:
            servers = stack.enter_context(Servers([address]))
        port = int(address.rpartition(":")[2])
        stack.enter_context(serving(build(np.eye(3), [IDS[0], "b", "c"]), port))
        with pytest.raises(ServerError, match=f"^{address}: has vectors of other dimensions now"):
            servers.fetch([IDS[0]])
        with pytest.raises(InputError, match=r"vectors have \[8\] dimensions, the index has 3"):
            servers.search(QUERIES, NAMES, k=3)
