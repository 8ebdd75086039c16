"""From examples to joint batches: groups, keys, padding; the same in the workers of a data loader."""

import math
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch.utils.data import DataLoader

from o1_model import Embedder
from o1_model.batch import by_length, grouped
from o1_model.layout import Row
from o1_model.training.data import (
    Drawn,
    Examples,
    Exclusions,
    JointCollator,
    Visit,
    document_key,
)
from o1_model.training.step import join, negatives
from o1_records import Document, Example, InputError, Query, Source, Thought

WORDS = ["how", "do", "i", "open", "a", "zip", "file"]


def document(name):
    # a text of its own, of three words: a document is its text
    return Document(doc_id=name, text=f"open {name} zip")


def example(number, *, positives="p", negatives="", thought=True, **settings):
    query = Query(query_id=f"q{number}", text=" ".join(WORDS[: 1 + number % 5]))
    written = Thought(query_id=query.query_id, thought_id="t", text="read bytes", source=Source(model="m"))
    return Example(
        query=query,
        positives=tuple(document(name) for name in positives),
        negatives=tuple(document(name) for name in negatives),
        thought=written if thought else None,
        **settings,
    )


def collate_with(embedder, **settings):
    return JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout, **settings)


def documents_of(batch, row):
    """The documents of one example as digests, in the order of its row."""
    own = [r for r in batch.judgements.rows[row].tolist() if r >= 0]
    return batch.judgements.document_keys[own].tolist()


def keys(names):
    return [document_key(document(name)) for name in names]


def test_an_example_takes_one_positive_and_fills_up_with_negatives(llama):
    examples = [
        example(0, positives="ab", negatives="cdef"),
        example(1, positives="abc", negatives="d", group_size=2),
        example(2, positives="g", negatives="hijk", group_size=5),
        example(3, positives="lm", negatives="n", group_size=1),
    ]
    batch = collate_with(llama, negatives=2)(examples)["batch"]
    assert [documents_of(batch, row) for row in range(4)] == [
        keys("acd"),
        keys("ad"),
        keys("ghijk"),
        keys("l"),
    ]
    assert batch.judgements.n_positives.tolist() == [1, 1, 1, 1]
    assert [sorted(set(row)) for row in batch.judgements.excluded_keys.tolist()] == [
        sorted(keys(names)) for names in ("ab", "abc", "g", "lm")
    ]


def test_all_positives_can_be_asked_for(llama):
    examples = [
        example(0, positives="ab", negatives="cdef"),
        example(1, positives="abc", negatives="d", group_size=2),
        example(2, positives="g", negatives="hijk", group_size=5),
    ]
    batch = collate_with(llama, negatives=2, positives=0)(examples)["batch"]
    assert [documents_of(batch, row) for row in range(3)] == [keys("abc"), keys("ab"), keys("ghijk")]
    assert batch.judgements.n_positives.tolist() == [2, 2, 1]
    # all positives are known, also those that found no room
    assert [sorted(set(row)) for row in batch.judgements.excluded_keys.tolist()] == [
        sorted(keys(names)) for names in ("ab", "abc", "g")
    ]


def test_a_document_that_examples_share_is_encoded_once(llama):
    batch = collate_with(llama, negatives=2)([example(0, negatives="ab"), example(1, negatives="ba")])[
        "batch"
    ]
    assert batch.judgements.document_keys.tolist() == keys("pab")
    assert sum(len(part.input_ids) for part in batch.documents) == 3


def test_a_positive_among_the_negatives_is_no_negative(llama):
    batch = collate_with(llama, negatives=3)([example(0, positives="a", negatives="aab")])["batch"]
    assert documents_of(batch, 0) == keys("ab")
    assert batch.judgements.n_positives.tolist() == [1]


def test_teacher_scores_stay_with_their_documents(llama):
    scored = example(0, positives="ab", negatives="bcd", teacher_scores=(5.0, 4.0, 9.0, 3.0, 2.0))
    batch = collate_with(llama, negatives=2)([scored, example(1, negatives="c")])["batch"]
    assert documents_of(batch, 0) == keys("acd")
    # b is a positive: its score as a negative, 9, belongs to nobody
    assert batch.judgements.teacher[0].tolist() == [5.0, 3.0, 2.0]
    assert all(math.isnan(score) for score in batch.judgements.teacher[1].tolist())


