"""The page that searches: a real server, its events, and a real browser that types and clicks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from helpers.browser import NEEDED, WIDTHS, Browser
from helpers.openai_server import openai_server
from helpers.served import post, running, vectors
from o1_model import Embedder, Thinking, ThinkingRetriever, embed
from o1_model.__main__ import main
from o1_model.retriever.thinkers import open_thinker
from o1_model.serving.answers import ListenerLeftError
from o1_records import Document, InputError, rank, write_jsonl
from o1_records.mixture import Mixture, mix_vectors
from o1_records.styles import Style
from o1_records.vectors import VectorWriter

httpx2 = pytest.importorskip("httpx2")
pytestmark = pytest.mark.extra

RUN = "document.title='run'"
BOLD = f'<img src=x onerror="{RUN}"> <b>read</b> bytes & <script>{RUN}</script>'
DOCUMENTS = [
    Document(doc_id="zip", text="how do i open a zip file", title="open <i>zip</i>"),
    Document(doc_id="sort", text="sort a list of keys"),
    Document(doc_id="<html>", text=BOLD),
    Document(doc_id="long", text="read the bytes of a text file " * 400),
    *[Document(doc_id=f"d{n}", text=f"write {'the ' * n}{('keys', 'list')[n % 2]}") for n in range(20)],
]
THINK = {"samples": 2, "max_tokens": 6, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def local(checkpoint):
    return Embedder.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_jsonl(path, DOCUMENTS)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint, corpus, tmp_path_factory):
    """Vectors of the documents, as `o1-model embed` writes them."""
    out = tmp_path_factory.mktemp("vectors") / "vectors"
    embed(checkpoint, corpus=corpus, out=out, device="cpu")
    return out


@pytest.fixture(scope="module")
def address(local, folder, corpus):
    url, stop = serving(local, folder, corpus)
    yield url
    stop()


def serving(model, folder, corpus, **limits):
    from o1_model.serving.search import Collection

    return running(model, Collection(folder, corpus), **limits)


def search(url, query, *, key=None, **body):
    """The events of one search."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    reply = httpx2.post(f"{url}/v1/search", json={"query": query, **body}, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    return parsed(reply.text)


def parsed(text):
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ids(event):
    return [hit["doc_id"] for hit in event["hits"]]


def best(vector, documents, k):
    scores = documents @ vector
    hits = rank("", {each.doc_id: float(score) for each, score in zip(DOCUMENTS, scores, strict=True)}, k)
    return [hit.doc_id for hit in hits]


def test_a_search_finds_what_the_library_finds_without_and_with_thoughts(address, local):
    documents = local.encode_document(DOCUMENTS)
    events = search(address, "open a zip file", think=THINK, k=7)
    (_, plain), *heard, (last, mixed) = events
    v_q, traces = local.decode("open a zip file", Thinking(**THINK))
    assert ids(plain) == best(v_q[0], documents, 7)
    thoughts = [local.text_of(trace) for trace in traces[0]]
    assert (last, mixed["thoughts"]) == ("thinking", thoughts)
    assert mixed["tokens"] == [len(trace.token_ids) for trace in traces[0]]
    thinking = local.encode_query("open a zip file", think=Thinking(**THINK))
    assert ids(mixed) == best(thinking, documents, 7)
    assert (mixed["weight"], mixed["reading"]) == (1.0, "joint")
    assert mixed["milliseconds"]["think"] > 0
    # every token is heard, and what is said last is the thought
    assert {name for name, _ in heard} == {"thought"}
    for sample, thought in enumerate(thoughts):
        said = [each["text"] for _, each in heard if each["sample"] == sample]
        assert len(said) >= mixed["tokens"][sample]
        assert said[-1].strip() == thought


def test_given_thoughts_are_mixed_in_by_any_weight_without_thinking_again(address, local):
    v_q, v_t = local.encode_query("sort"), local.encode_query("sort", thoughts=["list of keys"])
    documents = local.encode_document(DOCUMENTS)
    for weight in (0, 0.3, 1):
        events = search(address, "sort", thoughts=["list of keys"], weight=weight)
        assert [name for name, _ in events] == ["plain", "thinking"]
        mixed = mix_vectors(v_q[None], [v_t[None]], weight)[0]
        assert ids(events[1][1]) == best(mixed, documents, 10)
        assert events[1][1]["weight"] == weight


