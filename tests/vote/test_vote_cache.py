"""Vectors and indexes that are kept: computed once, never stale, never damaged unnoticed."""

import argparse
import collections
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Ballot, Document, InputError, write_jsonl
from o1_vote import BM25Member
from o1_vote._job import Files
from o1_vote.commands import committee
from o1_vote.members import cosine
from o1_vote.members.cosine import CosineMember
from o1_vote.members.vector_cache import VectorCache

CORPUS = [Document(doc_id=f"d{i}", text=f"{word} a {word}") for i, word in enumerate(["ant", "bee", "cat"])]
PAIRS = [("an ant", "d0"), ("a bee", "d0"), ("an ant", "d2")]


def counting(seen, shift=0):
    def encode(texts):
        seen.update(texts)
        rows = [[text.count(letter) + shift for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 26)

    return encode


def member(seen, path, fingerprint="one", **options):
    cache = VectorCache(path)
    return CosineMember("letters", counting(seen), CORPUS, cache=cache, fingerprint=fingerprint, **options)


def test_a_second_run_embeds_nothing_again(tmp_path):
    seen = collections.Counter()
    first = member(seen, tmp_path / "vectors").similarities(PAIRS)
    assert set(seen.values()) == {1}
    again = member(seen, tmp_path / "vectors")
    assert again.similarities(PAIRS).tolist() == first.tolist()
    assert set(seen.values()) == {1}


def test_f21_another_model_text_or_prompt_never_finds_stale_vectors(tmp_path):
    seen = collections.Counter()
    member(seen, tmp_path / "vectors").similarities(PAIRS)
    for fingerprint in ("two", "one ", "One"):
        before = seen["an ant"]
        member(seen, tmp_path / "vectors", fingerprint).similarities(PAIRS)
        assert seen["an ant"] == before + 1
    fresh = collections.Counter()
    member(fresh, tmp_path / "vectors").similarities([("an ant ", "d0")])
    assert fresh == {"an ant ": 1}


def test_f21_documents_of_another_prompt_are_other_vectors(tmp_path):
    seen, documents = collections.Counter(), collections.Counter()
    two_sided = member(seen, tmp_path / "vectors", encode_document=counting(documents, shift=1))
    text = CORPUS[0].text
    score = two_sided.similarities([(text, "d0")])[0]
    assert seen == documents == {text: 1}
    assert score < 0.999
    assert member(seen, tmp_path / "vectors").similarities([(text, "d0")])[0] == pytest.approx(1)


def test_a_cache_without_a_fingerprint_is_refused(tmp_path):
    with pytest.raises(InputError, match="a cache needs the fingerprint"):
        member(collections.Counter(), tmp_path / "vectors", fingerprint="")


def test_f8_a_flipped_bit_of_a_vector_is_detected(tmp_path):
    path = tmp_path / "vectors"
    expected = member(collections.Counter(), path).similarities(PAIRS)
    cache = VectorCache(path)
    cache._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cache._db.close()
    whole, choose = path.read_bytes(), random.Random(0)
    for _ in range(60):
        bit = choose.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:  # either noticed, or the bit was not one of a vector
            found = member(collections.Counter(), path).similarities(PAIRS)
        except InputError:
            continue
        finally:
            for extra in ("vectors-wal", "vectors-shm"):
                (tmp_path / extra).unlink(missing_ok=True)
        assert found.tolist() == expected.tolist()


TEXTS = st.lists(st.sampled_from(["ant", "bee", "cat"]), max_size=4).map(" ".join)


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    corpus=st.lists(TEXTS, min_size=1, max_size=20),
    k=st.integers(1, 22),
)
def test_a_search_finds_what_is_most_similar_and_the_larger_id_of_what_ties(texts, corpus, k):
    documents = [Document(doc_id=f"d{i:02}", text=text) for i, text in enumerate(["cat ant", *corpus])]
    dense = CosineMember("letters", counting(collections.Counter()), documents)
    for each in (dense, BM25Member(documents, language="none")):
        for text, found in zip(texts, each.search(texts, k), strict=True):
            told = dict(
                zip(
                    each.documents,
                    each.similarities([(text, d) for d in each.documents]).tolist(),
                    strict=True,
                )
            )
            assert found.scores == pytest.approx([told[name] for name in found.doc_ids], abs=1e-6)
            # no hit: a document without a term of the text, and for a zero vector every document
            able = [name for name in told if told[name] > 0 or (each is dense and text.strip())]
            assert len(found.doc_ids) == min(k, len(able))
            known = dict(zip(found.doc_ids, found.scores.tolist(), strict=True))
            assert found.doc_ids == sorted(known, key=lambda name: (known[name], name), reverse=True)
            left = [told[name] for name in able if name not in known]
            assert not left or max(left) <= min(known.values()) + 1e-6


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_a_search_by_blocks_of_documents_finds_the_same(monkeypatch, blocks):
    random_ = np.random.default_rng(0)
    documents = [Document(doc_id=f"d{i:02}", text="abc"[i % 3] * (1 + i % 4)) for i in range(40)]
    vectors = {
        text: random_.integers(0, 3, size=4)
        for text in {document.text for document in documents} | {"q", "r"}
    }

    def encode(texts):
        return np.array([vectors[text] for text in texts], dtype=np.float32)

    for k in (1, 5, 39, 40, 99):
        whole = list(CosineMember("m", encode, documents).search(["q", "r"], k))
        with monkeypatch.context() as patch:
            patch.setattr(cosine, "_DOCUMENTS_AT_A_TIME", blocks)
            parts = list(CosineMember("m", encode, documents).search(["q", "r"], k))
        assert [found.doc_ids for found in parts] == [found.doc_ids for found in whole]


