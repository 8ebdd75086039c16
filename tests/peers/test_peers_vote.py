"""Mining as sentence-transformers' `mine_hard_negatives` does it, where the two mean the same.

What differs, and why, is in docs/parity-vote.md; the differences are asserted here too.
"""

import json

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from o1_records import Document, Query, triplets
from o1_records.keys import content_doc_id
from o1_vote import Loading, Mining, SentenceTransformerMember, mine
from o1_vote.election.nominate import Nomination
from o1_vote.members.cross_encoder import CrossEncoderMember

pytestmark = pytest.mark.peers

VERBS = ["open", "sort", "send", "read", "merge"]
THINGS = ["a zip archive", "a list of numbers", "mail with attachments", "a table"]
WAYS = ["in one step", "from the command line", "without a copy"]
CORPUS = [f"{verb} {thing} {way}" for verb in VERBS for thing in THINGS for way in WAYS]
RANDOM = np.random.default_rng(0)
ROWS = [
    (f"how do I {verb} {thing}?", f"{verb} {thing} {way}")
    for verb in VERBS[:4]
    for thing in THINGS[:2]
    for way in RANDOM.choice(WAYS, size=1 + (len(verb) % 2), replace=False)
]
FLOAT32 = Loading(("cpu",), "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of word vectors, random ones: it is fast, and no two documents tie."""
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in (*CORPUS, *(anchor for anchor, _ in ROWS)) for word in text.split()})
    tokenizer = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer, embedding_weights=torch.randn(1 + len(words), 16).numpy())
    path = tmp_path_factory.mktemp("static")
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def member(folder):
    return SentenceTransformerMember(folder, DOCUMENTS, name="st", loading=FLOAT32)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A small random cross-encoder that reads bytes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from helpers.tiny import byte_tokenizer

    path = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


DOCUMENTS = {content_doc_id(text): Document(doc_id=content_doc_id(text), text=text) for text in CORPUS}
NOMINATIONS = [
    Nomination(
        Query(query_id=anchor, text=anchor),
        (),
        tuple(DOCUMENTS[content_doc_id(text)] for own, text in ROWS if own == anchor),
    )
    for anchor in dict.fromkeys(anchor for anchor, _ in ROWS)
]


def theirs(model, **options):
    """What sentence-transformers mines: the negatives of each anchor in order."""
    found: dict[str, list[str]] = {}
    given = {"output_format": "triplet", "range_max": len(CORPUS), "num_negatives": 5, **options}
    for row in mined_by_them(model, **given):
        own = found.setdefault(row["anchor"], [])
        if row["negative"] not in own:
            own.append(row["negative"])
    return found


def mined_by_them(model, **options):
    data = Dataset.from_dict({"anchor": [a for a, _ in ROWS], "positive": [p for _, p in ROWS]})
    return mine_hard_negatives(data, model, corpus=CORPUS, verbose=False, **options)


def ours(members, **options):
    """What we mine, likewise."""
    settings = {"relative": None, "near": 1, "last": len(CORPUS), "count": 5, **options}
    found = mine(NOMINATIONS, members, DOCUMENTS, Mining(**settings))
    return {
        example.query.text: [document.text for document in example.negatives]
        for example in found
        if not hasattr(example, "reason")
    }


@pytest.mark.parametrize(
    ("their_options", "our_options"),
    [
        ({}, {}),
        ({"range_max": 20}, {"last": 20}),
        ({"range_min": 3}, {"first": 4}),
        ({"range_min": 3, "range_max": 12}, {"first": 4, "last": 12}),
        ({"absolute_margin": 0.1}, {"margin": 0.1}),
        ({"absolute_margin": 0.0}, {"margin": 0.0}),
        ({"relative_margin": 0.05}, {"relative": 0.95}),
        ({"relative_margin": 0.3}, {"relative": 0.7}),
        ({"relative_margin": 0.05, "absolute_margin": 0.2}, {"relative": 0.95, "margin": 0.2}),
        ({"max_score": 0.5}, {"max_score": 0.5}),
        ({"min_score": 0.3, "num_negatives": 50}, {"min_score": 0.3, "count": 50}),
        (
            {"max_score": 0.6, "min_score": 0.2, "num_negatives": 50},
            {"max_score": 0.6, "min_score": 0.2, "count": 50},
        ),
    ],
)  # fmt: skip
def test_the_same_negatives_are_mined_in_the_same_order(model, member, their_options, our_options):
    told = theirs(model, **their_options)
    assert ours([member], **our_options) == told
    assert sum(map(len, told.values())) >= 9