def test_without_thinking_there_is_one_answer(address):
    assert [name for name, _ in search(address, "sort", think=False)] == ["plain"]
    assert [name for name, _ in search(address, "sort")] == ["plain"]  # as the server does by default


def counted(url, name):
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_searches_are_counted_with_the_tokens_that_they_read_and_write(address):
    names = ("o1_inputs_total", "o1_inputs_truncated_total", "o1_tokens_total")
    before = [counted(address, name) for name in names]
    (_, plain), *_, (_, mixed) = search(address, "read " * 20, think=THINK)
    inputs, cut, tokens = (counted(address, name) - was for name, was in zip(names, before, strict=True))
    assert (inputs, cut, tokens) == (1, 1, plain["tokens"] + sum(mixed["tokens"]))


def test_what_is_left_out_is_said(address):
    [(_, plain)] = search(address, "read the bytes of a text file", k=100)
    hits = {hit["doc_id"]: hit for hit in plain["hits"]}
    assert len(hits) == len(DOCUMENTS)
    assert hits["long"]["left_out"] == len(DOCUMENTS[3].text) - len(hits["long"]["text"]) > 0
    assert hits["zip"]["left_out"] == 0
    assert not plain["cut"]
    assert search(address, "read " * 100)[0][1]["cut"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": " "}, "query"),
        ({"query": "a" * 10_001}, "length <= 10000"),
        ({"query": "a", "k": 0}, ">= 1"),
        ({"query": "a", "k": 101}, "<= 100"),
        ({"query": "a", "weight": 1.5}, "<= 1"),
        ({"query": "a", "weight": 0.5}, "a weight is for thoughts"),
        ({"query": "a", "thoughts": []}, "length >= 1"),
        ({"query": "a", "thoughts": ["b"] * 65}, "length <= 64"),
        ({"query": "a", "thoughts": ["b"], "think": True}, "give thoughts or think, not both"),
        ({"query": "a", "think": {"with_query": True}}, "mixed in by a weight"),
        ({"query": "a", "question": "b"}, "question"),
    ],
)
def test_a_bad_search_is_told_what_is_wrong(address, body, words):
    reply = httpx2.post(f"{address}/v1/search", json=body)
    assert reply.status_code == 422
    assert words in reply.json()["error"]["message"]


def test_too_many_searches_are_told_to_come_back(checkpoint, folder, corpus):
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    decode = model.decode

    def decode_slowly(*args, **how):
        time.sleep(1)
        return decode(*args, **how)

    model.decode = decode_slowly
    url, stop = serving(model, folder, corpus, max_searches=1)
    with httpx2.stream("POST", f"{url}/v1/search", json={"query": "sort", "think": THINK}) as first:
        second = httpx2.post(f"{url}/v1/search", json={"query": "sort"})
        first.read()
    third = httpx2.post(f"{url}/v1/search", json={"query": "sort"})
    stop()
    assert (first.status_code, second.status_code, third.status_code) == (200, 429, 200)
    assert int(second.headers["Retry-After"]) >= 1


@pytest.fixture(scope="module")
def wordy(plain_models, corpus, tmp_path_factory):
    """A checkpoint whose thoughts may be long, and the vectors that it made."""
    folder = tmp_path_factory.mktemp("wordy")
    Embedder.from_backbone(plain_models["llama"], thought_length=1500).save_pretrained(folder / "wordy")
    embed(folder / "wordy", corpus=corpus, out=folder / "vectors", device="cpu")
    return folder / "wordy", folder / "vectors"


def test_who_leaves_ends_the_thinking(wordy, corpus):
    checkpoint, folder = wordy
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    ended, decode = [], model.decode

    def told(*args, **how):
        try:
            return decode(*args, **how)
        except ListenerLeftError:
            ended.append("in the middle of a thought")
            raise

    model.decode = told
    url, stop = serving(model, folder, corpus)
    asked = {"query": "sort", "think": {"samples": 8, "max_tokens": 1500, "temperature": 5.0}}
    with httpx2.stream("POST", f"{url}/v1/search", json=asked, timeout=60) as reply:
        assert "event: thought" in reply.iter_lines()
    until(lambda: ended)
    assert search(url, "sort", think=False)
    assert httpx2.get(f"{url}/health").json()["waiting"] == 0
    stop()


