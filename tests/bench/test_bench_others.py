"""Models of others: behind a server, cross-encoders, fused with each other, and several seeds of one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import numpy as np
import pytest

from o1_bench import Collection, Options, evaluate, load_result, load_results, run
from o1_bench.__main__ import main
from o1_bench.protocol import PROTOCOLS, Protocol
from o1_bench.reporting.rows import over_seeds, side_by_side
from o1_bench.reporting.words import table
from o1_bench.running.encoder import readable_name
from o1_bench.running.endpoint import EndpointEncoder
from o1_bench.running.rerank import Reranked, Reranker
from o1_bench.running.retrieve import bm25, from_run, fused
from o1_bench.score import from_dict
from o1_records import Document, InputError, Qrel, Query, rank
from o1_records.beir import write_beir
from o1_records.trec import read_run, write_run

TEXTS = ["open a zip archive", "close the socket", "parse the date", "copy a folder", "sort the list"]
DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(TEXTS)]
QUERIES = [Query(query_id=f"q{n}", text=TEXTS[n].split()[0]) for n in range(3)]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(3)]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture
def collection():
    return Collection(
        name="tiny/test", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, instruction="find it"
    )


def run_with(*parts):
    return main([str(part) for part in parts])


# --- behind a server ----------------------------------------------------------------------------------


class Embeddings(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose vectors count words; they come back in another order."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        state["requests"].append((self.path, body, self.headers.get("Authorization")))
        if state["busy"] > 0:
            state["busy"] -= 1
            self.send_response(503)
            self.end_headers()
            return
        rows = [[3.0 * text.lower().split().count(word) for word in WORDS] + [1e-3] for text in body["input"]]
        data = [{"index": n, "embedding": row, "object": "embedding"} for n, row in enumerate(rows)]
        content = json.dumps({"object": "list", "data": data[::-1], "model": "served-name"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Embeddings)
    server.state = {"requests": [], "busy": 0}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def address(server, model="tiny"):
    return f"http://127.0.0.1:{server.server_port}/v1#{model}"


@pytest.mark.extra
def test_a_model_behind_a_server_runs_like_any_other(server, collection, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    options = Options(query_prompt="Instruct: {instruction}\nQuery: ", batch=2)
    (result,) = run(address(server), tmp_path, collection=collection, options=options)["tiny/test"]
    assert result.name == "tiny"
    assert result.metrics["RR@10"] == 1.0
    assert result.system.encoder["served"] == "served-name"
    assert result.system.encoder["endpoint"] == address(server).partition("#")[0]
    assert result.sent.queries[0] == "Instruct: find it\nQuery: open"
    path, body, key = server.state["requests"][-1]
    assert (path, body["model"], key) == ("/v1/embeddings", "tiny", "Bearer secret")
    assert max(len(body["input"]) for _, body, _ in server.state["requests"]) == 2
    assert "secret" not in (tmp_path / "tiny-test" / "tiny" / "result.json").read_text()


@pytest.mark.extra
def test_a_backslash_n_on_the_command_line_is_a_new_line(server, tmp_path):
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    command = ("run", "--model", address(server), "--collection", tmp_path / "tiny", "--out", tmp_path / "r")
    assert run_with(*command, "--query-prompt", r"Instruct: x\nQuery:\t") == 0
    assert load_result(tmp_path / "r" / "tiny-test" / "tiny").sent.queries[0] == "Instruct: x\nQuery:\topen"


def test_vectors_of_a_server_have_unit_length_and_belong_to_their_texts(server):
    encoder = EndpointEncoder(address(server))
    vectors = encoder.documents(DOCUMENTS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors @ vectors.T).argmax(axis=1).tolist() == list(range(5))


def test_a_busy_server_is_asked_again(server):
    server.state["busy"] = 1
    assert EndpointEncoder(address(server)).documents(DOCUMENTS[:1]).shape == (1, len(WORDS) + 1)
    assert len(server.state["requests"]) == 2


def test_an_address_without_a_model_is_refused(server, tmp_path, collection):
    with pytest.raises(InputError, match="name the model behind the address, as in http://"):
        run(address(server).partition("#")[0], tmp_path, collection=collection)


# --- cross-encoders -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """A real cross-encoder with random weights, built here."""
    pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertForSequenceClassification, set_seed

    from helpers.tiny import word_tokenizer

    folder = tmp_path_factory.mktemp("cross") / "tiny-cross"
    tokenizer = word_tokenizer(WORDS)
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.extra
def test_the_first_hits_are_in_the_order_of_the_cross_encoder_and_the_others_behind_them(
    collection, tmp_path, cross_encoder
):
    from sentence_transformers import CrossEncoder

    given = {"q0": {"d0": 5.0, "d1": 4.0, "d2": 3.0, "d3": 2.0, "d4": 1.0}, "q1": {"d4": 1.0}}
    write_run(tmp_path / "first.trec", from_dict(given))
    done = run(
        tmp_path / "first.trec", tmp_path / "r", collection=collection, rerank=cross_encoder, rerank_top=3
    )
    names = [result.name for result in done["tiny/test"]]
    assert names == ["first", "first, reranked by tiny-cross"]
    reranked = done["tiny/test"][1]
    hits = list(read_run(tmp_path / "r" / "tiny-test" / "first-reranked-by-tiny-cross" / "run.trec"))
    order = [hit.doc_id for hit in hits if hit.query_id == "q0"]
    theirs = CrossEncoder(str(cross_encoder), device="cpu").predict(
        [(QUERIES[0].text, TEXTS[n]) for n in range(3)], show_progress_bar=False
    )
    assert order[:3] == [f"d{n}" for n in sorted(range(3), key=lambda n: -theirs[n])]
    assert order[3:] == ["d3", "d4"]
    assert [hit.doc_id for hit in hits if hit.query_id == "q1"] == ["d4"]
    assert reranked.system.encoder["top"] == 3
    assert reranked.system.encoder["reranker"]["digest"].startswith("sha256:")
    assert reranked.system.milliseconds.search > 0
    assert "the time of first is not known" in reranked.system.note


@pytest.mark.extra
def test_a_hit_without_a_text_cannot_be_reranked(collection, cross_encoder):
    reranker = Reranker(cross_encoder)
    hits = list(from_dict({"q0": {"d0": 5.0, "elsewhere": 4.0}, "q1": {"another": 1.0}}))
    told = (
        r"has no document 'elsewhere', which was found for query 'q0' \(2 such documents\); without its text"
    )
    with pytest.raises(InputError, match=told):
        Reranked(collection, hits, reranker, 3)
    Reranked(collection, hits[:2], reranker, 1)  # only what is read needs a text


@pytest.mark.extra
def test_an_embedding_model_is_no_cross_encoder(collection, tmp_path, cross_encoder):
    from transformers import AutoConfig, BertModel

    headless = tmp_path / "headless"
    BertModel(AutoConfig.from_pretrained(cross_encoder)).save_pretrained(headless)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (headless / name).write_bytes((cross_encoder / name).read_bytes())
    with pytest.raises(
        InputError, match=r"gives no single score of a pair \(BertModel, .*; name a cross-enc"
    ):
        run("bm25", tmp_path / "r", collection=collection, rerank=headless)


# --- fusion -------------------------------------------------------------------------------------------


def test_two_models_are_fused_by_weighted_scores(collection, tmp_path, capsys):
    """BGE-Reasoner's 0.75 / 0.25 of scores between 0 and 1, by hand."""
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    write_run(tmp_path / "a.trec", from_dict({"q0": {"d0": 4.0, "d1": 2.0, "d2": 0.0}}))
    write_run(tmp_path / "b.trec", from_dict({"q0": {"d1": 1.0, "d0": 0.0}}))
    command = (
        "run",
        "--collection",
        tmp_path / "tiny",
        "--out",
        tmp_path / "r",
        "--model",
        tmp_path / "a.trec",
    )
    command += ("--hybrid", tmp_path / "b.trec", "--fusion", "minmax", "--weights", "0.75", "0.25")
    assert run_with(*command) == 0
    folder = tmp_path / "r" / "tiny-test" / "a-and-b"
    scores = {hit.doc_id: hit.score for hit in read_run(folder / "run.trec") if hit.query_id == "q0"}
    assert scores == pytest.approx({"d0": 0.75, "d1": 0.75 * 0.5 + 0.25, "d2": 0.0})
    result = load_result(folder)
    assert result.system.encoder["weights"] == [0.75, 0.25]
    assert "fusion of scores from 0 to 1, weights 0.75 and 0.25" in result.system.note


