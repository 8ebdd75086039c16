"""Any embedder and any thinker as one model: thoughts mixed into queries and documents."""

import msgspec
import numpy as np
import pytest

from helpers.openai_server import openai_server
from o1_model import Embedder, Thinking, embed, think
from o1_model.__main__ import main
from o1_model.retriever.embedders import encoder_of, open_embedder
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.thinkers import GivenThoughts, open_thinker
from o1_model.thinking.gate import Gate
from o1_records import Document, DocumentThought, InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.kit.job import ChangedJobError
from o1_records.mixture import Mixture
from o1_records.styles import QUERY_STYLES
from o1_records.vectors import VectorSet

QUERIES = [Query(query_id="q1", text="open a zip file"), Query(query_id="q2", text="sort keys")]


def thought(query_id, n, text):
    source = Source(model="somebody", completion_tokens=len(text.split()))
    return Thought(query_id=query_id, thought_id=f"{query_id}#{n}", text=text, source=source)


CORPUS = [Document(doc_id="q1", text="open"), Document(doc_id="b", text="keys")]
THOUGHTS = [thought("q1", 0, "read the bytes of a file"), thought("q1", 1, "close the file")]


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retriever") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("reading", ["joint", "query", "document"])
def test_a_query_is_mixed_with_the_mean_of_its_thoughts(checkpoint, reading):
    model = open_embedder(checkpoint, device="cpu")
    own = GivenThoughts(THOUGHTS)
    retriever = ThinkingRetriever(model, own, mixture=Mixture(weight=0.3, reading=reading))
    texts = [each.text for each in THOUGHTS]
    read = {
        "joint": lambda: model.joint([QUERIES[0]] * 2, texts),
        "query": lambda: model.queries([Query(query_id=text, text=text) for text in texts]),
        "document": lambda: model.documents([Document(doc_id=text, text=text) for text in texts]),
    }[reading]()
    v_q = model.queries(QUERIES)
    mixed = 0.7 * v_q[0] + 0.3 * read.mean(axis=0)
    vectors = retriever.encode_query(QUERIES)
    np.testing.assert_allclose(vectors[0], mixed / np.linalg.norm(mixed), atol=1e-6)
    np.testing.assert_allclose(vectors[1], v_q[1], atol=1e-6)  # nobody thought about it
    np.testing.assert_allclose(retriever.encode_query(QUERIES[0]), vectors[0], atol=1e-6)
    given = retriever.encode_query(QUERIES, thoughts=[texts, []])
    np.testing.assert_allclose(given, vectors, atol=1e-6)
    cost = retriever.cost
    assert (cost.queries, cost.thoughts, cost.tokens) == (3, 4, 18)


