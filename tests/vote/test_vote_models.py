"""Members that run PyTorch: dtype, prompts, cross-encoders, and vectors that are kept between runs."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from o1_records import Document, InputError

pytestmark = pytest.mark.extra

CORPUS = [
    Document(doc_id="zip", text="Read and write archives in the ZIP format."),
    Document(doc_id="tar", text="Read and write archives in the TAR format."),
    Document(doc_id="mail", text="Send a mail with an attachment to many people at once."),
]
PAIRS = [("open a zip file", "zip"), ("open a zip file", "mail"), ("a mail", "mail"), ("a mail", "tar")]


@pytest.fixture(scope="session")
def judge(tmp_path_factory, minilm):
    """A tiny random cross-encoder with MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def similarities(model, **options):
    from o1_vote import SentenceTransformerMember
    from o1_vote.members.dense import Loading

    given = {name: options.pop(name) for name in ("dtype", "batch") if name in options}
    loading = Loading(devices=("cpu",), **{"dtype": "float32", **given})
    return SentenceTransformerMember(model, CORPUS, loading=loading, **options).similarities(PAIRS)


def test_a_prompt_goes_before_its_side_only(tiny):
    from o1_vote import SentenceTransformerMember
    from o1_vote.members.dense import Loading

    prompted = similarities(tiny, query_prompt="query: ")
    member = SentenceTransformerMember(tiny, CORPUS, loading=Loading(("cpu",), "float32"))
    by_hand = member.similarities([(f"query: {text}", doc_id) for text, doc_id in PAIRS])
    assert prompted == pytest.approx(by_hand, abs=1e-5)
    assert prompted != pytest.approx(similarities(tiny), abs=1e-3)


def test_bfloat16_is_nearly_the_same_and_batches_change_nothing(tiny):
    plain = similarities(tiny)
    assert similarities(tiny, batch=1) == pytest.approx(plain, abs=1e-5)
    half = similarities(tiny, dtype="bfloat16")
    assert half == pytest.approx(plain, abs=0.03)
    assert np.abs(half - plain).max() > 0


@pytest.fixture
def processor(monkeypatch):
    """Makes PyTorch report which instructions there are."""
    import torch

    def report(*supported):
        for name in ("avx512_bf16", "amx_tile"):
            monkeypatch.setattr(
                torch.cpu, f"_is_{name}_supported", functools.partial(supported.__contains__, name)
            )

    return report


@pytest.mark.parametrize(
    ("supported", "dtype"),
    [([], "float32"), (["avx512_bf16"], "bfloat16"), (["amx_tile"], "bfloat16")],
)
def test_the_dtype_follows_the_instructions_and_nothing_is_timed(tiny, processor, supported, dtype):
    from o1_vote.members.dense import Loading, load_model

    assert Loading().dtype == "auto"
    processor(*supported)
    encoder, fingerprint = load_model(tiny, Loading(("cpu",)))
    assert str(encoder.dtype) == f"torch.{dtype}"
    assert f" {dtype} " in fingerprint
    assert load_model(tiny, Loading(("cpu",)))[1] == fingerprint
    assert " float32 " in load_model(tiny, Loading(("cpu",), "float32"))[1]


def test_vectors_of_the_faster_layers_are_equal_to_within_3e_7(minilm, monkeypatch):
    import torch

    from o1_records.kit import onednn
    from o1_vote.members.dense import Loading, _side, load_model

    texts = ["open a zip file", "a mail", "word " * 200]
    vectors, fingerprints = [], []
    for faster in (False, True):  # also on a processor where MKL is the faster
        monkeypatch.setattr(onednn, "is_faster", lambda faster=faster: faster)
        encoder, fingerprint = load_model(minilm, Loading(("cpu",), "float32"))
        fingerprints.append(fingerprint)
        with torch.profiler.profile() as profile:
            encode = _side(encoder, encoder.encode_query, Loading(("cpu",), "float32"), None, "")
            vectors.append(encode(texts))
        used = {event.name for event in profile.events()}
        assert ("mkldnn::_linear_pointwise" in used) == faster
    assert np.abs(vectors[0] - vectors[1]).max() <= 3e-7
    assert fingerprints[1] == fingerprints[0].replace("float32", "float32 onednn")


def test_an_unknown_dtype_is_refused(tiny):
    with pytest.raises(InputError, match="dtype 'int3' is none of float32"):
        similarities(tiny, dtype="int3")


