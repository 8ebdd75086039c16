"""What members measure: over the whole corpus, each text once."""

import collections
import os
import subprocess
import sys

import numpy as np
import pytest

from o1_records import Document, InputError, InputWarning, Qrel, Query, Source, Thought
from o1_vote import BM25Member, elect
from o1_vote.members.cosine import CosineMember

CORPUS = [
    Document(doc_id="zip", title="zipfile", text="Read and write archives in the ZIP format."),
    Document(doc_id="tar", title="tarfile", text="Read and write archives in the TAR format."),
    Document(doc_id="gzip", text="Compress and decompress a stream of bytes."),
    *(Document(doc_id=f"other{i}", text=f"Something about subject {i}.") for i in range(20)),
]


def letters(texts):
    rows = [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 26)


def test_bm25_gives_each_pair_the_score_of_a_search_over_the_corpus():
    from o1_records.bm25 import BM25

    pairs = [("zip archives", "tar"), ("compress", "gzip"), ("zip archives", "zip"), ("", "zip")]
    expected = [BM25(CORPUS).scores(text)[BM25(CORPUS).row(doc_id)] for text, doc_id in pairs]
    assert BM25Member(CORPUS).similarities(pairs).tolist() == expected
    assert expected[0] < expected[2]


def test_bm25_splits_identifiers_only_when_asked():
    corpus = [Document(doc_id="d", text="def read_zip_file(): pass"), *CORPUS]
    pair = [("read a file", "d")]
    assert BM25Member(corpus).similarities(pair)[0] == 0
    assert BM25Member(corpus, split_identifiers=True).similarities(pair)[0] > 0


def test_every_language_that_is_offered_works_and_others_are_refused():
    from o1_records.bm25 import LANGUAGES

    for language in LANGUAGES:
        assert BM25Member(CORPUS, language=language).similarities([("zip", "zip")])[0] > 0
    with pytest.raises(InputError, match=r"no stemmer for 'klingon'; there are .*danish, dutch.*, none"):
        BM25Member(CORPUS, language="klingon")


def test_bm25_reads_scripts_without_spaces_code_and_single_letters():
    corpus = [
        Document(doc_id="zh", text="如何用一条命令把压缩包里的全部文件列出来"),
        Document(doc_id="hi", text="हिमालय की सबसे ऊँची चोटी"),
        Document(doc_id="c", text="C++ or R?"),
        Document(doc_id="d", text="anything else, or R"),
    ]

    def found(text, **options):
        (hits,) = BM25Member(corpus, language="none", **options).search([text], 9)
        return hits.doc_ids

    assert found("压缩包") == found("压缩包", tokenizer="characters") == ["zh"]
    assert found("चोटी") == ["hi"]
    assert found("C++", tokenizer="code") == ["c"]
    assert sorted(found("R?", tokenizer="code")) == ["c", "d"]
    assert found("ANYthing", tokenizer=lambda text: text.lower().split()) == ["d"]
    with pytest.raises(InputError, match="no tokenizer 'klingon'; there are words, characters, code"):
        BM25Member(corpus, tokenizer="klingon")


def test_a_corpus_that_bm25_hardly_reads_is_told():
    corpus = [Document(doc_id="d", text="!= == && || ++ -- zip"), Document(doc_id="e", text="<< >> ?: ::")]
    with pytest.warns(InputWarning, match=r"BM25 reads .*% of the characters of the corpus"):
        BM25Member(corpus)


def classic_idf_over_candidates(texts, query):
    """The public script's way: BM25 with statistics of the three thoughts alone."""
    terms = [text.lower().split() for text in texts]
    df = collections.Counter(term for each in terms for term in set(each))
    mean = sum(map(len, terms)) / len(terms)
    return [
        sum(
            np.log((len(terms) - df[t] + 0.5) / (df[t] + 0.5))
            * (each.count(t) * 2.5)
            / (each.count(t) + 1.5 * (0.25 + 0.75 * len(each) / mean))
            for t in query.lower().split()
        )
        for each in terms
    ]


def test_bm25_statistics_come_from_the_corpus_and_not_from_the_thoughts():
    """Where two of three thoughts share the right words, their idf over three texts is negative."""
    texts = ["some bread and butter", "compress zip archives of bread", "zip archives"]
    thoughts = [
        Thought(query_id="q", thought_id=f"t{i}", text=text, source=Source(model="test"))
        for i, text in enumerate(texts)
    ]
    public = classic_idf_over_candidates(texts, "archives in the zip format")
    assert public[2] < public[1] < public[0] == 0  # the best thought comes last
    election = elect(
        [Query(query_id="q", text="open it")],
        thoughts,
        qrels=[Qrel(query_id="q", doc_id="zip", relevance=1)],
        documents=CORPUS,
        members=[BM25Member(CORPUS)],
    )
    scores = {b.thought_id: b.score for b in election.ballots}
    assert scores["t2"] > scores["t1"] > scores["t0"] == 0
    assert election.examples[0].thought == thoughts[2]