def test_rows_are_found_again_in_the_groups(llama):
    examples = [example(n, thought=n % 2 == 0) for n in range(7)]
    batch = collate_with(llama, chunk_tokens=30)(examples)["batch"]
    assert len(batch.queries) > 1
    stacked = [
        ids[mask.bool()].tolist()
        for part in batch.queries
        for ids, mask in zip(part.input_ids, part.mask, strict=True)
    ]
    for place, row in zip(batch.query_order.tolist(), stacked, strict=True):
        assert tuple(row) == batch.query_rows[place].ids
    assert batch.query_ids == [f"q{n}" for n in range(7)]
    assert batch.judgements.has_thought.tolist() == [n % 2 == 0 for n in range(7)]
    # two tokens of the thought and EOS
    assert batch.n_labels == 4 * 3
    assert batch.real_tokens == sum(len(row) for row in stacked) + 6


def test_an_example_without_a_positive_is_named(llama):
    with pytest.raises(InputError, match="'q3' has no positive"):
        collate_with(llama)([example(3, positives="")])


def test_workers_make_the_same_batches(llama):
    examples = [example(n, negatives="abc") for n in range(8)]
    collate, drawn = collate_with(llama, negatives=2), Examples(examples, thought_dropout=0.5)
    batches = [
        [inputs["batch"] for inputs in DataLoader(drawn, 4, collate_fn=collate, num_workers=n)]
        for n in (0, 1)
    ]
    for here, there in zip(*batches, strict=True):
        assert here.query_rows == there.query_rows
        torch.testing.assert_close(vars(here.judgements), vars(there.judgements), equal_nan=True)


def test_thoughts_are_dropped_by_seed_example_and_turn():
    examples = [example(n) for n in range(200)]

    def kept(turn, seed=0):
        drawn = Examples(examples, thought_dropout=0.1, seed=seed)
        return [drawn[Visit(n, turn)].thought for n in range(200)]

    assert kept(0) == kept(0)
    assert kept(0) != kept(1)
    assert kept(0) != kept(0, seed=1)
    assert all(160 <= sum(kept(turn)) <= 195 for turn in range(5))


def test_a_dropped_thought_is_neither_read_nor_learnt(llama):
    batch = collate_with(llama)([Drawn(example(0)), Drawn(example(1), thought=False)])["batch"]
    assert batch.judgements.has_thought.tolist() == [True, False]
    assert batch.n_labels == 3


def test_each_turn_draws_other_documents_and_every_one_in_the_end():
    """FlagEmbedding's draw: one positive and N - 1 negatives out of thirty, other ones each time."""
    scores = tuple(float(n) for n in range(33))
    negatives = "abcdefghijklmnopqrstuvwxyz0123"
    own = example(0, positives="ABC", negatives=negatives, teacher_scores=scores)
    score_of = dict(zip((*own.positives, *own.negatives), scores, strict=True))
    drawn = Examples([own], seed=4)
    seen = set()
    for turn in range(40):
        now = drawn[Visit(0, turn)].example
        documents = (*now.positives, *now.negatives)
        assert now.teacher_scores == tuple(score_of[document] for document in documents)
        assert set(now.positives) == set(own.positives)
        seen |= {d.doc_id for d in (*now.positives[:1], *now.negatives[:15])}
    assert seen == {*negatives, *"ABC"}
    assert drawn[Visit(0, 3)] == Examples([own], seed=4)[Visit(0, 3)]
    assert drawn[Visit(0, 3)] != Examples([own], seed=5)[Visit(0, 3)]
    assert Examples([own], draw="first")[Visit(0, 3)].example == own


def test_equal_ids_of_two_datasets_are_two_documents(llama):
    rain = Document(doc_id="17", text="rain falls from clouds")
    code = Document(doc_id="17", text="sort list keys")
    examples = [
        Example(query=Query(query_id="a", text="how"), positives=(rain,), dataset="science"),
        Example(query=Query(query_id="b", text="do"), positives=(code,), dataset="code"),
    ]
    batch = collate_with(llama)(examples)["batch"]
    assert batch.judgements.document_keys.tolist() == [document_key(rain), document_key(code)]
    assert batch.judgements.rows.tolist() == [[0], [1]]
    assert negatives(batch.judgements).tolist() == [[False, True], [True, False]]


def test_a_text_is_one_document_whatever_its_ids_are(llama):
    first, second = (Document(doc_id=name, text="read text bytes") for name in "xy")
    examples = [
        Example(query=Query(query_id="a", text="how"), positives=(first,), negatives=(second, document("n"))),
        Example(query=Query(query_id="b", text="do"), positives=(second,)),
    ]
    batch = collate_with(llama, negatives=2)(examples)["batch"]
    assert documents_of(batch, 0) == [document_key(first), *keys("n")]
    assert negatives(batch.judgements).tolist() == [[False, True], [False, True]]