def test_f21_another_dtype_length_or_prompt_is_another_encoder(tiny, tmp_path):
    from o1_vote.members.vector_cache import VectorCache

    cache = VectorCache(tmp_path / "vectors.sqlite")
    count = cache._db.execute
    sizes = []
    for options in ({}, {}, {"dtype": "bfloat16"}, {"query_prompt": "q: "}, {"document_prompt": "d: "}):
        fresh = similarities(tiny, **options)
        assert similarities(tiny, cache=cache, **options) == pytest.approx(fresh, abs=1e-6)
        sizes.append(count("SELECT count(*) FROM vector").fetchone()[0])
    assert sizes == [5, 5, 10, 15, 20]


def test_a_cross_encoder_scores_as_its_own_predict(judge):
    import sentence_transformers

    from o1_vote.members.cross_encoder import CrossEncoderMember

    member = CrossEncoderMember(judge, CORPUS, name="judge")  # float32, though the default is auto
    texts = {document.doc_id: document.full_text for document in CORPUS}
    model = sentence_transformers.CrossEncoder(str(judge), device="cpu")
    expected = [float(model.predict([(text, texts[doc_id])])[0]) for text, doc_id in PAIRS]
    assert member.similarities(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert member.similarities([]).shape == (0,)
    with pytest.raises(InputError, match="member 'judge': 1 documents are not in its corpus"):
        member.similarities([("a", "no")])


def test_a_cross_encoder_reads_each_pair_once(judge, tmp_path):
    from o1_vote.members.cross_encoder import CrossEncoderMember
    from o1_vote.members.vector_cache import VectorCache

    first = CrossEncoderMember(judge, CORPUS, cache=VectorCache(tmp_path / "c")).similarities(
        [*PAIRS, *PAIRS]
    )
    again = CrossEncoderMember(judge, CORPUS, cache=VectorCache(tmp_path / "c"))
    again._predict = None  # nothing is left to read
    assert again.similarities(PAIRS).tolist() == first[:4].tolist() == first[4:].tolist()


def test_a_model_of_several_labels_is_no_member(judge, tmp_path):
    import shutil

    from transformers import BertConfig, BertForSequenceClassification

    from o1_vote.members.cross_encoder import CrossEncoderMember

    folder = tmp_path / "three"
    shutil.copytree(judge, folder)
    config = BertConfig.from_pretrained(judge)
    config.num_labels = 3
    BertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(InputError, match="has 3 labels"):
        CrossEncoderMember(folder, CORPUS)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    from o1_vote.members.cross_encoder import CrossEncoderMember

    with pytest.raises(InputError, match="cannot be loaded as a cross-encoder"):
        CrossEncoderMember(tmp_path, CORPUS)


@pytest.mark.skipif(
    os.environ.get("O1_FAULTS") != "full", reason="starts PyTorch three times (O1_FAULTS=full)"
)
def test_several_devices_share_the_texts(minilm, tmp_path):
    """Two processes on the CPU stand for two GPUs."""
    code = f"""
from o1_records import Document
from o1_vote import SentenceTransformerMember
from o1_vote.members.dense import Loading
if __name__ == "__main__":
    corpus = [Document(doc_id=f"d{{i}}", text=f"text {{i}}") for i in range(9)]
    pairs = [("a text", document.doc_id) for document in corpus]
    for devices in (("cpu",), ("cpu", "cpu")):
        member = SentenceTransformerMember({str(minilm)!r}, corpus, loading=Loading(devices, "float32", 2))
        print(*(round(float(score), 4) for score in member.similarities(pairs)))
"""
    path = tmp_path / "several.py"  # the processes import the file again
    path.write_text(code)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = done.stdout.splitlines()
    assert one == two


def test_a_model_of_embeddings_is_no_cross_encoder(minilm):
    """A head of random weights would be put on it, and would vote."""
    from o1_vote.members.cross_encoder import CrossEncoderMember
    from o1_vote.members.dense import Loading

    with pytest.raises(InputError, match=r"is not a cross-encoder .*give st:MODEL"):
        CrossEncoderMember(minilm, CORPUS, loading=Loading(devices=("cpu",)))


@pytest.fixture(scope="module")
def prompted(tiny, tmp_path_factory):
    """The tiny model, with prompts of its own that it was trained with."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("prompted")
    prompts = {"query": "Instruct: find the answer\nQuery:", "document": "passage: "}
    SentenceTransformer(str(tiny), device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder


def by_hand(model, queries, documents):
    """Cosines of vectors that sentence-transformers itself makes, with the prompts that it is told."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    texts = {document.doc_id: document.full_text for document in CORPUS}
    asked = encoder.encode_query([text for text, _ in PAIRS], **queries)
    found = encoder.encode_document([texts[doc_id] for _, doc_id in PAIRS], **documents)
    return [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(asked, found, strict=True)]


def test_the_prompts_of_a_model_are_used_unless_others_are_given(prompted):
    assert similarities(prompted) == pytest.approx(by_hand(prompted, {}, {}), abs=1e-5)
    for ours, queries, documents in (
        ({"query_prompt": "q: "}, {"prompt": "q: "}, {}),
        ({"document_prompt": ""}, {}, {"prompt": ""}),
        ({"query_prompt": "", "document_prompt": ""}, {"prompt": ""}, {"prompt": ""}),
    ):
        told = by_hand(prompted, queries, documents)
        assert similarities(prompted, **ours) == pytest.approx(told, abs=1e-5)
        assert told != pytest.approx(by_hand(prompted, {}, {}), abs=1e-3)


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_a_prompt_for_documents_is_used_whatever_a_model_calls_it(tiny, tmp_path, name):
    """sentence-transformers 6.2 gives every model an empty prompt "document", and never looks further."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny), device="cpu", prompts={name: "p: "}).save_pretrained(str(tmp_path / "m"))
    told = by_hand(tmp_path / "m", {}, {"prompt": "p: "})
    assert similarities(tmp_path / "m") == pytest.approx(told, abs=1e-5)


def test_an_instruction_takes_the_place_of_the_task_or_of_the_whole_prompt(prompted, tiny):
    from o1_vote import SentenceTransformerMember
    from o1_vote.members.dense import Loading

    def instructed(model, **options):
        loading = Loading(("cpu",), "float32")
        member = SentenceTransformerMember(model, CORPUS, loading=loading, **options)
        return member.instructed("Find code.").similarities(PAIRS)

    for model, options, prompt in (
        (prompted, {}, "Instruct: Find code.\nQuery:"),
        (tiny, {"document_prompt": "passage: "}, "Find code.\n"),
        (prompted, {"query_prompt": "task {instruction} text "}, "task Find code. text "),
        (prompted, {"query_prompt": "q: "}, "q: "),
    ):
        told = by_hand(model, {"prompt": prompt}, {"prompt": "passage: "})
        assert instructed(model, **options) == pytest.approx(told, abs=1e-5)


def test_the_instruction_of_each_query_is_read_when_it_votes_and_when_it_mines(prompted):
    from o1_records import Qrel, Query
    from o1_vote import Mining, SentenceTransformerMember, elect, mine, nominate
    from o1_vote.members.dense import Loading

    member = SentenceTransformerMember(prompted, CORPUS, name="m", loading=Loading(("cpu",), "float32"))
    queries = [
        Query(query_id="plain", text="zip"),
        Query(query_id="told", text="zip", instruction="Find code."),
    ]
    qrels = [Qrel(query_id=query.query_id, doc_id="zip", relevance=1) for query in queries]
    election = elect(queries, [], qrels=qrels, documents=CORPUS, members=[member], measure="thought")
    scores = {ballot.query_id: ballot.score for ballot in election.ballots}
    assert scores["plain"] == pytest.approx(member.similarities([("zip", "zip")])[0], abs=1e-6)
    told = member.instructed("Find code.").similarities([("zip", "zip")])[0]
    assert scores["told"] == pytest.approx(told, abs=1e-6)
    assert scores["told"] != pytest.approx(scores["plain"], abs=1e-3)
    nominations, _ = nominate(queries, (), qrels, CORPUS)
    known = {document.doc_id: document for document in CORPUS}
    found = mine(nominations, [member], known, Mining(relative=None, near=1), teacher="m")
    assert [example.teacher_scores[0] for example in found] == pytest.approx(
        [scores["plain"], scores["told"]], abs=1e-6
    )
    assert member.about["query prompt"] == repr("Instruct: find the answer\nQuery:")
    assert "Instruct: {instruction}" in member.about["instructions"]


def test_a_cross_encoder_reads_the_instruction_before_the_text(judge):
    from o1_vote.members.cross_encoder import CrossEncoderMember

    member = CrossEncoderMember(judge, CORPUS, name="judge")
    told = member.similarities([(f"Find code.\n{text}", doc_id) for text, doc_id in PAIRS])
    assert member.instructed("Find code.").similarities(PAIRS).tolist() == told.tolist()