def test_documents_can_think_too(checkpoint):
    retriever = ThinkingRetriever(checkpoint, device="cpu")
    documents = [Document(doc_id="a", text="open"), Document(doc_id="b", text="sort", title="keys")]
    plain = retriever.encode_document(documents)
    np.testing.assert_array_equal(plain, retriever.embedder.documents(documents))
    mixed = retriever.encode_document(documents, thoughts=[["read a file"], []], weight=0.4)
    thought_vector = retriever.embedder.documents([Document(doc_id="t", text="read a file")])[0]
    expected = 0.6 * plain[0] + 0.4 * thought_vector
    np.testing.assert_allclose(mixed[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(mixed[1], plain[1], atol=1e-6)
    with pytest.raises(InputError, match="a weight is for the thoughts of documents"):
        retriever.encode_document(documents, weight=0.4)


def test_a_weight_of_zero_never_thinks(checkpoint):
    class Forbidden(GivenThoughts):
        def think(self, queries, thinking):
            raise AssertionError("nobody should think here")

    quiet = ThinkingRetriever(
        checkpoint, Forbidden(THOUGHTS), mixture=Mixture(weight=0, reading="query"), device="cpu"
    )
    np.testing.assert_array_equal(quiet.encode_query(QUERIES), quiet.embedder.queries(QUERIES))
    assert not quiet.thinks
    assert quiet.name == "tiny"
    assert quiet.encoder(role="query") == encoder_of(quiet.embedder, role="query")


def test_everything_that_changes_a_query_vector_is_in_its_encoder(checkpoint):
    model = open_embedder(checkpoint, device="cpu")
    made = [
        ThinkingRetriever(model),
        ThinkingRetriever(model, GivenThoughts(THOUGHTS)),
        ThinkingRetriever(model, GivenThoughts(THOUGHTS[:1])),
        ThinkingRetriever(model, GivenThoughts(THOUGHTS), mixture=Mixture(weight=0.3)),
        ThinkingRetriever(model, GivenThoughts(THOUGHTS), mixture=Mixture(reading="query")),
        ThinkingRetriever(model, GivenThoughts(THOUGHTS), thinking=Thinking(samples=1)),
    ]
    assert len({msgspec.json.encode(each.encoder(role="query")) for each in made}) == len(made)
    assert len({msgspec.json.encode(each.encoder(role="document")) for each in made}) == 1
    assert all(each.encoder(role="query").same_space(made[0].encoder(role="document")) for each in made)


def test_a_file_of_thoughts_is_a_thinker(checkpoint, tmp_path):
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    retriever = ThinkingRetriever(checkpoint, tmp_path / "thoughts.jsonl", device="cpu")
    assert retriever.name == "tiny + thoughts.jsonl"
    assert [[each.text for each in own] for own in retriever.think(QUERIES)] == [
        ["read the bytes of a file", "close the file"],
        [],
    ]


def test_a_checkpoint_that_thinks_is_its_own_thinker(checkpoint):
    embedder = Embedder.from_pretrained(checkpoint, device="cpu")
    thinking = Thinking(samples=2, max_tokens=6)
    retriever = ThinkingRetriever(embedder, embedder, thinking=thinking, mixture=Mixture(reading="joint"))
    own = retriever.think(QUERIES)
    assert [each.text for each in own[0]] == [
        each.text for each in embedder.think(QUERIES, thinking) if each.query_id == "q1"
    ]


def test_what_does_not_fit_is_refused(checkpoint, plain_models):
    with pytest.raises(InputError, match="no thinker; give one"):
        ThinkingRetriever(checkpoint, device="cpu").think("sort")
    with pytest.raises(InputError, match="style and thinking are for a thinker"):
        ThinkingRetriever(checkpoint, style="snippet", device="cpu")
    instruct = Embedder.from_backbone(plain_models["llama"], name="instruct", query_length=12)
    with pytest.raises(InputError, match="no reading 'joint'; choose one of query, document"):
        ThinkingRetriever(instruct, mixture=Mixture(reading="joint"))
    with pytest.raises(InputError, match="3 lists of thoughts for 2 queries"):
        ThinkingRetriever(checkpoint, device="cpu").encode_query(QUERIES, thoughts=[[], [], []])
    with pytest.raises(InputError, match="margins are for a calibrated gate"):
        ThinkingRetriever(checkpoint, GivenThoughts(THOUGHTS), device="cpu").encode_query(
            QUERIES, margins={"q1": 1.0}
        )


# --- from files to files ------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    write_jsonl(
        tmp_path / "corpus.jsonl", [Document(doc_id="q1", text="open"), Document(doc_id="b", text="keys")]
    )
    return tmp_path


def test_vectors_of_a_retriever_are_written_to_files(checkpoint, files):
    retriever = ThinkingRetriever(checkpoint, GivenThoughts(THOUGHTS), device="cpu")
    written = embed(retriever, queries=files / "queries.jsonl", out=files / "vectors")
    np.testing.assert_allclose(written.load(), retriever.encode_query(QUERIES), atol=1e-6)
    again = embed(retriever, queries=files / "queries.jsonl", out=files / "vectors")
    np.testing.assert_array_equal(again.load(), written.load())
    other = ThinkingRetriever(checkpoint, GivenThoughts(THOUGHTS), mixture=Mixture(weight=0.5), device="cpu")
    with pytest.raises((ChangedJobError, InputError), match="vectors"):
        embed(other, queries=files / "queries.jsonl", out=files / "vectors")
    with pytest.raises(InputError, match="with_query: not with a ThinkingRetriever"):
        embed(retriever, queries=QUERIES, with_query=True, out=files / "more")


def test_the_commands_mix_thoughts_into_queries_and_documents(checkpoint, files, capsys):
    def run(*words):
        assert main(["embed", "--model", str(checkpoint), "--device", "cpu", *map(str, words)]) == 0
        return VectorSet(words[words.index("--out") + 1])

    model = open_embedder(checkpoint, device="cpu")
    queries, thoughts = files / "queries.jsonl", files / "thoughts.jsonl"
    mixed = run("--queries", queries, "--thoughts", thoughts, "--weight", 0.3, "--out", files / "q")
    own = ThinkingRetriever(model, GivenThoughts(THOUGHTS), mixture=Mixture(weight=0.3))
    np.testing.assert_allclose(mixed.load(), own.encode_query(QUERIES), atol=1e-6)
    comments = [
        DocumentThought(doc_id="q1", thought_id=f"q1#{n}", text=each.text, source=each.source)
        for n, each in enumerate(THOUGHTS)
    ]
    write_jsonl(files / "comments.jsonl", comments)
    documents = run(
        "--corpus",
        files / "corpus.jsonl",
        "--thoughts",
        files / "comments.jsonl",
        "--weight",
        0.3,
        "--out",
        files / "d",
    )
    expected = own.encode_document(CORPUS, thoughts=[comments, []], weight=0.3)
    np.testing.assert_allclose(documents.load(), expected, atol=1e-6)
    for words, complaint in [
        (["--queries", queries, "--weight", "0.3"], "--weight is for thoughts"),
        (["--queries", queries, "--style", "snippet"], "--style is for --thinker"),
        (["--queries", queries, "--think", "--weight", "0.3", "--with-query"], "--with-query: only for"),
    ]:
        command = ["embed", "--model", checkpoint, "--device", "cpu", *words, "--out", files / "x"]
        assert main([str(word) for word in command]) != 0
        assert complaint in capsys.readouterr().err


def test_what_changes_a_vector_changes_its_manifest(checkpoint, files):
    model = open_embedder(checkpoint, device="cpu")
    comments = [DocumentThought(doc_id="q1", thought_id="q1#0", text="read", source=Source(model="somebody"))]

    def documents(weight):
        retriever = ThinkingRetriever(model, document_weight=weight)
        return embed(retriever, corpus=files / "corpus.jsonl", thoughts=comments, out=files / "documents")

    documents(0.1)
    with pytest.raises(InputError, match="documents"):
        documents(0.9)

    gate = Gate(signal="margin", above=False, threshold=0.5)

    def queries(margins, gate=gate):
        retriever = ThinkingRetriever(model, GivenThoughts(THOUGHTS))
        retriever.gate = gate
        return embed(retriever, queries=QUERIES, margins=margins, out=files / "queries")

    first = queries({"q1": 0.1, "q2": 0.9}).load()
    np.testing.assert_allclose(first[1], model.queries(QUERIES)[1], atol=1e-6)
    for margins, other in (({"q1": 0.9, "q2": 0.1}, gate), (None, None)):
        with pytest.raises(InputError, match="queries"):
            queries(margins, other)


def test_a_gate_holds_for_thoughts_that_are_given_too(checkpoint):
    retriever = ThinkingRetriever(checkpoint, device="cpu")
    retriever.gate = Gate(signal="margin", above=False, threshold=0.5)
    thoughts = [["read"], ["close"]]
    mixed = retriever.encode_query(QUERIES, thoughts=thoughts, margins={"q1": 0.1, "q2": 0.9})
    plain = retriever.embedder.queries(QUERIES)
    np.testing.assert_allclose(mixed[1], plain[1], atol=1e-6)
    assert np.abs(mixed[0] - plain[0]).max() > 1e-3
    with pytest.raises(InputError, match="this gate needs the margin"):
        retriever.encode_query(QUERIES, thoughts=thoughts)


def test_some_settings_of_thinking_leave_the_others_as_they_suit(checkpoint):
    with openai_server(chat=lambda body: "a passage") as server:
        thinker = open_thinker(f"{server.url}#big", "passage")
        usual = thinker.usual
        for given in ({"samples": 3}, {"samples": 3, "max_tokens": 64, "temperature": 0.7}, {}):
            retriever = ThinkingRetriever(checkpoint, thinker, thinking=given, device="cpu")
            assert vars(retriever.thinking) == {**vars(usual), **given}


def test_an_instruct_model_behind_a_server_thinks_from_the_shell(files, checkpoint, capsys):
    with openai_server(chat=lambda body: "```python\nzipfile.ZipFile(path)\n```") as server:
        command = ["think", "--model", f"{server.url}#big", "--style", "snippet", "--samples", "1"]
        command += ["--queries", str(files / "queries.jsonl"), "--out", str(files / "written.jsonl")]
        assert main(command) == 0
        first = len(server.asked)
        assert main(command) == 0  # nothing to do
        assert len(server.asked) == first == 2
        made = think(f"{server.url}#big", QUERIES, style="snippet", out=files / "again.jsonl")
        assert (made.written, made.blank) == (2, 0)
        assert main([*command[:3], "--query-length", "9", *command[3:]]) != 0
    written = list(read_jsonl(files / "written.jsonl", Thought))
    assert [each.text for each in written] == ["zipfile.ZipFile(path)"] * 2
    asked = {body["messages"][0]["content"] for body in server.asked}
    assert asked == {QUERY_STYLES["snippet"].ask(query.text) for query in QUERIES}
    with pytest.raises(InputError, match="a checkpoint thinks in its own way; leave out style"):
        think(checkpoint, QUERIES, style="snippet", out=files / "own.jsonl", device="cpu")