def test_a_query_that_two_examples_ask_has_the_positives_of_both(llama):
    """Triplets with one anchor: neither positive is a negative of the other row, in the batch or mined."""
    asked = Query(query_id="a", text="open file"), Query(query_id="b", text="Open  file")
    examples = [
        Example(query=asked[0], positives=(document("p"),), negatives=(document("r"), document("n"))),
        Example(query=asked[1], positives=(document("r"),), negatives=(document("n"),)),
        example(2, positives="q"),
    ]
    batch = collate_with(llama, negatives=2, excluded=Exclusions(examples))(examples)["batch"]
    assert [documents_of(batch, row) for row in range(3)] == [keys("pn"), keys("rn"), keys("q")]
    wrong = dict(zip(batch.judgements.document_keys.tolist(), negatives(batch.judgements).T, strict=True))
    (p, r) = keys("pr")
    assert wrong[p].tolist() == wrong[r].tolist() == [False, False, True]


def test_where_queries_and_documents_are_numbered_apart_no_negative_is_lost():
    """Query 17 was given document 17 as a negative; only a text says that a document is the query itself."""

    def numbered(text, *negatives):
        read = Document(doc_id="3", text="read it")
        return Example(query=Query(query_id="17", text=text), positives=(read,), negatives=negatives)

    other = numbered("open a zip", Document(doc_id="17", text="sort keys"))
    assert Exclusions([other]).of(other) == {document_key(other.positives[0])}
    assert Exclusions([other]).check([other]) == []
    # as in ArguAna: mined with the query itself among its hits
    query = numbered("sort keys", Document(doc_id="17", text="Sort  keys", title="Keys"))
    (said,) = Exclusions([query]).check([query])
    assert said.startswith("1 negatives of 1 examples")
    # a document that nobody gave it is the query, as in elections, mining and measuring
    alone, elsewhere = numbered("open a zip"), Document(doc_id="17", text="sort keys")
    assert document_key(elsewhere) in Exclusions([alone], [elsewhere]).of(alone)


TEXTS = ["open a zip", "Open  a ZIP", "read it", "read", "sort"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), processes=st.sampled_from([1, 2, 3]))
def test_no_negative_is_a_known_positive_or_the_query_itself(llama, seed, processes):
    """Own negatives, those of the batch and those of other processes, against the rules written out."""
    draw = random.Random(seed)

    def drawn_document():
        title = draw.choice(["", "", "open", "read"])
        return Document(doc_id=draw.choice("abcd"), text=draw.choice(TEXTS), title=title)

    examples = [
        Example(
            query=Query(
                query_id=draw.choice("abxy"), text=draw.choice(TEXTS), instruction=draw.choice(["", "find"])
            ),
            positives=tuple(drawn_document() for _ in range(draw.randint(1, 2))),
            negatives=tuple(drawn_document() for _ in range(draw.randint(0, 3))),
        )
        for _ in range(2 * processes)
    ]
    corpus = [drawn_document() for _ in range(3)]

    def folded(text):
        return " ".join(text.lower().split())

    def asks(query):
        return folded(query.instruction), folded(query.text)

    documents = [*corpus, *(d for e in examples for d in (*e.positives, *e.negatives))]

    def negative(example, text):
        """Whether any document of this text is a positive, or the query by its text or its id."""
        query, own = example.query, [d.doc_id for d in (*example.positives, *example.negatives)]
        same = [d for d in documents if d.full_text == text]
        positive = any(
            d.full_text == text for e in examples if asks(e.query) == asks(query) for d in e.positives
        )
        worded = any(folded(query.text) in (folded(d.text), folded(d.full_text)) for d in same)
        named = query.query_id not in own and any(d.doc_id == query.query_id for d in same)
        return not (positive or worded or named)

    excluded = Exclusions(examples, corpus)
    collate = collate_with(llama, negatives=3, excluded=excluded)
    parts = [collate(examples[at : at + 2])["batch"].judgements for at in range(0, len(examples), 2)]
    judgements = join(parts)
    text_of = {document_key(d): d.full_text for d in documents}
    expected = [[negative(e, text_of[key]) for key in judgements.document_keys.tolist()] for e in examples]
    assert negatives(judgements).tolist() == expected
    for example, rows, first in zip(examples, judgements.rows, judgements.n_positives, strict=True):
        own = [text_of[int(judgements.document_keys[row])] for row in rows[int(first) :] if row >= 0]
        left = [d.full_text for d in example.negatives if negative(example, d.full_text)]
        assert own == list(dict.fromkeys(left))[: len(own)] and len(own) == min(len(set(left)), 3)
    dropped = sum(not negative(e, d.full_text) for e in examples for d in e.negatives)
    assert [line.split()[0] for line in excluded.check(examples)] == ([str(dropped)] if dropped else [])


def rows_of(parts, order):
    rows = [
        ids[mask.bool()].tolist()
        for part in parts
        for ids, mask in zip(part.input_ids, part.mask, strict=True)
    ]
    return dict(zip(order.tolist(), map(tuple, rows), strict=True))


