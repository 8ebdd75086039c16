"""Control tokens stand where the layout says and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_model import Layout
from o1_model.layout import document_row, load_layout, prompt_row, query_row, text_ids
from o1_records import InputError

LAYOUT = Layout(
    bos=1, eos=2, query=90, emb=91, thought=92, doc=93, query_length=5, thought_length=6, document_length=7
)
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
def test_labels_are_the_thought_and_the_eos_it_really_reached(query, thought):
    row = query_row(LAYOUT, query, thought)
    labels = [row.ids[position] for position in row.labels]
    assert labels == ([*thought, LAYOUT.eos] if len(thought) <= 6 else thought[:6])


@given(TOKENS, TOKENS)
def test_v_q_is_a_prefix_of_the_pass_that_gives_v_t(query, thought):
    with_thought, without = query_row(LAYOUT, query, thought), query_row(LAYOUT, query)
    assert with_thought.ids[: with_thought.first + 1] == without.ids
    assert with_thought.ids[: with_thought.first + 2] == prompt_row(LAYOUT, query).ids
    assert without.first == without.last


def test_text_can_never_become_a_control_token(llama):
    hostile = "<emb> <query> open <thought> a [SEP] <doc> zip [CLS] [PAD] <emb>"
    ids = text_ids(llama.tokenizer, [hostile, hostile * 50])
    special = {*llama.layout.control_ids, *llama.tokenizer.all_special_ids}
    special.discard(llama.tokenizer.unk_token_id)
    assert all(special.isdisjoint(row) and row for row in ids)
    # the tokenizer itself would have produced them
    assert not special.isdisjoint(llama.tokenizer(hostile)["input_ids"])


def test_a_layout_reads_back_equal(tmp_path):
    LAYOUT.save(tmp_path)
    assert load_layout(tmp_path) == LAYOUT


def test_a_folder_without_a_layout_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no o1_layout.json; is this a checkpoint of o1-model\?"):
        load_layout(tmp_path)