def test_reciprocal_ranks_are_the_default(collection):
    one, two = from_run(from_dict({"q0": {"d0": 9.0, "d1": 1.0}})), from_run(from_dict({"q0": {"d1": 5.0}}))
    found = {hit.doc_id: hit.score for hit in fused(one, two)(QUERIES[:1], 5)}
    assert found == pytest.approx({"d0": 1 / 61, "d1": 1 / 62 + 1 / 61})
    with pytest.raises(InputError, match="unknown fusion 'best'"):
        fused(one, two, method="best")
    with pytest.raises(InputError, match="1 weights for 2 runs"):
        fused(one, two, weights=[1.0])


# --- BRIGHT's BM25 ------------------------------------------------------------------------------------


def test_terms_of_a_query_are_weighed_too_where_asked(collection):
    """BRIGHT's baseline: both texts as BM25 vectors; the product by hand, of b 0 and k1 1."""
    documents = [Document(doc_id="a", text="zip zip file"), Document(doc_id="b", text="file socket")]
    pair = collection.changed(
        documents=documents, queries=[Query(query_id="q", text="zip zip file")],
        qrels=[Qrel(query_id="q", doc_id="a", relevance=1)],
    )  # fmt: skip
    found = {hit.doc_id: hit.score for hit in bm25(pair, k1=1, b=0, query_weights=True)(pair.queries, 5)}
    idf = {word: np.log(1 + (2 - n + 0.5) / (n + 0.5)) for word, n in (("zip", 1), ("file", 2))}
    weight = {("zip", 2): idf["zip"] * 2 / 3, ("file", 1): idf["file"] / 2}
    expected = {
        "a": weight["zip", 2] ** 2 + weight["file", 1] ** 2,
        "b": weight["file", 1] ** 2,
    }
    assert found == pytest.approx(expected, rel=1e-5)


