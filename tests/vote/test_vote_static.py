"""A real model2vec model of seven words, and what it says as a member. No torch."""

import subprocess
import sys

import numpy as np
import pytest

from o1_records import Ballot, Document, Example, InputError, Qrel, Query, Source, Thought, read_jsonl
from o1_records import write_jsonl as write
from o1_vote.members.static import Model2VecMember

pytestmark = pytest.mark.extra

WORDS = ["[UNK]", "read", "zip", "archive", "tar", "mail", "send"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
CORPUS = [Document(doc_id="zip", text="read zip archive"), Document(doc_id="mail", text="send mail")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("m2v")
    StaticModel(VECTORS, tokenizer).save_pretrained(path)
    return path


def cosine(one, other):
    a, b = (VECTORS[[WORDS.index(word) for word in text.split()]].mean(axis=0) for text in (one, other))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_it_compares_the_means_of_word_vectors(folder):
    member = Model2VecMember(folder, CORPUS)
    pairs = [("zip archive", "zip"), ("zip archive", "mail"), ("send tar unheard", "zip"), ("unheard", "zip")]
    told = [cosine("zip archive", "read zip archive"), cosine("zip archive", "send mail")]
    assert member.similarities(pairs) == pytest.approx([*told, cosine("send tar", "read zip archive"), 0])
    assert member.name == str(folder)
    (found,) = member.search(["zip archive"], 2)
    assert dict(zip(found.doc_ids, found.scores, strict=True)) == pytest.approx(
        dict(zip(["zip", "mail"], told, strict=True))
    )
    assert found.scores[0] > found.scores[1]
    assert [len(found.doc_ids) for found in member.search(["unheard", "zip"], 1)] == [0, 1]


def test_texts_are_cut_at_the_given_length_and_vectors_of_another_length_are_others(folder, tmp_path):
    from o1_vote.members.vector_cache import VectorCache

    for _ in range(2):
        for length, text in ((1, "zip"), (None, "zip archive mail")):
            cache = VectorCache(tmp_path / "vectors.sqlite")
            member = Model2VecMember(folder, CORPUS[1:], cache=cache, max_length=length)
            (found,) = member.similarities([("zip archive mail", "mail")])
            assert found == pytest.approx(cosine(text, "send" if length == 1 else "send mail"))


def test_a_folder_or_an_id_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded as a model2vec model"):
        Model2VecMember(tmp_path, CORPUS)
    with pytest.raises(InputError, match="neither a folder nor a model id"):
        Model2VecMember(tmp_path / "no", CORPUS)


def test_it_votes_in_the_command_and_loads_no_torch(folder, tmp_path):
    source = Source(model="m")
    write(tmp_path / "queries.jsonl", [Query(query_id="q", text="read")])
    write(tmp_path / "corpus.jsonl", CORPUS)
    write(tmp_path / "qrels.jsonl", [Qrel(query_id="q", doc_id="mail", relevance=1)])
    write(
        tmp_path / "thoughts.jsonl",
        [Thought(query_id="q", thought_id=text, text=text, source=source) for text in ("tar", "mail")],
    )
    code = "import sys; from o1_vote.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels", "ballots")]
    words = ["elect", *files, "--member", f"words=m2v:{folder}", "--out", "e.jsonl"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    (example,) = read_jsonl(tmp_path / "e.jsonl", Example)
    assert example.thought.text == "mail"
    ballots = {b.thought_id: b.score for b in read_jsonl(tmp_path / "ballots.jsonl", Ballot)}
    for name, text in ((None, "read"), ("tar", "read tar"), ("mail", "read mail")):
        margin = cosine(text, "send mail") - cosine(text, "read zip archive")
        assert ballots[name] == pytest.approx(margin, abs=1e-6)
