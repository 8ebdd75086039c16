"""Control tokens stand where the layout says and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_model import Embedder, Layout, Thinking
from o1_model.layout import (
    document_row,
    known_layout,
    load_layout,
    new_layout,
    prompt_row,
    query_row,
    query_text,
    text_ids,
    thoughtless_row,
)
from o1_records import InputError, Query

LENGTHS = {"query_length": 5, "thought_length": 6, "document_length": 7}
LAYOUT = Layout(bos=1, eos=2, query=90, emb=91, thought=92, doc=93, **LENGTHS)
REFERENCE = Layout(name="reference", bos=1, eos=2, query=90, query_end=94, thought=92, emb=91, **LENGTHS)
INSTRUCT = Layout(name="instruct", bos=1, eos=2, emb=2, **LENGTHS)
TOKENS = st.lists(st.integers(3, 80), max_size=20)


@given(TOKENS, TOKENS)
def test_control_tokens_survive_any_length(query, thought):
    row = query_row(LAYOUT, query, thought)
    expected = [1, 90, *query[:5], 91, 92, *thought[:6], 2, 91]
    assert list(row.ids) == expected
    assert row.ids[row.first] == row.ids[row.last] == LAYOUT.emb
    assert row.first == min(len(query), 5) + 2
    assert row.last == len(expected) - 1
    assert document_row(LAYOUT, query).ids == (1, 93, *query[:7], 91)


@given(TOKENS, TOKENS)
def test_the_reference_layout_reads_one_vector_after_the_thought(query, thought):
    row = query_row(REFERENCE, query, thought)
    assert row.ids == (1, 90, *query[:5], 94, 92, *thought[:6], 2, 91)
    assert row.first == row.last == len(row.ids) - 1
    assert prompt_row(REFERENCE, query).ids == row.ids[: len(row.ids) - 2 - len(thought[:6])]
    # the public code trains a query without a thought behind an open <thought>
    assert query_row(REFERENCE, query).ids == (1, 90, *query[:5], 94, 92, 91)
    assert thoughtless_row(REFERENCE, prompt_row(REFERENCE, query)) == query_row(REFERENCE, query)
    assert document_row(REFERENCE, query).ids == (1, *query[:7], 91)


@given(TOKENS)
def test_the_instruct_layout_reads_the_end_of_sequence(tokens):
    row = query_row(INSTRUCT, tokens)
    assert row.ids == (1, *tokens[:5], 2)
    assert row.first == row.last == len(row.ids) - 1
    assert document_row(INSTRUCT, tokens).ids == (1, *tokens[:7], 2)
    assert INSTRUCT.control_ids == ()


@pytest.mark.parametrize("layout", [LAYOUT, REFERENCE], ids=lambda layout: layout.name)
@given(TOKENS, TOKENS)
def test_labels_are_the_thought_and_the_eos_it_really_reached(layout, query, thought):
    row = query_row(layout, query, thought)
    labels = [row.ids[position] for position in row.labels]
    assert labels == ([*thought, layout.eos] if len(thought) <= 6 else thought[:6])


@given(TOKENS, TOKENS)
def test_v_q_is_a_prefix_of_the_pass_that_gives_v_t(query, thought):
    with_thought, without = query_row(LAYOUT, query, thought), query_row(LAYOUT, query)
    assert with_thought.ids[: with_thought.first + 1] == without.ids
    assert with_thought.ids[: with_thought.first + 2] == prompt_row(LAYOUT, query).ids
    assert without.first == without.last


@pytest.mark.parametrize("layout", [LAYOUT, REFERENCE, INSTRUCT], ids=lambda layout: layout.name)
def test_a_tokenizer_without_bos_gives_rows_without_bos(layout):
    from msgspec.structs import replace

    bare = replace(layout, bos=None)
    assert query_row(bare, [5]).ids == query_row(layout, [5]).ids[1:]
    assert document_row(bare, [5]).ids == document_row(layout, [5]).ids[1:]


@pytest.mark.parametrize("layout", [LAYOUT, REFERENCE, INSTRUCT], ids=lambda layout: layout.name)
def test_no_row_is_longer_than_the_longest(layout):
    tokens = range(3, 40)
    rows = [query_row(layout, tokens), document_row(layout, tokens)]
    if layout.thinks:
        rows.append(query_row(layout, tokens, tokens))
    assert max(len(row.ids) for row in rows) <= layout.longest


def test_a_thought_in_the_instruct_layout_is_refused(plain_models):
    with pytest.raises(
        InputError, match="'instruct' has no place for a thought; write the thought into the query"
    ):
        query_row(INSTRUCT, [5], [6])
    model = Embedder.from_backbone(plain_models["llama"], name="instruct")
    with pytest.raises(InputError, match="'instruct' has no place for a thought"):
        model.encode_query(["sort"], think=Thinking())


def test_an_instruction_stands_before_the_query_in_the_words_of_the_layout():
    query = Query(query_id="q", text="sort", instruction="find code")
    assert query_text(LAYOUT, query) == "find code sort"
    assert query_text(INSTRUCT, query) == "Instruct: find code\nQuery: sort"
    assert query_text(INSTRUCT, "sort") == "sort"


def test_the_layouts_instruction_is_for_queries_without_one():
    layout = Layout(name="instruct", eos=2, emb=2, instruction="find code")
    own = Query(query_id="q", text="sort", instruction="find text")
    assert query_text(layout, "sort") == "Instruct: find code\nQuery: sort"
    assert query_text(layout, own) == "Instruct: find text\nQuery: sort"


def test_text_can_never_become_a_control_token(llama):
    hostile = "<emb> <query> open <thought> a [SEP] <doc> zip [CLS] [PAD] <emb>"
    ids = text_ids(llama.tokenizer, [hostile, hostile * 50])
    special = {*llama.layout.control_ids, *llama.tokenizer.all_special_ids}
    special.discard(llama.tokenizer.unk_token_id)
    assert all(special.isdisjoint(row) and row for row in ids)
    # the tokenizer itself would have produced them
    assert not special.isdisjoint(llama.tokenizer(hostile)["input_ids"])


def test_tokens_that_a_checkpoint_added_as_plain_ones_cannot_be_spelt_either(plain_models):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plain_models["llama"])
    tokenizer.add_tokens(["<query>", "</query>", "<thought>", "<emb>"], special_tokens=False)
    before = len(tokenizer)
    layout = known_layout(tokenizer, name="reference")
    assert len(tokenizer) == before
    (ids,) = text_ids(tokenizer, ["<query> open </query> <thought> <emb>"])
    assert set(layout.control_ids).isdisjoint(ids)


def test_a_tokenizer_without_the_layouts_tokens_is_refused(plain_models):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plain_models["llama"])
    with pytest.raises(InputError, match="lacks <query>, </query>, <thought>, <emb> of layout 'reference'"):
        known_layout(tokenizer, name="reference")
    with pytest.raises(InputError, match="unknown layout 'o2'; choose from o1, reference, instruct"):
        new_layout(tokenizer, name="o2")


@pytest.mark.parametrize("layout", [LAYOUT, REFERENCE, INSTRUCT], ids=lambda layout: layout.name)
def test_a_layout_reads_back_equal(layout, tmp_path):
    layout.save(tmp_path)
    assert load_layout(tmp_path) == layout


def test_a_layout_of_the_first_release_is_still_read(tmp_path):
    (tmp_path / "o1_layout.json").write_text(
        '{"bos": 1, "eos": 2, "query": 90, "emb": 91, "thought": 92, "doc": 93, "readout": "mean",'
        ' "attention": "prefix", "query_length": 5, "thought_length": 6, "document_length": 7, "name": "o1"}'
    )
    layout = load_layout(tmp_path)
    assert query_row(layout, [5], [6]) == query_row(LAYOUT, [5], [6])
    assert (layout.readout, layout.attention) == ("mean", "prefix")


def test_a_folder_without_a_layout_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no o1_layout.json; is this a checkpoint of o1-model\?"):
        load_layout(tmp_path)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"eos": 2, "emb": 91}, "layout 'o1' has query, emb, thought, doc; got query=None"),
        ({"name": "instruct", "eos": 2, "emb": 3}, "reads the eos token 2; got emb=3"),
        ({"name": "instruct", "eos": 2, "emb": 2, "thought": 5}, "no control tokens; got thought=5"),
        (
            {"name": "reference", "eos": 2, "emb": 5, "query": 6, "query_end": 7, "thought": 8,
             "attention": "prefix"},
            "'reference' has no prefix",
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_refused(parts, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint):
        Layout(**parts)
    import json

    (tmp_path / "o1_layout.json").write_text(json.dumps(parts))
    with pytest.raises(InputError, match=complaint):
        load_layout(tmp_path)