def test_an_index_of_o1_index_is_searched_too(local, folder, corpus, tmp_path):
    from o1_index import build_from
    from o1_records.vectors import VectorSet

    build_from(VectorSet(folder)).save(tmp_path / "index")
    url, stop = serving(local, tmp_path / "index", corpus)
    found = search(url, "open a zip file", think=THINK)
    info = httpx2.get(f"{url}/info").json()
    stop()
    own, stop = serving(local, folder, corpus)
    assert [ids(e) for _, e in found if "hits" in e] == [
        ids(e) for _, e in search(own, "open a zip file", think=THINK) if "hits" in e
    ]
    stop()
    assert info["searches"] == {"index": "index", "documents": len(DOCUMENTS), "unindexed": 0}


def test_vectors_of_another_model_are_refused_naming_both(local, folder, corpus, tmp_path, plain_models):
    from o1_model.serving.search import Collection
    from o1_model.serving.server import application

    other = Embedder.from_backbone(plain_models["bert"], query_length=12, thought_length=12)
    other.save_pretrained(tmp_path / "other")
    other = Embedder.from_pretrained(tmp_path / "other", device="cpu")
    with pytest.raises(InputError, match=rf"by tiny \(digest {local.digest[:16]}.*the model here is other"):
        application(other, None, Collection(folder, corpus))
    nobodys = VectorWriter(tmp_path / "nobodys")
    nobodys.write([document.doc_id for document in DOCUMENTS], local.encode_document(DOCUMENTS))
    nobodys.close()
    with pytest.raises(InputError, match=r"does not say which model.*o1-model embed --model tiny"):
        application(local, None, Collection(tmp_path / "nobodys", corpus))
    asked = VectorWriter(tmp_path / "queries", encoder=local.fingerprint(role="query"))
    asked.write(["zip"], local.encode_query(["zip"]))
    asked.close()
    with pytest.raises(InputError, match="holds vectors of queries"):
        application(local, None, Collection(tmp_path / "queries", corpus))


def test_a_corpus_that_lacks_documents_or_has_more_is_told(folder, corpus, tmp_path):
    from o1_model.serving.search import Collection

    write_jsonl(tmp_path / "less.jsonl", DOCUMENTS[1:])
    with pytest.raises(InputError, match=r"lacks 1 of the 24 documents in .*'zip'"):
        Collection(folder, tmp_path / "less.jsonl")
    write_jsonl(tmp_path / "more.jsonl", [*DOCUMENTS, Document(doc_id="new", text="a")])
    with pytest.warns(match=r"1 document\(s\) have no vector"):
        assert len(Collection(folder, tmp_path / "more.jsonl")) == len(DOCUMENTS)
    with pytest.raises(InputError, match="no folder of vectors, and of no index"):
        Collection(tmp_path, corpus)
    with pytest.raises(InputError, match="no such folder"):
        Collection(tmp_path / "nowhere", corpus)


def test_options_that_need_each_other_are_asked_for_before_anything_is_loaded(capsys, folder, corpus):
    assert main(["serve", "--model", "nowhere", "--index", str(folder)]) == 4
    assert "give both, or none" in capsys.readouterr().err


def test_without_an_index_there_is_no_page(local):
    url, stop = running(local)
    page, found = httpx2.get(url), httpx2.post(f"{url}/v1/search", json={"query": "a"})
    paths = httpx2.get(f"{url}/openapi.json").json()["paths"]
    stop()
    assert (page.status_code, found.status_code) == (404, 404)
    assert "/v1/search" not in paths


def test_the_thoughts_of_others_are_mixed_in_and_heard_when_they_are_there(checkpoint, folder, corpus):
    with openai_server(chat=lambda body: "list of keys") as chat:
        thinker = open_thinker(f"{chat.url}#big", Style(instruction="About {text}", max_tokens=8))
        retriever = ThinkingRetriever(checkpoint, thinker, mixture=Mixture(weight=0.4), device="cpu")
        url, stop = serving(retriever, folder, corpus)
        events = search(url, "sort")
        embedded = vectors(post(url, input=["sort"], input_type="query"))[0]
        stop()
    assert [name for name, _ in events] == ["plain", "thought", "thinking"]
    assert events[1][1] == {"sample": 0, "text": "list of keys"}
    assert (events[2][1]["weight"], events[2][1]["reading"]) == (0.4, "document")
    assert ids(events[2][1]) == best(embedded, retriever.encode_document(DOCUMENTS), 10)