# --- several seeds ------------------------------------------------------------------------------------


def seeded(tmp_path, collection, places):
    numbers = count(1)
    for place in places:
        order = [f"d{n}" for n in range(1, 5)]
        order.insert(place - 1, "d0")
        hits = [*rank("q0", {d: -n for n, d in enumerate(order)}), *rank("q1", {"d1": 1.0})]
        write_run(tmp_path / "mine.trec", [*hits, *rank("q2", {"d2": 1.0})])
        run(
            tmp_path / "mine.trec",
            tmp_path / "r",
            collection=collection,
            seed=next(numbers),
            measures=["RR@10"],
        )
    return load_results([tmp_path / "r"])


def test_several_seeds_of_a_system_are_one_row_with_the_spread(collection, tmp_path):
    results = seeded(tmp_path, collection, (1, 2, 4))
    (mean,) = over_seeds(results)
    values = [(2 + 1 / place) / 3 for place in (1, 2, 4)]
    assert mean.metrics["RR@10"] == pytest.approx(np.mean(values))
    assert mean.spread["RR@10"] == pytest.approx(np.std(values, ddof=1))
    assert (mean.seeds, mean.per_query["RR@10"]["q0"]) == ((1, 2, 3), pytest.approx((1 + 1 / 2 + 1 / 4) / 3))
    assert "mine (3 seeds)" in table(results)
    assert f"± {np.std(values, ddof=1):.3f}" in table(results)
    base = evaluate(collection, bm25(collection), measures=["RR@10"])
    assert side_by_side([base, *results])[1].result.seeds == (1, 2, 3)


def test_a_seed_that_comes_twice_is_refused(collection, tmp_path):
    one, two = seeded(tmp_path, collection, (1, 2))
    with pytest.raises(InputError, match="2 results are called 'mine' on tiny/test, with the seeds 1, 1; le"):
        over_seeds([one, one])
    assert len(over_seeds([one, two])) == 1


# --- names and limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("BAAI/bge-m3", "bge-m3"),
        ("runs/lr-3e-5/checkpoint-500", "lr-3e-5/checkpoint-500"),
        ("minilm/model", "minilm/model"),
        ("hub/models--BAAI--bge-m3/snapshots/0123abc", "bge-m3"),
        ("model", "model"),
    ],
)
def test_a_model_is_called_by_what_tells_it_from_others(model, name):
    assert readable_name(model) == name


def test_a_protocol_brings_prompt_and_limit_to_encoders_unless_others_are_given(server):
    protocol = PROTOCOLS["reasonembed-bright"]
    encoder = EndpointEncoder(address(server))
    encoder.adopt(protocol)
    asked, _ = encoder.sample([Query(query_id="q", text="open", instruction="find it")], [])
    assert asked == ["Instruct: find it\nQuery: open"]
    encoder.adopt(Protocol(name="plain"))
    assert encoder.prompts["query"] == ""
    own = EndpointEncoder(address(server), query_prompt="Q: ")
    own.adopt(protocol)
    assert own.prompts["query"] == "Q: "