@pytest.mark.parametrize(
    "shares", [{"max_score": 0.6}, {"min_score": 0.4}, {"max_score": 0.8, "min_score": 0.3}]
)
def test_a_cross_encoder_lets_the_same_documents_through(model, member, judge, shares):
    """Limits are at shares of the scores of all pairs, whatever the random model makes of them."""
    reader = CrossEncoderMember(judge, DOCUMENTS, name="judge", loading=FLOAT32)
    pairs = [(nomination.query.text, name) for nomination in NOMINATIONS for name in DOCUMENTS]
    limits = {name: float(np.quantile(reader.similarities(pairs), share)) for name, share in shares.items()}
    told = theirs(
        model, cross_encoder=CrossEncoder(str(judge), device="cpu"), num_negatives=len(CORPUS), **limits
    )
    bounds = {name: {"judge": value} for name, value in limits.items()}
    found = ours([member, reader], count=len(CORPUS), **bounds)
    # they order by the cross-encoder, we by who found the documents
    assert {anchor: sorted(own) for anchor, own in found.items()} == {
        a: sorted(own) for a, own in told.items()
    }
    plain = ours([member], count=len(CORPUS))
    for anchor, own in found.items():
        assert own == [text for text in plain[anchor] if text in told[anchor]]
    assert 0 < sum(map(len, found.values())) < 0.8 * sum(map(len, plain.values()))


def test_tuples_of_one_width_are_the_same_rows(model, member, tmp_path):
    told = [dict(row) for row in mined_by_them(
        model, output_format="n-tuple", max_score=0.45, num_negatives=40, range_max=len(CORPUS)
    )]  # fmt: skip
    settings = Mining(relative=None, near=1, last=len(CORPUS), count=40, max_score=0.45, full=True)
    examples = [e for e in mine(NOMINATIONS, [member], DOCUMENTS, settings) if not hasattr(e, "reason")]
    triplets.write(tmp_path / "rows.jsonl", examples)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < len(ROWS)
    assert sorted(rows, key=str) == sorted(told, key=str)
    loaded = Dataset.from_json(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["anchor", "positive", *(f"negative_{n}" for n in range(1, 41))]


def test_labelled_pairs_are_the_same_rows(model, member, tmp_path):
    told = mined_by_them(model, output_format="labeled-pair", num_negatives=5, range_max=len(CORPUS))
    settings = Mining(relative=None, near=1, last=len(CORPUS), count=5)
    triplets.write_pairs(tmp_path / "pairs.jsonl", mine(NOMINATIONS, [member], DOCUMENTS, settings))
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    names = ("anchor", told.column_names[1], "label")
    expected = {tuple(row[name] for name in names) for row in told}
    assert {tuple(row[name] for name in ("anchor", "document", "label")) for row in rows} == expected
    assert len(rows) == len(expected)


def test_a_first_rank_counts_documents_before_limits_here_and_after_them_there(model, member):
    """Difference 1 of docs/parity-vote.md."""
    limit = 0.55
    plain = ours([member], count=len(CORPUS))
    told = theirs(model, max_score=limit, range_min=3, num_negatives=len(CORPUS) - 6)
    found = ours([member], max_score=limit, first=4, count=len(CORPUS))
    below = ours([member], max_score=limit, count=len(CORPUS))
    differ = 0
    for anchor, all_of in plain.items():
        assert told[anchor] == below[anchor][3:]
        assert found[anchor] == [text for text in all_of[3:] if text in below[anchor]]
        differ += told[anchor] != found[anchor]
    assert differ > 0


def test_near_copies_of_a_positive_and_empty_documents_are_negatives_there_only(model, folder):
    """Difference 2."""
    corpus = [*CORPUS[:20], f"{ROWS[0][1].capitalize()}.", ""]
    data = Dataset.from_dict({"anchor": [ROWS[0][0]], "positive": [ROWS[0][1]]})
    told = mine_hard_negatives(
        data,
        model,
        corpus=corpus,
        verbose=False,
        num_negatives=21,
        range_max=30,
        output_format="labeled-list",
    )
    assert set(corpus[20:]) <= set(
        told[0]["passage" if "passage" in told.column_names else told.column_names[1]]
    )
    documents = {content_doc_id(text): Document(doc_id=content_doc_id(text), text=text) for text in corpus}
    own = SentenceTransformerMember(folder, documents, name="st", loading=FLOAT32)
    nomination = Nomination(
        Query(query_id="q", text=ROWS[0][0]), (), (documents[content_doc_id(ROWS[0][1])],)
    )
    (example,) = mine([nomination], [own], documents, Mining(relative=None, count=30))
    assert not {document.text for document in example.negatives} & set(corpus[20:])