def test_a_thinker_in_this_process_is_heard_while_it_writes(checkpoint, folder, corpus):
    thinker = Embedder.from_pretrained(checkpoint, device="cpu")
    mixture = Mixture(weight=0.3, reading="joint")
    retriever = ThinkingRetriever(checkpoint, thinker, mixture=mixture, thinking=THINK, device="cpu")
    url, stop = serving(retriever, folder, corpus)
    events = search(url, "sort the keys")
    stop()
    heard = [each for name, each in events if name == "thought"]
    assert len(heard) > 2
    assert events[-1][1]["thoughts"] == [thought.text for thought in retriever.think("sort the keys")[0]]


def test_a_failing_thinker_is_an_event_and_the_server_lives_on(checkpoint, folder, corpus):
    with openai_server(chat=lambda body: "keys") as chat:
        thinker = open_thinker(f"{chat.url}#big", Style(instruction="About {text}", max_tokens=8))
        retriever = ThinkingRetriever(checkpoint, thinker, device="cpu")
        url, stop = serving(retriever, folder, corpus)
        chat.refusals.extend([400] * 9)
        broken = search(url, "sort")
        chat.refusals.clear()
        sound = search(url, "sort")
        stop()
    assert [name for name, _ in broken] == ["plain", "error"]
    assert "not now" in broken[1][1]["message"]
    assert [name for name, _ in sound] == ["plain", "thought", "thinking"]