@pytest.mark.parametrize("layout", ["o1", "instruct"])
@pytest.mark.parametrize("reading", ["query", "document"])
def test_thoughts_are_read_for_the_mixture_as_a_retriever_reads_them(plain_models, layout, reading):
    embedder = Embedder.from_backbone(
        plain_models["llama"], name=layout, query_prompt="find: {instruction} zip ", document_prompt="file "
    )
    examples = [example(n, thought=n != 2) for n in range(4)]
    examples[3] = replace(examples[3], query=replace(examples[3].query, instruction="sort"))
    drawn = [*examples[:3], Drawn(examples[3]), Drawn(example(4), thought=False)]
    batch = collate_with(embedder, mixture=reading)(drawn)["batch"]
    assert batch.judgements.mixes.tolist() == [True, True, False, True, False]
    if reading == "query":
        asked = [replace(examples[n].query, text="read bytes") for n in (0, 1, 3)]
        expected = embedder.query_rows(asked)
    else:
        expected = embedder.document_rows(["read bytes"] * 3)
    found = rows_of(batch.thoughts, batch.thought_order)
    assert found == {n: row.ids for n, row in zip((0, 1, 3), expected, strict=True)}
    assert collate_with(embedder)(examples)["batch"].thought_order is None


def test_without_any_thought_there_is_nothing_to_mix(llama):
    batch = collate_with(llama, mixture="document")([example(0, thought=False)])["batch"]
    assert (batch.thoughts, batch.thought_order.tolist()) == ([], [])
    assert not batch.judgements.mixes.any()


def test_a_copy_that_fills_up_a_batch_has_no_labels(llama):
    batch = collate_with(llama)([example(0), Drawn(example(0), counts=False)])["batch"]
    assert batch.judgements.counts.tolist() == [True, False]
    assert batch.n_labels == 3


@pytest.mark.parametrize("layout", ["reference", "instruct"])
def test_layouts_with_one_read_out_have_no_v_t_of_their_own(plain_models, layout):
    embedder = Embedder.from_backbone(plain_models["llama"], name=layout)
    batch = collate_with(embedder)([example(n) for n in range(3)])["batch"]
    assert not batch.judgements.has_thought.any()
    assert batch.n_labels == (9 if layout == "reference" else 0)


def test_reasoning_queries_are_the_examples_or_what_stands_in_for_them(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], name="instruct")
    examples = [
        example(0, thought=False, reasoning_query="open the zip"),
        example(1),
        example(2, thought=False),
    ]
    batch = collate_with(embedder, reasoning_queries=True)(examples)["batch"]
    assert collate_with(embedder)(examples)["batch"].reasoning == ()
    texts = {}
    rows = [
        (ids, mask) for part in batch.reasoning for ids, mask in zip(part.input_ids, part.mask, strict=True)
    ]
    for place, (ids, mask) in zip(batch.reasoning_order.tolist(), rows, strict=True):
        texts[place] = embedder.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
    # query 1 has its thought behind it, query 2 stands alone
    assert texts == {0: "open the zip", 1: "how do read bytes", 2: "how do i"}


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200), st.sampled_from([0.0, 0.9])
)
def test_groups_hold_every_row_once_within_the_budget(lengths, tokens, real):
    groups = list(by_length(lengths, tokens, real=real))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= tokens
        assert sum(lengths[index] for index in group) >= real * len(group) * longest


LENGTHS = {
    # 128 documents of MS MARCO (median 70), of BRIGHT cut at 512, 32 queries with thoughts, 8 of them
    "passages": lambda draw: [min(192, int(draw.lognormvariate(4.2, 0.4))) for _ in range(128)],
    "long documents": lambda draw: [min(512, int(draw.lognormvariate(5.5, 0.9))) for _ in range(128)],
    "queries and thoughts": lambda draw: [draw.randint(8, 30) + draw.randint(0, 64) for _ in range(32)],
    "eight queries": lambda draw: [draw.randint(8, 30) + draw.randint(20, 200) for _ in range(8)],
    "queries": lambda draw: [3 + int(draw.lognormvariate(1.8, 0.4)) for _ in range(64)],
    "some without a thought": lambda draw: [draw.randint(6, 16) + draw.choice([0, 64]) for _ in range(64)],
}


@pytest.mark.parametrize("kind", LENGTHS)
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_nine_tokens_in_ten_are_real(kind, seed):
    lengths = LENGTHS[kind](random.Random(seed))
    rows = [Row(tuple([1] * max(length, 1)), 0, 0, range(0)) for length in lengths]
    parts, _ = grouped(rows, 0, tokens=2048)
    real = sum(int(part.mask.sum()) for part in parts)
    assert real / sum(part.mask.numel() for part in parts) >= 0.9