def test_each_text_is_embedded_once_whoever_mentions_it():
    seen = collections.Counter()

    def encode(texts):
        seen.update(texts)
        return letters(texts)

    member = CosineMember("letters", encode, CORPUS)
    pairs = [("zip", "zip"), ("zip", "tar"), ("tar", "zip"), ("zip", "zip")]
    first = member.similarities(pairs)
    assert set(seen.values()) == {1}
    assert len(seen) == 4
    assert member.similarities(pairs).tolist() == first.tolist()
    assert seen["zip"] == 1
    assert seen[CORPUS[0].full_text] == 1


def test_cosine_equals_numpy_and_an_empty_text_is_like_nothing():
    member = CosineMember("letters", letters, CORPUS)
    a, b = letters(["zip", CORPUS[0].full_text]).astype(float)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert member.similarities([("zip", "zip"), ("", "zip")]) == pytest.approx([expected, 0])
    assert member.similarities([]).shape == (0,)


@pytest.mark.parametrize("make", [BM25Member, lambda docs: CosineMember("bm25", letters, docs)])
def test_a_document_that_is_not_in_the_corpus_is_refused(make):
    with pytest.raises(InputError, match=r"member 'bm25': 1 documents are not in its corpus: .'no'"):
        make(CORPUS).similarities([("a", "no"), ("b", "zip")])


def test_a_vector_that_is_not_finite_is_refused():
    member = CosineMember("bad", lambda texts: letters(texts) + np.inf, CORPUS)
    with pytest.raises(InputError, match="member 'bad': the vector of 'zip' is not finite"):
        member.similarities([("zip", "zip")])


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("wordllama", "static", "StaticMember([])"),
        ("model2vec", "static", "members.static.Model2VecMember('m', [])"),
        ("sentence_transformers", "dense", "SentenceTransformerMember('m', [])"),
    ],
)
def test_a_missing_extra_says_what_to_type(package, extra, call):
    code = f"import sys; sys.modules[{package!r}] = None; import o1_vote.members.static; o1_vote.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'o1-vote[{extra}]'" in done.stderr.splitlines()[-1]


def test_a_missing_bm25_says_what_to_type():
    code = "import sys; sys.modules['bm25s'] = None; import o1_vote; o1_vote.BM25Member([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("BM25 needs bm25s and PyStemmer: pip install o1-vote")


OFFLINE = """
import logging, socket, sys
def refuse(*_): raise SystemExit("asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from o1_records import Document
from o1_vote import StaticMember
member = StaticMember([Document(doc_id="d", text="read a zip archive")])
print(*member.similarities([("open a zip file", "d"), ("a walk in the rain", "d"), ("", "d")]))
print(logging.getLogger().handlers, "torch" in sys.modules)
"""


@pytest.mark.extra
def test_the_static_member_needs_no_network_writes_nothing_and_leaves_logging_alone(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    scores, state = done.stdout.splitlines()
    near, far, empty = map(float, scores.split())
    assert near > far
    assert empty == 0
    assert state == "[] False"
    assert not list(tmp_path.iterdir())


@pytest.mark.extra
def test_the_static_member_ignores_the_company_a_text_is_in():
    from o1_vote import StaticMember

    member = StaticMember(CORPUS)
    pairs = [(f"read {'archive ' * i}now", "zip") for i in range(1, 3000, 331)]
    together = member.similarities(pairs)
    alone = [member.similarities([pair])[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-6)


@pytest.mark.extra
def test_a_sentence_transformers_model_votes_as_its_own_cosine(minilm):
    import sentence_transformers

    from o1_vote import SentenceTransformerMember
    from o1_vote.members.dense import Loading

    pairs = [("open a zip file", "zip"), ("open a zip file", "gzip"), ("a subject", "other3")]
    model = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    texts = {document.doc_id: document.full_text for document in CORPUS}
    expected = [
        float(model.similarity(model.encode(text), model.encode(texts[doc_id]))) for text, doc_id in pairs
    ]
    member = SentenceTransformerMember(minilm, CORPUS, loading=Loading(("cpu",), "float32"))
    assert member.similarities(pairs) == pytest.approx(expected, abs=1e-5)
    assert member.name == str(minilm)


@pytest.mark.extra
def test_an_unknown_model_is_refused_in_one_sentence(tmp_path):
    from o1_vote import SentenceTransformerMember

    with pytest.raises(InputError, match="neither a folder nor a model id"):
        SentenceTransformerMember(tmp_path / "no", CORPUS)
    with pytest.raises(InputError, match="cannot be loaded as a sentence-transformers model"):
        SentenceTransformerMember(tmp_path, CORPUS)


@pytest.mark.extra
def test_a_model_of_an_unreachable_hub_is_refused_in_one_sentence(monkeypatch):
    import huggingface_hub

    from o1_vote import SentenceTransformerMember

    # nothing listens on the discard port
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError, match="'nobody/nothing' is not a folder, is not cached"):
        SentenceTransformerMember("nobody/nothing", [])


@pytest.mark.extra
def test_pickled_weights_are_never_read(tmp_path, minilm):
    import shutil

    import torch
    from safetensors.torch import load_file

    from o1_vote import SentenceTransformerMember

    folder = tmp_path / "model"
    shutil.copytree(minilm, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        SentenceTransformerMember(folder, CORPUS)