# --- the page -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(checkpoint, folder, corpus):
    """`o1-model serve` in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--model", checkpoint, "--index", folder, "--corpus", corpus, "--port", port]
    words += ["--device", "cpu", "--think", "--samples", 2, "--max-tokens", 6, "--temperature", 1.0]
    server = subprocess.Popen(
        [sys.executable, "-m", "o1_model", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}/"
    # the address is said before uvicorn says that it listens there
    assert any(address in line for line in iter(server.stderr.readline, ""))
    assert any("Uvicorn running" in line for line in iter(server.stderr.readline, ""))
    yield address
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait(30) == 0
    server.stderr.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


NAMES_IN = "[...document.querySelectorAll('#{} li')].map(each => each.dataset.doc)"
TEXT_OF = "document.getElementById('{}').textContent"


@NEEDED
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_reader_types_and_sees_both_answers(browser, command, width, scheme):
    browser.open(command, width, scheme)
    browser.until("!document.getElementById('ask').hidden")
    assert "tiny · 24 documents" in browser.evaluate(TEXT_OF.format("about"))
    browser.click("#query")
    browser.type("open a zip file")
    browser.press("Enter")
    browser.until("document.querySelectorAll('#mixed li').length == 10")
    events = search(command.rstrip("/"), "open a zip file", think={"samples": 2}, weight=1)
    assert browser.evaluate(NAMES_IN.format("plain")) == ids(events[0][1])
    assert browser.evaluate(NAMES_IN.format("mixed")) == ids(events[-1][1])
    said = "[...document.querySelectorAll('#thoughts li')].map(each => each.textContent)"
    assert browser.evaluate(said) == events[-1][1]["thoughts"]
    tokens = sum(events[-1][1]["tokens"])
    assert f"{tokens} tokens written" in browser.evaluate(TEXT_OF.format("thought-cost"))
    # less of the thoughts, by the slider: the server mixes again and does not think
    slider = "document.getElementById('weight')"
    browser.evaluate(f"{slider}.value = 0; {slider}.dispatchEvent(new Event('input'))")
    browser.evaluate(f"{slider}.dispatchEvent(new Event('change'))")
    browser.until("document.getElementById('mixed-cost').textContent.startsWith('weight 0.00')")
    assert browser.evaluate(NAMES_IN.format("mixed")) == ids(events[0][1])
    moved = "[...document.querySelectorAll('#mixed .moved')].map(each => each.textContent)"
    assert set(browser.evaluate(moved)) == {"="}
    # a document opens at a click
    assert not browser.evaluate("document.querySelector('#plain li details').open")
    browser.click("#plain li summary")
    assert browser.evaluate("document.querySelector('#plain li details').open")
    # nothing is cut, told to the console, or asked of anybody else
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.said() == []
    assert {url.partition("#")[0] for url in browser.fetched()} == {
        command, f"{command}info", f"{command}v1/search",
    }  # fmt: skip


@NEEDED
def test_what_a_document_or_a_thought_says_is_shown_and_not_run(browser, command):
    browser.open(f"{command}#q=read+bytes", 1280)
    browser.evaluate("document.getElementById('k').value = 100")
    browser.until("document.querySelectorAll('#mixed li').length")
    browser.click("#go")
    browser.until("document.querySelectorAll('#mixed li').length == 24")
    shown = "[...document.querySelectorAll('#plain li')].find(each => each.dataset.doc == '<html>')"
    assert BOLD in browser.evaluate(f"{shown}.querySelector('.text').textContent")
    titles = browser.evaluate("[...document.querySelectorAll('#plain .name')].map(each => each.textContent)")
    assert "open <i>zip</i> · zip" in titles
    assert browser.evaluate("document.querySelectorAll('main img, main script, main b, main i').length") == 0
    assert browser.evaluate("document.title") == "Search with thoughts"
    browser.evaluate("document.getElementById('k').value = 10")
    # the policy holds even for what would get into the page somehow
    browser.evaluate(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(BOLD)})")
    time.sleep(0.2)
    assert browser.evaluate("document.title") == "Search with thoughts"


@NEEDED
def test_the_page_can_be_used_by_keyboard_alone(browser, command):
    browser.open(command, 1280)
    browser.until("document.activeElement.id == 'query'")
    browser.type("sort")
    browser.press("Enter")
    browser.until("document.querySelectorAll('#mixed li').length")
    browser.evaluate("document.activeElement.blur()")
    browser.press("/")
    assert browser.evaluate("document.activeElement.id") == "query"
    assert browser.evaluate("document.getElementById('query').value") == "sort"
    assert browser.evaluate("location.hash") == "#q=sort"
    assert browser.said() == []


@NEEDED
def test_a_server_with_keys_shows_the_page_and_asks_for_one(browser, local, folder, corpus):
    url, stop = serving(local, folder, corpus, api_keys=("secret & key",))
    assert httpx2.get(url).status_code == 200
    assert httpx2.post(f"{url}/v1/search", json={"query": "a"}).status_code == 401
    browser.open(url, 390)
    assert browser.evaluate("document.getElementById('ask').hidden")
    browser.until("document.activeElement.id == 'key'")
    browser.type("wrong")
    browser.press("Enter")
    browser.until("document.getElementById('error').textContent.includes('no valid API key')")
    browser.events.clear()
    browser.evaluate("document.getElementById('key').value = ''")
    browser.click("#key")
    browser.type("secret & key")
    browser.press("Enter")
    browser.until("!document.getElementById('ask').hidden")
    browser.type("sort")
    browser.press("Enter")
    browser.until("document.querySelectorAll('#mixed li').length")
    kept = "JSON.stringify([location.href, {...localStorage}, {...sessionStorage}, document.cookie])"
    assert "secret" not in browser.evaluate(kept)
    assert not [address for address in browser.fetched() if "secret" in address]
    assert browser.said() == []
    stop()


@NEEDED
def test_a_thinking_can_be_stopped(browser, wordy, corpus):
    checkpoint, folder = wordy
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    url, stop = serving(model, folder, corpus, think=Thinking(samples=4, max_tokens=1500, temperature=5.0))
    browser.open(f"{url}/#q=sort", 1280)
    browser.until("document.querySelectorAll('#thoughts li').length")
    browser.click("#stop")
    browser.until("document.getElementById('error').textContent == 'stopped'")
    assert browser.evaluate("document.getElementById('stop').hidden")
    assert browser.evaluate("document.querySelectorAll('#plain li').length") == 10
    until(lambda: httpx2.get(f"{url}/health").json()["waiting"] == 0)
    assert browser.said() == []
    stop()
