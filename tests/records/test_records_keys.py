"""Names and keys: what is one query, one document, one key."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from o1_records import Query
from o1_records.keys import SharedPositives, draw, same_query, same_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def ask(query_id, text, instruction=""):
    return Query(query_id=query_id, text=text, instruction=instruction)


def test_one_text_in_other_case_white_space_or_unicode_form_is_one_text():
    assert same_text("How  do I\n sort?") == same_text(" how do i SORT? ")
    assert same_text("Stra\u00dfe") == same_text("STRASSE")
    assert same_text("caf\u00e9") == same_text("cafe\u0301") == same_text("CAFE\u0301")


def test_punctuation_and_accents_make_another_text():
    texts = ["sort a vector in C", "sort a vector in C++", "sort a vector in C#", "x == y", "x = y", "x y"]
    texts += ["cafe", "caf\u00e9", "sort.", "sort"]
    assert len({same_text(text) for text in texts}) == len(texts)


@given(TEXT)
def test_the_key_of_a_key_is_itself(text):
    assert same_text(same_text(text)) == same_text(text)


def test_queries_of_one_text_share_their_positives():
    shared = SharedPositives()
    shared.add(ask("q1", "rotate an API key"), ["a", "b"])
    shared.add(ask("q2", "Rotate  an api key"), ["b", "c"])
    shared.add(ask("q3", "restore a project"), ["d"])
    assert shared.of(ask("q9", "rotate an api key")) == {"a", "b", "c"}
    assert shared.of(ask("q3", "restore a project")) == {"d"}
    assert shared.of(ask("q1", "unknown")) == set()


def test_an_instruction_asks_something_else():
    shared = SharedPositives()
    shared.add(ask("q1", "rust", "Find a programming language."), ["language"])
    shared.add(ask("q2", "rust", "Find a chemical process."), ["oxide"])
    assert shared.of(ask("q3", "rust", "find a chemical  process.")) == {"oxide"}
    assert same_query(ask("a", "b c", "d")) != same_query(ask("a", "c", "d b"))


def test_an_order_by_lot_is_the_same_everywhere():
    assert draw("q1").hex()[:16] == hashlib.sha256(b"q1").hexdigest()[:16]
    names = [f"q{n}" for n in range(100)]
    assert sorted(names, key=draw) != names
    assert sorted([*names[50:], *names[:50]], key=draw) == sorted(names, key=draw)