def test_a_saved_bm25_gives_the_same_scores(tmp_path):
    made = BM25Member(CORPUS, split_identifiers=True, saved=tmp_path / "index").similarities(PAIRS)
    opened = BM25Member(CORPUS, split_identifiers=True, saved=tmp_path / "index")
    assert opened.similarities(PAIRS).tolist() == made.tolist()
    assert made.tolist() == BM25Member(CORPUS, split_identifiers=True).similarities(PAIRS).tolist()


def test_a_saved_bm25_of_other_options_or_documents_is_refused(tmp_path):
    BM25Member(CORPUS, saved=tmp_path / "index")
    with pytest.raises(InputError, match="the index is of other documents; name another folder"):
        BM25Member(CORPUS[1:], saved=tmp_path / "index")
    with pytest.raises(InputError, match=r"'language': 'english'.* not with .*'language': 'german'"):
        BM25Member(CORPUS, language="german", saved=tmp_path / "index")


def test_f8_every_damaged_byte_of_a_saved_bm25_is_detected(tmp_path):
    BM25Member(CORPUS, saved=tmp_path / "index")
    choose = random.Random(1)
    files = sorted((tmp_path / "index").iterdir())
    for _ in range(60):
        path = choose.choice(files)
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(InputError, match="index"):
            BM25Member(CORPUS, saved=tmp_path / "index")
        path.write_bytes(whole)


def fingerprints(*words):
    parser = argparse.ArgumentParser()
    committee.declare(parser)
    members = committee.members(parser.parse_args(words), Files([], list), whole_corpus=True)
    return [member.fingerprint for member in members]


def all_differ(seen):
    return all(one != other for place, one in enumerate(seen) for other in seen[:place])


def test_f21_a_job_knows_when_a_score_file_or_an_option_changed(tmp_path):
    scores = tmp_path / "scores.jsonl"
    words = ["--member", "bm25", "--member", f"scores:{scores}"]
    seen = []
    for score in (1.0, 2.0):
        write_jsonl(scores, [Ballot(query_id="q", thought_id=None, retriever="m", score=score)])
        seen.append(fingerprints(*words))
    seen += [fingerprints(*words, *more) for more in (["--language", "french"], ["--split-identifiers"])]
    assert all_differ(seen)
    assert fingerprints(*words) == seen[1]


@pytest.mark.extra
def test_f21_a_job_knows_when_a_model_or_an_option_changed(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    words = ["--member", f"st:{model}"]
    seen = []
    for number, name in enumerate(["config.json", "model.safetensors", "tokenizer.json", "config.json"]):
        (model / name).write_text(f"content {number}")
        seen.append(fingerprints(*words))
    options = (["--dtype", "float32"], ["--query-prompt", "q"], ["--max-length", "9"])
    seen += [fingerprints(*words, *more) for more in options]
    assert all_differ(seen)
    assert fingerprints(*words, "--device", "cpu", "--batch", "3") == seen[3]
    with pytest.raises(InputError, match=r"is a folder; a revision .'r'. belongs to a hub id"):
        fingerprints(*words, "--revision", "r")
